//! Reads configured files and follows their changes.
//!
//! All configured files are read here: the configuration itself, certificates and keys,
//! authorities, key sets, and secrets. A read has three limits, so that neither a file nor an
//! unresponsive file system can block the process or use up its memory:
//!
//! * Only a regular file is opened, without blocking.
//! * At most [`MAX_BYTES`] are read, or less where the contents have a smaller limit.
//! * It takes at most [`READ_TIMEOUT`]. It runs on its own thread, which is abandoned after that
//!   time; at most [`MAX_PENDING_READS`] of these threads exist per file. Once many do, a read
//!   stops before the place at which they hang.
//!
//! [`read()`] reads a file once, [`load`] reads and parses files once, and a [`Follower`] does so
//! repeatedly. The callers supply the parsers: one function for each kind of file, used at startup
//! and for reloads.
//!
//! ```
//! use std::sync::Arc;
//!
//! use ott_gateway::base::files::{Parser, load, read};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("limit");
//! # std::fs::write(&path, "30\n")?;
//! let name = path.display().to_string();
//! let file = path.clone();
//! let parser: Parser<u32, String> = Arc::new(move |reader| {
//!     let contents = reader.read(&file, 16).map_err(|error| error.to_string())?;
//!     let text = str::from_utf8(&contents.bytes).map_err(|error| error.to_string())?;
//!     text.trim().parse().map_err(|_| "must be a number".to_owned())
//! });
//! assert_eq!(load(&name, parser)?, 30);
//! assert!(read(&path, 1).is_err(), "it is larger than a byte");
//! # Ok(())
//! # }
//! ```

mod follow;
mod progress;
mod read;
mod timed;
mod unanswered;

pub use self::{
    follow::{FollowedFile, Follower, Outcomes, POLL_INTERVAL, Parser, PollError, Trigger, load},
    read::{Contents, Exposure, MAX_BYTES, ReadError, Reader, describe, read},
    timed::{MAX_PENDING_READS, READ_TIMEOUT, run},
    unanswered::Unanswered,
};
