//! The part of a peer's address that groups connections under one limit.

use std::net::{IpAddr, Ipv4Addr};

/// Peers that share a limit: one IPv4 address or one IPv6 /64, because a single host usually has a
/// whole /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::server) enum PeerKey {
    V4(Ipv4Addr),
    V6([u16; 4]),
}

impl From<IpAddr> for PeerKey {
    fn from(address: IpAddr) -> Self {
        // An IPv6 socket reports IPv4 peers as `::ffff:a.b.c.d`.
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(address: &str) -> PeerKey {
        address.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn ipv4_keys_are_addresses_and_ipv6_keys_are_64_networks() {
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
        assert_ne!(key("::ffff:192.0.2.1"), key("::ffff:192.0.2.2"));
        assert_eq!(key("2001:db8:0:1::1"), key("2001:db8:0:1:ffff:ffff:ffff:ffff"));
        assert_ne!(key("2001:db8:0:1::1"), key("2001:db8:0:2::1"));
    }

    proptest! {
        #[test]
        fn two_ipv6_addresses_share_a_key_if_and_only_if_their_first_64_bits_are_equal(a: u128, b: u128, near: bool) {
            let b = if near { a ^ (b & u128::from(u64::MAX)) } else { b };
            let ip = |bits: u128| IpAddr::from(bits.to_be_bytes());
            prop_assume!(ip(a).to_canonical().is_ipv6() && ip(b).to_canonical().is_ipv6());
            prop_assert_eq!(PeerKey::from(ip(a)) == PeerKey::from(ip(b)), a >> 64 == b >> 64);
        }
    }
}
