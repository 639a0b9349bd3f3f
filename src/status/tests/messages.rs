//! Messages: each is about one case only, and contains the invalid fields.

use std::time::Duration;

use super::{Answer, CERTAINTIES, OPERATIONS, call, call_with};
use crate::{
    access::Access,
    caller::{CallerError, Unread},
    domain::{
        call::{Call, Certainty, Exhausted, Method},
        ott::{Subject, SubjectKind},
    },
    observe::telemetry::metrics::Metrics,
    platform::error::{ErrorAnswer, ErrorBody, PlatformError, PlatformErrorCode},
    status::{Advice, Case, Failure, FailureCode, Placeholder, Reason},
};

const SPENT: &str = "The one-time token is spent; issue a new token and log in with that.";
const MAYBE_SPENT: &str = "The one-time token may be spent; issue a new token and log in with that.";
const EXPIRES_FIRST: &str =
    "The one-time token expires before a retry can succeed; wait, issue a new token and log in with that.";

/// Returns the cases of a method.
fn cases_of(method: Method) -> impl Iterator<Item = Case> {
    let cases = Case::ALL.iter().copied();
    cases.filter(move |case| case.reason().entry().answers(Some(method)).is_some())
}

/// Expands a text of the catalogue for a call with only a method.
fn filled_in(text: &str, method: Method) -> String {
    text.replace("{call}", &format!("this {} call", method.name()))
        .replace("{caller}", "this caller")
        .replace("{quota}", "see the access rules")
        .replace("{user field}", "the user")
}

#[test]
fn cases_are_grouped_in_the_order_of_the_reasons() {
    let mut reasons: Vec<Reason> = Case::ALL.iter().map(|case| case.reason()).collect();
    for reason in Reason::ALL {
        assert_eq!(Case::general(*reason).reason(), *reason);
        assert_eq!(Failure::new(*reason).reason(), *reason);
    }
    reasons.dedup();
    assert_eq!(reasons.len(), Reason::ALL.len(), "the cases of one reason are together");
}

#[test]
fn every_placeholder_is_known() {
    for text in Case::ALL.iter().flat_map(|case| [case.meaning(), case.advice().text()]) {
        let known =
            Placeholder::ALL.iter().fold(text.to_owned(), |text, one| text.replace(one.written(), ""));
        assert!(!known.contains(['{', '}']), "{text}");
    }
}

/// An "or" in a new message needs a review: it may be a clause about another case.
#[test]
fn no_message_has_a_clause_about_another_case() {
    let reviewed = [
        // The caller must not learn which one applies.
        "The one-time token is not valid: unknown, used or expired.",
        // The platform's code, which follows, shows which one applies.
        "Fix the user's or tenant's state first; `apiCode` identifies the problem.",
        // Two forms of a certificate that would be accepted.
        "Use a certificate with exactly one SPIFFE id, or without one and with exactly one DNS name.",
    ];
    for case in Case::ALL {
        for text in [case.meaning(), case.advice().text()] {
            assert!(!text.contains(" or ") || reviewed.contains(&text), "{case:?}: {text}");
            for code in ["UNAVAILABLE", "ABORTED", "UNAUTHENTICATED", "INTERNAL", "UNIMPLEMENTED"] {
                assert!(!text.contains(code), "{case:?} is about a code: {text}");
            }
        }
        let others = Case::ALL.iter().filter(|other| *other != case && other.reason() == case.reason());
        for other in others {
            let clause = other.meaning().trim_end_matches('.');
            let is_contained = case.meaning().split([',', ';', '.']).any(|part| part.trim() == clause);
            assert!(!is_contained, "{case:?} contains {other:?}");
        }
    }
}

#[test]
fn every_message_consists_of_the_texts_of_one_case() {
    for method in OPERATIONS {
        for case in cases_of(method) {
            for certainty in CERTAINTIES {
                let call = call_with(method, certainty);
                let case = case.narrowed(&call);
                let spent = match certainty {
                    _ if method == Method::IssueOtt => None,
                    Certainty::Unknown => Some(MAYBE_SPENT),
                    Certainty::Done => Some(SPENT),
                    Certainty::NotSent | Certainty::Refused => None,
                };
                let meaning = filled_in(case.meaning(), method);
                let advice = filled_in(case.advice().text(), method);
                let expected = match (case.advice(), spent) {
                    (Advice::Retry(_), Some(spent)) => format!("{meaning} {spent}"),
                    (Advice::Fix(_), Some(spent)) => format!("{meaning} {advice} {spent}"),
                    (_, _) => format!("{meaning} {advice}"),
                };
                assert_eq!(Answer::of(Failure::of(case), &call).message, expected, "{case:?}");
            }
        }
    }
}

#[test]
fn message_about_a_token_is_for_logins_only() {
    for certainty in CERTAINTIES {
        for case in cases_of(Method::IssueOtt) {
            let message = Answer::of(Failure::of(case), &call_with(Method::IssueOtt, certainty)).message;
            assert!(
                !message.contains("one-time token") && !message.contains("log in"),
                "{case:?}: {message}"
            );
        }
    }
}

#[test]
fn message_advises_a_retry_exactly_where_the_trailers_do() {
    for method in OPERATIONS {
        for case in cases_of(method) {
            for certainty in CERTAINTIES {
                for wait in [1, 60].map(Duration::from_secs) {
                    let mut failure = Failure::of(case).retry_after(wait);
                    if case == Case::IssuerKeysMissing {
                        failure = failure.with_code(FailureCode::Unavailable);
                    }
                    let answer = Answer::of(failure, &call_with(method, certainty));
                    let is_advised =
                        answer.message.contains("Retry") || answer.message.contains("then retry");
                    assert_eq!(is_advised, answer.pushback.is_none(), "{case:?} {}", answer.message);
                    let mentions = answer.message.contains("RetryInfo");
                    assert!(!mentions || answer.retry_delay().is_some(), "{case:?} {}", answer.message);
                }
            }
        }
    }
}

#[test]
fn login_whose_token_expires_first_is_not_advised_to_wait() {
    let failure = || Failure::new(Reason::PlatformRateLimited).retry_after(Duration::from_secs(30));
    let login = Answer::of(failure(), &call_with(Method::LoginWithOtt, Certainty::Refused));
    assert!(login.message.ends_with(EXPIRES_FIRST), "{}", login.message);
    let issue = Answer::of(failure(), &call_with(Method::IssueOtt, Certainty::Refused));
    assert!(issue.message.ends_with("Wait for the time in RetryInfo, then retry."), "{}", issue.message);
}

#[test]
fn message_contains_each_invalid_field_and_its_rule() {
    let failure = Failure::new(Reason::InvalidRequest)
        .violation("purpose", "must be known")
        .violation("login", "must not be empty");
    let message = Answer::of(failure, &call(Method::IssueOtt)).message;
    assert_eq!(message, "purpose: must be known; login: must not be empty. Correct the request.");
}

#[test]
fn message_keeps_as_many_fields_as_the_details_do() {
    let mut failure = Failure::new(Reason::InvalidRequest);
    for _ in 0..40 {
        failure = failure.violation("login", "must ".repeat(80));
    }
    let answer = Answer::of(failure, &call(Method::IssueOtt));
    let named = answer.details.bad_request().expect("some fields").field_violations.len();
    assert!(named > 0 && answer.message.matches("login: must").count() == named, "{}", answer.message);
}

#[test]
fn denial_contains_the_caller_and_the_method() {
    let denied = || {
        let access = Access::closed(Metrics::default());
        let policy = access.policy();
        access.mentions(&policy, &crate::caller::Caller::anonymous()).expect_err("there are no rules")
    };
    let message = |name: &str, proof: &'static str| {
        let call = call(Method::LoginWithOtt);
        call.set_caller(name.into(), proof);
        Answer::of(denied().into(), &call).message
    };
    assert_eq!(
        message("jwt:stranger", "jwt"),
        "The gateway's access rules do not allow this LoginWithOtt call to the caller \"jwt:stranger\". \
         Ask the gateway's operator for a rule that allows it."
    );
    assert_eq!(
        message("anonymous", "none"),
        "The request carries no credential, and the gateway's access rules do not allow this LoginWithOtt call \
         to the caller \"anonymous\". Send a credential of a caller that the rules allow."
    );
    let hostile = message(&format!("jwt:{{caller}}\n\u{202e}{}", "é".repeat(1000)), "jwt");
    assert!(hostile.contains("\"jwt:{caller}éé") && hostile.len() < 600, "{hostile}");
    assert!(!hostile.contains(crate::base::text::is_unprintable), "{hostile}");
}

/// Their places are counted by network and for all of them, so the name in common is of no use.
#[test]
fn overloading_callers_are_named_unless_they_are_anonymous() {
    let message = |name: &str, proof: &'static str| {
        let call = call(Method::IssueOtt);
        call.set_caller(name.into(), proof);
        Answer::of(Failure::overloaded(Exhausted::Share, "calls"), &call).message
    };
    assert_eq!(
        message("jwt:portal", "jwt"),
        "This replica has as many calls of the caller \"jwt:portal\" in progress as it accepts; the request was \
         not sent. Retry with backoff, and send fewer calls at once."
    );
    assert_eq!(
        message("anonymous", "none"),
        "This replica accepts no more calls without a credential from this network address at the moment; the \
         request was not sent. Retry with backoff, and send fewer calls at once."
    );
}

#[test]
fn long_names_leave_room_for_the_rest_of_the_status() {
    let call = call(Method::IssueOtt);
    call.set_caller("\u{10348}".repeat(500).as_str().into(), "jwt");
    call.set_api_client("\u{10348}".repeat(500).as_str().into());
    let failure = Failure::of(Case::UserQuota).quota("\u{10348}".repeat(500), "\u{10348}".repeat(500));
    let answer = Answer::of(failure, &call);
    assert_eq!(answer.reason, "CALLER_QUOTA_EXCEEDED");
    assert!(answer.message.starts_with("The quota for calls of "), "{}", answer.message);
}

#[test]
fn unknown_user_is_identified_by_its_field() {
    for (kind, field) in [(SubjectKind::Login, "login"), (SubjectKind::ExternalId, "external_id")] {
        let call = call(Method::IssueOtt);
        call.set_subject(Subject::new(kind, "canary".to_owned()).expect("valid"));
        let answer = Answer::of(Failure::new(Reason::UserNotFound), &call);
        assert_eq!(answer.message, format!("The platform has no such user. Check {field} in the request."));
    }
}

fn message_of_code(method: Method, status: u16, number: i64) -> String {
    let code = Some(PlatformErrorCode::from_number(number));
    let body = Some(ErrorBody { code, ..ErrorBody::default() });
    let error = PlatformError::Answer(ErrorAnswer { status, body, retry_after: None });
    let failure = Failure::from_platform(method, &error);
    Answer::of(failure, &call_with(method, Certainty::Refused)).message
}

#[test]
fn code_of_the_platform_selects_the_case_of_its_reason() {
    for (number, beginning) in [
        (1001, "The platform reports a conflict with another change."),
        (1004, "The platform reports a conflict with an existing object."),
        (1002, "The platform denies the gateway access to this user."),
        (1020, "The platform denies this operation to the gateway."),
        (1024, "The platform does not accept requests from the gateway's address."),
        (1033, "The platform does not accept this login name."),
    ] {
        let message = message_of_code(Method::IssueOtt, 400, number);
        assert!(message.starts_with(beginning), "{number}: {message}");
    }
    let message = message_of_code(Method::LoginWithOtt, 403, 1033);
    assert!(message.starts_with("The platform does not accept the login name of the account."), "{message}");
    let message = message_of_code(Method::IssueOtt, 401, 4711);
    assert!(message.starts_with("The platform refuses each access token of the gateway."), "{message}");
}

/// The cause is only logged: a message for each cause would help attackers.
#[test]
fn invalid_credentials_get_one_message() {
    use crate::caller::JwtError::{
        Algorithm, Audience, Claims, DuplicateClaim, Expired, Issuer, KeysTooOld, Lifetime, Malformed,
        NoKeysYet, NotYetValid, Signature, Subject, TooManyClaims, Type, UnknownKey, UnreadableClaim,
    };

    let faults = [
        Malformed,
        Algorithm,
        UnknownKey,
        Signature,
        Expired,
        NotYetValid,
        Type,
        Lifetime,
        Issuer,
        Audience,
        Claims,
        Subject,
        DuplicateClaim,
        TooManyClaims,
        UnreadableClaim,
        NoKeysYet,
        KeysTooOld,
    ];

    let message = |error: CallerError| {
        let answer = Answer::of(error.into(), &call(Method::IssueOtt));
        assert_eq!(answer.reason, "CALLER_UNAUTHENTICATED");
        (answer.message, answer.code)
    };
    let expected = message(CallerError::InvalidCredential).0;
    for fault in faults {
        let error = CallerError::InvalidJwt(fault);
        let (text, code) = message(error);
        if error.is_temporary() {
            let missing = "The JWT issuer's keys are not available yet. Retry with backoff.";
            assert_eq!((code, &*text), (tonic::Code::Unavailable, missing));
        } else {
            assert_eq!((code, &text), (tonic::Code::Unauthenticated, &expected), "{fault:?}");
        }
    }
    let texts: Vec<String> = [
        CallerError::InvalidCredential,
        CallerError::DuplicateIdentity,
        CallerError::Unread(Unread::Authorization),
        CallerError::Unread(Unread::Forwarded),
    ]
    .map(|error| message(error).0)
    .to_vec();
    for (index, text) in texts.iter().enumerate() {
        assert!(!texts[..index].contains(text), "{text}");
    }
}

#[test]
fn message_without_a_method_is_complete() {
    let call =
        Call::new(crate::base::clock::now(), crate::domain::call::Deadline::after(Duration::from_secs(1)));
    for case in Case::ALL {
        let message = Answer::of(Failure::of(*case), &call).message;
        assert!(!message.contains(['{', '}']) && message.ends_with('.'), "{message}");
    }
}
