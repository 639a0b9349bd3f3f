//! gRPC message framing of unary calls: a flag, a length and the message.
//!
//! `server` reads the body and limits its size. Here it is complete, and must be exactly one
//! message. Compressed requests are refused, and responses are not compressed.

use bytes::{BufMut as _, Bytes};
use http::{HeaderMap, HeaderName};
use prost::Message;

use crate::status::{Case, Failure, Reason};

/// Size of the prefix of a gRPC message: one flag byte and four length bytes.
const PREFIX: usize = 5;
/// Maximum size of a response message, in bytes: an account of 256 KiB and its session, both
/// encoded.
const MAX_RESPONSE_BYTES: usize = 512 * 1024;
/// Header with the message compression of a request.
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// Decodes the message of a request from its complete body, including the prefix.
///
/// # Errors
///
/// The request is, or claims to be, compressed, or the message cannot be decoded.
pub(super) fn decode<M: Message + Default>(headers: &HeaderMap, body: &[u8]) -> Result<M, Failure> {
    if headers.get(ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(Failure::unsupported_compression());
    }
    let message = uncompressed(body).ok_or_else(|| {
        let is_flagged = body.first().is_some_and(|flag| *flag != 0);
        Failure::of(if is_flagged { Case::CompressedFlag } else { Case::NotOneMessage })
    })?;
    M::decode(message).map_err(|error| Failure::undecodable(&error))
}

/// Returns the message of a body that is exactly one message, unless it is compressed.
pub(super) fn uncompressed(body: &[u8]) -> Option<&[u8]> {
    let (prefix, message) = body.split_first_chunk::<PREFIX>()?;
    let [0, length @ ..] = prefix else { return None };
    (usize::try_from(u32::from_be_bytes(*length)).ok()? == message.len()).then_some(message)
}

/// Encodes a response, with its prefix.
///
/// # Errors
///
/// The message is longer than [`MAX_RESPONSE_BYTES`].
pub(super) fn encode(message: &impl Message) -> Result<Bytes, Failure> {
    let length = message.encoded_len();
    let Some(announced) = u32::try_from(length).ok().filter(|_| length <= MAX_RESPONSE_BYTES) else {
        let cause = format_args!("the response message has {length} bytes");
        return Err(Failure::new(Reason::InternalError).because(&cause));
    };
    let mut body = Vec::with_capacity(PREFIX + length);
    body.put_u8(0);
    body.put_u32(announced);
    message.encode_raw(&mut body);
    Ok(Bytes::from(body))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        proto::ott::v1::{Cookie, IssueOttRequest, LoginWithOttResponse, Session, issue_ott_request},
        status::FailureCode,
    };

    fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).expect("fits in u32").to_be_bytes();
        [&[flag][..], &length[..], message].concat()
    }

    fn encoding(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(ENCODING, HeaderValue::from_static(value))])
    }

    fn refusal(headers: &HeaderMap, body: &[u8]) -> Option<(Case, FailureCode)> {
        let call = crate::domain::call::Call::new(
            crate::base::clock::now(),
            crate::domain::call::Deadline::after(std::time::Duration::from_secs(1)),
        );
        let failure = decode::<IssueOttRequest>(headers, body).err()?;
        assert_eq!(failure.reason(), Reason::InvalidRequest);
        Some((failure.case(), failure.code(&call)))
    }

    #[tokio::test(start_paused = true)]
    async fn compressed_requests_are_refused_as_grpc_requires() {
        let none = HeaderMap::new();
        let unimplemented = Some((Case::CompressedMessage, FailureCode::Unimplemented));
        let flagged = Some((Case::CompressedFlag, FailureCode::InvalidArgument));
        let undecodable = Some((Case::UndecodableMessage, FailureCode::InvalidArgument));
        let incomplete = Some((Case::NotOneMessage, FailureCode::InvalidArgument));
        for value in ["gzip", "deflate", "zstd", "Identity", ""] {
            assert_eq!(refusal(&encoding(value), &framed(0, b"")), unimplemented, "{value:?}");
        }
        for flag in [1, 2, 255] {
            for headers in [&none, &encoding("identity")] {
                assert_eq!(refusal(headers, &framed(flag, b"")), flagged, "{flag}");
            }
        }
        for headers in [&none, &encoding("identity")] {
            assert_eq!(refusal(headers, &framed(0, b"")), None);
        }
        assert_eq!(refusal(&none, &framed(0, b"\xff")), undecodable);
        assert_eq!(refusal(&none, &framed(0, b"\x0a\x01\xff")), undecodable, "not UTF-8");
        for body in [&[][..], &[0, 0], &[0, 0, 0, 0, 1]] {
            assert_eq!(refusal(&none, body), incomplete, "{body:?}");
        }
    }

    #[test]
    fn an_oversized_response_is_not_sent() {
        let response = |length| LoginWithOttResponse {
            session: Some(Session { cookie_header: "x".repeat(length), ..Session::default() }),
            ..LoginWithOttResponse::default()
        };
        let around = 2 * (1 + 3);
        assert_eq!(
            encode(&response(MAX_RESPONSE_BYTES - around)).map(|body| body.len()).ok(),
            Some(PREFIX + MAX_RESPONSE_BYTES)
        );
        let failure = encode(&response(MAX_RESPONSE_BYTES - around + 1)).expect_err("one byte too long");
        assert_eq!(failure.reason(), Reason::InternalError);
    }

    proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..64), is_framed in any::<bool>()) {
            let body = if is_framed { framed(0, &body) } else { body };
            let decoded = decode::<IssueOttRequest>(&HeaderMap::new(), &body);
            let expected = uncompressed(&body).and_then(|message| IssueOttRequest::decode(message).ok());
            prop_assert_eq!(decoded.ok(), expected);
        }

        #[test]
        fn requests_round_trip(login in ".{0,64}", api_client in ".{0,64}", purpose in any::<i32>()) {
            let request = IssueOttRequest {
                subject: Some(issue_ott_request::Subject::Login(login)),
                api_client,
                purpose,
                ..IssueOttRequest::default()
            };
            let body = framed(0, &request.encode_to_vec());
            prop_assert_eq!(decode::<IssueOttRequest>(&HeaderMap::new(), &body).ok(), Some(request));
            prop_assert_eq!(uncompressed(&body[..body.len() - 1]), None);
            let longer = [&body[..], &[0][..]].concat();
            prop_assert_eq!(uncompressed(&longer), None);
        }

        #[test]
        fn responses_have_a_length_prefix(names in proptest::collection::vec(".{0,16}", 0..8)) {
            let cookies = names.into_iter().map(|name| Cookie { name, ..Cookie::default() }).collect();
            let response = LoginWithOttResponse {
                session: Some(Session { cookies, ..Session::default() }),
                ..LoginWithOttResponse::default()
            };
            let body = encode(&response).map_err(|_| TestCaseError::fail("it is short"))?;
            prop_assert_eq!(&body[..], &framed(0, &response.encode_to_vec())[..]);
        }
    }
}
