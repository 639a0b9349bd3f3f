//! The memory budget of the gateway, and its division among calls.
//!
//! A container or a service often has far less memory than the machine, and a process that exceeds
//! its limit is killed with all its calls. Therefore the number of calls in flight and the memory
//! for responses are derived from the limit. This module only counts; the memory is allocated
//! elsewhere.
//!
//! ```
//! use ott_gateway::base::memory::{Budget, Consumer, MAX_RESPONSE_BYTES, ResponseMemory};
//!
//! let budget = Budget::of(256 * 1024 * 1024);
//! assert_eq!(budget.calls, 1728);
//!
//! let memory = ResponseMemory::new(budget.response_bytes, budget.http1_exchanges);
//! let unreserved = memory.available_bytes();
//! let reservation = memory.try_reserve(Consumer::default());
//! assert!(memory.available_bytes() + MAX_RESPONSE_BYTES <= unreserved);
//! drop(reservation);
//! assert_eq!(memory.available_bytes(), unreserved);
//! ```

mod ledger;
mod limit;
mod reader;
mod responses;

pub use self::{
    ledger::Consumer,
    limit::system_limit,
    reader::Reader,
    responses::{Http1Place, MAX_RESPONSE_BYTES, Reservation, ResponseMemory, USUAL_BYTES},
};

const MIB: u64 = 1024 * 1024;

/// Memory of the idle process and of connections without calls, in bytes.
const BASE_BYTES: u64 = 40 * MIB;
/// Memory of a call in flight apart from the reservation for its response, in bytes: its task,
/// HTTP/2 and TLS buffers on both sides, an unread part of its response, the lines of its records.
const CALL_BYTES: u64 = 80 * 1024;
/// Maximum memory for login responses, in bytes: two thousand at the same time.
const MAX_RESPONSES_BYTES: u64 = 1024 * MIB;
/// Memory of an exchange over HTTP/1.1 in addition to that of its call, in bytes: the head of the
/// largest response and its receive buffer.
const HTTP1_BYTES: u64 = 128 * 1024;
/// Minimum number of exchanges over HTTP/1.1, even with less memory.
const MIN_HTTP1_EXCHANGES: u64 = 8;
/// Minimum number of calls, even with less memory.
const MIN_CALLS: u64 = 16;

/// The division of the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Maximum number of calls in flight.
    pub calls: usize,
    /// Memory for login responses, in bytes.
    pub response_bytes: usize,
    /// Maximum number of concurrent exchanges with the platform over HTTP/1.1.
    pub http1_exchanges: usize,
}

impl Budget {
    /// Divides a limit in bytes. Of the memory that the idle process does not need, five eighths
    /// are for calls, a quarter is for login responses, and an eighth is for the heads of HTTP/1.1
    /// responses.
    #[must_use]
    pub fn of(limit: u64) -> Self {
        let free = limit.saturating_sub(BASE_BYTES);
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        Self {
            calls: size((free / 8 * 5 / CALL_BYTES).max(MIN_CALLS)),
            response_bytes: size((free / 4).min(MAX_RESPONSES_BYTES)).max(responses::MIN_BYTES),
            http1_exchanges: size((free / 8 / HTTP1_BYTES).max(MIN_HTTP1_EXCHANGES)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_fit_into_the_limit() {
        for limit in [48, 64, 128, 256, 512, 4096, 1 << 20] {
            let bytes = limit * MIB;
            let Budget { calls, response_bytes, http1_exchanges } = Budget::of(bytes);
            let heads = http1_exchanges as u64 * HTTP1_BYTES;
            let used = BASE_BYTES + calls as u64 * CALL_BYTES + response_bytes as u64 + heads;
            assert!(used <= bytes, "{limit} MiB: {calls} calls, {response_bytes} bytes");
        }
        assert_eq!(Budget::of(256 * MIB).calls, 1728);
        assert_eq!(Budget::of(256 * MIB).http1_exchanges, 216);
        let least = Budget { calls: 16, response_bytes: responses::MIN_BYTES, http1_exchanges: 8 };
        assert_eq!(Budget::of(0), least);
    }
}
