//! The fingerprint of the settings in force, for audit records.

use super::{Quotas, RuleSettings, Settings};
use crate::{
    base::fingerprint::{self, Fingerprint},
    caller::{ClaimRequirement, ClaimValue},
    domain::ott::Users,
};

impl Settings {
    /// Returns the fingerprint of the rules, in their order, and of the treatment of quotas: 32
    /// hexadecimal digits. It depends on their effect and names, and not on how the file is
    /// written: a key that has its default value may be absent.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        // Destructured, here and below, so that a new setting cannot be left out by mistake.
        // Candidate rules have no effect.
        let Self { rules, candidate_rules: _, quotas, max_quota_users: _ } = self;
        of_rules(rules, *quotas)
    }

    /// Returns the fingerprint that the candidate rules would have as the rules in force. `None` if
    /// there are none.
    #[must_use]
    pub fn candidate_fingerprint(&self) -> Option<String> {
        let rules = &self.candidate_rules;
        (!rules.is_empty()).then(|| of_rules(rules, self.quotas))
    }
}

fn of_rules(rules: &[RuleSettings], quotas: Quotas) -> String {
    let mut hash = Fingerprint::default();
    hash.begin_list("rules", rules.len());
    for rule in rules {
        add_rule(&mut hash, rule);
    }
    hash.add("quota_dry_run", &[u8::from(quotas == Quotas::DryRun)]);
    fingerprint::text(&hash.finish())
}

fn add_rule(hash: &mut Fingerprint, rule: &RuleSettings) {
    let RuleSettings {
        name,
        callers,
        claims,
        methods,
        api_clients,
        issued_by,
        login_urls,
        users,
        rate,
        burst,
        user_rate,
        user_burst,
        max_in_flight,
    } = rule;
    hash.add("name", name.as_deref().unwrap_or_default().as_bytes());
    add_texts(hash, "callers", &texts(callers));
    hash.begin_list("claims", claims.len());
    for claim in claims {
        add_claim(hash, claim);
    }
    match methods {
        None => hash.add("all methods", &[]),
        Some(methods) => {
            let names: Vec<&str> = methods.iter().map(|method| method.name()).collect();
            add_texts(hash, "methods", &names);
        }
    }
    match api_clients {
        None => hash.add("all API clients", &[]),
        Some(names) => add_texts(hash, "api_clients", &texts(names)),
    }
    // Not added if absent: the fingerprint of other rules is the same as before these keys existed.
    if let Some(issuers) = issued_by {
        add_texts(hash, "issued_by", &texts(issuers));
    }
    if !login_urls {
        hash.add("no login URLs", &[]);
    }
    match users {
        Users::All => hash.add("all users", &[]),
        Users::Listed(patterns) => {
            hash.begin_list("users", patterns.len());
            for pattern in patterns {
                hash.add(pattern.kind().field(), pattern.text().as_bytes());
            }
        }
    }
    hash.add("rate", rate.to_string().as_bytes());
    hash.add("burst", &burst.get().to_be_bytes());
    hash.add("user_rate", user_rate.to_string().as_bytes());
    hash.add("user_burst", &user_burst.get().to_be_bytes());
    hash.add("max_in_flight", &max_in_flight.map_or(0, std::num::NonZero::get).to_be_bytes());
}

fn add_claim(hash: &mut Fingerprint, claim: &ClaimRequirement) {
    let ClaimRequirement { path, values } = claim;
    hash.add("path", path.as_str().as_bytes());
    hash.begin_list("values", values.len());
    for value in values {
        match value {
            ClaimValue::Text(text) => hash.add("text", text.as_bytes()),
            ClaimValue::Integer(number) => hash.add("integer", &number.to_be_bytes()),
            ClaimValue::Boolean(value) => hash.add("boolean", &[u8::from(*value)]),
        }
    }
}

fn texts(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

fn add_texts(hash: &mut Fingerprint, kind: &str, texts: &[&str]) {
    hash.begin_list(kind, texts.len());
    for text in texts {
        hash.add("entry", text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, num::NonZeroU32, sync::Arc};

    use super::*;
    use crate::{access::Rate, caller::ClaimPath, domain::call::Method, domain::ott::SubjectKind};

    #[test]
    fn every_setting_of_a_rule_changes_the_fingerprint() {
        let default = || RuleSettings::new(vec!["token:a".to_owned()], Users::All);
        let two = NonZeroU32::new(2).expect("not zero");
        let claim =
            |value| ClaimRequirement { path: ClaimPath::new("groups").expect("a path"), values: vec![value] };
        let rules = [
            vec![default()],
            vec![default(), default()],
            vec![RuleSettings { name: Some(Arc::from("a")), ..default() }],
            vec![RuleSettings { callers: vec!["token:b".to_owned()], ..default() }],
            vec![RuleSettings { callers: vec!["token:a".to_owned(), "token:b".to_owned()], ..default() }],
            vec![RuleSettings { claims: vec![claim(ClaimValue::Boolean(true))], ..default() }],
            vec![RuleSettings { claims: vec![claim(ClaimValue::Integer(1))], ..default() }],
            vec![RuleSettings { claims: vec![claim(ClaimValue::Text(Arc::from("true")))], ..default() }],
            vec![RuleSettings { methods: Some(vec![Method::IssueOtt]), ..default() }],
            vec![RuleSettings { api_clients: Some(vec!["eu2".to_owned()]), ..default() }],
            vec![RuleSettings { issued_by: Some(vec!["token:b".to_owned()]), ..default() }],
            vec![RuleSettings { issued_by: Some(vec!["token:c".to_owned()]), ..default() }],
            vec![RuleSettings { login_urls: false, ..default() }],
            vec![RuleSettings { users: Users::Listed(Vec::new()), ..default() }],
            vec![RuleSettings { users: Users::listed(SubjectKind::Login, &["a"]), ..default() }],
            vec![RuleSettings { users: Users::listed(SubjectKind::UserId, &["a"]), ..default() }],
            vec![RuleSettings { rate: Rate::Unlimited, ..default() }],
            vec![RuleSettings { burst: two, ..default() }],
            vec![RuleSettings { user_rate: Rate::Unlimited, ..default() }],
            vec![RuleSettings { user_burst: two, ..default() }],
            vec![RuleSettings { max_in_flight: Some(two), ..default() }],
        ];
        let mut settings: Vec<Settings> = rules.into_iter().map(Settings::new).collect();
        settings.push(Settings { quotas: Quotas::DryRun, ..Settings::new(vec![default()]) });
        let fingerprints: BTreeSet<String> = settings.iter().map(Settings::fingerprint).collect();
        assert_eq!(fingerprints.len(), settings.len());
        let one = &settings[0];
        assert_eq!(Settings::new(vec![default()]).fingerprint(), one.fingerprint());
        let rehearsed = Settings { candidate_rules: one.rules.clone(), ..settings[1].clone() };
        assert_eq!(rehearsed.fingerprint(), settings[1].fingerprint());
        assert_eq!(rehearsed.candidate_fingerprint(), Some(one.fingerprint()), "once they are in force");
        assert_eq!(one.candidate_fingerprint(), None);
    }
}
