//! The real binary, started with its own configuration and ports.
//!
//! Its output is kept, so that tests can check what must (or must not) be there. Dropping it kills
//! the process.

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Read, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use ott_gateway::{base::clock, proto::ott::v1::ott_service_client::OttServiceClient};
use serde_json::Value;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

/// Maximum time that a test waits for an event. Only a failing test waits this long, so it is far
/// longer than a busy machine needs.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// A running gateway.
pub(crate) struct Gateway {
    child: Child,
    folder: TempDir,
    stderr: Output,
    stdout: Output,
    address: SocketAddr,
}

/// Lines that a process has printed so far.
#[derive(Clone, Default)]
pub(crate) struct Output(Arc<(Mutex<Vec<String>>, Condvar)>);

impl Output {
    /// Keeps the lines of a stream. The thread ends with the stream.
    pub(crate) fn follow(&self, stream: impl Read + Send + 'static) -> JoinHandle<()> {
        let output = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                output.0.0.lock().expect("not poisoned").push(line);
                output.0.1.notify_all();
            }
        })
    }

    /// Everything printed so far.
    pub(crate) fn text(&self) -> String {
        self.0.0.lock().expect("not poisoned").join("\n")
    }

    /// Applies `find` to the lines so far, and returns its first result.
    fn find<T>(&self, find: impl FnMut(&str) -> Option<T>) -> Option<T> {
        self.0.0.lock().expect("not poisoned").iter().map(String::as_str).find_map(find)
    }

    /// Waits for a line for which `find` returns a result.
    pub(crate) fn wait_for<T>(&self, what: &str, mut find: impl FnMut(&str) -> Option<T>) -> T {
        let until = clock::now() + PATIENCE;
        let mut lines = self.0.0.lock().expect("not poisoned");
        let mut seen = 0;
        loop {
            while seen < lines.len() {
                if let Some(found) = find(&lines[seen]) {
                    return found;
                }
                seen += 1;
            }
            let left = until.saturating_duration_since(clock::now());
            assert!(!left.is_zero(), "never printed: {what}\n{}", lines.join("\n"));
            lines = self.0.1.wait_timeout(lines, left).expect("not poisoned").0;
        }
    }
}

/// A gateway that is about to be started.
pub(crate) struct Setup {
    folder: TempDir,
    config: String,
    environment: Vec<(String, String)>,
    launcher: Vec<String>,
    stdout: Option<Stdio>,
}

impl Setup {
    /// A gateway with one API client `test` of the data center at `platform`, open to anonymous
    /// callers, with its audit log in `audit.jsonl`.
    pub(crate) fn for_platform(platform: SocketAddr) -> Self {
        Self::for_platforms(&[("test", platform)])
    }

    /// The same with several API clients. Without a default, unless there is only one.
    pub(crate) fn for_platforms(platforms: &[(&str, SocketAddr)]) -> Self {
        let setup = Self::new();
        setup.file("client-secret", "canary-client-secret\n");
        let mut config = r#"
            [server]
            listen = "127.0.0.1:0"
            drain_lame_duck = "100ms"
            [admin]
            listen = "127.0.0.1:0"
            [[access.rules]]
            callers = ["anonymous"]
            rate = "unlimited"
            user_rate = "unlimited"
            users = "all"
            [audit]
            sink = "FOLDER/audit.jsonl"
            [telemetry]
            log_format = "json"
            "#
        .to_owned();
        for (name, address) in platforms {
            let _ = write!(
                config,
                r#"
            [api_clients.{name}]
            data_center_url = "http://{address}"
            client_id = "test-client"
            client_secret_file = "FOLDER/client-secret"
            "#
            );
        }
        setup.config(&config)
    }

    /// A gateway without configuration.
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            config: String::new(),
            environment: Vec::new(),
            launcher: Vec::new(),
            stdout: None,
        }
    }

    /// Sets the whole configuration. `FOLDER` is replaced by the test's folder.
    #[must_use]
    pub(crate) fn config(mut self, text: &str) -> Self {
        text.clone_into(&mut self.config);
        self
    }

    /// Replaces a part of the configuration. Panics if it is missing.
    #[must_use]
    pub(crate) fn replacing(mut self, part: &str, by: &str) -> Self {
        assert!(self.config.contains(part), "the configuration has no `{part}`");
        self.config = self.config.replace(part, by);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the gateway through a launcher, which must `exec` the program and arguments that
    /// follow its own.
    #[must_use]
    pub(crate) fn launched_by(mut self, launcher: &[&str]) -> Self {
        self.launcher = launcher.iter().map(|&part| part.to_owned()).collect();
        self
    }

    /// Replaces `/etc/resolv.conf` for the gateway, in a separate mount namespace.
    #[must_use]
    pub(crate) fn resolv_conf(mut self, content: &str) -> Self {
        let resolv_conf = self.file("resolv.conf", content).display().to_string();
        let script = r#"mount --bind "$0" /etc/resolv.conf && exec "$@""#;
        self.launcher = ["unshare", "-rm", "sh", "-c", script, &resolv_conf].map(str::to_owned).into();
        self
    }

    /// The test's folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file to the test's folder.
    pub(crate) fn file(&self, name: &str, content: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).expect("a file of the test's own");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its permissions");
        path
    }

    /// Runs `serve` with a configuration that must be refused, until it exits.
    pub(crate) fn refused(self) -> std::process::Output {
        self.write_config();
        self.run(&["serve"])
    }

    /// Runs another command with the configuration.
    pub(crate) fn run(&self, arguments: &[&str]) -> std::process::Output {
        self.command(arguments).output().expect("the program starts")
    }

    /// Writes the configuration, for [`run`](Self::run).
    pub(crate) fn write_config(&self) {
        let config = self.config.replace("FOLDER", &self.folder.path().display().to_string());
        self.file("config.toml", &config);
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut words = self.launcher.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_ott-gateway")]);
        let mut command = Command::new(words.next().expect("a program"));
        command
            .args(words)
            .args(arguments)
            .arg("--config")
            .arg(self.folder.path().join("config.toml"))
            .env_remove("RUST_LOG")
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null());
        command
    }

    /// Sets the gateway's standard output, which is then not kept.
    #[must_use]
    pub(crate) fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.stdout = Some(stdout.into());
        self
    }

    /// Starts the gateway and waits until it listens.
    pub(crate) fn start(self) -> Gateway {
        self.try_start().unwrap_or_else(|(status, log)| panic!("the gateway does not start: {status}\n{log}"))
    }

    /// Starts the gateway. Returns it once it listens, or its exit status and log.
    pub(crate) fn try_start(mut self) -> Result<Gateway, (ExitStatus, String)> {
        self.write_config();
        let mut child = self
            .command(&["serve"])
            .stdout(self.stdout.take().unwrap_or_else(Stdio::piped))
            .stderr(Stdio::piped())
            .spawn()
            .expect("the gateway starts");
        let (stdout, stderr) = (Output::default(), Output::default());
        if let Some(stream) = child.stdout.take() {
            stdout.follow(stream);
        }
        let following = stderr.follow(child.stderr.take().expect("a pipe"));
        let until = clock::now() + PATIENCE;
        let address = loop {
            let ended = child.try_wait().expect("the state of the child");
            if let Some(address) = stderr.find(|line| logged_address(line, "server.address")) {
                break address;
            }
            if let Some(status) = ended {
                following.join().expect("no panic");
                return Err((status, stderr.text()));
            }
            assert!(clock::now() < until, "the gateway neither listens nor exits\n{}", stderr.text());
            std::thread::sleep(Duration::from_millis(5));
        };
        Ok(Gateway { child, folder: self.folder, stderr, stdout, address })
    }
}

/// Address in a field of a log line, as JSON or text.
fn logged_address(line: &str, field: &str) -> Option<SocketAddr> {
    if let Ok(line) = serde_json::from_str::<Value>(line) {
        return line.get("fields").unwrap_or(&line).get(field)?.as_str()?.parse().ok();
    }
    let (_, value) = line.split_once(&format!("{field}="))?;
    value.split_whitespace().next()?.parse().ok()
}

impl Gateway {
    /// Address of the gRPC port.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Address of the admin listener.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.stderr.wait_for("the admin listener's address", |line| logged_address(line, "admin.address"))
    }

    /// Address of the plaintext health port.
    pub(crate) fn health_address(&self) -> SocketAddr {
        self.stderr.wait_for("the health port's address", |line| logged_address(line, "health.address"))
    }

    /// A client on a new connection without TLS.
    pub(crate) async fn client(&self) -> OttServiceClient<Channel> {
        OttServiceClient::new(self.channel().await)
    }

    /// A new connection without TLS.
    pub(crate) async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address))
            .expect("an address is an endpoint")
            .connect()
            .await
            .expect("the gateway accepts a connection")
    }

    /// Response of the admin listener to a GET.
    pub(crate) async fn admin_get(&self, path: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.admin()).await.expect("it accepts");
        let request = format!("GET {path} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        answer
    }

    /// Waits until this number of calls is in flight.
    pub(crate) async fn in_flight(&self, calls: usize) {
        let sample = format!("ott_gateway_calls_in_flight {calls}");
        let waited = tokio::time::timeout(PATIENCE, async {
            while !self.admin_get("/metrics").await.lines().any(|line| line == sample) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        waited.await.expect("the number of calls in flight");
    }

    /// The log so far.
    pub(crate) fn stderr(&self) -> &Output {
        &self.stderr
    }

    /// The standard output so far.
    pub(crate) fn stdout(&self) -> &Output {
        &self.stdout
    }

    /// The test's folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Audit records of all completed calls, ordered by time. Waits until no record is pending.
    pub(crate) fn audit(&self) -> Vec<Value> {
        self.audit_lines("call")
    }

    /// Audit events of undelivered sessions so far.
    pub(crate) fn undelivered_sessions(&self) -> Vec<Value> {
        self.audit_lines("undelivered_session")
    }

    /// Audit lines of `event` so far.
    pub(crate) fn audit_lines(&self, event: &str) -> Vec<Value> {
        let until = clock::now() + PATIENCE;
        while self.has_pending_records() {
            assert!(clock::now() < until, "audit records are not written");
            std::thread::sleep(Duration::from_millis(5));
        }
        let text = std::fs::read_to_string(self.folder().join("audit.jsonl")).unwrap_or_default();
        let lines = text.lines().map(|line| serde_json::from_str(line).expect("a record is JSON"));
        let mut lines: Vec<Value> = lines.filter(|line: &Value| line["event"] == event).collect();
        lines.sort_by(|one, other| one["time"].as_str().cmp(&other["time"].as_str()));
        lines
    }

    /// Whether audit records are pending. A stopped gateway has none.
    fn has_pending_records(&self) -> bool {
        let Ok(mut stream) = std::net::TcpStream::connect(self.admin()) else { return false };
        let request = "GET /metrics HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n";
        let mut answer = String::new();
        if stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut answer)).is_err() {
            return false;
        }
        let mut samples =
            answer.lines().filter(|line| line.starts_with("ott_gateway_audit_records_pending{"));
        samples.any(|line| !line.ends_with(" 0"))
    }

    /// The id of the process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name, for example `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }

    /// Whether the process is running.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the state of the child").is_none()
    }

    /// Waits until the process exits.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let ended = async {
            let mut tick = tokio::time::interval(Duration::from_millis(20));
            loop {
                if let Some(status) = self.child.try_wait().expect("the state of the child") {
                    return status;
                }
                tick.tick().await;
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("the gateway exits in time")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
