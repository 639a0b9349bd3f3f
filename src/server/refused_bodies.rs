//! Reads the messages of refused calls, for the audit record only.
//!
//! Most calls are refused before their message is read. A refused call with its own record may wait
//! briefly for its message, in places that accepted calls do not use; without a free place it is
//! answered at once.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tonic::codegen::StdError;

use super::{
    holders::{Holders, WorkerHolders},
    message::ArrivingMessage,
};
use crate::{
    caller::{Caller, Peer},
    domain::call::{BodyLimit, Call},
};

/// Maximum number of refused calls that wait for their message, over all workers.
const PLACES: usize = 64;

/// The places of refused calls that wait for their message. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct RefusedBodies {
    places: BodyLimit,
    holders: Holders,
    timeout: Duration,
}

/// One worker's handle of the places of refused calls.
#[derive(Debug)]
pub(super) struct WorkerRefusedBodies {
    places: BodyLimit,
    holders: WorkerHolders,
    timeout: Duration,
}

impl RefusedBodies {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { places: BodyLimit::new(PLACES), holders: Holders::default(), timeout }
    }

    pub(super) fn for_worker(&self) -> WorkerRefusedBodies {
        WorkerRefusedBodies {
            places: self.places.clone(),
            holders: self.holders.for_worker(),
            timeout: self.timeout,
        }
    }
}

impl WorkerRefusedBodies {
    /// Stores the message of a refused call in the call, if it arrives in time. For calls that were
    /// refused before their message was read.
    pub(super) async fn receive<B>(
        &self,
        message: &mut ArrivingMessage<B>,
        call: &Call,
        peer: &Peer,
        is_proxy: bool,
        cut_off: &CancellationToken,
    ) where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: Into<StdError>,
    {
        let arrived = if let Some(arrived) = message.complete().now_or_never() {
            arrived.ok()
        } else {
            // Counted per peer, because most of these callers are not identified.
            let holder = self.holders.of(&Caller::anonymous(), peer, is_proxy);
            let Ok(_place) = self.places.wait(&holder) else { return };
            let wait = self.timeout.min(call.deadline().remaining());
            let arriving = tokio::time::timeout(wait, message.complete());
            let arrived = cut_off.run_until_cancelled(arriving).await;
            arrived.and_then(Result::ok).and_then(Result::ok)
        };
        if let Some(body) = arrived {
            call.keep_message(body);
        }
    }
}
