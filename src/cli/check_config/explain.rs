//! `check-config --explain`: reports which access rule decides a call, and why.
//!
//! An impossible call is refused, because the answer must be valid for real calls. `access` evaluates
//! the rules.

use crate::{
    access::{self, Explanation, Rules},
    app::is_caller_name,
    caller::{Claims, Principal},
    config::{Config, nearest},
    domain::{
        call::Method,
        ott::{Subject, SubjectKind},
    },
};

/// The call that `--explain` asks about.
#[derive(Debug)]
pub(super) struct Question {
    caller: String,
    method: Method,
    api_client: Option<String>,
    /// `None` for a login, whose request does not contain the user.
    user: Option<Subject>,
}

/// The reason why a call is impossible.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoSuchCall {
    #[error("METHOD must be IssueOtt or LoginWithOtt")]
    Method,
    #[error(
        "CALLER cannot be {0:?}: names are spiffe://DOMAIN/PATH, dns:NAME in lower case, jwt:SUBJECT, \
         token:NAME or `anonymous`"
    )]
    Caller(String),
    #[error("[callers.tokens] has no token {name:?}{}", hint(.nearest.as_deref()))]
    Token { name: String, nearest: Option<String> },
    #[error("USER is required for IssueOtt: the decision depends on it")]
    NoUser,
    #[error("USER must be `-` for LoginWithOtt: its request does not contain the user")]
    UserOfLogin,
    #[error("USER {0}")]
    User(String),
    #[error(
        "USER cannot begin with {prefix:?}: write login:NAME, external_id:ID or user_id:ID{}; \
         write login:{shown} if that is the login",
        hint(.nearest.as_deref())
    )]
    UserKind { prefix: String, shown: String, nearest: Option<String> },
    #[error("--api-client: there is no API client {name:?}{}", hint(.nearest.as_deref()))]
    ApiClient { name: String, nearest: Option<String> },
}

/// The decision on a call.
pub(super) enum Answer {
    /// The rules decide.
    Decided {
        /// API client of the call.
        api_client: String,
        /// Whether the call uses the default API client.
        is_default: bool,
        /// The decision and its reason.
        explanation: Explanation,
    },
    /// The call does not name an API client and there is no default, so no rule can allow it.
    NoApiClient,
}

impl Question {
    pub(super) fn read(
        [caller, name, user]: &[String; 3],
        api_client: Option<&str>,
    ) -> Result<Self, NoSuchCall> {
        let method = [Method::IssueOtt, Method::LoginWithOtt]
            .into_iter()
            .find(|method| method.name() == name)
            .ok_or(NoSuchCall::Method)?;
        if !is_caller_name(caller) {
            return Err(NoSuchCall::Caller(caller.clone()));
        }
        let user = match (method, user.as_str()) {
            (Method::LoginWithOtt, "-") => None,
            (Method::LoginWithOtt, _) => return Err(NoSuchCall::UserOfLogin),
            (Method::IssueOtt, "-") => return Err(NoSuchCall::NoUser),
            (Method::IssueOtt, user) => Some(subject(user)?),
        };
        Ok(Self { caller: caller.clone(), method, api_client: api_client.map(str::to_owned), user })
    }

    /// Evaluates the rules of a configuration for the call.
    pub(super) fn answer(&self, rules: &Rules, config: &Config) -> Result<Answer, NoSuchCall> {
        let tokens = &config.callers.tokens;
        if let Some(name) = self.caller.strip_prefix("token:")
            && !tokens.contains_key(name)
        {
            let nearest = nearest(name, tokens.keys().map(|name| &**name));
            return Err(NoSuchCall::Token { name: name.to_owned(), nearest });
        }
        let known = &config.api_clients;
        let api_client = match (&self.api_client, &known.default) {
            (Some(name), _) if known.by_name.contains_key(name.as_str()) => name.clone(),
            (Some(name), _) => {
                let nearest = nearest(name, known.by_name.keys().map(|name| &**name));
                return Err(NoSuchCall::ApiClient { name: name.clone(), nearest });
            }
            (None, Some(default)) => default.to_string(),
            (None, None) => return Ok(Answer::NoApiClient),
        };
        let explanation = rules.explain(access::Question {
            caller: Principal { name: &self.caller, claims: &Claims::none() },
            method: self.method,
            api_client: &api_client,
            user: self.user.as_ref(),
        });
        Ok(Answer::Decided { api_client, is_default: self.api_client.is_none(), explanation })
    }
}

/// Parses a user. A text without a colon is a login. A login with a colon needs its kind, so that a
/// misspelled kind is not taken for a part of the name.
fn subject(text: &str) -> Result<Subject, NoSuchCall> {
    let (kind, name) = match text.split_once(':') {
        Some(("login", name)) => (SubjectKind::Login, name),
        Some(("external_id", name)) => (SubjectKind::ExternalId, name),
        Some(("user_id", name)) => (SubjectKind::UserId, name),
        Some((prefix, _)) => {
            let nearest = nearest(prefix, ["login", "external_id", "user_id"].into_iter());
            return Err(NoSuchCall::UserKind {
                prefix: format!("{prefix}:"),
                shown: text.to_owned(),
                nearest,
            });
        }
        None => (SubjectKind::Login, text),
    };
    Subject::new(kind, name.to_owned()).map_err(|rule| NoSuchCall::User(rule.to_string()))
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; did you mean {name:?}?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(caller: &str, method: &str, user: &str) -> Result<Question, NoSuchCall> {
        Question::read(&[caller, method, user].map(str::to_owned), None)
    }

    #[test]
    fn user_without_a_kind_is_a_login() {
        let field = |text: &str| {
            let user = read("dns:a", "IssueOtt", text).unwrap().user.unwrap();
            (user.field(), user.as_sent().to_owned())
        };
        assert_eq!(field("a@b"), ("login", "a@b".to_owned()));
        assert_eq!(field("login:a:b"), ("login", "a:b".to_owned()));
        assert_eq!(field("external_id:x"), ("external_id", "x".to_owned()));
        assert_eq!(field("user_id:1"), ("user_id", "1".to_owned()));
        for text in ["email:a@b", "Login:a", "user-id:1", "a:b", ":a", "login :a"] {
            let error = read("dns:a", "IssueOtt", text).unwrap_err();
            assert!(matches!(error, NoSuchCall::UserKind { .. }), "{error}");
            for part in ["login:NAME, external_id:ID or user_id:ID", &format!("write login:{text} if")] {
                assert!(error.to_string().contains(part), "{error}");
            }
        }
        assert!(matches!(read("dns:a", "IssueOtt", "user_id:"), Err(NoSuchCall::User(_))));
    }

    #[test]
    fn impossible_calls_are_refused() {
        for caller in ["", "portal", "Anonymous", "dns:", "dns:Portal", "spiffe://a", "jwt:", "mail:a", "*"] {
            let refused = read(caller, "IssueOtt", "x").unwrap_err();
            assert_eq!(refused, NoSuchCall::Caller(caller.to_owned()));
        }
        assert_eq!(read("anonymous", "issueott", "x").unwrap_err(), NoSuchCall::Method);
        assert_eq!(read("jwt:a", "IssueOtt", "-").unwrap_err(), NoSuchCall::NoUser);
        assert_eq!(read("spiffe://a/b", "LoginWithOtt", "x").unwrap_err(), NoSuchCall::UserOfLogin);
        assert!(read("anonymous", "LoginWithOtt", "-").unwrap().user.is_none());
    }
}
