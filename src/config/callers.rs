//! `[callers.jwt]`, `[callers.tokens]` and `[callers.forwarded]`: by what else than a
//! client certificate a caller can prove who it is. Each is off unless configured.

use std::{collections::BTreeMap, fmt, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use url::Url;

use super::{
    api_clients, common_tokens,
    fault::Problem,
    file::Value,
    named_file,
    section::Section,
    server::{ClientAuth, Server},
    value,
};

/// The hashes of bearer tokens, by the names of their callers.
pub type Tokens = BTreeMap<Arc<str>, Vec<TokenHash>>;

/// How callers may prove who they are, besides certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Callers {
    /// `[callers.jwt]`, without a name, or `[[callers.jwt]]`, each with one.
    pub jwt: Vec<Jwt>,
    /// `[callers.tokens]`: the name of each caller with a bearer token, and the SHA-256
    /// of the token; a list of two while one token replaces another.
    pub tokens: Tokens,
    /// `[callers.forwarded]`.
    pub forwarded: Option<Forwarded>,
}

/// JSON web tokens (RS, ES and `EdDSA` only).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwt {
    /// `name`: distinguishes the callers of several issuers; only in `[[callers.jwt]]`, and
    /// required there.
    pub name: Option<Arc<str>>,
    /// `issuer`: the `iss` that a token must have.
    pub issuer: String,
    /// `audience`: the `aud` that a token must have.
    pub audience: String,
    /// `typ`: the media type that the header of a token must have; none: any.
    pub typ: Option<String>,
    /// `max_lifetime`: maximum time between `iat` and `exp`; none: any; from 1 s to a year.
    pub max_lifetime: Option<Duration>,
    /// `jwks_file` or `jwks_url`: the keys that sign tokens.
    pub keys: JwksSource,
}

/// Where a set of keys (RFC 7517) is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwksSource {
    /// `jwks_file`: read again when it changes.
    File(PathBuf),
    /// `jwks_url`: https (http on loopback only), and `jwks_ca_file`: the only
    /// authorities that its certificate may come from, in PEM (none: the system's).
    Url {
        /// The URL.
        url: Url,
        /// The authorities.
        ca_file: Option<PathBuf>,
        /// `jwks_max_age`: how long after a fetch its keys are accepted; 24 h, from 10 min to 30
        /// days.
        max_age: Duration,
    },
}

/// The SHA-256 of a bearer token. Not shown, although a long random token cannot be found
/// from it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash(pub [u8; 32]);

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[sha256]")
    }
}

/// A proxy that identifies callers for us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// `header`: the header that names the caller.
    pub header: ForwardedHeader,
    /// `from`: the peers that may send it; at least one.
    pub from: Vec<ForwardedFrom>,
}

/// The header in which a proxy names the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// "x-forwarded-client-cert", as Envoy sends it; its last element counts.
    XForwardedClientCert,
    /// "l5d-client-id", as Linkerd sends it.
    L5dClientId,
}

/// A proxy that is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardedFrom {
    /// "loopback": every peer on this machine.
    Loopback,
    /// An IP address: every peer with it.
    Address(IpAddr),
    /// `"spiffe://…"`: every peer whose certificate has that SPIFFE id, here in full.
    Spiffe(String),
    /// `"dns:NAME"`: every peer whose certificate has that DNS name, here without "dns:".
    Dns(String),
}

/// How long after a fetch keys are accepted.
const JWKS_MAX_AGE: Duration = Duration::from_hours(24);

const HEADERS: &[(&str, ForwardedHeader)] = &[
    ("x-forwarded-client-cert", ForwardedHeader::XForwardedClientCert),
    ("l5d-client-id", ForwardedHeader::L5dClientId),
];

impl Callers {
    pub(super) fn read(mut section: Section<'_>, server: &Server) -> Self {
        let callers = Self {
            jwt: Self::jwts(&mut section),
            tokens: section.optional_table("tokens").map(|table| tokens(&table)).unwrap_or_default(),
            forwarded: section.optional_table("forwarded").and_then(|table| Forwarded::read(table, server)),
        };
        section.finish();
        callers
    }

    fn jwts(section: &mut Section<'_>) -> Vec<Jwt> {
        let Some(Value::List(items)) = section.node("jwt") else {
            return section
                .optional_table("jwt")
                .and_then(|table| Jwt::read(table, None))
                .into_iter()
                .collect();
        };
        if items.is_empty() {
            section.fault("jwt", Problem::rule("must not be empty; leave the key out if there is no issuer"));
        }
        let mut issuers = Vec::new();
        for table in section.list_of_tables("jwt") {
            issuers.extend(Jwt::read(table, Some(&issuers)));
        }
        issuers
    }
}

impl Jwt {
    /// `others` are the issuers before it in `[[callers.jwt]]`; none in `[callers.jwt]`.
    fn read(mut section: Section<'_>, others: Option<&[Self]>) -> Option<Self> {
        const HINT: &str = "[callers.jwt] needs issuer, audience, and jwks_file or jwks_url";
        const NAME: &str = "[[callers.jwt]] needs a name, which callers' names begin with: jwt:NAME:SUBJECT";
        let name = match others {
            Some(_) => section.required("name", NAME, issuer_name),
            None => None,
        };
        let issuer = section.required("issuer", HINT, value::text);
        let audience = section.required("audience", HINT, value::text);
        let typ = section.optional("typ", media_type);
        let lifetimes = Duration::from_secs(1)..=Duration::from_hours(24 * 365 + 6);
        let max_lifetime = section.optional("max_lifetime", value::duration(lifetimes));
        match (section.has("jwks_file"), section.has("jwks_url")) {
            (false, false) => section.fault("jwks_file", Problem::Missing(HINT)),
            (true, true) => {
                section.fault(
                    "jwks_url",
                    Problem::rule("only one source of keys is allowed, and jwks_file is set as well; remove one of them"),
                );
            }
            _ => {}
        }
        for key in ["jwks_ca_file", "jwks_max_age"] {
            if section.has(key) && !section.has("jwks_url") {
                section.fault(key, Problem::rule("needs jwks_url"));
            }
        }
        let file = named_file::jwks(&mut section, "jwks_file").map(JwksSource::File);
        let ca_file = named_file::authorities(&mut section, "jwks_ca_file");
        let ages = Duration::from_mins(10)..=Duration::from_hours(24 * 30);
        let max_age = section.optional("jwks_max_age", value::duration(ages)).unwrap_or(JWKS_MAX_AGE);
        let url = section.optional("jwks_url", value::secure_url).map(|url| JwksSource::Url {
            url,
            ca_file,
            max_age,
        });
        for other in others.unwrap_or_default() {
            if name.is_some() && name == other.name {
                section
                    .fault("name", Problem::rule("is the name of another issuer as well; give each its own"));
            }
            if issuer.as_ref() == Some(&other.issuer) {
                section.fault(
                    "issuer",
                    Problem::rule(
                        "is the issuer of another table as well; its tokens would identify two callers",
                    ),
                );
            }
        }
        section.finish();
        if others.is_some() && name.is_none() {
            return None;
        }
        Some(Self { name, issuer: issuer?, audience: audience?, typ, max_lifetime, keys: file.or(url)? })
    }
}

fn issuer_name(value: &Value) -> Result<Arc<str>, Problem> {
    let name = value::text(value)?;
    let is_sound = name.len() <= 63
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if is_sound {
        Ok(Arc::from(name))
    } else {
        Err(Problem::rule("must be 1 to 63 lower-case letters, digits and \"-\""))
    }
}

fn media_type(value: &Value) -> Result<String, Problem> {
    let typ = value::text(value)?;
    if typ.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';') {
        Ok(typ)
    } else {
        Err(Problem::rule("must be a media type without parameters, such as \"at+jwt\""))
    }
}

/// `[callers.tokens]`.
pub(super) fn tokens(section: &Section<'_>) -> Tokens {
    let mut tokens = Tokens::new();
    for name in section.keys() {
        if !api_clients::is_name(name) {
            section.fault(
                name,
                Problem::rule(
                    "the name must be 1 to 64 lower-case letters, digits, \"-\" and \"_\", without \"__\"",
                ),
            );
        }
        let Some(hashes) = section.one_or_more(name, token_hash) else { continue };
        if let Some((other, _)) =
            tokens.iter().find(|(_, others)| others.iter().any(|hash| hashes.contains(hash)))
        {
            section.fault(name, Problem::rule(format!("is the same token as that of \"{other}\"")));
        }
        tokens.insert(Arc::from(name), hashes);
    }
    let hashes = tokens.values().flatten().map(|hash| hash.0).collect();
    let common = common_tokens::among(&hashes);
    for (name, _) in tokens.iter().filter(|(_, hashes)| hashes.iter().any(|hash| common.contains(&hash.0))) {
        section.fault(
            name,
            Problem::rule(
                "is the hash of a common word, which anybody can guess; make a token with \
                 \"head -c 32 /dev/urandom | base64\"",
            ),
        );
    }
    tokens
}

fn token_hash(value: &Value) -> Result<TokenHash, Problem> {
    let rule = || {
        Problem::rule(
            "must be \"sha256:\" and the 64 hexadecimal digits of the token's SHA-256, not the token itself",
        )
    };
    let text = value::text(value)?;
    let digits = text.strip_prefix("sha256:").ok_or_else(rule)?;
    if digits.len() != 64 || !digits.is_ascii() {
        return Err(rule());
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.as_bytes().chunks(2)) {
        let [high, low] = pair else { return Err(rule()) };
        let digit = |letter: u8| char::from(letter).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = digit(*high).ok_or_else(rule)? << 4 | digit(*low).ok_or_else(rule)?;
    }
    Ok(TokenHash(hash))
}

impl Forwarded {
    fn read(mut section: Section<'_>, server: &Server) -> Option<Self> {
        let header = section.required(
            "header",
            "\"x-forwarded-client-cert\" or \"l5d-client-id\"",
            value::word(HEADERS),
        );
        if !section.has("from") {
            section.fault(
                "from",
                Problem::Missing(
                    "who may send it, such as [\"loopback\"]; the header of any other peer is ignored",
                ),
            );
        }
        let from = section.list("from", from);
        let wants_certificate = from
            .iter()
            .flatten()
            .any(|from| matches!(from, ForwardedFrom::Spiffe(_) | ForwardedFrom::Dns(_)));
        let asks_for_one = server.tls.as_ref().is_some_and(|tls| tls.client_auth != ClientAuth::Off);
        // A faulty [server.tls] is a fault of its own.
        if wants_certificate && !asks_for_one {
            section.warning(
                "from",
                "names certificates, but no client shows one without client_auth in [server.tls]",
            );
        }
        section.finish();
        Some(Self { header: header?, from: from? })
    }
}

fn from(value: &Value) -> Result<ForwardedFrom, Problem> {
    let text = value::text(value)?;
    if text.contains(['*', '?']) {
        return Err(Problem::rule("must name one proxy exactly, without wildcards"));
    }
    if text == "loopback" {
        Ok(ForwardedFrom::Loopback)
    } else if let Ok(address) = text.parse::<IpAddr>() {
        if address.is_unspecified() || address.is_multicast() {
            return Err(Problem::rule("must be an address that a peer can connect from"));
        }
        Ok(ForwardedFrom::Address(address))
    } else if text.strip_prefix("spiffe://").is_some_and(|id| !id.is_empty()) {
        Ok(ForwardedFrom::Spiffe(text))
    } else if let Some(name) = text.strip_prefix("dns:").filter(|name| !name.is_empty()) {
        Ok(ForwardedFrom::Dns(name.to_owned()))
    } else {
        Err(Problem::rule(
            "must be \"loopback\", an IP address, a SPIFFE id (\"spiffe://…\") or \"dns:NAME\"",
        ))
    }
}
