//! The questions of `--explain` and `--who`, parsed from the command line.
//!
//! A question that is not well formed is a usage error. A well-formed one about a caller or an API
//! client that the configuration does not have is answered: such a call is denied.

use crate::{
    access::TokenUse,
    app::is_caller_name,
    caller::{Claims, JWT_PREFIX, TOKEN_PREFIX},
    config::{Config, nearest},
    domain::{
        call::Method,
        ott::{InvalidUser, Subject, SubjectKind},
    },
};

/// The call that `--explain` asks about.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) caller: String,
    pub(super) claims: Claims,
    pub(super) request: Request,
}

/// What `--who` asks about: a call without its caller.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: Method,
    /// As named by `--api-client`.
    pub(super) api_client: Option<String>,
    /// Whether a login URL is requested (`--login-url`).
    pub(super) login_url: bool,
    /// The caller that the sealed token of a login was issued to (`--issued-by`).
    pub(super) issued_by: Option<String>,
    /// For a login with a token that is not sealed, the account in the platform's response; `None` if the
    /// question is only about the request.
    pub(super) user: Option<Subject>,
}

/// The options of a question, without claims.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Options<'a> {
    /// `--api-client`.
    pub(super) api_client: Option<&'a str>,
    /// `--login-url`.
    pub(super) login_url: bool,
    /// `--issued-by`.
    pub(super) issued_by: Option<&'a str>,
}

/// The reason that a question is not well formed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidQuestion {
    #[error("METHOD must be IssueOtt or LoginWithOtt")]
    Method,
    #[error(
        "{of} cannot be {name:?}: names are spiffe://DOMAIN/PATH, dns:NAME in lower case, jwt:SUBJECT, \
         token:NAME or `anonymous`"
    )]
    Caller { of: &'static str, name: String },
    #[error("USER is required for IssueOtt: the decision depends on it")]
    NoUser,
    #[error(
        "USER is required with --issued-by: a sealed token contains its user, and the decision depends on it"
    )]
    NoUserOfSealed,
    #[error("--login-url is only for IssueOtt")]
    LoginUrlOfLogin,
    #[error("--issued-by is only for LoginWithOtt: it is the caller that the sealed token was issued to")]
    IssuerOfIssue,
    #[error("USER {0}")]
    User(String),
    #[error(
        "USER cannot begin with {prefix:?}: write login:NAME, external_id:ID or user_id:ID{}; \
         write login:{shown} if that is the login",
        hint(.nearest.as_deref())
    )]
    UserKind { prefix: String, shown: String, nearest: Option<String> },
    #[error("--claim {0}")]
    Claim(String),
    #[error("--claim: only a caller with a JWT (jwt:SUBJECT) has claims")]
    ClaimOfOther,
}

/// The reason that a well-formed call cannot reach the rules.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoSuchName {
    #[error("[callers.tokens] has no token {name:?}{}", hint(.nearest.as_deref()))]
    Token { name: String, nearest: Option<String> },
    #[error("[[callers.jwt]] has no issuer {name:?}{}", hint(.nearest.as_deref()))]
    Issuer { name: String, nearest: Option<String> },
    #[error("there is no API client {name:?} (API_CLIENT_UNKNOWN){}", hint(.nearest.as_deref()))]
    ApiClient { name: String, nearest: Option<String> },
    #[error("the call names no API client (API_CLIENT_UNKNOWN)")]
    NoApiClient,
}

/// The API client of a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct ApiClientOfCall<'a> {
    pub(super) name: &'a str,
    /// Whether the call names none and uses the default.
    pub(super) is_default: bool,
}

impl Call {
    pub(super) fn parse(caller: &str, request: Request, claims: &[String]) -> Result<Self, InvalidQuestion> {
        if !is_caller_name(caller) {
            return Err(InvalidQuestion::Caller { of: "CALLER", name: caller.to_owned() });
        }
        if !claims.is_empty() && !caller.starts_with(JWT_PREFIX) {
            return Err(InvalidQuestion::ClaimOfOther);
        }
        let claims = Claims::from_arguments(claims.iter().map(String::as_str))
            .map_err(|(argument, error)| InvalidQuestion::Claim(format!("{argument:?} {error}")))?;
        Ok(Self { caller: caller.to_owned(), claims, request })
    }

    /// Checks that the configuration can identify the caller.
    pub(super) fn check_caller(&self, config: &Config) -> Result<(), NoSuchName> {
        if let Some(name) = self.caller.strip_prefix(TOKEN_PREFIX) {
            let tokens = &config.callers.tokens;
            if !tokens.contains_key(name) {
                let nearest = nearest(name, tokens.keys().map(|name| &**name));
                return Err(NoSuchName::Token { name: name.to_owned(), nearest });
            }
        }
        if let Some(name) = self.caller.strip_prefix(JWT_PREFIX) {
            let issuers: Option<Vec<&str>> =
                config.callers.jwt.iter().map(|jwt| jwt.name.as_deref()).collect();
            let issuer = name.split_once(':').map_or(name, |(issuer, _)| issuer);
            if let Some(issuers) = issuers.filter(|issuers| !issuers.is_empty())
                && !(issuers.contains(&issuer) && name.contains(':'))
            {
                let nearest = nearest(issuer, issuers.into_iter());
                return Err(NoSuchName::Issuer { name: issuer.to_owned(), nearest });
            }
        }
        Ok(())
    }
}

impl Request {
    pub(super) fn parse(method: &str, user: &str, options: &Options<'_>) -> Result<Self, InvalidQuestion> {
        let Options { api_client, login_url, issued_by } = *options;
        let method = [Method::IssueOtt, Method::LoginWithOtt]
            .into_iter()
            .find(|known| known.name() == method)
            .ok_or(InvalidQuestion::Method)?;
        match (method, issued_by) {
            (Method::LoginWithOtt, _) if login_url => return Err(InvalidQuestion::LoginUrlOfLogin),
            (Method::IssueOtt, Some(_)) => return Err(InvalidQuestion::IssuerOfIssue),
            (Method::LoginWithOtt, Some(issuer)) if !is_caller_name(issuer) => {
                return Err(InvalidQuestion::Caller { of: "--issued-by", name: issuer.to_owned() });
            }
            _ => {}
        }
        let user = match (method, user) {
            (Method::LoginWithOtt, "-") if issued_by.is_some() => {
                return Err(InvalidQuestion::NoUserOfSealed);
            }
            (Method::LoginWithOtt, "-") => None,
            (Method::IssueOtt, "-") => return Err(InvalidQuestion::NoUser),
            (_, user) => Some(subject(user)?),
        };
        let (api_client, issued_by) = (api_client.map(str::to_owned), issued_by.map(str::to_owned));
        Ok(Self { method, api_client, login_url, issued_by, user })
    }

    /// Returns the method, and what it does with a token.
    pub(super) fn token_use(&self) -> TokenUse<'_> {
        match self.method {
            Method::IssueOtt => TokenUse::Issue { login_url: self.login_url },
            Method::LoginWithOtt => TokenUse::Login { issued_by: self.issued_by.as_deref() },
        }
    }

    /// Returns the API client of the call.
    pub(super) fn api_client<'a>(&'a self, config: &'a Config) -> Result<ApiClientOfCall<'a>, NoSuchName> {
        let known = &config.api_clients;
        match (&self.api_client, &known.default) {
            (Some(name), _) if known.by_name.contains_key(name.as_str()) => {
                Ok(ApiClientOfCall { name, is_default: false })
            }
            (Some(name), _) => {
                let nearest = nearest(name, known.by_name.keys().map(|name| &**name));
                Err(NoSuchName::ApiClient { name: name.clone(), nearest })
            }
            (None, Some(default)) => Ok(ApiClientOfCall { name: default, is_default: true }),
            (None, None) => Err(NoSuchName::NoApiClient),
        }
    }
}

fn subject(text: &str) -> Result<Subject, InvalidQuestion> {
    Subject::parse(text).map_err(|error| match error {
        InvalidUser::Name(rule) => InvalidQuestion::User(rule.to_string()),
        InvalidUser::Kind { prefix } => {
            let nearest = nearest(&prefix, SubjectKind::ALL.iter().map(|kind| kind.field()));
            InvalidQuestion::UserKind { prefix: format!("{prefix}:"), shown: text.to_owned(), nearest }
        }
    })
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; did you mean {name:?}?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(caller: &str, method: &str, user: &str, claims: &[&str]) -> Result<Call, InvalidQuestion> {
        let claims: Vec<String> = claims.iter().map(|text| (*text).to_owned()).collect();
        Call::parse(caller, Request::parse(method, user, &Options::default())?, &claims)
    }

    #[test]
    fn unknown_kind_of_user_is_refused_with_the_right_ones() {
        for text in ["email:a@b", "Login:a", "user-id:1", "a:b", ":a", "login :a"] {
            let error = parse("dns:a", "IssueOtt", text, &[]).unwrap_err();
            assert!(matches!(error, InvalidQuestion::UserKind { .. }), "{error}");
            for part in ["login:NAME, external_id:ID or user_id:ID", &format!("write login:{text} if")] {
                assert!(error.to_string().contains(part), "{error}");
            }
        }
        assert!(matches!(parse("dns:a", "IssueOtt", "user_id:", &[]), Err(InvalidQuestion::User(_))));
    }

    #[test]
    fn malformed_questions_are_refused() {
        for caller in ["", "portal", "Anonymous", "dns:", "dns:Portal", "spiffe://a", "jwt:", "mail:a", "*"] {
            let refused = parse(caller, "IssueOtt", "x", &[]).unwrap_err();
            assert_eq!(refused, InvalidQuestion::Caller { of: "CALLER", name: caller.to_owned() });
        }
        assert_eq!(parse("anonymous", "issueott", "x", &[]).unwrap_err(), InvalidQuestion::Method);
        assert_eq!(parse("jwt:a", "IssueOtt", "-", &[]).unwrap_err(), InvalidQuestion::NoUser);
        assert_eq!(parse("token:a", "IssueOtt", "x", &["a=b"]).unwrap_err(), InvalidQuestion::ClaimOfOther);
        for claim in ["groups", "=ops", "a//b=ops", "a~2=ops"] {
            let refused = parse("jwt:a", "IssueOtt", "x", &[claim]).unwrap_err();
            assert!(matches!(refused, InvalidQuestion::Claim(_)), "{refused}");
        }
        assert!(parse("anonymous", "LoginWithOtt", "-", &[]).unwrap().request.user.is_none());
        assert!(parse("spiffe://a/b", "LoginWithOtt", "x", &[]).unwrap().request.user.is_some());
    }
}
