use std::num::NonZeroU32;

use proptest::prelude::*;
use wildmatch::WildMatch;

use super::*;
use crate::{
    access::{Question, Rules, TokenUse},
    caller::{ClaimPath, ClaimRequirement, ClaimValue, Claims, Principal},
    domain::{
        call::Method,
        ott::{Subject, SubjectKind},
    },
};

mod brute_force;
mod large;
mod readable;
mod token_uses;
mod warnings;

/// A configuration, owned.
#[derive(Clone, Debug)]
struct Config {
    access: Settings,
    tokens: Vec<&'static str>,
    jwt_issuers: Option<Vec<&'static str>>,
    api_clients: Vec<&'static str>,
    has_token_binding: bool,
}

impl Config {
    fn new(rules: Vec<RuleSettings>) -> Self {
        Self {
            access: Settings::new(rules),
            tokens: vec!["a", "b"],
            jwt_issuers: None,
            api_clients: vec!["eu", "us"],
            has_token_binding: false,
        }
    }

    fn side(&self) -> Side<'_> {
        Side {
            access: &self.access,
            tokens: &self.tokens,
            jwt_issuers: self.jwt_issuers.as_deref(),
            api_clients: &self.api_clients,
            default_api_client: self.api_clients.first().copied(),
            has_token_binding: self.has_token_binding,
        }
    }
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// Returns users from patterns with their kinds; `all` is all users.
fn users(patterns: &[&str]) -> Users {
    if patterns == ["all"] {
        return Users::All;
    }
    Users::Listed(patterns.iter().map(|text| pattern(text)).collect())
}

fn pattern(text: &str) -> SubjectPattern {
    let (kind, glob) = kind_and_name(text);
    SubjectPattern::new(kind, glob).expect("a pattern")
}

fn subject(text: &str) -> Subject {
    let (kind, name) = kind_and_name(text);
    Subject::new(kind, name.to_owned()).expect("a user")
}

fn kind_and_name(text: &str) -> (SubjectKind, &str) {
    let (kind, name) = text.split_once(':').expect("a kind");
    let kinds = [SubjectKind::Login, SubjectKind::ExternalId, SubjectKind::UserId];
    (kinds.into_iter().find(|other| other.field() == kind).expect("a kind of users"), name)
}

fn rule(callers: &[&str], patterns: &[&str]) -> RuleSettings {
    RuleSettings::new(texts(callers), users(patterns))
}

fn number(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).expect("at least one")
}

fn requirement(path: &str, values: &[&str]) -> ClaimRequirement {
    let values = values.iter().map(|value| ClaimValue::Text((*value).into())).collect();
    ClaimRequirement { path: ClaimPath::new(path).expect("a path"), values }
}

#[test]
fn callers_of_unknown_issuers_are_not_compared() {
    let config = |issuers: &[&'static str], callers: &[&str]| Config {
        jwt_issuers: Some(issuers.to_vec()),
        ..Config::new(vec![RuleSettings::new(texts(callers), Users::All)])
    };
    let opened = |old: &Config, new: &Config| -> Vec<String> {
        let compared = compare(old.side(), new.side()).unwrap();
        compared.opened.iter().map(|opening| opening.example.caller.clone()).collect()
    };
    let old = config(&["k8s"], &["jwt:k8s:*"]);
    assert_eq!(opened(&old, &config(&["k8s"], &["jwt:*"])), [""; 0]);
    let covered = covered_rules(
        Config {
            access: Settings::new(
                ["jwt:k8s:*", "jwt:*"].map(|entry| RuleSettings::new(texts(&[entry]), Users::All)).to_vec(),
            ),
            ..config(&["k8s"], &[])
        }
        .side(),
    );
    assert_eq!(covered.unwrap()[0].rule, 2);
    // An issuer that only the new file has.
    let with_another = config(&["k8s", "ci"], &["jwt:*"]);
    assert!(opened(&old, &with_another).iter().all(|caller| caller.starts_with("jwt:ci:")));
    assert!(!opened(&old, &with_another).is_empty());
    // Other callers of the same entry are still compared.
    let all = config(&["k8s"], &["*"]);
    assert!(opened(&old, &all).iter().all(|caller| !caller.starts_with("jwt:")));
    assert!(!opened(&old, &all).is_empty());
    assert_eq!(opened(&all, &all), [""; 0]);
}
