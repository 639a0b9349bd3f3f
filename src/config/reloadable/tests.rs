use std::{collections::BTreeMap, fs};

use proptest::prelude::*;

use super::*;

const TOKENS: &str = "[callers.tokens]
ci = \"sha256:0123456789abcdef0123456789abcdef0123456789ABCDEF0123456789abcdef\"
";
const RULES: &str = "[[access.rules]]
callers = [\"token:ci\"]
api_clients = [\"eu2\"]
rate = \"5/s\"
logins = [\"*@x\"]
";

fn parse(text: &str) -> Result<Reloadable, String> {
    parse_with(text, &BTreeMap::new())
}

fn parse_with(text: &str, environment: &BTreeMap<String, String>) -> Result<Reloadable, String> {
    Reloadable::parse(Path::new("gateway.toml"), text.as_bytes(), environment, Some("eu2"))
        .map(|(read, _)| read)
        .map_err(|errors| errors.to_string())
}

#[test]
fn errors_outside_rules_and_tokens_are_ignored() {
    let expected = parse(&format!("{TOKENS}{RULES}")).unwrap();
    for broken in [
        "[audit]\nhmac_key_file = \"nothing\"\nsink = 7",
        "audit = \"not a table\"",
        "[server]\nlisten = \"nowhere\"\nlisen = 1",
        "[server.tls]\ncertificate_file = \"nothing\"",
        "[api_clients.eu3]\nclient_secret_file = \"nothing\"",
        "api_clients = 7",
        "[telemetry]\nlog_level = \"loud\"",
        "[callers.jwt]\njwks_file = \"nothing\"",
        "[[callers.jwt]]\nname = 7",
        "[callers.forwarded]\nfrom = []",
        "[something.new]\nkey = 1",
    ] {
        // A top-level key goes before the first table.
        let text = if broken.starts_with('[') {
            format!("{TOKENS}{RULES}{broken}")
        } else {
            format!("{broken}\n{TOKENS}{RULES}")
        };
        assert_eq!(parse(&text).as_ref(), Ok(&expected), "{broken}");
    }
    let environment = [
        ("OTT_GATEWAY__SERVER__LISTEN", "nowhere"),
        ("OTT_GATEWAY__AUDIT", "x"),
        ("OTT_GATEWAY__API_CLIENTS__EU2__CLIENT_SECRET", "x"),
        ("OTT_GATEWAY_SERVER__REFLECTION", "x"),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(parse_with(&format!("{TOKENS}{RULES}"), &BTreeMap::from(environment)), Ok(expected));
}

#[test]
fn errors_in_rules_or_tokens_refuse_both() {
    for (text, error) in [
        (format!("{TOKENS}[access]\n"), "gateway.toml:3: access.rules: is missing"),
        (TOKENS.to_owned(), "gateway.toml: access.rules: is missing"),
        (format!("{TOKENS}{RULES}burst = 0"), "gateway.toml:8: access.rules[1].burst: must be"),
        (format!("{TOKENS}{RULES}[access]\nx = 1"), "access.x: unknown key"),
        (RULES.to_owned(), "gateway.toml:2: access.rules[1].callers[1]: is not the name of a token"),
        (format!("{TOKENS}x = 7\n{RULES}"), "gateway.toml:3: callers.tokens.x: must be a string"),
        (format!("callers = 7\n{RULES}"), "gateway.toml:1: callers: must be a table"),
        (format!("{TOKENS}{RULES}[audit\n"), "gateway.toml:8: not valid TOML"),
    ] {
        let refused = parse(&text).unwrap_err();
        assert!(refused.contains(error), "{text}: {refused}");
    }
    let wrong = [("OTT_GATEWAY__ACCESS__QUOTA_DRY_RUN".to_owned(), "x".to_owned())];
    let refused = parse_with(&format!("{TOKENS}{RULES}"), &BTreeMap::from(wrong)).unwrap_err();
    assert_eq!(refused, "OTT_GATEWAY__ACCESS__QUOTA_DRY_RUN: access.quota_dry_run: must be true or false");
}

#[test]
fn access_tests_are_for_the_default_api_client_of_the_running_gateway() {
    let access_test = "[[access.tests]]\ncaller = \"token:ci\"\nmethod = \"IssueOtt\"\nuser = \"a@x\"\nexpect = \"allow\"\n";
    let text = format!("{TOKENS}{RULES}{access_test}");
    let with_default = |default| {
        let parsed = Reloadable::parse(
            Path::new("gateway.toml"),
            text.as_bytes(),
            &BTreeMap::<String, String>::new(),
            default,
        );
        parsed.map(|(read, _)| read).map_err(|errors| errors.to_string())
    };
    assert_eq!(with_default(Some("eu2")), parse(&format!("{TOKENS}{RULES}")));
    let refused = with_default(Some("us5")).unwrap_err();
    let expected = "gateway.toml:8: access.tests[1]: expects allow, but no rule allows it: rule 1 is for other API clients";
    assert!(refused.starts_with(expected), "{refused}");
    let refused = with_default(None).unwrap_err();
    assert!(refused.starts_with("gateway.toml:8: access.tests[1].api_client: is missing"), "{refused}");
}

#[test]
fn misspelled_section_is_refused() {
    for (text, error) in [
        (format!("{TOKENS}{RULES}[[acces.rules]]"), "acces: unknown key; did you mean \"access\"?"),
        (format!("{TOKENS}{RULES}[caller.tokens]"), "caller: unknown key; did you mean \"callers\"?"),
        (format!("{TOKENS}{RULES}[callers.token]"), "callers.token: unknown key; did you mean \"tokens\"?"),
    ] {
        let refused = parse(&text).unwrap_err();
        assert_eq!(refused, format!("gateway.toml:8: {error}"));
    }
}

#[test]
fn environment_sets_tokens_and_the_dry_run() {
    let other = "sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";
    let environment = [
        ("OTT_GATEWAY__CALLERS__TOKENS__CI".to_owned(), other.to_owned()),
        ("OTT_GATEWAY__ACCESS__QUOTA_DRY_RUN".to_owned(), "true".to_owned()),
    ];
    let read = parse_with(&format!("{TOKENS}{RULES}"), &BTreeMap::from(environment)).unwrap();
    assert_eq!(read.tokens["ci"][0].0, [0xff; 32]);
    assert_eq!(read.access.quotas, access::Quotas::DryRun);
}

#[test]
fn result_equals_that_of_the_whole_configuration() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("secret"), "secret").unwrap();
    let client = "[api_clients.eu2]\ndata_center_url = \"https://eu2.example\"\nclient_id = \"id\"\n\
                  client_secret_file = \"secret\"\n";
    let text = format!("{TOKENS}{RULES}{client}");
    let file = folder.path().join("gateway.toml");
    fs::write(&file, &text).unwrap();
    let whole = super::super::Config::load(Some(&file), &BTreeMap::new()).unwrap();
    assert_eq!(parse(&text), Ok(whole.reloadable()));
}

proptest! {
    #[test]
    fn parsing_never_panics(contents in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Reloadable::parse(Path::new("gateway.toml"), &contents, &BTreeMap::new(), None);
    }
}
