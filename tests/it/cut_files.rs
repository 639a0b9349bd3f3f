//! Truncated configuration files are refused, or allow no more than the whole file.
//!
//! The tests cut the examples of the documentation, a file with every kind of key, and generated
//! files at every byte.

use std::{collections::BTreeMap, fs, num::NonZeroU32, path::Path, process::Command};

use ott_gateway::{
    access::{Question, Quotas, Rate, RuleSettings, Rules, Settings as Access, TokenUse},
    caller::{ClaimRequirement, Claims, Principal, TokenHashes},
    config::{Config, Reloadable},
    domain::{
        call::Method,
        ott::{Subject, SubjectKind, Users},
    },
};
use proptest::{prelude::*, sample::select};

use crate::docs::{Place, blocks, completed};

/// The number of the rule that allows each probe, if any.
fn decisions(rules: &[RuleSettings], probes: &[Probe]) -> Vec<Option<usize>> {
    if rules.is_empty() {
        return vec![None; probes.len()];
    }
    let rules = Rules::try_new(rules.to_vec()).expect("usable rules");
    let decide = |probe: &Probe| {
        let question = Question {
            caller: Principal { name: &probe.caller, claims: &probe.claims },
            token_use: probe.token_use(),
            api_client: &probe.api_client,
            user: probe.user.as_ref(),
        };
        rules.answer(question).deciding().map(|rule| rule.number)
    };
    probes.iter().map(decide).collect()
}

/// Whether the quotas of `rule` are no wider than those of `than`.
fn has_no_wider_quotas(rule: &RuleSettings, than: &RuleSettings) -> bool {
    let per_hour = |rate: Rate| match rate {
        Rate::Unlimited => f64::INFINITY,
        Rate::PerPeriod { calls, period } => f64::from(calls.get()) * 3600.0 / period.as_secs_f64(),
    };
    let in_flight = |rule: &RuleSettings| rule.max_in_flight.map_or(u32::MAX, NonZeroU32::get);
    per_hour(rule.rate) <= per_hour(than.rate)
        && rule.burst <= than.burst
        && per_hour(rule.user_rate) <= per_hour(than.user_rate)
        && rule.user_burst <= than.user_burst
        && in_flight(rule) <= in_flight(than)
}

struct Probe {
    caller: String,
    claims: Claims,
    method: Method,
    /// Whether an `IssueOtt` requests a login URL.
    login_url: bool,
    /// The caller that the token of a `LoginWithOtt` was issued to, if it is sealed.
    issued_by: Option<String>,
    api_client: String,
    user: Option<Subject>,
}

impl Probe {
    fn token_use(&self) -> TokenUse<'_> {
        match self.method {
            Method::IssueOtt => TokenUse::Issue { login_url: self.login_url },
            Method::LoginWithOtt => TokenUse::Login { issued_by: self.issued_by.as_deref() },
        }
    }
}

/// Probes for everything that the rules name, and for other names.
fn probes(access: &Access) -> Vec<Probe> {
    let plain = |pattern: &String| pattern.replace(['*', '?'], "x");
    let mut callers: Vec<String> =
        ["anonymous", "token:other", "dns:other", "jwt:other"].map(str::to_owned).into();
    let mut api_clients: Vec<String> = ["eu2", "other"].map(str::to_owned).into();
    let mut names = vec!["other".to_owned(), "7".to_owned()];
    let mut issuers: Vec<Option<String>> = vec![None];
    for rule in access.rules.iter().chain(&access.candidate_rules) {
        callers.extend(rule.callers.iter().map(plain));
        api_clients.extend(rule.api_clients.iter().flatten().map(plain));
        issuers.extend(rule.issued_by.iter().flatten().map(plain).map(Some));
        if let Users::Listed(patterns) = &rule.users {
            names.extend(patterns.iter().map(|pattern| pattern.text().replace(['*', '?'], "x")));
        }
    }
    let kinds = [SubjectKind::Login, SubjectKind::ExternalId, SubjectKind::UserId];
    let mut users: Vec<Option<Subject>> = vec![None];
    for name in names {
        users.extend(kinds.map(|kind| Subject::new(kind, name.clone()).ok()));
    }
    let all_values = |required: &ClaimRequirement| {
        required.values.iter().map(|value| (required.path.clone(), value.clone())).collect::<Vec<_>>()
    };
    let requirements = access.rules.iter().flat_map(|rule| &rule.claims);
    // Each required claim alone, and all of them.
    let mut claims: Vec<Claims> = requirements.clone().map(|claim| Claims::new(all_values(claim))).collect();
    claims.push(Claims::new(requirements.flat_map(all_values).collect()));
    claims.dedup();
    let without = vec![Claims::none()];
    let mut probes = Vec::new();
    let claims_of = |caller: &String| if caller.starts_with("jwt:") { &claims } else { &without };
    let callers =
        callers.iter().flat_map(|caller| claims_of(caller).iter().map(move |claims| (caller, claims)));
    for (caller, claims) in callers {
        for api_client in &api_clients {
            for user in &users {
                let probe = |method, login_url, issued_by| Probe {
                    caller: caller.clone(),
                    claims: claims.clone(),
                    method,
                    login_url,
                    issued_by,
                    api_client: api_client.clone(),
                    user: user.clone(),
                };
                probes.extend([false, true].map(|login_url| probe(Method::IssueOtt, login_url, None)));
                for issuer in &issuers {
                    probes.push(probe(Method::LoginWithOtt, false, issuer.clone()));
                }
            }
        }
    }
    probes
}

/// A whole file and what it allows.
struct Whole {
    access: Access,
    tokens: TokenHashes,
    probes: Vec<Probe>,
    decisions: Vec<Option<usize>>,
    candidate_decisions: Vec<Option<usize>>,
}

impl Whole {
    fn new(access: Access, tokens: TokenHashes) -> Self {
        let probes = probes(&access);
        let candidate_decisions = decisions(&access.candidate_rules, &probes);
        let decisions = decisions(&access.rules, &probes);
        assert!(decisions.iter().any(Option::is_some), "the whole file allows something");
        Self { access, tokens, probes, decisions, candidate_decisions }
    }

    /// Checks that a part of the file allows no more than the whole.
    fn assert_allows_at_least(&self, access: &Access, tokens: &TokenHashes, part: &str) {
        for (name, hashes) in tokens {
            assert_eq!(self.tokens.get(name), Some(hashes), "a token changed in:\n{part}");
        }
        for (rules, whole) in
            [(&access.rules, &self.decisions), (&access.candidate_rules, &self.candidate_decisions)]
        {
            let cut = decisions(rules, &self.probes);
            for ((cut, whole), probe) in cut.iter().zip(whole).zip(&self.probes) {
                let question = format!(
                    "{} {:?} {:?} {} {:?}",
                    probe.caller,
                    probe.claims,
                    probe.token_use(),
                    probe.api_client,
                    probe.user.as_ref().map(Subject::canonical)
                );
                assert!(
                    cut.is_none() || cut == whole,
                    "{question}: {cut:?} instead of {whole:?} in:\n{part}"
                );
            }
        }
        for (cut, whole) in access.rules.iter().zip(&self.access.rules) {
            assert!(has_no_wider_quotas(cut, whole), "{cut:?} instead of {whole:?} in:\n{part}");
        }
        let is_dry_run = |access: &Access| access.quotas == Quotas::DryRun;
        assert!(!is_dry_run(access) || is_dry_run(&self.access), "in:\n{part}");
    }
}

/// Cuts a file at every byte and checks the parts that a reload or the start accepts. Returns the
/// number of accepted parts.
fn cut_everywhere(file: &Path, environment: &BTreeMap<String, String>) -> usize {
    let text = fs::read(file).expect("the whole file");
    let config = Config::load(Some(file), environment).unwrap_or_else(|faults| panic!("{faults}"));
    let whole = Whole::new(config.access.clone(), config.callers.tokens.clone());
    let default_api_client = config.api_clients.default.as_deref();
    let mut accepted = 0;
    for end in 0..text.len() {
        let part = &text[..end];
        let Ok((reloadable, _)) = Reloadable::parse(file, part, environment, default_api_client) else {
            // The start is stricter than a reload, so it refuses this part too.
            continue;
        };
        accepted += 1;
        let shown = String::from_utf8_lossy(part);
        whole.assert_allows_at_least(&reloadable.access, &reloadable.tokens, &shown);
        fs::write(file, part).expect("can be written");
        let Ok(cut) = Config::load(Some(file), environment) else { continue };
        whole.assert_allows_at_least(&cut.access, &cut.callers.tokens, &shown);
        for (name, client) in &cut.api_clients.by_name {
            let whole = &config.api_clients.by_name[name];
            let [cut, whole] = [client, whole].map(|client| &client.connections.ca_file);
            assert_eq!(cut, whole, "other authorities are trusted in:\n{shown}");
        }
        let is_warned_about = config.warnings.iter().any(|warning| warning.key == "telemetry.otlp_ca_file");
        if let (Some(cut), false) = (&cut.telemetry.traces, is_warned_about) {
            let whole = config.telemetry.traces.as_ref().expect("traces");
            assert_eq!(cut.ca_file, whole.ca_file, "in:\n{shown}");
        }
        for jwt in &cut.callers.jwt {
            assert!(config.callers.jwt.contains(jwt), "an issuer changed in:\n{shown}");
        }
        if cut.callers.forwarded.is_some() {
            assert_eq!(cut.callers.forwarded, config.callers.forwarded, "in:\n{shown}");
        }
        let transport = &config.server.grpc.transport;
        if transport.asks_for_certificates() {
            assert_eq!(cut.server.grpc.transport, *transport, "in:\n{shown}");
        }
    }
    fs::write(file, text).expect("can be written");
    accepted
}

#[test]
fn truncated_documentation_examples_are_refused_or_narrower() {
    for block in blocks("toml") {
        let whole = if block.info == "toml part" { completed(&block.text) } else { block.text };
        let mut place = Place::new();
        let file = place.prepare(&whole);
        cut_everywhere(&file, place.environment());
    }
}

#[test]
fn truncated_file_with_every_kind_of_key_is_refused_or_narrower() {
    let mut place = Place::new();
    let file = place.prepare(EVERY_KIND_OF_KEY);
    assert!(cut_everywhere(&file, place.environment()) > 10, "some parts are accepted");
}

/// The start, `check-config` and reloads use the same reader; this runs the real binary.
#[test]
fn binary_refuses_a_file_truncated_before_the_users_of_a_rule() {
    let mut place = Place::new();
    let file = place.prepare(EVERY_KIND_OF_KEY);
    let text = fs::read_to_string(&file).expect("the file");
    // The key set is empty and would be refused.
    let (before, jwt) = text.split_once("[callers.jwt]").expect("an issuer");
    let (_, after) = jwt.split_once("[callers.forwarded]").expect("a table after it");
    let text = format!("{before}[callers.forwarded]{after}");
    let run = |text: &str| {
        fs::write(&file, text).expect("can be written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_ott-gateway"));
        command.args(["check-config", "--config"]).arg(&file).env_remove("RUST_LOG");
        command.envs(place.environment()).output().expect("the program runs")
    };
    let whole = run(&text);
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    let cut = run(text.split("logins = ").next().expect("a part"));
    let stderr = String::from_utf8_lossy(&cut.stderr).into_owned();
    assert_eq!(cut.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("must list its users in logins, external_ids or user_ids"), "{stderr}");
    assert!(stderr.contains("users = \"all\""), "{stderr}");
}

const EVERY_KIND_OF_KEY: &str = r#"
[server]
listen = "127.0.0.1:50051"
[server.tls]
certificate_file = "tls.crt"
private_key_file = "tls.key"
client_ca_file = "ca.crt"
client_auth = "optional"
[api_clients.eu2]
data_center_url = "https://eu2-cloud.acronis.com"
client_id = "id"
client_secret_file = "secret"
default = true
[access]
max_quota_users = 262144
quota_dry_run = false
[[access.rules]]
max_in_flight = 12
callers = [
  "token:ci", # the build
  "jwt:*",
]
methods = ["IssueOtt"]
api_clients = ["eu2"]
rate = "5/s"
burst = 60
user_rate = "10/min"
user_burst = 5
logins = [
  "*@customer.example",
  "anna@other.example",
]
external_ids = ["x-*"]
user_ids = ["3F2504E0-4F89-11D3-9A0C-0305E82C3301"]
[[access.rules]]
callers = ["token:ops"]
login_urls = false
logins = ["*@customer.example"]
[[access.rules]]
callers = ["jwt:portal"]
claims = { groups = ["a", "b"], "x/y" = true }
users = "all"
[[access.rules]]
callers = ["jwt:*"]
claims.scope = "write"
claims.level = [1, 2]
users = "all"
[[access.rules]]
name = "logins"
callers = ["*"]
methods = ["LoginWithOtt"]
users = "all"
rate = "unlimited"
[[access.tests]]
caller = "token:ci"
method = "IssueOtt"
user = "login:boris@customer.example"
api_client = "eu2"
expect = "allow"
[[access.tests]]
caller = "token:ops"
method = "LoginWithOtt"
user = "external_id:7"
expect = "allow"
rule = "logins"
[[access.tests]]
caller = "jwt:a"
claims = { groups = ["a", "b"] }
method = "IssueOtt"
user = "login:boris@other.example"
expect = "deny"
[[access.candidate_rules]]
callers = ["token:ci"]
methods = ["IssueOtt"]
user_burst = 5
logins = ["*@customer.example"]
external_ids = ["x-*"]
[[access.candidate_rules]]
callers = ["*"]
users = "all"
burst = 1000
[callers.tokens]
ci = [
  "sha256:7bb5d9c1d6ab2d1ae4f1a5b4b2f35a2cb9ab1f3d6f1d1e3d8f3d1c2b5a697887",
  "sha256:8bb5d9c1d6ab2d1ae4f1a5b4b2f35a2cb9ab1f3d6f1d1e3d8f3d1c2b5a697887",
]
ops = "sha256:9bb5d9c1d6ab2d1ae4f1a5b4b2f35a2cb9ab1f3d6f1d1e3d8f3d1c2b5a697887"
[callers.jwt]
issuer = "https://issuer.example"
typ = "at+jwt"
max_lifetime = "1h"
audience = "ott-gateway"
jwks_file = "jwks.json"
[callers.forwarded]
header = "x-forwarded-client-cert"
from = ["dns:envoy.example"]
[api_clients.us5]
data_center_url = "https://us5-cloud.acronis.com"
ca_file = "ca.crt"
client_id = "id"
client_secret_file = "secret"
[telemetry]
otlp_ca_file = "ca.crt"
otlp_endpoint = "https://collector.example:4317"
[audit]
sink = "off"
"#;

/// Lines of one table, in any order.
fn shuffled(lines: Vec<Option<String>>) -> impl Strategy<Value = String> {
    let lines: Vec<String> = lines.into_iter().flatten().collect();
    Just(lines).prop_shuffle().prop_map(|lines| lines.concat())
}

fn any_rule() -> impl Strategy<Value = String> {
    let optional = |key: &'static str, values: Vec<&'static str>| {
        prop::option::of(select(values))
            .prop_map(move |value| value.map(|value| format!("{key} = {value}\n")))
    };
    let keys = vec![
        optional("methods", vec!["[\"IssueOtt\"]", "[\"LoginWithOtt\"]", "[\"IssueOtt\", \"LoginWithOtt\"]"])
            .boxed(),
        optional("api_clients", vec!["[\"eu2\"]", "[\"*\"]"]).boxed(),
        optional("rate", vec!["\"1/h\"", "\"unlimited\"", "\"90/s\""]).boxed(),
        optional("burst", vec!["10", "1000"]).boxed(),
        optional("user_rate", vec!["\"1/h\"", "\"unlimited\""]).boxed(),
        optional("user_burst", vec!["3", "300"]).boxed(),
        optional("max_in_flight", vec!["10", "1_000"]).boxed(),
    ];
    let users = prop_oneof![
        Just(vec!["users = \"all\"\n"]),
        prop::sample::subsequence(
            vec!["logins = [\"*@x\"]\n", "external_ids = [\n\"e\",\n\"*7\"]\n", "user_ids = [\"7\"]\n"],
            1..=3
        ),
    ];
    let callers = select(vec!["\"*\"", "\"anonymous\"", "\"token:ci\"", "\"anonymous\", \"token:ci\""]);
    // Claims are only of callers that may have a JWT. Dotted keys may be apart from each other.
    let claims = prop_oneof![
        2 => Just(vec![]),
        1 => Just(vec!["claims = { groups = [\"a\",\n\"b\"], \"x/y\" = true }\n"]),
        1 => Just(vec!["claims.groups = \"a\"\n", "claims.level = [1]\n"]),
    ];
    (keys, claims, users, callers, any::<bool>()).prop_flat_map(
        |(mut keys, claims, users, callers, users_last)| {
            if callers.contains('*') {
                keys.extend(claims.into_iter().map(|line| Some(line.to_owned())));
            }
            keys.push(Some(format!("callers = [{callers}]\n")));
            let users = users.into_iter().map(|line| Some(line.to_owned()));
            let (first, last) = if users_last {
                (keys, users.collect())
            } else {
                (keys.into_iter().chain(users).collect(), vec![])
            };
            (shuffled(first), shuffled(last))
                .prop_map(|(first, last)| format!("[[access.rules]]\n{first}{last}"))
        },
    )
}

fn any_file() -> impl Strategy<Value = String> {
    const TOKENS: &str = "[callers.tokens]\n\
        ci = \"sha256:7bb5d9c1d6ab2d1ae4f1a5b4b2f35a2cb9ab1f3d6f1d1e3d8f3d1c2b5a697887\"\n";
    let line = |line: &str| Some(line.to_owned());
    let jwt = shuffled(vec![
        line("issuer = \"https://issuer.example\"\n"),
        line("audience = \"a\"\n"),
        line("jwks_file = \"jwks.json\"\n"),
        line("typ = \"at+jwt\"\n"),
        line("max_lifetime = \"1h\"\n"),
    ]);
    let tls = shuffled(vec![
        line("certificate_file = \"tls.crt\"\n"),
        line("private_key_file = \"tls.key\"\n"),
        line("client_ca_file = \"ca.crt\"\n"),
    ]);
    let client = shuffled(vec![
        line("data_center_url = \"https://eu2.example\"\n"),
        line("client_id = \"id\"\n"),
        line("client_secret_file = \"secret\"\n"),
        line("ca_file = \"ca.crt\"\n"),
    ]);
    let telemetry = shuffled(vec![
        line("otlp_endpoint = \"https://collector.example:4317\"\n"),
        line("otlp_ca_file = \"ca.crt\"\n"),
    ]);
    let rules = prop::collection::vec(any_rule(), 1..3);
    let candidates = prop::collection::vec(any_rule(), 1..3)
        .prop_map(|rules| rules.concat().replace("access.rules", "access.candidate_rules"));
    let tables = (rules, candidates, jwt, tls, client, telemetry);
    tables.prop_flat_map(|(rules, candidates, jwt, tls, client, telemetry)| {
        // The rules stay together: tables between them are valid but make no difference.
        let parts = vec![
            format!("[api_clients.eu2]\n{client}"),
            TOKENS.to_owned(),
            rules.concat(),
            candidates,
            format!("[callers.jwt]\n{jwt}"),
            format!("[server.tls]\n{tls}"),
            format!("[telemetry]\n{telemetry}"),
        ];
        (prop::sample::subsequence(parts, 3..=7), any::<prop::sample::Index>())
            .prop_flat_map(|(parts, _)| Just(parts).prop_shuffle())
            .prop_map(|parts| parts.concat())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { max_global_rejects: 20_000, ..ProptestConfig::with_cases(64) })]

    /// Files that are invalid as a whole are skipped.
    #[test]
    fn no_valid_file_allows_more_when_truncated(text in any_file()) {
        let folder = PLACE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let file = folder.0.join("gateway.toml");
        fs::write(&file, &text).expect("can be written");
        prop_assume!(Config::load(Some(&file), &BTreeMap::new()).is_ok());
        cut_everywhere(&file, &BTreeMap::new());
    }
}

/// A folder with the files that generated configurations refer to.
struct SharedFolder(std::path::PathBuf, #[expect(dead_code, reason = "removes the folder")] Place);

static PLACE: std::sync::LazyLock<std::sync::Mutex<SharedFolder>> = std::sync::LazyLock::new(|| {
    let mut place = Place::new();
    let file = place.prepare(EVERY_KIND_OF_KEY);
    let folder = file.parent().expect("a folder").to_owned();
    std::sync::Mutex::new(SharedFolder(folder, place))
});
