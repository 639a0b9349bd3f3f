//! Conversion of the logged-in account to the contract's types.
//!
//! Members without a field in the contract, or with a different type than the field, are kept
//! verbatim in `additional_fields_json`. An unusual account therefore never fails a login after its
//! token was spent.

use std::ops::RangeInclusive;

use prost_types::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::{
    base::clock::MAX_TIMESTAMP, domain::session::Account, http_client::json::Object, proto::ott::v1,
};

/// Seconds that a `Timestamp` can represent: the years 1 to 9999.
const TIMESTAMP_SECONDS: RangeInclusive<i64> = -62_135_596_800..=MAX_TIMESTAMP.as_secs().cast_signed();

impl From<Account> for v1::UserAccount {
    fn from(account: Account) -> Self {
        let (user, additional) =
            typed::<Self>(account.into_members().iter().map(|(name, value)| (name.as_str(), &**value)));
        Self { additional_fields_json: additional, ..user }
    }
}

/// A message whose field names match the members of a JSON object.
trait TypedFields: Default {
    /// Sets the field `name`. Returns false if there is no such field or the value has another
    /// type. A null clears the field.
    fn take(&mut self, name: &str, value: &RawValue) -> bool;
}

/// Declares the fields and the reader of each.
macro_rules! typed_fields {
    ($message:ident { $($field:ident: $read:ident,)* }) => {
        impl TypedFields for v1::$message {
            fn take(&mut self, name: &str, value: &RawValue) -> bool {
                match name {
                    $(stringify!($field) => $read(value).map(|read| self.$field = read).is_ok(),)*
                    _ => false,
                }
            }
        }
    };
}

typed_fields!(UserAccount {
    activated: scalar,
    business_types: list,
    contact: contact,
    created_at: time,
    enabled: scalar,
    id: scalar,
    idp_id: scalar,
    language: scalar,
    login: scalar,
    mfa_status: scalar,
    notifications: list,
    personal_tenant_id: scalar,
    tenant_id: scalar,
    terms_accepted: scalar,
    version: scalar,
    external_id: scalar,
    origin_id: scalar,
    origin_external_id: scalar,
    updated_at: time,
    deleted_at: time,
    disable_after: time,
    session_mfa_status: scalar,
    delivery_channel: scalar,
    external_operation_status: scalar,
    login_totp_time: time,
    tenant_kind: scalar,
    tenant_pricing_model: scalar,
    brand_id: scalar,
});

typed_fields!(Contact {
    address1: scalar,
    address2: scalar,
    city: scalar,
    country: scalar,
    email: scalar,
    firstname: scalar,
    lastname: scalar,
    phone: scalar,
    state: scalar,
    zipcode: scalar,
    id: scalar,
    created_at: time,
    updated_at: time,
    deleted_at: time,
    tenant_id: scalar,
    user_id: scalar,
    types: list,
    title: scalar,
    website: scalar,
    industry: scalar,
    organization_size: scalar,
    email_confirmed: scalar,
    email_domain_type: scalar,
    aan: scalar,
    fax: scalar,
    language: scalar,
});

/// Returns the message with these members, and a JSON object of the members without a field; an
/// empty string if there are none.
fn typed<'a, M: TypedFields>(members: impl Iterator<Item = (&'a str, &'a RawValue)>) -> (M, String) {
    let mut message = M::default();
    let mut others = Vec::new();
    for (name, value) in members {
        if !message.take(name, value) {
            others.push(format!("{}:{}", serde_json::Value::from(name), value.get()));
        }
    }
    let additional = if others.is_empty() { String::new() } else { format!("{{{}}}", others.join(",")) };
    (message, additional)
}

/// The value does not have the type of the field.
struct WrongType;

/// Reads a string, a boolean or an integer, depending on the field; `None` for a null.
fn scalar<T: DeserializeOwned>(value: &RawValue) -> Result<Option<T>, WrongType> {
    serde_json::from_str(value.get()).map_err(|_| WrongType)
}

/// Reads a list of strings; empty for a null.
fn list(value: &RawValue) -> Result<Vec<String>, WrongType> {
    scalar(value).map(Option::unwrap_or_default)
}

/// Reads an RFC 3339 time.
fn time(value: &RawValue) -> Result<Option<Timestamp>, WrongType> {
    let Some(text) = scalar::<String>(value)? else { return Ok(None) };
    if !is_rfc3339(&text) {
        return Err(WrongType);
    }
    let time: Timestamp = text.parse().map_err(|_| WrongType)?;
    if TIMESTAMP_SECONDS.contains(&time.seconds) { Ok(Some(time)) } else { Err(WrongType) }
}

/// Reads the contact, which is an object.
fn contact(value: &RawValue) -> Result<Option<v1::Contact>, WrongType> {
    let Some(contact) = serde_json::from_str::<Option<Object<'_>>>(value.get()).map_err(|_| WrongType)?
    else {
        return Ok(None);
    };
    let (contact, additional) = typed::<v1::Contact>(contact.members());
    Ok(Some(v1::Contact { additional_fields_json: additional, ..contact }))
}

/// Returns whether the text is an RFC 3339 time that a `Timestamp` represents without loss: no leap
/// second, at most nine fractional digits. (The parser of `Timestamp` is more lenient: it assumes a
/// missing offset and drops digits.)
fn is_rfc3339(text: &str) -> bool {
    let Some((moment, rest)) = text.split_at_checked(19) else { return false };
    let is_moment = moment.bytes().zip("0000-00-00T00:00:00".bytes()).all(|(byte, form)| match form {
        b'0' => byte.is_ascii_digit(),
        b'T' => byte.eq_ignore_ascii_case(&b'T'),
        _ => byte == form,
    });
    is_moment && !moment.ends_with("60") && is_offset(after_fraction(rest))
}

fn after_fraction(text: &str) -> &str {
    let Some(fraction) = text.strip_prefix('.') else { return text };
    let rest = fraction.trim_start_matches(|letter: char| letter.is_ascii_digit());
    if (1..=9).contains(&(fraction.len() - rest.len())) { rest } else { text }
}

fn is_offset(text: &str) -> bool {
    let two = |digits: &str, below: u8| {
        digits.bytes().all(|byte| byte.is_ascii_digit())
            && digits.parse::<u8>().is_ok_and(|number| number < below)
    };
    match text.as_bytes() {
        [b'Z' | b'z'] => true,
        [b'+' | b'-', _, _, b':', _, _] if text.is_ascii() => two(&text[1..3], 24) && two(&text[4..6], 60),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
