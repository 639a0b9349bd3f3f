//! Claims as arguments of a command: `PATH=VALUE`.

use std::sync::Arc;

use super::{ClaimPath, ClaimValue, Claims, InvalidClaimPath};

/// Reason that an argument is not a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidClaimArgument {
    /// It contains no `=`.
    #[error("must be PATH=VALUE, such as realm_access/roles=issuer")]
    Form,
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
    /// Parses claims of the form `PATH=VALUE`. The path ends at the first `=`. The value is a
    /// boolean (`true`, `false`), an integer as in JSON, a JSON string (`"true"`), or else the text
    /// as it is. A path that is repeated has all of its values, like an array in a token.
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
    let (path, value) = argument.split_once('=').ok_or(InvalidClaimArgument::Form)?;
    let path = ClaimPath::new(path)?;
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
