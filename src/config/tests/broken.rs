//! The error text of each problem with a key.

use super::*;

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
            "gateway.toml:9: server.listen: is not a loopback address, so it needs [server.tls], or plaintext = true behind an encrypting mesh",
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
            "gateway.toml:9: server.tls.private_key_file: the file contains a certificate and not the private key; if the paths of the certificate and the private key are swapped, exchange them",
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
        &["gateway.toml:9: callers.jwt: must not be empty; remove the key if there is no issuer"],
    ),
    (
        "[[callers.jwt]]\nissuer = \"i\"\naudience = \"a\"\njwks_file = \"jwks.json\"",
        &[
            "gateway.toml:8: callers.jwt[1].name: is missing: [[callers.jwt]] needs a name; its callers are named jwt:NAME:SUBJECT",
        ],
    ),
    (
        "[[callers.jwt]]\nname = \"a:b\"\nissuer = \"i\"\naudience = \"a\"\njwks_file = \"jwks.json\"",
        &["gateway.toml:9: callers.jwt[1].name: must be 1 to 63 lower-case letters, digits and \"-\""],
    ),
    (
        "[[callers.jwt]]\nname = \"a\"\nissuer = \"i\"\naudience = \"a\"\njwks_file = \"jwks.json\"\n[[callers.jwt]]\nname = \"a\"\nissuer = \"i\"\naudience = \"b\"\njwks_file = \"jwks.json\"",
        &[
            "gateway.toml:14: callers.jwt[2].name: another issuer has the same name; give each issuer its own",
            "gateway.toml:15: callers.jwt[2].issuer: another table has the same issuer; its tokens would identify two callers",
        ],
    ),
    (
        "[[access.rules]]\ncallers = [\"jwt:cor*\", \"jwt:crop:*\", \"jwt:portal\", \"jwt:corp:*\", \"jwt:x*\", \"jwt:*\", \"jwt:corp\"]\nusers = \"all\"\n[[callers.jwt]]\nname = \"corp\"\nissuer = \"i\"\naudience = \"a\"\njwks_file = \"jwks.json\"",
        &[
            "gateway.toml:9: access.rules[2].callers[2]: no issuer in [[callers.jwt]] has this name: write jwt:NAME:SUBJECT; did you mean \"jwt:corp:\"?",
            "gateway.toml:9: access.rules[2].callers[3]: no issuer in [[callers.jwt]] has this name: write jwt:NAME:SUBJECT",
            "gateway.toml:9: access.rules[2].callers[5]: no issuer in [[callers.jwt]] has this name: write jwt:NAME:SUBJECT",
            "gateway.toml:9: access.rules[2].callers[7]: has no subject: write jwt:corp:SUBJECT",
        ],
    ),
    (
        "[[access.rules]]\ncallers = [\"dns:a\"]\napi_clients = [\"*\", \"none*\", \"nine\"]\nrate = \"0/s\"\nuser_rate = \"4294967296/s\"\nusers = \"all\"",
        &[
            "gateway.toml:10: access.rules[2].api_clients[2]: matches no API client in [api_clients]",
            "gateway.toml:10: access.rules[2].api_clients[3]: is not the name of an API client in [api_clients]",
            "gateway.toml:11: access.rules[2].rate: must be 1 to 1000000 calls per period",
            "gateway.toml:12: access.rules[2].user_rate: must be 1 to 1000000 calls per period",
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
            "gateway.toml:9: callers.tokens.billing: is the hash of a token that is easy to guess; generate one with \"head -c 32 /dev/urandom | base64\"",
        ],
    ),
    (
        "[callers.forwarded]\nheader = \"l5d-client-id\"",
        &[
            "gateway.toml:8: callers.forwarded.from: is missing: the trusted proxies, such as [\"loopback\"]; the header is ignored from any other peer",
        ],
    ),
    (
        "[callers.forwarded]\nheader = \"l5d-client-id\"\nfrom = [\"loopback\",\n\"10.0.0.0/8\",\n\"0.0.0.0\",\n\"spiffe://mesh/*\"]",
        &[
            "gateway.toml:11: callers.forwarded.from[2]: must be \"loopback\", an IP address, a SPIFFE id (\"spiffe://…\") or \"dns:NAME\"",
            "gateway.toml:12: callers.forwarded.from[3]: must be the address of one peer, not an unspecified or multicast address",
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
            "gateway.toml:9: audit.sink: must be \"stdout\", \"off\", or the path of a file that contains a \"/\"",
        ],
    ),
    (
        "[audit]\nhmac_key_file = \"short\"",
        &["gateway.toml:9: audit.hmac_key_file: the key is too short: it needs at least 32 bytes"],
    ),
    ("[audit]\nhmac_key_file = \"nothing\"", &["gateway.toml:9: audit.hmac_key_file: nothing: no such file"]),
    ("[access.rules]\nx = 1", &["gateway.toml:8: not valid TOML: duplicate key"]),
];

#[test]
fn every_error_contains_file_line_key_and_rule() {
    let folder = Folder::new();
    for (part, expected) in BROKEN {
        assert_eq!(folder.errors(&working_and(part)), *expected, "{part}");
    }
    assert_eq!(
        folder.errors(&format!("server = 1\n{}", working_and(""))),
        ["gateway.toml:1: server: must be a table, not an integer"]
    );
    folder.load(&working_and("")).expect("the configuration is valid without the error");
}
