//! Name lookups and failures of outgoing connections.

use std::{
    error::Error,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::{
    cause::{Causes, is_invalid_certificate},
    local_resource::{LocalResource, missing_resource_in},
    resolver::{Host, LookupError, Resolver},
};

/// Maximum number of addresses of one family that a connection attempt uses. Each gets its share of
/// the connect timeout: half a second of 2 s, which is enough for any distance.
const MAX_PER_FAMILY: usize = 4;

/// Why no connection could be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// The server or the network failed.
    Unreachable,
    /// The server's certificate is not valid.
    CertificateInvalid,
    /// The name has no addresses. Shows nothing about the server.
    NameLookup,
    /// This machine or process lacks a resource. Shows nothing about the server.
    Exhausted(LocalResource),
}

impl ConnectError {
    /// Returns why a request that was not sent got no connection.
    #[must_use]
    pub fn from_error(error: &(dyn Error + 'static)) -> Self {
        if let Some(lookup) = failed_lookup(error) {
            return lookup.missing_resource().map_or(Self::NameLookup, Self::Exhausted);
        }
        match missing_resource_in(error) {
            Some(resource) => Self::Exhausted(resource),
            None if is_invalid_certificate(error) => Self::CertificateInvalid,
            None => Self::Unreachable,
        }
    }

    /// Returns the resource that this machine or process lacked, if that is the cause.
    #[must_use]
    pub const fn missing_resource(self) -> Option<LocalResource> {
        match self {
            Self::Exhausted(resource) => Some(resource),
            Self::Unreachable | Self::CertificateInvalid | Self::NameLookup => None,
        }
    }
}

/// Returns the failed name lookup that prevented the request, if that is the cause.
pub(super) fn failed_lookup<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a LookupError> {
    Causes::from_error(error).find_map(<dyn Error>::downcast_ref)
}

/// Name lookups of an HTTP client that opens a connection. They count against its connect timeout,
/// which a slow lookup would use up. A name without known addresses therefore fails at once, and
/// the sender waits for the addresses and sends the request again. A layer around the connector
/// could wait for them, but every request would copy it, with 18 allocations
/// (`benches/reqwest/README.md`).
pub(super) struct KnownAddresses {
    pub(super) resolver: Resolver,
    /// The host that the client connects to, whose name is looked up while the client exists;
    /// `None` if the URL contains its address.
    pub(super) peer: Option<Arc<Host>>,
}

/// Returns the first addresses of each family. The HTTP library divides the connect timeout among
/// the addresses of a family, so that an unreachable one does not use it up.
fn few_of_each_family(addresses: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    let family = |is_ipv4: bool| addresses.iter().copied().filter(move |ip| ip.is_ipv4() == is_ipv4);
    let first_is_ipv4 = addresses.first().is_some_and(IpAddr::is_ipv4);
    family(first_is_ipv4).take(MAX_PER_FAMILY).chain(family(!first_is_ipv4).take(MAX_PER_FAMILY))
}

impl Resolve for KnownAddresses {
    fn resolve(&self, name: Name) -> Resolving {
        let is_of = |host: &&Arc<Host>| host.name().eq_ignore_ascii_case(name.as_str());
        let peer = self.peer.as_ref().filter(is_of).map(Arc::clone);
        let host = peer.unwrap_or_else(|| self.resolver.host(name.as_str()));
        Box::pin(async move {
            let addresses = host.known_addresses().await?;
            // Port 0 is replaced by the port of the URL.
            let addresses: Vec<_> = few_of_each_family(&addresses).map(|ip| SocketAddr::new(ip, 0)).collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_attempt_uses_few_addresses_of_each_family_in_order() {
        let ipv4 = |last| IpAddr::from([192, 0, 2, last]);
        let ipv6 = |last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]);
        let few = |addresses: &[IpAddr]| few_of_each_family(addresses).collect::<Vec<_>>();
        assert!(few(&[]).is_empty());
        assert_eq!(few(&[ipv6(1), ipv4(1)]), [ipv6(1), ipv4(1)]);
        let many: Vec<_> = (1..=32).map(ipv4).chain((1..=32).map(ipv6)).collect();
        assert_eq!(
            few(&many),
            [1, 2, 3, 4].map(ipv4).into_iter().chain([1, 2, 3, 4].map(ipv6)).collect::<Vec<_>>()
        );
    }
}
