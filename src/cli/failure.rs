//! Why a command did not do what it was asked for.
//!
//! How that is printed is in `output` and `status_report`.

use std::{error::Error, io, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use crate::config::{Faults, unreadable};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The arguments are not valid, or not together.
    #[error("{0}")]
    Usage(String),
    /// The configuration is wrong.
    #[error("the configuration is not usable:\n{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Configuration(Faults),
    /// Files of the configuration could not be read on this machine now.
    #[error("the configuration cannot be read now:\n{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    UnreadConfiguration(Faults),
    /// A file that an argument names cannot be read.
    #[error("{argument}: {}", unreadable(.path, *.kind))]
    File {
        /// The argument.
        argument: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        kind: io::ErrorKind,
    },
    /// Another program listens on an address.
    #[error(
        "port {} is in use ({address}){}: stop what listens there, or choose another address with {setting}",
        .address.port(),
        older_sandbox(.setting)
    )]
    PortInUse {
        /// The address.
        address: SocketAddr,
        /// The flag or the key that sets it.
        setting: &'static str,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({kind}): choose another address with {setting}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        kind: io::ErrorKind,
        /// The flag or the key that sets it.
        setting: &'static str,
    },
    /// The gateway cannot be reached.
    #[error("cannot connect to {endpoint}: {cause}")]
    Connect {
        /// The endpoint as given.
        endpoint: String,
        /// Why.
        cause: String,
    },
    /// The gateway does not answer.
    #[error("no answer within {}; what became of the call is not known", humantime::format_duration(*.timeout))]
    NoAnswer {
        /// How long was waited.
        timeout: Duration,
    },
    /// The port has accepted a connection and sent nothing on it.
    #[error(
        "no answer within {}: {endpoint} has accepted the connection and sent nothing; check that this is the \
         port of the gateway's gRPC listener. What became of the call is not known",
        humantime::format_duration(*.timeout)
    )]
    Silent {
        /// The endpoint.
        endpoint: String,
        /// How long was waited.
        timeout: Duration,
    },
    /// The gateway answered with an error.
    #[error("{}", .0.message())]
    Status(Box<tonic::Status>),
    /// Something else went wrong.
    #[error("{0}")]
    Failed(String),
}

impl Failure {
    /// The failure to listen on an address that the flag or the key `setting` sets.
    #[must_use]
    pub fn listen(address: SocketAddr, error: &io::Error, setting: &'static str) -> Self {
        match error.kind() {
            io::ErrorKind::AddrInUse => Self::PortInUse { address, setting },
            kind => Self::Listen { address, kind, setting },
        }
    }

    /// 2 for wrong usage and configuration, 1 for what ran and failed.
    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) | Self::Configuration(_) | Self::File { .. } => ExitCode::from(2),
            Self::UnreadConfiguration(_)
            | Self::PortInUse { .. }
            | Self::Listen { .. }
            | Self::Connect { .. }
            | Self::NoAnswer { .. }
            | Self::Silent { .. }
            | Self::Status(_)
            | Self::Failed(_) => ExitCode::FAILURE,
        }
    }
}

impl From<Faults> for Failure {
    fn from(faults: Faults) -> Self {
        if faults.are_of_machine() { Self::UnreadConfiguration(faults) } else { Self::Configuration(faults) }
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// What probably has the port: only the sandbox sets its addresses by flags.
fn older_sandbox(setting: &str) -> &'static str {
    if setting.starts_with("--") { ", perhaps by an older sandbox that is still running" } else { "" }
}

/// An error and what caused it, as one sentence without repetitions.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut sentence = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !sentence.contains(&text) {
            sentence = format!("{sentence}: {text}");
        }
        cause = error.source();
    }
    sentence
}
