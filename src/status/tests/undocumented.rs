//! Statuses that tonic creates, checked against tonic.

use std::{convert::Infallible, future::Future, pin::Pin};

use bytes::Bytes;
use http::{Request, header::HeaderMap};
use http_body_util::{BodyExt as _, Full};
use tonic::{Code, Response, Status, body::Body, codegen::Service};

use super::{Answer, call};
use crate::{
    domain::call::Method,
    proto::ott::v1::{
        IssueOttRequest, IssueOttResponse, LoginWithOttRequest, LoginWithOttResponse,
        ott_service_server::{OttService, OttServiceServer},
    },
    status::{Failure, Reason},
};

struct Nothing;

#[tonic::async_trait]
impl OttService for Nothing {
    async fn issue_ott(
        &self,
        _: tonic::Request<IssueOttRequest>,
    ) -> Result<Response<IssueOttResponse>, Status> {
        panic!("no request here can be decoded")
    }

    async fn login_with_ott(
        &self,
        _: tonic::Request<LoginWithOttRequest>,
    ) -> Result<Response<LoginWithOttResponse>, Status> {
        panic!("no request here can be decoded")
    }
}

fn frame(flag: u8, length: u32, message: &[u8]) -> Vec<u8> {
    let mut frame = vec![flag];
    frame.extend(length.to_be_bytes());
    frame.extend(message);
    frame
}

/// Returns tonic's code for a request, and our failure.
async fn answer(path: &str, encoding: &str, body: Vec<u8>) -> (Code, Failure) {
    type Answered = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;
    let mut server = OttServiceServer::new(Nothing).max_decoding_message_size(16 * 1024);
    let request = Request::post(path)
        .header("content-type", "application/grpc")
        .header("grpc-encoding", encoding)
        .body(Full::new(Bytes::from(body)))
        .expect("the request is well-formed");
    let answered: Answered = server.call(request);
    let answered = answered.await.expect("it cannot fail");
    let (parts, body) = answered.into_parts();
    let trailers = body.collect().await.expect("no body").trailers().cloned();
    let headers: HeaderMap = trailers.unwrap_or(parts.headers);
    let status = Status::from_header_map(&headers).expect("it has a status");
    assert!(status.details().is_empty(), "tonic adds no details");
    (status.code(), Failure::from_undocumented(status.code(), status.message()))
}

#[tokio::test]
async fn undecodable_request_is_an_invalid_request() {
    let issue = "/ott.v1.OttService/IssueOtt";
    let garbage = frame(0, 3, &[0xff, 0xff, 0xff]);
    let not_utf8 = frame(0, 3, &[0x0a, 0x01, 0xff]);
    let cut_off = frame(0, 100, &[0x0a, 0x01, b'a']);
    let bad_flag = frame(7, 0, &[]);
    let flagged_as_compressed = frame(1, 0, &[]);
    for body in [garbage, not_utf8, cut_off, bad_flag, flagged_as_compressed, Vec::new()] {
        let (code, failure) = answer(issue, "identity", body.clone()).await;
        assert_eq!(code, Code::Internal, "{body:?}");
        let answer = Answer::of(failure, &call(Method::IssueOtt));
        assert_eq!(
            (answer.code, answer.reason.as_str()),
            (Code::InvalidArgument, "INVALID_REQUEST"),
            "{body:?}"
        );
        assert_eq!(answer.pushback.as_deref(), Some("-1"));
    }
}

#[tokio::test]
async fn an_oversized_message_is_resource_exhausted() {
    let body = frame(0, 16 * 1024 + 1, &vec![0; 16 * 1024 + 1]);
    let (code, failure) = answer("/ott.v1.OttService/LoginWithOtt", "identity", body).await;
    assert_eq!(code, Code::OutOfRange);
    let answer = Answer::of(failure, &call(Method::LoginWithOtt));
    assert_eq!((answer.code, answer.reason.as_str()), (Code::ResourceExhausted, "REQUEST_TOO_LARGE"));
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented() {
    let (code, failure) = answer("/ott.v1.OttService/Nope", "identity", Vec::new()).await;
    assert_eq!(code, Code::Unimplemented);
    assert_eq!(failure.reason(), Reason::MethodUnknown);
}

#[tokio::test]
async fn compressed_request_is_unimplemented_and_gets_the_accepted_encoding() {
    let (code, failure) = answer("/ott.v1.OttService/IssueOtt", "gzip", frame(1, 0, &[])).await;
    assert_eq!(code, Code::Unimplemented);
    let status = failure.into_status(&call(Method::IssueOtt));
    assert_eq!(status.metadata().get("grpc-accept-encoding").expect("it is present"), "identity");
    let answer = Answer::read(&status);
    assert_eq!((answer.code, answer.reason.as_str()), (Code::Unimplemented, "INVALID_REQUEST"));
}

#[test]
fn any_other_status_is_an_internal_error() {
    let too_long = "Error, encoded message length too large: found 9 bytes, the limit is: 8 bytes";
    for (code, message) in [
        (Code::OutOfRange, too_long),
        (Code::Internal, "Error encoding: canary"),
        (Code::Unknown, "canary"),
        (Code::Cancelled, "canary"),
        (Code::InvalidArgument, "canary"),
    ] {
        let answer = Answer::of(Failure::from_undocumented(code, message), &call(Method::IssueOtt));
        assert_eq!((answer.code, answer.reason.as_str()), (Code::Internal, "INTERNAL_ERROR"));
        assert!(!answer.text().contains("canary"));
    }
}
