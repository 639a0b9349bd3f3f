//! Reloads access rules and bearer tokens without a restart.
//!
//! The configuration file is polled, and read at once on SIGHUP. Only `[access]` and
//! `[callers.tokens]` are reloaded, completely or not at all, and nothing else in the file or on
//! the machine can prevent this. A rejected version is retried at every poll until one is valid.
//!
//! The modules that use secrets, certificates and keys follow those files themselves. Everything
//! else requires a restart. A separate check of the whole file logs which sections a restart would
//! change, and whether it would fail.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::digest::{Digest, SHA256, digest};
use tokio_util::task::AbortOnDropHandle;

use self::difference::{Difference, LoggedCounts};
use super::{
    policy::policy,
    rules_change::{FixedNames, differences, rules_change},
};
use crate::{
    access::Access,
    base::{
        clock::WallClock,
        files::{self, FollowedFile, Follower, Outcomes, Parser, PollError, Trigger},
    },
    config::{Config, Document, Finding, Process, Reloadable},
    observe::{
        audit::{Audit, NotCompared, RulesDifferences},
        telemetry::metrics::{Metrics, ReloadMetrics, Reloaded},
    },
    supervision::Exit,
};

mod difference;

/// Maximum duration of the check of the whole configuration. Each file in it can take
/// [`READ_TIMEOUT`](files::READ_TIMEOUT).
const CHECK_TIMEOUT: Duration = Duration::from_mins(1);

/// Follows the configuration file, if there is one.
#[derive(Debug)]
pub(super) struct Reload(Option<Follower<ConfigFile>>);

/// The configuration file.
struct ConfigFile {
    path: PathBuf,
    /// The configuration at the start; everything but the reloadable part is still in use.
    started_with: Arc<Config>,
    in_force: InForce,
    access: Access,
    audit: Audit,
    metrics: Metrics,
    reloads: ReloadMetrics,
    check: Option<AbortOnDropHandle<()>>,
}

/// Contents of a version of the file.
struct Contents {
    reloadable: Arc<Reloadable>,
    /// The reloadable part that was in force when this version was parsed, and the differences
    /// between the two.
    compared_with: Arc<Reloadable>,
    differences: RulesDifferences,
    /// The whole document, to detect changes elsewhere.
    document: Document,
    warnings: Vec<Finding>,
}

impl PartialEq for Contents {
    fn eq(&self, other: &Self) -> bool {
        self.reloadable == other.reloadable && self.document == other.document
    }
}

impl Eq for Contents {}

/// The reloadable part in force.
#[derive(Clone)]
struct InForce(Arc<Mutex<Arc<Reloadable>>>);

impl InForce {
    fn new(reloadable: Arc<Reloadable>) -> Self {
        Self(Arc::new(Mutex::new(reloadable)))
    }

    fn get(&self) -> Arc<Reloadable> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, reloadable: &Arc<Reloadable>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(reloadable);
    }
}

/// Parses versions of the file, on the thread that reads it. The last one is kept with the SHA-256
/// of the file: most polls read the same version, and parsing takes much longer than reading.
struct FileParser {
    path: PathBuf,
    /// API clients are not reloaded, so rules and access tests are for those of the running gateway.
    api_clients: Arc<FixedNames>,
    in_force: InForce,
    last: Mutex<Option<(Digest, Arc<Contents>)>>,
}

impl FileParser {
    fn new(path: PathBuf, api_clients: FixedNames, in_force: InForce) -> Self {
        Self { path, api_clients: Arc::new(api_clients), in_force, last: Mutex::default() }
    }

    fn parse(&self, contents: &files::Contents) -> Result<Arc<Contents>, String> {
        let hash = digest(&SHA256, &contents.bytes);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let in_force = self.in_force.get();
        if let Some((known, parsed)) = &*last
            && known.as_ref() == hash.as_ref()
            && parsed.differences_from(&in_force).is_some()
        {
            return Ok(Arc::clone(parsed));
        }
        let (reloadable, warnings) =
            Reloadable::parse(&self.path, &contents.bytes, &Process, self.api_clients.default_name())
                .map_err(|errors| errors.to_string())?;
        let reloadable = Arc::new(reloadable);
        let parsed = Arc::new(Contents {
            differences: differences(&in_force, &reloadable, &self.api_clients),
            compared_with: in_force,
            reloadable,
            document: Document::parse(&contents.bytes),
            warnings,
        });
        *last = Some((hash, Arc::clone(&parsed)));
        Ok(parsed)
    }
}

impl Contents {
    /// Returns the differences from the reloadable part in force. `None` if another one was in force
    /// when this version was parsed.
    fn differences_from(&self, in_force: &Arc<Reloadable>) -> Option<RulesDifferences> {
        if Arc::ptr_eq(&self.reloadable, in_force) {
            Some(RulesDifferences::NONE)
        } else {
            Arc::ptr_eq(&self.compared_with, in_force).then_some(self.differences)
        }
    }
}

impl Reload {
    /// Also returns a trigger to read the file at once.
    pub(super) fn new(config: Config, access: Access, audit: Audit, metrics: Metrics) -> (Self, Trigger) {
        let reloads = metrics.reloads(Reloaded::Rules, "");
        let Some(path) = config.file.clone() else {
            reloads.loaded();
            return (Self(None), Trigger::default());
        };
        let reloadable = Arc::new(config.reloadable());
        let in_force = InForce::new(Arc::clone(&reloadable));
        let contents = Arc::new(Contents {
            compared_with: Arc::clone(&reloadable),
            differences: RulesDifferences::NONE,
            reloadable,
            document: config.document,
            warnings: Vec::new(),
        });
        let started_with = Arc::new(config);
        let file = ConfigFile { path, started_with, in_force, access, audit, metrics, reloads, check: None };
        let follower = Follower::new(file, Some(contents), WallClock::system());
        let trigger = follower.trigger();
        (Self(Some(follower)), trigger)
    }

    /// Follows the file. Never returns, unless the configuration has no file.
    pub(super) async fn run(&mut self) -> Exit {
        match &mut self.0 {
            None => Exit::Finished,
            Some(follower) => match follower.run().await {},
        }
    }
}

impl FollowedFile for ConfigFile {
    type Value = Arc<Contents>;
    type Error = String;

    fn name(&self) -> Arc<str> {
        self.path.display().to_string().into()
    }

    fn parser(&self) -> Parser<Arc<Contents>, String> {
        let api_clients = FixedNames::new(&self.started_with);
        let parser = FileParser::new(self.path.clone(), api_clients, self.in_force.clone());
        Arc::new(move |reader| {
            let path = &parser.path;
            let contents = reader
                .read(path, files::MAX_BYTES)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            parser.parse(&contents)
        })
    }

    /// Another section may change at every poll, for example a timestamp.
    fn are_equivalent(contents: &Arc<Contents>, other: &Arc<Contents>) -> bool {
        contents.reloadable == other.reloadable
    }

    fn outcomes(&self) -> &dyn Outcomes {
        &self.reloads
    }

    /// Replaces rules and tokens atomically. Everything that can fail comes first.
    fn apply(&mut self, contents: &Arc<Contents>, _: Option<&Arc<Contents>>) -> Result<(), String> {
        let (old, new) = (self.in_force.get(), &contents.reloadable);
        let policy = policy(&new.access, &new.tokens).map_err(|error| error.to_string())?;
        self.metrics.set_callers(new.access.literal_callers());
        let not_finished = RulesDifferences::NotCounted { not_compared: NotCompared::NotFinished };
        let differences = contents.differences_from(&old).unwrap_or(not_finished);
        let change = rules_change(&old, new, differences);
        // Before the new rules decide a call, so that its record comes later.
        if let Some(change) = &change {
            self.audit.rules_changed(change);
        }
        self.access.replace(policy);
        self.in_force.set(new);
        let counts = LoggedCounts::of(differences);
        let rules = Difference::between_rules(&old.access.rules, &new.access.rules);
        let tokens = Difference::between_tokens(&old.tokens, &new.tokens);
        tracing::info!(
            access.rules = new.access.rules.len(),
            access.candidate_rules = new.access.candidate_rules.len(),
            access.rules_changed = change.as_ref().is_some_and(|change| change.old_rules != change.new_rules),
            access.candidate_rules_changed = new.access.candidate_rules != old.access.candidate_rules,
            access.opened = counts.opened,
            access.closed = counts.closed,
            access.quotas_changed = counts.quotas_changed,
            access.settings_changed = counts.settings_changed,
            access.not_compared = counts.not_compared,
            access.rules_added = rules.added,
            access.rules_removed = rules.removed,
            callers.tokens = new.tokens.len(),
            callers.tokens_changed = new.tokens != old.tokens,
            callers.tokens_added = tokens.added,
            callers.tokens_removed = tokens.removed,
            callers.tokens_replaced = tokens.replaced,
            "access rules reloaded"
        );
        self.check_whole_file(contents.warnings.clone());
        Ok(())
    }

    fn refused(&mut self, error: &PollError<String>, _: Option<&Arc<Contents>>) {
        tracing::error!(
            file.path = %self.path.display(),
            config.errors = %error,
            "new access rules refused, keeping the current ones"
        );
    }
}

impl ConfigFile {
    /// Logs which sections a restart with this file would change, and whether it would fail. Runs
    /// in a separate task, because it reads every file in the configuration, and one of them may be
    /// on an unresponsive file system.
    fn check_whole_file(&mut self, warnings: Vec<Finding>) {
        for warning in &warnings {
            tracing::warn!(config.warning = %warning, "configuration warning");
        }
        let running = Arc::clone(&self.started_with);
        let file = self.path.clone();
        let check = async move {
            let load = move || Config::load(Some(&file), &Process);
            let config = match files::run("configuration check", CHECK_TIMEOUT, load).await {
                Ok(Ok(config)) => config,
                Err(error) => {
                    tracing::warn!(%error, "cannot check whole configuration");
                    return;
                }
                Ok(Err(errors)) => {
                    tracing::warn!(
                        config.errors = %errors,
                        "configuration invalid, restart would fail"
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
                    "configuration changes require a restart"
                );
            }
        };
        self.check = Some(AbortOnDropHandle::new(tokio::spawn(check)));
    }
}

#[cfg(test)]
mod tests;
