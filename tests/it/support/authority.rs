//! Certificate authorities for tests, and clients that trust them.
//!
//! Certificates come from `rcgen`; tests choose the client's certificate and TLS version. Session
//! resumption is disabled, so each connection does what a new client would do.

use std::{net::SocketAddr, path::Path, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType, date_time_ymd,
};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    version::TLS13,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

/// An authority that issues any certificate that a test asks for.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) private_key: String,
}

impl Authority {
    /// Creates an authority.
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    /// Its own certificate, in PEM.
    pub(crate) fn certificate(&self) -> String {
        self.0.pem()
    }

    /// A certificate with these names: URIs have "://", all others are DNS names.
    pub(crate) fn issue(&self, names: &[&str]) -> Identity {
        self.issue_valid(names, (1975, 4000))
    }

    /// Like [`issue`](Self::issue), valid from January 1 of `from` to January 1 of `until`.
    pub(crate) fn issue_valid(&self, names: &[&str], (from, until): (i32, i32)) -> Identity {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(until, 1, 1));
        params.subject_alt_names = names
            .iter()
            .map(|name| {
                let text = (*name).try_into().expect("ASCII");
                if name.contains("://") { SanType::URI(text) } else { SanType::DnsName(text) }
            })
            .collect();
        // A common name that must never become a caller's name.
        params.distinguished_name.push(DnType::CommonName, "spiffe://mesh/ns/root/sa/admin");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        Identity { certificate: certificate.pem(), private_key: key.serialize_pem() }
    }

    /// A TLS client that trusts this authority, presents `identity` and offers `protocols`.
    pub(crate) fn client(
        &self,
        identity: Option<&Identity>,
        protocols: &[&str],
        version: &'static SupportedProtocolVersion,
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("an authority");
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder
                .with_client_auth_cert(vec![identity.der()], identity.key())
                .expect("a pair that matches"),
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config.resumption = rustls::client::Resumption::disabled();
        Arc::new(config)
    }

    /// A tonic channel over TLS to `localhost` at the port of `address`.
    pub(crate) async fn channel(
        &self,
        address: SocketAddr,
        identity: Option<&Identity>,
    ) -> Result<Channel, tonic::transport::Error> {
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.certificate()))
            .domain_name("localhost");
        if let Some(identity) = identity {
            let shown = tonic::transport::Identity::from_pem(&identity.certificate, &identity.private_key);
            tls = tls.identity(shown);
        }
        Endpoint::from_shared(format!("https://localhost:{}", address.port()))?
            .tls_config(tls)?
            .connect()
            .await
    }

    /// The server certificate that a new connection receives.
    pub(crate) async fn shown(
        &self,
        address: SocketAddr,
        identity: Option<&Identity>,
    ) -> CertificateDer<'static> {
        let config = self.client(identity, &["h2"], &TLS13);
        let stream = secured(address, config).await.expect("a handshake");
        stream.get_ref().1.peer_certificates().expect("a certificate")[0].clone().into_owned()
    }
}

impl Identity {
    /// The certificate alone.
    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("a certificate")
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.private_key.as_bytes()).expect("a key")
    }

    /// Writes both to a folder, as `tls.crt` and `tls.key`.
    pub(crate) fn write(&self, folder: &Path) {
        write(folder, "tls.crt", &self.certificate);
        write(folder, "tls.key", &self.private_key);
    }
}

/// Replaces a file atomically.
pub(crate) fn write(folder: &Path, name: &str, content: &str) {
    use std::os::unix::fs::PermissionsExt;
    let new = folder.join(format!(".{name}.new"));
    std::fs::write(&new, content).expect("a file in the test's folder");
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).expect("its permissions");
    std::fs::rename(new, folder.join(name)).expect("a file in the test's folder");
}

/// A TLS connection to the gateway, verified as `localhost`.
pub(crate) async fn secured(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(config).connect(ServerName::try_from("localhost").expect("a name"), stream).await
}
