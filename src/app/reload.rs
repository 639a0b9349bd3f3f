//! New access rules and bearer tokens without a restart.
//!
//! The configuration file is polled, and read at once on SIGHUP. Only `[access]` and
//! `[callers.tokens]` are taken over, as a whole or not at all, and nothing else in the file or
//! on the machine can keep them from being taken over. A version that is refused is tried again
//! at every poll until one is in force.
//!
//! Secrets, certificates and keys are followed by the modules that use them. Everything else
//! takes a restart. A separate check of the whole file logs what a restart would change, and
//! what would make it fail.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::digest::{self, SHA256};
use futures_util::FutureExt;
use tokio::{sync::Notify, task::spawn_blocking};
use tokio_util::task::AbortOnDropHandle;

use self::difference::Difference;
use super::{RULES, StartError, settings};
use crate::{
    access::Access,
    config::{Config, Finding, Process, Reloadable},
    files::{self, Contents},
    telemetry::metrics::Metrics,
};

mod difference;

/// How often the file is polled. A change must be in force within 10 s.
const POLL_INTERVAL: Duration = Duration::from_secs(3);
/// Time between the two looks at a new version, which must agree: a file that is written in
/// place can be read half written.
const SETTLING_TIME: Duration = Duration::from_millis(300);

/// Makes the reload read the file at once. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Trigger(Arc<Notify>);

impl Trigger {
    /// Asks for a reload, also if the file has not changed.
    pub(super) fn fire(&self) {
        self.0.notify_one();
    }
}

/// Follows the configuration file.
#[derive(Debug)]
pub(super) struct Reload {
    /// The configuration at the start; everything but the reloadable part is still in use.
    started_with: Arc<Config>,
    in_force: Reloadable,
    access: Access,
    metrics: Metrics,
    trigger: Trigger,
    /// Whether the file has to be read even if it has not changed.
    asked: bool,
    /// The version that is in force. Set only once it is; none before the first poll.
    taken_over: Option<Version>,
    refused: Option<Refusal>,
    check: Option<AbortOnDropHandle<()>>,
}

/// Identifies the contents of the file, which may contain a secret by mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Unreadable,
    Sha256([u8; 32]),
}

/// What was refused last, so that retries do not repeat the same log line.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    version: Version,
    cause: String,
}

impl Reload {
    /// Also returns what makes it read the file at once.
    pub(super) fn new(config: Config, access: Access, metrics: Metrics) -> (Self, Trigger) {
        let trigger = Trigger(Arc::default());
        let reload = Self {
            in_force: config.reloadable(),
            started_with: Arc::new(config),
            access,
            metrics,
            trigger: trigger.clone(),
            asked: false,
            taken_over: None,
            refused: None,
            check: None,
        };
        (reload, trigger)
    }

    /// Follows the file for ever.
    pub(super) async fn run(mut self) {
        let Some(file) = self.started_with.file.clone() else { return };
        loop {
            if self.poll(&file).await {
                let triggered = self.trigger.0.notified();
                self.asked = tokio::time::timeout(POLL_INTERVAL, triggered).await.is_ok();
            }
        }
    }

    /// Takes over the file if it has changed, if the last version was refused, or if it was
    /// asked for. Returns false if the file is being written: it must be read again soon.
    async fn poll(&mut self, file: &Path) -> bool {
        let seen = Version::of(&read(file.to_path_buf()).await);
        if self.taken_over == Some(seen) && self.refused.is_none() && !self.asked {
            return true;
        }
        tokio::time::sleep(SETTLING_TIME).await;
        // This read serves all requests for a reload up to now.
        self.asked |= self.trigger.0.notified().now_or_never().is_some();
        let contents = read(file.to_path_buf()).await;
        if Version::of(&contents) != seen {
            return false;
        }
        let asked = std::mem::take(&mut self.asked);
        let is_first = self.taken_over.is_none() && self.refused.is_none();
        let parsed = contents.and_then(|contents| {
            Reloadable::parse(file, &contents.bytes, &Process).map_err(|faults| faults.to_string())
        });
        match parsed {
            // The version that the gateway has started with.
            Ok((new, _)) if is_first && !asked && new == self.in_force => self.taken_over = Some(seen),
            Ok((new, warnings)) => match self.put_into_force(new) {
                Ok(()) => {
                    (self.taken_over, self.refused) = (Some(seen), None);
                    self.check_the_rest(file.to_path_buf(), warnings);
                }
                Err(error) => self.refuse(seen, error.to_string(), asked),
            },
            Err(cause) => self.refuse(seen, cause, asked),
        }
        true
    }

    fn refuse(&mut self, version: Version, cause: String, asked: bool) {
        let refusal = Refusal { version, cause };
        if self.refused.as_ref() == Some(&refusal) && !asked {
            return;
        }
        self.metrics.reload(RULES, false);
        tracing::error!(
            config.faults = refusal.cause,
            "new access rules refused as a whole, keeping the current ones"
        );
        self.refused = Some(refusal);
    }

    /// Replaces rules and tokens at one moment. Everything that can fail comes before.
    fn put_into_force(&mut self, new: Reloadable) -> Result<(), StartError> {
        let policy = settings::policy(&new.access, &new.tokens)?;
        self.metrics.set_callers(settings::named_callers(&new.access));
        self.access.replace(policy);
        self.metrics.reload(RULES, true);
        let old = std::mem::replace(&mut self.in_force, new);
        let new = &self.in_force;
        let rules = Difference::of_rules(&old.access.rules, &new.access.rules);
        let tokens = Difference::of_tokens(&old.tokens, &new.tokens);
        tracing::info!(
            access.rules = new.access.rules.len(),
            access.rules_changed = new.access != old.access,
            access.rules_added = rules.added,
            access.rules_removed = rules.removed,
            callers.tokens = new.tokens.len(),
            callers.tokens_changed = new.tokens != old.tokens,
            callers.tokens_added = tokens.added,
            callers.tokens_removed = tokens.removed,
            callers.tokens_replaced = tokens.replaced,
            "access rules reloaded"
        );
        Ok(())
    }

    /// Logs what a restart with this file would change, and whether it would fail. A task of its
    /// own: it reads every file that the configuration names, and one of them may be on a file
    /// system that does not answer.
    fn check_the_rest(&mut self, file: PathBuf, warnings: Vec<Finding>) {
        for warning in &warnings {
            tracing::warn!(config.warning = %warning, "configuration warning");
        }
        let running = Arc::clone(&self.started_with);
        let check = async move {
            let Ok(loaded) = spawn_blocking(move || Config::load(Some(&file), &Process)).await else {
                return;
            };
            let config = match loaded {
                Ok(config) => config,
                Err(faults) => {
                    tracing::warn!(
                        config.faults = %faults,
                        "access rules are in force, but the gateway cannot restart with this configuration"
                    );
                    return;
                }
            };
            for warning in config.warnings.iter().filter(|warning| !warnings.contains(warning)) {
                tracing::warn!(config.warning = %warning, "configuration warning");
            }
            let waiting = config.waiting_for_a_restart(&running);
            if !waiting.is_empty() {
                tracing::warn!(
                    config.sections = waiting.join(", "),
                    "configuration changes take effect after a restart"
                );
            }
        };
        self.check = Some(AbortOnDropHandle::new(tokio::spawn(check)));
    }
}

impl Version {
    fn of(contents: &Result<Contents, String>) -> Self {
        let Ok(contents) = contents else { return Self::Unreadable };
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest::digest(&SHA256, &contents.bytes).as_ref());
        Self::Sha256(sha256)
    }
}

/// The contents of the file, or why it cannot be read.
async fn read(file: PathBuf) -> Result<Contents, String> {
    let read = move || {
        let contents = files::read(&file, files::MAX_BYTES);
        contents.map_err(|error| format!("{}: cannot read the file: {error}", file.display()))
    };
    spawn_blocking(read).await.unwrap_or_else(|error| Err(error.to_string()))
}

#[cfg(test)]
mod tests;
