//! The header in which a proxy asserts the caller behind it, and the peers that may send it.
//!
//! A header from any other peer is not used, and is counted.

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    Caller, CallerError, Peer, Proof,
    name::{self, NameError},
};
use crate::observe::telemetry::metrics::CallerMemoryMetrics;

mod asserted;

pub(super) use asserted::AssertedCallers;

/// Envoy's and Istio's header.
const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// Linkerd's header.
const L5D_CLIENT_ID: HeaderName = HeaderName::from_static("l5d-client-id");

/// The header, and the peers that may send it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardedSettings {
    /// The header that the proxy sets.
    pub header: ForwardedHeader,
    /// The trusted proxies.
    pub from: Vec<ForwardedFrom>,
}

/// A header in which a proxy asserts the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `x-forwarded-client-cert`, as Envoy writes it.
    ///
    /// Envoy does not quote URIs and DNS names. The holder of a certificate whose name contains a
    /// comma could add an element that cannot be distinguished from a real one, so the proxy's
    /// client CA must issue only well-formed SPIFFE ids and host names.
    Xfcc,
    /// `l5d-client-id`, as Linkerd writes it.
    L5dClientId,
}

/// A trusted proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardedFrom {
    /// Every peer on the loopback interface: a sidecar, but also any other process of the machine
    /// or pod.
    Loopback,
    /// Every peer with exactly this address, such as the pod's own: a sidecar, but also any other
    /// process there, and any later owner of the address.
    Address(IpAddr),
    /// The peer whose certificate has this SPIFFE id.
    Spiffe(String),
    /// The peer whose certificate has this DNS name.
    Dns(String),
}

/// Reason that a header has no usable name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardedError {
    /// Its syntax is invalid.
    #[error("it is malformed")]
    Malformed,
    /// Its name is not valid.
    #[error(transparent)]
    Name(NameError),
}

impl ForwardedHeader {
    const fn name(self) -> HeaderName {
        match self {
            Self::Xfcc => XFCC,
            Self::L5dClientId => L5D_CLIENT_ID,
        }
    }
}

impl ForwardedFrom {
    pub(super) fn is_valid(&self) -> bool {
        match self {
            Self::Loopback => true,
            Self::Address(address) => !address.is_unspecified() && !address.is_multicast(),
            Self::Spiffe(id) => name::is_spiffe_id(id),
            Self::Dns(name) => name::dns_caller(name).is_some(),
        }
    }

    fn matches(&self, peer: &Peer) -> bool {
        let name = peer.certificate.as_ref().ok().and_then(Option::as_ref).map(|caller| &*caller.name);
        match self {
            Self::Loopback => peer.address.ip().to_canonical().is_loopback(),
            // An IPv6 socket reports IPv4 peers as IPv4-mapped addresses.
            Self::Address(address) => peer.address.ip().to_canonical() == address.to_canonical(),
            Self::Spiffe(id) => name == Some(id),
            Self::Dns(dns_name) => name.is_some() && name == name::dns_caller(dns_name).as_deref(),
        }
    }
}

impl ForwardedSettings {
    /// Returns whether a peer is a trusted proxy.
    pub(super) fn trusts(&self, peer: &Peer) -> bool {
        self.from.iter().any(|from| from.matches(peer))
    }

    /// Returns the caller that the header of a trusted proxy names, or `None` without a header.
    pub(super) fn caller(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
        memory: &CallerMemoryMetrics,
    ) -> Result<Option<Caller>, CallerError> {
        let Some(value) = super::at_most_one(headers, &self.header.name())? else { return Ok(None) };
        let parse = || {
            let name = match self.header {
                ForwardedHeader::Xfcc => from_xfcc(value),
                ForwardedHeader::L5dClientId => from_l5d_client_id(value),
            }?;
            Ok(Caller::new(Arc::from(name), Proof::Forwarded))
        };
        let caller = peer.asserted.caller(value.as_bytes(), memory, parse);
        caller.map(Some).map_err(CallerError::InvalidForwarded)
    }
}

/// Returns whether there is an identity header other than `accepted`.
pub(super) fn claims_identity(headers: &HeaderMap, accepted: Option<ForwardedHeader>) -> bool {
    [ForwardedHeader::Xfcc, ForwardedHeader::L5dClientId]
        .into_iter()
        .any(|header| Some(header) != accepted && headers.contains_key(header.name()))
}

/// Refuses a duplicated identity header, regardless of its sender.
pub(super) fn refuse_duplicates(headers: &HeaderMap) -> Result<(), CallerError> {
    for header in [ForwardedHeader::Xfcc, ForwardedHeader::L5dClientId] {
        super::at_most_one(headers, &header.name())?;
    }
    Ok(())
}

fn from_l5d_client_id(value: &HeaderValue) -> Result<String, ForwardedError> {
    let text = value.to_str().map_err(|_| ForwardedError::Malformed)?;
    let (uri, dns_name) =
        if name::claims_to_be_spiffe(text) { (Some(text), None) } else { (None, Some(text)) };
    name::from_alternative_names(uri, dns_name).map_err(ForwardedError::Name)
}

/// Reads the last element, which the nearest proxy added; earlier ones were sent to that proxy.
fn from_xfcc(value: &HeaderValue) -> Result<String, ForwardedError> {
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| ForwardedError::Malformed)?;
    let elements = parse_xfcc(text).ok_or(ForwardedError::Malformed)?;
    let last = elements.last().ok_or(ForwardedError::Malformed)?;
    // Proxies write `URI=` for a certificate without a URI.
    let values = |wanted: &'static str| {
        last.iter()
            .filter(move |(key, value)| key.eq_ignore_ascii_case(wanted) && !value.is_empty())
            .map(|(_, value)| value.as_str())
    };
    name::from_alternative_names(values("URI"), values("DNS")).map_err(ForwardedError::Name)
}

/// The keys and values of one element, in order.
type Element<'a> = Vec<(&'a str, String)>;

/// Parses `KEY=VALUE;KEY="VALUE",KEY=VALUE`: commas separate elements, semicolons separate pairs,
/// and a value that contains either is quoted. Returns `None` if the text has another form.
fn parse_xfcc(text: &str) -> Option<Vec<Element<'_>>> {
    let mut elements = vec![Element::new()];
    let mut rest = text;
    loop {
        let (key, after) = rest.split_once('=')?;
        let key = key.trim_matches([' ', '\t']);
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return None;
        }
        let (value, after) = parse_value(after)?;
        elements.last_mut()?.push((key, value));
        let mut after = after.trim_start_matches([' ', '\t']).chars();
        match after.next() {
            None => return Some(elements),
            Some(';') => {}
            Some(',') => elements.push(Element::new()),
            Some(_) => return None,
        }
        rest = after.as_str();
    }
}

/// Returns a value and the text after it. In quotes, `\"` and `\\` are unescaped; other escapes,
/// which belong to distinguished names (`\,`), keep their backslash.
fn parse_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_at(text.find([';', ',']).unwrap_or(text.len()));
        let value = value.trim_end_matches([' ', '\t']);
        return (!value.contains('"')).then(|| (value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.chars();
    loop {
        match characters.next()? {
            '"' => return Some((value, characters.as_str())),
            '\\' => match characters.next()? {
                escaped @ ('"' | '\\') => value.push(escaped),
                other => value.extend(['\\', other]),
            },
            other => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests;
