//! Bounded reading of response bodies.

use zeroize::Zeroizing;

use super::{
    cause::root_cause,
    local_resource::{LocalResource, missing_resource_in},
};
use crate::base::memory::USUAL_BYTES;

/// Initial capacity for a body without `Content-Length`, in bytes.
const INITIAL_CAPACITY: usize = USUAL_BYTES;

/// Failure to read a complete body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The body is longer than the limit.
    #[error("the response body is larger than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The connection failed before the end of the body.
    #[error("the response body was truncated: {cause}")]
    CutOff {
        /// For the operator.
        cause: String,
        /// The resource that this machine or process lacked, if that is the cause.
        missing: Option<LocalResource>,
    },
}

impl BodyError {
    fn from_error(error: &reqwest::Error) -> Self {
        Self::CutOff { cause: root_cause(error), missing: missing_resource_in(error) }
    }
}

/// Reads a whole body of at most `limit` bytes. A larger `Content-Length` fails before anything is
/// read; a body without one is counted while it is read.
///
/// The buffer is wiped on drop, as is every smaller buffer that it outgrew.
///
/// Takes a reference, because a future stores each argument twice.
pub async fn read(response: &mut reqwest::Response, limit: usize) -> Result<Zeroizing<Vec<u8>>, BodyError> {
    let too_large = || BodyError::TooLarge { limit };
    let announced = announced_length(response);
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut body = Zeroizing::new(Vec::with_capacity(announced.unwrap_or(limit.min(INITIAL_CAPACITY))));
    while let Some(chunk) = response.chunk().await.map_err(|error| BodyError::from_error(&error))? {
        if chunk.len() > limit - body.len() {
            return Err(too_large());
        }
        if chunk.len() > body.capacity() - body.len() {
            // `Vec` would leave the old buffer behind unwiped.
            let capacity = (body.len() + chunk.len()).max(body.capacity() * 2).min(limit);
            let mut larger = Zeroizing::new(Vec::with_capacity(capacity));
            larger.extend_from_slice(&body);
            body = larger;
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Returns the `Content-Length` of a response, in bytes.
#[must_use]
pub fn announced_length(response: &reqwest::Response) -> Option<usize> {
    response.content_length().map(|length| usize::try_from(length).unwrap_or(usize::MAX))
}
