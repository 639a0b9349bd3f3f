//! Errors of the commands. `output` and `status_report` print them.

use std::{error::Error, io, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use crate::config::{Errors, unreadable};

/// The reason why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The arguments are invalid, alone or in combination.
    #[error("{0}")]
    Usage(String),
    /// The configuration is invalid.
    #[error("the configuration is not valid:\n{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Configuration(Errors),
    /// This machine temporarily cannot read files of the configuration.
    #[error("the configuration cannot be read now:\n{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    UnreadConfiguration(Errors),
    /// A file that an argument names is not valid.
    #[error("{argument}: the file is not valid:\n{}", .problems.join("\n"))]
    InvalidFile {
        /// Name of the argument.
        argument: &'static str,
        /// One printable line for each problem.
        problems: Vec<String>,
    },
    /// A file that an argument names cannot be read.
    #[error("{argument}: {}", unreadable(.path, *.kind))]
    File {
        /// Name of the argument.
        argument: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Kind of the error.
        kind: io::ErrorKind,
    },
    /// Another program listens on an address.
    #[error(
        "port {} is in use ({address}){}: stop the other program, or choose another address with {setting}",
        .address.port(),
        older_sandbox(.setting)
    )]
    PortInUse {
        /// The address.
        address: SocketAddr,
        /// Flag or key that sets the address.
        setting: &'static str,
    },
    /// The gateway cannot listen on an address.
    #[error("cannot listen on {address}: {cause}; choose another address with {setting}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Error of the system.
        cause: String,
        /// Flag or key that sets the address.
        setting: &'static str,
    },
    /// The gateway cannot be reached.
    #[error("cannot connect to {endpoint}: {cause}")]
    Connect {
        /// The endpoint.
        endpoint: String,
        /// Cause and remedy.
        cause: String,
    },
    /// The gateway did not respond.
    #[error("no response within {}{}", humantime::format_duration(*.timeout), .effect.after_separator("; "))]
    NoAnswer {
        /// Duration of the wait.
        timeout: Duration,
        /// Effect of the request.
        effect: Effect,
    },
    /// The port accepted the connection and sent nothing.
    #[error(
        "no response within {}: {endpoint} accepted the connection and sent nothing; check that this is the port \
         of the gateway's gRPC listener{}",
        humantime::format_duration(*.timeout),
        .effect.after_separator("; ")
    )]
    Silent {
        /// The endpoint.
        endpoint: String,
        /// Duration of the wait.
        timeout: Duration,
        /// Effect of the request.
        effect: Effect,
    },
    /// The gateway returned an error.
    #[error("{}", .0.message())]
    Status(Box<tonic::Status>),
    /// Audit records are missing, torn or doubled.
    #[error("{0}")]
    Incomplete(String),
    /// Any other failure.
    #[error("{0}")]
    Failed(String),
}

/// The effect of a request without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The request was not sent, or changes nothing.
    Nothing,
    /// The request may have been processed.
    Unknown,
}

impl Effect {
    /// Returns the separator and the clause about an unknown outcome, or an empty text.
    #[must_use]
    pub fn after_separator(self, separator: &str) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Unknown => format!("{separator}the outcome of the call is unknown"),
        }
    }
}

impl Failure {
    /// Creates the failure to listen on an address, which the flag or key `setting` sets.
    #[must_use]
    pub fn listen(address: SocketAddr, error: &io::Error, setting: &'static str) -> Self {
        match error.kind() {
            io::ErrorKind::AddrInUse => Self::PortInUse { address, setting },
            _ => Self::Listen { address, cause: error.to_string(), setting },
        }
    }

    /// Returns 2 for invalid usage or configuration, 3 for an incomplete audit log, and 1 for any
    /// other failure.
    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) | Self::Configuration(_) | Self::InvalidFile { .. } | Self::File { .. } => {
                ExitCode::from(2)
            }
            Self::Incomplete(_) => ExitCode::from(3),
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

impl From<Errors> for Failure {
    fn from(errors: Errors) -> Self {
        if errors.are_of_machine() { Self::UnreadConfiguration(errors) } else { Self::Configuration(errors) }
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// Returns a hint that another sandbox may use the port. Only the sandbox sets its addresses by flags.
fn older_sandbox(setting: &str) -> &'static str {
    if setting.starts_with("--") { ", possibly by another sandbox" } else { "" }
}

/// Joins an error and its sources to one sentence without repetitions.
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
