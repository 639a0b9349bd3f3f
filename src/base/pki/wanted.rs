//! What a file has to contain.

/// The required contents of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The certificate chain of the server.
    CertificateChain,
    /// The private key of the server.
    PrivateKey,
    /// The certificates of authorities.
    Authorities,
}

impl Wanted {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::CertificateChain => "the certificate chain",
            Self::PrivateKey => "the private key",
            Self::Authorities => "the certificates of the authorities",
        }
    }

    pub(super) const fn is_key(self) -> bool {
        matches!(self, Self::PrivateKey)
    }
}
