//! Opening a connection: with addresses that are known already, within a limit of its own.

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

/// Maximum number of addresses of one family that a connection is tried with. Each gets its share of
/// the limit for connecting: half a second of 2 s, which is enough for any distance.
const MAX_OF_A_FAMILY: usize = 4;

/// Why no connection could be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectFault {
    /// The server or the network.
    Unreachable,
    /// The server's certificate is not valid.
    CertificateInvalid,
    /// There are no addresses for the name. Shows nothing about the server.
    NameLookup,
    /// This machine or process lacks a resource. Shows nothing about the server.
    Exhausted(LocalResource),
}

impl ConnectFault {
    /// Returns the fault of a request that was not sent.
    #[must_use]
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        if let Some(lookup) = failed_lookup(error) {
            return lookup.missing_resource().map_or(Self::NameLookup, Self::Exhausted);
        }
        match missing_resource_in(error) {
            Some(resource) => Self::Exhausted(resource),
            None if is_invalid_certificate(error) => Self::CertificateInvalid,
            None => Self::Unreachable,
        }
    }

    /// Returns the resource that this machine or process lacked, if that was why.
    #[must_use]
    pub const fn missing_resource(self) -> Option<LocalResource> {
        match self {
            Self::Exhausted(resource) => Some(resource),
            Self::Unreachable | Self::CertificateInvalid | Self::NameLookup => None,
        }
    }
}

/// Returns the name lookup for which a request was not sent, if that was why.
pub(super) fn failed_lookup<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a LookupError> {
    Causes::of(error).find_map(<dyn Error>::downcast_ref)
}

/// The name lookups of an HTTP client that opens a connection. They are part of its limit for
/// connecting, which a slow one would use up. So a name without addresses fails at once, and the
/// sender of the request waits for them and sends it once more. A layer around the connector
/// could wait for them, but every request would copy it, with 18 allocations
/// (`benches/reqwest/README.md`).
pub(super) struct KnownAddresses {
    pub(super) resolver: Resolver,
    /// The host that the client connects to, whose name is looked up while the client exists;
    /// `None` if the URL contains its address.
    pub(super) peer: Option<Arc<Host>>,
}

/// Returns the first addresses of each family. The HTTP library divides the limit for connecting
/// among the addresses of a family, so that one that is dead does not use up all of it.
fn few_of_each_family(addresses: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    let family = |is_ipv4: bool| addresses.iter().copied().filter(move |ip| ip.is_ipv4() == is_ipv4);
    let first_is_ipv4 = addresses.first().is_some_and(IpAddr::is_ipv4);
    family(first_is_ipv4).take(MAX_OF_A_FAMILY).chain(family(!first_is_ipv4).take(MAX_OF_A_FAMILY))
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
    fn a_connection_is_tried_with_few_addresses_of_each_family_in_their_order() {
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
