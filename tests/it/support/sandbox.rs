//! `ott-gateway sandbox` as a process, on ports that the system chooses.

use std::{
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use ott_gateway::{base::clock, proto::ott::v1::ott_service_client::OttServiceClient};
use serde_json::Value;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use super::gateway::{Output, PATIENCE};

/// A running sandbox. Dropping it ends the process.
pub(crate) struct Sandbox {
    child: Child,
    folder: TempDir,
    /// What the ready file contained.
    pub(crate) ready: Value,
    /// Its standard error.
    pub(crate) stderr: Output,
    /// Its standard output.
    pub(crate) stdout: Output,
}

impl Sandbox {
    /// Starts a sandbox on loopback with these arguments, and waits until everything serves.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::in_folder(tempfile::tempdir().expect("a folder of the test's own"), arguments)
    }

    /// The same with `--config` and this file.
    pub(crate) fn with_config(config: &str, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder of the test's own");
        let path = folder.path().join("gateway.toml");
        std::fs::write(&path, config.replace("FOLDER", &folder.path().display().to_string()))
            .expect("a file");
        let path = path.display().to_string();
        Self::in_folder(folder, &[&["--config", &path], arguments].concat())
    }

    fn in_folder(folder: TempDir, arguments: &[&str]) -> Self {
        let ready_file = folder.path().join("ready.json");
        let mut command = Command::new(env!("CARGO_BIN_EXE_ott-gateway"));
        command.args(["sandbox", "--ready-file"]).arg(&ready_file);
        for flag in ["--listen", "--platform-listen"] {
            if !arguments.contains(&flag) {
                command.args([flag, "127.0.0.1:0"]);
            }
        }
        let mut child = command
            .args(arguments)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the sandbox starts");
        let (stdout, stderr) = (Output::default(), Output::default());
        stdout.follow(child.stdout.take().expect("it is piped"));
        stderr.follow(child.stderr.take().expect("it is piped"));
        let until = clock::now() + PATIENCE;
        let ready = loop {
            // It appears whole.
            if let Ok(text) = std::fs::read_to_string(&ready_file) {
                break serde_json::from_str(&text).expect("JSON");
            }
            let ended = child.try_wait().expect("its state can be asked for");
            assert!(ended.is_none(), "it ended: {ended:?}\n{}", stderr.text());
            assert!(clock::now() < until, "it does not serve\n{}", stderr.text());
            std::thread::sleep(Duration::from_millis(5));
        };
        Self { child, folder, ready, stderr, stdout }
    }

    /// A client of the gateway.
    pub(crate) async fn client(&self) -> OttServiceClient<Channel> {
        let gateway = self.ready["gateway"].as_str().expect("an address");
        let endpoint = Endpoint::from_shared(format!("http://{gateway}")).expect("an endpoint");
        OttServiceClient::new(endpoint.connect().await.expect("the gateway accepts a connection"))
    }

    /// Status and body of the simulated platform's answer to a request without a body.
    pub(crate) fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let address: SocketAddr =
            self.ready["platform"].as_str().expect("a URL")["http://".len()..].parse().expect("an address");
        let mut stream = TcpStream::connect(address).expect("it accepts");
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: 0\r\n"
        );
        for (name, value) in headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let status = answer[9..12].parse().expect("a status");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
        (status, body.to_owned())
    }

    /// The journal.
    pub(crate) fn requests(&self) -> Vec<Value> {
        let (status, body) = self.request("GET", "/sandbox/requests", &[]);
        assert_eq!(status, 200, "{body}");
        let journal: Value = serde_json::from_str(&body).expect("JSON");
        journal["requests"].as_array().expect("a list").clone()
    }

    /// Resets it.
    pub(crate) fn reset(&self) {
        let (status, body) = self.request("POST", "/sandbox/reset", &[("content-type", "application/json")]);
        assert_eq!(status, 204, "{body}");
    }

    /// A file in the test's own folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Interrupts it, as Ctrl-C does, and waits for its end.
    pub(crate) fn interrupt(&mut self) -> ExitStatus {
        let killed = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        assert!(killed.expect("kill runs").success());
        self.child.wait().expect("it ends")
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
