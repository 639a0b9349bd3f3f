//! Parses certificates, private keys and authorities in PEM files to typed values.
//!
//! This is the only parser of these files: `check-config`, startup and reloads use it, so that they
//! accept and refuse the same files. Errors and warnings state what was found and how to fix it,
//! and never contain a part of the file, which may be a private key. `files` reads the files.
//!
//! ```
//! use ott_gateway::base::pki::Authorities;
//!
//! let error = Authorities::parse(b"").unwrap_err();
//! assert!(error.to_string().starts_with("the file is empty"));
//! ```

mod authorities;
mod certificate;
mod chain;
mod error;
mod explain;
mod file_format;
mod identity;
mod pem;
mod private_key;
#[cfg(test)]
mod tests;
mod wanted;
mod warning;

pub use self::{
    authorities::Authorities,
    certificate::{Certificate, UnusableCertificate},
    chain::CertificateChain,
    error::{InvalidFile, UnusableKey},
    explain::{Peer, explain},
    file_format::FileFormat,
    identity::{InvalidPair, ServerIdentity},
    pem::{InvalidPem, Label, Layout},
    private_key::PrivateKey,
    wanted::Wanted,
    warning::{Doubt, Warning},
};
