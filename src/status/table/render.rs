//! Renders `docs/errors.md` from the catalogue.

use std::fmt::Write as _;

use super::{Answers, Retry};
use crate::{
    domain::call::Method,
    platform::error::PlatformErrorCode,
    status::{Case, FailureCode, Reason, platform},
};

const HEAD: &str = "\
# Errors

<!-- Generated from src/status/table.rs and src/status/case.rs by `cargo test --lib status::`; edit there. -->

Every error of the gateway has a gRPC code, a [message](#messages) for people, and `google.rpc.Status` details
(`grpc-status-details-bin`). Decide by `ErrorInfo.reason`, not by the message. If the reason is unknown, decide by the
gRPC code.

- `google.rpc.ErrorInfo`: `domain` is `ott-gateway`, `reason` is one of the table below (the values of
  `ott.v1.ErrorReason`), and `metadata` contains these keys, where they apply:
  `operation` (`IssueOtt`, `LoginWithOtt`), `outcome` (below), `attempts` (number of attempts at the platform),
  `apiClient`, and `httpStatus`, `apiCode`, `apiDomain` and `apiMessage` of the platform's last response. A text of the
  platform is omitted if it contains a part of a secret of the call (eight or more characters of a token, the client secret or a
  cookie, in any usual encoding).
  `OTT_REJECTED` has no `attempts`, `httpStatus`, `apiCode`, `apiDomain` and `apiMessage`, and its `outcome` is always
  `refused`, so that unknown, used and expired tokens get the same status, and so do tokens that the gateway refuses itself
  ([sealed tokens](audit.md#sealed-tokens)).
- `google.rpc.RequestInfo`: the id to quote to the gateway's operator.
- `google.rpc.RetryInfo`: the delay before a retry, if a retry is advised and the delay is known.
- `google.rpc.QuotaFailure` with `CALLER_QUOTA_EXCEEDED`: the exceeded quota, with its rate and burst.
- `google.rpc.BadRequest` with `INVALID_REQUEST`: the invalid fields, each with its rule.

`outcome` reports what the platform did:

| outcome | meaning |
|---|---|
| `not_sent` | The request never left the gateway: nothing happened. |
| `refused` | The platform definitely did nothing: it answered with a 4xx other than 408, 425 and 499. At a login, the response must also contain the platform's error object: a request that a proxy refuses may have reached the platform. |
| `unknown` | The request may have been sent, and there was no usable response: a timeout, a reset, a 5xx, 3xx, 408, 425 or 499. |
| `done` | The platform did it, but the result could not be delivered. |

The gateway returns UNAVAILABLE only while a retry is safe, including for logins. Such a status has an `ErrorInfo` with
the domain `ott-gateway`. UNAVAILABLE without it comes from the client library or a proxy, for example because the connection
was lost: the gateway may have received the request, so do not send a `LoginWithOtt` again with the same token. (Repeating
`IssueOtt` is always safe.) The same applies to any other code without this `ErrorInfo`. [clients.md](clients.md) shows the check.

A status that must not be retried carries `grpc-retry-pushback-ms: -1`, which stops gRPC clients with a retry policy. If the token
of a login is or may be spent, it also carries `x-envoy-ratelimited: true`, which stops Envoy. RetryInfo is omitted for
logins when the wait is 30 seconds or more: the token would have expired.

While the platform's login endpoint is failing, one login per second is sent as a probe; all others fail with
UNAVAILABLE, and their tokens stay valid. A login with less than 400 ms left of its deadline fails with
DEADLINE_EXCEEDED, `outcome` `not_sent`, and its token stays valid.

A call whose message has not arrived 1 s after its headers (`body_timeout`) fails with DEADLINE_EXCEEDED,
`outcome` `not_sent`, even if its deadline is later. Retrying it is safe. If this repeats, look for a proxy that
buffers requests, or a network that loses packets.

Not in this table: HTTP/2 errors (too many streams, oversized headers), which cannot carry details, and the errors of
the health and reflection services.

## Reasons

| reason | IssueOtt | LoginWithOtt | meaning | what to do | safe to retry? |
|---|---|---|---|---|---|
";

const MESSAGES: &str = "
## Messages

Messages are for people and may change; programs decide by the reason. Each message is about one case only.

- Invalid fields and their rules replace the first sentence:
  `target_uri: must be on the data center or on one of the API client's target_origins. Correct the request.`
- `{call}` is `this IssueOtt call`; `{caller}` is `the caller \"NAME\"`, with the authenticated name of the caller (at most 256
  bytes); `{quota}` is a rate and a burst, such as `30/min, burst 10`; `{user field}` is the field that names the
  user, such as \"the field `login`\". Messages contain no other data of a request.
- If the token of a login is or may be spent, the message reports that and asks for a new token instead of a retry. The
  same applies if the token expires before the retry.
- If the platform's response has a code [listed below](#the-platforms-codes), the message ends with it and its meaning.

| reason | message |
|---|---|
";

const CODES: &str = "
## The platform's codes

`apiCode` decides the reason of 4xx responses as follows. At login, a response with the HTTP status 400, 401, 404 or
410 is `OTT_REJECTED`, unless the code is about the account. For codes that are not listed, the HTTP status decides.

| apiCode | meaning | IssueOtt | LoginWithOtt (400, 401, 404, 410) | LoginWithOtt (any other 4xx) |
|---|---|---|---|---|
";

/// Returns the page for users: every reason, and every code of the platform.
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
            decision(platform::decided_by_code(Method::IssueOtt, 400, *code)),
            decision(platform::decided_by_code(Method::LoginWithOtt, 400, *code)),
            decision(platform::decided_by_code(Method::LoginWithOtt, 403, *code)),
        ];
        line(&mut page, &row);
    }
    page
}

/// Returns the comment of the reason in the contract.
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
