//! Reads the files that the configuration names, and follows their changes.
//!
//! All of these files are read here: the configuration itself, certificates and keys,
//! authorities, key sets, and secrets. A read has three limits, so that no file, and no file
//! system that does not respond, can block the process or use up its memory:
//!
//! * Only a regular file is opened, without blocking.
//! * At most [`MAX_BYTES`] are read, or less where the contents have a smaller limit.
//! * It takes at most [`READ_TIMEOUT`]. It runs on a thread of its own, which is left behind
//!   after that time; at most [`MAX_PENDING_READS`] of these threads exist for one file. Once many
//!   do, a read stops before the place at which they hang.
//!
//! [`read()`] reads a file once, [`load`] reads and parses files once, and a [`Follower`] does so
//! again and again. Parsing is left to the callers: one function for each kind of file, used by
//! start and reload alike.

mod follow;
mod progress;
mod read;
mod timed;
mod unanswered;

pub use self::{
    follow::{FollowedFile, Follower, Outcomes, POLL_INTERVAL, Parser, PollError, Trigger, load},
    read::{Contents, Exposure, MAX_BYTES, ReadError, Reader, read},
    timed::{MAX_PENDING_READS, READ_TIMEOUT, run},
    unanswered::Unanswered,
};
