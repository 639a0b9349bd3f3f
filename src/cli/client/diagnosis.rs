//! Diagnoses why a gateway cannot be reached, with a remedy.
//!
//! For a wrong port or scheme, the errors of the HTTP and TLS libraries do not show the cause. The
//! bytes that the port sent do. If it sent nothing, it is probed.

use std::error::Error;

use rustls::{AlertDescription, CertificateError};

use super::{
    Server,
    wire::{ForeignResponse, Protocol, Wire, probe, speaks_http1, speaks_tls},
};
use crate::{
    base::{
        clock::Instant,
        pki::{self, Peer},
    },
    cli::failure::{Effect, Failure},
    http_client::cause::{Causes, root_cause},
};

/// Alerts with which a server refuses a client certificate (RFC 8446, 6.2).
const REFUSALS: [AlertDescription; 9] = [
    AlertDescription::BadCertificate,
    AlertDescription::UnsupportedCertificate,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateUnknown,
    AlertDescription::UnknownCA,
    AlertDescription::AccessDenied,
    AlertDescription::DecryptError,
    AlertDescription::BadCertificateStatusResponse,
];
/// Alerts of a server that requires a client certificate.
const REQUIRED: [AlertDescription; 2] =
    [AlertDescription::CertificateRequired, AlertDescription::HandshakeFailure];

/// Limits and context of a diagnosis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    /// Maximum time that the command waited for a response.
    pub(super) waited: std::time::Duration,
    /// End of the diagnosis.
    pub(super) until: Instant,
    /// Effect of the request, if it was sent.
    pub(super) effect: Effect,
}

/// Returns the failure for an error of a connection, or of a call without a response.
pub(super) async fn diagnose(
    server: &Server,
    wire: &Wire,
    error: &(dyn Error + 'static),
    attempt: Attempt,
) -> Failure {
    let endpoint = server.address.to_string();
    let Some(cause) = cause(server, wire, error, attempt).await else {
        return Failure::Silent { endpoint, timeout: attempt.waited, effect: attempt.effect };
    };
    let remedy = server.address.with_default_port().map_or_else(String::new, |suggestion| {
        let port = server.address.host_and_port().1;
        format!(
            "; the endpoint has no port, so port {port} is used: for the default port, write {suggestion}"
        )
    });
    Failure::Connect { endpoint, cause: format!("{cause}{remedy}") }
}

/// Returns the cause, or `None` if the port has sent nothing until a timeout.
async fn cause(
    server: &Server,
    wire: &Wire,
    error: &(dyn Error + 'static),
    attempt: Attempt,
) -> Option<String> {
    if !wire.is_connected() {
        return Some(not_connected(server, error));
    }
    let (address, until) = (server.address.host_and_port(), attempt.until);
    let is_tls = server.address.is_tls();
    let mut received = wire.protocol();
    if is_tls && received == Protocol::Tls {
        return Some(of_tls(server, error, attempt.effect));
    }
    // The connection may have failed in a write before anything was read.
    if received == Protocol::Silent {
        received = probe(&address, until).await;
    }
    if is_tls && received == Protocol::Silent && is_timeout(error) {
        return None;
    }
    if !is_tls
        && (received == Protocol::Tls || received != Protocol::Http2 && speaks_tls(&address, until).await)
    {
        return Some(server.with_other_scheme("this port speaks TLS"));
    }
    // Some servers close a connection that does not begin with HTTP/1 without a response.
    if received == Protocol::Silent {
        received = speaks_http1(&address, until).await.map_or(received, Protocol::Http1);
    }
    Some(match received {
        Protocol::Http2 if is_tls => server.with_other_scheme("this port speaks HTTP/2 without TLS"),
        Protocol::Http2 => broken(error, attempt.effect),
        Protocol::Http1(line) if is_tls => {
            server.no_grpc(&format!("this port speaks HTTP/1 without TLS (\"{line}\")"))
        }
        Protocol::Http1(line) => server.no_grpc(&format!("this port speaks HTTP/1 (\"{line}\")")),
        Protocol::Other if is_tls => server.no_grpc("this port does not speak TLS"),
        Protocol::Other => server.no_grpc("this port speaks neither HTTP/2 nor TLS"),
        Protocol::Silent | Protocol::Tls => {
            server.no_grpc(&format!("this port closes the connection ({})", root_cause(error)))
        }
    })
}

/// Returns the failure for a response of a server that speaks HTTP/2, but not gRPC.
pub(super) fn foreign(endpoint: &str, response: &ForeignResponse) -> Failure {
    let kind = response.content_type.as_deref().unwrap_or("without a content type");
    Failure::Connect {
        endpoint: endpoint.to_owned(),
        cause: format!(
            "the response is HTTP {} ({kind}) and not gRPC; check that this is the port of a gateway's gRPC \
             listener, and check the proxies in between",
            response.status.as_u16()
        ),
    }
}

fn not_connected(server: &Server, error: &(dyn Error + 'static)) -> String {
    let cause = root_cause(error);
    let refused = Causes::from_error(error).filter_map(<dyn Error>::downcast_ref::<std::io::Error>);
    let kinds: Vec<_> = refused.map(std::io::Error::kind).collect();
    if kinds.contains(&std::io::ErrorKind::ConnectionRefused) {
        let remedy = match server.options {
            Some(_) => "set the address that it listens on with --endpoint",
            None => "set its configuration file with --config",
        };
        return format!("connection refused; start the gateway, or {remedy}");
    }
    if Causes::from_error(error).any(|cause| cause.to_string() == "dns error") {
        return format!("{cause}; check the host name");
    }
    format!("{cause}; check the address and the firewalls in between")
}

fn of_tls(server: &Server, error: &(dyn Error + 'static), effect: Effect) -> String {
    let certificate = find(error, |error| match error {
        rustls::Error::InvalidCertificate(error) => Some(error.clone()),
        _ => None,
    });
    if let Some(certificate) = certificate {
        return of_server_certificate(server, &certificate, root_cause(error));
    }
    let alert = alert(error);
    let is_without_http2 =
        Causes::from_error(error).any(|cause| cause.to_string().contains("HTTP/2 was not negotiated"));
    if is_without_http2 || alert == Some(AlertDescription::NoApplicationProtocol) {
        return server.no_grpc("this port speaks TLS, but not HTTP/2");
    }
    // In TLS 1.3 a client learns only after its own handshake, by a closed connection or an alert,
    // that its certificate is required or refused (RFC 8446, 4.4.2.4).
    let has_certificate = server.options.as_ref().is_some_and(|options| options.certificate_file.is_some());
    match alert {
        Some(alert) if has_certificate && REFUSALS.contains(&alert) => {
            format!("the gateway refused the client certificate ({alert:?}); {CERTIFICATE_REMEDY}")
        }
        Some(alert) if !REFUSALS.contains(&alert) && !REQUIRED.contains(&alert) => {
            pki::explain(&rustls::Error::AlertReceived(alert), Peer::Server)
        }
        _ if !has_certificate => {
            let remedy = match server.options {
                Some(_) => "set --certificate-file and --private-key-file",
                None => "set health_listen in [server], a listener for probes without TLS",
            };
            let cause = alert.map_or_else(|| root_cause(error), |alert| format!("{alert:?}"));
            format!(
                "the gateway closed the connection without a response ({cause}): it may require a client \
                 certificate; {remedy}"
            )
        }
        // A server may close the connection before its alert can be read.
        _ => format!(
            "{}; if the gateway refused the client certificate: {CERTIFICATE_REMEDY}",
            broken(error, effect)
        ),
    }
}

/// Returns why the gateway's certificate is refused, and how to fix it with the options.
fn of_server_certificate(server: &Server, why: &CertificateError, cause: String) -> String {
    const UNKNOWN: &str =
        "the server's certificate was not issued by an authority that is trusted here (UnknownIssuer)";
    let has_ca_file = server.options.as_ref().is_some_and(|options| options.ca_file.is_some());
    match why {
        CertificateError::UnknownIssuer if !has_ca_file => {
            format!("{UNKNOWN}; set the file of that authority with --ca-file")
        }
        CertificateError::UnknownIssuer => format!(
            "{UNKNOWN}; set --ca-file to the certificate of that authority (not that of a server or client); the \
             server must also send its intermediate certificates"
        ),
        CertificateError::BadSignature => {
            "the server's certificate is not signed by the authority of that name \
             (BadSignature); the file of --ca-file may contain an older key of it"
                .to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("{cause}; use one of these names in --endpoint or --server-name")
        }
        _ => cause,
    }
}

impl Server {
    /// Appends the remedy for a wrong scheme.
    fn with_other_scheme(&self, what: &str) -> String {
        match self.options {
            Some(_) => format!("{what}; write {}", self.address.with_other_scheme()),
            None => format!("{what}; {NOT_CONFIGURED}"),
        }
    }

    /// Appends the remedy for a port of something else.
    fn no_grpc(&self, what: &str) -> String {
        match self.options {
            Some(_) => format!("{what}; use the port of the gateway's gRPC listener (`listen` of [server])"),
            None => format!("{what}; {NOT_CONFIGURED}"),
        }
    }
}

/// Remedy for a refused client certificate.
const CERTIFICATE_REMEDY: &str = "use one that is valid, for clients (extended key usage clientAuth), and from an \
     authority in the gateway's client_ca_file; the gateway's log has the reason";

/// Remedy for an address that a configuration file sets.
const NOT_CONFIGURED: &str = "another program uses the port, or the gateway does not run with this configuration; check [server] of the \
     file in --config, and restart the gateway";

fn broken(error: &(dyn Error + 'static), effect: Effect) -> String {
    format!(
        "the connection was lost before a response arrived ({}){}",
        root_cause(error),
        effect.after_separator("; ")
    )
}

/// Returns the alert that ended the connection. The HTTP library keeps only the text of an error
/// after the handshake.
fn alert(error: &(dyn Error + 'static)) -> Option<AlertDescription> {
    let typed = find(error, |error| match error {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    });
    let is_text_of = |alert: &AlertDescription| {
        let text = rustls::Error::AlertReceived(*alert).to_string();
        Causes::from_error(error).any(|cause| {
            let cause = cause.to_string();
            // One name may begin with another.
            cause
                .split_once(&text)
                .is_some_and(|(_, rest)| !rest.starts_with(|next: char| next.is_alphanumeric()))
        })
    };
    let others = [AlertDescription::NoApplicationProtocol, AlertDescription::ProtocolVersion];
    typed.or_else(|| REFUSALS.into_iter().chain(REQUIRED).chain(others).find(is_text_of))
}

/// Whether the connection was not set up in time.
fn is_timeout(error: &(dyn Error + 'static)) -> bool {
    Causes::from_error(error)
        .filter_map(<dyn Error>::downcast_ref::<std::io::Error>)
        .any(|error| error.kind() == std::io::ErrorKind::TimedOut)
}

fn find<T>(error: &(dyn Error + 'static), wanted: impl Fn(&rustls::Error) -> Option<T>) -> Option<T> {
    Causes::from_error(error).filter_map(<dyn Error>::downcast_ref::<rustls::Error>).find_map(wanted)
}
