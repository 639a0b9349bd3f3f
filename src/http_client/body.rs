//! Bounded reading of response bodies.

use zeroize::Zeroizing;

use super::cause::root_cause;
use crate::memory::{Reservation, ResponseMemory, USUAL_BYTES};

/// Initial capacity for a body that does not announce its length, in bytes.
const INITIAL_CAPACITY: usize = USUAL_BYTES;

/// Why a body could not be read completely.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The body is longer than the limit.
    #[error("the response body is larger than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The connection failed before the end of the body.
    #[error("the response body was cut off: {0}")]
    CutOff(String),
}

/// Reads a whole body of at most `limit` bytes. A longer announced length fails before
/// anything is read; a body without a length is counted while it is read.
///
/// The buffer is wiped when it is dropped, and so is every smaller buffer that it grew out of.
pub async fn read(response: reqwest::Response, limit: usize) -> Result<Zeroizing<Vec<u8>>, BodyError> {
    read_reserved(response, limit, None).await.map(|(body, _)| body)
}

/// As [`read`], but waits for memory before it reads what is longer than usual. The memory is
/// reserved until the second value is dropped; it is `None` for a body of the usual size.
pub async fn read_reserved(
    mut response: reqwest::Response,
    limit: usize,
    memory: Option<&ResponseMemory>,
) -> Result<(Zeroizing<Vec<u8>>, Option<Reservation>), BodyError> {
    let mut reserved = None;
    let too_large = || BodyError::TooLarge { limit };
    let announced = response.content_length().map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    if let (Some(memory), Some(announced)) = (memory, announced.filter(|length| *length > USUAL_BYTES)) {
        // Boxed here and below: it is rare, and the future of every call would grow by it.
        reserved = Box::pin(memory.reserve(announced)).await;
    }
    let mut body = Zeroizing::new(Vec::with_capacity(announced.unwrap_or(limit.min(INITIAL_CAPACITY))));
    let cut_off = |error: reqwest::Error| BodyError::CutOff(root_cause(&error));
    while let Some(chunk) = response.chunk().await.map_err(cut_off)? {
        if chunk.len() > limit - body.len() {
            return Err(too_large());
        }
        if chunk.len() > body.capacity() - body.len() {
            if let (Some(memory), None) = (memory, &reserved) {
                // Its final size is not known. A second reservation later could wait for
                // others that wait for this one.
                reserved = Box::pin(memory.reserve(limit)).await;
            }
            // `Vec` would leave the old buffer behind unwiped.
            let capacity = (body.len() + chunk.len()).max(body.capacity() * 2).min(limit);
            let mut larger = Zeroizing::new(Vec::with_capacity(capacity));
            larger.extend_from_slice(&body);
            body = larger;
        }
        body.extend_from_slice(&chunk);
    }
    Ok((body, reserved))
}
