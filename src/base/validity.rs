//! The validity period of a certificate.
//!
//! TLS libraries check it when a peer presents its certificate. They check neither our own
//! certificate nor trust anchors (RFC 5280 section 6.1.1 (d)), so these have to be checked here,
//! before clients notice.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//!
//! use ott_gateway::base::validity::{State, Validity, rfc3339};
//!
//! let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
//! let validity = Validity { not_before: at(10), not_after: at(20) };
//! assert_eq!(validity.state(at(9)), State::NotYetValid);
//! assert_eq!(validity.state(at(20)), State::Valid);
//! assert_eq!(validity.state(at(21)), State::Expired);
//! assert_eq!(rfc3339(validity.not_after), "1970-01-01T00:00:20Z");
//! ```

use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

/// The validity period of a certificate (RFC 5280 section 4.1.2.5), both ends inclusive, in whole
/// seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Start of the period.
    pub not_before: SystemTime,
    /// End of the period.
    pub not_after: SystemTime,
}

/// A time relative to a [`Validity`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Before the period.
    NotYetValid,
    /// Within the period.
    Valid,
    /// After the period.
    Expired,
}

impl Validity {
    /// Returns the period of a certificate, or `None` if it cannot be parsed.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        Self::of_parsed(&certificate)
    }

    /// Returns the period of a parsed certificate, or `None` if its times cannot be represented.
    #[must_use]
    pub fn of_parsed(certificate: &X509Certificate<'_>) -> Option<Self> {
        let validity = certificate.validity();
        Some(Self { not_before: time(validity.not_before)?, not_after: time(validity.not_after)? })
    }

    /// Returns the state at the time `at`.
    #[must_use]
    pub fn state(&self, at: SystemTime) -> State {
        if at < self.not_before {
            State::NotYetValid
        } else if at >= self.not_after + Duration::from_secs(1) {
            State::Expired
        } else {
            State::Valid
        }
    }

    /// Returns the period that ends next: the first to end of those that have not expired, or the
    /// last to end if all have.
    #[must_use]
    pub fn next_to_end(all: &[Self], at: SystemTime) -> Option<Self> {
        let unexpired = all.iter().filter(|one| one.state(at) != State::Expired);
        unexpired
            .min_by_key(|one| one.not_after)
            .or_else(|| all.iter().max_by_key(|one| one.not_after))
            .copied()
    }
}

/// Formats a time as RFC 3339, in UTC.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time.max(SystemTime::UNIX_EPOCH)).to_string()
}

fn time(time: ASN1Time) -> Option<SystemTime> {
    let seconds = time.timestamp();
    let from_epoch = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(from_epoch)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(from_epoch)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn validity(from: u64, until: u64) -> Validity {
        Validity { not_before: at(from), not_after: at(until) }
    }

    #[test]
    fn both_times_are_read_from_a_certificate() {
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(1960, 1, 1);
        params.not_after = date_time_ymd(2070, 1, 1);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let validity = Validity::of(certificate.der()).unwrap();
        assert_eq!(rfc3339(validity.not_after), "2070-01-01T00:00:00Z");
        assert_eq!(validity.not_before + Duration::from_hours(87_672), SystemTime::UNIX_EPOCH);
        assert_eq!(Validity::of(&CertificateDer::from_slice(b"none")), None);
    }

    #[test]
    fn both_ends_are_inclusive() {
        let validity = validity(10, 20);
        for (seconds, state) in
            [(9, State::NotYetValid), (10, State::Valid), (20, State::Valid), (21, State::Expired)]
        {
            assert_eq!(validity.state(at(seconds)), state, "{seconds}");
        }
        assert_eq!(validity.state(at(20) + Duration::from_millis(999)), State::Valid);
    }

    #[test]
    fn next_to_end_prefers_periods_that_have_not_ended() {
        let all = [validity(0, 30), validity(0, 10), validity(0, 20)];
        for (seconds, until) in [(5, 10), (15, 20), (25, 30), (40, 30)] {
            assert_eq!(Validity::next_to_end(&all, at(seconds)), Some(validity(0, until)), "{seconds}");
        }
        assert_eq!(Validity::next_to_end(&[], at(5)), None);
    }
}
