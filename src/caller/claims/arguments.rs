//! Claims as arguments of a command: `PATH=VALUE`, each of which can be written as a JSON string.

use std::{borrow::Cow, fmt::Write as _, sync::Arc};

use super::{ClaimPath, ClaimValue, Claims, InvalidClaimPath};
use crate::base::text::{Escaping, Notation, is_unprintable};

/// Reason that an argument is not a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidClaimArgument {
    /// It contains no `=`.
    #[error("must be PATH=VALUE, such as realm_access/roles=issuer")]
    Form,
    /// The path begins with a quotation mark, but is not a JSON string that ends before `=`.
    #[error(
        "a path that begins with a quotation mark must be a JSON string, followed by =, such as \"a=b\"=issuer"
    )]
    QuotedPath,
    /// The part before `=` is not a path.
    #[error("the path {0}")]
    Path(#[from] InvalidClaimPath),
    /// The value begins with a quotation mark, but is not a JSON string.
    #[error("a value that begins with a quotation mark must be a JSON string")]
    Text,
    /// The value is an integer that no rule can accept.
    #[error("an integer must be between {min} and {max}; write a text in quotation marks", min = i64::MIN, max = i64::MAX)]
    Integer,
}

impl Claims {
    /// Parses claims of the form `PATH=VALUE`. The path is a JSON string (`"a=b"`), or else ends at
    /// the first `=`. The value is a boolean (`true`, `false`), an integer as in JSON, a JSON string
    /// (`"true"`), or else the text as it is. A path that is repeated has all of its values, like an
    /// array in a token. Every claim that a rule can require has such a form, which
    /// [`claim_argument`] returns.
    ///
    /// # Errors
    ///
    /// The first argument that is not a claim, and the reason.
    pub fn from_arguments<'a>(
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, (&'a str, InvalidClaimArgument)> {
        let parse = |argument| parse(argument).map_err(|error| (argument, error));
        Ok(Self::new(arguments.into_iter().map(parse).collect::<Result<_, _>>()?))
    }
}

fn parse(argument: &str) -> Result<(ClaimPath, ClaimValue), InvalidClaimArgument> {
    let (path, value) = split(argument)?;
    let path = ClaimPath::new(&path)?;
    let value = match value {
        "true" => ClaimValue::Boolean(true),
        "false" => ClaimValue::Boolean(false),
        number if is_json_integer(number) => {
            ClaimValue::Integer(number.parse().map_err(|_| InvalidClaimArgument::Integer)?)
        }
        text if text.starts_with('"') => {
            let text: String = serde_json::from_str(text).map_err(|_| InvalidClaimArgument::Text)?;
            ClaimValue::Text(Arc::from(text))
        }
        text => ClaimValue::Text(Arc::from(text)),
    };
    Ok((path, value))
}

/// Returns the path and the text of the value.
fn split(argument: &str) -> Result<(Cow<'_, str>, &str), InvalidClaimArgument> {
    if !argument.starts_with('"') {
        let (path, value) = argument.split_once('=').ok_or(InvalidClaimArgument::Form)?;
        return Ok((Cow::Borrowed(path), value));
    }
    let mut strings = serde_json::Deserializer::from_str(argument).into_iter::<String>();
    let path = strings.next().and_then(Result::ok).ok_or(InvalidClaimArgument::QuotedPath)?;
    let rest = argument.get(strings.byte_offset()..).unwrap_or_default();
    Ok((Cow::Owned(path), rest.strip_prefix('=').ok_or(InvalidClaimArgument::QuotedPath)?))
}

/// Returns the argument that is parsed as this claim. It contains only printable characters.
#[must_use]
pub fn claim_argument(path: &ClaimPath, value: &ClaimValue) -> String {
    let text = path.as_str();
    let is_plain = !text.starts_with('"') && !text.contains('=') && !text.contains(is_unprintable);
    let path = if is_plain { Cow::Borrowed(text) } else { Cow::Owned(json_string(text)) };
    match value {
        // A text that would be read as another type is quoted, and so is any other, for uniformity.
        ClaimValue::Text(value) => format!("{path}={}", json_string(value)),
        other => format!("{path}={other}"),
    }
}

fn json_string(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 2);
    // Writing to a string cannot fail.
    let _ = Escaping::new(&mut escaped, Notation::Json).write_str(text);
    format!("\"{escaped}\"")
}

/// Returns whether a text is an integer in JSON, of any size. `007` and `+7` are not.
fn is_json_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && (digits.len() == 1 || !digits.starts_with('0'))
        && text != "-0"
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value_of(argument: &str) -> Result<ClaimValue, InvalidClaimArgument> {
        parse(argument).map(|(_, value)| value)
    }

    #[test]
    fn value_has_the_type_that_it_has_in_json_or_is_a_text() {
        assert_eq!(value_of("a=true"), Ok(ClaimValue::Boolean(true)));
        assert_eq!(value_of("a=false"), Ok(ClaimValue::Boolean(false)));
        assert_eq!(value_of("a=-7"), Ok(ClaimValue::Integer(-7)));
        assert_eq!(value_of("a=0"), Ok(ClaimValue::Integer(0)));
        assert_eq!(value_of("a=9223372036854775807"), Ok(ClaimValue::Integer(i64::MAX)));
        for (argument, expected) in [
            ("a=billing", "billing"),
            ("a=", ""),
            ("a=b=c", "b=c"),
            (r#"a="true""#, "true"),
            (r#"a="7""#, "7"),
            (r#"a="\u00e4\"""#, "\u{e4}\""),
            ("a=True", "True"),
            ("a=007", "007"),
            ("a=+7", "+7"),
            ("a=-", "-"),
            ("a=-0", "-0"),
            ("a=1.5", "1.5"),
            ("a=1e3", "1e3"),
            ("a=null", "null"),
            ("a= true", " true"),
            ("a=3f2504e0-4f89-11d3-9a0c-0305e82c3301", "3f2504e0-4f89-11d3-9a0c-0305e82c3301"),
        ] {
            assert_eq!(value_of(argument), Ok(ClaimValue::Text(Arc::from(expected))), "{argument}");
        }
    }

    #[test]
    fn argument_that_is_not_a_claim_is_refused_with_the_reason() {
        for (argument, expected) in [
            ("groups", InvalidClaimArgument::Form),
            ("", InvalidClaimArgument::Form),
            ("=a", InvalidClaimArgument::Path(InvalidClaimPath::EmptyName)),
            ("a~=b", InvalidClaimArgument::Path(InvalidClaimPath::Escape)),
            ("\"a", InvalidClaimArgument::QuotedPath),
            ("\"a=b", InvalidClaimArgument::QuotedPath),
            ("\"a\"", InvalidClaimArgument::QuotedPath),
            ("\"a\" =b", InvalidClaimArgument::QuotedPath),
            ("\"a\"b=c", InvalidClaimArgument::QuotedPath),
            ("\"\"=b", InvalidClaimArgument::Path(InvalidClaimPath::EmptyName)),
            ("a=\"", InvalidClaimArgument::Text),
            ("a=\"b\"c", InvalidClaimArgument::Text),
            ("a=9223372036854775808", InvalidClaimArgument::Integer),
        ] {
            assert_eq!(value_of(argument), Err(expected), "{argument}");
            let refused = Claims::from_arguments(["groups=a", argument]);
            assert_eq!(refused, Err((argument, expected)));
        }
    }

    #[test]
    fn path_ends_at_the_first_equals_sign_or_is_a_json_string() {
        for (argument, path, value) in [
            ("a=b=c", "a", "b=c"),
            (r#""a=b"=c"#, "a=b", "c"),
            (r#""="="=""#, "=", "="),
            (r#""\"a\u003d"=="#, "\"a=", "="),
            ("-=v", "-", "v"),
            (" a =b", " a ", "b"),
            (r#"a"b=c"#, "a\"b", "c"),
        ] {
            let expected = (ClaimPath::new(path).expect(path), ClaimValue::Text(Arc::from(value)));
            assert_eq!(parse(argument), Ok(expected), "{argument}");
        }
    }

    proptest! {
        #[test]
        fn every_claim_has_an_argument(
            path in "[a=\"\\\\~/\u{0}\n\u{202e}\u{10ffff}é' -]{1,8}",
            value in prop_oneof![
                "[true0-9=\"\\\\\u{0}\n\u{202e}\u{10ffff}é' -]{0,6}".prop_map(|text| ClaimValue::Text(text.into())),
                any::<i64>().prop_map(ClaimValue::Integer),
                any::<bool>().prop_map(ClaimValue::Boolean),
            ],
        ) {
            let path = ClaimPath::new(&path);
            prop_assume!(path.is_ok());
            let path = path.unwrap();
            let argument = claim_argument(&path, &value);
            prop_assert!(!argument.contains(is_unprintable), "{argument:?}");
            prop_assert_eq!(parse(&argument), Ok((path, value)), "{}", argument);
        }
    }

    #[test]
    fn repeated_claim_has_all_values_and_a_word_list_is_split() {
        let claims = Claims::from_arguments(["groups=b", "scope=read write", "groups=a", "admin=true"]);
        let shown: Vec<String> =
            claims.unwrap().iter().map(|(path, value)| format!("{path} {value}")).collect();
        assert_eq!(
            shown,
            ["admin true", "groups \"a\"", "groups \"b\"", "scope \"read\"", "scope \"write\""]
        );
    }
}
