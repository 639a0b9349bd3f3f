//! Behavior at a terminal: log format, token prompt, shutdown.

use std::{io::Read, net::TcpListener, os::unix::process::ExitStatusExt, process::Command};

use crate::support::{
    gateway::Setup,
    terminal::{Terminal, ended},
    upstream::Upstream,
};

#[tokio::test(flavor = "multi_thread")]
async fn serve_logs_text_and_prints_its_addresses_on_a_terminal() {
    let platform = Upstream::http().await;
    let setup = |format: &str| {
        let setup = Setup::for_platform(platform.address())
            .replacing("log_format = \"json\"", format)
            .replacing("[admin]", "health_listen = \"127.0.0.1:0\"\n[admin]");
        setup.write_config();
        setup
    };
    for (format, is_json) in [("", false), ("log_format = \"text\"", false), ("log_format = \"json\"", true)]
    {
        let setup = setup(format);
        let config = setup.folder().join("config.toml");
        let arguments = ["serve", "--config", config.to_str().expect("a path")];
        let (mut terminal, gateway) = Terminal::start(&arguments, &[]);
        terminal.wait_for("Press Ctrl-C to stop.");
        terminal.types("\u{3}");
        let status = ended(gateway);
        let shown = terminal.wait_for("gateway stopped").to_owned();
        assert_eq!(status.code(), Some(0), "{shown}");
        let lines: Vec<&str> =
            shown.lines().filter(|line| line.starts_with("Listening on 127.0.0.1:")).collect();
        let [line] = lines.as_slice() else { panic!("{shown}") };
        for part in [
            "(gRPC, without TLS), 127.0.0.1:",
            "(health, without TLS), 127.0.0.1:",
            "(metrics and probes, HTTP)",
        ] {
            assert!(line.contains(part), "{line}");
        }
        assert_eq!(shown.contains("{\"timestamp\""), is_json, "{format}: {shown}");
    }
    // Without a terminal, the default is JSON.
    let gateway = setup("").start();
    let log = gateway.stderr().text();
    assert!(log.lines().all(|line| line.starts_with('{')), "{log}");
    assert!(!log.contains("Ctrl-C"), "{log}");
}

#[test]
fn a_typed_token_is_not_shown() {
    // Nothing listens on this port.
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", holder.local_addr().expect("its address"));
    drop(holder);
    let arguments = ["login", "--endpoint", &endpoint];
    let (mut terminal, login) = Terminal::start(&arguments, &[]);
    terminal.wait_for("one-time token: ");
    assert!(!terminal.has_echo());
    terminal.types("SANDBOX-typed-canary\n");
    let status = ended(login);
    let shown = terminal.wait_for("cannot connect to").to_owned();
    assert_eq!(status.code(), Some(1), "{shown}");
    assert!(!shown.contains("canary"), "{shown}");
    assert!(terminal.has_echo(), "the terminal is restored");
}

#[test]
fn an_interrupted_prompt_restores_the_terminal() {
    for (typed, code) in [("\u{3}", 1), ("\u{4}", 2)] {
        let (mut terminal, login) = Terminal::start(&["login"], &[]);
        terminal.wait_for("one-time token: ");
        terminal.types(typed);
        assert_eq!(ended(login).code(), Some(code));
        assert!(terminal.has_echo());
    }
}

#[test]
fn signals_end_a_login_after_its_prompt() {
    let gateway = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", gateway.local_addr().expect("its address"));
    for signal in ["Ctrl-C", "TERM", "HUP"] {
        let arguments = ["login", "--endpoint", &endpoint, "--timeout", "10m"];
        let (mut terminal, login) = Terminal::start(&arguments, &[]);
        terminal.wait_for("one-time token: ");
        terminal.types("SANDBOX-typed-canary\n");
        let (mut connection, _) = gateway.accept().expect("a connection");
        connection.read_exact(&mut [0; 24]).expect("the preface of HTTP/2");
        if signal == "Ctrl-C" {
            terminal.types("\u{3}");
        } else {
            let process = login.id().to_string();
            let done = Command::new("kill").args(["-s", signal, &process]).status().expect("kill");
            assert!(done.success());
        }
        assert_eq!(ended(login).code(), Some(1), "{signal}");
        terminal.wait_for("error: interrupted");
    }
}

/// A suspended command would continue with the modes of the shell, which show what is typed.
#[test]
fn a_prompt_cannot_be_suspended() {
    let (mut terminal, login) = Terminal::start(&["login"], &[]);
    assert!(terminal.can_suspend());
    terminal.wait_for("one-time token: ");
    assert!(!terminal.can_suspend());
    terminal.types("\u{1a}\n");
    assert_eq!(ended(login).code(), Some(2));
    terminal.wait_for("standard input is empty");
    assert!(terminal.can_suspend(), "the terminal is restored");
}

/// `nohup` starts a command with SIGHUP ignored.
#[cfg(feature = "sandbox")]
#[test]
fn a_sandbox_that_ignores_hang_ups_keeps_running() {
    use std::process::Stdio;

    use crate::support::gateway::Output;

    let mut sandbox = Command::new("env")
        .args(["--ignore-signal=HUP", env!("CARGO_BIN_EXE_ott-gateway"), "sandbox"])
        .args(["--listen", "127.0.0.1:0", "--platform-listen", "127.0.0.1:0"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the sandbox starts");
    let stderr = Output::default();
    stderr.follow(sandbox.stderr.take().expect("it is piped"));
    stderr.wait_for("it serves", |line| line.contains("Serving until Ctrl-C.").then_some(()));
    let process = sandbox.id().to_string();
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("its status");
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a mask");
        u64::from_str_radix(line.trim(), 16).expect("a number") & 1
    };
    assert_eq!((mask("SigIgn:"), mask("SigCgt:")), (1, 0), "SIGHUP stays ignored");
    for signal in ["HUP", "TERM"] {
        let done = Command::new("kill").args(["-s", signal, &process]).status().expect("kill");
        assert!(done.success(), "{signal}");
    }
    assert_eq!(ended(sandbox).code(), Some(0));
}

#[cfg(feature = "sandbox")]
#[test]
fn a_sandbox_stops_when_its_terminal_closes() {
    let arguments = ["sandbox", "--listen", "127.0.0.1:0", "--platform-listen", "127.0.0.1:0"];
    let (mut terminal, sandbox) = Terminal::start(&arguments, &[]);
    terminal.wait_for("Serving until Ctrl-C.");
    drop(terminal);
    let status = ended(sandbox);
    assert_eq!((status.code(), status.signal()), (Some(0), None));
}
