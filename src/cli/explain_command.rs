//! The arguments with which `check-config --explain` explains a decision, for other commands to print.

use std::fmt::Write;

use crate::{
    access::TokenUse,
    base::text::is_unprintable,
    caller::{Claims, claim_argument},
};

/// Returns the arguments that follow `--explain` for this call, quoted for a POSIX shell.
///
/// `user` is as `--explain` reads it; `None` asks about the request of a login. Without `api_client`, the
/// call uses the default one.
pub(super) fn arguments(
    caller: &str,
    token_use: TokenUse<'_>,
    user: Option<&str>,
    api_client: Option<&str>,
    claims: &Claims,
) -> String {
    let method = token_use.method().name();
    let mut arguments = format!("{} {method} {}", quoted(caller), quoted(user.unwrap_or("-")));
    let issuer = match token_use {
        TokenUse::Login { issued_by } => issued_by,
        TokenUse::Issue { login_url } => {
            arguments.push_str(if login_url { " --login-url" } else { "" });
            None
        }
    };
    let names = [("--issued-by", issuer), ("--api-client", api_client)];
    let names = names.into_iter().filter_map(|(name, value)| Some((name, value?.to_owned())));
    let claims = claims.iter().map(|(path, value)| ("--claim", claim_argument(path, value)));
    for (name, value) in names.chain(claims) {
        // Writing to a string cannot fail.
        let _ = write!(arguments, " {}", option(name, &value));
    }
    arguments
}

/// Returns an option with its value, quoted for a POSIX shell.
pub(super) fn option(name: &str, value: &str) -> String {
    // A value with a hyphen would be read as another option.
    let separator = if value.starts_with('-') { '=' } else { ' ' };
    format!("{name}{separator}{}", quoted(value))
}

/// Quotes an argument for a POSIX shell, if necessary. The result contains only printable characters.
pub(super) fn quoted(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@=,+%".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_plain) {
        text.to_owned()
    } else if text.contains(is_unprintable) {
        let mut escaped = String::with_capacity(text.len() + 8);
        for character in text.chars() {
            match character {
                '\'' | '\\' => escaped.extend(['\\', character]),
                _ if is_unprintable(character) => {
                    for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                        let _ = write!(escaped, "\\{byte:03o}");
                    }
                }
                _ => escaped.push(character),
            }
        }
        format!("$'{escaped}'")
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
        assert_eq!(quoted("it's\n\u{202e}\\"), r"$'it\'s\012\342\200\256\\'");
    }

    #[test]
    fn value_with_a_hyphen_is_written_in_the_argument_of_its_option() {
        assert_eq!(option("--claim", "a=b"), "--claim a=b");
        assert_eq!(option("--claim", "-=b c"), "--claim='-=b c'");
    }
}
