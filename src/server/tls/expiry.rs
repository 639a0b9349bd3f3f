//! Validity of the certificates in use, and of those about to be used.
//!
//! A server certificate that is not valid now makes every client fail, so it does not replace a
//! valid one. An expired authority is only reported: the TLS library still trusts it, its operator
//! has most likely replaced it, and refusing the file would keep the authorities that it removes.
//! One authority of several may expire while callers move to the next.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{
    base::validity::{self, State, Validity},
    observe::telemetry::metrics::{Certificate, Metrics},
};

/// The validity periods of the certificates in one version of a file.
#[derive(Debug)]
pub(super) struct Expiry {
    kind: Certificate,
    path: PathBuf,
    validities: Vec<Validity>,
    /// The state of each at the last poll.
    states: Vec<State>,
}

impl Expiry {
    pub(super) fn new(kind: Certificate, path: &Path, validities: Vec<Validity>, now: SystemTime) -> Self {
        let states = validities.iter().map(|validity| validity.state(now)).collect();
        Self { kind, path: path.to_owned(), validities, states }
    }

    /// Logs every certificate that is not valid now.
    pub(super) fn warn(&self) {
        for (number, state) in (1_usize..).zip(&self.states) {
            if *state != State::Valid {
                self.log(number, *state);
            }
        }
    }

    /// Updates the metric of the next expiry, and logs certificates that have expired since the
    /// last call.
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
            certificate.not_before = validity::rfc3339(validity.not_before),
            certificate.not_after = validity::rfc3339(validity.not_after),
            "{event}"
        );
    }
}
