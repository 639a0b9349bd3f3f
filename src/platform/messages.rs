//! Requests to the platform and its responses, as JSON.
//!
//! Requests are written into memory that is overwritten afterwards. Responses are read
//! without sniffing, and nothing of their text is passed on except the documented members.

use std::time::SystemTime;

use bytes::Bytes;
use http::header::CONTENT_ENCODING;
use zeroize::Zeroizing;

use super::{
    attempt::{Answer, ResponseBody},
    error::{ErrorAnswer, ErrorBody, Malformation, PlatformErrorCode},
};
use crate::{
    http_client::{
        json::{NotAnObject, Object},
        media_type::is_json,
        retry_after::retry_after,
    },
    ott::{OneTimeToken, Subject},
    session::Account,
};

/// Maximum size of a message that is passed on, in bytes.
const MAX_MESSAGE_BYTES: usize = 256;
/// Maximum size of the name of a part of the platform, in bytes.
const MAX_DOMAIN_BYTES: usize = 64;
/// Maximum number of bytes of JSON that one byte of text becomes (`\u001f`).
const MAX_ESCAPE: usize = 6;

/// The body of `POST /idp/ott`: `{"purpose":"user_login","login":…}`.
pub(super) fn issue_request(subject: &Subject) -> Bytes {
    object(&[("purpose", "user_login"), (subject.field(), subject.as_sent())])
}

/// The body of `POST /idp/ott/login`: `{"ott":…}`.
pub(super) fn login_request(ott: &OneTimeToken) -> Bytes {
    object(&[("ott", ott.expose())])
}

/// Writes a JSON object of texts into memory that never moves and is overwritten when it is
/// dropped.
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

/// Reads the response to `POST /idp/ott`: `{"ott": "..."}`.
pub(super) fn issued(answer: &Answer) -> Result<OneTimeToken, Malformation> {
    let ott = json(answer)?.get("ott").ok_or(Malformation::Missing)?;
    OneTimeToken::try_new(ott).map_err(|_| Malformation::Missing)
}

/// Reads the response to `POST /idp/ott/login`: the user account.
pub(super) fn account(answer: &Answer) -> Result<Account, Malformation> {
    let account = json(answer)?;
    for required in ["id", "login"] {
        if account.get::<String>(required).is_none_or(|text| text.is_empty()) {
            return Err(Malformation::Missing);
        }
    }
    Ok(Account::new(account.to_members()))
}

/// Reads a response other than 2xx. `echoes` are the request's own values, none of which
/// is passed on.
pub(super) fn error(answer: &Answer, echoes: &[&str], now: SystemTime) -> ErrorAnswer {
    let status = answer.status.as_u16();
    ErrorAnswer {
        status,
        body: error_body(answer, status, echoes),
        retry_after: retry_after(&answer.headers, now),
    }
}

fn error_body(answer: &Answer, status: u16, echoes: &[&str]) -> Option<ErrorBody> {
    let error = json(answer).ok()?.object("error")?;
    let text = |name| error.get::<String>(name);
    // A number, or a text that contains one.
    let code = error.get("code").or_else(|| text("code")?.trim().parse().ok());
    Some(ErrorBody {
        code: code.filter(|code| *code != i64::from(status)).map(PlatformErrorCode::from_number),
        domain: text("domain").and_then(|domain| presentable_domain(&domain, echoes)),
        message: text("message").and_then(|message| presentable_message(&message, echoes)),
    })
}

fn json(answer: &Answer) -> Result<Object<'_>, Malformation> {
    let ResponseBody(body) = answer.body.as_ref().map_err(|malformation| *malformation)?;
    if !is_json(&answer.headers) {
        return Err(Malformation::ContentType);
    }
    // A label alone must not cost a token: only a body that cannot be read is compressed.
    let is_encoded = || answer.headers.contains_key(CONTENT_ENCODING);
    Object::parse(body).map_err(
        |NotAnObject| {
            if is_encoded() { Malformation::ContentCoding } else { Malformation::Json }
        },
    )
}

fn presentable_domain(domain: &str, echoes: &[&str]) -> Option<String> {
    let mut domain: String = domain.chars().filter(char::is_ascii_graphic).collect();
    domain.truncate(MAX_DOMAIN_BYTES);
    (!domain.is_empty() && without_echoes(&domain, echoes) == domain).then_some(domain)
}

fn presentable_message(message: &str, echoes: &[&str]) -> Option<String> {
    // Removed first, because a control character in the middle of an echo would hide it.
    // Characters that break a line or change its direction are removed as well.
    let visible: String = message.chars().filter(|&character| !is_hidden(character)).collect();
    let mut message = without_echoes(&visible, echoes);
    message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
    (!message.trim().is_empty()).then_some(message)
}

fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Replaces each occurrence of the values, ignoring ASCII case, with an ellipsis. Removing
/// them could join two halves of another occurrence.
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

/// Returns the position of a text in another, ignoring ASCII case.
fn find_ignoring_case(text: &str, sought: &str) -> Option<usize> {
    text.as_bytes().windows(sought.len()).position(|window| window.eq_ignore_ascii_case(sought.as_bytes()))
}
