//! Whether the certificates in use, or those that are about to be, are valid now.
//!
//! A server certificate that is not valid makes every client fail. A TLS library still trusts
//! an authority that has expired, but its operator has most likely replaced it. Of several
//! authorities in one file, each may expire on its own while callers move to the next.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::TlsError;
use crate::{
    telemetry::metrics::{Certificate, Metrics},
    validity::{self, State, Validity},
};

/// From when until when the certificates of one version of a file are valid.
#[derive(Debug)]
pub(super) struct Expiry {
    kind: Certificate,
    path: PathBuf,
    validities: Vec<Validity>,
    /// What each was at the last poll.
    states: Vec<State>,
}

impl Expiry {
    pub(super) fn new(kind: Certificate, path: &Path, validities: Vec<Validity>, now: SystemTime) -> Self {
        let states = validities.iter().map(|validity| validity.state(now)).collect();
        Self { kind, path: path.to_owned(), validities, states }
    }

    /// Returns whether it may replace what is in use: the server's own certificate must be valid
    /// now, and so must be one of the client CAs.
    pub(super) fn check(&self) -> Result<(), TlsError> {
        let of_consequence = match self.kind {
            Certificate::Server => self.states.get(..1).unwrap_or_default(),
            Certificate::ClientCa => &self.states,
        };
        if of_consequence.is_empty() || of_consequence.contains(&State::Valid) {
            return Ok(());
        }
        let relevant = || self.validities.iter().zip(of_consequence);
        let not_yet = relevant().filter(|(_, state)| **state == State::NotYetValid);
        let file = self.path.clone();
        if let Some(not_before) = not_yet.map(|(validity, _)| validity.not_before).min() {
            return Err(TlsError::NotYetValid { file, not_before });
        }
        let not_after = relevant().map(|(validity, _)| validity.not_after).max();
        Err(TlsError::Expired { file, not_after: not_after.unwrap_or(SystemTime::UNIX_EPOCH) })
    }

    /// Logs every certificate that is not valid.
    pub(super) fn warn(&self) {
        for (number, state) in (1_usize..).zip(&self.states) {
            if *state != State::Valid {
                self.log(number, *state);
            }
        }
    }

    /// Shows which certificate ends next, and logs those that have ended since the last time.
    pub(super) fn follow(&mut self, now: SystemTime, metrics: &Metrics) {
        let states: Vec<State> = self.validities.iter().map(|validity| validity.state(now)).collect();
        for (number, (state, last)) in (1_usize..).zip(states.iter().zip(&self.states)) {
            if *state == State::Expired && state != last {
                self.log(number, *state);
            }
        }
        self.states = states;
        if let Some(next) = Validity::next_to_end(&self.validities, now) {
            metrics.certificate(self.kind, next);
        }
    }

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
