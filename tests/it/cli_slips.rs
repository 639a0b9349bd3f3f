//! Mistakes on the command line, and the fixes that the errors suggest.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    process::{Command, Output, Stdio},
    thread,
};

use bytes::Bytes;

use crate::support::{
    authority::{Authority, write},
    gateway::Setup,
    upstream::Upstream,
};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ott-gateway"))
        .args(arguments)
        .env_remove("OTT_GATEWAY_CONFIG")
        .env_remove("OTT_GATEWAY_ENDPOINT")
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

/// Runs a command, and returns its exit code and standard error.
fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let done = run(arguments);
    (done.status.code(), String::from_utf8(done.stderr).expect("text"))
}

/// Starts a server that waits for data on each connection, sends these bytes and closes it.
fn server(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let _ = stream.read(&mut [0; 1024]).and_then(|_| stream.write_all(answer));
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_not_a_gateway_is_recognized() {
    const ALERT: &[u8] = b"\x15\x03\x03\0\x02\x02\x32";
    const HTTP1: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
    for (answer, scheme, expected) in [
        (ALERT, "http", "speaks TLS; write https://ADDRESS"),
        (HTTP1, "http", "speaks HTTP/1 (\"HTTP/1.1 400 Bad Request\"); use the port"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "http", "speaks neither HTTP/2 nor TLS; use the port"),
        (b"", "http", "closes the connection"),
        (SETTINGS, "http", "the connection was lost before a response arrived"),
        (SETTINGS, "https", "speaks HTTP/2 without TLS; write http://ADDRESS"),
        (HTTP1, "https", "speaks HTTP/1 without TLS"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "https", "does not speak TLS"),
        (b"", "https", "closes the connection"),
    ] {
        let address = server(answer);
        let endpoint = format!("{scheme}://{address}");
        let (code, error) = refused(&["issue", "--login", "a", "--endpoint", &endpoint]);
        assert_eq!(code, Some(1), "{error}");
        let expected = expected.replace("ADDRESS", &address.to_string());
        assert!(error.starts_with(&format!("error: cannot connect to {endpoint}: ")), "{error}");
        assert!(error.contains(&expected), "{answer:?}: {error}");
        assert!(!error.contains("retry"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_is_not_grpc_is_reported() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        for (status, content_type) in [(404, Some("text/html")), (200, Some("application/json")), (503, None)]
        {
            let (stream, _) = listener.accept().await.expect("a connection");
            let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let mut response = http::Response::builder().status(status);
                if let Some(content_type) = content_type {
                    response = response.header("content-type", content_type);
                }
                let mut body =
                    respond.send_response(response.body(()).expect("a response"), false).expect("it is sent");
                body.send_data(Bytes::from_static(b"<html>no</html>"), true).expect("it is sent");
            }
        }
    });
    for expected in
        ["HTTP 404 (text/html)", "HTTP 200 (application/json)", "HTTP 503 (without a content type)"]
    {
        let endpoint = format!("http://{address}");
        let (code, error) = refused(&["issue", "--login", "a", "--endpoint", &endpoint]);
        assert_eq!(code, Some(1), "{error}");
        assert!(error.contains(&format!("the response is {expected} and not gRPC")), "{error}");
        assert!(!error.contains("retry"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheme_that_does_not_match_the_gateway_is_reported() {
    let platform = Upstream::http().await;
    let plain = Setup::for_platform(platform.address()).start();
    let (_, error) =
        refused(&["issue", "--login", "a", "--endpoint", &format!("https://{}", plain.address())]);
    assert!(error.contains(&format!("without TLS; write http://{}", plain.address())), "{error}");

    let setup = Setup::for_platform(platform.address()).replacing(
        "[admin]",
        "[server.tls]
        certificate_file = \"FOLDER/tls.crt\"
        private_key_file = \"FOLDER/tls.key\"
        [admin]",
    );
    let authority = Authority::new("slips");
    authority.issue(&["localhost"]).write(setup.folder());
    write(setup.folder(), "ca.crt", &authority.certificate());
    let secured = setup.start();
    let port = secured.address().port();
    let (_, error) = refused(&["issue", "--login", "a", "--endpoint", &format!("http://localhost:{port}")]);
    assert!(error.contains(&format!("speaks TLS; write https://localhost:{port}")), "{error}");
    let endpoint = format!("https://localhost:{port}");
    let (_, error) = refused(&["issue", "--login", "a", "--endpoint", &endpoint]);
    assert!(error.contains("set the file of that authority with --ca-file"), "{error}");
    let ca = secured.folder().join("ca.crt");
    let ca = ca.to_str().expect("a path");
    let by_address = format!("https://127.0.0.1:{port}");
    let (_, error) = refused(&["issue", "--login", "a", "--endpoint", &by_address, "--ca-file", ca]);
    assert!(error.contains("use one of these names in --endpoint or --server-name"), "{error}");
    let (code, error) = refused(&["issue", "--login", "a", "--endpoint", &endpoint, "--ca-file", ca]);
    assert_eq!(code, Some(0), "{error}");
}

#[test]
fn unusable_files_are_reported_with_their_path() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
    Authority::new("files").issue(&["localhost"]).write(folder.path());
    let other = folder.path().join("other");
    fs::create_dir(&other).expect("a folder");
    Authority::new("other").issue(&["localhost"]).write(&other);
    write(folder.path(), "empty", "");
    fs::write(folder.path().join("binary"), [0xff, 0, 0x80, 7]).expect("a file");
    let (crt, key, other) = (at("tls.crt"), at("tls.key"), at("other/tls.key"));
    for (arguments, expected) in [
        (vec!["--ca-file", &at("tls.key")], "--ca-file: FOLDER/tls.key: the file contains a private key"),
        (vec!["--ca-file", &at("empty")], "--ca-file: FOLDER/empty: the file is empty"),
        (vec!["--ca-file", &at("binary")], "--ca-file: FOLDER/binary: the file"),
        (vec!["--ca-file", &at("other")], "--ca-file: FOLDER/other: is a directory"),
        (vec!["--ca-file", &at("nothing")], "--ca-file: FOLDER/nothing: no such file"),
        (vec!["--ca-file", "-"], "--ca-file cannot be standard input"),
        (
            vec!["--certificate-file", &key, "--private-key-file", &key],
            "--certificate-file: FOLDER/tls.key: ",
        ),
        (
            vec!["--certificate-file", &crt, "--private-key-file", &crt],
            "--private-key-file: FOLDER/tls.crt: ",
        ),
        (
            vec!["--certificate-file", &crt, "--private-key-file", &other],
            "--private-key-file: FOLDER/other/tls.key: ",
        ),
        (vec!["--server-name", "https://localhost"], "--server-name must be a host name"),
        (vec!["--bearer-token-file", &at("empty")], "--bearer-token-file: FOLDER/empty: the file is empty"),
        (vec!["--bearer-token-file", &at("other")], "--bearer-token-file: FOLDER/other: is a directory"),
        (
            vec!["--bearer-token-file", "eyJhbGciOi.canary.x"],
            "cannot read the file of --bearer-token-file: no such file; write the token to a file",
        ),
    ] {
        let done =
            run(&[&["issue", "--login", "a", "--endpoint", "https://127.0.0.1:1"], &arguments[..]].concat());
        let error = String::from_utf8(done.stderr).expect("text");
        assert_eq!(done.status.code(), Some(2), "{error}");
        let expected = expected.replace("FOLDER", folder.path().to_str().expect("a path"));
        assert!(error.starts_with(&format!("error: {expected}")), "{arguments:?}: {error}");
        assert!(!error.contains("canary"), "{error}");
    }
}

#[test]
fn a_secret_in_the_wrong_place_is_refused_and_not_repeated() {
    let folder = tempfile::tempdir().expect("a folder");
    let token = folder.path().join("token");
    write(folder.path(), "token", "Bearer s3cret-canary\n");
    let token = token.to_str().expect("a path");
    for (arguments, expected) in [
        (vec!["login", "SANDBOX-canary"], "pipe it to standard input"),
        (vec!["login", "--ott", "SANDBOX-canary"], "pipe it to standard input"),
        (vec!["login", "--ott=SANDBOX-canary"], "pipe it to standard input"),
        (vec!["login", "--token", "SANDBOX-canary", "--timeout", "1s"], "pipe it to standard input"),
        (vec!["login", "--unknown=SANDBOX-canary"], "pipe the token to standard input"),
        (vec!["issue", "--login", "a", "--bearer-token-file", token], "begins with \"Bearer\"; remove it"),
        (
            vec!["issue", "--login", "a", "--endpoint", "http://me:canary@localhost:1"],
            "write http://localhost:1",
        ),
        (
            vec!["issue", "--login", "a", "--endpoint", "127.0.0.1:50051"],
            "write http://127.0.0.1:50051, or https",
        ),
        (vec!["issue", "someone@example"], "specify the user: ott-gateway issue --login"),
        (vec!["issue", "SANDBOX-canary", "--login", "a"], "ott-gateway login < token.txt"),
        (vec!["issue", "--token", "eyJ.canary", "--login", "a"], "use --bearer-token-file FILE"),
        (
            vec!["issue", "--login", "a", "--private-key-file", "-----BEGIN PRIVATE KEY-----\ncanary\n"],
            "an argument contains PEM",
        ),
        (vec!["login", "-t", "SANDBOX-canary"], "pipe it to standard input"),
        (vec!["check-config", "gateway.toml"], "use ott-gateway check-config --config gateway.toml"),
        (vec!["sandbox", "--port", "1"], "--listen 127.0.0.1:PORT"),
        (vec!["healthcheck", "127.0.0.1:1"], "use ott-gateway healthcheck --endpoint http://127.0.0.1:1"),
    ] {
        if !cfg!(feature = "sandbox") && arguments[0] == "sandbox" {
            continue;
        }
        let done = run(&arguments);
        let error = String::from_utf8(done.stderr).expect("text");
        assert_eq!(done.status.code(), Some(2), "{error}");
        assert!(error.contains(expected), "{arguments:?}: {error}");
        assert!(!error.contains("canary"), "{error}");
        assert!(!error.contains("-- -"), "the parser's tip about values: {error}");
    }
    let by_variable = Command::new(env!("CARGO_BIN_EXE_ott-gateway"))
        .args(["issue", "--login", "a"])
        .env("OTT_GATEWAY_ENDPOINT", "gateway.example:1")
        .output()
        .expect("the binary runs");
    let error = String::from_utf8(by_variable.stderr).expect("text");
    assert!(
        error.starts_with("error: OTT_GATEWAY_ENDPOINT has no scheme; write http://gateway.example:1"),
        "{error}"
    );
}

/// For each listener, and for a sandbox whose own listener is set by an option.
#[test]
fn the_error_for_a_port_in_use_names_the_key_of_its_listener() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let setup = |part: &str, by: &str| {
        Setup::for_platform("127.0.0.1:1".parse().expect("an address"))
            .replacing(part, &by.replace("ADDRESS", &address))
    };
    let health = || setup("[admin]", "health_listen = \"ADDRESS\"\n[admin]");
    let admin = || setup("[admin]\n", "[admin]\nlisten = \"ADDRESS\" # ");
    for (setup, key) in [(health(), "[server] health_listen"), (admin(), "[admin] listen")] {
        let done = setup.refused();
        let error = String::from_utf8(done.stderr).expect("text");
        let expected =
            format!("is in use ({address}): stop the other program, or choose another address with {key}\n");
        assert!(error.ends_with(&expected), "{error}");
    }
    if !cfg!(feature = "sandbox") {
        return;
    }
    let setup = health();
    setup.write_config();
    let config = setup.folder().join("config.toml");
    let (code, error) = refused(&[
        "sandbox",
        "--listen",
        "127.0.0.1:0",
        "--platform-listen",
        "127.0.0.1:0",
        "--config",
        config.to_str().expect("a path"),
    ]);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("choose another address with [server] health_listen"), "{error}");
    assert!(!error.contains("another sandbox"), "{error}");
}

#[cfg(feature = "sandbox")]
#[test]
fn unusable_values_of_a_sandbox_are_refused_before_it_starts() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
    write(folder.path(), "accounts.json", "{\"tenants\": [{\"id\": 1, \"nme\": \"T\"}]}");
    write(folder.path(), "text.json", "tenants");
    for (arguments, expected) in [
        (["--ready-file", &at("none/ready.json")], "FOLDER/none/ready.json: there is no folder FOLDER/none"),
        (["--ready-file", "nodir-of-slips/x"], "there is no folder /"),
        (["--fault", "503"], "--fault: N is missing; write KIND/N, as in `503/10`"),
        (["--fault", "error/2"], "KIND is an HTTP status (503), a status with an API code"),
        (["--fault", "400-9999/2"], "no such fault"),
        (["--accounts", "nope.json"], "/nope.json: no such file"),
        (["--accounts", &at("none/nope.json")], "(there is no folder FOLDER/none): no such file"),
        (["--accounts", &at("text.json")], "--accounts: FOLDER/text.json:1: not valid JSON"),
        (["--accounts", &at("accounts.json")], "accounts.json:1: tenants[1].id: must be text"),
        (["--accounts", &at("accounts.json")], "tenants[1].nme: is not known; did you mean `name`?"),
    ] {
        let ports = ["sandbox", "--once", "--listen", "127.0.0.1:0", "--platform-listen", "127.0.0.1:0"];
        let done = run(&[&ports[..], &arguments[..]].concat());
        let error = String::from_utf8(done.stderr).expect("text");
        assert_eq!(done.status.code(), Some(2), "{arguments:?}: {error}");
        let expected = expected.replace("FOLDER", folder.path().to_str().expect("a path"));
        assert!(error.contains(&expected), "{arguments:?}: {error}");
        assert!(done.stdout.is_empty(), "{arguments:?}: nothing was started");
    }
}
