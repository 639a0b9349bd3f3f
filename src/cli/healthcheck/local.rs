//! The connection of a probe to a gateway on this machine, by its configuration.

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Endpoint, Uri};

use super::super::{
    client::Client,
    failure::{Failure, chain},
    output::Output,
};
use crate::{
    base::text::Printable,
    config::{HealthEndpoint, Process},
};

/// Connects to the configured listener for probes within `timeout`.
pub(super) async fn connect(file: &Path, timeout: Duration, output: &mut Output) -> Result<Client, Failure> {
    if HealthEndpoint::is_without(file) {
        output
            .note(format_args!("{} does not exist; using the defaults of serve", Printable(file.display())));
    }
    let (address, with_tls) = match HealthEndpoint::load(file, &Process)? {
        HealthEndpoint::Plaintext(address) => (address, false),
        HealthEndpoint::Tls(address) => (address, true),
        HealthEndpoint::CertificateRequired => {
            return Err(Failure::Usage(
                "server.listen requires a client certificate: set server.health_listen, a listener for probes \
                 without TLS, or use --endpoint with --certificate-file and --private-key-file"
                    .to_owned(),
            ));
        }
    };
    if address.port() == 0 {
        return Err(Failure::Usage(
            "the port in the configuration is 0, so the system chooses it: use --endpoint".to_owned(),
        ));
    }
    let scheme = if with_tls { "https" } else { "http" };
    let connected = async {
        // Without "https", because our own connector sets up TLS.
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
        if with_tls {
            let endpoint = endpoint.origin(Uri::try_from(format!("https://{address}"))?);
            let connector =
                tower::service_fn(move |_: Uri| async move { secured(address).await.map(TokioIo::new) });
            Ok::<_, Box<dyn std::error::Error>>(endpoint.connect_with_connector(connector).await?)
        } else {
            Ok(endpoint.connect().await?)
        }
    };
    let endpoint = format!("{scheme}://{address}");
    let failed = |cause| Failure::Connect { endpoint: endpoint.clone(), cause };
    match tokio::time::timeout(timeout, connected).await {
        Ok(Ok(channel)) => Ok(Client::on_channel(channel, endpoint, timeout)),
        Ok(Err(error)) => Err(failed(chain(&*error))),
        Err(_) => Err(failed(format!("no connection within {}", humantime::format_duration(timeout)))),
    }
}

async fn secured(address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::from(address.ip()), stream).await
}

/// Accepts any certificate, like the kubelet's probes. The connection does not leave the machine and
/// carries no credential, and restarting the gateway would not fix a wrong name or an expired
/// certificate.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
