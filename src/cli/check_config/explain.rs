//! `check-config --explain`: which access rule would decide a call, and why.
//!
//! A call that nobody could make is refused, because the answer must hold for real calls. The
//! rules themselves are evaluated in `access`.

use crate::{
    access::{Explanation, Rules},
    app::is_caller_name,
    call::Operation,
    config::{Config, nearest},
    ott::{Subject, SubjectKind},
};

/// The call that `--explain` asks about.
#[derive(Debug)]
pub(super) struct Question {
    caller: String,
    operation: Operation,
    api_client: Option<String>,
    /// None for a login, whose request does not name the user.
    user: Option<Subject>,
}

/// Why no call can be the one that is asked about.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoSuchCall {
    #[error("METHOD must be IssueOtt or LoginWithOtt")]
    Method,
    #[error(
        "CALLER cannot be {0:?}: names are spiffe://DOMAIN/PATH, dns:NAME in lower case, jwt:SUBJECT or \
         token:NAME, or are `anonymous`"
    )]
    Caller(String),
    #[error("no token in [callers.tokens] is called {name:?}{}", hint(.nearest.as_deref()))]
    Token { name: String, nearest: Option<String> },
    #[error("USER is required for IssueOtt: which rule decides depends on it")]
    NoUser,
    #[error("USER must be `-` for LoginWithOtt: its request does not name the user")]
    UserOfLogin,
    #[error("USER {0}")]
    User(String),
    #[error(
        "USER cannot begin with {prefix:?}: the kinds of user are login:NAME, external_id:ID and user_id:ID{}; \
         write login:{shown} if that is the login",
        hint(.nearest.as_deref())
    )]
    UserKind { prefix: String, shown: String, nearest: Option<String> },
    #[error("--api-client: no API client is called {name:?}{}", hint(.nearest.as_deref()))]
    ApiClient { name: String, nearest: Option<String> },
}

/// How such a call would be decided.
pub(super) enum Answer {
    /// The rules decide.
    Decided {
        /// With which API client.
        api_client: String,
        /// Whether that is the default one, because the call names none.
        is_default: bool,
        /// What they decide.
        explanation: Explanation,
    },
    /// It names no API client and none is the default, so that no rule can allow it.
    NoApiClient,
}

impl Question {
    pub(super) fn read(
        [caller, method, user]: &[String; 3],
        api_client: Option<&str>,
    ) -> Result<Self, NoSuchCall> {
        let operation = [Operation::IssueOtt, Operation::LoginWithOtt]
            .into_iter()
            .find(|operation| operation.name() == method)
            .ok_or(NoSuchCall::Method)?;
        if !is_caller_name(caller) {
            return Err(NoSuchCall::Caller(caller.clone()));
        }
        let user = match (operation, user.as_str()) {
            (Operation::LoginWithOtt, "-") => None,
            (Operation::LoginWithOtt, _) => return Err(NoSuchCall::UserOfLogin),
            (Operation::IssueOtt, "-") => return Err(NoSuchCall::NoUser),
            (Operation::IssueOtt, user) => Some(subject(user)?),
        };
        Ok(Self { caller: caller.clone(), operation, api_client: api_client.map(str::to_owned), user })
    }

    /// Returns what the rules of that configuration decide.
    pub(super) fn put_to(&self, rules: &Rules, config: &Config) -> Result<Answer, NoSuchCall> {
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
        let explanation = rules.explain(&self.caller, self.operation, &api_client, self.user.as_ref());
        Ok(Answer::Decided { api_client, is_default: self.api_client.is_none(), explanation })
    }
}

/// The user of a text. One without a colon is a login; a login with a colon is written with its
/// kind, so that a misspelled kind is not part of a name.
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
    fn user_is_named_by_kind_and_a_name_without_a_colon_is_a_login() {
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
            for part in ["login:NAME, external_id:ID and user_id:ID", &format!("write login:{text} if")] {
                assert!(error.to_string().contains(part), "{error}");
            }
        }
        assert!(matches!(read("dns:a", "IssueOtt", "user_id:"), Err(NoSuchCall::User(_))));
    }

    #[test]
    fn calls_that_nobody_can_make_are_refused() {
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
