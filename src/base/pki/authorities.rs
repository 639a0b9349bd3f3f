//! Trusted authorities.

use std::{collections::BTreeSet, sync::Arc, time::SystemTime};

use rustls::{RootCertStore, pki_types::CertificateDer};

use super::{
    certificate::{Certificate, UnusableCertificate},
    error::InvalidFile,
    explain,
    pem::Label,
    wanted::Wanted,
    warning::{self, Doubt, Warning},
};
use crate::base::validity::Validity;

/// A set of authorities, never empty. Sets are equal if they trust the same certificates,
/// regardless of their order.
#[derive(Clone, Debug)]
pub struct Authorities {
    roots: Arc<RootCertStore>,
    trusted: BTreeSet<Vec<u8>>,
    /// The certificates in the order of the file, with the numbers of their blocks.
    certificates: Vec<(usize, Certificate)>,
    /// Numbers of the blocks with private keys.
    private_keys: Vec<usize>,
}

impl PartialEq for Authorities {
    fn eq(&self, other: &Self) -> bool {
        self.trusted == other.trusted
    }
}

impl Eq for Authorities {}

impl Authorities {
    /// Parses a PEM bundle. Blocks that are known not to be certificates, such as revocation
    /// lists, are ignored.
    ///
    /// # Errors
    ///
    /// There is no certificate, a block that cannot be parsed, or one that cannot be used as an
    /// authority.
    pub fn parse(file: &[u8]) -> Result<Self, InvalidFile> {
        let blocks = Wanted::Authorities.blocks(file)?;
        let mut roots = RootCertStore::empty();
        let mut found = Self::from_store(RootCertStore::empty(), BTreeSet::new());
        for block in &blocks {
            match block.label {
                Label::Certificate => {}
                label if label.is_private_key() => {
                    found.private_keys.push(block.number);
                    continue;
                }
                Label::Parameters | Label::PublicKey | Label::Request | Label::RevocationList => continue,
                label => return Err(Wanted::Authorities.unexpected(block, label)),
            }
            let der = CertificateDer::from(block.der.to_vec());
            if let Err(why) = roots.add(der.clone()) {
                let why = match Certificate::parse(&block.der) {
                    Ok(_) => UnusableCertificate::Refused(explain::certificate(&why)),
                    Err(why) => why,
                };
                return Err(InvalidFile::Certificate { number: block.number, line: block.line, why });
            }
            if let Ok(certificate) = Certificate::parse(&der) {
                found.certificates.push((block.number, certificate));
            }
            found.trusted.insert(der.to_vec());
        }
        if found.trusted.is_empty() {
            return Err(Wanted::Authorities.missing(&blocks));
        }
        Ok(Self { roots: Arc::new(roots), ..found })
    }

    /// Creates a set from the certificates of the system's store, except those that cannot be
    /// authorities. Returns `None` if none are left.
    #[must_use]
    pub fn from_system(certificates: Vec<CertificateDer<'static>>) -> Option<Self> {
        let mut roots = RootCertStore::empty();
        let trusted: BTreeSet<_> = certificates
            .into_iter()
            .filter(|certificate| roots.add(certificate.clone()).is_ok())
            .map(|certificate| certificate.to_vec())
            .collect();
        (!trusted.is_empty()).then(|| Self::from_store(roots, trusted))
    }

    fn from_store(roots: RootCertStore, trusted: BTreeSet<Vec<u8>>) -> Self {
        Self { roots: Arc::new(roots), trusted, certificates: Vec::new(), private_keys: Vec::new() }
    }

    /// Returns the set in the form that the TLS library uses.
    #[must_use]
    pub fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.roots)
    }

    /// Returns the number of trusted certificates.
    #[must_use]
    pub fn count(&self) -> usize {
        self.trusted.len()
    }

    /// Returns the validity period of each certificate, in the order of the file.
    #[must_use]
    pub fn validities(&self) -> Vec<Validity> {
        self.certificates.iter().map(|(_, certificate)| certificate.validity()).collect()
    }

    /// Returns the reasons for peers to refuse certificates of these authorities, now or in
    /// general.
    #[must_use]
    pub fn warnings(&self, now: SystemTime) -> Vec<Warning> {
        let keys =
            self.private_keys.iter().map(|number| Warning { number: *number, doubt: Doubt::PrivateKey });
        let certificates = self.certificates.iter().flat_map(|(number, certificate)| {
            warning::of_any(certificate, now).into_iter().map(|doubt| Warning { number: *number, doubt })
        });
        certificates.chain(keys).collect()
    }
}
