//! The claims that access rules require, and reading them from a token.
//!
//! Only values that a rule accepts are kept, and they are shared with the rules, so that a token
//! with many groups costs no more than the rules ask for. Everything else in the token is skipped
//! without recursion or allocation.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Claim, ClaimList, ClaimRequirement, Claims, Scalar, words};

/// Maximum number of different claims that the rules can require in total.
pub const MAX_REQUESTED_CLAIMS: usize = 64;
/// Maximum number of values in one token that rules accept.
pub(in crate::caller) const MAX_CLAIM_VALUES: usize = 128;
/// Maximum memory of the claims of one token, in bytes, without the values, which are shared.
pub(in crate::caller) const MAX_CLAIM_LIST_BYTES: usize =
    2 * size_of::<usize>() + size_of::<ClaimList>() + MAX_CLAIM_VALUES * size_of::<Claim>();

/// The claims that the rules in force require, with the accepted values. Only these are read from
/// tokens. Cheap to clone.
#[derive(Clone, Default)]
pub struct RequestedClaims(Option<Arc<Request>>);

struct Request {
    id: RequestId,
    /// Each accepted value of each claim, in order.
    accepted: Box<[Claim]>,
    /// The payload of a token.
    root: Member,
    /// The request of the rules in force, if candidate rules require more. It is used for a token
    /// whose claims cannot be read for the candidate rules, which must not refuse a caller.
    in_force: Option<Arc<Request>>,
}

/// Identifies the claims and values that were requested when a token was read. Unique in the
/// process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::caller) struct RequestId(NonZeroU64);

/// A member of a JSON object: a requested claim, or one that contains requested claims.
#[derive(Default)]
struct Member {
    /// The accepted values, in order. Empty if the member itself is not requested.
    accepted: Vec<Claim>,
    is_word_list: bool,
    /// Members within it.
    members: BTreeMap<Box<str>, Member>,
}

/// Reason that the requested claims of a token cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::caller) enum ClaimsError {
    /// A member with a requested claim occurs more than once.
    Duplicate,
    /// More than [`MAX_CLAIM_VALUES`] values are accepted by rules.
    TooMany,
    /// A requested claim contains invalid text or a number out of range.
    Unreadable,
}

impl RequestId {
    fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        Self(NonZeroU64::new(number).unwrap_or(NonZeroU64::MAX))
    }
}

impl RequestedClaims {
    /// Returns the claims that these rules require.
    #[must_use]
    pub fn new<'a, R: IntoIterator<Item = &'a ClaimRequirement>>(required: R) -> Self {
        let accepted: BTreeSet<_> = required
            .into_iter()
            .flat_map(|required| required.values.iter().map(|value| (required.path.clone(), value.clone())))
            .collect();
        if accepted.is_empty() {
            return Self::default();
        }
        let accepted: Box<[Claim]> = accepted.into_iter().map(Arc::new).collect();
        let mut root = Member::default();
        for claim in &accepted {
            let mut member = &mut root;
            for name in claim.0.names() {
                member = member.members.entry(name.into_boxed_str()).or_default();
            }
            member.is_word_list = claim.0.is_word_list();
            member.accepted.push(Arc::clone(claim));
        }
        Self(Some(Arc::new(Request { id: RequestId::next(), accepted, root, in_force: None })))
    }

    /// Returns the claims that the rules in force and the candidate rules require. A token from which
    /// only the claims of the candidate rules cannot be read is accepted, as if it had none of them.
    #[must_use]
    pub fn with_candidates(in_force: &[ClaimRequirement], candidates: &[ClaimRequirement]) -> Self {
        let (own, all) = (Self::new(in_force), Self::new(in_force.iter().chain(candidates)));
        let accepted = |request: &Self| request.0.as_ref().map(|request| request.accepted.clone());
        if accepted(&own) == accepted(&all) {
            return own;
        }
        let own = own.0.unwrap_or_else(|| {
            let (accepted, root) = (Box::default(), Member::default());
            Arc::new(Request { id: RequestId::next(), accepted, root, in_force: None })
        });
        let with_fallback = |request: Arc<Request>| {
            let Request { id, accepted, root, .. } = Arc::into_inner(request)?;
            Some(Arc::new(Request { id, accepted, root, in_force: Some(own) }))
        };
        Self(all.0.and_then(with_fallback))
    }

    /// Becomes the earlier request if it is equal, so that tokens that were read for it need not be
    /// verified again.
    pub fn inherit(&mut self, earlier: &Self) {
        if let (Some(own), Some(other)) = (&self.0, &earlier.0)
            && own.accepted == other.accepted
            && own.in_force.as_ref().map(|request| &request.accepted)
                == other.in_force.as_ref().map(|request| &request.accepted)
        {
            *self = earlier.clone();
        }
    }

    /// Returns the identity of the request. `None` if no claims are requested.
    pub(in crate::caller) fn id(&self) -> Option<RequestId> {
        Some(self.0.as_ref()?.id)
    }

    /// Reads the requested claims from a token whose signature has been verified.
    pub(in crate::caller) fn read(&self, token: &str) -> Result<Claims, ClaimsError> {
        let Some(request) = &self.0 else { return Ok(Claims::none()) };
        let payload = token.split('.').nth(1).unwrap_or_default();
        let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| ClaimsError::Unreadable)?;
        request.read(&payload)
    }
}

impl Request {
    fn read(&self, payload: &[u8]) -> Result<Claims, ClaimsError> {
        let values = self.values(payload).or_else(|error| match &self.in_force {
            // Without a request, no token is read.
            Some(in_force) if in_force.accepted.is_empty() => Ok(Box::default()),
            Some(in_force) => in_force.values(payload),
            None => Err(error),
        })?;
        Ok(Claims(Some(Arc::new(ClaimList { request: Some(self.id), values }))))
    }

    fn values(&self, payload: &[u8]) -> Result<Box<[Claim]>, ClaimsError> {
        let mut found = Found::default();
        let mut json = serde_json::Deserializer::from_slice(payload);
        let read = MemberReader { member: &self.root, is_element: false, found: &mut found };
        read.deserialize(&mut json)
            .and_then(|()| json.end())
            .map_err(|_| found.error.unwrap_or(ClaimsError::Unreadable))?;
        Ok(found.values.into_boxed_slice())
    }
}

/// Omits the values, which are of no use in a log and may be many.
impl fmt::Debug for RequestedClaims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RequestedClaims").field(&self.id()).finish()
    }
}

/// What has been read of a token.
#[derive(Default)]
struct Found {
    /// Each once, in order.
    values: Vec<Claim>,
    /// The reason that reading failed, unless the JSON is at fault.
    error: Option<ClaimsError>,
}

impl Found {
    /// Adds a value if it is accepted.
    fn add<E: Error>(&mut self, member: &Member, value: Scalar<'_>) -> Result<(), E> {
        let accepted = member.accepted.binary_search_by(|claim| claim.1.as_scalar().cmp(&value));
        let Some(claim) = accepted.ok().and_then(|index| member.accepted.get(index)) else { return Ok(()) };
        let Err(place) = self.values.binary_search(claim) else { return Ok(()) };
        if self.values.len() >= MAX_CLAIM_VALUES {
            return Err(self.fail(ClaimsError::TooMany));
        }
        self.values.insert(place, Arc::clone(claim));
        Ok(())
    }

    fn fail<E: Error>(&mut self, error: ClaimsError) -> E {
        self.error = Some(error);
        E::custom("the claims cannot be used")
    }
}

/// Reads the value of a member.
struct MemberReader<'a> {
    member: &'a Member,
    /// Whether this is an element of the member's array, in which arrays and objects are skipped.
    is_element: bool,
    found: &'a mut Found,
}

impl<'de> DeserializeSeed<'de> for MemberReader<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MemberReader<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        if self.member.is_word_list && !self.is_element {
            return words(text).try_for_each(|word| self.found.add(self.member, Scalar::Text(word)));
        }
        self.found.add(self.member, Scalar::Text(text))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.found.add(self.member, Scalar::Boolean(value))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.found.add(self.member, Scalar::Integer(number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        match i64::try_from(number) {
            Ok(number) => self.visit_i64(number),
            Err(_) => Ok(()),
        }
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        if self.is_element || self.member.accepted.is_empty() {
            while elements.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(());
        }
        let Self { member, found, .. } = self;
        while elements.next_element_seed(MemberReader { member, is_element: true, found })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        if self.is_element || self.member.members.is_empty() {
            while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(());
        }
        let requested = &self.member.members;
        let mut seen: Vec<&str> = Vec::new();
        while let Some(found) = members.next_key_seed(NameReader(requested))? {
            let Some((name, member)) = found else {
                members.next_value::<IgnoredAny>()?;
                continue;
            };
            // A component that reads the first of two members and one that reads the last would see
            // different claims.
            if seen.contains(&name) {
                return Err(self.found.fail(ClaimsError::Duplicate));
            }
            seen.push(name);
            members.next_value_seed(MemberReader { member, is_element: false, found: &mut *self.found })?;
        }
        Ok(())
    }
}

/// Reads the name of a member, and returns the requested member of this name.
struct NameReader<'a>(&'a BTreeMap<Box<str>, Member>);

impl<'a> Visitor<'_> for NameReader<'a> {
    type Value = Option<(&'a str, &'a Member)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.get_key_value(name).map(|(name, member)| (&**name, member)))
    }
}

impl<'de, 'a> DeserializeSeed<'de> for NameReader<'a> {
    type Value = Option<(&'a str, &'a Member)>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

#[cfg(test)]
mod tests;
