//! Warns about probable mistakes in a valid configuration: rules that no caller can match, and
//! several API clients without a default, and keys that seal no tokens.

use wildmatch::WildMatch;

use super::{
    AccessTestResult, Config, Expected,
    finding::Findings,
    tree::{Node, Table, Value},
};
use crate::{
    caller::{ANONYMOUS, DNS_PREFIX, JWT_PREFIX, SPIFFE_PREFIX, TOKEN_PREFIX, is_caller_name, names_prefix},
    server::tls::ClientAuth,
};

/// Adds the warnings about a valid configuration.
pub(super) fn check(tree: &Table, config: &Config, tests: &[AccessTestResult], findings: &Findings) {
    check_callers(tree, config, findings);
    check_tests(tree, config, tests, findings);
    check_default(tree, config, findings);
    check_token_binding(tree, config, findings);
}

/// Warns about patterns in `callers` and `issued_by` that no caller can match.
fn check_callers(tree: &Table, config: &Config, findings: &Findings) {
    let possible = Callers::of(tree, config);
    let Some(access) = table_at(tree, "access") else { return };
    for list in ["rules", "candidate_rules"] {
        for (rule, number) in list_at(access, list).unwrap_or_default().iter().zip(1..) {
            let Value::Table(rule) = &rule.value else { continue };
            if let Some(claims) = rule.get("claims").filter(|_| config.callers.jwt.is_empty()) {
                let key = format!("access.{list}[{number}].claims");
                findings.warning(
                    claims.place.clone(),
                    key,
                    "match no caller: only callers with a JWT have claims; configure the issuer of the JWTs in \
                     [callers.jwt]",
                );
            }
            for names in ["callers", "issued_by"] {
                for (caller, index) in list_at(rule, names).unwrap_or_default().iter().zip(1..) {
                    let Value::Text(glob) = &caller.value else { continue };
                    if let Err(why) = possible.match_any(glob) {
                        let key = format!("access.{list}[{number}].{names}[{index}]");
                        findings.warning(caller.place.clone(), key, why);
                    }
                }
            }
        }
    }
}

/// Warns about access tests that expect an allowed call of a caller that cannot be identified.
fn check_tests(tree: &Table, config: &Config, tests: &[AccessTestResult], findings: &Findings) {
    let possible = Callers::of(tree, config);
    for AccessTestResult { test, .. } in tests {
        if let (Expected::Allow { .. }, Err(why)) = (&test.expected, possible.match_any(&test.caller)) {
            let key = format!("access.tests[{}].caller", test.number);
            findings.warning(test.place.clone(), key, why);
        }
    }
}

/// Warns if there are several API clients and none is the default, unless each sets `default`.
fn check_default(tree: &Table, config: &Config, findings: &Findings) {
    let clients = &config.api_clients;
    let Some(node) = tree.get("api_clients") else { return };
    let Value::Table(tables) = &node.value else { return };
    let is_declared =
        |node: &Node| matches!(&node.value, Value::Table(table) if table.contains_key("default"));
    if clients.default.is_none() && clients.by_name.len() > 1 && !tables.values().all(is_declared) {
        findings.warning(
            node.place.clone(),
            "api_clients",
            "no API client is the default, so calls that do not name one are refused with API_CLIENT_UNKNOWN; \
             set default = true for one of them, or default = false for each",
        );
    }
}

/// Warns about keys that seal no tokens.
fn check_token_binding(tree: &Table, config: &Config, findings: &Findings) {
    let seals = config.api_clients.by_name.values().any(|client| client.bind_tokens.seals());
    if let Some(node) = tree.get("token_binding").filter(|_| !seals) {
        findings.warning(
            node.place.clone(),
            "token_binding",
            "seals no tokens, because no API client has bind_tokens = \"on\" or \"accept_raw\"; tokens that were \
             sealed before can still be spent",
        );
    }
}

/// The callers that a configuration can identify.
struct Callers {
    has_certificates: bool,
    /// Whether client certificates are turned off although their authorities are configured.
    has_unused_authorities: bool,
    /// Prefixes of the names of callers with JWTs, one for each issuer.
    jwts: Vec<String>,
    /// Names of callers with bearer tokens.
    tokens: Vec<String>,
    has_anonymous: bool,
}

impl Callers {
    fn of(tree: &Table, config: &Config) -> Self {
        let (server, callers) = (&config.server, &config.callers);
        let transport = &server.grpc.transport;
        // Both headers contain the name of a certificate.
        let is_forwarded = callers.forwarded.is_some();
        Self {
            has_certificates: transport.asks_for_certificates() || is_forwarded,
            has_unused_authorities: table_at(tree, "server")
                .and_then(|server| table_at(server, "tls"))
                .is_some_and(|tls| tls.contains_key("client_ca_file")),
            jwts: callers.jwt.iter().map(|issuer| names_prefix(issuer.name.as_deref())).collect(),
            tokens: callers.tokens.keys().map(|name| format!("{TOKEN_PREFIX}{name}")).collect(),
            // A proxy also forwards calls of unauthenticated clients.
            has_anonymous: !matches!(transport.client_auth(), Some(ClientAuth::Require { .. }))
                || is_forwarded,
        }
    }

    /// Checks that a caller can match a glob.
    ///
    /// # Errors
    ///
    /// The reason why no caller can match it, with the remedy.
    fn match_any(&self, glob: &str) -> Result<(), &'static str> {
        if glob == ANONYMOUS {
            return if self.has_anonymous {
                Ok(())
            } else {
                Err("matches no caller: client_auth of [server.tls] requires a certificate, so no caller is \
                     anonymous")
            };
        }
        if !is_possible(glob) {
            return Err(
                "matches no caller: names are spiffe://DOMAIN/PATH with the domain in lower case, dns:NAME in \
                 lower case, jwt:SUBJECT, token:NAME or anonymous, in visible ASCII characters",
            );
        }
        let may_be = |prefix: &str| may_begin_with(glob, prefix);
        let certificates = [SPIFFE_PREFIX, DNS_PREFIX].into_iter().any(may_be);
        let pattern = WildMatch::new(glob);
        let is_matched = (self.has_certificates && certificates)
            || self.jwts.iter().any(|prefix| may_be(prefix))
            || self.tokens.iter().any(|name| pattern.matches(name));
        if is_matched {
            return Ok(());
        }
        let has_any = self.has_certificates || !self.jwts.is_empty() || !self.tokens.is_empty();
        let kinds = (certificates, may_be(JWT_PREFIX), may_be(TOKEN_PREFIX));
        let is_of_one_kind =
            matches!(kinds, (true, false, false) | (false, true, false) | (false, false, true));
        Err(match kinds {
            _ if !has_any && !is_of_one_kind => {
                "matches no caller: no caller authentication is configured, so every caller is anonymous, which \
                 no glob matches; configure client_auth of [server.tls], [callers.jwt], [callers.tokens] or \
                 [callers.forwarded], or write \"anonymous\""
            }
            (true, false, false) if self.has_unused_authorities => {
                "matches no caller: client_auth of [server.tls] is \"off\", so client certificates are not requested; \
                 set it to \"require\" or \"optional\""
            }
            (true, false, false) => {
                "matches no caller: client certificates are not requested; set client_ca_file in [server.tls], or \
                 configure [callers.forwarded]"
            }
            (false, true, false) => "matches no caller: configure the issuer of the JWTs in [callers.jwt]",
            (false, false, true) => "matches no caller: [callers.tokens] has no such name",
            _ => {
                "matches no caller: no configured authentication produces a matching name; configure client_auth \
                 of [server.tls], [callers.jwt], [callers.tokens] or [callers.forwarded]"
            }
        })
    }
}

/// Returns whether a caller could match if every kind of authentication were configured.
fn is_possible(glob: &str) -> bool {
    if !glob.contains(['*', '?']) {
        return is_caller_name(glob);
    }
    if !glob.bytes().all(|byte| byte.is_ascii_graphic()) {
        return false;
    }
    let has_capitals = |text: &str| text.bytes().any(|byte| byte.is_ascii_uppercase());
    if glob.starts_with(DNS_PREFIX) {
        return !has_capitals(glob);
    }
    let domain = glob.strip_prefix(SPIFFE_PREFIX).and_then(|rest| rest.split('/').next());
    !domain.is_some_and(|domain| has_capitals(domain.split(['*', '?']).next().unwrap_or_default()))
}

/// Returns whether a glob matches any text that consists of `prefix` and at least one more character.
pub(super) fn may_begin_with(glob: &str, prefix: &str) -> bool {
    let glob: Vec<char> = glob.chars().collect();
    // The set of positions of the glob that can come next. A `*` can also match nothing.
    let skip_empty_runs = |next: &mut Vec<bool>| {
        for at in 0..glob.len() {
            if next[at] && glob[at] == '*' {
                next[at + 1] = true;
            }
        }
    };
    let mut reached = vec![false; glob.len() + 1];
    reached[0] = true;
    skip_empty_runs(&mut reached);
    for character in prefix.chars() {
        let mut next = vec![false; glob.len() + 1];
        for (at, &pattern) in glob.iter().enumerate().filter(|(at, _)| reached[*at]) {
            match pattern {
                '*' => next[at] = true,
                pattern if pattern == '?' || pattern == character => next[at + 1] = true,
                _ => {}
            }
        }
        skip_empty_runs(&mut next);
        reached = next;
    }
    reached[..glob.len()].contains(&true)
}

pub(super) fn table_at<'a>(table: &'a Table, key: &str) -> Option<&'a Table> {
    match &table.get(key)?.value {
        Value::Table(inner) => Some(inner),
        _ => None,
    }
}

pub(super) fn list_at<'a>(table: &'a Table, key: &str) -> Option<&'a [Node]> {
    match &table.get(key)?.value {
        Value::List(items) => Some(items),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn callers(certificates: bool, jwts: &[&str], tokens: &[&str], anonymous: bool) -> Callers {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Callers {
            has_certificates: certificates,
            has_unused_authorities: false,
            jwts: owned(jwts),
            tokens: owned(tokens),
            has_anonymous: anonymous,
        }
    }

    #[test]
    fn patterns_match_only_callers_that_can_be_identified() {
        let nobody = callers(false, &[], &[], true);
        for glob in [
            "*",
            "**",
            "?*",
            "spiffe://*",
            "spiffe://td/a",
            "dns:*",
            "dns:a",
            "*.example",
            "jwt:*",
            "jwt:a",
            "token:*",
            "?????:*",
        ] {
            assert!(nobody.match_any(glob).is_err(), "{glob}");
        }
        assert!(nobody.match_any("*").unwrap_err().contains("no caller authentication is configured"));
        assert!(nobody.match_any("spiffe://*").unwrap_err().contains("client_ca_file"));
        assert!(nobody.match_any("jwt:*").unwrap_err().contains("[callers.jwt]"));
        assert_eq!(nobody.match_any("anonymous"), Ok(()));
        let turned_off = Callers { has_unused_authorities: true, ..callers(false, &[], &[], true) };
        assert!(
            turned_off
                .match_any("spiffe://*")
                .unwrap_err()
                .contains("client_auth of [server.tls] is \"off\"")
        );

        let certificates = callers(true, &[], &[], false);
        for glob in ["*", "spiffe://*", "spiffe://td/a", "dns:*", "d*", "*.example"] {
            assert_eq!(certificates.match_any(glob), Ok(()), "{glob}");
        }
        for glob in [
            "jwt:*",
            "token:*",
            "anonymous",
            "j*",
            "dns:Portal",
            "dns:*.Example",
            "spiffe://TD/*",
            "spiffe://td",
            "dns:",
            "dns:\u{e4}*",
        ] {
            assert!(certificates.match_any(glob).is_err(), "{glob}");
        }

        let of_issuer = callers(false, &["jwt:cluster:"], &["token:billing"], true);
        for glob in
            ["*", "jwt:*", "jwt:cluster:*", "jwt:c*", "jwt:cluster:a", "token:b*", "token:billing", "?oken:*"]
        {
            assert_eq!(of_issuer.match_any(glob), Ok(()), "{glob}");
        }
        for glob in ["jwt:batch:*", "spiffe://*", "token:c*", "dns:*"] {
            assert!(of_issuer.match_any(glob).is_err(), "{glob}");
        }
    }
}
