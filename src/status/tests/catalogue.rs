//! The catalogue against the contract, the documentation and itself.

use std::{fs, path::Path, time::Duration};

use prost_reflect::DescriptorPool;
use tonic::Code;

use super::{Answer, CERTAINTIES, OPERATIONS, call_with};
use crate::{
    domain::call::{Certainty, Method},
    proto::FILE_DESCRIPTOR_SET,
    status::{
        Case, Failure, Reason,
        table::{Retry, comment, render},
    },
};

#[test]
fn reasons_are_exactly_those_of_the_contract() {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the descriptor set is whole");
    let contract = pool.get_enum_by_name("ott.v1.ErrorReason").expect("the contract has it");
    let mut values: Vec<(i32, String)> =
        contract.values().map(|value| (value.number(), value.name().to_owned())).collect();
    values.sort();
    assert_eq!(values.remove(0), (0, "ERROR_REASON_UNSPECIFIED".to_owned()));
    let reasons: Vec<(i32, String)> =
        (1..).zip(Reason::ALL).map(|(number, reason)| (number, reason.as_str().to_owned())).collect();
    assert_eq!(values, reasons);
}

/// Other languages read the contract, not this code.
#[test]
fn comments_of_the_contract_match_the_catalogue() {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the descriptor set is whole");
    let contract = pool.get_enum_by_name("ott.v1.ErrorReason").expect("the contract has it");
    let file = contract.parent_file();
    let info = file.file_descriptor_proto().source_code_info.clone().expect("comments are kept");
    for reason in Reason::ALL {
        let value = contract.get_value_by_name(reason.as_str()).expect("it is in the contract");
        let location =
            info.location.iter().find(|location| location.path == value.path()).expect("it has a location");
        let words: Vec<&str> = location.leading_comments().split_whitespace().collect();
        assert_eq!(words.join(" "), comment(*reason), "the comment of {}", reason.as_str());
    }
}

/// Rewrites a stale page, which then has to be committed.
#[test]
fn the_page_for_users_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/errors.md");
    let fresh = render();
    if fs::read_to_string(&path).is_ok_and(|page| page == fresh) {
        return;
    }
    fs::create_dir_all(path.parent().expect("it is in a folder")).expect("the folder can be made");
    fs::write(&path, fresh).expect("the page can be written");
    panic!("docs/errors.md was stale; this test has rewritten it: review and commit it");
}

#[test]
fn texts_are_sentences_in_ascii() {
    let entries = Reason::ALL.iter().map(|reason| reason.entry());
    let entries = entries.flat_map(|entry| [entry.meaning, entry.action]);
    let cases = Case::ALL.iter().flat_map(|case| [case.meaning(), case.advice().text()]);
    for text in entries.chain(cases) {
        assert!(text.is_ascii() && text.ends_with('.') && !text.contains('|'), "{text}");
    }
}

#[test]
fn every_reason_has_only_its_documented_codes() {
    for reason in Reason::ALL {
        let entry = reason.entry();
        assert!(entry.issue.is_some() || entry.login.is_some(), "{reason:?}");
        for method in OPERATIONS {
            let Some(answers) = entry.answers(Some(method)) else { continue };
            assert!(answers.codes.contains(&reason.code()), "{reason:?}");
            for outcome in CERTAINTIES {
                let code = Failure::new(*reason).code(&call_with(method, outcome));
                // A replica that is draining, overloaded or disconnected has not sent anything.
                if answers.retry == Retry::WithBackoff
                    && method == Method::LoginWithOtt
                    && matches!(outcome, Certainty::Unknown | Certainty::Done)
                {
                    continue;
                }
                assert!(answers.codes.contains(&code), "{reason:?} {method:?} {outcome:?}: {code:?}");
            }
        }
    }
}

#[test]
fn a_login_whose_token_may_be_spent_is_never_retried() {
    for reason in Reason::ALL {
        for outcome in [Certainty::Unknown, Certainty::Done] {
            let answer = Answer::of(Failure::new(*reason), &call_with(Method::LoginWithOtt, outcome));
            assert!(!matches!(answer.code, Code::Unavailable | Code::Cancelled | Code::Ok), "{reason:?}");
            assert_eq!(answer.pushback.as_deref(), Some("-1"), "{reason:?}");
            assert!(answer.rate_limited, "{reason:?}");
        }
    }
}

/// Checks the sentence of the contract and the same rule as code.
#[test]
fn login_is_retried_exactly_where_the_contract_allows_it() {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the descriptor set is whole");
    let service = pool.get_service_by_name("ott.v1.OttService").expect("the contract has it");
    let method = service.methods().find(|method| method.name() == "LoginWithOtt").expect("it is there");
    let info = service.parent_file().file_descriptor_proto().source_code_info.clone();
    let locations = info.expect("comments are kept").location;
    let location = locations.iter().find(|location| location.path == method.path()).expect("it has one");
    let words: Vec<&str> = location.leading_comments().split_whitespace().collect();
    let sentence = "Never retry with the same token, except after UNAVAILABLE, RESOURCE_EXHAUSTED with \
                    RetryInfo, or DEADLINE_EXCEEDED whose \"outcome\" is \"not_sent\" or \"refused\", each with an \
                    ErrorInfo of the domain \"ott-gateway\": then it is unspent.";
    assert!(words.join(" ").contains(sentence), "{}", location.leading_comments());

    for reason in Reason::ALL.iter().filter(|reason| reason.entry().login.is_some()) {
        for outcome in CERTAINTIES {
            // The token expires before the longer wait ends.
            for wait in [1, 60].map(Duration::from_secs) {
                let failure = Failure::new(*reason).retry_after(wait);
                let answer = Answer::of(failure, &call_with(Method::LoginWithOtt, outcome));
                let case = format!("{reason:?} {outcome:?} {wait:?}: {:?}", answer.code);
                let unspent = matches!(outcome, Certainty::NotSent | Certainty::Refused);
                let by_the_contract = match answer.code {
                    Code::Unavailable => true,
                    Code::ResourceExhausted => answer.retry_delay().is_some(),
                    Code::DeadlineExceeded => unspent,
                    _ => false,
                };
                assert!(!by_the_contract || unspent, "{case}: the token may be spent");
                let advised = answer.pushback.is_none();
                assert!(!advised || by_the_contract, "{case}: more is advised than the contract allows");
                if wait < Duration::from_secs(30) {
                    assert_eq!(advised, by_the_contract, "{case}");
                }
            }
        }
    }
}

#[test]
fn a_retry_is_either_advised_or_pushed_back() {
    for reason in Reason::ALL {
        for method in OPERATIONS {
            for outcome in CERTAINTIES {
                let answer = Answer::of(Failure::new(*reason), &call_with(method, outcome));
                assert!(
                    answer.retry_delay().is_none() || answer.pushback.is_none(),
                    "{reason:?} {method:?} {outcome:?}"
                );
                if answer.code == Code::Unavailable {
                    assert_eq!(answer.pushback, None, "{reason:?}: UNAVAILABLE may be retried");
                }
                if method == Method::IssueOtt {
                    assert!(!answer.rate_limited);
                }
            }
        }
    }
}
