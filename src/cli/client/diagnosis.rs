//! Why a gateway cannot be reached, with what to do about it.
//!
//! A wrong port or scheme leads to an error of the HTTP or TLS library that does not name it.
//! What the port has sent does; if it has sent nothing yet, it is asked once more.

use std::{error::Error, time::Duration};

use rustls::{AlertDescription, CertificateError};

use super::{
    ClientOptions,
    wire::{ForeignResponse, Protocol, Wire, probe, speaks_tls},
};
use crate::{
    cli::{endpoint::Address, failure::Failure},
    clock::Instant,
    http_client::cause::{Causes, root_cause},
};

/// The time of a command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// How long was waited for an answer at most.
    pub(super) waited: Duration,
    /// When the cause must have been found.
    pub(super) until: Instant,
}

/// The error of a connection, or of a call on it that no gateway has answered.
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
    let remedy = address.with_default_port().map_or_else(String::new, |meant| {
        let port = address.host_and_port().1;
        format!("; the endpoint has no port, so that it is {port}: for another one, write {meant}")
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
        // A server without TLS may close the connection before its own bytes arrive.
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
    // A write that failed may have come before a read.
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

/// The answer of a server that speaks HTTP/2, but not gRPC.
pub(super) fn foreign(endpoint: &str, response: &ForeignResponse) -> Failure {
    let kind = response.content_type.as_deref().unwrap_or("without a content type");
    Failure::Connect {
        endpoint: endpoint.to_owned(),
        cause: format!(
            "the answer is HTTP {} ({kind}) and not gRPC; check that this is the port of a gateway's gRPC \
             listener, and the proxies on the way to it",
            response.status.as_u16()
        ),
    }
}

fn not_connected(error: &(dyn Error + 'static)) -> String {
    let cause = root_cause(error);
    let refused = Causes::of(error).filter_map(<dyn Error>::downcast_ref::<std::io::Error>);
    let kinds: Vec<_> = refused.map(std::io::Error::kind).collect();
    if kinds.contains(&std::io::ErrorKind::ConnectionRefused) {
        return format!("{cause}; start the gateway, or name the address that it listens on with --endpoint");
    }
    if Causes::of(error).any(|cause| cause.to_string() == "dns error") {
        return format!("{cause}; check the host name");
    }
    format!("{cause}; check the address, and the firewalls on the way to it")
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
                format!("{cause}; name the file of that authority with --ca-file")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("{cause}; write one of these names in --endpoint, or in --server-name")
            }
            _ => cause,
        };
    }
    let is_without_http2 =
        Causes::of(error).any(|cause| cause.to_string().contains("HTTP/2 was not negotiated"));
    if is_without_http2 || alert == Some(AlertDescription::NoApplicationProtocol) {
        return no_grpc("this port speaks TLS, but not HTTP/2");
    }
    // In TLS 1.3 a client notices only after its own handshake, from a closed connection or an
    // alert, that its certificate is required or refused (RFC 8446, 4.4.2.4).
    if options.certificate_file.is_none() {
        return format!(
            "the gateway closed the connection before it answered ({cause}): it may require a client \
             certificate, which --certificate-file and --private-key-file show"
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
    format!("{what}; name the port of the gateway's gRPC listener (`listen` of [server])")
}

fn broken(error: &(dyn Error + 'static)) -> String {
    format!(
        "the connection broke before an answer arrived ({}); what became of the call is not known",
        root_cause(error)
    )
}

/// Whether the connection was not set up in time.
fn is_timeout(error: &(dyn Error + 'static)) -> bool {
    Causes::of(error)
        .filter_map(<dyn Error>::downcast_ref::<std::io::Error>)
        .any(|error| error.kind() == std::io::ErrorKind::TimedOut)
}

fn find<T>(error: &(dyn Error + 'static), wanted: impl Fn(&rustls::Error) -> Option<T>) -> Option<T> {
    Causes::of(error).filter_map(<dyn Error>::downcast_ref::<rustls::Error>).find_map(wanted)
}
