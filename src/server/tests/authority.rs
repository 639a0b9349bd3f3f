//! A small certificate authority, and a folder of TLS files.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::server::tls::{ClientAuth, Settings};

pub(in crate::server) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub(in crate::server) struct Identity {
    pub(in crate::server) certificate: String,
    pub(in crate::server) private_key: String,
}

impl Authority {
    pub(in crate::server) fn new() -> Self {
        Self::valid((1975, 2100))
    }

    /// An authority that is valid from the start of the first year to the start of the second.
    pub(in crate::server) fn valid((from, until): (i32, i32)) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(until, 1, 1));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(in crate::server) fn certificate(&self) -> String {
        self.0.pem()
    }

    pub(in crate::server) fn issue(&self, name: &str) -> Identity {
        self.issue_valid(name, (1975, 2100))
    }

    /// A certificate that is valid from the start of the first year to the start of the second.
    pub(in crate::server) fn issue_valid(&self, name: &str, (from, until): (i32, i32)) -> Identity {
        self.issue_with(name, |params| {
            (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(until, 1, 1));
        })
    }

    /// A certificate with changed parameters.
    pub(in crate::server) fn issue_with(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Identity { certificate: certificate.pem(), private_key: key.serialize_pem() }
    }

    /// A client that trusts this authority, presents `identity` and offers `protocols`.
    pub(in crate::server) fn client(
        &self,
        identity: Option<&Identity>,
        protocols: &[&[u8]],
        version: &'static rustls::SupportedProtocolVersion,
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder
                .with_client_auth_cert(
                    vec![identity.der()],
                    PrivateKeyDer::from_pem_slice(identity.private_key.as_bytes()).unwrap(),
                )
                .unwrap(),
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        // Each connection behaves as that of a new client.
        config.resumption = rustls::client::Resumption::disabled();
        Arc::new(config)
    }
}

impl Identity {
    pub(in crate::server) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()
    }
}

/// The folder of the TLS files.
pub(in crate::server) struct Folder(tempfile::TempDir);

impl Folder {
    pub(in crate::server) fn new(identity: &Identity) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write(identity);
        folder
    }

    pub(in crate::server) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(in crate::server) fn write(&self, identity: &Identity) {
        self.write_file("tls.crt", &identity.certificate);
        self.write_file("tls.key", &identity.private_key);
    }

    pub(in crate::server) fn write_file(&self, name: &str, contents: &str) -> PathBuf {
        let file = self.path().join(name);
        fs::write(&file, contents).unwrap();
        file
    }

    pub(in crate::server) fn settings(&self, client_auth: ClientAuth) -> Settings {
        Settings {
            certificate_file: self.path().join("tls.crt"),
            private_key_file: self.path().join("tls.key"),
            client_auth,
            poll_interval: Duration::from_millis(20),
        }
    }
}
