//! Tools of `ott-gateway sandbox` for tests: journal, reset, token lifetime, custom configuration and
//! accounts, reachable addresses; and their documentation page.

use std::time::{Duration, SystemTime};

use ott_gateway::{base::clock::WallClock, sandbox, status::Reason};

use crate::{
    docs::blocks,
    support::{
        calling::{issue, login, reason, result_of},
        sandbox::Sandbox,
    },
};

const JOHN: &str = "johncustomer@mysite.com";

#[tokio::test]
async fn the_journal_has_the_requests_of_the_gateway_until_a_reset() {
    let sandbox = Sandbox::start(&["--fault", "503/1000"]);
    sandbox.reset();
    assert_eq!(sandbox.requests(), Vec::<serde_json::Value>::new());
    let mut client = sandbox.client().await;
    let mut request = issue(JOHN);
    request.metadata_mut().insert("x-request-id", "0198c7f0-1111-7000-8000-000000000001".parse().unwrap());
    let issued = client.issue_ott(request).await.expect("a token").into_inner();
    client.login_with_ott(login(&issued.ott)).await.expect("a session");
    let status = client.login_with_ott(login(&issued.ott)).await.expect_err("it is spent");
    assert_eq!(reason(&status), "OTT_REJECTED");
    client.issue_ott(issue("fault+400-1018@sandbox")).await.expect_err("injected");

    let requests = sandbox.requests();
    let of = |index: usize| {
        let entry = &requests[index];
        (entry["path"].as_str().unwrap(), entry["status"].as_u64().unwrap(), entry["login"].as_str())
    };
    assert_eq!(requests.len(), 4, "{requests:#?}");
    assert_eq!(of(0), ("/api/2/idp/ott", 200, Some(JOHN)));
    assert_eq!(of(1), ("/api/2/idp/ott/login", 200, Some(JOHN)));
    assert_eq!(of(2), ("/api/2/idp/ott/login", 401, None));
    assert_eq!(of(3), ("/api/2/idp/ott", 400, Some("fault+400-1018@sandbox")));
    assert_eq!((&requests[0]["method"], &requests[0]["api_client"]), (&"POST".into(), &"sandbox".into()));
    assert_eq!(requests[0]["request_id"], "0198c7f0-1111-7000-8000-000000000001");
    assert_eq!(requests[3]["fault"], "400-1018");
    assert!(requests[0]["time"].as_str().unwrap().ends_with('Z'));
    let fingerprint = requests[0]["ott_sha256"].as_str().unwrap();
    assert_eq!(fingerprint.len(), 16);
    assert!(requests[1..3].iter().all(|entry| entry["ott_sha256"] == fingerprint));
    let text = serde_json::to_string(&requests).unwrap();
    assert!(!text.contains("SANDBOX-") && !text.contains("sandbox-secret"), "{text}");

    // A reset removes tokens and sessions, but not the gateway's access token.
    let kept = client.issue_ott(issue(JOHN)).await.expect("a token").into_inner();
    sandbox.reset();
    assert_eq!(sandbox.requests().len(), 0);
    assert_eq!(result_of(&client.login_with_ott(login(&kept.ott)).await), "Unauthenticated OTT_REJECTED");
    client.issue_ott(issue(JOHN)).await.expect("a token, with the same access token");
}

#[tokio::test]
async fn web_pages_can_neither_reset_a_sandbox_nor_read_its_journal() {
    let sandbox = Sandbox::start(&[]);
    let before = sandbox.requests().len();
    assert!(before > 0, "the walk");
    let json = ("content-type", "application/json");
    for headers in [
        &[][..],
        &[("content-type", "text/plain")],
        &[json, ("origin", "https://evil.example")],
        &[json, ("origin", "null")],
        &[json, ("sec-fetch-site", "cross-site")],
    ] {
        let (status, _) = sandbox.request("POST", "/sandbox/reset", headers);
        assert!(matches!(status, 403 | 415), "{headers:?}: {status}");
    }
    let (status, _) = sandbox.request("GET", "/sandbox/requests", &[("origin", "https://evil.example")]);
    assert_eq!(status, 403);
    assert_eq!(sandbox.request("GET", "/sandbox/reset", &[json]).0, 405);
    assert_eq!(sandbox.requests().len(), before);
    sandbox.reset();
    assert_eq!(sandbox.requests().len(), 0);
}

#[tokio::test]
async fn token_life_sets_the_lifetime_and_the_expire_time() {
    let sandbox = Sandbox::start(&["--token-life", "1s"]);
    let mut client = sandbox.client().await;
    let before = WallClock::system().now();
    let issued = client.issue_ott(issue(JOHN)).await.expect("a token").into_inner();
    let expires = SystemTime::try_from(issued.expire_time.unwrap()).unwrap();
    let lifetime = expires.duration_since(before).expect("in the future");
    // Counted from the time at which the request was sent, which is after the start of the call.
    assert!(lifetime >= Duration::from_secs(1), "{lifetime:?}");
    let answered = WallClock::system().now().duration_since(before).unwrap();
    assert!(lifetime <= Duration::from_secs(1) + answered, "{lifetime:?}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(result_of(&client.login_with_ott(login(&issued.ott)).await), "Unauthenticated OTT_REJECTED");
}

#[tokio::test]
async fn bind_tokens_seals_with_a_key_that_only_this_sandbox_has() {
    let (sandbox, other) = (Sandbox::start(&["--bind-tokens"]), Sandbox::start(&["--bind-tokens"]));
    sandbox.stdout.wait_for("the walk", |line| line.contains("(empty: tokens are sealed").then_some(()));
    let mut client = sandbox.client().await;
    let issued = client.issue_ott(issue(JOHN)).await.expect("a token").into_inner();
    assert!(issued.ott.starts_with("ottgw1.sandbox."), "{}", issued.ott);
    let before = other.requests().len();
    let elsewhere = other.client().await.login_with_ott(login(&issued.ott)).await;
    assert_eq!(result_of(&elsewhere), "Unauthenticated OTT_REJECTED");
    assert_eq!(other.requests().len(), before, "the gateway refuses it");
    assert_eq!(result_of(&client.login_with_ott(login(&issued.ott)).await), "OK");
    assert_eq!(result_of(&client.login_with_ott(login(&issued.ott)).await), "Unauthenticated OTT_REJECTED");

    // Faults of a login are chosen by its token.
    let faulty = client.issue_ott(issue("login-fault+DRAINING@sandbox")).await.expect("a token").into_inner();
    assert!(faulty.ott.starts_with("ottgw1.sandbox."), "{}", faulty.ott);
    assert_eq!(result_of(&client.login_with_ott(login(&faulty.ott)).await), "Unavailable DRAINING");

    let done = std::process::Command::new(env!("CARGO_BIN_EXE_ott-gateway"))
        .args(["sandbox", "--bind-tokens", "--config", "gateway.toml"])
        .output()
        .expect("it runs");
    assert_eq!(done.status.code(), Some(2));
    let text = String::from_utf8_lossy(&done.stderr);
    assert!(text.contains("--config") && text.contains("--bind-tokens"), "{text}");
}

const CONFIG: &str = r#"
    [admin]
    listen = "off"
    [api_clients.eu2]
    data_center_url = "https://eu2-cloud.acronis.com"
    client_id = "11111111-2222-3333-4444-555555555555"
    client_secret_file = "/nowhere/secret"
    [[access.rules]]
    callers = ["anonymous"]
    api_clients = ["eu2"]
    user_rate = "1/h"
    user_burst = 1
    logins = ["*@mysite.com", "*fault+*@sandbox"]
    [audit]
    sink = "FOLDER/audit.jsonl"
"#;

#[tokio::test]
async fn a_custom_configuration_runs_against_the_simulated_platform() {
    let mut sandbox = Sandbox::with_config(CONFIG, &[]);
    let mut client = sandbox.client().await;
    let mut named = issue(JOHN);
    named.get_mut().api_client = "eu2".to_owned();
    let issued = client.issue_ott(named).await.expect("the secret of the file is not read").into_inner();
    client.login_with_ott(login(&issued.ott)).await.expect("a session");
    assert_eq!(result_of(&client.issue_ott(issue(JOHN)).await), "ResourceExhausted CALLER_QUOTA_EXCEEDED");
    sandbox.reset();
    client.issue_ott(issue(JOHN)).await.expect("the quota is full again");
    assert_eq!(
        result_of(&client.issue_ott(issue("x@elsewhere.com")).await),
        "PermissionDenied CALLER_NOT_ALLOWED"
    );
    let injected = client.issue_ott(issue("fault+DRAINING@sandbox")).await;
    assert_eq!(result_of(&injected), "Unavailable DRAINING");
    assert!(sandbox.interrupt().success(), "{}", sandbox.stderr.text());
    let audit = std::fs::read_to_string(sandbox.path("audit.jsonl")).expect("the audit log");
    let calls = audit.lines().filter(|line| line.contains(r#""event":"call""#));
    let issued = calls.filter(|line| line.contains(r#""code":"OK""#) && line.contains("IssueOtt")).count();
    assert_eq!(issued, 2, "{audit}");
    assert!(!sandbox.path("ready.json").exists(), "exists only while the sandbox serves");
}

#[test]
fn a_sandbox_that_is_open_to_the_network_warns() {
    let sandbox = Sandbox::start(&["--listen", "0.0.0.0:0", "--platform-listen", "0.0.0.0:0"]);
    for (what, address) in [("gateway", &sandbox.ready["gateway"]), ("platform", &sandbox.ready["platform"])]
    {
        let port = address.as_str().unwrap().rsplit(':').next().unwrap();
        assert_ne!(port, "0");
        let warning = format!("warning: the sandbox's {what} at 0.0.0.0:{port} is open to the network");
        sandbox
            .stderr
            .wait_for("a warning with the actual port", |line| line.contains(&warning).then_some(()));
    }
    let loopback = Sandbox::start(&[]);
    assert!(!loopback.stderr.text().contains("open to the network"), "{}", loopback.stderr.text());
}

/// The gateway uses plain HTTP on loopback only, and could not connect to any other address.
#[test]
fn the_platform_listens_on_loopback_or_on_every_address() {
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_ott-gateway"))
        .args(["sandbox", "--once", "--platform-listen", "192.0.2.1:8080"])
        .output()
        .expect("it runs");
    assert_eq!(done.status.code(), Some(2));
    let text = String::from_utf8(done.stderr).expect("UTF-8");
    assert!(text.contains("--platform-listen: must be a loopback address, or 0.0.0.0 or [::]"), "{text}");
}

#[tokio::test]
async fn printed_addresses_and_login_urls_are_reachable_on_every_address() {
    let everywhere = ["--listen", "0.0.0.0:0", "--platform-listen", "0.0.0.0:0"];
    let public = Sandbox::start(&[&everywhere[..], &["--public-url", "http://box.test:9000"]].concat());
    let login_url = async |sandbox: &Sandbox, target: &str| {
        let mut request = issue(JOHN);
        request.get_mut().target_uri = target.to_owned();
        sandbox.client().await.issue_ott(request).await.map(|issued| issued.into_inner().login_url)
    };
    let url = login_url(&public, "/mc/").await.expect("a token");
    assert!(url.starts_with("http://box.test:9000/api/2/idp/external-login#ott=SANDBOX-"), "{url}");
    assert!(url.ends_with("&targetURI=http%3A%2F%2Fbox.test%3A9000%2Fmc%2F"), "{url}");
    login_url(&public, "http://box.test:9000/mc/").await.expect("its own origin");
    let port = public.ready["gateway"].as_str().unwrap().rsplit(':').next().unwrap();
    public.stdout.wait_for("the lines to paste", |line| {
        line.contains(&format!("--endpoint http://box.test:{port}")).then_some(())
    });
    assert_eq!(public.ready["public_url"], "http://box.test:9000");

    let sandbox = Sandbox::start(&everywhere);
    let url = login_url(&sandbox, "/mc/").await.expect("a token");
    let platform = sandbox.ready["platform"].as_str().unwrap();
    assert!(platform.starts_with("http://127.0.0.1:") && !platform.ends_with(":0"), "{platform}");
    assert!(url.starts_with(&format!("{platform}/api/2/idp/external-login#ott=")), "{url}");
    sandbox
        .stdout
        .wait_for("the lines to paste", |line| line.contains("ott.v1.OttService/LoginWithOtt").then_some(()));
    assert!(!sandbox.stdout.text().contains("0.0.0.0"), "{}", sandbox.stdout.text());
}

#[test]
fn accounts_are_listed_with_their_outcome() {
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_ott-gateway"))
        .args(["sandbox", "--list-accounts"])
        .output()
        .expect("it runs");
    assert!(done.status.success());
    let text = String::from_utf8(done.stdout).expect("UTF-8");
    let line = |login: &str| {
        let found = text.lines().find(|line| line.split_whitespace().next() == Some(login));
        found.unwrap_or_else(|| panic!("{login} is missing:\n{text}"))
    };
    assert!(line(JOHN).ends_with("issues a token"));
    assert!(line("jane.federated").contains("jane@idp.mysite.com"));
    for (login, reason) in [
        ("disabled@mysite.com", "USER_DISABLED"),
        ("closed@closeddown.com", "TENANT_DISABLED"),
        ("locked@underlock.com", "TENANT_LOCKED"),
        ("private@keepstoitself.com", "PLATFORM_ACCESS_DENIED"),
        ("stranger@elsewhere.com", "PLATFORM_ACCESS_DENIED"),
    ] {
        assert!(line(login).contains(reason), "{}", line(login));
    }
}

fn page() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/sandbox.md")).expect("the page")
}

/// Returns the cells of the rows whose first cell is code.
fn rows(page: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().replace('`', "")).collect::<Vec<_>>();
    page.lines().filter(|line| line.starts_with("| `")).map(|line| cells(line)[1..].to_vec()).collect()
}

#[test]
fn the_page_lists_the_built_in_accounts() {
    let rows = rows(&page());
    let accounts = sandbox::Accounts::built_in().list();
    assert!(accounts.len() >= 10);
    for account in accounts {
        let row = rows.iter().find(|row| row[0] == account.login);
        let row = row.unwrap_or_else(|| panic!("{} is missing", account.login));
        let issue = account.refused.map_or("issues a token", |(reason, _)| reason);
        assert_eq!(row[2], issue, "{}", account.login);
    }
}

#[test]
fn the_page_lists_every_additional_code_and_every_platform_fault() {
    let page = page();
    let rows = rows(&page);
    for reason in Reason::ALL {
        let entry = reason.entry();
        let answers = [entry.issue, entry.login].into_iter().flatten();
        let further = answers.flat_map(|answers| answers.codes).filter(|code| **code != reason.code());
        for code in further {
            let kind = format!("{}-{}", reason.as_str(), code.name());
            assert!(rows.iter().any(|row| row[0] == kind), "{kind} is missing");
        }
    }
    for kind in sandbox::Fault::KINDS
        .split([',', ' ', '(', ')'])
        .filter(|kind| kind.parse::<sandbox::Fault>().is_ok())
    {
        assert!(page.contains(&format!("`{kind}`")), "{kind} is missing");
    }
}

#[tokio::test]
async fn the_accounts_of_the_page_are_valid() {
    let block = blocks("json").into_iter().find(|block| block.info == "json accounts");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("accounts.json");
    std::fs::write(&file, block.expect("an example").text).expect("a file");
    let sandbox = Sandbox::start(&["--accounts", &file.display().to_string()]);
    let mut client = sandbox.client().await;
    let issued = client.issue_ott(issue("ada@acme.example")).await.expect("a token").into_inner();
    client.login_with_ott(login(&issued.ott)).await.expect("a session");
    assert_eq!(
        result_of(&client.issue_ott(issue("bob@closed.example")).await),
        "FailedPrecondition TENANT_DISABLED"
    );
}
