//! Changes of the policy by a reload: rules, candidate rules and bearer tokens. Counts them for the log,
//! and makes the audit record.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use crate::{
    caller::TokenHashes,
    config::{Config, Reloadable},
    observe::audit::{NotCompared, RulesChange, RulesDifferences, RulesSummary, TokenChanges},
    rule_comparison::{self, Comparison, Side, TooComplex},
};

/// Maximum time that a reload waits for the comparison. Its limit on steps ends it earlier, unless
/// the machine is overloaded.
const COMPARISON_TIMEOUT: Duration = Duration::from_secs(1);

/// The API clients and JWT issuers of the running gateway, and whether it binds tokens, which no reload
/// changes.
#[derive(Debug, Default)]
pub(super) struct FixedNames {
    api_clients: Vec<String>,
    jwt_issuers: Option<Vec<String>>,
    default: Option<Arc<str>>,
    has_token_binding: bool,
}

impl FixedNames {
    pub(super) fn new(config: &Config) -> Self {
        let api_clients = config.api_clients.by_name.keys().map(ToString::to_string).collect();
        Self {
            api_clients,
            jwt_issuers: config.jwt_issuers(),
            default: config.api_clients.default.clone(),
            has_token_binding: config.token_keys.is_some(),
        }
    }

    pub(super) fn default_name(&self) -> Option<&str> {
        self.default.as_deref()
    }
}

/// Compares the rules in force with new ones. Blocks for at most [`COMPARISON_TIMEOUT`].
///
/// The comparison has a thread of its own, so that no panic or slow machine can prevent the reload.
pub(super) fn differences(
    old: &Arc<Reloadable>,
    new: &Arc<Reloadable>,
    fixed: &Arc<FixedNames>,
) -> RulesDifferences {
    if old == new {
        return RulesDifferences::NONE;
    }
    let (send, receive) = mpsc::sync_channel(1);
    let (old, new, fixed) = (Arc::clone(old), Arc::clone(new), Arc::clone(fixed));
    let compare = move || {
        // The receiver is gone if the comparison took too long.
        let _ = send.send(compare(&old, &new, &fixed));
    };
    let started = thread::Builder::new().name("rule-comparison".to_owned()).spawn(compare);
    let compared = started.ok().and_then(|_thread| receive.recv_timeout(COMPARISON_TIMEOUT).ok());
    compared.unwrap_or(RulesDifferences::NotCounted { not_compared: NotCompared::NotFinished })
}

fn compare(old: &Reloadable, new: &Reloadable, fixed: &FixedNames) -> RulesDifferences {
    let tokens = |side: &Reloadable| side.tokens.keys().map(ToString::to_string).collect::<Vec<_>>();
    let (old_tokens, new_tokens) = (tokens(old), tokens(new));
    let (old_tokens, new_tokens) = (borrowed(&old_tokens), borrowed(&new_tokens));
    let names = borrowed(&fixed.api_clients);
    let issuers = fixed.jwt_issuers.as_deref().map(borrowed);
    let side = |access, tokens| Side {
        access,
        tokens,
        jwt_issuers: issuers.as_deref(),
        api_clients: &names,
        default_api_client: fixed.default.as_deref(),
        has_token_binding: fixed.has_token_binding,
    };
    match rule_comparison::compare_quickly(side(&old.access, &old_tokens), side(&new.access, &new_tokens)) {
        Ok(Comparison { opened, closed, quotas, settings, respelled: _ }) => RulesDifferences::Counted {
            opened: opened.len(),
            closed: closed.len(),
            quotas_changed: quotas.len(),
            settings_changed: settings.len(),
        },
        Err(TooComplex { .. }) => RulesDifferences::NotCounted { not_compared: NotCompared::TooComplex },
    }
}

fn borrowed(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

/// Returns the record of a change. `None` if nothing has changed.
pub(super) fn rules_change(
    old: &Reloadable,
    new: &Reloadable,
    differences: RulesDifferences,
) -> Option<RulesChange> {
    if old == new {
        return None;
    }
    let names = |names: Vec<&Arc<str>>| names.into_iter().cloned().collect();
    let ChangedTokens { added, removed, replaced } = ChangedTokens::between(&old.tokens, &new.tokens);
    Some(RulesChange {
        old_rules: old.access.fingerprint(),
        new_rules: new.access.fingerprint(),
        old_candidate_rules: old.access.candidate_fingerprint(),
        new_candidate_rules: new.access.candidate_fingerprint(),
        tokens: TokenChanges { added: names(added), removed: names(removed), replaced: names(replaced) },
        summary: RulesSummary {
            rules_before: old.access.rules.len(),
            rules_after: new.access.rules.len(),
            candidate_rules_before: old.access.candidate_rules.len(),
            candidate_rules_after: new.access.candidate_rules.len(),
            tokens_before: old.tokens.len(),
            tokens_after: new.tokens.len(),
            differences,
        },
    })
}

/// The names of tokens that differ between two versions, in alphabetical order.
#[derive(Debug)]
pub(super) struct ChangedTokens<'a> {
    pub(super) added: Vec<&'a Arc<str>>,
    pub(super) removed: Vec<&'a Arc<str>>,
    /// Those with other hashes.
    pub(super) replaced: Vec<&'a Arc<str>>,
}

impl<'a> ChangedTokens<'a> {
    pub(super) fn between(old: &'a TokenHashes, new: &'a TokenHashes) -> Self {
        let missing = |from: &TokenHashes, those: &'a TokenHashes| {
            those.keys().filter(|name| !from.contains_key(*name)).collect()
        };
        let is_replaced = |(name, hashes): &(&Arc<str>, _)| old.get(*name).is_some_and(|old| old != *hashes);
        Self {
            added: missing(old, new),
            removed: missing(new, old),
            replaced: new.iter().filter(is_replaced).map(|(name, _)| name).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::{
        access::{Quotas, Rate, RuleSettings, Settings},
        caller::BearerTokenHash,
        domain::ott::{SubjectKind, Users},
    };

    fn rule(caller: &str) -> RuleSettings {
        RuleSettings::new(vec![caller.to_owned()], Users::All)
    }

    fn reloadable(access: Settings, tokens: &[&str]) -> Arc<Reloadable> {
        let tokens: TokenHashes = tokens.iter().map(|name| (Arc::from(*name), Vec::new())).collect();
        Arc::new(Reloadable { access, tokens })
    }

    fn fixed_names() -> FixedNames {
        FixedNames {
            api_clients: vec!["eu".to_owned()],
            jwt_issuers: None,
            default: Some(Arc::from("eu")),
            has_token_binding: true,
        }
    }

    fn counts(old: &Arc<Reloadable>, new: &Arc<Reloadable>) -> [usize; 4] {
        match differences(old, new, &Arc::new(fixed_names())) {
            RulesDifferences::Counted { opened, closed, quotas_changed, settings_changed } => {
                [opened, closed, quotas_changed, settings_changed]
            }
            RulesDifferences::NotCounted { not_compared } => panic!("{not_compared:?}"),
        }
    }

    #[test]
    fn every_change_of_the_policy_is_recorded() {
        let settings = Settings::new(vec![rule("dns:a")]);
        let old = reloadable(settings.clone(), &["ci", "nightly"]);
        let change = |new: &Arc<Reloadable>| rules_change(&old, new, RulesDifferences::NONE);
        assert_eq!(change(&reloadable(settings.clone(), &["ci", "nightly"])), None);

        let wider = Settings::new(vec![rule("dns:a"), rule("dns:b")]);
        let found = change(&reloadable(wider.clone(), &["ci", "nightly"])).expect("a change");
        assert_eq!((found.old_rules, found.new_rules), (settings.fingerprint(), wider.fingerprint()));
        assert_eq!((found.summary.rules_before, found.summary.rules_after), (1, 2));

        let rehearsing = Settings { candidate_rules: wider.rules.clone(), ..settings.clone() };
        let found = change(&reloadable(rehearsing, &["ci", "nightly"])).expect("a change");
        assert_eq!(found.old_rules, found.new_rules);
        let candidates = (found.old_candidate_rules, found.new_candidate_rules);
        assert_eq!(candidates, (None, Some(wider.fingerprint())));
        assert_eq!((found.summary.candidate_rules_before, found.summary.candidate_rules_after), (0, 2));

        let mut other = Reloadable::clone(&reloadable(settings.clone(), &["ci", "portal"]));
        other.tokens.insert(Arc::from("ci"), vec![BearerTokenHash([7; 32])]);
        let found = change(&Arc::new(other)).expect("a change");
        assert_eq!(found.old_rules, found.new_rules);
        let names = |name: &str| [Arc::from(name)].into_iter().collect();
        let tokens =
            TokenChanges { added: names("portal"), removed: names("nightly"), replaced: names("ci") };
        assert_eq!(found.tokens, tokens);
        assert_eq!((found.summary.tokens_before, found.summary.tokens_after), (2, 2));

        let more_users = Settings { max_quota_users: settings.max_quota_users + 1, ..settings };
        let found = change(&reloadable(more_users, &["ci", "nightly"])).expect("a change");
        assert_eq!((found.old_rules, found.tokens), (found.new_rules, TokenChanges::default()));
    }

    #[test]
    fn differences_are_counted_by_kind() {
        let old = Settings::new(vec![rule("dns:a"), rule("dns:b"), rule("token:ci")]);
        let before = reloadable(old.clone(), &["ci"]);
        let candidates = Settings { candidate_rules: vec![rule("*")], ..old.clone() };
        assert_eq!(counts(&before, &reloadable(candidates, &["ci"])), [0, 0, 0, 0]);
        // Each for both methods.
        let more = Settings::new([old.rules.clone(), vec![rule("dns:c")]].concat());
        assert_eq!(counts(&before, &reloadable(more, &["ci"])), [2, 0, 0, 0]);
        let fewer = Settings::new(old.rules[1..].to_vec());
        assert_eq!(counts(&before, &reloadable(fewer, &["ci"])), [0, 2, 0, 0]);
        assert_eq!(counts(&before, &reloadable(old.clone(), &[])), [0, 2, 0, 0], "a token is revoked");
        let mut quicker = old.clone();
        quicker.rules[0].rate = Rate::Unlimited;
        assert_eq!(counts(&before, &reloadable(quicker, &["ci"])), [0, 0, 2, 0]);
        let dry_run = Settings { quotas: Quotas::DryRun, ..old };
        assert_eq!(counts(&before, &reloadable(dry_run, &["ci"])), [0, 0, 0, 1]);
    }

    #[test]
    fn differences_in_limits_on_tokens_are_counted() {
        let without_urls = RuleSettings { login_urls: false, ..rule("dns:a") };
        let by_issuer = RuleSettings { issued_by: Some(vec!["dns:b".to_owned()]), ..rule("dns:a") };
        let [old, without_urls, by_issuer] =
            [rule("dns:a"), without_urls, by_issuer].map(|rule| reloadable(Settings::new(vec![rule]), &[]));
        assert_eq!(counts(&old, &without_urls), [0, 1, 0, 0]);
        assert_eq!(counts(&without_urls, &old), [1, 0, 0, 0]);
        // Of a token that is not sealed, and of a sealed one of another issuer.
        assert_eq!(counts(&old, &by_issuer), [0, 2, 0, 0]);
        assert_eq!(counts(&by_issuer, &old), [2, 0, 0, 0]);
    }

    #[test]
    fn rules_that_combine_in_too_many_ways_are_not_counted() {
        // `compare`, which may take more steps, compares these rules.
        let rules = |numbers: &mut dyn Iterator<Item = usize>, burst: u32| {
            let rule = |number: usize| {
                let glob = |at: usize| format!("*{at}{number}*{number}{at}*{at}x{number}*");
                let globs: Vec<String> = (0..4).map(glob).collect();
                let globs: Vec<&str> = globs.iter().map(String::as_str).collect();
                let users = Users::listed(SubjectKind::Login, &globs);
                let burst = NonZeroU32::new(burst).expect("not zero");
                RuleSettings { burst, ..RuleSettings::new(vec![format!("jwt:*{number}*")], users) }
            };
            Settings::new(numbers.map(rule).collect())
        };
        let old = reloadable(rules(&mut (0..2), 7), &[]);
        let new = reloadable(rules(&mut (0..2).rev(), 8), &[]);
        assert_eq!(
            compare(&old, &new, &fixed_names()),
            RulesDifferences::NotCounted { not_compared: NotCompared::TooComplex }
        );
    }
}
