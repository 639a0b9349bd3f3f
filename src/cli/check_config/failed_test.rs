//! The command that explains the decision on an access test.

use std::path::Path;

use crate::{
    cli::explain_command,
    config::{AccessTest, AccessTestResult, Finding, TestOutcome},
};

/// Returns the text of a failed test: the difference, and the command that explains the decision.
/// Contains the values of the test, unlike the error in the log.
pub(super) fn text(result: &AccessTestResult, config: &Path) -> Option<String> {
    let TestOutcome::Failed(failure) = &result.outcome else { return None };
    Some(format!("{failure}; explain it with: {}", command(&result.test, config)))
}

/// Returns the error of a failed test, with that text.
pub(super) fn finding(result: &AccessTestResult, config: &Path) -> Option<Finding> {
    Some(result.test.finding(text(result, config)?))
}

fn command(test: &AccessTest, config: &Path) -> String {
    let user = test.user.as_ref().map(|user| user.as_asked().to_string());
    let api_client = test.api_client.as_deref();
    format!(
        "ott-gateway check-config --config {} --explain {}",
        explain_command::quoted(&config.display().to_string()),
        explain_command::arguments(&test.caller, test.method, user.as_deref(), api_client, &test.claims)
    )
}
