//! Requests and failures from the caller's point of view.

use std::{collections::BTreeMap, time::Duration};

use http::HeaderMap;
use ott_gateway::proto::ott::v1::{
    IssueOttRequest, LoginWithOttRequest, issue_ott_request::Subject, ott_service_client::OttServiceClient,
};
use tonic::{Code, Status, transport::Channel};
use tonic_types::{BadRequest, StatusExt};

pub(crate) type Client = OttServiceClient<Channel>;

/// Everything that a status contains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) domain: String,
    pub(crate) reason: String,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) request_id: String,
    /// `RetryInfo`.
    pub(crate) retry_delay: Option<Duration>,
    /// The fields that `BadRequest` names.
    pub(crate) fields: Vec<String>,
    /// The trailer `grpc-retry-pushback-ms`.
    pub(crate) pushback: Option<String>,
    /// The trailer `x-envoy-ratelimited`.
    pub(crate) ratelimited: Option<String>,
    /// Size in a header list (RFC 9113, 6.5.2).
    pub(crate) size: usize,
}

/// Reads a status, which must have the details of every failure.
pub(crate) fn refused(status: &Status) -> Refused {
    let details = status.check_error_details().expect("details that can be read");
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    let request = details.request_info().unwrap_or_else(|| panic!("no RequestInfo in {status:?}"));
    let trailer = |name: &str| {
        let mut values = status.metadata().get_all(name).iter();
        let value = values.next().map(|value| value.to_str().expect("visible ASCII").to_owned());
        assert!(values.next().is_none(), "{name} twice");
        value
    };
    let mut headers = HeaderMap::new();
    status.add_header(&mut headers).expect("a status that was sent can be sent");
    Refused {
        code: status.code(),
        message: status.message().to_owned(),
        domain: info.domain.clone(),
        reason: info.reason.clone(),
        metadata: info.metadata.clone().into_iter().collect(),
        request_id: request.request_id.clone(),
        retry_delay: details.retry_info().map(|retry| retry.retry_delay.expect("a RetryInfo with a delay")),
        fields: details.bad_request().map(|bad| fields(bad, status.message())).unwrap_or_default(),
        pushback: trailer("grpc-retry-pushback-ms"),
        ratelimited: trailer("x-envoy-ratelimited"),
        size: headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum(),
    }
}

/// Returns the names of the fields. Each has to be in the message with its rule, which is all that
/// most clients show.
fn fields(bad: &BadRequest, message: &str) -> Vec<String> {
    let named = bad.field_violations.iter().map(|violation| {
        let rule = format!("{}: {}", violation.field, violation.description);
        assert!(message.contains(&rule), "{rule:?} is not in {message:?}");
        violation.field.clone()
    });
    named.collect()
}

/// A request for a token for that login.
pub(crate) fn issue(login: &str) -> IssueOttRequest {
    IssueOttRequest { subject: Some(Subject::Login(login.to_owned())), ..IssueOttRequest::default() }
}

/// A request to log in with `ott`.
pub(crate) fn login(ott: &str) -> LoginWithOttRequest {
    LoginWithOttRequest { ott: ott.to_owned(), ..LoginWithOttRequest::default() }
}

/// Issues a token and logs in with it, which must succeed.
pub(crate) async fn issue_and_log_in(client: &mut Client) {
    let issued = client.issue_ott(issue("someone")).await.expect("a token is issued").into_inner();
    let spent = client.login_with_ott(login(&issued.ott)).await.expect("a login").into_inner();
    assert_eq!(spent.user.expect("an account").login, Some("someone".to_owned()));
}

/// Waits until an access token is 10 s old. A younger one is never replaced because of a 401.
pub(crate) async fn until_access_token_is_old() {
    tokio::time::sleep(Duration::from_millis(10_100)).await;
}
