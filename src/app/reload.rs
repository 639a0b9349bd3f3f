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
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::digest::{Digest, SHA256, digest};
use tokio_util::task::AbortOnDropHandle;

use self::difference::Difference;
use super::{policy::policy, rules_change::rules_change};
use crate::{
    access::Access,
    base::{
        clock::WallClock,
        files::{self, FollowedFile, Follower, Outcomes, Parser, PollError, Trigger},
    },
    config::{Config, Document, Finding, Process, Reloadable},
    observe::{
        audit::Audit,
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
    access: Access,
    audit: Audit,
    metrics: Metrics,
    reloads: ReloadMetrics,
    check: Option<AbortOnDropHandle<()>>,
}

/// Contents of a version of the file.
struct Contents {
    reloadable: Reloadable,
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

/// The version parsed last, by the SHA-256 of the file: most polls read the same version, and
/// parsing takes much longer than reading.
#[derive(Default)]
struct LastParsed(Mutex<Option<(Digest, Arc<Contents>)>>);

impl LastParsed {
    fn parse(
        &self,
        path: &Path,
        contents: &files::Contents,
        default_api_client: Option<&str>,
    ) -> Result<Arc<Contents>, String> {
        let hash = digest(&SHA256, &contents.bytes);
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, parsed)) = &*last
            && known.as_ref() == hash.as_ref()
        {
            return Ok(Arc::clone(parsed));
        }
        let parsed = Arc::new(parse(path, contents, default_api_client)?);
        *last = Some((hash, Arc::clone(&parsed)));
        Ok(parsed)
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
        let reloadable = config.reloadable();
        let in_force = Arc::new(Contents { reloadable, document: config.document, warnings: Vec::new() });
        let started_with = Arc::new(config);
        let file = ConfigFile { path, started_with, access, audit, metrics, reloads, check: None };
        let follower = Follower::new(file, Some(in_force), WallClock::system());
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
        let path = self.path.clone();
        // API clients are not reloaded, so access tests are for those of the running gateway.
        let default_api_client = self.started_with.api_clients.default.clone();
        let last = LastParsed::default();
        Arc::new(move |reader| {
            let contents = reader
                .read(&path, files::MAX_BYTES)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            last.parse(&path, &contents, default_api_client.as_deref())
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
    fn apply(&mut self, new: &Arc<Contents>, old: Option<&Arc<Contents>>) -> Result<(), String> {
        let Contents { reloadable: new, warnings, .. } = &**new;
        let policy = policy(&new.access, &new.tokens).map_err(|error| error.to_string())?;
        self.metrics.set_callers(new.access.literal_callers());
        let old = old.map_or(new, |old| &old.reloadable);
        // Before the new rules decide a call, so that its record comes later.
        if let Some(change) = rules_change(&old.access, &new.access) {
            self.audit.rules_changed(&change);
        }
        self.access.replace(policy);
        let rules = Difference::between_rules(&old.access.rules, &new.access.rules);
        let tokens = Difference::between_tokens(&old.tokens, &new.tokens);
        tracing::info!(
            access.rules = new.access.rules.len(),
            access.candidate_rules = new.access.candidate_rules.len(),
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
        self.check_whole_file(warnings.clone());
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

/// Parses a version of the file and runs its access tests.
fn parse(
    path: &Path,
    contents: &files::Contents,
    default_api_client: Option<&str>,
) -> Result<Contents, String> {
    let (reloadable, warnings) = Reloadable::parse(path, &contents.bytes, &Process, default_api_client)
        .map_err(|errors| errors.to_string())?;
    Ok(Contents { reloadable, document: Document::parse(&contents.bytes), warnings })
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
