//! Checks the documentation against the code: example configurations load, the described keys,
//! defaults and bounds are the real ones, and commands have the documented options.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use ott_gateway::config::{Config, Errors, KNOWN_VARIABLES};
use syn::{
    Expr, ExprCall, ExprMethodCall, ItemConst, ItemFn, ItemImpl, Lit, Type,
    visit::{self, Visit},
};
use tempfile::TempDir;

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README.md, CONTRIBUTING.md, ARCHITECTURE.md, tests/README.md and docs/*.md, with their names.
fn pages() -> Vec<(String, String)> {
    let mut paths: Vec<PathBuf> = fs::read_dir(root().join("docs"))
        .expect("the documentation")
        .map(|entry| entry.expect("can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    paths.extend(
        ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "tests/README.md"].map(|name| root().join(name)),
    );
    let read = |path: &PathBuf| fs::read_to_string(path).expect("can be read");
    paths.iter().map(|path| (path.display().to_string(), read(path))).collect()
}

/// A fenced code block: its position, info string and text.
pub(crate) struct Block {
    place: String,
    pub(crate) info: String,
    pub(crate) text: String,
}

pub(crate) fn blocks(wanted: &str) -> Vec<Block> {
    let mut found = Vec::new();
    for (page, text) in pages() {
        let mut open: Option<Block> = None;
        for (line, number) in text.lines().zip(1..) {
            match (&mut open, line.trim_start().strip_prefix("```")) {
                (None, Some(info)) => {
                    let place = format!("{page}:{number}");
                    open = Some(Block { place, info: info.to_owned(), text: String::new() });
                }
                (Some(_), Some(_)) => found.extend(open.take()),
                (Some(block), None) => writeln!(block.text, "{line}").expect("a string"),
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{page}: a block does not end");
    }
    found.retain(|block| block.info.split(' ').next() == Some(wanted));
    found
}

/// A folder with all files that examples refer to.
pub(crate) struct Place {
    folder: TempDir,
    environment: BTreeMap<String, String>,
    certificate: String,
    private_key: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let folder = tempfile::tempdir().expect("a folder");
        let credentials = folder.path().join("credentials").display().to_string();
        Self {
            folder,
            environment: BTreeMap::from([("CREDENTIALS_DIRECTORY".to_owned(), credentials)]),
            certificate: key.cert.pem(),
            private_key: key.signing_key.serialize_pem(),
        }
    }

    /// Reads a configuration after making the files that it names.
    pub(crate) fn load(&mut self, text: &str) -> Result<Config, Errors> {
        let file = self.prepare(text);
        Config::load(Some(&file), &self.environment)
    }

    /// The environment of the configuration.
    pub(crate) const fn environment(&self) -> &BTreeMap<String, String> {
        &self.environment
    }

    /// Writes a configuration and the files that it refers to. Absolute paths are moved into this
    /// folder.
    pub(crate) fn prepare(&mut self, text: &str) -> PathBuf {
        let mut written = String::new();
        for line in text.lines() {
            let value = |key: &str| {
                let (found, value) = line.split_once(" = ")?;
                let found = found.trim();
                let wanted = found == key || key == "*_file" && found.ends_with("_file");
                let value = value.strip_prefix('"')?.split('"').next()?;
                wanted.then(|| (found.to_owned(), value.to_owned()))
            };
            if let Some((key, path)) = value("*_file") {
                self.make(&path, &self.content(&key));
            } else if let Some((_, path)) = value("sink").filter(|(_, path)| path.contains('/')) {
                self.make(&path, "");
            } else if let Some((_, name)) = value("client_secret_credential") {
                self.make(&format!("credentials/{name}"), "secret");
            } else if let Some((_, name)) = value("client_secret_env") {
                self.environment.insert(name, "secret".to_owned());
            }
            let line = &with_hashes(line);
            let moved = line.replace(" = \"/", &format!(" = \"{}/", self.folder.path().display()));
            writeln!(written, "{moved}").expect("a string");
        }
        let file = self.folder.path().join("gateway.toml");
        fs::write(&file, written).expect("can be written");
        file
    }

    fn content(&self, key: &str) -> String {
        match key {
            "private_key_file" => self.private_key.clone(),
            "jwks_file" => r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#.to_owned(),
            "client_secret_file" | "hmac_key_file" => "s".repeat(64),
            "keys_file" => "2026-11 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n".to_owned(),
            _ => self.certificate.clone(),
        }
    }

    fn make(&self, path: &str, content: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.folder.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().expect("a folder")).expect("can be made");
        fs::write(&path, content).expect("can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("can be set");
    }
}

/// Replaces the placeholder for the hash of a token with that of a random one.
pub(crate) fn with_hashes(line: &str) -> String {
    let Some((before, rest)) = line.split_once("sha256:OUTPUT-") else { return line.to_owned() };
    let after = rest.trim_start_matches(|letter: char| letter.is_ascii_uppercase() || letter == '-');
    let hash = uuid::Uuid::new_v4().simple().to_string().repeat(2);
    format!("{before}sha256:{hash}{after}")
}

#[test]
fn documentation_contains_no_token_hash() {
    for (page, text) in pages() {
        let shown = text
            .split("sha256:")
            .skip(1)
            .find(|rest| rest.chars().take(64).filter(char::is_ascii_hexdigit).count() == 64);
        assert_eq!(shown, None, "{page}");
    }
}

/// Completes an example that shows only a part.
pub(crate) fn completed(part: &str) -> String {
    let mut whole = part.to_owned();
    if !part.contains("[api_clients.") {
        whole.push_str(
            "[api_clients.eu2]\ndata_center_url = \"https://eu2-cloud.acronis.com\"\nclient_id = \"id\"\n\
             client_secret_file = \"secret\"\n",
        );
    }
    if !part.contains("[[access.rules]]") {
        whole.push_str("[[access.rules]]\ncallers = [\"anonymous\"]\nusers = \"all\"\n");
    }
    whole
}

/// Adds the proofs of the callers that the rules of an example name, if the example has none.
fn with_proofs(text: &str) -> String {
    let names = |prefix: &str| text.contains(&format!("callers = [\"{prefix}"));
    let mut proofs = String::new();
    if (names("spiffe:") || names("dns:"))
        && !text.contains("client_ca_file")
        && !text.contains("[callers.forwarded]")
    {
        proofs.push_str("[callers.forwarded]\nheader = \"x-forwarded-client-cert\"\nfrom = [\"loopback\"]\n");
    }
    if names("jwt:") && !text.contains("callers.jwt]") {
        proofs.push_str("[callers.jwt]\nissuer = \"i\"\naudience = \"a\"\njwks_file = \"jwks\"\n");
    }
    proofs + text
}

#[test]
fn configuration_examples_load_without_a_warning() {
    let blocks = blocks("toml");
    assert!(blocks.len() >= 6, "too few examples found");
    for block in blocks {
        let whole = if block.info == "toml part" { completed(&block.text) } else { block.text };
        let whole = with_proofs(&whole);
        let config = Place::new().load(&whole).unwrap_or_else(|faults| panic!("{}: {faults}", block.place));
        // Examples may show a secret in the environment, which causes a warning.
        let warnings = config.warnings.iter().filter(|warning| !warning.key.ends_with("client_secret_env"));
        let warnings: Vec<String> = warnings.map(ToString::to_string).collect();
        assert!(warnings.is_empty(), "{}: {warnings:?}", block.place);
    }
}

/// A row of docs/configuration.md.
struct Row {
    table: String,
    key: String,
    default: String,
    bounds: String,
}

/// The tables and keys that docs/configuration.md describes.
fn described() -> (BTreeSet<String>, Vec<Row>) {
    let page = fs::read_to_string(root().join("docs/configuration.md")).expect("can be read");
    let (mut tables, mut rows) = (BTreeSet::new(), Vec::new());
    let mut table = None;
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            table = heading
                .strip_prefix("`[")
                .and_then(|rest| rest.strip_suffix("]`"))
                .map(|name| name.trim_matches(['[', ']']).to_owned());
            tables.extend(table.clone());
        } else if let (Some(table), Some(row)) = (&table, line.strip_prefix("| `")) {
            let cells: Vec<&str> = row.trim_end_matches('|').split(" | ").map(str::trim).collect();
            let [key, _meaning, default, bounds] = cells.as_slice() else {
                panic!("a row has four cells: {line}")
            };
            rows.push(Row {
                table: table.clone(),
                key: key.trim_end_matches('`').to_owned(),
                default: (*default).to_owned(),
                bounds: (*bounds).to_owned(),
            });
        }
    }
    (tables, rows)
}

/// The keys that the code reads, by the type that reads them.
#[derive(Default)]
struct KeysInCode {
    by: String,
    keys: BTreeSet<(String, String)>,
    tables: BTreeSet<(String, String)>,
}

fn literal(expression: Option<&Expr>) -> Option<String> {
    match expression {
        Some(Expr::Lit(literal)) => match &literal.lit {
            Lit::Str(text) => Some(text.value()),
            _ => None,
        },
        _ => None,
    }
}

impl<'ast> Visit<'ast> for KeysInCode {
    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        if let Type::Path(path) = &*item.self_ty {
            self.by = path.path.segments.last().expect("a type has a name").ident.to_string();
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.by = item.sig.ident.to_string();
        visit::visit_item_fn(self, item);
    }

    fn visit_item_const(&mut self, item: &'ast ItemConst) {
        // The three sources of a secret are read in a loop over this list.
        if item.ident == "SOURCES"
            && let Expr::Array(array) = &*item.expr
        {
            let keys = array.elems.iter().filter_map(|element| literal(Some(element)));
            self.keys.extend(keys.map(|key| ("read_secret".to_owned(), key)));
        }
    }

    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        if let Some(key) = literal(call.args.first()) {
            match call.method.to_string().as_str() {
                "optional" | "required" | "list" | "path" | "one_or_more" | "list_of_tables" => {
                    self.keys.insert((self.by.clone(), key));
                }
                // Its keys are chosen by the operator, so it is described as a value.
                "optional_table" if key == "claims" => {
                    self.keys.insert((self.by.clone(), key));
                }
                "table" | "optional_table" => {
                    self.tables.insert((self.by.clone(), key));
                }
                _ => {}
            }
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_expr_call(&mut self, call: &'ast ExprCall) {
        if let Expr::Path(function) = &*call.func
            && function
                .path
                .segments
                .first()
                .is_some_and(|first| first.ident == "named_file" || first.ident == "read_number")
            && let Some(key) = literal(call.args.get(1))
        {
            self.keys.insert((self.by.clone(), key));
        }
        visit::visit_expr_call(self, call);
    }
}

/// The table that each configuration type, or function, reads.
const TABLES: &[(&str, &str)] = &[
    ("Config", ""),
    ("Server", "server"),
    ("read_tls", "server.tls"),
    ("Admin", "admin"),
    ("ApiClients", "api_clients.NAME"),
    ("ApiClient", "api_clients.NAME"),
    ("read_secret", "api_clients.NAME"),
    ("Callers", "callers"),
    ("read_jwt", "callers.jwt"),
    ("read_forwarded", "callers.forwarded"),
    ("read_access", "access"),
    ("read_rule", "access.rules"),
    ("read_users", "access.rules"),
    ("read_access_and_tests", "access"),
    ("read_test", "access.tests"),
    ("read_token_binding", "token_binding"),
    ("read_audit", "audit"),
    ("Telemetry", "telemetry"),
];

/// Keys that are read only to be refused.
const REFUSED: &[&str] = &["client_secret"];

/// Returns the keys and the tables that the code reads, with their tables.
fn read_by_code() -> (BTreeSet<String>, BTreeSet<String>) {
    let mut used = KeysInCode::default();
    let folder = fs::read_dir(root().join("src/config")).expect("the configuration's folder");
    let files = folder.map(|entry| entry.expect("can be listed").path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    for file in files.chain([root().join("src/config.rs")]) {
        // These files read a part of what the others read.
        if !["section.rs", "tests.rs", "reloadable.rs", "policy_file.rs", "health_endpoint.rs"]
            .iter()
            .any(|name| file.ends_with(name))
        {
            let text = fs::read_to_string(&file).expect("can be read");
            used.visit_file(&syn::parse_file(&text).expect("is Rust"));
        }
    }
    let table_of = |by: &str| {
        let known = TABLES.iter().find(|(name, _)| *name == by);
        known.unwrap_or_else(|| panic!("{by} is missing in TABLES")).1
    };
    let dotted = |(by, key): &(String, String)| {
        let table = table_of(by);
        if table.is_empty() { key.clone() } else { format!("{table}.{key}") }
    };
    // A list of tables that may also be a single table is described as a table.
    let is_key =
        |entry: &&(String, String)| !REFUSED.contains(&entry.1.as_str()) && !used.tables.contains(*entry);
    let keys = used.keys.iter().filter(is_key).map(dotted).collect();
    (keys, used.tables.iter().map(dotted).collect())
}

/// Returns the keys that the code reads and that have values of their own, with their tables.
pub(crate) fn keys_in_code() -> BTreeSet<String> {
    let mut keys = read_by_code().0;
    // Lists of tables.
    keys.remove("access.rules");
    keys.remove("access.tests");
    keys.remove("access.candidate_rules");
    keys
}

#[test]
fn described_keys_are_those_that_the_code_reads() {
    let (in_code, tables_in_code) = read_by_code();
    let (tables, rows) = described();
    let in_docs: BTreeSet<String> = rows.iter().map(|row| format!("{}.{}", row.table, row.key)).collect();
    assert!(in_code.len() > 40, "too few keys found: {in_code:?}");
    let missing: Vec<_> = in_code.difference(&in_docs).collect();
    let unknown: Vec<_> = in_docs.difference(&in_code).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "not described: {missing:?}; not in the code: {unknown:?}"
    );
    for table in tables_in_code {
        assert!(tables.iter().any(|heading| heading.starts_with(&table)), "[{table}] is not described");
    }
}

/// Minimal configuration with every table.
const BASE: &[(&str, &[(&str, &str)])] = &[
    ("server", &[]),
    (
        "server.tls",
        &[
            ("certificate_file", "\"tls.crt\""),
            ("private_key_file", "\"tls.key\""),
            ("client_ca_file", "\"ca.crt\""),
        ],
    ),
    ("admin", &[]),
    (
        "api_clients.NAME",
        &[
            ("data_center_url", "\"https://eu2-cloud.acronis.com\""),
            ("client_id", "\"id\""),
            ("client_secret_file", "\"secret\""),
        ],
    ),
    (
        "callers.jwt",
        &[("issuer", "\"i\""), ("audience", "\"a\""), ("jwks_url", "\"https://issuer.example/jwks\"")],
    ),
    ("access", &[]),
    ("access.rules", &[("callers", "[\"dns:*\"]"), ("logins", "[\"*\"]")]),
    ("audit", &[("sink", "\"logs/audit.jsonl\""), ("hmac_key_file", "\"hmac-2026\"")]),
    ("telemetry", &[]),
];

/// The base configuration with one key set to `value` or removed.
fn base_with(row: &Row, value: Option<&str>) -> String {
    let mut text = String::new();
    for (table, keys) in BASE {
        let header = match *table {
            "access.rules" => "[[access.rules]]".to_owned(),
            other => format!("[{}]", other.replace("NAME", "eu2")),
        };
        writeln!(text, "{header}").expect("a string");
        // First, because keys that narrow a rule must precede its users.
        if *table == row.table
            && let Some(value) = value
        {
            writeln!(text, "{} = {value}", row.key).expect("a string");
        }
        for (key, value) in *keys {
            if (*table, *key) != (row.table.as_str(), row.key.as_str()) {
                writeln!(text, "{key} = {value}").expect("a string");
            }
        }
    }
    text
}

#[test]
fn described_defaults_are_the_real_ones() {
    let mut place = Place::new();
    let mut compared = 0;
    for row in described().1 {
        // Some defaults are described in prose.
        let Some(default) = row.default.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')) else {
            continue;
        };
        if default.contains('`') {
            continue;
        }
        let key = format!("{}.{}", row.table, row.key);
        let mut shown = |value| match place.load(&base_with(&row, value)) {
            Ok(config) => format!("{config:?}"),
            Err(faults) => panic!("{key}: {faults}"),
        };
        assert_eq!(shown(None), shown(Some(default)), "{key}");
        compared += 1;
    }
    assert!(compared >= 20, "{compared} defaults were found");
}

#[test]
fn described_bounds_are_the_real_ones() {
    let mut place = Place::new();
    let mut tried = 0;
    for row in described().1 {
        let Some((least, most)) = row.bounds.split_once(" to ") else { continue };
        let (Some(least), Some(most)) = (quoted(least), quoted(most)) else { continue };
        let key = format!("{}.{}", row.table, row.key);
        let mut faults = |value: &str| match place.load(&base_with(&row, Some(value))) {
            Ok(_) => String::new(),
            Err(faults) => faults.to_string(),
        };
        // The maximum drain_lame_duck needs a longer drain_timeout, which is another check.
        let other_rule = "must be shorter than drain_timeout";
        for bound in [least, most] {
            let faults = faults(bound);
            assert!(faults.is_empty() || faults.contains(other_rule), "{key} = {bound}: {faults}");
        }
        // Ten times the bound, for plain and quoted numbers.
        let digits = most.find(|letter: char| letter.is_ascii_digit()).expect("a bound has a number");
        let end =
            most[digits..].find(|letter: char| !letter.is_ascii_digit()).map_or(most.len(), |at| digits + at);
        let over = format!("{}0{}", &most[..end], &most[end..]);
        assert!(!faults(&over).is_empty(), "{key} = {over} is accepted");
        tried += 1;
    }
    assert!(tried >= 10, "{tried} bounds were found");
}

/// The text in backquotes at the beginning.
fn quoted(text: &str) -> Option<&str> {
    text.strip_prefix('`')?.split('`').next()
}

#[test]
fn described_variables_are_those_with_an_effect() {
    let mut described = Vec::new();
    for page in ["docs/configuration.md", "docs/tracing.md"] {
        let text = fs::read_to_string(root().join(page)).expect("can be read");
        let section = text.split("\n## ").find(|section| section.starts_with("Environment variables"));
        let section = section.expect("a section about variables");
        let rows = section.split("| variable | meaning").nth(1).expect("a table").lines().skip(2);
        for row in rows.take_while(|row| row.starts_with('|')) {
            let names = row.split('|').nth(1).expect("a first column").split(',');
            let names = names.map(|name| name.trim().trim_matches('`').to_owned());
            described.extend(names.filter(|name| name != "OTEL_…"));
        }
    }
    let known: BTreeSet<String> = KNOWN_VARIABLES.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(described.len(), known.len());
    assert_eq!(described.into_iter().collect::<BTreeSet<_>>(), known);
}

#[test]
fn documented_commands_have_the_documented_options() {
    let help = |command: &str| {
        let words = command.split(' ').chain(["--help"]);
        let output = Command::new(env!("CARGO_BIN_EXE_ott-gateway")).args(words).output();
        let output = output.expect("the binary runs");
        assert!(output.status.success(), "there is no command {command}");
        String::from_utf8(output.stdout).expect("is text")
    };
    let mut helps: BTreeMap<String, String> = BTreeMap::new();
    let mut commands = 0;
    for (page, text) in pages() {
        let text = text.replace("\\\n", " ");
        for part in text.lines().flat_map(|line| line.split(['|', ';', '&', '`'])) {
            let Some(arguments) = part.trim().strip_prefix("ott-gateway ") else { continue };
            let mut arguments = arguments.split_whitespace();
            let command = arguments.next().unwrap_or_default();
            if !command.starts_with(|letter: char| letter.is_ascii_lowercase()) {
                continue;
            }
            let command = match command {
                "audit" => format!("{command} {}", arguments.next().unwrap_or("--help")),
                other => other.to_owned(),
            };
            let help = helps.entry(command.clone()).or_insert_with(|| help(&command));
            for option in arguments.filter_map(|argument| argument.split('=').next()) {
                let known = !option.starts_with("--")
                    || help.contains(&format!("{option} "))
                    || help.contains(&format!("{option}\n"));
                assert!(known, "{page}: `{command}` has no {option}");
            }
            commands += 1;
        }
    }
    assert!(commands >= 10, "{commands} commands were found");
}

/// Collects the names of all functions under a folder.
fn functions(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("can be listed") {
        let path = entry.expect("can be listed").path();
        if path.is_dir() {
            functions(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("can be read");
            let found = text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
            names.extend(found.map(str::to_owned));
        }
    }
}

#[test]
fn tests_and_metrics_in_the_threat_model_exist() {
    let mut names = BTreeSet::new();
    for folder in ["src", "tests"] {
        functions(&root().join(folder), &mut names);
    }
    let page = fs::read_to_string(root().join("docs/threat-model.md")).expect("can be read");
    let quoted = page.split('`').skip(1).step_by(2);
    let (metrics, others): (Vec<&str>, Vec<&str>) =
        quoted.partition(|name| name.starts_with("ott_gateway_") || name.starts_with("grpc_server_"));
    // Test names have at least five words; keys and headers have fewer.
    let tests: Vec<&str> = others.into_iter().filter(|name| name.matches('_').count() >= 4).collect();
    assert!(tests.len() >= 40, "{} tests were found", tests.len());
    let missing: Vec<_> = tests.iter().filter(|name| !names.contains(**name)).collect();
    assert!(missing.is_empty(), "{missing:?}");

    let described = fs::read_to_string(root().join("docs/metrics.md")).expect("can be read");
    assert!(metrics.len() >= 20, "{} metrics were found", metrics.len());
    for metric in metrics {
        let family = metric.split('{').next().expect("a name");
        assert!(described.contains(&format!("| `{family}` |")), "{metric} is not described");
    }
}

#[test]
fn every_metric_that_a_page_names_is_described() {
    let described = fs::read_to_string(root().join("docs/metrics.md")).expect("can be read");
    let mut named = 0;
    for (page, text) in pages() {
        for quoted in text.split('`').skip(1).step_by(2) {
            let name = quoted.split(['{', '(', ' ']).next().unwrap_or_default();
            // Buckets and sums are parts of a histogram.
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
            let family = family.unwrap_or(name);
            if ["ott_gateway_", "grpc_server_"].iter().any(|prefix| family.starts_with(prefix)) {
                assert!(described.contains(&format!("| `{family}` |")), "{page}: {name} is not described");
                named += 1;
            }
        }
    }
    assert!(named >= 60, "{named} metrics were found");
}

#[test]
fn every_file_that_a_page_names_exists() {
    let mut named = 0;
    for (page, text) in pages() {
        for path in text.split('`').skip(1).step_by(2) {
            let is_path =
                ["src/", "tests/", "docs/", "deploy/", "proto/"].iter().any(|it| path.starts_with(it));
            if is_path && !path.contains(['<', '*', ' ']) {
                assert!(root().join(path).exists(), "{page}: there is no {path}");
                named += 1;
            }
        }
    }
    assert!(named >= 30, "{named} names were found");
}

#[test]
fn yaml_and_json_examples_can_be_parsed() {
    let (yaml, json) = (blocks("yaml"), blocks("json"));
    assert!(yaml.len() >= 10 && json.len() >= 5, "{} and {} examples found", yaml.len(), json.len());
    for block in yaml {
        let documents = yaml_rust2::YamlLoader::load_from_str(&block.text);
        let documents = documents.unwrap_or_else(|error| panic!("{}: {error}", block.place));
        assert!(!documents.is_empty() && !documents[0].is_badvalue(), "{}", block.place);
    }
    for block in json {
        if let Err(error) = serde_json::from_str::<serde_json::Value>(&block.text) {
            panic!("{}: {error}", block.place);
        }
    }
}
