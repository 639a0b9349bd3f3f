//! Whether the certificates in use, or those that are about to be, are valid now.
//!
//! A server certificate that is not valid makes every client fail: it does not replace one that
//! is valid. A TLS library still trusts
//! an authority that has expired, but its operator has most likely replaced it: it is reported.
//! It is no reason to refuse a file, because that would keep the authorities that the file does
//! not have any more. Each of several may expire on its own while callers move to the next.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

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
