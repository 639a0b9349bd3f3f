//! Parsers, one for each kind of value.
//!
//! Errors contain the rule that a value breaks, never the value. The text of a variable is converted
//! to the type of its key.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    ops::RangeInclusive,
    time::Duration,
};

use url::Url;

use super::{
    finding::{self, Problem},
    tree::Value,
};
use crate::{
    access::{InvalidRate, Rate},
    http_client::{
        ProxyUrl,
        server_url::{self, InvalidServerUrl},
    },
    platform::data_center::{DataCenter, Origin},
};

/// Parses a non-empty text without control characters.
pub(super) fn text(value: &Value) -> Result<String, Problem> {
    match value {
        Value::Text(text) | Value::Variable(text) => {
            if text.is_empty() {
                Err(Problem::rule("must not be empty"))
            } else if text.chars().any(char::is_control) {
                Err(Problem::rule("must not contain control characters"))
            } else {
                Ok(text.clone())
            }
        }
        other => Err(wrong_type("a string", other)),
    }
}

/// Parses `true` or `false`.
pub(super) fn boolean(value: &Value) -> Result<bool, Problem> {
    match value {
        Value::Boolean(boolean) => Ok(*boolean),
        Value::Variable(text) => text.parse().map_err(|_| Problem::rule("must be true or false")),
        other => Err(wrong_type("a boolean", other)),
    }
}

/// Parses a positive integer within bounds.
pub(super) fn count(bounds: RangeInclusive<u32>) -> impl Fn(&Value) -> Result<NonZeroU32, Problem> {
    move |value| {
        let number = match value {
            Value::Integer(number) => Some(*number),
            Value::Variable(text) => text.parse().ok(),
            other => return Err(wrong_type("an integer", other)),
        };
        number
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| bounds.contains(number))
            .and_then(NonZeroU32::new)
            .ok_or_else(|| {
                Problem::rule(format!("must be a whole number from {} to {}", bounds.start(), bounds.end()))
            })
    }
}

/// Parses a share from 0 to 1.
pub(super) fn share(value: &Value) -> Result<f64, Problem> {
    let number = match value {
        Value::Float(number) => Some(*number),
        Value::Integer(0) => Some(0.0),
        Value::Integer(1) => Some(1.0),
        Value::Integer(_) => None,
        Value::Variable(text) => text.parse().ok(),
        other => return Err(wrong_type("a number", other)),
    };
    number
        .filter(|number| (0.0..=1.0).contains(number))
        .ok_or_else(|| Problem::rule("must be a number from 0.0 to 1.0"))
}

/// Parses a size with a binary unit, within bounds in MiB, and returns bytes.
pub(super) fn mebibytes(bounds: RangeInclusive<u64>) -> impl Fn(&Value) -> Result<u64, Problem> {
    move |value| {
        let (Value::Text(text) | Value::Variable(text)) = value else {
            return Err(wrong_type("a size with its unit, such as \"256MiB\"", value));
        };
        let (number, mebibytes) = match (text.strip_suffix("MiB"), text.strip_suffix("GiB")) {
            (Some(number), _) => (number, 1),
            (_, Some(number)) => (number, 1024),
            (None, None) => ("", 0),
        };
        // `parse` would accept a sign.
        let number = number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse::<u64>().ok());
        number
            .flatten()
            .and_then(|number| number.checked_mul(mebibytes))
            .filter(|mebibytes| bounds.contains(mebibytes))
            .map(|mebibytes| mebibytes * 1024 * 1024)
            .ok_or_else(|| {
                let (least, most) = (bounds.start(), bounds.end());
                Problem::rule(format!(
                    "must be a whole number with the unit MiB or GiB, such as \"256MiB\", from {least}MiB to {most}MiB"
                ))
            })
    }
}

/// Parses a duration with its unit, within bounds.
pub(super) fn duration(bounds: RangeInclusive<Duration>) -> impl Fn(&Value) -> Result<Duration, Problem> {
    move |value| {
        let text = match value {
            Value::Text(text) | Value::Variable(text) => text,
            other => return Err(wrong_type("a duration with its unit, such as \"10s\"", other)),
        };
        let duration = humantime::parse_duration(text)
            .map_err(|_| Problem::rule("must be a duration with its unit, such as \"10s\" or \"500ms\""))?;
        if bounds.contains(&duration) {
            Ok(duration)
        } else {
            let (least, most) = (bounds.start(), bounds.end());
            Err(Problem::rule(format!(
                "must be from {} to {}",
                humantime::format_duration(*least),
                humantime::format_duration(*most)
            )))
        }
    }
}

/// Parses a socket address to listen on.
pub(super) fn address(value: &Value) -> Result<SocketAddr, Problem> {
    text(value)?
        .parse()
        .map_err(|_| Problem::rule("must be an IP address with a port, such as \"127.0.0.1:50051\""))
}

/// Parses one of a fixed set of values.
pub(super) fn one_of<T: Copy>(values: &'static [(&'static str, T)]) -> impl Fn(&Value) -> Result<T, Problem> {
    move |value| {
        let text = text(value)?;
        values.iter().find(|(label, _)| *label == text).map(|(_, value)| *value).ok_or_else(|| {
            let quoted: Vec<String> = values.iter().map(|(label, _)| format!("\"{label}\"")).collect();
            // The only value needs no suggestion.
            let known = values.iter().map(|(label, _)| *label).filter(|_| values.len() > 1);
            let nearest = finding::nearest(&text, known);
            let hint = nearest.map_or_else(String::new, |label| format!("; did you mean \"{label}\"?"));
            Problem::rule(format!("must be {}{hint}", quoted.join(" or ")))
        })
    }
}

impl From<InvalidServerUrl> for Problem {
    fn from(why: InvalidServerUrl) -> Self {
        Self::rule(why.to_string())
    }
}

/// Parses a URL with a host. The scheme must be https, or http on loopback. User, query and
/// fragment are refused.
pub(super) fn secure_url(value: &Value) -> Result<Url, Problem> {
    let text = text(value)?;
    let url = server_url::parse_secure(&text)?;
    server_url::check_no_credentials(&text)?;
    Ok(url)
}

/// Parses a data center's URL: like [`secure_url`], but only scheme, host and port.
pub(super) fn data_center(value: &Value) -> Result<DataCenter, Problem> {
    Ok(DataCenter::parse(&text(value)?)?)
}

/// Like [`data_center`], but https only, even on loopback.
pub(super) fn https_origin(value: &Value) -> Result<Origin, Problem> {
    Ok(Origin::parse(&text(value)?)?)
}

/// Parses an http or https URL with a host. User, query and fragment are refused.
pub(super) fn plain_url(value: &Value) -> Result<Url, Problem> {
    let text = text(value)?;
    let url = server_url::parse(&text)?;
    server_url::check_no_credentials(&text)?;
    Ok(url)
}

/// Parses a proxy's URL.
pub(super) fn proxy_url(value: &Value) -> Result<ProxyUrl, Problem> {
    let text = text(value)?;
    let url = server_url::parse(&text)?;
    server_url::check_no_path(&text)?;
    Ok(ProxyUrl::new(url))
}

/// Parses a rate: `"50/s"`, `"30/min"`, `"100/h"` or `"unlimited"`.
pub(super) fn rate(value: &Value) -> Result<Rate, Problem> {
    text(value)?.parse().map_err(|error: InvalidRate| Problem::rule(error.to_string()))
}

/// Returns whether two listeners need the same port.
pub(super) fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    // An unspecified address takes the port on every address. An IPv6 socket also takes it for
    // IPv4 on most systems.
    let same_host = |a: IpAddr, b: IpAddr| a == b || a.is_unspecified() || b.is_unspecified();
    one.port() != 0 && one.port() == other.port() && same_host(one.ip(), other.ip())
}

/// Returns the error for a value of the wrong type.
pub(super) const fn wrong_type(expected: &'static str, found: &Value) -> Problem {
    Problem::WrongType { expected, found: found.type_name() }
}
