//! JSON of requests to the platform and of its responses.
//!
//! Requests are written into memory that is overwritten afterwards. Content types are not sniffed,
//! and only the documented members of a response are returned.

use std::time::SystemTime;

use bytes::Bytes;
use http::{
    HeaderMap,
    header::{CONTENT_ENCODING, SET_COOKIE},
};
use zeroize::Zeroizing;

use super::{
    error::{ErrorBody, ErrorResponse, Malformation, PlatformErrorCode},
    leaks::{RUN, Secrets},
    response::{PlatformResponse, ResponseBody},
};
use crate::{
    base::{secret::Secret, text::is_unprintable},
    credential::Bearer,
    domain::{
        call::Call,
        ott::{OneTimeToken, Subject},
        session::Account,
    },
    http_client::{
        json::{NotAnObject, Object},
        media_type::is_json,
        retry_after::retry_after,
    },
    observe::telemetry::metrics::ApiClientMetrics,
};

/// Maximum size of a message that is returned, in bytes.
const MAX_MESSAGE_BYTES: usize = 256;
/// Maximum size of a domain, the name of a part of the platform, in bytes.
const MAX_DOMAIN_BYTES: usize = 64;
/// Maximum number of examined characters of a text from the platform. The returned text is shorter,
/// and is examined together with the text that follows it.
const MAX_EXAMINED_CHARACTERS: usize = 512;
/// Maximum number of JSON bytes for one byte of text (`\u001f`).
const MAX_ESCAPE: usize = 6;
/// Bytes of the braces of a JSON object.
const BRACES: usize = 2;
/// Bytes of the quotes, the colon and the comma of a JSON member.
const PUNCTUATION: usize = 6;

/// Returns the body of `POST /idp/ott`: `{"purpose":"user_login","login":…}`.
pub(super) fn issue_request(subject: &Subject) -> Bytes {
    object(&[("purpose", "user_login"), (subject.field(), subject.as_sent())])
}

/// Returns the body of `POST /idp/ott/login`: `{"ott":…}`.
pub(super) fn login_request(ott: &OneTimeToken) -> Bytes {
    object(&[("ott", ott.expose())])
}

/// Writes a JSON object of strings into memory that is never reallocated and is overwritten on
/// drop.
fn object(members: &[(&str, &str)]) -> Bytes {
    let max_bytes: usize =
        members.iter().map(|(name, value)| max_json_bytes(name) + max_json_bytes(value) + PUNCTUATION).sum();
    let mut json = Zeroizing::new(Vec::with_capacity(max_bytes + BRACES));
    for (index, (name, value)) in members.iter().enumerate() {
        json.push(if index == 0 { b'{' } else { b',' });
        write_text(&mut json, name);
        json.push(b':');
        write_text(&mut json, value);
    }
    json.push(b'}');
    Bytes::from_owner(json)
}

/// Returns the maximum size of a text in JSON, in bytes, without its quotes.
fn max_json_bytes(text: &str) -> usize {
    let is_escaped = |byte: &u8| *byte < b' ' || matches!(byte, b'"' | b'\\');
    text.len() + text.bytes().filter(is_escaped).count() * (MAX_ESCAPE - 1)
}

fn write_text(json: &mut Vec<u8>, text: &str) {
    // Writing a string to memory does not fail.
    let _ = serde_json::to_writer(json, text);
}

/// Parses the response to `POST /idp/ott`: `{"ott": "..."}`.
pub(super) fn issued(answer: &PlatformResponse) -> Result<OneTimeToken, Malformation> {
    let ott = json(answer)?.get("ott").ok_or(Malformation::Missing)?;
    OneTimeToken::try_new(ott).map_err(|_| Malformation::Missing)
}

/// Parses the response to `POST /idp/ott/login`: the user account.
pub(super) fn account(answer: &PlatformResponse) -> Result<Account, Malformation> {
    let account = json(answer)?;
    for required in ["id", "login"] {
        if account.get::<String>(required).is_none_or(|text| text.is_empty()) {
            return Err(Malformation::Missing);
        }
    }
    Ok(Account::new(account.to_members()))
}

/// Values of an exchange that must not be returned if an error message repeats them.
#[derive(Clone, Copy)]
pub(super) struct Confidential<'a> {
    /// Values of the request that the caller knows, but that do not belong in its log.
    pub(super) echoes: &'a [&'a str],
    /// Secrets in the request's body.
    pub(super) secrets: &'a [&'a str],
    /// The credential of the request.
    pub(super) bearer: Option<&'a Bearer>,
    /// The password for the proxy.
    pub(super) proxy_password: Option<&'a Secret>,
    /// The call, for the log.
    pub(super) call: &'a Call,
    pub(super) metrics: &'a ApiClientMetrics,
}

impl Confidential<'_> {
    /// Returns every value that is replaced where it is repeated verbatim.
    fn values(&self) -> impl Iterator<Item = &str> {
        let token = self.bearer.and_then(|bearer| bearer.header_value().to_str().ok()?.split_once(' '));
        self.echoes.iter().chain(self.secrets).copied().chain(token.map(|(_, token)| token))
    }

    /// Returns every secret of the exchange, including those in the response.
    fn all_secrets(&self, response: &HeaderMap) -> Secrets {
        let mut secrets = Secrets::default();
        self.secrets.iter().for_each(|secret| secrets.add(secret.as_bytes()));
        let authorizations = self.bearer.map(Bearer::authorizations);
        authorizations.into_iter().flatten().for_each(|header| secrets.add_authorization(header));
        if let Some(password) = self.proxy_password {
            secrets.add(password.expose().as_bytes());
        }
        response.get_all(SET_COOKIE).iter().for_each(|cookie| secrets.add_cookie(cookie));
        secrets
    }

    /// Reports that a response contains a part of a secret, which its sender may have logged.
    fn report_withheld(&self, status: u16) {
        self.metrics.text_withheld();
        tracing::warn!(
            request.id = %self.call.request_id(),
            api_client.name = self.metrics.name(),
            http.status = status,
            "platform error contains part of a secret, withholding its text"
        );
    }
}

/// Error for a text that contains a part of a secret.
#[derive(Debug)]
struct ContainsSecret;

/// Parses a response other than 2xx.
pub(super) fn error(
    answer: &PlatformResponse,
    confidential: &Confidential<'_>,
    now: SystemTime,
) -> ErrorResponse {
    let status = answer.status.as_u16();
    ErrorResponse {
        status,
        body: error_body(answer, status, confidential),
        retry_after: retry_after(&answer.headers, now),
    }
}

fn error_body(answer: &PlatformResponse, status: u16, confidential: &Confidential<'_>) -> Option<ErrorBody> {
    let error = json(answer).ok()?.object("error")?;
    let text = |name| error.get::<String>(name);
    // A number, or a string that contains one.
    let code: Option<i64> = error.get("code").or_else(|| text("code")?.trim().parse().ok());
    let code = code.filter(|code| *code != i64::from(status));
    let (domain, message) = (text("domain"), text("message"));
    let secrets = confidential.all_secrets(&answer.headers);
    let code = match code {
        Some(code) if secrets.have_part_in(&code.to_string()) => Err(ContainsSecret),
        code => Ok(code),
    };
    let domain = domain.map_or(Ok(None), |domain| presentable_domain(&domain, confidential, &secrets));
    let message = message.map_or(Ok(None), |message| examined_message(&message, confidential, &secrets));
    let mut is_withheld = code.is_err() || domain.is_err() || message.is_err();
    let code = code.unwrap_or_default();
    let mut texts = (domain.unwrap_or_default(), message.unwrap_or_default());
    let code_text = code.map(|code| code.to_string()).unwrap_or_default();
    let parts = [&code_text, texts.0.as_deref().unwrap_or_default(), texts.1.as_deref().unwrap_or_default()];
    if secrets.have_part_in(&in_every_order(parts)) {
        is_withheld = true;
        texts = (None, None);
    }
    if is_withheld {
        confidential.report_withheld(status);
    }
    let (domain, message) = texts;
    Some(ErrorBody {
        code: code.map(PlatformErrorCode::from_number),
        domain,
        message: message.and_then(|message| presentable_message(message, confidential)),
    })
}

/// Joins the texts of one error so that the result contains every order of the three: a secret can
/// be split over them.
fn in_every_order([first, second, third]: [&str; 3]) -> String {
    // The shortest sequence that contains all permutations.
    [first, second, third, first, second, first, third, second, first].concat()
}

fn json(answer: &PlatformResponse) -> Result<Object<'_>, Malformation> {
    let ResponseBody(body) = answer.body.as_ref().map_err(|malformation| *malformation)?;
    if !is_json(&answer.headers) {
        return Err(Malformation::ContentType);
    }
    // The header alone must not waste a token: only a body that cannot be parsed counts as
    // compressed.
    let is_encoded = || answer.headers.contains_key(CONTENT_ENCODING);
    Object::parse(body).map_err(
        |NotAnObject| {
            if is_encoded() { Malformation::ContentCoding } else { Malformation::Json }
        },
    )
}

fn presentable_domain(
    domain: &str,
    confidential: &Confidential<'_>,
    secrets: &Secrets,
) -> Result<Option<String>, ContainsSecret> {
    let mut domain: String =
        domain.chars().filter(char::is_ascii_graphic).take(MAX_EXAMINED_CHARACTERS).collect();
    if secrets.have_part_in(&domain) {
        return Err(ContainsSecret);
    }
    let is_presentable = !domain.is_empty() && without_values(domain.clone(), confidential, 1) == domain;
    domain.truncate(MAX_DOMAIN_BYTES);
    Ok(is_presentable.then_some(domain))
}

/// Returns the part of a message that can be returned. Short values are not replaced yet.
fn examined_message(
    message: &str,
    confidential: &Confidential<'_>,
    secrets: &Secrets,
) -> Result<Option<String>, ContainsSecret> {
    // Unprintable characters are removed first, because one in the middle of a value would hide it.
    let printable = message.chars().filter(|&character| !is_unprintable(character));
    // The caller chooses some of the values. Replacing short ones first, such as a single letter,
    // would split a secret so that it is not found.
    let mut message = without_values(printable.take(MAX_EXAMINED_CHARACTERS).collect(), confidential, RUN);
    if secrets.have_part_in(&message) {
        return Err(ContainsSecret);
    }
    message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
    Ok(Some(message))
}

fn presentable_message(message: String, confidential: &Confidential<'_>) -> Option<String> {
    let mut message = without_values(message, confidential, 1);
    message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
    (!message.trim().is_empty()).then_some(message)
}

/// Replaces each occurrence of the values of at least `min_bytes`, which is not 0, with an
/// ellipsis, ignoring ASCII case. Removing them could join two halves of another occurrence.
fn without_values(mut text: String, confidential: &Confidential<'_>, min_bytes: usize) -> String {
    for value in confidential.values().filter(|value| value.len() >= min_bytes) {
        let mut kept = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some(start) = find_ignoring_case(rest, value) {
            kept.push_str(&rest[..start]);
            kept.push('…');
            rest = &rest[start + value.len()..];
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
