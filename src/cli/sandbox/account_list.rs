//! `--list-accounts`: the accounts of a sandbox as a table.

use crate::{base::text::Printable, cli::output::Output, sandbox::Accounts};

/// Prints a line for each account: its names and the result of `IssueOtt`.
pub(super) fn print(accounts: &Accounts, output: &mut Output) {
    let mut rows = vec![["LOGIN", "USER ID", "EXTERNAL ID", "TENANT", "ISSUEOTT"].map(str::to_owned)];
    for account in accounts.list() {
        let issue = account
            .refused
            .map_or_else(|| "issues a token".to_owned(), |(reason, why)| format!("{reason}: {why}"));
        let external_id = account.external_id.unwrap_or_else(|| "-".to_owned());
        let texts = [account.login, account.user_id, external_id, account.tenant, issue];
        rows.push(texts.map(|text| Printable(text).to_string()));
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(text, width)| format!("{text:<width$}"));
        output.line(cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}
