//! Whether the certificates in use, or those that are about to be, are valid now.
//!
//! A server certificate that is not valid makes every client fail. A TLS library still trusts
//! an authority that has expired, but its operator has most likely replaced it. Of several
//! authorities in one file, each may expire on its own while callers move to the next.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{Settings, TlsError};
use crate::{
    telemetry::metrics::{Certificate, Metrics},
    validity::{self, State, Validity},
};

/// From when until when the certificates of one version are valid.
#[derive(Debug)]
pub(super) struct Expiry {
    files: Vec<File>,
}

/// The certificates of one file.
#[derive(Debug)]
struct File {
    kind: Certificate,
    path: PathBuf,
    validities: Vec<Validity>,
    /// What each was when it was last looked at.
    states: Vec<State>,
}

impl Expiry {
    pub(super) fn new(settings: &Settings, [chain, client_cas]: [Vec<Validity>; 2], now: SystemTime) -> Self {
        let file = |kind, path: &Path, validities: Vec<Validity>| {
            let states = validities.iter().map(|validity| validity.state(now)).collect();
            File { kind, path: path.to_owned(), validities, states }
        };
        let mut files = vec![file(Certificate::Server, &settings.certificate_file, chain)];
        files
            .extend(settings.client_auth.ca_file().map(|path| file(Certificate::ClientCa, path, client_cas)));
        Self { files }
    }

    /// Returns whether it may replace what is in use: the server's own certificate must be valid
    /// now, and so must be one of the client CAs.
    pub(super) fn check(&self) -> Result<(), TlsError> {
        for file in &self.files {
            let of_consequence = match file.kind {
                Certificate::Server => file.states.get(..1).unwrap_or_default(),
                Certificate::ClientCa => &file.states,
            };
            if of_consequence.is_empty() || of_consequence.contains(&State::Valid) {
                continue;
            }
            let relevant = || file.validities.iter().zip(of_consequence);
            let not_yet = relevant().filter(|(_, state)| **state == State::NotYetValid);
            let path = file.path.clone();
            if let Some(not_before) = not_yet.map(|(validity, _)| validity.not_before).min() {
                return Err(TlsError::NotYetValid { file: path, not_before });
            }
            let not_after = relevant().map(|(validity, _)| validity.not_after).max();
            return Err(TlsError::Expired {
                file: path,
                not_after: not_after.unwrap_or(SystemTime::UNIX_EPOCH),
            });
        }
        Ok(())
    }

    /// Logs every certificate that is not valid.
    pub(super) fn warn(&self) {
        for file in &self.files {
            for (number, state) in (1_usize..).zip(&file.states) {
                if *state != State::Valid {
                    file.log(number, *state);
                }
            }
        }
    }

    /// Shows which certificates end next, and logs those that have ended since the last time.
    pub(super) fn follow(&mut self, now: SystemTime, metrics: &Metrics) {
        for file in &mut self.files {
            let states: Vec<State> = file.validities.iter().map(|validity| validity.state(now)).collect();
            for (number, (state, last)) in (1_usize..).zip(states.iter().zip(&file.states)) {
                if *state == State::Expired && state != last {
                    file.log(number, *state);
                }
            }
            file.states = states;
            if let Some(next) = Validity::next_to_end(&file.validities, now) {
                metrics.certificate(file.kind, next);
            }
        }
    }
}

impl File {
    fn log(&self, number: usize, state: State) {
        let Some(validity) = self.validities.get(number - 1) else { return };
        let event = match state {
            State::Expired => "certificate has expired",
            State::NotYetValid => "certificate is not valid yet",
            State::Valid => return,
        };
        tracing::warn!(
            file.path = %self.path.display(),
            certificate.number = number,
            certificate.not_before = validity::shown(validity.not_before),
            certificate.not_after = validity::shown(validity.not_after),
            "{event}"
        );
    }
}
