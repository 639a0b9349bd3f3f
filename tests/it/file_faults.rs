//! Temporarily unreadable files: the real binary reports them, and loads the next usable version by
//! itself.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use ott_gateway::proto::ott::v1::ott_service_client::OttServiceClient;
use serde_json::json;
use tonic::transport::Channel;

use crate::support::{
    admin::Admin,
    authority::{Authority, Identity},
    calling::{issue, issued, result_of, until},
    gateway::{Gateway, Setup},
    issuer::Issuer,
    upstream::{self, Upstream},
};

/// What replaces a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The file is missing.
    Missing,
    /// A FIFO without a writer.
    Fifo,
    /// A link to an endless device.
    Device,
    /// A file of 1 GiB.
    Huge,
    /// A directory.
    Directory,
    /// A file that the operating system refuses to open, even for root.
    Refused,
    /// A file whose `open` never returns.
    Hanging,
}

impl Fault {
    /// Replaces a file with the fault.
    fn put(self, path: &Path) {
        if self == Self::Hanging {
            fs::write(hangs(path), "").unwrap();
            return;
        }
        fs::remove_file(path).unwrap();
        match self {
            Self::Missing => {}
            Self::Fifo => assert!(Command::new("mkfifo").arg(path).status().unwrap().success()),
            Self::Device => symlink("/dev/zero", path).unwrap(),
            Self::Huge => fs::File::create(path).unwrap().set_len(1 << 30).unwrap(),
            Self::Directory => fs::create_dir(path).unwrap(),
            Self::Refused => symlink(path, path).unwrap(),
            Self::Hanging => unreachable!("handled above"),
        }
    }

    /// Replaces the fault with a file.
    fn replace(self, path: &Path, content: &str) {
        match self {
            Self::Hanging => fs::remove_file(hangs(path)).unwrap(),
            Self::Directory => fs::remove_dir(path).unwrap(),
            _ => {}
        }
        put(path, content);
    }
}

fn hangs(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}.hangs", path.display()))
}

/// Replaces a file atomically.
fn put(path: &Path, content: &str) {
    let new = path.with_extension("new");
    fs::write(&new, content).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(new, path).unwrap();
}

/// One version of all files. Credentials of one version are invalid in the others.
struct Version {
    number: usize,
    pair: Identity,
    clients: Authority,
    client: Identity,
    issuer: Issuer,
}

impl Version {
    fn new(number: usize, server: &Authority) -> Self {
        let clients = Authority::new("clients");
        Self {
            number,
            pair: server.issue(&["localhost"]),
            client: clients.issue(&["spiffe://mesh/client"]),
            clients,
            issuer: Issuer::new(["k0", "k1", "k2"][number]),
        }
    }

    /// A login that only this version allows.
    fn login(&self) -> String {
        format!("someone@v{}.example", self.number)
    }

    fn config(&self, first: &str) -> String {
        first.replace("@v0.example", &format!("@v{}.example", self.number))
    }

    fn secret(&self) -> String {
        format!("secret-{}", self.number)
    }
}

/// A gateway whose files change from version to version.
struct Running {
    platform: Upstream,
    server: Authority,
    gateway: Gateway,
    admin: Admin,
    first_config: String,
}

const FILES: [&str; 6] = ["config.toml", "client-secret", "jwks.json", "tls.crt", "tls.key", "ca.crt"];

impl Running {
    async fn start(fault: Fault, version: &Version, server: Authority) -> Self {
        let platform = Upstream::http().await;
        let setup = Setup::for_platform(platform.address())
            .replacing(
                "[admin]",
                "[server.tls]
                certificate_file = \"FOLDER/tls.crt\"
                private_key_file = \"FOLDER/tls.key\"
                client_ca_file = \"FOLDER/ca.crt\"
                client_auth = \"optional\"
                [callers.jwt]
                issuer = \"https://issuer.example\"
                audience = \"ott-gateway\"
                jwks_file = \"FOLDER/jwks.json\"
                [admin]",
            )
            .replacing(r#"callers = ["anonymous"]"#, r#"callers = ["anonymous", "*"]"#)
            .replacing(r#"users = "all""#, r#"logins = ["*@v0.example", "someone@example.com"]"#);
        for (name, content) in [
            ("client-secret", version.secret()),
            ("jwks.json", version.issuer.jwks()),
            ("tls.crt", version.pair.certificate.clone()),
            ("tls.key", version.pair.private_key.clone()),
            ("ca.crt", version.clients.certificate()),
        ] {
            setup.file(name, &content);
        }
        let setup = if fault == Fault::Hanging { preloaded(setup) } else { setup };
        let gateway = setup.start();
        let first_config = fs::read_to_string(gateway.folder().join("config.toml")).unwrap();
        let admin = Admin(gateway.admin());
        Self { platform, server, gateway, admin, first_config }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.gateway.folder().join(name)
    }

    async fn channel(&self, client: Option<&Identity>) -> Option<Channel> {
        self.server.channel(self.gateway.address(), client).await.ok()
    }

    /// Result of a call for the login of `version`, without a client certificate.
    async fn allowed(&self, version: &Version) -> String {
        let Some(channel) = self.channel(None).await else { return "no connection".to_owned() };
        result_of(&OttServiceClient::new(channel).issue_ott(issue(&version.login())).await)
    }

    /// Result of a call with a JWT of `version`.
    async fn jwt(&self, version: &Version) -> String {
        let Some(channel) = self.channel(None).await else { return "no connection".to_owned() };
        issued(&channel, &[("authorization", &version.issuer.bearer(json!({})))]).await
    }

    /// Whether a client with the certificate of `version` is served.
    async fn serves(&self, version: &Version) -> bool {
        let Some(channel) = self.channel(Some(&version.client)).await else { return false };
        issued(&channel, &[]).await == "OK"
    }

    async fn shows(&self, version: &Version) -> bool {
        self.server.shown(self.gateway.address(), None).await == version.pair.der()
    }

    /// Whether a token was requested with the secret of `version`.
    fn uses_secret(&self, version: &Version) -> bool {
        let basic = format!("Basic {}", STANDARD.encode(format!("test-client:{}", version.secret())));
        let requests = self.platform.requests_to(upstream::TOKEN);
        requests.iter().any(|request| request.header("authorization") == Some(&basic))
    }

    fn failing(&self, what: &str) -> bool {
        let name = format!("ott_gateway_reload_failing{{what=\"{what}\"}}");
        self.admin.scrape().find(&name) == Some(1.0)
    }
}

/// Preloads a library that can make `open` hang.
fn preloaded(setup: Setup) -> Setup {
    let library = fs::canonicalize(setup.folder()).unwrap().join("hang.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/hang.c");
    let compiled =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).output().unwrap();
    assert!(compiled.status.success(), "{compiled:?}");
    setup.environment("LD_PRELOAD", &library.display().to_string())
}

/// Replaces every file with the fault, then with its next version.
async fn recovers_from(fault: Fault) {
    let server = Authority::new("server");
    let versions = [0, 1, 2].map(|number| Version::new(number, &server));
    let [first, second, third] = &versions;
    let running = Running::start(fault, first, server).await;
    assert_eq!(running.allowed(first).await, "OK");
    assert!(running.serves(first).await && running.jwt(first).await == "OK" && running.shows(first).await);
    let contents = |version: &Version| {
        [
            version.config(&running.first_config),
            version.secret(),
            version.issuer.jwks(),
            version.pair.certificate.clone(),
            version.pair.private_key.clone(),
            version.clients.certificate(),
        ]
    };

    // All files except the key.
    let broken = FILES.iter().filter(|name| **name != "tls.key");
    broken.for_each(|name| fault.put(&running.path(name)));
    for what in ["rules", "client_secret", "jwks", "certificate", "client_ca"] {
        until(&format!("{fault:?} is reported for {what}"), async || running.failing(what)).await;
    }
    assert_eq!(running.allowed(first).await, "OK", "the last version stays in use");
    assert!(running.serves(first).await && running.jwt(first).await == "OK" && running.shows(first).await);
    for (name, content) in FILES.iter().zip(contents(second)) {
        match *name {
            "tls.key" => put(&running.path(name), &content),
            _ => fault.replace(&running.path(name), &content),
        }
    }
    until(&format!("the second version is in use after {fault:?}"), async || {
        running.allowed(second).await == "OK"
            && running.serves(second).await
            && running.jwt(second).await == "OK"
            && running.shows(second).await
            && running.uses_secret(second)
    })
    .await;
    assert_eq!(running.allowed(first).await, "PermissionDenied CALLER_NOT_ALLOWED");
    assert_eq!(running.jwt(first).await, "Unauthenticated CALLER_UNAUTHENTICATED");
    assert!(!running.serves(first).await, "the first authority is withdrawn");
    for what in ["rules", "client_secret", "jwks", "certificate", "client_ca"] {
        assert!(!running.failing(what), "{what}");
    }

    // Only the key: the authorities are still reloaded.
    fault.put(&running.path("tls.key"));
    until(&format!("{fault:?} is reported for the key"), async || running.failing("certificate")).await;
    put(&running.path("ca.crt"), &third.clients.certificate());
    until("the authority is withdrawn", async || !running.serves(second).await).await;
    assert!(running.serves(third).await && running.failing("certificate"));
    put(&running.path("tls.crt"), &third.pair.certificate);
    fault.replace(&running.path("tls.key"), &third.pair.private_key);
    until("the pair is in use", async || running.shows(third).await).await;
    assert!(!running.failing("certificate"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_reloaded_after_they_were_missing() {
    recovers_from(Fault::Missing).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_reloaded_after_a_fifo() {
    recovers_from(Fault::Fifo).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_reloaded_after_a_link_to_an_endless_device() {
    recovers_from(Fault::Device).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_reloaded_after_a_huge_one() {
    recovers_from(Fault::Huge).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_reloaded_after_a_directory() {
    recovers_from(Fault::Directory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_reloaded_after_one_that_cannot_be_opened() {
    recovers_from(Fault::Refused).await;
}

#[cfg(target_env = "gnu")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_reloaded_after_one_that_hangs() {
    recovers_from(Fault::Hanging).await;
}

/// Checks that `check-config` reports this fault of each file with the text that a reload logs.
async fn is_reported_alike(fault: Fault) {
    let server = Authority::new("server");
    let version = Version::new(0, &server);
    let running = Running::start(fault, &version, server).await;
    let files = [
        ("certificate_file", "tls.crt", "certificate"),
        ("client_ca_file", "ca.crt", "client_ca"),
        ("client_secret_file", "client-secret", "client_secret"),
        ("jwks_file", "jwks.json", "jwks"),
    ];
    for (_, name, _) in files {
        fault.put(&running.path(name));
    }
    for (_, _, what) in files {
        until(&format!("{fault:?} is reported for {what}"), async || running.failing(what)).await;
    }
    let check = |config: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ott-gateway"));
        command.args(["check-config", "--config"]).arg(config).env_remove("RUST_LOG");
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{fault:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let config = running.path("config.toml");
    let checked = check(&config);
    let log = || running.gateway.stderr().text();
    for (key, name, _) in files {
        let sentence = checked.lines().find_map(|line| line.split_once(&format!(".{key}: ")));
        let (_, sentence) = sentence.unwrap_or_else(|| panic!("{fault:?} of {key}: {checked}"));
        // The log has the path in a field of its own.
        let path = format!("{}: ", running.path(name).display());
        let sentence = sentence.strip_prefix(&path).unwrap_or(sentence);
        let logged = log();
        let found = logged.lines().any(|line| line.contains(name) && line.contains(sentence));
        assert!(found, "{fault:?} of {key}: {sentence}\n{logged}");
    }

    fault.put(&config);
    until(&format!("{fault:?} is reported for the rules"), async || running.failing("rules")).await;
    let checked = check(&config);
    let (_, sentence) = checked.trim().split_once("config.toml: ").unwrap();
    assert!(log().contains(&format!("config.toml: {sentence}")), "{fault:?}: {sentence}\n{}", log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_config_and_reloads_report_unreadable_files_alike() {
    let faults = [Fault::Missing, Fault::Fifo, Fault::Device, Fault::Huge, Fault::Directory, Fault::Refused];
    futures_util::future::join_all(faults.map(is_reported_alike)).await;
}

/// `check-config` and the start fail after 5 seconds and name the file.
#[cfg(target_env = "gnu")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_that_hangs_fails_check_config_and_the_start() {
    for name in ["config.toml", "client-secret"] {
        let setup = preloaded(Setup::for_platform(([127, 0, 0, 1], 9).into()));
        setup.write_config();
        fs::write(hangs(&setup.folder().join(name)), "").unwrap();
        for command in ["check-config", "serve"] {
            let output = setup.run(&[command]);
            assert!(!output.status.success(), "{command} {name}");
            let printed = [output.stdout, output.stderr].concat();
            let printed = String::from_utf8_lossy(&printed);
            let key = if name == "config.toml" { name } else { "client_secret_file" };
            assert!(printed.contains(key) && printed.contains("5 seconds"), "{command} {name}: {printed}");
        }
    }
}

/// `check-config` and the start refuse these files for the same reason.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_config_and_the_start_agree_on_key_files() {
    let with = |name: &str, content: &str| {
        let setup = Setup::for_platform(([127, 0, 0, 1], 9).into())
            .replacing("[audit]", "[audit]\nhmac_key_file = \"FOLDER/hmac\"\nhmac_key_id = \"k\"")
            .replacing(
                "[admin]",
                "[callers.jwt]\nissuer = \"https://issuer.example\"\naudience = \"a\"\n\
                 jwks_file = \"FOLDER/jwks.json\"\n[admin]",
            );
        setup.file("jwks.json", &Issuer::new("k").jwks());
        setup.file("hmac", &"k".repeat(32));
        setup.file(name, content);
        setup.write_config();
        setup
    };
    let symmetric = json!({"keys": [{"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}]}).to_string();
    for (name, content, expected) in [
        ("jwks.json", "{}", "not a JSON Web Key Set"),
        ("jwks.json", "{\"keys\": []}", "none of its keys"),
        ("jwks.json", &symmetric, "none of its keys"),
        ("jwks.json", &" ".repeat(300_000), "larger than 256 KiB"),
        ("hmac", &"k".repeat(31), "too short"),
        ("hmac", &" ".repeat(40), "blank"),
    ] {
        let setup = with(name, content);
        for output in [setup.run(&["check-config"]), setup.run(&["serve"])] {
            let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert!(!output.status.success() && printed.contains(expected), "{name}: {printed}");
        }
    }
    // An unused member with a number that not every JSON parser accepts.
    let unusual = Issuer::new("k").jwks().replacen('{', "{\"version\": 1e999, ", 1);
    let output = with("jwks.json", &unusual).run(&["check-config"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
