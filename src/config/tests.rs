mod strictness;

use std::{fs, net::SocketAddr, time::Duration};

use tempfile::TempDir;

use super::*;

const TOKEN: &str = "sha256:0123456789abcdef0123456789abcdef0123456789ABCDEF0123456789abcdef";
const OTHER_TOKEN: &str = "sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";
const CANARY: &str = "canary-5f0c";

/// A folder with one configuration and the files that it names.
struct Folder {
    folder: TempDir,
    environment: BTreeMap<String, String>,
}

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| fs::write(folder.path().join(name), content).unwrap();
        file("secret", b"the-secret\n");
        file("empty", b"\n");
        file("short", b"only a few bytes");
        file("hmac", &[7; 32]);
        file("jwks.json", br#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#);
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        file("tls.crt", certified.cert.pem().as_bytes());
        file("tls.key", certified.signing_key.serialize_pem().as_bytes());
        Self { folder, environment: BTreeMap::new() }
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    fn load(&self, text: &str) -> Result<Config, Faults> {
        let path = self.folder.path().join("gateway.toml");
        fs::write(&path, text).unwrap();
        Config::load(Some(&path), &self.environment)
    }

    /// The faults as lines, without the folder's random name.
    fn faults(&self, text: &str) -> Vec<String> {
        let faults = self.load(text).expect_err("the configuration is broken");
        let folder = self.folder.path().display().to_string();
        let without = |fault: String| fault.replace(&format!("{folder}/"), "").replace(&folder, "FOLDER");
        faults.iter().map(|fault| without(fault.to_string())).collect()
    }
}

const CLIENT: &str = "[api_clients.eu2]
data_center_url = \"https://eu2-cloud.acronis.com\"
client_id = \"id\"
client_secret_file = \"secret\"
";
const RULE: &str = "[[access.rules]]
callers = [\"anonymous\"]
users = \"all\"
";

/// A working configuration, with one part more; it starts at line 8.
fn working_and(part: &str) -> String {
    format!("{CLIENT}{RULE}{part}")
}

#[test]
fn least_configuration_has_the_documented_defaults() {
    let config = Folder::new().load(&working_and("")).unwrap();
    assert_eq!(config.server, Server::default());
    assert_eq!(config.admin.listen, Some("127.0.0.1:9464".parse().unwrap()));
    assert_eq!(config.api_clients.default.as_deref(), Some("eu2"));
    assert!(config.api_clients.by_name["eu2"].breaker);
    assert_eq!(
        config.audit,
        Audit { sink: AuditSink::Stdout, hmac_key_file: None, hmac_key_id: None, fsync: false }
    );
    assert_eq!(config.telemetry, Telemetry::default());
    assert_eq!(config.access.rules, [Rule::new(vec!["anonymous".to_owned()], Users::All)]);
}

/// A configuration with every key.
fn with_every_key() -> String {
    format!(
        r#"
[server]
listen = "0.0.0.0:50051"
health_listen = "0.0.0.0:50052"
max_deadline = "5s"
worker_threads = 2
max_in_flight = 10
max_connections = 11
max_connection_age = "1m"
reflection = true
drain_lame_duck = "0s"
drain_timeout = "20s"
[server.tls]
certificate_file = "tls.crt"
private_key_file = "tls.key"
client_ca_file = "tls.crt"
client_auth = "optional"
[admin]
listen = "off"
[api_clients.eu2]
data_center_url = "https://eu2-cloud.acronis.com/"
client_id = "id"
client_secret_file = "secret"
default = true
target_origins = ["https://portal.example"]
ca_file = "tls.crt"
proxy_url = "http://user:{CANARY}@proxy.example:3128"
propagate_trace = true
max_idle_connections = 7
min_login_time = "1s"
[api_clients.local]
data_center_url = "http://127.0.0.1:8080"
client_id = "id"
client_secret_env = "LOCAL_SECRET"
[api_clients.unit]
data_center_url = "http://localhost:8080"
client_id = "id"
client_secret_credential = "secret"
[callers.jwt]
issuer = "https://issuer.example"
audience = "ott-gateway"
typ = "at+jwt"
max_lifetime = "1h"
jwks_url = "https://issuer.example/jwks"
jwks_max_age = "12h"
[callers.tokens]
billing = ["{TOKEN}", "{OTHER_TOKEN}"]
[callers.forwarded]
header = "l5d-client-id"
from = ["loopback", "spiffe://mesh/ns/proxy", "10.1.2.3"]
[access]
quota_dry_run = true
max_quota_users = 5000
[[access.rules]]
callers = ["spiffe://mesh/*", "token:billing", "anonymous", "*", "j*"]
methods = ["IssueOtt", "LoginWithOtt"]
api_clients = ["eu2", "lo*"]
rate = "5/s"
burst = 6
user_rate = "unlimited"
user_burst = 7
max_in_flight = 8
logins = ["*@example.com"]
external_ids = ["x*"]
user_ids = ["1"]
[audit]
sink = "./audit.jsonl"
hmac_key_file = "hmac"
fsync = true
[telemetry]
log_format = "text"
log_level = "info,ott_gateway::credential=debug"
otlp_endpoint = "http://collector:4317"
trace_ratio = 0.25
"#
    )
}

/// A folder with what [`with_every_key`] needs.
fn folder_for_every_key() -> Folder {
    let folder = Folder::new().with("LOCAL_SECRET", CANARY);
    let credentials = folder.folder.path().display().to_string();
    folder.with("CREDENTIALS_DIRECTORY", &credentials)
}

#[test]
fn every_key_is_read() {
    let config = folder_for_every_key().load(&with_every_key()).unwrap();
    assert_eq!(config.server.max_deadline, Duration::from_secs(5));
    assert_eq!(config.server.tls.as_ref().map(|tls| tls.client_auth), Some(ClientAuth::Optional));
    assert_eq!(config.admin.listen, None);
    assert_eq!(config.api_clients.default.as_deref(), Some("eu2"));
    assert_eq!(config.api_clients.by_name.len(), 3);
    let tuned = config.api_clients.by_name.values().find(|client| client.propagate_trace).unwrap();
    assert_eq!((tuned.max_idle_connections.get(), tuned.min_login_time), (7, Duration::from_secs(1)));
    let jwt = &config.callers.jwt[0];
    assert_eq!((jwt.typ.as_deref(), jwt.max_lifetime), (Some("at+jwt"), Some(Duration::from_hours(1))));
    assert!(matches!(jwt.keys, JwksSource::Url { max_age, .. } if max_age == Duration::from_hours(12)));
    let forwarded = config.callers.forwarded.as_ref().unwrap();
    assert_eq!(forwarded.header, ForwardedHeader::L5dClientId);
    assert_eq!(forwarded.from[1], ForwardedFrom::Spiffe("spiffe://mesh/ns/proxy".to_owned()));
    assert_eq!(forwarded.from[2], ForwardedFrom::Address("10.1.2.3".parse().unwrap()));
    assert_eq!(config.callers.tokens["billing"][0].0[..4], [0x01, 0x23, 0x45, 0x67]);
    assert_eq!(config.access.max_quota_users.get(), 5000);
    assert_eq!(config.access.rules[0].methods.as_ref().map(Vec::len), Some(2));
    assert_eq!(config.access.rules[0].user_rate, Rate::Unlimited);
    assert!(matches!(&config.audit.sink, AuditSink::File(path) if path.is_absolute()));
    assert!(!format!("{config:?} {config:#?}").contains(CANARY), "a secret is shown");
}

/// A part that is broken, and what is said of it.
type Broken = (&'static str, &'static [&'static str]);

const BROKEN: &[Broken] = &[
    ("[server]\nlisen = 1", &["gateway.toml:9: server.lisen: unknown key; did you mean \"listen\"?"]),
    ("[sever]", &["gateway.toml:8: sever: unknown key; did you mean \"server\"?"]),
    ("[server]\nzzz = 1", &["gateway.toml:9: server.zzz: unknown key"]),
    ("[server]\nplaintext = 1", &["gateway.toml:9: server.plaintext: must be a boolean, not an integer"]),
    ("servers = 1", &["gateway.toml:8: access.rules[1].servers: unknown key"]),
    (
        "[server]\nmax_deadline = \"ten\"",
        &[
            "gateway.toml:9: server.max_deadline: must be a duration with its unit, such as \"10s\" or \"500ms\"",
        ],
    ),
    (
        "[server]\nmax_deadline = 10",
        &[
            "gateway.toml:9: server.max_deadline: must be a duration with its unit, such as \"10s\", not an integer",
        ],
    ),
    ("[server]\nmax_deadline = \"2m\"", &["gateway.toml:9: server.max_deadline: must be from 100ms to 1m"]),
    (
        "[server]\nmax_in_flight = 0",
        &["gateway.toml:9: server.max_in_flight: must be a whole number from 1 to 1000000"],
    ),
    (
        "[server]\nlisten = \"0.0.0.0:50051\"",
        &[
            "gateway.toml:9: server.listen: is not a loopback address, so it needs [server.tls], or plaintext = true if a mesh encrypts",
        ],
    ),
    (
        "[server]\nlisten = \"localhost\"",
        &["gateway.toml:9: server.listen: must be an IP address with a port, such as \"127.0.0.1:50051\""],
    ),
    (
        "[server]\ndrain_timeout = \"2s\"",
        &["gateway.toml:8: server.drain_lame_duck: must be shorter than drain_timeout"],
    ),
    (
        "[admin]\nlisten = \"0.0.0.0:50051\"",
        &["gateway.toml:9: admin.listen: is the same address as server.listen"],
    ),
    (
        "[server]\nhealth_listen = \"127.0.0.1:50051\"",
        &["gateway.toml:9: server.health_listen: is the same address as server.listen"],
    ),
    (
        "[server.tls]\nprivate_key_file = \"tls.crt\"",
        &[
            "gateway.toml:8: server.tls.certificate_file: is missing: [server.tls] needs both certificate_file and private_key_file",
            "gateway.toml:9: server.tls.private_key_file: the file contains a certificate and not the private key; if the two files are swapped, exchange the values of private_key_file and certificate_file",
        ],
    ),
    (
        "[server.tls]\ncertificate_file = \"tls.crt\"\nprivate_key_file = \"tls.key\"\nclient_auth = \"require\"",
        &["gateway.toml:11: server.tls.client_auth: needs client_ca_file, unless it is \"off\""],
    ),
    (
        "[server.tls]\ncertificate_file = \"tls.crt\"\nprivate_key_file = \"tls.key\"\nclient_auth = \"requre\"",
        &[
            "gateway.toml:11: server.tls.client_auth: must be \"require\" or \"optional\" or \"off\"; did you mean \"require\"?",
        ],
    ),
    (
        "[callers.jwt]\nissuer = \"i\"",
        &[
            "gateway.toml:8: callers.jwt.audience: is missing: [callers.jwt] needs issuer, audience, and jwks_file or jwks_url",
            "gateway.toml:8: callers.jwt.jwks_file: is missing: [callers.jwt] needs issuer, audience, and jwks_file or jwks_url",
        ],
    ),
    (
        "[callers.jwt]\nissuer = \"i\"\naudience = \"a\"\njwks_url = \"http://keys.example/\"",
        &["gateway.toml:11: callers.jwt.jwks_url: must be https (plain http is for loopback addresses only)"],
    ),
    (
        "[callers.jwt]\nname = \"corp\"\nissuer = \"i\"\njwks_max_age = \"1h\"\ntyp = \"a;b\"\nmax_lifetime = \"2years\"\naudience = \"a\"\njwks_file = \"jwks.json\"",
        &[
            "gateway.toml:9: callers.jwt.name: unknown key",
            "gateway.toml:11: callers.jwt.jwks_max_age: needs jwks_url",
            "gateway.toml:12: callers.jwt.typ: must be a media type without parameters, such as \"at+jwt\"",
            "gateway.toml:13: callers.jwt.max_lifetime: must be from 1s to 1year",
        ],
    ),
    (
        "[callers]\njwt = []",
        &["gateway.toml:9: callers.jwt: must not be empty; leave the key out if there is no issuer"],
    ),
    (
        "[[callers.jwt]]\nissuer = \"i\"\naudience = \"a\"\njwks_file = \"jwks.json\"",
        &[
            "gateway.toml:8: callers.jwt[1].name: is missing: [[callers.jwt]] needs a name, which callers' names begin with: jwt:NAME:SUBJECT",
        ],
    ),
    (
        "[[callers.jwt]]\nname = \"a:b\"\nissuer = \"i\"\naudience = \"a\"\njwks_file = \"jwks.json\"",
        &["gateway.toml:9: callers.jwt[1].name: must be 1 to 63 lower-case letters, digits and \"-\""],
    ),
    (
        "[[callers.jwt]]\nname = \"a\"\nissuer = \"i\"\naudience = \"a\"\njwks_file = \"jwks.json\"\n[[callers.jwt]]\nname = \"a\"\nissuer = \"i\"\naudience = \"b\"\njwks_file = \"jwks.json\"",
        &[
            "gateway.toml:14: callers.jwt[2].name: is the name of another issuer as well; give each its own",
            "gateway.toml:15: callers.jwt[2].issuer: is the issuer of another table as well; its tokens would identify two callers",
        ],
    ),
    (
        "[[access.rules]]\ncallers = [\"jwt:cor*\", \"jwt:crop:*\", \"jwt:portal\", \"jwt:corp:*\", \"jwt:x*\", \"jwt:*\"]\nusers = \"all\"\n[[callers.jwt]]\nname = \"corp\"\nissuer = \"i\"\naudience = \"a\"\njwks_file = \"jwks.json\"",
        &[
            "gateway.toml:9: access.rules[2].callers[2]: is not a caller of an issuer in [[callers.jwt]]; did you mean \"jwt:corp:\"?",
            "gateway.toml:9: access.rules[2].callers[3]: is not a caller of an issuer in [[callers.jwt]]",
            "gateway.toml:9: access.rules[2].callers[5]: is not a caller of an issuer in [[callers.jwt]]",
        ],
    ),
    (
        "[callers.tokens]\nbilling = \"canary-5f0c\"",
        &[
            "gateway.toml:9: callers.tokens.billing: must be \"sha256:\" and the 64 hexadecimal digits of the token's SHA-256, not the token itself",
        ],
    ),
    (
        "[callers.tokens]\nbilling = [\"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\"]",
        &[
            "gateway.toml:9: callers.tokens.billing: is the hash of a common word, which anybody can guess; make a token with \"head -c 32 /dev/urandom | base64\"",
        ],
    ),
    (
        "[callers.forwarded]\nheader = \"l5d-client-id\"",
        &[
            "gateway.toml:8: callers.forwarded.from: is missing: who may send it, such as [\"loopback\"]; the header of any other peer is ignored",
        ],
    ),
    (
        "[callers.forwarded]\nheader = \"l5d-client-id\"\nfrom = [\"loopback\",\n\"10.0.0.0/8\",\n\"0.0.0.0\",\n\"spiffe://mesh/*\"]",
        &[
            "gateway.toml:11: callers.forwarded.from[2]: must be \"loopback\", an IP address, a SPIFFE id (\"spiffe://…\") or \"dns:NAME\"",
            "gateway.toml:12: callers.forwarded.from[3]: must be an address that a peer can connect from",
            "gateway.toml:13: callers.forwarded.from[4]: must name one proxy exactly, without wildcards",
        ],
    ),
    (
        "[audit]\nsink = \"/nowhere/audit.jsonl\"",
        &["gateway.toml:9: audit.sink: no such folder: /nowhere; create it"],
    ),
    (
        "[audit]\nsink = \"stdot\"",
        &[
            "gateway.toml:9: audit.sink: must be \"stdout\", \"off\", or the path of a file with a \"/\" in it",
        ],
    ),
    (
        "[audit]\nhmac_key_file = \"short\"",
        &["gateway.toml:9: audit.hmac_key_file: the key is too short: it needs at least 32 bytes"],
    ),
    ("[audit]\nhmac_key_file = \"nothing\"", &["gateway.toml:9: audit.hmac_key_file: no such file: nothing"]),
    ("[access.rules]\nx = 1", &["gateway.toml:8: not valid TOML: duplicate key"]),
];

#[test]
fn every_fault_names_file_line_key_and_rule() {
    let folder = Folder::new();
    for (part, expected) in BROKEN {
        assert_eq!(folder.faults(&working_and(part)), *expected, "{part}");
    }
    assert_eq!(
        folder.faults(&format!("server = 1\n{}", working_and(""))),
        ["gateway.toml:1: server: must be a table, not an integer"]
    );
    folder.load(&working_and("")).expect("and without the fault it works");
}

#[test]
fn every_fault_of_an_api_client_is_found() {
    let table: &[Broken] = &[
        (
            "",
            &[
                "gateway.toml:1: api_clients.eu2.data_center_url: is missing: the data center's URL, such as \"https://eu2-cloud.acronis.com\"",
                "gateway.toml:1: api_clients.eu2.client_id: is missing: the API client's id",
                "gateway.toml:1: api_clients.eu2.client_secret_file: is missing: name the file of the secret, or set client_secret_env or client_secret_credential",
            ],
        ),
        (
            "data_center_url = \"http://eu2-cloud.acronis.com\"\nclient_id = \"\"\nclient_secret_file = \"nothing\"",
            &[
                "gateway.toml:2: api_clients.eu2.data_center_url: must be https (plain http is for loopback addresses only)",
                "gateway.toml:3: api_clients.eu2.client_id: must not be empty",
                "gateway.toml:4: api_clients.eu2.client_secret_file: no such file: nothing",
            ],
        ),
        (
            "data_center_url = \"eu2\"\nclient_id = \"a:b\"\nclient_secret_file = \".\"",
            &[
                "gateway.toml:2: api_clients.eu2.data_center_url: must be a URL with a scheme, \"://\" and a host, such as \"https://host.example:443\"",
                "gateway.toml:3: api_clients.eu2.client_id: must be at most 255 visible ASCII characters without a colon",
                "gateway.toml:4: api_clients.eu2.client_secret_file: is a directory: FOLDER; name a file",
            ],
        ),
        (
            "data_center_url = \"https://u:p@eu2\"\nclient_id = \"id\"\nclient_secret_file = \"empty\"",
            &[
                "gateway.toml:2: api_clients.eu2.data_center_url: must not contain a user or a password",
                "gateway.toml:4: api_clients.eu2.client_secret_file: the secret is blank; write the secret that the platform has shown",
            ],
        ),
        (
            "data_center_url = \"https://eu2/api/2\"\nclient_id = \"id\"\nclient_secret = \"canary-5f0c\"",
            &[
                "gateway.toml:2: api_clients.eu2.data_center_url: must end after the host and the port, without a path",
                "gateway.toml:4: api_clients.eu2.client_secret: a secret must not be in the configuration; write it to a file, and name the file with client_secret_file",
            ],
        ),
        (
            "data_center_url = \"https://eu2\"\nclient_id = \"id\"\nclient_secret_file = \"secret\"\nclient_secret_env = \"UNSET\"\nclient_secret_credential = \"a/b\"",
            &[
                "gateway.toml:5: api_clients.eu2.client_secret_env: only one source of the secret is allowed, and client_secret_file is set as well; remove one of them",
                "gateway.toml:5: api_clients.eu2.client_secret_env: no such environment variable is set",
                "gateway.toml:6: api_clients.eu2.client_secret_credential: only one source of the secret is allowed, and client_secret_file is set as well; remove one of them",
                "gateway.toml:6: api_clients.eu2.client_secret_credential: must be the name of a credential, without a path",
            ],
        ),
        (
            "data_center_url = \"https://eu2\"\nclient_id = \"id\"\nclient_secret_credential = \"secret\"",
            &[
                "gateway.toml:4: api_clients.eu2.client_secret_credential: needs $CREDENTIALS_DIRECTORY, which systemd sets (LoadCredential=)",
            ],
        ),
        (
            "data_center_url = \"https://eu2\"\nclient_id = \"id\"\nclient_secret_file = \"secret\"\ntarget_origins = [\"https://a\", \"https://a/b\", \"javascript:x\", \"http://localhost\"]",
            &[
                "gateway.toml:5: api_clients.eu2.target_origins[2]: must end after the host and the port, without a path",
                "gateway.toml:5: api_clients.eu2.target_origins[3]: must be a URL with a scheme, \"://\" and a host, such as \"https://host.example:443\"",
                "gateway.toml:5: api_clients.eu2.target_origins[4]: must be https",
            ],
        ),
        (
            "data_center_url = \"http://localhost\"\nclient_id = \"id\"\nclient_secret_file = \"secret\"\nproxy_url = \"http://proxy.example\"",
            &[
                "gateway.toml:5: api_clients.eu2.proxy_url: needs a data center with https: over http the proxy would read every secret",
            ],
        ),
    ];
    let folder = Folder::new();
    for (part, expected) in table {
        let text = format!("[api_clients.eu2]\n{part}\n{RULE}");
        assert_eq!(folder.faults(&text), *expected, "{part}");
    }
}

/// A newline that `echo` added is no part of a secret, and a secret that cannot be sent is
/// refused, regardless of its source.
#[test]
fn all_three_sources_of_a_secret_are_read_by_one_parser() {
    let folder = Folder::new().with("CREDENTIALS_DIRECTORY", "/nowhere");
    let base = "[api_clients.eu2]\ndata_center_url = \"https://eu2\"\nclient_id = \"id\"\n";
    let sources = ["client_secret_file", "client_secret_env", "client_secret_credential"];
    let faults = |text: &str| -> Vec<(String, Vec<String>)> {
        let path = folder.folder.path().join("SECRET");
        fs::write(&path, text).unwrap();
        let environment = BTreeMap::from([
            ("SECRET".to_owned(), text.to_owned()),
            ("CREDENTIALS_DIRECTORY".to_owned(), folder.folder.path().display().to_string()),
        ]);
        let file = folder.folder.path().join("gateway.toml");
        let of = |source: &str| {
            fs::write(&file, format!("{base}{source} = \"SECRET\"\n{RULE}")).unwrap();
            match Config::load(Some(&file), &environment) {
                Err(faults) => faults.iter().map(|fault| fault.problem.to_string()).collect(),
                Ok(config) => {
                    let warnings = config.warnings.iter().map(|warning| warning.problem.to_string());
                    // Those about where the secret is differ.
                    warnings.filter(|warning| warning.starts_with("the secret ")).collect()
                }
            }
        };
        sources.iter().map(|source| ((*source).to_owned(), of(source))).collect()
    };
    let line_break =
        "the secret contains a line break; write it on one line, with at most one newline at the end";
    let blank = "the secret is blank; write the secret that the platform has shown";
    let doubtful_blank = "the secret begins or ends with a blank, which is sent as part of it";
    let doubtful_quote = "the secret begins or ends with a quotation mark, which is sent as part of it";
    let table: [(&str, &[&str]); 12] = [
        ("s3cret", &[]),
        ("s3cret\n", &[]),
        ("s3cret\r\n", &[]),
        (" s3cret\n", &[doubtful_blank]),
        ("\"s3cret\"", &[doubtful_quote]),
        ("s3cret\n\n", &[line_break]),
        ("s3cret\nsecond", &[line_break]),
        (
            "s3\u{1b}cret",
            &[
                "the secret contains a control character; write only the characters that the platform has shown",
            ],
        ),
        ("", &[blank]),
        ("  \n", &[blank]),
        ("\u{feff}s3cret", &["the secret begins with a byte order mark; save it as UTF-8 without one"]),
        (
            &"a".repeat(64 * 1024 + 1),
            &["the secret is longer than 64 KiB; check that this is the right file or variable"],
        ),
    ];
    for (text, expected) in table {
        for (source, found) in faults(text) {
            assert_eq!(found, expected, "{source}: {text:.20?}");
        }
    }
}

#[test]
fn newline_at_the_end_of_a_variable_is_not_part_of_the_secret() {
    for value in ["s3cret\n", "s3cret\r\n"] {
        let folder = Folder::new().with("SECRET", value);
        let config = folder.load(&working_and("").replace("file = \"secret\"", "env = \"SECRET\"")).unwrap();
        let SecretSource::Environment(secret) = &config.api_clients.by_name["eu2"].client_secret else {
            panic!("the secret is in a variable");
        };
        assert_eq!(secret.expose(), "s3cret");
    }
}

/// Opening a FIFO would block until somebody writes to it.
#[test]
fn named_file_that_is_not_a_regular_one_is_refused_without_opening_it() {
    let folder = Folder::new();
    let fifo = folder.folder.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let not_a_file = "is not a regular file, so it cannot be read again after a change";
    let certificate = "[server.tls]\ncertificate_file = \"fifo\"\nprivate_key_file = \"tls.key\"";
    for part in [
        certificate.to_owned(),
        certificate.replace("fifo", "tls.crt").replace("tls.key", "fifo"),
        "[callers.jwt]\nissuer = \"i\"\naudience = \"a\"\njwks_file = \"fifo\"".to_owned(),
        "[audit]\nhmac_key_file = \"fifo\"".to_owned(),
    ] {
        let faults = folder.faults(&working_and(&part));
        assert!(faults.len() == 1 && faults[0].contains(not_a_file), "{part}: {faults:?}");
    }
    let client = |key: &str| format!("{}{key} = \"fifo\"\n{RULE}", CLIENT.replace("client_secret_file", "#"));
    for text in [client("client_secret_file"), client("client_secret_file = \"secret\"\nca_file")] {
        let faults = folder.faults(&text);
        assert!(faults.len() == 1 && faults[0].contains(not_a_file), "{text}: {faults:?}");
    }

    let faults = Config::load(Some(&fifo), &BTreeMap::new()).unwrap_err();
    assert!(faults.to_string().contains(not_a_file), "{faults}");
    folder.load(&working_and("")).expect("and a regular file works");
}

#[test]
fn configuration_that_is_not_text_is_refused() {
    let folder = Folder::new();
    let path = folder.folder.path().join("latin-1.toml");
    let utf16: Vec<u8> = "[server]\n[admin]\n".encode_utf16().flat_map(u16::to_be_bytes).collect();
    for contents in [&b"[server]\n# caf\xe9\n"[..], &utf16, &[0; 512]] {
        fs::write(&path, contents).unwrap();
        let faults = Config::load(Some(&path), &BTreeMap::new()).unwrap_err().to_string();
        assert_eq!(faults, format!("{}: is not UTF-8 text; save it as UTF-8", path.display()));
    }
}

#[test]
fn two_defaults_are_refused_and_none_is_not() {
    let folder = Folder::new();
    let second = CLIENT.replace("eu2]", "us5]");
    let both = format!("{CLIENT}default = true\n{second}default = true\n{RULE}");
    assert_eq!(
        folder.faults(&both),
        [
            "gateway.toml:10: api_clients.us5.default: only one API client can be the default, and \"eu2\" already is"
        ]
    );
    assert_eq!(folder.load(&format!("{CLIENT}{second}{RULE}")).unwrap().api_clients.default, None);
    let refused = format!("{CLIENT}default = false\n{RULE}");
    assert_eq!(folder.load(&refused).unwrap().api_clients.default, None);
}

#[test]
fn nothing_configured_is_two_faults() {
    assert_eq!(
        Folder::new().faults(""),
        [
            "gateway.toml: api_clients: is missing: at least one [api_clients.NAME] is needed",
            "gateway.toml: access.rules: is missing: without an [[access.rules]] nobody could call; name who may",
        ]
    );
    let faults = Config::load(None, &BTreeMap::new()).unwrap_err();
    assert_eq!(faults.iter().count(), 2);
    assert!(faults.to_string().starts_with("configuration: api_clients: is missing"), "{faults}");
}

#[test]
fn missing_file_is_a_fault() {
    let faults = Config::load(Some(Path::new("/nowhere/gateway.toml")), &BTreeMap::new()).unwrap_err();
    assert_eq!(
        faults.to_string(),
        "/nowhere/gateway.toml: no such file: /nowhere/gateway.toml (there is no folder /nowhere)"
    );
}

#[test]
fn syntax_is_told_without_the_text_of_the_line() {
    let folder = Folder::new();
    let faults = folder.faults(&format!("[server]\nlisten = \"{CANARY}\nx = {CANARY}\n"));
    assert!(faults.iter().all(|fault| fault.starts_with("gateway.toml:")), "{faults:?}");
    assert!(faults.iter().any(|fault| fault.starts_with("gateway.toml:2: not valid TOML: ")), "{faults:?}");
    assert!(!faults.join("\n").contains(CANARY), "{faults:?}");
}

#[test]
fn environment_goes_over_the_file() {
    let folder = Folder::new()
        .with("OTT_GATEWAY__SERVER__LISTEN", "127.0.0.1:1234")
        .with("OTT_GATEWAY__SERVER__MAX_IN_FLIGHT", "7")
        .with("OTT_GATEWAY__SERVER__REFLECTION", "true")
        .with("OTT_GATEWAY__API_CLIENTS__EU_2__CLIENT_ID", "other")
        .with("OTT_GATEWAY__API_CLIENTS__EU_2__TARGET_ORIGINS", "https://a, https://b")
        .with("OTT_GATEWAY__TELEMETRY__TRACE_RATIO", "0.5")
        .with("OTT_GATEWAY_PORT", "tcp://10.0.0.1:50051");
    let config = folder.load(&working_and("").replace("eu2]", "eu-2]")).unwrap();
    assert_eq!(config.server.listen, "127.0.0.1:1234".parse().unwrap());
    assert_eq!(config.server.max_in_flight.get(), 7);
    assert!(config.server.reflection);
    assert_eq!(config.api_clients.by_name["eu-2"].client_id, "other");
    assert_eq!(config.api_clients.by_name["eu-2"].target_origins.len(), 2);
    assert_eq!(config.telemetry.trace_ratio.to_string(), "0.5");
    assert_eq!(config.variables.len(), 6, "each is named: {:?}", config.variables);
    assert_eq!(config.variables[0], "OTT_GATEWAY__API_CLIENTS__EU_2__CLIENT_ID");
}

#[test]
fn a_variable_sets_the_very_name_before_one_like_it() {
    let folder = Folder::new().with("OTT_GATEWAY__CALLERS__TOKENS__A_B", OTHER_TOKEN);
    let text = working_and(&format!("[callers.tokens]\na-b = \"{TOKEN}\"\na_b = \"sha256:{:064}\"", 0));
    let tokens = folder.load(&text).unwrap().callers.tokens;
    let other = TokenHash([0xff; 32]);
    assert_eq!((&*tokens["a_b"], tokens["a-b"] == [other]), (&[other][..], false));
}

#[test]
fn a_rate_is_a_number_and_a_unit() {
    let folder = Folder::new();
    let read = |rate: &str| {
        let text = working_and("").replace("users", &format!("rate = \"{rate}\"\nusers"));
        folder.load(&text).map(|config| config.access.rules[0].rate)
    };
    let limited = |times: u32, seconds| Rate::Limited {
        times: times.try_into().unwrap(),
        period: Duration::from_secs(seconds),
    };
    for (text, rate) in [
        ("50/s", limited(50, 1)),
        ("30/min", limited(30, 60)),
        ("1/h", limited(1, 3600)),
        ("1000000/s", limited(1_000_000, 1)),
        ("unlimited", Rate::Unlimited),
    ] {
        assert_eq!(read(text).unwrap(), rate, "{text}");
    }
    let wrong = [
        "",
        "50",
        "0/s",
        "-1/s",
        "+1/s",
        " 1/s",
        "1 /s",
        "1/ s",
        "1/s ",
        "1.5/s",
        "50/",
        "/s",
        "50/day",
        "1/s/s",
        "1000001/s",
        "9999999999/s",
        "Unlimited",
        "\u{661}/s",
    ];
    for text in wrong {
        assert!(read(text).is_err(), "{text}");
    }
}

#[test]
fn one_token_belongs_to_one_caller() {
    let folder = Folder::new();
    let part =
        format!("[callers.tokens]\na = \"{TOKEN}\"\nb = [\"{OTHER_TOKEN}\", \"{TOKEN}\"]\nc = [\"x\"]");
    assert_eq!(
        folder.faults(&working_and(&part)),
        [
            "gateway.toml:10: callers.tokens.b: is the same token as that of \"a\"",
            "gateway.toml:11: callers.tokens.c[1]: must be \"sha256:\" and the 64 hexadecimal digits of the \
             token's SHA-256, not the token itself",
        ]
    );
}

#[test]
fn log_level_comes_from_the_file_or_rust_log() {
    let folder = Folder::new();
    let level =
        |folder: &Folder, text: &str| folder.load(&working_and(text)).map(|it| it.telemetry.log_level);
    assert_eq!(level(&folder, "[telemetry]\nlog_level = \"DEBUG\"").unwrap(), "DEBUG");
    assert_eq!(
        folder.faults(&working_and("[telemetry]\nlog_level = \"inf\"")),
        [
            "gateway.toml:9: telemetry.log_level: is not a log level (off, error, warn, info, debug, trace) or a \
          list of TARGET=LEVEL; did you mean \"info\"?"
        ]
    );
    let folder = folder.with("RUST_LOG", "warn,ott_gateway=trace");
    assert_eq!(level(&folder, "[telemetry]\nlog_level = \"debug\"").unwrap(), "warn,ott_gateway=trace");
}

#[test]
fn rust_log_changes_only_what_is_meant_for_the_gateway() {
    let file = "[telemetry]\nlog_level = \"debug,ott_gateway::audit=warn\"";
    let configured = "debug,ott_gateway::audit=warn";
    for (value, level, unreadable) in [
        ("", configured, None),
        (" , ,", configured, None),
        ("off", "off", None),
        ("WARN", "warn", None),
        ("error,warn", "warn", None),
        ("warn,hyper", "warn", Some("1 of 2 parts")),
        ("1", configured, Some("1 of 1 parts")),
        ("my_app=debug", configured, None),
        ("my_app=debug,h2=off,ott=off,o=off,ott_gateway2=off", configured, None),
        ("ott_gateway=trace", "debug,ott_gateway::audit=warn,ott_gateway=trace", None),
        ("info, ott_gateway::app = trace", "info,ott_gateway::app=trace", None),
        ("ott_gateway", "debug,ott_gateway::audit=warn,ott_gateway=trace", None),
        ("ott_gateway[span{a=1}]=debug", configured, Some("1 of 1 parts")),
        ("ott_gateway=loud,=info,x=,info/pattern", configured, Some("4 of 4 parts")),
        (CANARY, configured, Some("1 of 1 parts")),
        ("\u{1b}[2J\n", configured, Some("1 of 1 parts")),
    ] {
        let folder = Folder::new().with("RUST_LOG", value);
        let config = folder.load(&working_and(file)).unwrap();
        assert_eq!(config.telemetry.log_level, level, "{value:?}");
        let warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
        let of_it: Vec<&String> = warnings.iter().filter(|warning| warning.contains("RUST_LOG")).collect();
        assert_eq!(of_it.len(), usize::from(unreadable.is_some()), "{value:?}: {warnings:?}");
        let begins = unreadable.map(|unreadable| format!("RUST_LOG: {unreadable} cannot be read"));
        assert!(
            of_it.iter().all(|it| begins.as_ref().is_some_and(|begins| it.starts_with(begins))),
            "{of_it:?}"
        );
        assert!(!warnings.join("").contains(CANARY), "{warnings:?}");
        let is_named = config.environment.iter().any(|variable| variable.name == "RUST_LOG");
        assert_eq!(is_named, level != configured, "{value:?}");
    }
}

#[test]
fn many_faults_are_shown_as_ten_and_their_number() {
    let keys = |count: usize| (0..count).map(|number| format!("[k{number}]\n")).collect::<Vec<_>>().concat();
    let shown = |count| Folder::new().load(&working_and(&keys(count))).expect_err("faults").to_string();
    assert_eq!(shown(10).lines().count(), 10);
    let many = shown(400);
    assert_eq!(many.lines().next(), Some("400 problems, of which the first 10 are:"));
    assert_eq!(many.lines().count(), 11);
    assert_eq!(Folder::new().faults(&working_and(&keys(400))).len(), 400, "each can be had");
}

#[test]
fn a_finding_is_one_printable_line_of_bounded_size() {
    let long = "k".repeat(100_000);
    for (text, expected) in [
        ("\"a\\u001b[2J\\nforged\" = 1".to_owned(), "a\\u{1b}[2J\\nforged: unknown key"),
        ("[api_clients.\"x\\u202e\\u0007\"]".to_owned(), "api_clients.x\\u{202e}\\u{7}.data_center_url"),
        (format!("{long} = 1"), "… [cut, 100000 bytes in all]: unknown key"),
    ] {
        let faults = Folder::new().faults(&format!("{text}\n"));
        assert!(faults.iter().any(|fault| fault.contains(expected)), "{faults:?}");
        for fault in faults {
            assert!(!fault.chars().any(crate::text::is_unprintable) && fault.len() < 4000, "{fault:?}");
        }
    }
}

#[test]
fn fingerprint_key_is_named_by_its_file_unless_told() {
    let folder = Folder::new();
    let id = |text: &str| folder.load(&working_and(text)).unwrap().audit.hmac_key_id;
    assert_eq!(id("[audit]\nhmac_key_file = \"hmac\"").as_deref(), Some("hmac"));
    assert_eq!(
        id("[audit]\nhmac_key_file = \"hmac\"\nhmac_key_id = \"2026-01\"").as_deref(),
        Some("2026-01")
    );
    assert_eq!(
        folder.faults(&working_and("[audit]\nhmac_key_id = \"2026-01\"")),
        ["gateway.toml:9: audit.hmac_key_id: needs hmac_key_file"]
    );
}

#[test]
fn api_client_may_come_from_the_environment_alone() {
    let config = Folder::new()
        .with("OTT_GATEWAY__API_CLIENTS__US5__DATA_CENTER_URL", "https://us5-cloud.acronis.com")
        .with("OTT_GATEWAY__API_CLIENTS__US5__CLIENT_ID", "id")
        .with("OTT_GATEWAY__API_CLIENTS__US5__CLIENT_SECRET_ENV", "SECRET")
        .with("SECRET", CANARY)
        .load(RULE)
        .unwrap();
    assert_eq!(config.api_clients.default.as_deref(), Some("us5"));
    let SecretSource::Environment(secret) = &config.api_clients.by_name["us5"].client_secret else {
        panic!("the secret is in a variable");
    };
    assert_eq!(secret.expose(), CANARY);
    assert!(!format!("{config:?}").contains(CANARY));
}

#[test]
fn fault_of_the_environment_names_the_variable() {
    let folder = Folder::new()
        .with("OTT_GATEWAY__SERVER__LISEN", CANARY)
        .with("OTT_GATEWAY__SERVER__MAX_DEADLINE", CANARY)
        .with("OTT_GATEWAY__SERVER__PLAINTEXT", CANARY)
        .with("OTT_GATEWAY__SERVER", CANARY)
        .with("OTT_GATEWAY__ACCESS__RULES", CANARY)
        .with("OTT_GATEWAY__ACCESS__RULES__0__CALLERS", CANARY)
        .with("OTT_GATEWAY__API_CLIENTS__EU2__CLIENT_SECRET", CANARY)
        .with("OTT_GATEWAY_SERVER__REFLECTION", CANARY);
    let faults = folder.faults(&working_and("[server]"));
    assert_eq!(
        faults,
        [
            "OTT_GATEWAY_SERVER__REFLECTION: unknown key; did you mean \"OTT_GATEWAY__SERVER__REFLECTION\"?",
            "OTT_GATEWAY__ACCESS__RULES: access.rules: is a list of tables, which can only be set in the file",
            "OTT_GATEWAY__ACCESS__RULES__0__CALLERS: access.rules.0.callers: is part of a list, which can only be set in the file",
            "OTT_GATEWAY__API_CLIENTS__EU2__CLIENT_SECRET: api_clients.eu2.client_secret: a secret must not be in the configuration; write it to a file, and name the file with client_secret_file",
            "OTT_GATEWAY__SERVER: server: is a table; a variable sets one of its keys",
            "OTT_GATEWAY__SERVER__LISEN: server.lisen: unknown key; did you mean \"OTT_GATEWAY__SERVER__LISTEN\"?",
            "OTT_GATEWAY__SERVER__MAX_DEADLINE: server.max_deadline: must be a duration with its unit, such as \"10s\" or \"500ms\"",
            "OTT_GATEWAY__SERVER__PLAINTEXT: server.plaintext: must be true or false",
        ]
    );
}

#[test]
fn faults_never_show_a_value() {
    // The canary under every key there is, and in every file that is named.
    let keys = [
        (
            "server",
            "listen health_listen plaintext max_deadline worker_threads max_in_flight max_connections max_connection_age reflection drain_lame_duck drain_timeout",
        ),
        ("server.tls", "certificate_file private_key_file client_ca_file client_auth"),
        ("admin", "listen"),
        (
            "api_clients.eu2",
            "data_center_url client_id client_secret client_secret_file client_secret_env client_secret_credential default target_origins ca_file proxy_url propagate_trace max_idle_connections min_login_time unknown",
        ),
        ("callers.jwt", "issuer audience typ max_lifetime jwks_file jwks_url jwks_ca_file jwks_max_age"),
        ("callers.tokens", "billing"),
        ("callers.forwarded", "header from"),
        ("access", "quota_dry_run max_quota_users"),
        ("audit", "sink hmac_key_file hmac_key_id fsync"),
        ("telemetry", "log_format log_level otlp_endpoint trace_ratio"),
    ];
    let rule = "callers methods api_clients rate burst user_rate user_burst max_in_flight logins external_ids user_ids users";
    let folder = Folder::new();
    fs::write(folder.folder.path().join(CANARY), CANARY).unwrap();
    for value in [format!("\"{CANARY}\""), format!("[\"{CANARY}\"]"), format!("\"https://{CANARY}:x\"")] {
        let mut text = String::new();
        let lines = |keys: &str| keys.replace(' ', &format!(" = {value}\n")) + " = " + &value + "\n";
        for (section, keys) in keys {
            text = format!("{text}[{section}]\n{}", lines(keys));
        }
        text = format!("{text}[[access.rules]]\n{}", lines(rule));
        let faults = folder.load(&text).unwrap_err();
        assert!(faults.iter().count() > 30, "{faults}");
        assert!(!format!("{faults} {faults:?}").contains(CANARY), "{faults}");
    }
}

#[test]
fn a_variable_with_a_misspelled_path_is_one_fault_with_the_right_name() {
    for (name, meant) in [
        ("OTT_GATEWAY__SERVER_LISTEN", "OTT_GATEWAY__SERVER__LISTEN"),
        ("OTT_GATEWAY__SERVR__LISTEN", "OTT_GATEWAY__SERVER__LISTEN"),
        ("OTT_GATEWAY___SERVER__LISTEN", "OTT_GATEWAY__SERVER__LISTEN"),
        ("OTT_GATEWAY__CONFIG", "OTT_GATEWAY_CONFIG"),
        ("OTT_GATEWAY__API_CLIENTS__US5_CLIENT_ID", "OTT_GATEWAY__API_CLIENTS__US5__CLIENT_ID"),
        ("OTT_GATEWAY__API_CLIENTS__EU2__CLIENT__ID", "OTT_GATEWAY__API_CLIENTS__EU2__CLIENT_ID"),
    ] {
        let faults = Folder::new().with(name, "canary").faults(&working_and(""));
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].ends_with(&format!("unknown key; did you mean \"{meant}\"?")), "{faults:?}");
    }
}

#[test]
fn a_path_to_nothing_is_shown_unless_it_may_be_a_secret() {
    let folder = Folder::new();
    let fault = |file: &str| {
        let text = working_and("").replace("file = \"secret\"", &format!("file = \"{file}\""));
        folder.faults(&text).concat()
    };
    for name in ["eu2.secret", "client-secret_2026.txt", "SECRET2", "tls.crt-old"] {
        assert!(fault(name).ends_with(&format!("no such file: {name}")), "{}", fault(name));
    }
    assert!(fault("keys/eu2.secret").ends_with("no such file: keys/eu2.secret (there is no folder keys)"));
    for secret in [
        "q8Zx2KpL0vT4",
        "2955b448-7df8-43fc-9c63-a21511dbe06d",
        "/9j4AAQ/SkZJRg==",
        "correct horse",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ] {
        let fault = fault(secret);
        assert!(fault.contains("it may be a secret") && !fault.contains(&secret[4..]), "{fault}");
    }
}

#[test]
fn doubtful_settings_are_warnings() {
    use std::os::unix::fs::PermissionsExt;

    let folder = Folder::new().with("S", "secret");
    let set = |name: &str, mode| {
        fs::set_permissions(folder.folder.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    set("secret", 0o600);
    let warnings = |text: &str| -> Vec<String> {
        let config = folder.load(text).unwrap();
        config.warnings.iter().map(|warning| format!("{}: {}", warning.key, warning.problem)).collect()
    };
    assert_eq!(warnings(&working_and("")), Vec::<String>::new());
    let dry_run = "[access]\nquota_dry_run = true";
    assert_eq!(
        warnings(&working_and("").replace(RULE, &format!("{dry_run}\n{RULE}"))),
        ["access.quota_dry_run: is true: quotas only log and count, and refuse nobody"]
    );
    let collector = ["otlp_endpoint = \"https://collector.example:4317\"", "otlp_ca_file = \"tls.crt\""];
    let of_order = |lines: [&str; 2]| -> Vec<String> {
        let warnings = warnings(&working_and(&format!("[telemetry]\n{}", lines.join("\n"))));
        warnings.into_iter().filter(|warning| warning.contains("cut off")).collect()
    };
    assert_eq!(
        of_order(collector),
        [
            "telemetry.otlp_ca_file: should come before the first [[access.rules]] or before otlp_endpoint: without \
             this key, a file that was cut off would trust the system's authorities"
        ]
    );
    let [endpoint, authorities] = collector;
    assert_eq!(of_order([authorities, endpoint]), Vec::<String>::new());
    let with_variable = working_and("[audit]\nsink = \"off\"").replace("file = \"secret\"", "env = \"S\"");
    assert_eq!(
        warnings(&with_variable),
        [
            "api_clients.eu2.client_secret_env: a secret in the environment cannot be rotated without a restart, \
             and other programs may see it; prefer client_secret_file",
            "audit.sink: is \"off\": there will be no record of who got which token",
        ]
    );
    set("jwks.json", 0o666);
    set("gateway.toml", 0o646);
    let jwt = "[callers.jwt]\nissuer = \"i\"\naudience = \"a\"\njwks_file = \"jwks.json\"";
    assert_eq!(
        warnings(&working_and(jwt)),
        [
            ": every user of this machine can change the file, and so who may do what; chmod it to 0640",
            "callers.jwt.jwks_file: every user of this machine can change the file; chmod it to 0644",
        ]
    );
    let proxy = "proxy_url = \"http://user:canary@proxy.example:3128\"";
    let with_proxy = working_and("").replace("client_id", &format!("{proxy}\nclient_id"));
    for (mode, is_warned) in [(0o640, false), (0o644, true)] {
        set("gateway.toml", mode);
        let of_password = "api_clients.eu2.proxy_url: contains a password, and every user of this machine can read the file; \
             chmod it to 0640";
        assert_eq!(warnings(&with_proxy).iter().any(|warning| warning == of_password), is_warned, "{mode:o}");
    }
    set("secret", 0o602);
    assert_eq!(
        warnings(&working_and("")),
        [
            "api_clients.eu2.client_secret_file: every user of this machine can change the file; chmod it to 0400"
        ]
    );
    set("secret", 0o600);
    for (mode, is_warned) in [(0o777, true), (0o1777, false), (0o755, false)] {
        set("", mode);
        let warnings = warnings(&working_and(""));
        let of_folder = warnings.iter().filter(|warning| warning.contains("can replace the file"));
        assert_eq!(of_folder.count(), if is_warned { 2 } else { 0 }, "{mode:o}: {warnings:?}");
    }
    set("gateway.toml", 0o644);
    set("secret", 0o644);
    assert_eq!(
        warnings(&working_and("")),
        [
            "api_clients.eu2.client_secret_file: every user of this machine can read the file; chmod it to 0400"
        ]
    );
}

#[test]
fn certificates_that_are_not_valid_now_are_warnings() {
    let folder = Folder::new();
    let key = rcgen::KeyPair::generate().unwrap();
    fs::write(folder.folder.path().join("tls.key"), key.serialize_pem()).unwrap();
    let certificate = |from, until| {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        params.self_signed(&key).unwrap().pem()
    };
    let (expired, valid, not_yet) =
        (certificate(2000, 2020), certificate(2000, 4000), certificate(3000, 4000));
    let warnings = |chain: &str, authorities: &str| -> Vec<String> {
        fs::write(folder.folder.path().join("tls.crt"), chain).unwrap();
        fs::write(folder.folder.path().join("ca.crt"), authorities).unwrap();
        let tls = "[server.tls]\ncertificate_file = \"tls.crt\"\nprivate_key_file = \"tls.key\"\n\
                   client_ca_file = \"ca.crt\"";
        let warnings = folder.load(&format!("{tls}\n{}", working_and(""))).unwrap().warnings;
        let warnings = warnings.iter().map(|warning| format!("{}: {}", warning.key, warning.problem));
        warnings.filter(|warning| warning.contains("certificate ")).collect()
    };
    assert_eq!(warnings(&valid, &valid), Vec::<String>::new());
    assert_eq!(
        warnings(&format!("{expired}{expired}"), &format!("{valid}{expired}")),
        [
            "server.tls.certificate_file: certificate 1 of the file expired at 2020-01-01T00:00:00Z: \
             peers refuse it; renew it",
            "server.tls.certificate_file: certificate 2 of the file expired at 2020-01-01T00:00:00Z: \
             peers refuse it; renew it",
            "server.tls.client_ca_file: certificate 2 of the file expired at 2020-01-01T00:00:00Z: \
             peers refuse it; renew it",
        ]
    );
    assert_eq!(
        warnings(&not_yet, &valid),
        ["server.tls.certificate_file: certificate 1 of the file is not valid before 3000-01-01T00:00:00Z: \
             peers refuse it until then; check this machine's clock, or use the previous certificate"]
    );
}

#[test]
fn what_waits_for_a_restart_is_named() {
    let folder = Folder::new();
    let running = folder.load(&working_and("")).unwrap();
    let waiting = |text: &str| folder.load(text).unwrap().waiting_for_a_restart(&running);
    let forwarded = "[callers.forwarded]\nheader = \"l5d-client-id\"\nfrom = [\"loopback\"]";
    assert_eq!(waiting(&working_and("")), Vec::<&str>::new());
    assert_eq!(waiting(&working_and(forwarded)), ["callers.forwarded"]);
    let dry_run = format!("[access]\nquota_dry_run = true\n{RULE}");
    assert_eq!(waiting(&working_and("").replace(RULE, &dry_run)), Vec::<&str>::new());
    assert_eq!(waiting(&working_and("").replace("\"id\"", "\"other\"")), ["api_clients"]);
    let taken_over = format!(
        "[[access.rules]]\ncallers = [\"dns:a\"]\nusers = \"all\"\n[callers.tokens]\na = \"{TOKEN}\""
    );
    assert_eq!(waiting(&working_and(&taken_over)), Vec::<&str>::new());
}

#[test]
fn the_sandbox_is_open_and_quiet() {
    let listen: SocketAddr = "127.0.0.1:50051".parse().unwrap();
    let platform = Url::parse("http://127.0.0.1:8080").unwrap();
    let config = Config::sandbox(
        platform.clone(),
        listen,
        ClientSecret::parse(CANARY.as_bytes()).unwrap(),
        &BTreeMap::new(),
    );
    let config = config.unwrap();
    assert_eq!(config.telemetry.log_level, "warn");
    assert_eq!(config.admin.listen, None);
    assert_eq!(config.audit.sink, AuditSink::Off);
    assert!(config.server.reflection);
    assert!(!config.api_clients.by_name["sandbox"].breaker);
    assert_eq!(config.access.rules[0].rate, Rate::Unlimited);
    assert!(!format!("{config:?}").contains(CANARY));
    let trace = BTreeMap::from([("RUST_LOG".to_owned(), "trace".to_owned())]);
    let config =
        Config::sandbox(platform, listen, ClientSecret::parse(CANARY.as_bytes()).unwrap(), &trace).unwrap();
    assert_eq!(config.telemetry.log_level, "trace");
}
