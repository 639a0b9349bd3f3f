//! Metrics of the listener's certificates.

use prometheus::IntGaugeVec;

use super::{Metrics, family::Families};
use crate::{
    base::{clock, validity::Validity},
    observe::telemetry::label::labels,
};

labels! {
    /// Kind of the listener's certificates, as a label.
    pub enum Certificate {
        /// The server's certificate chain.
        Server = "server",
        /// The authorities of client certificates.
        ClientCa = "client_ca",
    }
}

/// The families of this module. Only configured certificates are exported.
pub(super) struct CertificateFamilies {
    not_before: IntGaugeVec,
    not_after: IntGaugeVec,
}

impl CertificateFamilies {
    pub(super) fn register(families: &Families<'_>) -> Self {
        Self {
            not_before: families.int_gauges(
                "ott_gateway_certificate_not_before_timestamp_seconds",
                "Start of validity of the certificate in use that expires next.",
                &["certificate"],
            ),
            not_after: families.int_gauges(
                "ott_gateway_certificate_not_after_timestamp_seconds",
                "Expiry of the certificate in use that expires next.",
                &["certificate"],
            ),
        }
    }
}

impl Metrics {
    /// Sets the validity of the certificate in use that expires next.
    pub fn certificate(&self, certificate: Certificate, validity: Validity) {
        let seconds = |time| i64::try_from(clock::unix_seconds(time)).unwrap_or(i64::MAX);
        for (family, time) in [
            (&self.0.certificates.not_before, validity.not_before),
            (&self.0.certificates.not_after, validity.not_after),
        ] {
            family.with_label_values(&[certificate.as_str()]).set(seconds(time));
        }
    }
}
