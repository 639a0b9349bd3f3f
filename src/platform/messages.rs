//! What is said to the platform and what it answers, as JSON.
//!
//! Requests are written into memory that is overwritten afterwards; answers are read
//! without sniffing, and no text of theirs gets out but what is asked for.

use std::{collections::HashSet, fmt, time::SystemTime};

use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_TYPE};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::{
    attempt::{Answer, AnswerBody},
    error::{ErrorAnswer, ErrorBody, Malformation, PlatformErrorCode},
    retry_after::retry_after,
};
use crate::{
    ott::{OneTimeToken, Subject},
    session::Account,
};

/// The most bytes of a message that is passed on.
const MAX_MESSAGE_BYTES: usize = 256;
/// The most bytes of the name of a part of the platform.
const MAX_DOMAIN_BYTES: usize = 64;
/// A character becomes at most so many bytes of JSON (`\u001f`).
const MAX_ESCAPE: usize = 6;

/// The body of `POST /idp/ott`: `{"purpose":"user_login","login":…}`.
pub(super) fn issue_request(subject: &Subject) -> Bytes {
    object(&[("purpose", "user_login"), (subject.field(), subject.name().as_str())])
}

/// The body of `POST /idp/ott/login`: `{"ott":…}`.
pub(super) fn login_request(ott: &OneTimeToken) -> Bytes {
    object(&[("ott", ott.expose())])
}

/// A JSON object of texts, in memory that never moves and is overwritten at the end.
fn object(members: &[(&str, &str)]) -> Bytes {
    let longest: usize =
        members.iter().map(|(name, value)| (name.len() + value.len()) * MAX_ESCAPE + 6).sum();
    let mut json = Zeroizing::new(Vec::with_capacity(longest + 2));
    for (index, (name, value)) in members.iter().enumerate() {
        json.push(if index == 0 { b'{' } else { b',' });
        write_text(&mut json, name);
        json.push(b':');
        write_text(&mut json, value);
    }
    json.push(b'}');
    Bytes::from_owner(json)
}

fn write_text(json: &mut Vec<u8>, text: &str) {
    // Writing a text into memory does not fail.
    let _ = serde_json::to_writer(json, text);
}

/// Reads the answer to `POST /idp/ott`: `{"ott": "..."}`.
pub(super) fn issued(answer: &Answer) -> Result<OneTimeToken, Malformation> {
    let Members(members) = json(answer)?;
    let ott = last(&members, "ott").and_then(text).ok_or(Malformation::Missing)?;
    OneTimeToken::try_new(ott).map_err(|_| Malformation::Missing)
}

/// Reads the answer to `POST /idp/ott/login`: the user account. Of members with the
/// same name the last one counts, as nearly every reader of JSON has it.
pub(super) fn account(answer: &Answer) -> Result<Account, Malformation> {
    let Members(members) = json(answer)?;
    for required in ["id", "login"] {
        if last(&members, required).and_then(text).is_none_or(|text| text.is_empty()) {
            return Err(Malformation::Missing);
        }
    }
    let mut seen = HashSet::with_capacity(members.len());
    let last_of_each: Vec<bool> = members.iter().rev().map(|(name, _)| seen.insert(name)).collect();
    let kept = members.iter().zip(last_of_each.into_iter().rev()).filter(|(_, kept)| *kept);
    Ok(Account::new(kept.map(|((name, value), _)| (name.clone(), (*value).to_owned())).collect()))
}

/// Reads an answer other than 2xx. `echoes` are the request's own values, none of
/// which is passed on.
pub(super) fn error(answer: &Answer, echoes: &[&str], now: SystemTime) -> ErrorAnswer {
    let status = answer.status.as_u16();
    ErrorAnswer {
        status,
        body: error_body(answer, status, echoes),
        retry_after: retry_after(&answer.headers, now),
    }
}

fn error_body(answer: &Answer, status: u16, echoes: &[&str]) -> Option<ErrorBody> {
    let Members(outer) = json(answer).ok()?;
    let Members(error) = serde_json::from_str(last(&outer, "error")?.get()).ok()?;
    Some(ErrorBody {
        code: last(&error, "code")
            .and_then(number)
            .filter(|code| *code != i64::from(status))
            .map(PlatformErrorCode::from_number),
        domain: last(&error, "domain").and_then(text).and_then(|domain| presentable_domain(&domain, echoes)),
        message: last(&error, "message")
            .and_then(text)
            .and_then(|message| presentable_message(&message, echoes)),
    })
}

/// The members of a JSON object, in order, each value as it was sent.
struct Members<'json>(Vec<(String, &'json RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

fn json(answer: &Answer) -> Result<Members<'_>, Malformation> {
    let body = match &answer.body {
        AnswerBody::Complete(body) => body,
        AnswerBody::TooLarge => return Err(Malformation::TooLarge),
        AnswerBody::BrokenOff => return Err(Malformation::Json),
    };
    if !is_json(&answer.headers) {
        return Err(Malformation::ContentType);
    }
    serde_json::from_slice(body).map_err(|_| Malformation::Json)
}

/// `application/json`, with parameters or without; nothing else, and nothing guessed.
fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

fn last<'json>(members: &[(String, &'json RawValue)], name: &str) -> Option<&'json RawValue> {
    members.iter().rev().find(|(member, _)| member == name).map(|(_, value)| *value)
}

fn text(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

/// A number, or a text that is one.
fn number(value: &RawValue) -> Option<i64> {
    serde_json::from_str(value.get()).ok().or_else(|| text(value)?.trim().parse().ok())
}

fn presentable_domain(domain: &str, echoes: &[&str]) -> Option<String> {
    let mut domain: String = domain.chars().filter(char::is_ascii_graphic).collect();
    domain.truncate(MAX_DOMAIN_BYTES);
    (!domain.is_empty() && without_echoes(&domain, echoes) == domain).then_some(domain)
}

fn presentable_message(message: &str, echoes: &[&str]) -> Option<String> {
    // Control characters first, or one in the middle of an echo would hide it. Those
    // that break or turn a line without being called control characters go as well.
    let visible: String = message.chars().filter(|&character| !is_hidden(character)).collect();
    let mut message = without_echoes(&visible, echoes);
    message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
    (!message.trim().is_empty()).then_some(message)
}

fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Puts an ellipsis where one of the values stands, in whatever case: nothing at all
/// could join two halves to a whole.
fn without_echoes(text: &str, echoes: &[&str]) -> String {
    let mut text = text.to_owned();
    for echo in echoes.iter().filter(|echo| !echo.is_empty()) {
        let mut kept = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some(start) = find_ignoring_case(rest, echo) {
            kept.push_str(&rest[..start]);
            kept.push('…');
            rest = &rest[start + echo.len()..];
        }
        kept.push_str(rest);
        text = kept;
    }
    text
}

/// Where a text stands in another, ASCII letters of either case being the same.
fn find_ignoring_case(text: &str, sought: &str) -> Option<usize> {
    text.as_bytes().windows(sought.len()).position(|window| window.eq_ignore_ascii_case(sought.as_bytes()))
}
