//! API clients and their secrets.

use super::*;

#[test]
fn every_error_of_an_api_client_is_reported() {
    let table: &[Broken] = &[
        (
            "",
            &[
                "gateway.toml:1: api_clients.eu2.data_center_url: is missing: the data center's URL, such as \"https://eu2-cloud.acronis.com\"",
                "gateway.toml:1: api_clients.eu2.client_id: is missing: the API client's id",
                "gateway.toml:1: api_clients.eu2.client_secret_file: is missing: set it to the file of the secret, or set client_secret_env or client_secret_credential",
            ],
        ),
        (
            "data_center_url = \"http://eu2-cloud.acronis.com\"\nclient_id = \"\"\nclient_secret_file = \"nothing\"",
            &[
                "gateway.toml:2: api_clients.eu2.data_center_url: must be https (plain http is for loopback addresses only)",
                "gateway.toml:3: api_clients.eu2.client_id: must not be empty",
                "gateway.toml:4: api_clients.eu2.client_secret_file: nothing: no such file",
            ],
        ),
        (
            "data_center_url = \"eu2\"\nclient_id = \"a:b\"\nclient_secret_file = \".\"",
            &[
                "gateway.toml:2: api_clients.eu2.data_center_url: must be a URL with a scheme, \"://\" and a host, such as \"https://host.example:443\"",
                "gateway.toml:3: api_clients.eu2.client_id: must be at most 255 visible ASCII characters without a colon",
                "gateway.toml:4: api_clients.eu2.client_secret_file: FOLDER: is a directory; name a file",
            ],
        ),
        (
            "data_center_url = \"https://u:p@eu2\"\nclient_id = \"id\"\nclient_secret_file = \"empty\"",
            &[
                "gateway.toml:2: api_clients.eu2.data_center_url: must not contain a user or a password",
                "gateway.toml:4: api_clients.eu2.client_secret_file: the secret is blank; copy the secret that the platform displayed",
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
                "gateway.toml:5: api_clients.eu2.client_secret_env: cannot be combined with client_secret_file; remove one of them",
                "gateway.toml:5: api_clients.eu2.client_secret_env: this environment variable is not set",
                "gateway.toml:6: api_clients.eu2.client_secret_credential: cannot be combined with client_secret_file; remove one of them",
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
                "gateway.toml:5: api_clients.eu2.proxy_url: needs a data_center_url with https: over http the proxy could read every secret",
            ],
        ),
    ];
    let folder = Folder::new();
    for (part, expected) in table {
        let text = format!("[api_clients.eu2]\n{part}\n{RULE}");
        assert_eq!(folder.errors(&text), *expected, "{part}");
    }
}

/// A newline added by `echo` is not part of a secret, and a secret that cannot be sent is refused,
/// regardless of its source.
#[test]
fn secrets_from_all_three_sources_follow_the_same_rules() {
    let folder = Folder::new().with("CREDENTIALS_DIRECTORY", "/nowhere");
    let base = "[api_clients.eu2]\ndata_center_url = \"https://eu2\"\nclient_id = \"id\"\n";
    let sources = ["client_secret_file", "client_secret_env", "client_secret_credential"];
    let errors = |text: &str| -> Vec<(String, Vec<String>)> {
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
                Err(errors) => errors.iter().map(|error| error.problem.to_string()).collect(),
                Ok(config) => {
                    let warnings = config.warnings.iter().map(|warning| warning.problem.to_string());
                    // Warnings about the source of the secret differ.
                    warnings.filter(|warning| warning.starts_with("the secret ")).collect()
                }
            }
        };
        sources.iter().map(|source| ((*source).to_owned(), of(source))).collect()
    };
    let line_break =
        "the secret contains a line break; write it on one line, with at most one newline at the end";
    let blank = "the secret is blank; copy the secret that the platform displayed";
    let outer_space = "the secret begins or ends with whitespace, which is sent as part of it";
    let doubtful_quote = "the secret begins or ends with a quotation mark, which is sent as part of it";
    let table: [(&str, &[&str]); 12] = [
        ("s3cret", &[]),
        ("s3cret\n", &[]),
        ("s3cret\r\n", &[]),
        (" s3cret\n", &[outer_space]),
        ("\"s3cret\"", &[doubtful_quote]),
        ("s3cret\n\n", &[line_break]),
        ("s3cret\nsecond", &[line_break]),
        (
            "s3\u{1b}cret",
            &[
                "the secret contains a control character; copy only the characters that the platform displayed",
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
        for (source, found) in errors(text) {
            assert_eq!(found, expected, "{source}: {text:.20?}");
        }
    }
}

#[test]
fn newline_at_the_end_of_a_variable_is_not_part_of_the_secret() {
    for value in ["s3cret\n", "s3cret\r\n"] {
        let folder = Folder::new().with("SECRET", value);
        let config = folder.load(&working_and("").replace("file = \"secret\"", "env = \"SECRET\"")).unwrap();
        let SecretSource::Fixed(secret) = &config.api_clients.by_name["eu2"].credential.secret else {
            panic!("the secret is in a variable");
        };
        assert_eq!(secret.expose(), "s3cret");
    }
}

#[test]
fn two_defaults_are_refused_and_no_default_is_accepted() {
    let folder = Folder::new();
    let second = CLIENT.replace("eu2]", "us5]");
    let both = format!("{CLIENT}default = true\n{second}default = true\n{RULE}");
    assert_eq!(
        folder.errors(&both),
        [
            "gateway.toml:10: api_clients.us5.default: only one API client can be the default, and \"eu2\" already is"
        ]
    );
    assert_eq!(folder.load(&format!("{CLIENT}{second}{RULE}")).unwrap().api_clients.default, None);
    let refused = format!("{CLIENT}default = false\n{RULE}");
    assert_eq!(folder.load(&refused).unwrap().api_clients.default, None);
}

#[test]
fn api_client_can_be_configured_by_the_environment_alone() {
    let config = Folder::new()
        .with("OTT_GATEWAY__API_CLIENTS__US5__DATA_CENTER_URL", "https://us5-cloud.acronis.com")
        .with("OTT_GATEWAY__API_CLIENTS__US5__CLIENT_ID", "id")
        .with("OTT_GATEWAY__API_CLIENTS__US5__CLIENT_SECRET_ENV", "SECRET")
        .with("SECRET", CANARY)
        .load(RULE)
        .unwrap();
    assert_eq!(config.api_clients.default.as_deref(), Some("us5"));
    let SecretSource::Fixed(secret) = &config.api_clients.by_name["us5"].credential.secret else {
        panic!("the secret is in a variable");
    };
    assert_eq!(secret.expose(), CANARY);
    assert!(!format!("{config:?}").contains(CANARY));
}
