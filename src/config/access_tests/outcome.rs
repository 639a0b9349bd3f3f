//! Evaluates the tests of access rules.
//!
//! Errors contain neither the user nor the claims of a test, because they are logged.
//! `check-config` has the tests themselves, and prints a command that explains the decision.

use std::{collections::BTreeSet, fmt, sync::Arc};

use super::{
    super::{
        finding::{Errors, Finding, Place, Problem},
        section::Section,
    },
    AccessTest, Expected,
};
use crate::{
    access::{Answer, Mismatch, Question, RuleId, RuleSettings, Rules, Verdict},
    caller::Principal,
};

/// Maximum number of rules without a test that have a warning of their own.
const MAX_UNTESTED_SHOWN: usize = 10;

/// A test and its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessTestResult {
    /// The test.
    pub test: AccessTest,
    /// Its outcome.
    pub outcome: TestOutcome,
}

/// The outcome of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TestOutcome {
    /// The rules decide as expected.
    Passed {
        /// The rule that decides; `None` if the call is denied.
        by: Option<RuleId>,
    },
    /// The rules decide otherwise.
    Failed(TestFailure),
    /// The rules, or the default API client, are not known because of other errors.
    NotRun,
}

/// The difference between the expected and the actual decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TestFailure {
    /// A call that must be denied is allowed.
    Allowed {
        /// The rule that decides.
        by: RuleId,
    },
    /// A call that must be allowed is denied.
    Denied {
        /// The expected rule, or else the one that comes closest, and its mismatch.
        closest: Option<(RuleId, Mismatch)>,
    },
    /// Another rule than the expected one decides.
    OtherRule {
        /// The expected rule.
        expected: RuleId,
        /// The rule that decides.
        by: RuleId,
        /// The reason that the expected rule does not apply; `None` if it only comes later.
        mismatch: Option<Mismatch>,
    },
    /// None of the tested rules has the expected name.
    NoSuchRule {
        /// The name.
        name: Arc<str>,
    },
}

impl fmt::Display for TestFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allowed { by } => write!(f, "expects deny, but rule {by} allows it"),
            Self::Denied { closest } => {
                f.write_str("expects allow, but no rule allows it")?;
                match closest {
                    Some((rule, mismatch)) => write!(f, ": rule {rule} {mismatch}"),
                    None => Ok(()),
                }
            }
            Self::OtherRule { expected, by, mismatch: Some(mismatch) } => {
                write!(f, "expects rule {expected}, but rule {by} decides: rule {expected} {mismatch}")
            }
            Self::OtherRule { expected, by, mismatch: None } => {
                write!(f, "expects rule {expected}, but rule {by} decides, because it comes first")
            }
            Self::NoSuchRule { name } => write!(f, "expects rule \"{name}\", but no rule has this name"),
        }
    }
}

impl AccessTestResult {
    /// Returns the error of a failed test, without its values.
    #[must_use]
    pub fn finding(&self) -> Option<Finding> {
        let TestOutcome::Failed(failure) = &self.outcome else { return None };
        let hint = "`check-config` prints a command that explains the decision";
        Some(self.test.finding(Problem::rule(format!("{failure}; {hint}"))))
    }
}

impl AccessTest {
    /// Returns an error of this test.
    #[must_use]
    pub fn finding(&self, problem: Problem) -> Finding {
        let key = format!("access.tests[{}]", self.number);
        Finding { place: self.place.clone(), key, problem }
    }

    fn evaluate(&self, rules: &Rules) -> TestOutcome {
        let Some(api_client) = &self.api_client else { return TestOutcome::NotRun };
        let answer = rules.answer(Question {
            caller: Principal { name: &self.caller, claims: &self.claims },
            token_use: self.token_use(),
            api_client,
            user: self.user.as_ref(),
        });
        let by = answer.deciding();
        let failure = match (&self.expected, by) {
            (Expected::Deny, None) => return TestOutcome::Passed { by: None },
            (Expected::Deny, Some(by)) => TestFailure::Allowed { by },
            (Expected::Allow { rule: None }, None) => TestFailure::Denied { closest: answer.closest() },
            (Expected::Allow { rule: None }, by) => return TestOutcome::Passed { by },
            (Expected::Allow { rule: Some(name) }, Some(by)) if by.name.as_ref() == Some(name) => {
                return TestOutcome::Passed { by: Some(by) };
            }
            (Expected::Allow { rule: Some(name) }, by) => match (rule_of_name(&answer, name), by) {
                (None, _) => TestFailure::NoSuchRule { name: Arc::clone(name) },
                (Some((expected, mismatch)), Some(by)) => TestFailure::OtherRule { expected, by, mismatch },
                (Some((expected, mismatch)), None) => {
                    TestFailure::Denied { closest: mismatch.map(|mismatch| (expected, mismatch)) }
                }
            },
        };
        TestOutcome::Failed(failure)
    }
}

/// Returns the rule of this name, and the reason that it does not apply.
fn rule_of_name(answer: &Answer<'_>, name: &str) -> Option<(RuleId, Option<Mismatch>)> {
    let (rule, verdict) = answer.verdicts().find(|(rule, _)| rule.id.name.as_deref() == Some(name))?;
    let mismatch = match verdict {
        Verdict::Mismatch(mismatch) => Some(mismatch),
        Verdict::Decides | Verdict::DecidedEarlier => None,
    };
    Some((rule.id, mismatch))
}

/// Evaluates tests; `None` if the rules are not valid.
pub(super) fn evaluate(tests: Vec<AccessTest>, rules: Option<&Vec<RuleSettings>>) -> Vec<AccessTestResult> {
    // Without tests, the index is not needed here.
    let rules = rules.filter(|_| !tests.is_empty());
    let rules = rules.and_then(|rules| Rules::try_new(rules.clone()).ok());
    let outcome =
        |test: &AccessTest| rules.as_ref().map_or(TestOutcome::NotRun, |rules| test.evaluate(rules));
    tests.into_iter().map(|test| AccessTestResult { outcome: outcome(&test), test }).collect()
}

/// Adds the errors of failed tests to a result.
pub(in super::super) fn with_failures<T>(
    result: Result<T, Errors>,
    tests: &[AccessTestResult],
) -> Result<T, Errors> {
    Errors::unless_empty(result, tests.iter().filter_map(AccessTestResult::finding))
}

/// Warns about rules that decide no test, if there are tests and all of them ran.
pub(super) fn warn_of_untested(
    section: &Section<'_>,
    list: &str,
    results: &[AccessTestResult],
    places: &[Place],
) {
    let mut deciding = BTreeSet::new();
    for result in results {
        let by = match &result.outcome {
            TestOutcome::NotRun => return,
            TestOutcome::Passed { by } => by.as_ref(),
            TestOutcome::Failed(TestFailure::Allowed { by } | TestFailure::OtherRule { by, .. }) => Some(by),
            TestOutcome::Failed(TestFailure::Denied { .. } | TestFailure::NoSuchRule { .. }) => None,
        };
        deciding.extend(by.map(|rule| rule.number));
    }
    if results.is_empty() {
        return;
    }
    let untested = (1..).zip(places).filter(|(number, _)| !deciding.contains(number));
    let untested: Vec<_> = untested.collect();
    let (shown, rest) = untested.split_at(untested.len().min(MAX_UNTESTED_SHOWN));
    for (number, place) in shown {
        let key = format!("{list}[{number}]");
        section.warning_of((*place).clone(), &key, "decides none of the [[access.tests]]; add a test for it");
    }
    if !rest.is_empty() {
        let rule = format!("{} more rules decide none of the [[access.tests]]", rest.len());
        section.warning(list, rule);
    }
}
