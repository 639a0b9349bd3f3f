//! docs/change-rules.md: its commands run as shown, on its own files and on the records of a gateway
//! that runs with them.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use flate2::{Compression, write::GzEncoder};
use ott_gateway::proto::ott::v1::ott_service_client::OttServiceClient;
use serde_json::Value;
use tonic::transport::Channel;
use yaml_rust2::{Yaml, YamlLoader};

use crate::{
    docs::root,
    support::{
        calling::{admin_get, issue, login, result_of, until, with},
        gateway::{Gateway, Setup},
        upstream::Upstream,
    },
};

/// Folder of the guide's commands in its output.
const FOLDER: &str = "/srv/policy";
/// Host of the guide's gateway in its output.
const HOST: &str = "ott-gateway-0";

/// A fenced code block of the guide.
struct Block {
    line: usize,
    language: String,
    /// The name of a file, or what is shown.
    name: String,
    text: String,
}

fn blocks() -> Vec<Block> {
    let page = fs::read_to_string(root().join("docs/change-rules.md")).unwrap();
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for (line, number) in page.lines().zip(1..) {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => {
                let (language, name) = info.split_once(' ').unwrap_or((info, ""));
                let (language, name) = (language.to_owned(), name.to_owned());
                open = Some(Block { line: number, language, name, text: String::new() });
            }
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some(block), None) => block.text.extend([line, "\n"]),
            (None, None) => {}
        }
    }
    found
}

/// A command of a `console` block, with the output that follows it.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    command: String,
    output: String,
    code: i32,
}

/// Returns the commands of a block. `echo $?` is not one of them: its output is the exit code of the
/// command before it, which is otherwise 0.
fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for part in format!("\n{text}").split("\n$ ").skip(1) {
        let mut command = String::new();
        let mut lines = part.lines();
        for line in lines.by_ref() {
            command.push_str(line.strip_suffix('\\').unwrap_or(line));
            if !line.ends_with('\\') {
                break;
            }
        }
        let output = joined(lines);
        if command == "echo $?" {
            steps.last_mut().unwrap().code = output.trim().parse().unwrap();
        } else {
            steps.push(Step { command, output, code: 0 });
        }
    }
    steps
}

fn joined(lines: impl Iterator<Item: AsRef<str>>) -> String {
    lines.fold(String::new(), |text, line| text + line.as_ref() + "\n")
}

/// Applies a diff whose hunks are preceded by `@@`. The lines before each change must occur once.
fn patched(file: &str, diff: &str, place: &str) -> String {
    let mut text = file.to_owned();
    for hunk in diff.split("@@\n").filter(|hunk| !hunk.is_empty()) {
        let side = |other: char| {
            let lines = hunk.lines().filter(|line| !line.starts_with(other));
            joined(lines.map(|line| line.get(1..).unwrap_or_default()))
        };
        let (old, new) = (side('+'), side('-'));
        assert_eq!(text.matches(&old).count(), 1, "{place}: {old}");
        text = text.replace(&old, &new);
    }
    text
}

/// Replaces what differs between two runs: times, fingerprints, ids, the version and the host, and
/// numbers of lines in which a slow run has further probes of the audit file.
fn stable(text: &str, replaced: &[(&str, &str)]) -> String {
    let mut text = text.to_owned();
    for (actual, shown) in replaced {
        text = text.replace(actual, shown);
    }
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || "-:.".contains(letter);
    let mut stable = String::new();
    for line in text.lines() {
        let mut rest = line;
        while let Some(start) = rest.find(is_part) {
            let (before, from) = rest.split_at(start);
            let (word, after) = from.split_at(from.find(|letter| !is_part(letter)).unwrap_or(from.len()));
            stable.push_str(before);
            stable.push_str(&stable_word(word, stable.as_str(), after));
            rest = after;
        }
        stable.extend([rest, "\n"]);
    }
    stable
}

fn stable_word(word: &str, before: &str, after: &str) -> String {
    let is_time = word.len() >= 20 && word.as_bytes()[10] == b'T' && word.as_bytes()[4] == b'-';
    let is_number = word.trim_end_matches([',', '.']).bytes().all(|byte| byte.is_ascii_digit());
    if is_time {
        return "TIME".to_owned();
    }
    let counts_probes = after.starts_with(" lines from ")
        || after.starts_with(", complete")
        || before.ends_with("records of other events: ");
    if is_number && counts_probes {
        return "NUMBER".to_owned();
    }
    if before.ends_with("version ") {
        return if word.ends_with(':') { "VERSION:" } else { "VERSION" }.to_owned();
    }
    let is_random = |part: &str| part.len() >= 8 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    if word.split('-').next().is_some_and(is_random) && word.len() == 36 {
        return "UUID".to_owned();
    }
    let parts = word.split_inclusive(['-', ':']);
    let stable = parts.map(|part| {
        let bare = part.trim_end_matches(['-', ':']);
        if is_random(bare) { format!("HEX{}", &part[bare.len()..]) } else { part.to_owned() }
    });
    stable.collect()
}

/// The pods that call the gateway of the guide.
struct Pods {
    client: OttServiceClient<Channel>,
}

impl Pods {
    async fn issue(&mut self, account: &str, user: &str) -> String {
        let proof = format!("By=spiffe://example.org/gateway;URI=spiffe://example.org/ns/{account}");
        let request = with(issue(user), "x-forwarded-client-cert", &proof);
        match self.client.issue_ott(request).await {
            Ok(issued) => issued.into_inner().ott,
            Err(status) => result_of::<()>(&Err(status)),
        }
    }

    async fn log_in(&mut self, account: &str, ott: &str) -> String {
        let proof = format!("By=spiffe://example.org/gateway;URI=spiffe://example.org/ns/{account}");
        result_of(&self.client.login_with_ott(with(login(ott), "x-forwarded-client-cert", &proof)).await)
    }
}

const NOT_ALLOWED: &str = "PermissionDenied CALLER_NOT_ALLOWED";
const PORTAL: &str = "portal/sa/web";
const SUPPORT: &str = "support/sa/desk";

/// What a gateway with the guide's rules showed.
struct Observed {
    /// Its audit records, of the rehearsal and from then on.
    rehearsal: String,
    enforced: String,
    log: String,
    metrics: String,
    host: String,
}

/// Runs a gateway with the rules of the rehearsal, and then with the final ones.
async fn observe(rehearsal: &str, enforced: &str) -> Observed {
    let platform = Upstream::http().await;
    let setup = Setup::new();
    setup.file("secret", "secret");
    let path = |name: &str| setup.folder().join(name).display().to_string();
    let variables = [
        ("SERVER__LISTEN", "127.0.0.1:0".to_owned()),
        ("SERVER__DRAIN_LAME_DUCK", "100ms".to_owned()),
        ("ADMIN__LISTEN", "127.0.0.1:0".to_owned()),
        ("API_CLIENTS__EU2__DATA_CENTER_URL", format!("http://{}", platform.address())),
        ("API_CLIENTS__EU2__CLIENT_SECRET_FILE", path("secret")),
        ("AUDIT__SINK", path("audit.jsonl")),
        ("AUDIT__HMAC_KEY_FILE", setup.file("hmac-2026", &"k".repeat(48)).display().to_string()),
        ("TELEMETRY__LOG_FORMAT", "json".to_owned()),
    ];
    let setup = variables
        .iter()
        .fold(setup, |setup, (name, value)| setup.environment(&format!("OTT_GATEWAY__{name}"), value));
    let mut gateway: Gateway = setup.config(rehearsal).start();
    let mut pods = Pods { client: gateway.client().await };
    for _ in 0..3 {
        let ott = pods.issue(PORTAL, "anna@customer.example").await;
        assert_eq!(pods.log_in(PORTAL, &ott).await, "OK");
    }
    assert_eq!(pods.issue(PORTAL, "ben@partner.example").await, NOT_ALLOWED);
    for user in ["anna@customer.example", "ben@partner.example", "ben@partner.example", "dora@rival.example"]
    {
        let ott = pods.issue(SUPPORT, user).await;
        assert!(!ott.contains(' '), "{ott}");
    }
    let metrics = admin_get(gateway.admin(), "/metrics").await.1;
    gateway.audit();
    let file = gateway.folder().join("audit.jsonl");
    let rotated = gateway.folder().join("audit.jsonl.1");
    fs::rename(&file, &rotated).unwrap();
    gateway.signal("HUP");
    until("the file is reopened", async || file.exists()).await;

    fs::write(gateway.folder().join("config.toml"), enforced).unwrap();
    gateway.signal("HUP");
    until("the rules have changed", async || !gateway.audit_lines("rules_changed").is_empty()).await;
    let ott = pods.issue(PORTAL, "ben@partner.example").await;
    assert_eq!(pods.log_in(PORTAL, &ott).await, "OK");
    assert_eq!(pods.issue(SUPPORT, "dora@rival.example").await, NOT_ALLOWED);
    gateway.signal("TERM");
    assert!(gateway.ended().await.success());
    let rehearsal = fs::read_to_string(rotated).unwrap();
    let started: Value = serde_json::from_str(rehearsal.lines().next().unwrap()).unwrap();
    Observed {
        enforced: fs::read_to_string(file).unwrap(),
        log: gateway.stderr().text(),
        metrics,
        host: started["host"].as_str().unwrap().to_owned(),
        rehearsal,
    }
}

/// Whether all members of one value are in another, apart from what differs between two runs.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(name, value)| whole.get(name).is_some_and(|found| contains(found, value)))
        }
        (Value::String(whole), Value::String(part)) => stable(whole, &[]) == stable(part, &[]),
        _ => whole == part,
    }
}

/// Runs a command as a shell does, with the gateway on its path. Returns its exit code and output.
fn run(folder: &Path, command: &str) -> (i32, String) {
    let binary = Path::new(env!("CARGO_BIN_EXE_ott-gateway")).parent().unwrap();
    let done = Command::new("sh")
        .args(["-c", &format!("exec 2>&1; {command}")])
        .current_dir(folder)
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", binary.display()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    (done.status.code().unwrap(), String::from_utf8(done.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_the_guide_prints_what_the_guide_shows() {
    let blocks = blocks();
    // The files after each of their blocks, in the order of the guide.
    let mut files: BTreeMap<&str, String> = BTreeMap::new();
    let mut history = Vec::new();
    for block in &blocks {
        match &*block.language {
            "toml" => {
                files.insert(&block.name, block.text.clone());
            }
            "diff" => {
                let place = format!("line {}", block.line);
                let old = files[&*block.name].clone();
                files.insert(&block.name, patched(&old, &block.text, &place));
            }
            _ => {
                for copied in block.text.lines().filter_map(|line| line.strip_prefix("$ cp ")) {
                    let (from, to) = copied.split_once(' ').unwrap();
                    let text = files[from].clone();
                    files.insert(to, text);
                }
            }
        }
        history.push(files.clone());
    }
    let versions = history.iter().map(|files| &files["gateway.toml"]);
    let rehearsal = versions.rev().find(|text| text.contains("[[access.candidate_rules]]")).unwrap();
    let observed = observe(rehearsal, &files["gateway.toml"]).await;

    let folder = tempfile::tempdir().unwrap();
    let compressed = fs::File::create(folder.path().join("audit.jsonl.1.gz")).unwrap();
    let mut encoder = GzEncoder::new(compressed, Compression::default());
    encoder.write_all(observed.rehearsal.as_bytes()).unwrap();
    encoder.finish().unwrap();
    let audit = folder.path().join("audit.jsonl");
    fs::write(&audit, &observed.enforced).unwrap();
    fs::set_permissions(&audit, fs::Permissions::from_mode(0o640)).unwrap();
    let place = folder.path().canonicalize().unwrap().display().to_string();
    let replaced = [(place.as_str(), FOLDER), (&observed.host, HOST)];

    let mut differences = Vec::new();
    let mut commands = 0;
    for (block, files) in blocks.iter().zip(&history) {
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let place = format!("docs/change-rules.md:{} {}", block.line, block.name);
        let records = || observed.rehearsal.lines().chain(observed.enforced.lines());
        match (&*block.language, &*block.name) {
            ("console", _) => {
                for step in steps(&block.text) {
                    let (code, output) = run(folder.path(), &step.command);
                    let (shown, found) = (stable(&step.output, &[]), stable(&output, &replaced));
                    if (code, &found) != (step.code, &shown) {
                        differences.push(format!("{place}\n$ {}\n{output}exit code {code}", step.command));
                    }
                    commands += usize::from(step.command.starts_with("ott-gateway "));
                }
            }
            ("json", "record" | "log") => {
                let shown: Value = serde_json::from_str(&block.text).unwrap();
                let lines: Vec<&str> =
                    if block.name == "log" { observed.log.lines().collect() } else { records().collect() };
                let is_there = |line: &&str| contains(&serde_json::from_str(line).unwrap(), &shown);
                if !lines.iter().any(is_there) {
                    differences.push(format!("{place}: not in\n{}", lines.join("\n")));
                }
            }
            ("text", "metrics") => {
                let is_missing = |line: &&str| !observed.metrics.lines().any(|found| found == *line);
                let missing: Vec<&str> = block.text.lines().filter(is_missing).collect();
                if !missing.is_empty() {
                    let candidates = observed.metrics.lines().filter(|line| line.contains("candidate"));
                    let candidates = candidates.collect::<Vec<_>>().join("\n");
                    differences.push(format!("{place}: {missing:?} not in\n{candidates}"));
                }
            }
            ("toml" | "diff" | "yaml", _) => {}
            (language, name) => panic!("{place}: a block of {language} {name} is not checked"),
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
    assert!(commands >= 10, "{commands} commands were run");
}

#[cfg(feature = "sandbox")]
#[test]
fn sandbox_refuses_rules_that_break_their_tests() {
    let blocks = blocks();
    let file = blocks.iter().find(|block| block.language == "toml").unwrap();
    let broken = file.text.replace("users = \"all\"", "logins = [\"*@partner.example\"]");
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("hmac-2026"), "k".repeat(48)).unwrap();
    fs::write(folder.path().join("gateway.toml"), broken).unwrap();
    let (code, output) = run(folder.path(), "ott-gateway sandbox --config gateway.toml");
    assert_eq!(code, 2, "{output}");
    assert!(output.contains("access.tests[2]: expects allow, but no rule allows it"), "{output}");
}

/// The scripts of the guide's pipelines, as their runners execute them.
fn pipeline_scripts(blocks: &[Block]) -> [(&'static str, String); 2] {
    let pipelines = blocks.iter().filter(|block| block.language == "yaml");
    let pipelines: Vec<Yaml> =
        pipelines.flat_map(|block| YamlLoader::load_from_str(&block.text).unwrap()).collect();
    let [github, gitlab] = pipelines.as_slice() else { panic!("{} pipelines", pipelines.len()) };
    let steps = github["jobs"]["access-rules"]["steps"].as_vec().unwrap();
    let scripts = steps.iter().filter(|step| step["name"].as_str() != Some("Install"));
    let github: Vec<&str> = scripts.filter_map(|step| step["run"].as_str()).collect();
    let gitlab: Vec<&str> = gitlab["access-rules"]["script"]
        .as_vec()
        .unwrap()
        .iter()
        .map(|line| line.as_str().unwrap())
        .collect();
    [("GitHub", github.join("\n")), ("GitLab", gitlab.join("\n"))]
}

#[test]
fn pipelines_of_the_guide_report_opened_calls_and_invalid_files() {
    let blocks = blocks();
    let old = &blocks.iter().find(|block| block.language == "toml").unwrap().text;
    let wider = old.replace("\"*@customer.example\"", "\"*@customer.example\", \"*@partner.example\"");
    let narrower = old.replace("users = \"all\"", "logins = [\"anna@customer.example\"]");
    let broken = old.replace("users = \"all\"", "logins = [\"ben@customer.example\"]");
    for (name, script) in pipeline_scripts(&blocks) {
        // GitHub's script reports opened calls to the next job, and GitLab's with its exit code.
        let opened = if name == "GitHub" { (0, "opened=true\n") } else { (3, "") };
        for (new, (code, report)) in
            [(old, (0, "")), (&narrower, (0, "")), (&wider, opened), (&broken, (2, ""))]
        {
            let folder = tempfile::tempdir().unwrap();
            let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
            write("gateway.toml", new);
            write("base.toml", old);
            for file in ["output", "summary"] {
                write(file, "");
            }
            // Only the version before the change is read from the repository.
            let git = "git() { case $1 in show) cat base.toml ;; fetch) ;; *) exit 99 ;; esac; }";
            let variables =
                "GITHUB_OUTPUT=output GITHUB_STEP_SUMMARY=summary CI_MERGE_REQUEST_DIFF_BASE_SHA=base";
            let (found, output) = run(folder.path(), &format!("set -e; {variables}\n{git}\n{script}"));
            assert_eq!(found, code, "{name}: {output}");
            assert_eq!(fs::read_to_string(folder.path().join("output")).unwrap(), report, "{name}: {output}");
            assert_eq!(
                output.contains("Opened: calls that only the new file allows: 1\n"),
                new == &wider,
                "{name}: {output}"
            );
            let results = fs::read_to_string(folder.path().join("access-tests.xml")).unwrap();
            assert_eq!(results.contains("<failure"), code == 2, "{name}: {results}");
        }
    }
}
