//! The command that explains the decision on an access test.

use std::path::Path;

use crate::{
    cli::explain_command,
    config::{AccessTest, AccessTestResult, Finding, Problem, TestOutcome, TestedRules},
};

/// Returns the problem of a failed test: the difference, and the command that explains the decision.
/// Contains the values of the test, unlike the error in the log.
pub(super) fn problem(result: &AccessTestResult, config: &Path, tested: TestedRules) -> Option<Problem> {
    let TestOutcome::Failed(failure) = &result.outcome else { return None };
    let rule = match tested {
        TestedRules::InForce => failure.to_string(),
        TestedRules::Candidates => format!("under the candidate rules: {failure}"),
    };
    Some(Problem::Explained { rule, command: command(&result.test, config, tested) })
}

/// Returns the error of a failed test, with that problem.
pub(super) fn finding(result: &AccessTestResult, config: &Path, tested: TestedRules) -> Option<Finding> {
    Some(result.test.finding(problem(result, config, tested)?))
}

fn command(test: &AccessTest, config: &Path, tested: TestedRules) -> String {
    let user = test.user.as_ref().map(|user| user.as_asked().to_string());
    let api_client = test.api_client.as_deref();
    format!(
        "ott-gateway check-config {}{} --explain {}",
        explain_command::option("--config", &config.display().to_string()),
        if tested == TestedRules::Candidates { " --candidates" } else { "" },
        explain_command::arguments(&test.caller, test.token_use(), user.as_deref(), api_client, &test.claims)
    )
}
