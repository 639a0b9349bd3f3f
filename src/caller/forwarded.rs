//! The header in which a proxy names the caller behind it, and the peers that may send it.
//!
//! A header from any other peer is ignored, and counted.

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    Caller, CallerError, Peer, Proof,
    name::{self, NameFault},
};
use crate::telemetry::metrics::CallerMemoryMetrics;

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
    /// The peers that speak for others.
    pub from: Vec<ForwardedFrom>,
}

/// A header in which a proxy names the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `x-forwarded-client-cert`, as Envoy writes it.
    ///
    /// Envoy writes URIs and DNS names without quotes. A CA that signs names with a comma
    /// in them lets their holder add an element of its own, which nobody can tell from a
    /// real one: the proxy's client CA must issue only proper SPIFFE ids and host names.
    Xfcc,
    /// `l5d-client-id`, as Linkerd writes it.
    L5dClientId,
}

/// A peer that speaks for others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardedFrom {
    /// Every peer on the loopback interface: a sidecar, but also every other
    /// process of the machine or pod.
    Loopback,
    /// Whoever connects from exactly this address, such as the pod's own: a sidecar, but
    /// so is every other process there, and whoever is given the address later.
    Address(IpAddr),
    /// The peer whose certificate has this SPIFFE id.
    Spiffe(String),
    /// The peer whose certificate has this DNS name.
    Dns(String),
}

/// Why a header has no usable name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardedFault {
    /// It breaks its own syntax.
    #[error("it is malformed")]
    Malformed,
    /// Its name is not usable.
    #[error(transparent)]
    Name(NameFault),
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
    pub(super) fn is_sound(&self) -> bool {
        match self {
            Self::Loopback => true,
            Self::Address(address) => !address.is_unspecified() && !address.is_multicast(),
            Self::Spiffe(id) => name::is_spiffe_id(id),
            Self::Dns(name) => name::dns_caller(name).is_some(),
        }
    }

    fn is(&self, peer: &Peer) -> bool {
        let shown = peer.certificate.as_ref().ok().and_then(Option::as_ref).map(|caller| &*caller.name);
        match self {
            Self::Loopback => peer.address.ip().to_canonical().is_loopback(),
            // A socket of IPv6 shows callers of IPv4 in a form of its own.
            Self::Address(address) => peer.address.ip().to_canonical() == address.to_canonical(),
            Self::Spiffe(id) => shown == Some(id),
            Self::Dns(name) => shown.is_some() && shown == name::dns_caller(name).as_deref(),
        }
    }
}

impl ForwardedSettings {
    /// Whether a peer speaks for others.
    pub(super) fn trusts(&self, peer: &Peer) -> bool {
        self.from.iter().any(|from| from.is(peer))
    }

    /// Returns the caller that the header of a trusted peer names; `None` if it sends no header.
    pub(super) fn caller(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
        memory: &CallerMemoryMetrics,
    ) -> Result<Option<Caller>, CallerError> {
        let Some(value) = super::the_only(headers, &self.header.name())? else { return Ok(None) };
        let parse = || {
            let name = match self.header {
                ForwardedHeader::Xfcc => from_xfcc(value),
                ForwardedHeader::L5dClientId => from_l5d_client_id(value),
            }?;
            Ok(Caller { name: Arc::from(name), proof: Proof::Forwarded })
        };
        let caller = peer.asserted.caller(value.as_bytes(), memory, parse);
        caller.map(Some).map_err(CallerError::InvalidForwarded)
    }
}

/// Whether there is a header that claims an identity, other than the one that was
/// listened to.
pub(super) fn claims_identity(headers: &HeaderMap, listened_to: Option<ForwardedHeader>) -> bool {
    [ForwardedHeader::Xfcc, ForwardedHeader::L5dClientId]
        .into_iter()
        .any(|header| Some(header) != listened_to && headers.contains_key(header.name()))
}

/// Refuses an identity header that a request has twice, regardless of who sends it.
pub(super) fn refuse_duplicates(headers: &HeaderMap) -> Result<(), CallerError> {
    for header in [ForwardedHeader::Xfcc, ForwardedHeader::L5dClientId] {
        super::the_only(headers, &header.name())?;
    }
    Ok(())
}

fn from_l5d_client_id(value: &HeaderValue) -> Result<String, ForwardedFault> {
    let text = value.to_str().map_err(|_| ForwardedFault::Malformed)?;
    let (uri, dns_name) =
        if name::claims_to_be_spiffe(text) { (Some(text), None) } else { (None, Some(text)) };
    name::from_alternative_names(uri, dns_name).map_err(ForwardedFault::Name)
}

/// The last element counts: it is what the nearest proxy saw, those before it are what
/// that proxy was told.
fn from_xfcc(value: &HeaderValue) -> Result<String, ForwardedFault> {
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| ForwardedFault::Malformed)?;
    let elements = parse_xfcc(text).ok_or(ForwardedFault::Malformed)?;
    let last = elements.last().ok_or(ForwardedFault::Malformed)?;
    // A proxy writes `URI=` for a certificate without one.
    let values = |wanted: &'static str| {
        last.iter()
            .filter(move |(key, value)| key.eq_ignore_ascii_case(wanted) && !value.is_empty())
            .map(|(_, value)| value.as_str())
    };
    name::from_alternative_names(values("URI"), values("DNS")).map_err(ForwardedFault::Name)
}

/// One element: its keys with their values, in order.
type Element<'a> = Vec<(&'a str, String)>;

/// Reads `KEY=VALUE;KEY="VALUE",KEY=VALUE`: elements by comma, pairs by semicolon, a
/// value with either in quotes. None if it is anything else.
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

/// A value, and what follows it. In quotes a backslash takes the next character along,
/// so that an escaped quote does not end the value; what is escaped as a distinguished
/// name needs it (`\,`) keeps its backslash.
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
