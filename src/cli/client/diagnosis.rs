//! Diagnoses why a gateway cannot be reached, with a remedy.
//!
//! For a wrong port or scheme, the errors of the HTTP and TLS libraries do not show the cause. The
//! bytes that the port sent do. If it sent nothing, it is probed.

use std::{error::Error, time::Duration};

use rustls::{AlertDescription, CertificateError};

use super::{
    ClientOptions,
    wire::{ForeignResponse, Protocol, Wire, probe, speaks_tls},
};
use crate::{
    base::clock::Instant,
    cli::{endpoint::Address, failure::Failure},
    http_client::cause::{Causes, root_cause},
};

/// Time limits of a diagnosis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Maximum time that the command waited for a response.
    pub(super) waited: Duration,
    /// End of the diagnosis.
    pub(super) until: Instant,
}

/// Returns the failure for an error of a connection, or of a call without a response.
pub(super) async fn diagnose(
    options: &ClientOptions,
    address: &Address,
    wire: &Wire,
    error: &(dyn Error + 'static),
    budget: Budget,
) -> Failure {
    let Some(cause) = cause(options, address, wire, error, budget.until).await else {
        return Failure::Silent { endpoint: address.to_string(), timeout: budget.waited };
    };
    let remedy = address.with_default_port().map_or_else(String::new, |suggestion| {
        let port = address.host_and_port().1;
        format!(
            "; the endpoint has no port, so port {port} is used: for the default port, write {suggestion}"
        )
    });
    Failure::Connect { endpoint: address.to_string(), cause: format!("{cause}{remedy}") }
}

/// Returns the cause, or `None` if the port has sent nothing until a timeout.
async fn cause(
    options: &ClientOptions,
    address: &Address,
    wire: &Wire,
    error: &(dyn Error + 'static),
    until: Instant,
) -> Option<String> {
    if !wire.is_connected() {
        return Some(not_connected(error));
    }
    let heard = wire.protocol();
    let alert = find(error, |error| match error {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    });
    if address.is_tls() {
        if heard == Protocol::Tls {
            return Some(of_tls(options, error, alert));
        }
        // A server without TLS may close the connection before its bytes arrive.
        let heard =
            if heard == Protocol::Silent { probe(&address.host_and_port(), until).await } else { heard };
        return match heard {
            Protocol::Silent if is_timeout(error) => None,
            Protocol::Http2 => {
                Some(format!("this port speaks HTTP/2 without TLS; write {}", address.with_other_scheme()))
            }
            other => Some(not_tls(&other, error)),
        };
    }
    // The connection may have failed in a write before anything was read.
    let heard = if heard == Protocol::Silent { probe(&address.host_and_port(), until).await } else { heard };
    if heard == Protocol::Tls || heard != Protocol::Http2 && speaks_tls(&address.host_and_port(), until).await
    {
        return Some(format!("this port speaks TLS; write {}", address.with_other_scheme()));
    }
    Some(match heard {
        Protocol::Http1(line) => no_grpc(&format!("this port speaks HTTP/1 (\"{line}\")")),
        Protocol::Other => no_grpc("this port speaks neither HTTP/2 nor TLS"),
        Protocol::Silent | Protocol::Tls => {
            no_grpc(&format!("this port closes the connection ({})", root_cause(error)))
        }
        Protocol::Http2 => broken(error),
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

fn not_connected(error: &(dyn Error + 'static)) -> String {
    let cause = root_cause(error);
    let refused = Causes::from_error(error).filter_map(<dyn Error>::downcast_ref::<std::io::Error>);
    let kinds: Vec<_> = refused.map(std::io::Error::kind).collect();
    if kinds.contains(&std::io::ErrorKind::ConnectionRefused) {
        return format!("{cause}; start the gateway, or set the address that it listens on with --endpoint");
    }
    if Causes::from_error(error).any(|cause| cause.to_string() == "dns error") {
        return format!("{cause}; check the host name");
    }
    format!("{cause}; check the address and the firewalls in between")
}

fn of_tls(options: &ClientOptions, error: &(dyn Error + 'static), alert: Option<AlertDescription>) -> String {
    let cause = root_cause(error);
    let certificate = find(error, |error| match error {
        rustls::Error::InvalidCertificate(error) => Some(error.clone()),
        _ => None,
    });
    if let Some(certificate) = certificate {
        return match certificate {
            CertificateError::UnknownIssuer if options.ca_file.is_none() => {
                format!("{cause}; set the file of that authority with --ca-file")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("{cause}; use one of these names in --endpoint or --server-name")
            }
            _ => cause,
        };
    }
    let is_without_http2 =
        Causes::from_error(error).any(|cause| cause.to_string().contains("HTTP/2 was not negotiated"));
    if is_without_http2 || alert == Some(AlertDescription::NoApplicationProtocol) {
        return no_grpc("this port speaks TLS, but not HTTP/2");
    }
    // In TLS 1.3 a client learns only after its own handshake, by a closed connection or an alert,
    // that its certificate is required or refused (RFC 8446, 4.4.2.4).
    if options.certificate_file.is_none() {
        return format!(
            "the gateway closed the connection without a response ({cause}): it may require a client \
             certificate; set --certificate-file and --private-key-file"
        );
    }
    match alert {
        Some(_) => format!("{cause}; check that the gateway trusts the authority of --certificate-file"),
        None => broken(error),
    }
}

fn not_tls(heard: &Protocol, error: &(dyn Error + 'static)) -> String {
    match heard {
        Protocol::Http1(line) => no_grpc(&format!("this port speaks HTTP/1 without TLS (\"{line}\")")),
        Protocol::Other => no_grpc("this port does not speak TLS"),
        _ => no_grpc(&format!("this port closes the connection ({})", root_cause(error))),
    }
}

fn no_grpc(what: &str) -> String {
    format!("{what}; use the port of the gateway's gRPC listener (`listen` of [server])")
}

fn broken(error: &(dyn Error + 'static)) -> String {
    format!(
        "the connection was lost before a response arrived ({}); the outcome of the call is unknown",
        root_cause(error)
    )
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
