//! Logins that request a fault: `fault+KIND@sandbox` and `login-fault+KIND@sandbox`.
//!
//! KIND is a [`Fault`] of the simulated platform, or the name of a reason, alone (`DRAINING`) or
//! with one of its codes (`AUDIT_UNAVAILABLE-ABORTED`). Case does not matter. Any other login with
//! one of the two prefixes, and any `…@sandbox` that resembles one, is refused unless an account has
//! it: a test must not mistake the result of a misspelled login for the fault that it expects.

use std::fmt;

use super::accounts::{Accounts, Subject};
use super::faults::{API_CODES, Fault};
use super::reasons::{Method, Origin};
use crate::domain::reason::{FailureCode, Reason};

/// Prefix of logins for which issuing fails.
const ISSUE: &str = "fault+";
/// Prefix of logins whose tokens fail at the login.
const LOGIN: &str = "login-fault+";
/// Suffix of both.
const DOMAIN: &str = "@sandbox";
/// Maximum size of one line of the list, in bytes: the gateway truncates longer ones.
const MAX_RULE_BYTES: usize = 250;

/// Fault that a login requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaultRequest {
    /// Issuing a token fails.
    Issue(Kind),
    /// Spending the token fails.
    Login(Kind),
}

/// Source of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The simulated platform fails this way.
    Platform(Fault),
    /// The gateway fails the call.
    Gateway(Reason, FailureCode),
}

/// A login that requests an unknown fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnknownFaultRequest {
    method: Method,
    problem: Problem,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Problem {
    /// It has neither prefix.
    Prefix,
    /// It does not end in [`DOMAIN`].
    Domain,
    /// KIND is not a kind; the most similar one, if one is similar enough.
    Kind(Option<&'static str>),
    /// KIND is a status with a code that the platform does not have.
    ApiCode,
    /// The fault changes the account, and the method returns none.
    NoAccount,
    /// The method never returns the reason.
    Method(Reason),
    /// The method never returns the reason with that code.
    Code(Reason),
}

impl FaultRequest {
    /// Parses a login; `None` if it requests no fault. The login of an account never does.
    pub(super) fn of(login: &str, accounts: &Accounts) -> Option<Result<Self, UnknownFaultRequest>> {
        let is_account = || accounts.user(&Subject::Login(login.to_owned())).is_some();
        Self::read(login).filter(|_| !is_account())
    }

    fn read(login: &str) -> Option<Result<Self, UnknownFaultRequest>> {
        let login = login.to_ascii_lowercase();
        let (method, rest) = if let Some(rest) = login.strip_prefix(ISSUE) {
            (Method::Issue, rest)
        } else if let Some(rest) = login.strip_prefix(LOGIN) {
            (Method::Login, rest)
        } else {
            let is_similar = login.strip_suffix(DOMAIN).is_some_and(resembles_request);
            let unknown = UnknownFaultRequest { method: Method::Issue, problem: Problem::Prefix };
            return is_similar.then_some(Err(unknown));
        };
        let kind = rest.strip_suffix(DOMAIN).ok_or(Problem::Domain).and_then(|kind| kind_of(method, kind));
        Some(match (method, kind) {
            (Method::Issue, Ok(kind)) => Ok(Self::Issue(kind)),
            (Method::Login, Ok(kind)) => Ok(Self::Login(kind)),
            (method, Err(problem)) => Err(UnknownFaultRequest { method, problem }),
        })
    }
}

/// Returns whether the part of a login before [`DOMAIN`] may be a misspelled request: with another
/// separator, a misspelled prefix, or none.
fn resembles_request(local: &str) -> bool {
    let mut words = local.split(|character: char| !character.is_ascii_alphabetic());
    let is_prefix = |word: &str| word.starts_with("fault") || strsim::damerau_levenshtein(word, "fault") <= 1;
    let is_kind =
        |kind: &str| [Method::Issue, Method::Login].iter().any(|&method| kind_of(method, kind).is_ok());
    local.contains('+') || words.any(is_prefix) || is_kind(local)
}

/// Returns the most similar kind of a method.
fn nearest_kind(method: Method, text: &str) -> Option<&'static str> {
    let squeezed = |text: &str| -> String {
        text.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect()
    };
    let text = squeezed(text);
    let names = Fault::NAMES.into_iter().filter(|name| kind_of(method, name).is_ok());
    names
        .chain(reasons(method))
        .map(|name| (strsim::damerau_levenshtein(&text, &squeezed(name)), name))
        .filter(|(distance, name)| distance * 3 <= name.len())
        .min()
        .map(|(_, name)| name)
}

/// Parses a lower-case KIND.
fn kind_of(method: Method, text: &str) -> Result<Kind, Problem> {
    if let Ok(fault) = text.parse() {
        // Only the response to a login has an account.
        let is_possible = method == Method::Login || fault != Fault::OtherAccount;
        return if is_possible { Ok(Kind::Platform(fault)) } else { Err(Problem::NoAccount) };
    }
    let (name, code) = text.split_once('-').map_or((text, None), |(name, code)| (name, Some(code)));
    let mut reasons = Reason::ALL.iter().copied();
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number(name) && code.is_some_and(is_number) && name.parse::<Fault>().is_ok() {
        return Err(Problem::ApiCode);
    }
    let reason = reasons
        .find(|reason| reason.as_str().eq_ignore_ascii_case(name))
        .ok_or_else(|| Problem::Kind(nearest_kind(method, text)))?;
    let origins = method.origins(reason);
    if origins.is_empty() {
        return Err(Problem::Method(reason));
    }
    let is_meant = |origin: &&Origin| code.is_none_or(|code| origin.code().name().eq_ignore_ascii_case(code));
    match origins.iter().find(is_meant) {
        Some(Origin::Platform(_, fault)) => Ok(Kind::Platform(*fault)),
        Some(Origin::Gateway(code)) => Ok(Kind::Gateway(reason, *code)),
        None => Err(Problem::Code(reason)),
    }
}

/// Returns the names of the reasons of a method.
fn reasons(method: Method) -> impl Iterator<Item = &'static str> {
    Reason::ALL
        .iter()
        .filter(move |reason| !method.origins(**reason).is_empty())
        .map(|reason| reason.as_str())
}

impl UnknownFaultRequest {
    /// Returns the problem, all faults and all reasons of the method, as texts of at most 250 bytes.
    ///
    /// The texts have to fit into the 4 KiB of a status, where each is contained twice.
    pub(super) fn rules(self) -> Vec<String> {
        let mut rules = vec![self.to_string(), format!("KIND is {}, REASON or REASON-CODE", Fault::KINDS)];
        let mut line = format!("REASON of {}:", self.method.name());
        for reason in reasons(self.method) {
            if line.len() + 2 + reason.len() > MAX_RULE_BYTES {
                rules.push(std::mem::take(&mut line));
            }
            line.push_str(match line.as_str() {
                "" => "",
                line if line.ends_with(':') => " ",
                _ => ", ",
            });
            line.push_str(reason);
        }
        rules.push(line);
        rules
    }
}

impl fmt::Display for UnknownFaultRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = match self.method {
            Method::Issue => ISSUE,
            Method::Login => LOGIN,
        };
        match self.problem {
            Problem::Prefix => {
                write!(f, "write {ISSUE}KIND{DOMAIN} or {LOGIN}KIND{DOMAIN}; no account has this login")
            }
            Problem::Domain => write!(f, "write {prefix}KIND{DOMAIN}"),
            Problem::Kind(nearest) => {
                write!(f, "unknown KIND in {prefix}KIND{DOMAIN}")?;
                nearest.map_or(Ok(()), |name| write!(f, "; did you mean {name}?"))
            }
            Problem::ApiCode => write!(
                f,
                "unknown API code in {prefix}KIND{DOMAIN}; the platform's codes are {} to {}",
                API_CODES.start(),
                API_CODES.end()
            ),
            Problem::NoAccount => write!(
                f,
                "{} returns no account; write {LOGIN}{}{DOMAIN}",
                self.method.name(),
                Fault::OtherAccount
            ),
            Problem::Method(reason) => {
                write!(
                    f,
                    "{} never returns {}; see the list of its reasons",
                    self.method.name(),
                    reason.as_str()
                )
            }
            Problem::Code(reason) => {
                write!(f, "{} returns {} with ", self.method.name(), reason.as_str())?;
                for (index, origin) in self.method.origins(reason).iter().enumerate() {
                    let separator = if index == 0 { "" } else { " or " };
                    write!(f, "{separator}{}", origin.code().name())?;
                }
                f.write_str(" only")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use axum::http::StatusCode;
    use proptest::prelude::*;

    use super::*;
    use crate::sandbox::accounts::file::parse;

    fn rule(login: &str) -> String {
        FaultRequest::read(login)
            .expect("a request for a fault")
            .expect_err("an unknown one")
            .rules()
            .join("\n")
    }

    #[test]
    fn a_kind_is_a_fault_or_a_reason_in_any_case() {
        let unavailable = Kind::Platform(Fault::Status(StatusCode::SERVICE_UNAVAILABLE, 503));
        for login in ["fault+503@sandbox", "Fault+Platform_Unavailable@Sandbox"] {
            assert_eq!(FaultRequest::read(login), Some(Ok(FaultRequest::Issue(unavailable))), "{login}");
        }
        for (login, kind) in [
            ("Login-Fault+Cut@Sandbox", Kind::Platform(Fault::Cut)),
            ("login-fault+DRAINING@sandbox", Kind::Gateway(Reason::Draining, FailureCode::Unavailable)),
            (
                "login-fault+draining-unavailable@sandbox",
                Kind::Gateway(Reason::Draining, FailureCode::Unavailable),
            ),
            (
                "login-fault+AUDIT_UNAVAILABLE-ABORTED@sandbox",
                Kind::Gateway(Reason::AuditUnavailable, FailureCode::Aborted),
            ),
            ("login-fault+OTT_IN_USE@sandbox", Kind::Gateway(Reason::OttInUse, FailureCode::Aborted)),
        ] {
            assert_eq!(FaultRequest::read(login), Some(Ok(FaultRequest::Login(kind))), "{login}");
        }
        for login in ["johncustomer@mysite.com", "nobody@sandbox", "404x@sandbox", "a+b@mysite.com", ""] {
            assert_eq!(FaultRequest::read(login), None, "{login}");
        }
    }

    #[test]
    fn unknown_faults_are_refused_with_the_list() {
        for login in [
            "fault+",
            "fault+@sandbox",
            "fault+abc@sandbox",
            "fault+99@sandbox",
            "fault+503x@sandbox",
            "fault+503@sandbx",
            "fault+503@mysite.com",
            "fault+DRAINING-@sandbox",
            "login-fault+USER_NOT_FOUND@sandbox",
            "fault+OTT_REJECTED@sandbox",
            "fault+other-account@sandbox",
            "fault+DRAINING-ABORTED@sandbox",
            "fault+400-9999@sandbox",
            "login-fault+400-999@sandbox",
            "fault-503@sandbox",
            "fault_503@sandbox",
            "fault.503@sandbox",
            "fault503@sandbox",
            "faultDRAINING@sandbox",
            "login-fault-OTT_IN_USE@sandbox",
            "login_fault_DRAINING@sandbox",
            "fautl-503@sandbox",
            "fault@sandbox",
            "503@sandbox",
            "draining@sandbox",
            "x-fault+503@sandbox",
            "fautl+503@sandbox",
        ] {
            let rule = rule(login);
            for kind in ["redirect", "400-1018", "DRAINING", "REASON-CODE", "INTERNAL_ERROR"] {
                assert!(rule.contains(kind), "{login}: {rule}");
            }
        }
        assert!(rule("fault+OTT_REJECTED@sandbox").starts_with("IssueOtt never returns OTT_REJECTED"));
        assert!(!rule("fault+abc@sandbox").contains("OTT_IN_USE"), "only the reasons of the method");
        assert!(rule("login-fault+abc@sandbox").contains("OTT_IN_USE"));
        assert!(rule("fault+503@sandbx").starts_with("write fault+KIND@sandbox"));
        for (login, nearest) in [
            ("fault+DRAINNG@sandbox", "DRAINING"),
            ("fault+user-not-found@sandbox", "USER_NOT_FOUND"),
            ("fault+usernotfound@sandbox", "USER_NOT_FOUND"),
            ("fault+USER_NOTFOUND@sandbox", "USER_NOT_FOUND"),
            ("fault+redirct@sandbox", "redirect"),
            ("login-fault+other_acount@sandbox", "other-account"),
            ("login-fault+OTT_IN_US@sandbox", "OTT_IN_USE"),
        ] {
            let rule = rule(login);
            assert!(rule.contains(&format!("@sandbox; did you mean {nearest}?\n")), "{login}: {rule}");
        }
        assert!(!rule("fault+abc@sandbox").contains("did you mean"));
        assert!(!rule("fault+abc@sandbox").replace(", ", "").contains(','), "lists have spaces");
        assert!(rule("fault+400-9999@sandbox").contains("the platform's codes are 1000 to 1035"));
        assert!(
            rule("login-fault+AUDIT_UNAVAILABLE-INTERNAL@sandbox")
                .starts_with("LoginWithOtt returns AUDIT_UNAVAILABLE with UNAVAILABLE or ABORTED only")
        );
    }

    #[test]
    fn the_login_of_an_account_requests_no_fault() {
        let accounts = r#"{"tenants": [{"id": "t", "name": "T"}],
            "users": [{"id": "u", "login": "fault+own@sandbox", "tenant_id": "t"}]}"#;
        let accounts = parse(Path::new("accounts.json"), accounts).expect("accounts");
        assert_eq!(FaultRequest::of("Fault+Own@sandbox", &accounts), None);
        assert!(matches!(FaultRequest::of("fault+other@sandbox", &accounts), Some(Err(_))));
        assert!(matches!(FaultRequest::of("fault+503@sandbox", &accounts), Some(Ok(_))));
    }

    #[test]
    fn the_gateway_truncates_no_rule() {
        for login in
            ["fault+x@sandbox", "login-fault+x@sandbox", "fault+x", "login-fault+USER_NOT_FOUND@sandbox"]
        {
            let rules = FaultRequest::read(login)
                .expect("a request for a fault")
                .expect_err("an unknown one")
                .rules();
            assert!(rules.iter().all(|rule| rule.len() <= 256), "{rules:#?}");
            assert!(rules.len() <= 8, "{rules:#?}");
        }
    }

    proptest! {
        #[test]
        fn every_login_with_a_prefix_is_a_fault_or_an_error(kind in ".{0,40}", ends in any::<bool>()) {
            let end = if ends { DOMAIN } else { "" };
            for prefix in [ISSUE, LOGIN] {
                let demand = FaultRequest::read(&format!("{prefix}{kind}{end}"));
                prop_assert!(demand.is_some());
                if let Some(Err(unknown)) = demand {
                    prop_assert!(unknown.rules().iter().all(|rule| rule.len() <= 256));
                }
            }
        }
    }
}
