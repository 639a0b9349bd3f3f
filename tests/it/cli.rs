//! Exit codes and output of the program.

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
fn help_goes_to_standard_output_and_succeeds() {
    let done = run(&["--help"]);
    assert_eq!(done.status.code(), Some(0));
    let help = text(&done.stdout);
    for word in
        ["serve", "sandbox", "check-config", "compare-rules", "issue", "login", "healthcheck", "Exit codes"]
    {
        assert!(help.contains(word), "{word} is missing:\n{help}");
    }
    assert!(!help.contains('\u{1b}'), "no colour in a pipe");
    assert!(done.stderr.is_empty());
}

#[test]
fn wrong_usage_exits_with_2_and_unreachable_gateway_with_1() {
    assert_eq!(run(&[]).status.code(), Some(2));
    assert_eq!(run(&["issue"]).status.code(), Some(2));
    assert_eq!(run(&["login"]).status.code(), Some(2), "standard input is empty");
    let done = run(&["healthcheck", "--endpoint", "http://127.0.0.1:1"]);
    assert_eq!(done.status.code(), Some(1));
    assert!(text(&done.stderr).starts_with("error: cannot connect to http://127.0.0.1:1: "));
    assert!(done.stdout.is_empty());
}

#[test]
fn invalid_configuration_exits_with_2_and_every_problem_and_valid_one_with_0() {
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
                client_secret_file = \"secret\"\n[[access.rules]]\ncallers = [\"anonymous\"]\nusers = \"all\"\n";
    fs::write(&file, good).unwrap();
    let done = run(&["check-config", "--config", path]);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    assert!(text(&done.stdout).contains("eu2 at https://eu2-cloud.acronis.com/"));
}

/// Secrets that are refused for their bytes or for their file type.
#[test]
fn check_config_and_serve_refuse_the_same_secrets_with_the_same_text() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let config = at("gateway.toml");
    let text_of = |source: &str| {
        format!(
            "[api_clients.eu2]\ndata_center_url = \"https://127.0.0.1:1\"\nclient_id = \"id\"\n{source}\n\
             [[access.rules]]\ncallers = [\"anonymous\"]\nusers = \"all\"\n[server]\nlisten = \"127.0.0.1:0\"\n\
             [admin]\nlisten = \"127.0.0.1:0\"\n"
        )
    };
    assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
    fs::create_dir(at("directory")).unwrap();
    let written = [
        ("blank-line", "s3cret\n\n".to_owned()),
        ("two-lines", "one\ntwo\n".to_owned()),
        ("empty", String::new()),
        ("blank", "  \n".to_owned()),
        ("control", "s3\u{7}cret".to_owned()),
        ("too-long", "a".repeat(64 * 1024 + 1)),
    ];
    for (name, content) in &written {
        fs::write(at(name), content).unwrap();
    }
    fs::write(at("not-utf-8"), b"s3\xffcret").unwrap();
    let names = written.iter().map(|(name, _)| *name).chain(["not-utf-8", "fifo", "directory", "missing"]);
    let mut sources: Vec<String> =
        names.clone().map(|name| format!("client_secret_file = \"{name}\"")).collect();
    sources.extend(names.map(|name| format!("client_secret_credential = \"{name}\"")));
    sources.push("client_secret_env = \"TWO_LINES\"".to_owned());
    sources.push("client_secret_env = \"BLANK\"".to_owned());
    for source in sources {
        fs::write(&config, text_of(&source)).unwrap();
        let key = source.split(' ').next().unwrap();
        let [checked, served] = ["check-config", "serve"].map(|command| {
            Command::new(env!("CARGO_BIN_EXE_ott-gateway"))
                .args([command, "--config"])
                .arg(&config)
                .env("CREDENTIALS_DIRECTORY", folder.path())
                .env("TWO_LINES", "one\ntwo")
                .env("BLANK", "\n")
                .stdin(Stdio::null())
                .output()
                .unwrap()
        });
        let stderr = text(&checked.stderr);
        assert!(
            stderr.contains(&format!("{}:4: api_clients.eu2.{key}: ", config.display())),
            "{source}: {stderr}"
        );
        assert_eq!((checked.status.code(), served.status.code()), (Some(2), Some(2)), "{source}: {stderr}");
        assert_eq!(stderr, text(&served.stderr), "{source}");
        assert!(checked.stdout.is_empty() && served.stdout.is_empty());
    }
}

/// A file of valid JSON without a usable key.
#[test]
fn check_config_and_serve_refuse_the_same_files() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("jwks.json"), r#"{"keys": []}"#).unwrap();
    fs::write(at("secret"), "s3cret").unwrap();
    let config = at("gateway.toml");
    let contents = "[callers.jwt]\nissuer = \"i\"\naudience = \"a\"\njwks_file = \"jwks.json\"\n\
                [server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[api_clients.eu2]\n\
                data_center_url = \"https://127.0.0.1:1\"\nclient_id = \"id\"\nclient_secret_file = \"secret\"\n\
                [[access.rules]]\ncallers = [\"anonymous\"]\nusers = \"all\"\n";
    fs::write(&config, contents).unwrap();
    let path = config.to_str().unwrap();
    let [checked, served] = ["check-config", "serve"].map(|command| run(&[command, "--config", path]));
    let stderr = text(&checked.stderr);
    assert_eq!((checked.status.code(), served.status.code()), (Some(2), Some(2)), "{stderr}");
    assert!(
        stderr.contains("gateway.toml:4: callers.jwt.jwks_file: none of its keys can verify"),
        "{stderr}"
    );
    assert_eq!(stderr, text(&served.stderr));
}

/// Reloads read the file again, and a pipe is empty the second time.
#[test]
fn configuration_from_a_pipe_is_refused() {
    for command in ["check-config", "serve"] {
        let script = format!("exec \"$0\" {command} --config <(echo '[server]')");
        let done = Command::new("bash")
            .args(["-c", &script, env!("CARGO_BIN_EXE_ott-gateway")])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let stderr = text(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{stderr}");
        assert!(
            stderr.contains("is not a regular file, so it cannot be read again after a change"),
            "{stderr}"
        );
    }
}

#[test]
fn commands_with_secrets_disable_core_dumps() {
    let mut login = Command::new(env!("CARGO_BIN_EXE_ott-gateway"))
        .arg("login")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The command inherits our limits, changes them, and waits for its token.
    let limits = format!("/proc/{}/limits", login.id());
    let core = || {
        let limits = fs::read_to_string(&limits).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap().to_owned();
        line.split_whitespace().skip(4).take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    let mut polls = 0;
    while core() != ["0", "0"] && polls < 12_000 {
        polls += 1;
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let seen = core();
    login.kill().unwrap();
    login.wait().unwrap();
    assert_eq!(seen, ["0", "0"]);
}

#[cfg(feature = "sandbox")]
#[test]
fn sandbox_serves_after_a_failed_walk_until_it_is_interrupted() {
    use std::io::{BufRead as _, BufReader};

    let folder = tempfile::tempdir().unwrap();
    let accounts = folder.path().join("accounts.json");
    let own = r#"{"tenants": [{"id": "t", "name": "T"}], "users": [{"id": "1", "login": "own@t", "tenant_id": "t"}]}"#;
    fs::write(&accounts, own).unwrap();
    let accounts = accounts.to_str().unwrap();
    let arguments =
        ["sandbox", "--listen", "127.0.0.1:0", "--platform-listen", "127.0.0.1:0", "--accounts", accounts];

    let once = run(&[&arguments[..], &["--once"]].concat());
    assert_eq!(once.status.code(), Some(0), "{}", text(&once.stderr));
    assert!(text(&once.stdout).contains("own@t"), "the walk logs in the first account");

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
    let printed: Vec<_> = lines.by_ref().take_while(|line| line != "Serving until Ctrl-C.").collect();
    assert!(printed.iter().any(|line| line.contains("USER_DISABLED")), "{printed:?}");

    let killed = Command::new("kill").args(["-INT", &sandbox.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(sandbox.wait().unwrap().code(), Some(0));
}
