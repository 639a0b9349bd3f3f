//! The message of a status, for people. Often the only part that a client shows.
//!
//! Contains the constant texts of the case, field names and their rules, and the values of
//! [`Placeholder`]. Never contains values of the request.

use super::{
    Failure, Violation,
    case::{Advice, Case, Placeholder},
    may_be_spent,
};
use crate::{
    base::text::is_unprintable,
    domain::call::{Call, Certainty, Method},
};

/// Maximum size of one text, in bytes: the platform's message, a name, a rule.
const MAX_TEXT_BYTES: usize = 256;

const TOKEN_MAY_BE_SPENT: &str = "The one-time token may be spent; issue a new token and log in with that.";
const TOKEN_IS_SPENT: &str = "The one-time token is spent; issue a new token and log in with that.";
const TOKEN_EXPIRES_FIRST: &str =
    "The one-time token expires before a retry can succeed; wait, issue a new token and log in with that.";

/// The parts of a message.
#[derive(Debug)]
pub(super) struct Message<'a> {
    case: Case,
    token: Token,
    /// The authenticated name of the caller.
    caller: Option<&'a str>,
    method: Option<&'static str>,
    quota: Option<String>,
    user_field: Option<&'static str>,
    platform_code: Option<(i64, &'static str)>,
}

/// State of the token of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    /// There is none, or it is still valid.
    Usable,
    /// It expires before a retry can succeed.
    ExpiresFirst,
    MaybeSpent,
    Spent,
}

impl Token {
    /// Returns the advice about the token; empty if there is none.
    const fn text(self) -> &'static str {
        match self {
            Self::Usable => "",
            Self::ExpiresFirst => TOKEN_EXPIRES_FIRST,
            Self::MaybeSpent => TOKEN_MAY_BE_SPENT,
            Self::Spent => TOKEN_IS_SPENT,
        }
    }
}

impl<'a> Message<'a> {
    /// `outlives_token`: the delay before a retry exceeds the lifetime of the login's token.
    pub(super) fn of(failure: &Failure, call: &'a Call, outlives_token: bool) -> Self {
        let token = match call.certainty() {
            Certainty::Done if may_be_spent(call) => Token::Spent,
            _ if may_be_spent(call) => Token::MaybeSpent,
            _ if outlives_token => Token::ExpiresFirst,
            _ => Token::Usable,
        };
        let code = failure.platform.as_ref().and_then(|body| body.code);
        Self {
            case: failure.case.narrowed(call),
            token,
            caller: call.caller().map(|(name, _)| &**name),
            method: call.method().map(Method::name),
            quota: failure.quota.as_ref().map(|quota| bounded(&quota.description)),
            user_field: call.subject().map(|subject| subject.kind().field()),
            platform_code: code.and_then(|code| Some((code.number(), code.meaning()?))),
        }
    }

    /// Removes the values, whose size is not constant. Returns whether there were any.
    pub(super) fn remove_values(&mut self) -> bool {
        let caller = self.caller.take();
        let quota = self.quota.take();
        caller.is_some() || quota.is_some()
    }

    /// Returns the message. Invalid fields replace the sentence of the case.
    pub(super) fn text(&self, violations: &[Violation]) -> String {
        let mut text = String::with_capacity(256);
        let mut field = "";
        for violation in violations {
            text.push_str(if text.is_empty() { "" } else { "; " });
            if violation.field != field {
                field = violation.field;
                text.push_str(field);
                text.push_str(": ");
            }
            text.push_str(&bounded(&violation.description));
        }
        if violations.is_empty() {
            self.expand(&mut text, self.case.meaning());
        } else {
            text.push('.');
        }
        let mut add = |sentence: &str| {
            if !sentence.is_empty() {
                text.push(' ');
                self.expand(&mut text, sentence);
            }
        };
        match self.case.advice() {
            Advice::Retry(advice) if self.token == Token::Usable => add(advice),
            Advice::Retry(_) => add(self.token.text()),
            Advice::Fix(advice) => {
                add(advice);
                if matches!(self.token, Token::MaybeSpent | Token::Spent) {
                    add(self.token.text());
                }
            }
            Advice::NewToken(advice) => add(advice),
        }
        if let Some((number, meaning)) = self.platform_code {
            text.push_str(" The platform's code is ");
            text.push_str(&number.to_string());
            text.push_str(": ");
            text.push_str(meaning);
            text.push('.');
        }
        text
    }

    /// Appends a text of the catalogue and expands its placeholders. Values are not expanded.
    fn expand(&self, text: &mut String, sentence: &str) {
        let mut rest = sentence;
        while let Some((before, after)) = rest.split_once('{') {
            text.push_str(before);
            let Some(placeholder) = Placeholder::ALL
                .into_iter()
                .find(|placeholder| rest[before.len()..].starts_with(placeholder.written()))
            else {
                text.push('{');
                rest = after;
                continue;
            };
            self.fill_in(text, placeholder);
            rest = &rest[before.len() + placeholder.written().len()..];
        }
        text.push_str(rest);
    }

    fn fill_in(&self, text: &mut String, placeholder: Placeholder) {
        match placeholder {
            Placeholder::Call => match self.method {
                Some(method) => text.extend(["this ", method, " call"]),
                None => text.push_str("this call"),
            },
            Placeholder::Caller => match self.caller {
                Some(name) => text.extend(["the caller \"", &bounded(name), "\""]),
                None => text.push_str("this caller"),
            },
            Placeholder::Quota => text.push_str(self.quota.as_deref().unwrap_or("see the access rules")),
            Placeholder::User => match self.user_field {
                Some(field) => text.extend(["the field `", field, "`"]),
                None => text.push_str("the user"),
            },
        }
    }
}

/// Returns the text without unprintable characters, truncated to [`MAX_TEXT_BYTES`].
pub(super) fn bounded(text: &str) -> String {
    let mut bounded = String::new();
    for letter in text.chars().filter(|&letter| !is_unprintable(letter)) {
        if bounded.len() + letter.len_utf8() > MAX_TEXT_BYTES {
            break;
        }
        bounded.push(letter);
    }
    bounded
}
