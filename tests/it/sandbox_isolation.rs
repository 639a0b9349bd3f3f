//! What a sandbox leaves alone: audit logs, collectors, files, and web pages that reach its address by
//! a name of their own.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Output},
};

use crate::support::{
    calling::{issue, result_of},
    sandbox::Sandbox,
};

const JOHN: &str = "johncustomer@mysite.com";

const CONFIG: &str = r#"
    [admin]
    listen = "off"
    [api_clients.eu2]
    data_center_url = "https://eu2-cloud.acronis.com"
    client_id = "real"
    [[access.rules]]
    callers = ["anonymous"]
    user_rate = "unlimited"
    users = "all"
"#;

/// Runs a sandbox that does not start.
fn refused(arguments: &[&str], ready_file: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ott-gateway"))
        .args(["sandbox", "--platform-listen", "127.0.0.1:0", "--ready-file"])
        .arg(ready_file)
        .args(arguments)
        .output()
        .expect("it runs")
}

#[tokio::test]
async fn a_sandbox_appends_nothing_to_an_audit_log_with_records() {
    let folder = tempfile::tempdir().expect("a folder");
    let audit = folder.path().join("audit.jsonl");
    let file = folder.path().join("gateway.toml");
    fs::write(&audit, "{\"event\":\"call\"}\n").expect("a file");
    fs::write(&file, format!("{CONFIG}\n[audit]\nsink = \"{}\"\n", audit.display())).expect("a file");
    let file = file.display().to_string();
    let arguments = ["--config", &file, "--listen", "127.0.0.1:0"];
    let done = refused(&arguments, &folder.path().join("ready.json"));
    let text = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success());
    assert!(text.contains("audit.sink: the file has records already"), "{text}");
    assert!(text.contains("OTT_GATEWAY__AUDIT__SINK"), "{text}");
    assert_eq!(fs::read_to_string(&audit).expect("it is there"), "{\"event\":\"call\"}\n");

    fs::remove_file(&audit).expect("it is there");
    let mut sandbox = Sandbox::start(&arguments);
    sandbox.client().await.issue_ott(issue(JOHN)).await.expect("a token");
    assert!(sandbox.interrupt().success(), "{}", sandbox.stderr.text());
    assert!(fs::read_to_string(&audit).expect("the audit log").contains("IssueOtt"));
}

#[tokio::test]
async fn the_hosts_that_a_sandbox_fetches_keys_from_are_named() {
    let plain = Sandbox::with_config(&format!("{CONFIG}\n[audit]\nsink = \"off\"\n"), &[]);
    plain.stdout.wait_for("the claim", |line| line.contains("nothing leaves this machine").then_some(()));

    // Nothing listens on port 1.
    let with_keys = format!(
        "{CONFIG}\n[audit]\nsink = \"off\"\n[callers.jwt]\nissuer = \"i\"\naudience = \"a\"\n\
         jwks_url = \"http://127.0.0.1:1/keys\"\n[telemetry]\notlp_endpoint = \"http://127.0.0.1:1\"\n"
    );
    let sandbox = Sandbox::with_config(&with_keys, &[]);
    sandbox
        .stdout
        .wait_for("the claim", |line| line.contains("keys of JWT issuers are fetched").then_some(()));
    assert!(!sandbox.stdout.text().contains("nothing leaves"), "{}", sandbox.stdout.text());
    let stderr = sandbox.stderr.text();
    assert!(stderr.contains("fetches the issuer's keys from 127.0.0.1"), "{stderr}");
    assert!(stderr.contains("telemetry.otlp_endpoint: is ignored"), "{stderr}");
    assert_eq!(result_of(&sandbox.client().await.issue_ott(issue(JOHN)).await), "OK");
}

#[tokio::test]
async fn a_sandbox_that_does_not_start_leaves_the_ready_file_of_another_one() {
    let mut sandbox = Sandbox::start(&[]);
    let path = sandbox.path("ready.json");
    let own = fs::read_to_string(&path).expect("it serves");
    let gateway = sandbox.ready["gateway"].as_str().expect("an address").to_owned();
    let done = refused(&["--listen", &gateway], &path);
    assert!(!done.status.success());
    let text = String::from_utf8_lossy(&done.stderr);
    assert!(text.contains("is in use"), "{text}");
    assert_eq!(fs::read_to_string(&path).expect("the first one still serves"), own);

    let notes = sandbox.path("notes.json");
    fs::write(&notes, "notes").expect("a file");
    let done = refused(&["--listen", "127.0.0.1:0", "--once"], &notes);
    assert_eq!(done.status.code(), Some(2));
    let text = String::from_utf8_lossy(&done.stderr);
    assert!(text.contains("notes.json exists and is not a ready file"), "{text}");
    assert_eq!(fs::read_to_string(&notes).expect("it is there"), "notes");

    assert!(sandbox.interrupt().success(), "{}", sandbox.stderr.text());
    assert!(!path.exists(), "its own one is removed");
}

/// Status and body of the answer to a request with exactly these headers.
fn answer(sandbox: &Sandbox, request_line: &str, headers: &str) -> (u16, String) {
    let address: SocketAddr =
        sandbox.ready["platform"].as_str().expect("a URL")["http://".len()..].parse().expect("an address");
    let mut stream = TcpStream::connect(address).expect("it accepts");
    let head = format!("{request_line} HTTP/1.1\r\n{headers}connection: close\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
    (answer[9..12].parse().expect("a status"), body.to_owned())
}

/// DNS rebinding: for the browser, the page and the sandbox are one site.
#[test]
fn a_page_whose_name_leads_to_the_sandbox_can_neither_reset_it_nor_read_its_journal() {
    const GET: &str = "GET /sandbox/requests";
    let sandbox = Sandbox::start(&["--public-url", "http://box.test:9000"]);
    for headers in
        ["", "host: evil.example:8080\r\n", "host: localhost.\r\n", "host: localhost\r\nhost: a.b\r\n"]
    {
        let (status, body) = answer(&sandbox, GET, headers);
        assert_eq!(status, 403, "{headers:?}");
        assert!(body.contains("--public-url"), "{body}");
        let json = format!("{headers}content-type: application/json\r\n");
        assert_eq!(answer(&sandbox, "POST /sandbox/reset", &json).0, 403, "{headers:?}");
    }
    let absolute = "GET http://evil.example/sandbox/requests";
    assert_eq!(answer(&sandbox, absolute, "host: localhost\r\n").0, 403);
    assert!(!sandbox.requests().is_empty(), "nothing was reset");
    for host in ["localhost:8080", "127.0.0.1", "[::1]:8080", "sandbox", "box.test", "BOX.test:9000"] {
        assert_eq!(answer(&sandbox, GET, &format!("host: {host}\r\n")).0, 200, "{host}");
    }
    let json = "host: box.test:9000\r\ncontent-type: application/json\r\n";
    assert_eq!(answer(&sandbox, "POST /sandbox/reset", json).0, 204);
    assert!(sandbox.requests().is_empty());
}
