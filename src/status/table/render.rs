//! `docs/errors.md`, written from the catalogue.

use std::fmt::Write as _;

use super::{Answers, Retry};
use crate::{
    call::Operation,
    platform::error::PlatformErrorCode,
    status::{Case, FailureCode, Reason, platform},
};

const HEAD: &str = "\
# Errors

<!-- Written from src/status/table.rs and src/status/case.rs by `cargo test --lib status::`; edit there. -->

Every answer of the gateway that is not OK has a gRPC code, a [message](#messages) for people, and `google.rpc.Status` details
(`grpc-status-details-bin`). Decide by `ErrorInfo.reason`, not by the message. A reason that you do not know
yet: decide by the gRPC code.

- `google.rpc.ErrorInfo`: `domain` is `ott-gateway`, `reason` one of the table below (the values of
  `ott.v1.ErrorReason`), and `metadata` what is known, each key only where it applies:
  `operation` (`IssueOtt`, `LoginWithOtt`), `outcome` (below), `attempts` (how many times the platform was asked),
  `apiClient`, and of the platform's last answer `httpStatus`, `apiCode`, `apiDomain`, `apiMessage`. A text of the
  platform that contains a part of a secret of the call (eight or more characters of a token, the client secret or a
  cookie, in any usual encoding) is left out.
  `OTT_REJECTED` has none of `attempts`, `httpStatus`, `apiCode`, `apiDomain` and `apiMessage`: tokens that are
  unknown, used or expired get the same answer.
- `google.rpc.RequestInfo`: the id to quote to the gateway's operator.
- `google.rpc.RetryInfo`: how long to wait before a retry, where a retry is worth it and the wait is known.
- `google.rpc.QuotaFailure` with `CALLER_QUOTA_EXCEEDED`: which quota is used up, and its rate and burst.
- `google.rpc.BadRequest` with `INVALID_REQUEST`: the fields that are not valid, each with its rule.

`outcome` reports what the platform did:

| outcome | meaning |
|---|---|
| `not_sent` | The request never left the gateway: nothing happened. |
| `refused` | The platform definitely did nothing: it answered with a 4xx other than 408, 425 and 499. At a login, the answer also has to contain the platform's own error object: what a proxy refuses may have reached the platform. |
| `unknown` | The request may have been sent, and no usable response came: a timeout, a reset, a 5xx, 3xx, 408, 425 or 499. |
| `done` | The platform did it, and the response could not be delivered. |

The gateway answers UNAVAILABLE only while a retry is safe, for logins too. This holds for answers *with* an `ErrorInfo` of
the domain `ott-gateway`. UNAVAILABLE without one was made by the client library or a proxy, for example because the connection
was lost: the gateway may have received the request, so a `LoginWithOtt` must not be sent again with the same token. (A repeated
`IssueOtt` is always safe.) The same holds for any other code without that `ErrorInfo`. [clients.md](clients.md) shows the check.

What must not be retried carries `grpc-retry-pushback-ms: -1`, which gRPC clients with a retry policy obey; a login whose token is or may be spent
also carries `x-envoy-ratelimited: true`, which Envoy obeys. RetryInfo is omitted for
logins when the wait is 30 seconds or more: the token would have expired.

While the platform's login endpoint is failing, one login a second is sent to find out whether it works again; all
others are answered with UNAVAILABLE and keep their tokens. A login with less than 400 ms left of its deadline is
answered with DEADLINE_EXCEEDED, `outcome` `not_sent`, and keeps its token.

A call whose message has not arrived 1 s after its headers (`body_timeout`) is answered with DEADLINE_EXCEEDED,
`outcome` `not_sent`, even if its deadline is later. Retrying it is safe. If this repeats, look for a proxy that
buffers requests, or a network that loses packets.

Outside this table: what HTTP/2 itself refuses (too many streams, oversized headers) cannot carry details, and the
health and reflection services keep their own errors.

## Reasons

| reason | IssueOtt | LoginWithOtt | meaning | what to do | safe to retry? |
|---|---|---|---|---|---|
";

const MESSAGES: &str = "
## Messages

A message is for people: it may change, and programs decide by the reason. Each is about one case only.

- If fields are not valid, the message begins with each of them and its rule, in place of the first sentence:
  `target_uri: must be on the data center or on one of the API client's target_origins. Correct the request.`
- `{call}` is `this IssueOtt call`; `{caller}` is `the caller \"NAME\"`, with the name that the caller has proven (at most 256
  bytes); `{quota}` is a rate and a burst, such as `30/min, burst 10`; `{user field}` is the field that names the user. Nothing
  else of a request is in a message.
- A login whose token is spent, or may be, is not advised to retry: its message says that and asks for a new token. If the
  wait before a retry is longer than the token lives, it says that instead.
- If the platform's response has a code that is [listed below](#the-platforms-codes), the message ends with it and its meaning.

| reason | message |
|---|---|
";

const CODES: &str = "
## The platform's codes

`apiCode`, where the platform gave one, decides for its 4xx answers as follows. At login, an answer with the HTTP
status 400, 401, 404 or 410 is `OTT_REJECTED`, unless the code is about the account. A code that is not listed
decides nothing: the HTTP status does.

| apiCode | meaning | IssueOtt | LoginWithOtt (400, 401, 404, 410) | LoginWithOtt (any other 4xx) |
|---|---|---|---|---|
";

/// The page for users: every reason, and every code of the platform.
#[must_use]
pub fn render() -> String {
    let mut page = HEAD.to_owned();
    for reason in Reason::ALL {
        let entry = reason.entry();
        let row = [
            format!("`{}`", reason.as_str()),
            codes(entry.issue),
            codes(entry.login),
            entry.meaning.to_owned(),
            entry.action.to_owned(),
            retry(entry.issue, entry.login),
        ];
        line(&mut page, &row);
    }
    page.push_str(MESSAGES);
    for reason in Reason::ALL {
        for case in Case::ALL.iter().filter(|case| case.reason() == *reason) {
            let message = format!("{} {}", case.meaning(), case.advice().text());
            line(&mut page, &[format!("`{}`", reason.as_str()), message]);
        }
    }
    page.push_str(CODES);
    for code in PlatformErrorCode::DOCUMENTED {
        let row = [
            code.number().to_string(),
            code.meaning().unwrap_or_default().to_owned(),
            decision(platform::decided_by_code(Operation::IssueOtt, 400, *code)),
            decision(platform::decided_by_code(Operation::LoginWithOtt, 400, *code)),
            decision(platform::decided_by_code(Operation::LoginWithOtt, 403, *code)),
        ];
        line(&mut page, &row);
    }
    page
}

/// The comment of the reason in the contract, which other languages read.
#[cfg(test)]
pub(crate) fn comment(reason: Reason) -> String {
    let entry = reason.entry();
    let mut codes: Vec<&str> = Vec::new();
    for code in [entry.issue, entry.login].into_iter().flatten().flat_map(|answers| answers.codes) {
        if !codes.contains(&code.name()) {
            codes.push(code.name());
        }
    }
    let retry = retry(entry.issue, entry.login).replace('`', "\"");
    format!("{}. {} {} Safe to retry? {retry}.", codes.join(" or "), entry.meaning, entry.action)
}

fn line(page: &mut String, cells: &[String]) {
    // Writing to a string cannot fail.
    let _ = writeln!(page, "| {} |", cells.join(" | "));
}

fn codes(answers: Option<Answers>) -> String {
    answers.map_or_else(
        || "–".to_owned(),
        |answers| answers.codes.iter().map(|code| code.name()).collect::<Vec<_>>().join(", "),
    )
}

fn decision(decided: Option<(Reason, FailureCode)>) -> String {
    let (reason, code) = decided.unwrap_or((Reason::OttRejected, Reason::OttRejected.code()));
    format!("{} `{}`", code.name(), reason.as_str())
}

fn retry(issue: Option<Answers>, login: Option<Answers>) -> String {
    match (issue.map(|answers| answers.retry), login.map(|answers| answers.retry)) {
        (Some(issue), Some(login)) if issue != login => {
            format!("IssueOtt: {}; LoginWithOtt: {}", word(issue), word(login))
        }
        (Some(retry), _) | (None, Some(retry)) => word(retry).to_owned(),
        (None, None) => String::new(),
    }
}

const fn word(retry: Retry) -> &'static str {
    match retry {
        Retry::WithBackoff => "yes, with backoff",
        Retry::IfUnspent => "only if `outcome` is `not_sent` or `refused`",
        Retry::IfUnavailable => "only UNAVAILABLE, with backoff",
        Retry::Useless => "harmless, but it would fail again",
        Retry::Never => "no, issue a new token",
    }
}
