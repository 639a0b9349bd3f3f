//! The valid forms of callers' names: SPIFFE ids, DNS names, JWT subjects and token names.
//!
//! Names are used in rules, logs and records, so each is visible ASCII of limited length,
//! regardless of its proof. Proofs are checked elsewhere.

/// Maximum length of a SPIFFE id, in bytes (SPIFFE-ID section 2.3).
const MAX_SPIFFE_ID_BYTES: usize = 2048;
/// Maximum length of its trust domain, in bytes (SPIFFE-ID section 2.1).
const MAX_TRUST_DOMAIN_BYTES: usize = 255;
/// Maximum length of a DNS name as text, in bytes (RFC 1035 section 2.3.4).
const MAX_DNS_NAME_BYTES: usize = 253;
/// Maximum length of a DNS label, in bytes.
const MAX_DNS_LABEL_BYTES: usize = 63;
/// The name of an unidentified caller.
pub const ANONYMOUS: &str = "anonymous";
/// Prefix of the names of callers with a SPIFFE id, from a certificate.
pub const SPIFFE_PREFIX: &str = "spiffe://";
/// Prefix of the names of callers with a DNS name, from a certificate.
pub const DNS_PREFIX: &str = "dns:";
/// Prefix of the names of callers with a JWT.
pub const JWT_PREFIX: &str = "jwt:";
/// Prefix of the names of callers with a bearer token.
pub const TOKEN_PREFIX: &str = "token:";
/// Prefixes of the names of identified callers.
pub const CALLER_PREFIXES: [&str; 4] = [SPIFFE_PREFIX, DNS_PREFIX, JWT_PREFIX, TOKEN_PREFIX];
/// Maximum length of a JWT's subject, or of a bearer token's name, in bytes.
pub(super) const MAX_PLAIN_NAME_BYTES: usize = 255;
/// Maximum length of the name of a JWT issuer, in bytes.
pub(super) const MAX_ISSUER_NAME_BYTES: usize = 63;

/// Reason that a certificate, or a proxy's header about one, has no usable name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The certificate cannot be read.
    #[error("it cannot be read")]
    Unreadable,
    /// It has neither a SPIFFE id nor a DNS name.
    #[error("it has neither a SPIFFE id nor a DNS name")]
    Nameless,
    /// It has more than one URI.
    #[error("it has more than one URI")]
    SeveralUris,
    /// It has no SPIFFE id, and more than one DNS name.
    #[error("it has more than one DNS name and no SPIFFE id")]
    SeveralDnsNames,
    /// Its SPIFFE id is malformed.
    #[error("its SPIFFE id is malformed")]
    MalformedSpiffeId,
    /// Its DNS name is malformed, or a wildcard.
    #[error("its DNS name is malformed or a wildcard")]
    MalformedDnsName,
}

/// Returns the only name in the alternative names: the SPIFFE id if the only URI is one, else the
/// only DNS name.
///
/// Several names are refused: a choice among them would be a guess that depends on their order.
pub(super) fn from_alternative_names<'a>(
    uris: impl IntoIterator<Item = &'a str>,
    dns_names: impl IntoIterator<Item = &'a str>,
) -> Result<String, NameError> {
    let mut uris = uris.into_iter();
    let uri = uris.next();
    if uris.next().is_some() {
        return Err(NameError::SeveralUris);
    }
    if let Some(uri) = uri
        && claims_to_be_spiffe(uri)
    {
        return if is_spiffe_id(uri) { Ok(uri.to_owned()) } else { Err(NameError::MalformedSpiffeId) };
    }
    let mut dns_names = dns_names.into_iter();
    let first = dns_names.next().ok_or(NameError::Nameless)?;
    if dns_names.any(|other| !other.eq_ignore_ascii_case(first)) {
        return Err(NameError::SeveralDnsNames);
    }
    dns_caller(first).ok_or(NameError::MalformedDnsName)
}

/// Returns the caller's name for a DNS name, or `None` if it is malformed or a wildcard.
pub(super) fn dns_caller(name: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    let is_label = |label: &str| {
        (1..=MAX_DNS_LABEL_BYTES).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    (name.len() <= MAX_DNS_NAME_BYTES && name.split('.').all(is_label)).then(|| format!("dns:{name}"))
}

/// Returns whether a text is the SPIFFE id of a workload: a trust domain and a path (SPIFFE-ID
/// section 2, X509-SVID section 5.2).
pub(super) fn is_spiffe_id(text: &str) -> bool {
    let Some((domain, path)) = text.strip_prefix(SPIFFE_PREFIX).and_then(|rest| rest.split_once('/')) else {
        return false;
    };
    let is_domain_byte =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_');
    let is_segment = |segment: &str| {
        !matches!(segment, "" | "." | "..")
            && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
    };
    text.len() <= MAX_SPIFFE_ID_BYTES
        && (1..=MAX_TRUST_DOMAIN_BYTES).contains(&domain.len())
        && domain.bytes().all(is_domain_byte)
        && path.split('/').all(is_segment)
}

/// Returns whether a URI has the scheme of a SPIFFE id, well formed or not.
pub(super) fn claims_to_be_spiffe(uri: &str) -> bool {
    uri.split_once(':').is_some_and(|(scheme, _)| scheme.trim().eq_ignore_ascii_case("spiffe"))
}

/// Returns whether a text is valid as a JWT's subject or a bearer token's name: 1 to 255 bytes of
/// visible ASCII.
pub(super) fn is_plain_name(text: &str) -> bool {
    (1..=MAX_PLAIN_NAME_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Returns whether a text is valid as the name of one of several JWT issuers: 1 to 63 lower-case
/// letters, digits and `-`. It has no colon, so that no subject of one issuer is a caller of
/// another.
#[must_use]
pub fn is_issuer_name(text: &str) -> bool {
    (1..=MAX_ISSUER_NAME_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Returns whether a text is valid as a caller's name: `anonymous`, or a name with the prefix of
/// its proof.
#[must_use]
pub fn is_caller_name(text: &str) -> bool {
    match text.split_once(':') {
        Some(("spiffe", _)) => is_spiffe_id(text),
        Some(("dns", name)) => dns_caller(name).as_deref() == Some(text),
        Some(("token", name)) => is_plain_name(name),
        Some(("jwt", name)) => {
            let has_issuer =
                |(issuer, subject): (&str, &str)| is_issuer_name(issuer) && is_plain_name(subject);
            is_plain_name(name) || name.split_once(':').is_some_and(has_issuer)
        }
        Some(_) => false,
        None => text == ANONYMOUS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_in(uris: &[&str], dns_names: &[&str]) -> Result<String, NameError> {
        from_alternative_names(uris.iter().copied(), dns_names.iter().copied())
    }

    #[test]
    fn only_spiffe_id_takes_precedence_over_the_only_dns_name() {
        assert_eq!(
            name_in(&["spiffe://td/ns/a"], &["a.example", "b.example"]),
            Ok("spiffe://td/ns/a".to_owned())
        );
        assert_eq!(name_in(&[], &["Portal.Example"]), Ok("dns:portal.example".to_owned()));
        assert_eq!(
            name_in(&["https://a.example"], &["a.example", "A.EXAMPLE"]),
            Ok("dns:a.example".to_owned())
        );
    }

    #[test]
    fn several_or_malformed_names_are_refused() {
        assert_eq!(name_in(&[], &[]), Err(NameError::Nameless));
        assert_eq!(name_in(&["https://a.example"], &[]), Err(NameError::Nameless));
        assert_eq!(name_in(&["spiffe://td/a", "spiffe://td/a"], &["a"]), Err(NameError::SeveralUris));
        assert_eq!(name_in(&["spiffe://td/a", "https://x"], &["a"]), Err(NameError::SeveralUris));
        assert_eq!(name_in(&[], &["a.example", "b.example"]), Err(NameError::SeveralDnsNames));
        for uri in [
            "spiffe://",
            "spiffe://td",
            "spiffe://td/",
            "spiffe:///a",
            "spiffe://td//a",
            "spiffe://td/a/",
            "spiffe://td/../a",
            "spiffe://td/./a",
            "spiffe://TD/a",
            "SPIFFE://td/a",
            "spiffe:td/a",
            "spiffe://td:80/a",
            "spiffe://u@td/a",
            "spiffe://td/a?b",
            "spiffe://td/a#b",
            "spiffe://td/a%2f",
            "spiffe://td/a b",
            "spiffe://td/a\nb",
            "spiffe://td/\u{e4}",
        ] {
            assert_eq!(name_in(&[uri], &["a"]), Err(NameError::MalformedSpiffeId), "{uri}");
        }
        let long = format!("spiffe://td/{}", "a".repeat(2037));
        assert_eq!(name_in(&[&long], &[]), Err(NameError::MalformedSpiffeId));
        let label = "a".repeat(64);
        for name in
            ["", "*.example", "a..b", ".a", "a.", "a b", "a\n", "\u{e4}.example", "a/b", label.as_str()]
        {
            assert_eq!(name_in(&[], &[name]), Err(NameError::MalformedDnsName), "{name:?}");
        }
    }
    #[test]
    fn names_of_callers_have_the_prefix_of_their_proof() {
        let longest = "s".repeat(255);
        for name in [
            "anonymous",
            "jwt:portal",
            "jwt:corp:portal",
            "jwt:system:serviceaccount:a:b",
            "token:ci",
            "dns:a.example",
            "spiffe://td/a",
            &format!("jwt:{longest}"),
            &format!("jwt:corp:{longest}"),
        ] {
            assert!(is_caller_name(name), "{name}");
        }
        for name in ["", "jwt:", "jwt: ", "Anonymous", "x:y", &format!("token:corp:{longest}")] {
            assert!(!is_caller_name(name), "{name}");
        }
        for (name, is_valid) in
            [("corp", true), ("a-1", true), ("", false), ("A", false), ("a:b", false), ("a*", false)]
        {
            assert_eq!(is_issuer_name(name), is_valid, "{name}");
        }
    }
}
