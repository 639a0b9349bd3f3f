//! Detects that the reader of standard output is permanently gone.

use std::{io, os::fd::AsFd};

use rustix::fs::{FileType, fstat};
use tokio::{io::Interest, net::unix::pipe};

use super::availability::Availability;
use crate::observe::telemetry::metrics::AuditSink;

/// Resolves when nothing can ever be written to the sink again: a write has failed for this reason,
/// or the reader of a pipe has closed it. The latter is detected without a write, so that no call
/// has to fail first.
pub(super) async fn closed(availability: &Availability, sink: AuditSink) {
    let mut reported = availability.subscribe_closed();
    let by_write = async {
        // Cannot fail: the sender is borrowed.
        let _ = reported.wait_for(|closed| *closed).await;
    };
    tokio::select! {
        () = by_write => {}
        () = reader_gone(sink) => availability.set_closed(&"the reader of standard output is gone"),
    }
}

/// Resolves when standard output is the sink, and is a pipe whose reader has closed it.
async fn reader_gone(sink: AuditSink) {
    if sink == AuditSink::Stdout
        && let Ok(pipe) = stdout_pipe()
        && pipe.ready(Interest::ERROR).await.is_ok()
    {
        return;
    }
    // A write will report it.
    std::future::pending::<()>().await;
}

/// Returns standard output if it is a pipe, to wait for errors on it. It is registered as a
/// receiver, because a sender would wake this task each time the reader makes room.
fn stdout_pipe() -> io::Result<pipe::Receiver> {
    let stdout = io::stdout().as_fd().try_clone_to_owned()?;
    if FileType::from_raw_mode(fstat(&stdout)?.st_mode) != FileType::Fifo {
        return Err(io::ErrorKind::Unsupported.into());
    }
    pipe::Receiver::from_owned_fd_unchecked(stdout)
}
