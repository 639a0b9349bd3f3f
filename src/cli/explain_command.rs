//! The arguments with which `check-config --explain` explains a decision, for other commands to print.

use std::fmt::Write;

use crate::{
    caller::{ClaimValue, Claims},
    domain::call::Method,
};

/// Returns the arguments that follow `--explain` for this call, quoted for a POSIX shell.
///
/// `user` is as `--explain` reads it; `None` asks about the request of a login. Without `api_client`, the
/// call uses the default one.
pub(super) fn arguments(
    caller: &str,
    method: Method,
    user: Option<&str>,
    api_client: Option<&str>,
    claims: &Claims,
) -> String {
    let mut arguments = format!("{} {} {}", quoted(caller), method.name(), quoted(user.unwrap_or("-")));
    let mut add = |option: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = write!(arguments, " {option} {}", quoted(value));
    };
    if let Some(api_client) = api_client {
        add("--api-client", api_client);
    }
    for (path, value) in claims.iter() {
        let value = match value {
            // A text that would be read as another type, or as several, is quoted.
            ClaimValue::Text(value) => serde_json::Value::from(&**value).to_string(),
            other => other.to_string(),
        };
        add("--claim", &format!("{path}={value}"));
    }
    arguments
}

/// Quotes an argument for a POSIX shell, if necessary.
pub(super) fn quoted(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@=,+%".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_quoted_for_a_shell() {
        assert_eq!(quoted("login:anna@customer.example"), "login:anna@customer.example");
        assert_eq!(quoted("$(id) `id` *"), "'$(id) `id` *'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
