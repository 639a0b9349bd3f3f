//! The rules that answer a question: those in force, the candidate rules, or both.

use std::iter;

use crate::{
    access::{RuleSettings, Rules},
    cli::{
        failure::{Failure, chain},
        output::{Output, Style},
    },
    config::{Config, TestedRules},
};

/// The rules that answer a question.
pub(super) struct RuleSets {
    /// The rules in force, or the candidate rules if only these are asked.
    pub(super) first: Rules,
    /// The candidate rules, if they are asked too.
    pub(super) second: Option<Rules>,
    asked: TestedRules,
}

impl RuleSets {
    pub(super) fn new(config: &Config, asked: TestedRules) -> Result<Self, Failure> {
        let rules = |settings: &[RuleSettings]| {
            Rules::try_new(settings.to_vec()).map_err(|error| Failure::Failed(chain(&error)))
        };
        let (in_force, candidates) = (&config.access.rules, &config.access.candidate_rules);
        let (first, second) = match asked {
            TestedRules::Candidates => (candidates, None),
            TestedRules::InForce => (in_force, Some(candidates).filter(|rules| !rules.is_empty())),
        };
        Ok(Self { first: rules(first)?, second: second.map(|second| rules(second)).transpose()?, asked })
    }

    /// Prints the answer of each set of rules.
    pub(super) fn print_each(&self, output: &mut Output, print: impl Fn(&Rules, &mut Output)) {
        const CANDIDATES: &str = "candidate rules:";
        let title = match self.asked {
            TestedRules::Candidates => Some(CANDIDATES),
            TestedRules::InForce => self.second.as_ref().map(|_| "rules in force:"),
        };
        let second = self.second.iter().map(|rules| (Some(CANDIDATES), rules));
        for (title, rules) in iter::once((title, &self.first)).chain(second) {
            if let Some(title) = title {
                let title = output.paint(Style::Name, title);
                output.line(title);
            }
            print(rules, output);
        }
    }
}
