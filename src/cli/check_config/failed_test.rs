//! The command that explains the decision on an access test.

use std::{fmt::Write, path::Path};

use crate::{
    caller::ClaimValue,
    config::{AccessTest, AccessTestResult, Finding, TestOutcome},
};

/// Returns the text of a failed test: the difference, and the command that explains the decision.
/// Contains the values of the test, unlike the error in the log.
pub(super) fn text(result: &AccessTestResult, config: &Path) -> Option<String> {
    let TestOutcome::Failed(failure) = &result.outcome else { return None };
    Some(format!("{failure}; explain it with: {}", command(&result.test, config)))
}

/// Returns the error of a failed test, with that text.
pub(super) fn finding(result: &AccessTestResult, config: &Path) -> Option<Finding> {
    Some(result.test.finding(text(result, config)?))
}

fn command(test: &AccessTest, config: &Path) -> String {
    let user = test.user.as_ref().map_or_else(|| "-".to_owned(), |user| user.as_asked().to_string());
    let mut command = format!(
        "ott-gateway check-config --config {} --explain {} {} {}",
        quoted(&config.display().to_string()),
        quoted(&test.caller),
        test.method.name(),
        quoted(&user)
    );
    let mut add = |option: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = write!(command, " {option} {}", quoted(value));
    };
    if let Some(api_client) = &test.api_client {
        add("--api-client", api_client);
    }
    for (path, value) in test.claims.iter() {
        let value = match value {
            // A text that would be read as another type, or as several, is quoted.
            ClaimValue::Text(value) => serde_json::Value::from(&**value).to_string(),
            other => other.to_string(),
        };
        add("--claim", &format!("{path}={value}"));
    }
    command
}

/// Quotes an argument for a POSIX shell, if necessary.
fn quoted(text: &str) -> String {
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
