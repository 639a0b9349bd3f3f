//! The connection of a probe to a gateway on this machine, by its configuration.

use std::{path::Path, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio_rustls::TlsConnector;
use tonic::transport::{Endpoint, Uri};
use tower::Service as _;

use super::super::{
    client::{Client, Wire},
    endpoint::Address,
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
    let invalid = |error: &dyn std::error::Error| Failure::Failed(chain(error));
    let target = Address::parse(&format!("{scheme}://{address}")).map_err(Failure::Failed)?;
    // Without "https", because our own connector sets up TLS.
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| invalid(&error))?
        .connect_timeout(timeout);
    let wire = Wire::default();
    let mut tcp = wire.connector(timeout);
    if with_tls {
        let origin = Uri::try_from(format!("https://{address}")).map_err(|error| invalid(&error))?;
        let tls = connector().map_err(|error| invalid(&error))?;
        let name = ServerName::from(address.ip());
        let connector = tower::service_fn(move |uri: Uri| {
            let (connecting, tls, name) = (tcp.call(uri), tls.clone(), name.clone());
            async move {
                let stream = connecting.await?.into_inner();
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(TokioIo::new(
                    tls.connect(name, stream).await?,
                ))
            }
        });
        let endpoint = endpoint.origin(origin);
        let connected = endpoint.connect_with_connector(connector);
        Client::for_probe(connected, target, wire.clone(), timeout).await
    } else {
        Client::for_probe(endpoint.connect_with_connector(tcp), target, wire.clone(), timeout).await
    }
}

fn connector() -> Result<TlsConnector, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
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
