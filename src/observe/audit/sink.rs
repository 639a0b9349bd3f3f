//! Destination of the bytes: standard output, or a file that may be rotated, removed or full.
//!
//! Nothing here depends on the content of lines. Every function may block, and runs on the writer
//! thread.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::io::Errno;

use super::{
    device,
    opened::{Identity, Opened},
};
use crate::{
    base::clock::{self, Instant},
    observe::telemetry::metrics::{AuditError, AuditSink, Metrics},
};

/// Maximum time that a non-blocking sink may have no room before the write fails.
const ROOM_LIMIT: Duration = Duration::from_secs(1);
/// Interval between attempts to open the file at the path, while the previous one is in use.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);
/// Interval between checks during writes whether the path leads to the open file and the file has a
/// name. Each check takes two system calls, as many as the rest of a write.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Destination of audit records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// A file that is appended to, and created if it does not exist. A named pipe must have a
    /// reader.
    File(PathBuf),
}

impl Sink {
    /// Returns the label in metrics. `None` if it is off.
    pub(super) const fn label(&self) -> Option<AuditSink> {
        match self {
            Self::Off => None,
            Self::Stdout => Some(AuditSink::Stdout),
            Self::File(_) => Some(AuditSink::File),
        }
    }

    /// Returns the name for messages.
    pub(super) fn path(&self) -> PathBuf {
        match self {
            Self::Off => PathBuf::from("off"),
            Self::Stdout => PathBuf::from("stdout"),
            Self::File(path) => path.clone(),
        }
    }

    /// Checks an existing file without opening it. Standard output is not checked, because the
    /// serving process has a different one.
    ///
    /// # Errors
    ///
    /// It is a device that discards all data.
    pub fn check(&self) -> io::Result<()> {
        match self {
            Self::Off | Self::Stdout => Ok(()),
            Self::File(path) => device::check_path(path),
        }
    }

    /// Opens the sink. Returns `None` if it is off.
    pub(super) fn open(&self, fsync: bool, metrics: &Metrics) -> io::Result<Option<Output>> {
        let (path, opened) = match self {
            Self::Off => return Ok(None),
            Self::Stdout => (None, Opened::stdout()?),
            Self::File(path) => (Some(path.clone()), Opened::file(path, fsync)?),
        };
        let metrics = metrics.clone();
        Ok(Some(Output {
            path,
            opened,
            fsync,
            must_reopen: false,
            reopen_at: None,
            check_interval: CHECK_INTERVAL,
            check_at: None,
            is_checking: true,
            metrics,
        }))
    }
}

/// An open sink.
pub(super) struct Output {
    path: Option<PathBuf>,
    opened: Opened,
    fsync: bool,
    /// Whether the file must be opened again even if the path still leads to it.
    must_reopen: bool,
    /// When to try to open the file at the path again, while the previous one is in use.
    reopen_at: Option<Instant>,
    check_interval: Duration,
    /// When the file is checked next; at the next write if `None`.
    check_at: Option<Instant>,
    /// Whether the file is checked before and after this write.
    is_checking: bool,
    metrics: Metrics,
}

/// Position at which a write stopped in the middle of a line.
#[derive(Clone, Copy)]
pub(super) struct TornLine {
    identity: Identity,
    length: u64,
}

/// How to continue after a partial line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resume {
    /// The sink ends with the beginning of the line: write the rest.
    Rest,
    /// It is another file, or the file was truncated: write the whole line.
    Whole,
    /// Something else may have been written since: end that line, then write the whole line.
    NewLine,
}

/// Destination of the next write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    /// The same file as the last write.
    SameFile,
    /// A file that was just opened, on a possibly different device.
    NewFile,
}

impl Output {
    /// Sets the interval between the checks.
    pub(super) fn checked_every(self, check_interval: Duration) -> Self {
        Self { check_interval, ..self }
    }

    /// Makes sure that the next write goes to the file at the path. This is checked at most once
    /// per [`CHECK_INTERVAL`], so a file in active use may remain the previous one for that long.
    ///
    /// If that file cannot be opened, the previous one is used until it can, provided that the
    /// previous one still has a name: records in a removed file would be lost.
    pub(super) fn ready(&mut self) -> io::Result<Ready> {
        let Some(path) = &self.path else { return Ok(Ready::SameFile) };
        let now = clock::now();
        self.is_checking = self.must_reopen || self.is_outdated() || self.check_at.is_none_or(|at| at <= now);
        if !self.is_checking {
            return Ok(Ready::SameFile);
        }
        self.check_at = Some(now + self.check_interval);
        if !self.must_reopen && self.opened.is_at(path).unwrap_or(false) {
            self.reopened();
            return Ok(Ready::SameFile);
        }
        let has_name = self.opened.has_name();
        if has_name && self.reopen_at.is_some_and(|at| now < at) {
            return Ok(Ready::SameFile);
        }
        match Opened::file(path, self.fsync) {
            Ok(opened) => {
                opened.warn_if_exposed(path);
                let is_new = opened.identity != self.opened.identity;
                self.opened = opened;
                self.must_reopen = false;
                self.reopened();
                Ok(if is_new { Ready::NewFile } else { Ready::SameFile })
            }
            Err(error) if has_name => {
                self.metrics.audit_fault(AuditError::ReopenFailed);
                if self.reopen_at.is_none() {
                    tracing::warn!(
                        %error,
                        path = %path.display(),
                        "cannot open new audit file, writing to the previous one"
                    );
                }
                self.reopen_at = Some(clock::now() + REOPEN_INTERVAL);
                Ok(Ready::SameFile)
            }
            Err(error) => Err(removed(path, &error)),
        }
    }

    fn reopened(&mut self) {
        if self.reopen_at.take().is_some() {
            tracing::warn!("new audit file opened");
        }
    }

    /// Makes [`ready`](Self::ready) open the file again.
    pub(super) fn reopen(&mut self) {
        self.must_reopen = true;
        self.reopen_at = None;
    }

    /// Returns when [`ready`](Self::ready) should be called even if nothing is written.
    pub(super) const fn reopen_at(&self) -> Option<Instant> {
        self.reopen_at
    }

    /// Returns whether the previous file is in use, which is no longer at the path.
    pub(super) const fn is_outdated(&self) -> bool {
        self.reopen_at.is_some()
    }

    /// Makes [`ready`](Self::ready) check the file, because a write has failed.
    pub(super) const fn check_again(&mut self) {
        self.check_at = None;
    }

    /// Fails if the last write went to a file that no longer has a name. This is checked if the
    /// file was checked before this write, or if a check has become due during a long write.
    pub(super) fn check_written(&self) -> io::Result<()> {
        let is_due = || self.is_checking || self.check_at.is_none_or(|at| at <= clock::now());
        match &self.path {
            Some(path) if is_due() && !self.opened.has_name() => {
                Err(removed(path, &"it is being opened again"))
            }
            _ => Ok(()),
        }
    }

    /// Returns whether the error means that the sink can never be written again: it is standard
    /// output, and its reader is gone.
    pub(super) fn is_closed_by(&self, error: &io::Error) -> bool {
        self.path.is_none()
            && [Errno::PIPE, Errno::CONNRESET]
                .iter()
                .any(|gone| error.raw_os_error() == Some(gone.raw_os_error()))
    }

    /// Returns whether the next write would continue a line of another process: the file ended in a
    /// partial line when it was opened, and nothing was written since.
    pub(super) const fn is_unfinished(&self) -> bool {
        self.opened.unfinished
    }

    /// Records that the sink may end in a partial line.
    pub(super) const fn set_unfinished(&mut self) {
        self.opened.unfinished = true;
    }

    /// Returns how many bytes of lines that no call waits for can be written after `pending` other
    /// bytes, without making a later line block.
    pub(super) fn spare_room(&self, pending: usize) -> usize {
        self.opened.spare_room(pending)
    }

    /// Writes once; the write may be short. Waits up to a second for room in a non-blocking sink.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut until = None;
        loop {
            match self.opened.file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.opened.unfinished = false;
                    return Ok(written);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let now = clock::now();
                    let left = until.get_or_insert(now + ROOM_LIMIT).saturating_duration_since(now);
                    if left.is_zero() {
                        return Err(error);
                    }
                    self.opened.await_room(left);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Syncs the written data to the disk, if that is configured.
    pub(super) fn sync(&self) -> io::Result<()> {
        if self.fsync && self.opened.is_regular() { self.opened.file.sync_data() } else { Ok(()) }
    }

    /// Returns the end of a partial line.
    pub(super) fn torn(&self) -> Option<TornLine> {
        let length = self.opened.file.metadata().ok()?.len();
        Some(TornLine { identity: self.opened.identity, length })
    }

    /// Returns how to continue a line that is partial up to this position. `continues`: the same
    /// write continues, so that a pipe contains nothing after the partial line.
    pub(super) fn resume(&self, torn: TornLine, continues: bool) -> Resume {
        if self.opened.identity != torn.identity {
            return Resume::Whole;
        }
        if !self.opened.is_regular() {
            return if continues { Resume::Rest } else { Resume::NewLine };
        }
        match self.opened.file.metadata().map(|metadata| metadata.len()) {
            Ok(length) if length == torn.length => Resume::Rest,
            Ok(0) => Resume::Whole,
            _ => Resume::NewLine,
        }
    }
}

fn removed(path: &Path, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("the audit file {} was removed: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::{fs::OpenOptions, os::unix::fs::MetadataExt, path::Path};

    use super::*;

    fn opened(path: &Path) -> Output {
        Sink::File(path.to_owned()).open(false, &Metrics::new()).expect("it opens").expect("it is on")
    }

    #[test]
    fn torn_line_is_finished_only_in_the_same_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.jsonl");
        let mut output = opened(&path);
        output.write(b"half a li").expect("it writes");
        let torn = output.torn().expect("a file");
        assert_eq!(output.resume(torn, true), Resume::Rest);

        let mut other = OpenOptions::new().append(true).open(&path).expect("it opens");
        other.write_all(b"somebody else").expect("it writes");
        assert_eq!(output.resume(torn, true), Resume::NewLine);

        other.set_len(0).expect("it truncates");
        assert_eq!(output.resume(torn, true), Resume::Whole);

        std::fs::rename(&path, folder.path().join("audit.1")).expect("it renames");
        output.ready().expect("it opens anew");
        assert_eq!(output.resume(torn, true), Resume::Whole);
    }

    /// Writes a line like the thread does. Returns whether the file was checked.
    fn write(output: &mut Output) -> bool {
        output.ready().expect("it is there");
        output.write(b"{}\n").expect("it writes");
        output.check_written().expect("it has a name");
        output.is_checking
    }

    #[tokio::test(start_paused = true)]
    async fn file_is_checked_once_per_interval_and_at_the_first_write_after_a_pause() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut output = opened(&folder.path().join("audit.jsonl"));
        let mut checks = 0;
        for _ in 0..1000 {
            checks += usize::from(write(&mut output));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(checks, 10, "in a second");
        for _ in 0..10 {
            tokio::time::advance(CHECK_INTERVAL).await;
            assert!(write(&mut output), "even if it is the only one");
        }
        assert!(!write(&mut output));
        output.check_again();
        assert!(write(&mut output), "a write has failed");
        output.reopen();
        assert!(write(&mut output), "a signal requested it");
    }

    #[tokio::test(start_paused = true)]
    async fn moved_or_removed_file_is_replaced_at_the_next_check() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.jsonl");
        let mut output = opened(&path);
        assert!(write(&mut output));
        for is_removed in [false, true] {
            if is_removed {
                std::fs::remove_file(&path).expect("it is removed");
            } else {
                std::fs::rename(&path, folder.path().join("audit.1")).expect("it renames");
            }
            tokio::time::advance(CHECK_INTERVAL.saturating_sub(Duration::from_millis(1))).await;
            assert!(!write(&mut output) && !path.exists());
            tokio::time::advance(Duration::from_millis(1)).await;
            assert_eq!(output.ready().expect("it opens"), Ready::NewFile);
            assert_eq!(std::fs::read(&path).expect("a file").len(), 0);
            output.write(b"{}\n").expect("it writes");
            output.check_written().expect("it has a name");
            assert_eq!(std::fs::read(&path).expect("a file").len(), 3);
        }

        // Removed between the check before a write and the one after it.
        tokio::time::advance(CHECK_INTERVAL).await;
        output.ready().expect("it is there");
        std::fs::remove_file(&path).expect("it is removed");
        output.write(b"{}\n").expect("it writes");
        output.check_written().expect_err("the line is lost with the file");
        output.check_again();
        assert_eq!(output.ready().expect("it opens"), Ready::NewFile);
    }

    /// The write takes longer than the interval between checks.
    #[tokio::test(start_paused = true)]
    async fn removal_during_a_long_write_is_detected_even_if_the_file_was_not_checked_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.jsonl");
        let mut output = opened(&path);
        assert!(write(&mut output));
        output.ready().expect("it existed at the last check");
        tokio::time::advance(CHECK_INTERVAL).await;
        std::fs::remove_file(&path).expect("it is removed");
        output.write(b"a line\n").expect("it writes");
        output.check_written().expect_err("the line is lost");
        assert!(write(&mut output), "the next write checks and goes to a new file");
        assert!(path.exists());
    }

    #[tokio::test(start_paused = true)]
    async fn outdated_file_is_checked_at_each_write_until_the_new_one_opens() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.jsonl");
        let mut output = opened(&path);
        assert!(write(&mut output));
        std::fs::rename(&path, folder.path().join("audit.1")).expect("it renames");
        std::fs::create_dir(&path).expect("a folder");
        output.reopen();
        assert!(write(&mut output) && output.is_outdated());
        assert!(write(&mut output));
        std::fs::remove_dir(&path).expect("it is removed");
        tokio::time::advance(REOPEN_INTERVAL).await;
        assert_eq!(output.ready().expect("it opens"), Ready::NewFile);
        assert!(!output.is_outdated());
    }

    #[test]
    fn new_file_is_not_accessible_to_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.jsonl");
        let _output = opened(&path);
        assert_eq!(std::fs::metadata(&path).expect("it is there").mode() & 0o137, 0);
    }
}
