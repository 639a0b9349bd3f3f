//! The program from outside: exit codes, and what it prints where.

use std::{
    fs,
    process::{Command, Output, Stdio},
};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ott-gateway"))
        .args(arguments)
        .env_remove("OTT_GATEWAY_CONFIG")
        .env_remove("OTT_GATEWAY_ENDPOINT")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn help_goes_to_standard_output_and_is_no_failure() {
    let done = run(&["--help"]);
    assert_eq!(done.status.code(), Some(0));
    let help = text(&done.stdout);
    for word in ["serve", "sandbox", "check-config", "issue", "login", "healthcheck", "Exit codes"] {
        assert!(help.contains(word), "{word} is missing:\n{help}");
    }
    assert!(!help.contains('\u{1b}'), "no colour in a pipe");
    assert!(done.stderr.is_empty());
}

#[test]
fn wrong_usage_is_2_and_a_gateway_that_is_not_there_is_1() {
    assert_eq!(run(&[]).status.code(), Some(2));
    assert_eq!(run(&["issue"]).status.code(), Some(2));
    assert_eq!(run(&["login"]).status.code(), Some(2), "standard input is empty");
    let done = run(&["healthcheck", "--endpoint", "http://127.0.0.1:1"]);
    assert_eq!(done.status.code(), Some(1));
    assert!(text(&done.stderr).starts_with("error: cannot connect to http://127.0.0.1:1/: "));
    assert!(done.stdout.is_empty());
}

#[test]
fn broken_configuration_is_2_with_every_fault_and_a_good_one_is_0() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    let path = file.to_str().unwrap();
    fs::write(&file, "[server]\nlisen = \"127.0.0.1:1\"\n[api_clients.eu2]\nclient_id = \"\"\n").unwrap();
    for command in ["check-config", "serve"] {
        let done = run(&[command, "--config", path]);
        assert_eq!(done.status.code(), Some(2), "{command}");
        let faults = text(&done.stderr);
        for fault in
            [":2: server.lisen: unknown key; did you mean \"listen\"?", ":4: api_clients.eu2.client_id: "]
        {
            assert!(faults.contains(&format!("{path}{fault}")), "{faults}");
        }
    }
    fs::write(folder.path().join("secret"), "s").unwrap();
    let good = "[api_clients.eu2]\ndata_center_url = \"https://eu2-cloud.acronis.com\"\nclient_id = \"id\"\n\
                client_secret_file = \"secret\"\n[[access.rules]]\ncallers = [\"anonymous\"]\n";
    fs::write(&file, good).unwrap();
    let done = run(&["check-config", "--config", path]);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    assert!(text(&done.stdout).contains("eu2 at https://eu2-cloud.acronis.com/"));
}

#[test]
fn a_command_that_may_hold_a_secret_leaves_no_core_dump() {
    let mut login = Command::new(env!("CARGO_BIN_EXE_ott-gateway"))
        .arg("login")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It waits for its token; until it has come so far, it still has our limits.
    let limits = format!("/proc/{}/limits", login.id());
    let core = || {
        let limits = fs::read_to_string(&limits).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap().to_owned();
        line.split_whitespace().skip(4).take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    let mut looks = 0;
    while core() != ["0", "0"] && looks < 500 {
        looks += 1;
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let seen = core();
    login.kill().unwrap();
    login.wait().unwrap();
    assert_eq!(seen, ["0", "0"]);
}

#[test]
fn a_sandbox_that_is_open_to_the_network_says_so() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    // The platform's address is in use, so that nothing is really opened.
    let done = run(&["sandbox", "--once", "--listen", "0.0.0.0:0", "--platform-listen", &taken]);
    assert_eq!(done.status.code(), Some(1));
    let said = text(&done.stderr);
    assert!(said.contains("warning: the sandbox's gateway at 0.0.0.0:0 is open to the network"), "{said}");
}

#[cfg(feature = "sandbox")]
#[test]
fn sandbox_goes_on_after_a_walk_that_ended_early_until_it_is_interrupted() {
    use std::{
        io::{BufRead as _, BufReader},
        time::{Duration, Instant},
    };

    let folder = tempfile::tempdir().unwrap();
    let accounts = folder.path().join("accounts.json");
    let own = r#"{"tenants": [{"id": "t", "name": "T"}], "users": [{"id": "1", "login": "own@t", "tenant_id": "t"}]}"#;
    fs::write(&accounts, own).unwrap();
    let accounts = accounts.to_str().unwrap();
    let arguments =
        ["sandbox", "--listen", "127.0.0.1:0", "--platform-listen", "127.0.0.1:0", "--accounts", accounts];

    let once = run(&[&arguments[..], &["--once"]].concat());
    assert_eq!(once.status.code(), Some(0), "{}", text(&once.stderr));
    assert!(text(&once.stdout).contains("own@t"), "the first account is the one that the walk logs in");

    let faults = ["--fault", "400-1018/3"];
    let once = run(&[&arguments[..], &faults, &["--once"]].concat());
    assert_eq!(once.status.code(), Some(1), "{}", text(&once.stderr));
    let mut sandbox = Command::new(env!("CARGO_BIN_EXE_ott-gateway"))
        .args(arguments)
        .args(faults)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(sandbox.stderr.take().unwrap()).lines().map(Result::unwrap);
    let told: Vec<_> = lines.by_ref().take_while(|line| line != "Serving until Ctrl-C.").collect();
    assert!(told.iter().any(|line| line.contains("USER_DISABLED")), "{told:?}");

    #[expect(clippy::disallowed_methods, reason = "how long the process really takes")]
    let interrupted = Instant::now();
    let killed = Command::new("kill").args(["-INT", &sandbox.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(sandbox.wait().unwrap().code(), Some(0));
    assert!(interrupted.elapsed() < Duration::from_secs(2), "nobody waits for a lame duck here");
}
