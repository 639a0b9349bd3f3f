//! New access rules and bearer tokens without a restart.
//!
//! The configuration is read again when its file changes, and on SIGHUP. Only `[access]`
//! and the callers' tokens are taken over, as a whole or not at all; secrets, certificates
//! and keys are followed by those who use them, and everything else takes a restart, which
//! is said.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::Notify;

use super::{RULES, StartError, access_rules, settings};
use crate::{
    access::Access,
    caller::Identification,
    config::{Config, Process, Rule, TokenHash},
    regular_file,
    telemetry::metrics::Metrics,
};

/// How often the file is looked at. A change must be in force within 10 s.
const POLL_INTERVAL: Duration = Duration::from_secs(3);

/// Bearer tokens by the names of their callers.
type Tokens = BTreeMap<Arc<str>, Vec<TokenHash>>;

/// Follows the configuration file. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Reload {
    /// As it was at the start, but for what has been taken over since.
    running: Box<Config>,
    access: Access,
    identification: Identification,
    metrics: Metrics,
    asked: Arc<Notify>,
}

impl Reload {
    pub(super) fn new(
        config: &Config,
        access: Access,
        identification: Identification,
        metrics: Metrics,
    ) -> Self {
        Self { running: Box::new(config.clone()), access, identification, metrics, asked: Arc::default() }
    }

    /// Looks at once.
    pub(super) fn now(&self) {
        self.asked.notify_one();
    }

    /// Follows the file for ever.
    pub(super) async fn run(mut self) {
        let Some(file) = self.running.file.clone() else { return };
        let mut last = read(file.clone()).await;
        // It may have changed since it was loaded, and this look would not tell.
        if load(file.clone()).await.map_or(true, |config| self.is_changed_by(&config)) {
            self.take_over(file.clone()).await;
        }
        loop {
            let asked = tokio::time::timeout(POLL_INTERVAL, self.asked.notified()).await.is_ok();
            let text = read(file.clone()).await;
            if text != last || asked {
                // Written in place, a file may be seen half written: the next look tells.
                if text != last && !asked {
                    tokio::time::sleep(POLL_INTERVAL / 10).await;
                    if read(file.clone()).await != text {
                        continue;
                    }
                }
                last = text;
                self.take_over(file.clone()).await;
            }
        }
    }

    async fn take_over(&mut self, file: PathBuf) {
        let faults = match load(file).await {
            Ok(config) => match self.put_into_force(config) {
                Ok(()) => return,
                Err(error) => error.to_string(),
            },
            Err(faults) => faults,
        };
        self.metrics.reload(RULES, false);
        tracing::error!(
            config.faults = faults,
            "the new configuration is not usable and was refused as a whole; the access rules stay as they are"
        );
    }
}

impl Reload {
    fn is_changed_by(&self, config: &Config) -> bool {
        config.access != self.running.access || config.callers.tokens != self.running.callers.tokens
    }

    /// Both or nothing: what can be refused comes first.
    fn put_into_force(&mut self, config: Config) -> Result<(), StartError> {
        let rules = access_rules(&config.access)?;
        let running = &mut self.running;
        let tokens_changed = config.callers.tokens != running.callers.tokens;
        if tokens_changed {
            self.identification.replace_tokens(settings::tokens(&config.callers))?;
        }
        let rules_changed = config.access != running.access;
        if rules_changed {
            self.metrics.set_callers(settings::named_callers(&config.access));
            self.access.replace(rules, settings::quotas(&config.access));
        }
        let (rules, tokens) = (
            Difference::of_rules(&running.access.rules, &config.access.rules),
            Difference::of_tokens(&running.callers.tokens, &config.callers.tokens),
        );
        tracing::info!(
            access.rules = config.access.rules.len(),
            access.rules_changed = rules_changed,
            access.rules_added = rules.added,
            access.rules_removed = rules.removed,
            callers.tokens = config.callers.tokens.len(),
            callers.tokens_changed = tokens_changed,
            callers.tokens_added = tokens.added,
            callers.tokens_removed = tokens.removed,
            callers.tokens_replaced = tokens.replaced,
            "the configuration was read again"
        );
        let waiting = config.waiting_for_a_restart(running);
        if !waiting.is_empty() {
            tracing::warn!(
                config.sections = waiting.join(", "),
                "some changes of the configuration need a restart; until then they are ignored"
            );
        }
        for warning in &config.warnings {
            tracing::warn!(config.warning = %warning, "the configuration has something to know about");
        }
        self.metrics.reload(RULES, true);
        (running.access, running.callers.tokens) = (config.access, config.callers.tokens);
        Ok(())
    }
}

/// What a new configuration has changed, by number or name and never by value; none where
/// nothing has.
#[derive(Debug, Default, PartialEq, Eq)]
struct Difference {
    added: Option<String>,
    removed: Option<String>,
    /// What has kept its name and nothing else.
    replaced: Option<String>,
}

impl Difference {
    /// Rules by their numbers, from 1: the new ones as the new configuration counts them,
    /// those that are gone as the old one did. An edited rule is both.
    fn of_rules(old: &[Rule], new: &[Rule]) -> Self {
        let missing = |from: &[Rule], those: &[Rule]| {
            let numbered = (1_usize..).zip(those).filter(|(_, rule)| !from.contains(rule));
            listed(numbered.map(|(number, _)| number.to_string()))
        };
        Self { added: missing(old, new), removed: missing(new, old), replaced: None }
    }

    fn of_tokens(old: &Tokens, new: &Tokens) -> Self {
        let missing = |from: &Tokens, those: &Tokens| {
            listed(those.keys().filter(|name| !from.contains_key(*name)).map(ToString::to_string))
        };
        let replaced = new.iter().filter(|(name, hashes)| old.get(*name).is_some_and(|old| old != *hashes));
        Self {
            added: missing(old, new),
            removed: missing(new, old),
            replaced: listed(replaced.map(|(name, _)| name.to_string())),
        }
    }
}

fn listed(names: impl Iterator<Item = String>) -> Option<String> {
    Some(names.collect::<Vec<_>>().join(", ")).filter(|list| !list.is_empty())
}

/// The configuration as the file has it now, or what is wrong with it.
async fn load(file: PathBuf) -> Result<Config, String> {
    match tokio::task::spawn_blocking(move || Config::load(Some(&file), &Process)).await {
        Ok(loaded) => loaded.map_err(|faults| faults.to_string()),
        Err(_) => Err("the configuration could not be read".to_owned()),
    }
}

/// What is in the file; none while it cannot be read.
async fn read(file: PathBuf) -> Option<Vec<u8>> {
    let read = move || regular_file::read(&file, regular_file::MAX_BYTES).ok();
    let mut contents = tokio::task::spawn_blocking(read).await.ok().flatten()?;
    Some(std::mem::take(&mut *contents.bytes))
}
