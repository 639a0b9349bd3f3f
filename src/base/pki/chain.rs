//! The certificate chain of the server.

use std::time::SystemTime;

use super::{
    certificate::Certificate,
    error::InvalidFile,
    pem::Label,
    private_key::PrivateKey,
    wanted::Wanted,
    warning::{self, Doubt, Warning},
};
use crate::base::validity::Validity;

/// A certificate chain, with the server's own certificate first. Contains at least one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateChain {
    leaf: Certificate,
    issuers: Vec<Certificate>,
}

impl CertificateChain {
    /// Parses a PEM file. Private keys and parameters in the file are ignored, as by other servers.
    ///
    /// # Errors
    ///
    /// There is no certificate, or a block that is not a certificate.
    pub fn parse(file: &[u8]) -> Result<Self, InvalidFile> {
        let blocks = Wanted::CertificateChain.blocks(file)?;
        let mut chain = Vec::new();
        for block in &blocks {
            match block.label {
                Label::Certificate => {}
                label if label.is_private_key() || label == Label::Parameters => continue,
                label => return Err(Wanted::CertificateChain.unexpected(block, label)),
            }
            let unusable = |why| InvalidFile::Certificate { number: block.number, line: block.line, why };
            let certificate = Certificate::parse(&block.der).map_err(unusable)?;
            if chain.is_empty() {
                certificate.check().map_err(unusable)?;
            }
            chain.push(certificate);
        }
        let mut chain = chain.into_iter();
        match chain.next() {
            Some(leaf) => Ok(Self { leaf, issuers: chain.collect() }),
            None => Err(Wanted::CertificateChain.missing(&blocks)),
        }
    }

    /// Returns the server's own certificate.
    #[must_use]
    pub const fn leaf(&self) -> &Certificate {
        &self.leaf
    }

    /// Returns all certificates in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Certificate> {
        std::iter::once(&self.leaf).chain(&self.issuers)
    }

    /// Returns the validity period of each certificate.
    #[must_use]
    pub fn validities(&self) -> Vec<Validity> {
        self.iter().map(Certificate::validity).collect()
    }

    /// Returns the number of the first certificate for this key, counted from 1.
    pub(super) fn number_of(&self, key: &PrivateKey) -> Option<usize> {
        (1..).zip(self.iter()).find(|(_, certificate)| key.belongs_to(certificate)).map(|(number, _)| number)
    }

    /// Returns the warning about the server's own certificate if it is not valid now.
    #[must_use]
    pub fn not_valid_now(&self, now: SystemTime) -> Option<Warning> {
        let doubts = warning::of_any(&self.leaf, now);
        doubts.into_iter().map(|doubt| Warning { number: 1, doubt }).find(Warning::is_about_time)
    }

    /// Returns the reasons for clients to refuse the certificates, now or in general.
    #[must_use]
    pub fn warnings(&self, now: SystemTime) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let mut warn = |number, doubt| warnings.push(Warning { number, doubt });
        let facts = &self.leaf.facts;
        let leaf = [
            (!facts.has_names, Doubt::NoNames),
            (!facts.may_serve, Doubt::NotForServers),
            (facts.is_ca, Doubt::AuthorityAsServer),
            (!facts.may_sign && !facts.is_ca, Doubt::NoDigitalSignature),
        ];
        for (_, doubt) in leaf.into_iter().filter(|(applies, _)| *applies) {
            warn(1, doubt);
        }
        if let Some(doubt) = warning::of_server_key(facts.key) {
            warn(1, doubt);
        }
        let all: Vec<&Certificate> = self.iter().collect();
        for (number, pair) in (2..).zip(all.windows(2)) {
            let [certificate, next] = pair else { continue };
            if next.has_issued(certificate) {
                // Does not count the server's own certificate and this one.
                for doubt in warning::of_issuer(next, number - 2) {
                    warn(number, doubt);
                }
            } else {
                warn(number, if next.facts.is_ca { Doubt::NotIssuer } else { Doubt::NotAuthority });
            }
        }
        if self.issuers.is_empty() && !self.leaf.is_self_issued() && facts.names_issuer_location {
            warn(1, Doubt::NoIntermediate);
        }
        for (number, certificate) in (1..).zip(&all) {
            for doubt in warning::of_any(certificate, now) {
                warn(number, doubt);
            }
        }
        warnings
    }
}
