//! The layers of ARCHITECTURE.md: modules depend only on lower layers.
//!
//! The tests parse the source, so that a `use` in the wrong direction fails here instead of in a
//! review.

mod cycles;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::{
    Attribute, Expr, ExprCall, ExprMethodCall, Ident, ItemImpl, ItemMod, Macro, UseName, UsePath, UseRename,
    UseTree,
    visit::{self, Visit},
};

/// Modules that only group others. Their modules are placed one by one, and `"base"` in a list
/// stands for all of `base`.
const GROUPS: &[&str] = &["observe", "domain", "base"];

/// The modules that each module may use (ARCHITECTURE.md, "Modules"). Unlisted modules fail, so that
/// each new one must be placed.
const MAY_USE: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    (
        "cli",
        &[
            "app",
            "config",
            "server",
            "rule_comparison",
            "access",
            "caller",
            "credential",
            "http_client",
            "observe::audit",
            "observe::telemetry",
            "domain",
            "base",
            "proto",
            "sandbox",
        ],
    ),
    (
        "app",
        &[
            "config",
            "admin",
            "server",
            "service",
            "platform",
            "rule_comparison",
            "access",
            "caller",
            "token_binding",
            "credential",
            "http_client",
            "supervision",
            "observe",
            "domain",
            "base",
            "proto",
            "fault_injection",
        ],
    ),
    (
        "config",
        &[
            "server",
            "rule_comparison",
            "access",
            "caller",
            "platform",
            "token_binding",
            "credential",
            "http_client",
            "observe::audit",
            "observe::telemetry",
            "domain",
            "base",
        ],
    ),
    ("proto", &[]),
    ("server", &["service", "status", "access", "caller", "supervision", "observe", "domain", "base"]),
    ("admin", &["observe::health", "observe::telemetry", "base"]),
    (
        "service",
        &[
            "status",
            "platform",
            "access",
            "caller",
            "token_binding",
            "http_client",
            "observe::audit",
            "observe::telemetry",
            "domain",
            "base",
            "proto",
            "fault_injection",
        ],
    ),
    ("status", &["platform", "credential", "access", "caller", "domain", "base", "proto"]),
    ("platform", &["access", "credential", "http_client", "observe::telemetry", "domain", "base"]),
    ("rule_comparison", &["access", "caller", "domain", "base"]),
    ("access", &["caller", "observe::telemetry", "domain", "base"]),
    ("caller", &["http_client", "observe::telemetry", "domain", "base"]),
    ("credential", &["http_client", "observe::telemetry", "domain", "base"]),
    ("token_binding", &["observe::telemetry", "domain", "base"]),
    ("supervision", &["observe::telemetry", "base"]),
    ("http_client", &["observe::telemetry", "base"]),
    ("observe::audit", &["observe::telemetry", "domain", "base"]),
    ("observe::health", &["observe::telemetry", "base", "proto"]),
    ("observe::telemetry", &["domain", "base"]),
    ("domain::call", &["domain::ott", "domain::reason", "base"]),
    ("domain::session", &["domain::ott", "base"]),
    ("domain::ott", &["base"]),
    ("domain::reason", &[]),
    ("base::secret", &["base::files"]),
    ("base::files", &["base::clock"]),
    ("base::pki", &["base::validity"]),
    ("base::fingerprint", &[]),
    ("base::memory", &[]),
    ("base::text", &[]),
    ("base::validity", &[]),
    ("base::backoff", &[]),
    ("base::clock", &[]),
    ("fault_injection", &["domain::reason"]),
    ("sandbox", &["fault_injection", "domain::reason", "base::clock"]),
];

/// Files that start tasks and threads, how many, and why they are not duties of `supervision`. A
/// task that runs as long as the gateway must be a duty, because otherwise nothing notices its end.
const MAY_SPAWN: &[(&str, usize, &str)] = &[
    ("src/supervision.rs", 1, "runs the duties"),
    ("src/observe/audit/thread.rs", 1, "the audit thread, which has a heartbeat"),
    ("src/observe/audit/handover.rs", 1, "the hand-over of a worker; without it, lines are sent one by one"),
    ("src/server/http1.rs", 2, "the admin thread, which has a heartbeat, and the connections on it"),
    ("src/server/worker.rs", 2, "a worker, which has a heartbeat, and the connections on it"),
    ("src/observe/telemetry/threads/activity.rs", 1, "the heartbeat of a thread"),
    (
        "src/observe/telemetry/logging/writer.rs",
        1,
        "the log thread, which reports lines that it cannot write",
    ),
    ("src/observe/telemetry/tracing/otlp/export.rs", 1, "the thread that sends spans"),
    ("src/server/completion.rs", 1, "the record of one call"),
    ("src/server/tls/turns.rs", 1, "the completion of one handshake step"),
    ("src/service/detached.rs", 1, "the work of one call"),
    ("src/service/undelivered.rs", 1, "the logout of one session"),
    ("src/platform/connections.rs", 1, "one renewal of connections"),
    ("src/app/online_check.rs", 1, "one token request"),
    ("src/app/reload.rs", 1, "one check of the configuration"),
    ("src/app/rules_change.rs", 1, "one comparison of rules"),
    ("src/config/common_tokens.rs", 1, "one comparison with common tokens"),
    ("src/cli/prompt.rs", 1, "one read from the terminal"),
    ("src/cli/audit/files.rs", 1, "the opening of one named pipe"),
    ("src/base/files/timed.rs", 1, "one read of files"),
    ("src/http_client/resolver/system.rs", 1, "the threads of name lookups"),
    ("src/sandbox.rs", 1, "the simulated platform"),
    ("src/sandbox/listener.rs", 1, "the connections to the simulated platform"),
];

#[test]
fn tasks_that_run_as_long_as_the_gateway_are_supervised() {
    let mut wrong = Vec::new();
    let is_for_tests = |file: &PathBuf| file.file_name().is_some_and(|name| name == "for_test.rs");
    for file in sources(Path::new("src")).into_iter().filter(|file| !is_for_tests(file)) {
        let text = fs::read_to_string(&file).expect("a source file can be read");
        let found = spawns(&text);
        let listed = MAY_SPAWN.iter().find(|(path, ..)| Path::new(path) == file);
        let expected = listed.map_or(0, |(_, count, _)| *count);
        if found != expected {
            wrong.push(format!("{}: starts {found} tasks or threads, {expected} are listed", file.display()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn started_tasks_are_counted() {
    let text = "
        fn f() { tokio::spawn(async {}); thread::Builder::new().spawn(|| ()); tasks.spawn(async {}); }
        async fn g() { tokio::select! { _ = spawn_blocking(|| ()) => {} } }
        #[cfg(test)]
        mod tests { fn f() { tokio::spawn(async {}); } }
    ";
    assert_eq!(spawns(text), 4);
}

#[test]
fn dependencies_run_downwards() {
    let mut wrong = Vec::new();
    for file in sources(Path::new("src")) {
        let module = module_of(&file);
        if module == "lib" || GROUPS.contains(&module.as_str()) {
            continue;
        }
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{}: the module `{module}` has no layer in MAY_USE", file.display()));
            continue;
        };
        let text = fs::read_to_string(&file).expect("a source file can be read");
        for used in uses(&text) {
            let is_allowed = |allowed: &&str| {
                let rest = used.strip_prefix(allowed);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
            };
            if used != module && !allowed.iter().any(is_allowed) {
                wrong.push(format!("{}: `{module}` uses `{used}`", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn layers_have_no_cycle() {
    let mut placed: BTreeSet<&str> = BTreeSet::new();
    let mut left: Vec<_> = MAY_USE.to_vec();
    while !left.is_empty() {
        let before = left.len();
        left.retain(|(module, uses)| {
            let is_placed = |used: &&str| {
                if GROUPS.contains(used) {
                    MAY_USE.iter().all(|(name, _)| !is_in(name, used) || placed.contains(name))
                } else {
                    placed.contains(used)
                }
            };
            let ready = uses.iter().all(is_placed);
            if ready {
                placed.insert(module);
            }
            !ready
        });
        assert!(left.len() < before, "a cycle among {left:?}");
    }
}

#[test]
fn uses_of_modules_are_found() {
    let text = "
        use crate::{domain::call::Call, domain::ott, server::Thing, Word};
        use crate::base::{clock, files::{read, follow}};
        use crate::app;
        fn f() { crate::config::load(); crate::observe::audit::off(); }
        #[cfg(test)]
        mod tests { use crate::cli; }
    ";
    let expected = [
        "app",
        "base::clock",
        "base::files",
        "config",
        "domain::call",
        "domain::ott",
        "observe::audit",
        "server",
    ];
    assert_eq!(uses(text), expected.map(str::to_owned).into());
}

#[test]
fn every_ignored_test_is_started_by_another() {
    let (mut files, mut folders) = (Vec::new(), vec![PathBuf::from("src"), PathBuf::from("tests")]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("the folder can be read") {
            let path = entry.expect("the folder can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                files.push(path);
            }
        }
    }
    let mut ignored = 0;
    for file in files {
        let text = fs::read_to_string(&file).expect("the file can be read");
        // Split, so that this file does not match itself.
        for part in text.split(concat!("#[", "ignore")).skip(1) {
            let (_, name) = part.split_once("fn ").expect("a function");
            let (name, _) = name.split_once('(').expect("its arguments");
            assert!(text.contains(&format!("::{name}\"")), "{}: nothing starts {name}", file.display());
            ignored += 1;
        }
    }
    assert!(ignored > 0, "this test finds them");
}

/// The files under a folder that are not tests.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("the source folder can be read") {
        let path = entry.expect("the source folder can be listed").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            if name != "tests" {
                files.extend(sources(&path));
            }
        } else if path.extension().is_some_and(|ending| ending == "rs") && name != "tests.rs" {
            files.push(path);
        }
    }
    files
}

/// The module of `MAY_USE` that a file belongs to.
fn module_of(file: &Path) -> String {
    let below = file.strip_prefix("src").expect("a file under src/").with_extension("");
    let parts: Vec<_> = below.iter().map(|part| part.to_string_lossy()).collect();
    let depth = if GROUPS.contains(&&*parts[0]) { 2 } else { 1 };
    parts[..depth.min(parts.len())].join("::")
}

/// Whether a module is one of a group.
fn is_in(module: &str, group: &str) -> bool {
    module.split_once("::").is_some_and(|(of, _)| of == group)
}

/// The modules of `MAY_USE` that a file's code uses, excluding tests.
fn uses(text: &str) -> BTreeSet<String> {
    let mut seen = UsedModules::default();
    seen.visit_file(&syn::parse_file(text).expect("a source file is Rust"));
    seen.modules
}

/// Number of calls that start tasks or threads, excluding tests: of any function whose name begins
/// with `spawn`.
fn spawns(text: &str) -> usize {
    let mut spawns = Spawns::default();
    spawns.visit_file(&syn::parse_file(text).expect("a source file is Rust"));
    spawns.0
}

#[derive(Default)]
struct Spawns(usize);

impl Spawns {
    fn note(&mut self, function: &Ident) {
        self.0 += usize::from(function.to_string().starts_with("spawn"));
    }
}

impl<'ast> Visit<'ast> for Spawns {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if !is_test(module) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        if !item.attrs.iter().any(is_for_tests) {
            visit::visit_item_impl(self, item);
        }
    }

    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        self.note(&call.method);
        visit::visit_expr_method_call(self, call);
    }

    fn visit_expr_call(&mut self, call: &'ast ExprCall) {
        if let Expr::Path(function) = &*call.func
            && let Some(last) = function.path.segments.last()
        {
            self.note(&last.ident);
        }
        visit::visit_expr_call(self, call);
    }

    /// Macro arguments are not parsed, so calls in them are found by tokens.
    fn visit_macro(&mut self, call: &'ast Macro) {
        self.0 += spawns_in(call.tokens.clone());
    }
}

/// Number of identifiers that begin with `spawn` and are followed by parentheses.
fn spawns_in(tokens: TokenStream) -> usize {
    let mut count = 0;
    let mut names_spawn = false;
    for token in tokens {
        let is_spawn = matches!(&token, TokenTree::Ident(word) if word.to_string().starts_with("spawn"));
        if let TokenTree::Group(group) = token {
            count += usize::from(names_spawn && group.delimiter() == Delimiter::Parenthesis);
            count += spawns_in(group.stream());
        }
        names_spawn = is_spawn;
    }
    count
}

/// Whether an attribute is `#[cfg(test)]`.
fn is_for_tests(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute.parse_args::<Ident>().is_ok_and(|condition| condition == "test")
}

fn is_test(module: &ItemMod) -> bool {
    module.attrs.iter().any(is_for_tests)
}

#[derive(Default)]
struct UsedModules {
    modules: BTreeSet<String>,
}

impl UsedModules {
    /// Adds the module of a path below the crate.
    fn note(&mut self, path: &[String]) {
        let [first, rest @ ..] = path else { panic!("`use crate::*` hides what is used") };
        let is_module = |name: &str| name.starts_with(|first: char| first.is_lowercase());
        if GROUPS.contains(&first.as_str()) {
            let [module, ..] = rest else { panic!("`use crate::{first}` hides what is used") };
            self.modules.insert(format!("{first}::{module}"));
        } else if is_module(first) {
            // Types and constants of the crate root are not modules.
            self.modules.insert(first.clone());
        }
    }

    fn note_all(&mut self, tree: &UseTree, path: &mut Vec<String>) {
        match tree {
            UseTree::Path(next) => {
                path.push(next.ident.to_string());
                self.note_all(&next.tree, path);
                path.pop();
            }
            UseTree::Name(UseName { ident }) | UseTree::Rename(UseRename { ident, .. }) => {
                if ident != "self" {
                    path.push(ident.to_string());
                }
                self.note(path);
                if ident != "self" {
                    path.pop();
                }
            }
            UseTree::Glob(_) => self.note(path),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.note_all(tree, path)),
        }
    }
}

impl<'ast> Visit<'ast> for UsedModules {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if !is_test(module) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_use_path(&mut self, path: &'ast UsePath) {
        if path.ident == "crate" || path.ident == "ott_gateway" {
            self.note_all(&path.tree, &mut Vec::new());
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let mut segments = path.segments.iter().map(|segment| segment.ident.to_string());
        if segments.next().is_some_and(|first| first == "crate" || first == "ott_gateway") {
            let rest: Vec<_> = segments.collect();
            // `pub(crate)` names nothing.
            if !rest.is_empty() {
                self.note(&rest);
            }
        }
        visit::visit_path(self, path);
    }
}
