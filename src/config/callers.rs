//! `[callers.jwt]`, `[callers.tokens]` and `[callers.forwarded]`: caller authentication other than
//! client certificates. Each is off unless configured.

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::{
    api_clients, common_tokens, finding::Problem, named_file, section::Section, server::Server, tree::Value,
    value,
};
use crate::caller::{
    BearerTokenHash, DNS_PREFIX, ForwardedFrom, ForwardedHeader, ForwardedSettings, JwksSource, JwksUrl,
    JwtSettings, SPIFFE_PREFIX, TokenHashes, is_issuer_name,
};

/// How callers may authenticate, besides client certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Callers {
    /// `[callers.jwt]`, without a name, or `[[callers.jwt]]`, each with one.
    pub jwt: Vec<JwtSettings>,
    /// `[callers.tokens]`: the name of each caller with a bearer token, and the SHA-256 of its
    /// token, or of two tokens during a rotation.
    pub tokens: TokenHashes,
    /// `[callers.forwarded]`.
    pub forwarded: Option<ForwardedSettings>,
}

/// Default of `jwks_max_age`: how long fetched keys are accepted.
const JWKS_MAX_AGE: Duration = Duration::from_hours(24);

const HEADERS: &[(&str, ForwardedHeader)] =
    &[("x-forwarded-client-cert", ForwardedHeader::Xfcc), ("l5d-client-id", ForwardedHeader::L5dClientId)];

impl Callers {
    pub(super) fn read(mut section: Section<'_>, server: &Server) -> Self {
        let callers = Self {
            jwt: Self::jwts(&mut section),
            tokens: section.optional_table("tokens").map(|table| tokens(&table)).unwrap_or_default(),
            forwarded: section.optional_table("forwarded").and_then(|table| read_forwarded(table, server)),
        };
        section.finish();
        callers
    }

    fn jwts(section: &mut Section<'_>) -> Vec<JwtSettings> {
        let Some(Value::List(items)) = section.node("jwt") else {
            return section
                .optional_table("jwt")
                .and_then(|table| read_jwt(table, None))
                .into_iter()
                .collect();
        };
        if items.is_empty() {
            section.error("jwt", Problem::rule("must not be empty; remove the key if there is no issuer"));
        }
        let mut issuers = Vec::new();
        for table in section.list_of_tables("jwt") {
            issuers.extend(read_jwt(table, Some(&issuers)));
        }
        issuers
    }
}

/// Reads one issuer. `others` are those before it in `[[callers.jwt]]`; `None` for `[callers.jwt]`.
fn read_jwt(mut section: Section<'_>, others: Option<&[JwtSettings]>) -> Option<JwtSettings> {
    const HINT: &str = "[callers.jwt] needs issuer, audience, and jwks_file or jwks_url";
    const NAME: &str = "[[callers.jwt]] needs a name; its callers are named jwt:NAME:SUBJECT";
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
        (false, false) => section.error("jwks_file", Problem::Missing(HINT)),
        (true, true) => {
            section.error("jwks_url", Problem::rule("cannot be combined with jwks_file; remove one of them"));
        }
        _ => {}
    }
    for key in ["jwks_ca_file", "jwks_max_age"] {
        if section.has(key) && !section.has("jwks_url") {
            section.error(key, Problem::rule("needs jwks_url"));
        }
    }
    let file = named_file::jwks(&mut section, "jwks_file").map(JwksSource::File);
    let ca_file = named_file::authorities(&mut section, "jwks_ca_file");
    let ages = Duration::from_mins(10)..=Duration::from_hours(24 * 30);
    let max_age = section.optional("jwks_max_age", value::duration(ages)).unwrap_or(JWKS_MAX_AGE);
    let url = section
        .optional("jwks_url", value::secure_url)
        .map(|url| JwksSource::Url(JwksUrl { url, ca_file, max_age }));
    for other in others.unwrap_or_default() {
        if name.is_some() && name == other.name {
            section
                .error("name", Problem::rule("another issuer has the same name; give each issuer its own"));
        }
        if issuer.as_ref() == Some(&other.issuer) {
            section.error(
                "issuer",
                Problem::rule("another table has the same issuer; its tokens would identify two callers"),
            );
        }
    }
    section.finish();
    if others.is_some() && name.is_none() {
        return None;
    }
    Some(JwtSettings { name, issuer: issuer?, audience: audience?, typ, max_lifetime, jwks: file.or(url)? })
}

fn issuer_name(value: &Value) -> Result<Arc<str>, Problem> {
    let name = value::text(value)?;
    if is_issuer_name(&name) {
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
pub(super) fn tokens(section: &Section<'_>) -> TokenHashes {
    let mut tokens = TokenHashes::new();
    for name in section.keys() {
        if !api_clients::is_name(name) {
            section.error(
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
            section.error(
                name,
                Problem::rule(format!("\"{other}\" has the same token; give each caller its own")),
            );
        }
        tokens.insert(Arc::from(name), hashes);
    }
    let hashes = tokens.values().flatten().map(|hash| hash.0).collect();
    let common = common_tokens::among(&hashes);
    for (name, _) in tokens.iter().filter(|(_, hashes)| hashes.iter().any(|hash| common.contains(&hash.0))) {
        section.error(
            name,
            Problem::rule(
                "is the hash of a token that is easy to guess; generate one with \
                 \"head -c 32 /dev/urandom | base64\"",
            ),
        );
    }
    tokens
}

fn token_hash(value: &Value) -> Result<BearerTokenHash, Problem> {
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
    Ok(BearerTokenHash(hash))
}

fn read_forwarded(mut section: Section<'_>, server: &Server) -> Option<ForwardedSettings> {
    let header = section.required(
        "header",
        "\"x-forwarded-client-cert\" or \"l5d-client-id\"",
        value::one_of(HEADERS),
    );
    if !section.has("from") {
        section.error(
            "from",
            Problem::Missing(
                "the trusted proxies, such as [\"loopback\"]; the header is ignored from any other peer",
            ),
        );
    }
    let from = section.list("from", from);
    let wants_certificate =
        from.iter().flatten().any(|from| matches!(from, ForwardedFrom::Spiffe(_) | ForwardedFrom::Dns(_)));
    // An invalid [server.tls] is reported separately.
    if wants_certificate && !server.grpc.transport.asks_for_certificates() {
        section.warning(
            "from",
            "contains certificate names, but clients present no certificate without client_auth in [server.tls]",
        );
    }
    section.finish();
    Some(ForwardedSettings { header: header?, from: from? })
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
            return Err(Problem::rule(
                "must be the address of one peer, not an unspecified or multicast address",
            ));
        }
        Ok(ForwardedFrom::Address(address))
    } else if text.strip_prefix(SPIFFE_PREFIX).is_some_and(|id| !id.is_empty()) {
        Ok(ForwardedFrom::Spiffe(text))
    } else if let Some(name) = text.strip_prefix(DNS_PREFIX).filter(|name| !name.is_empty()) {
        Ok(ForwardedFrom::Dns(name.to_owned()))
    } else {
        Err(Problem::rule(
            "must be \"loopback\", an IP address, a SPIFFE id (\"spiffe://…\") or \"dns:NAME\"",
        ))
    }
}
