mod api_clients;
mod broken;
mod candidate_rules;
mod claims;
mod environment;
mod files;
mod findings;
mod strictness;
mod token_binding;
mod token_uses;
mod values;
mod warnings;
mod whole;

use std::{collections::BTreeMap, fs, net::SocketAddr, time::Duration};

use tempfile::TempDir;
use url::Url;

use super::*;
use crate::{
    access::{Rate, RuleSettings},
    base::secret::client_secret::ClientSecret,
    caller::{BearerTokenHash, ForwardedFrom, ForwardedHeader},
    credential::SecretSource,
    domain::ott::Users,
    observe::audit::Sink,
    server::tls::ClientAuth,
    token_binding::{KeySource, Mode},
};

const TOKEN: &str = "sha256:0123456789abcdef0123456789abcdef0123456789ABCDEF0123456789abcdef";
const OTHER_TOKEN: &str = "sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";
const CANARY: &str = "canary-5f0c";
/// Two keys of sealed tokens.
const KEYS: &str = "2026-11 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=
2026-12 ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=
";

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
        file("token-keys", KEYS.as_bytes());
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

    fn load(&self, text: &str) -> Result<Config, Errors> {
        let path = self.folder.path().join("gateway.toml");
        fs::write(&path, text).unwrap();
        Config::load(Some(&path), &self.environment)
    }

    /// Returns the errors as lines, without the folder's random name.
    fn errors(&self, text: &str) -> Vec<String> {
        let errors = self.load(text).expect_err("the configuration is not valid");
        let folder = self.folder.path().display().to_string();
        let without = |error: String| error.replace(&format!("{folder}/"), "").replace(&folder, "FOLDER");
        errors.iter().map(|error| without(error.to_string())).collect()
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

/// Returns a valid configuration with an additional part, which starts at line 8.
fn working_and(part: &str) -> String {
    format!("{CLIENT}{RULE}{part}")
}

/// Returns a configuration with every key.
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
bind_tokens = "on"
[api_clients.local]
data_center_url = "http://127.0.0.1:8080"
client_id = "id"
client_secret_env = "LOCAL_SECRET"
bind_tokens = "accept_raw"
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
[token_binding]
keys_file = "token-keys"
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

/// Returns a folder with the files and variables for [`with_every_key`].
fn folder_for_every_key() -> Folder {
    let folder = Folder::new().with("LOCAL_SECRET", CANARY);
    let credentials = folder.folder.path().display().to_string();
    folder.with("CREDENTIALS_DIRECTORY", &credentials)
}

/// An invalid part of a configuration, and the expected errors.
type Broken = (&'static str, &'static [&'static str]);
