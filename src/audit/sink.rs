//! Where the bytes go: standard output, or a file that may be rotated, removed or full.
//!
//! Nothing here depends on what lines contain. Every function may block, and runs on the
//! thread that writes.

use std::{
    io::{self, Write},
    path::PathBuf,
    thread,
    time::Duration,
};

use super::opened::{Identity, Opened};

/// How long a sink that was made non-blocking may push back: as long as a call waits for
/// its record.
const PUSH_BACK_LIMIT: Duration = Duration::from_secs(1);
const PUSH_BACK_STEP: Duration = Duration::from_millis(5);

/// Where audit records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// A file, appended to; created if need be. A named pipe must have a reader.
    File(PathBuf),
}

impl Sink {
    /// The name in metrics.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Stdout => "stdout",
            Self::File(_) => "file",
        }
    }

    /// The name in messages.
    pub(super) fn path(&self) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            other => PathBuf::from(other.kind()),
        }
    }

    /// Opens the sink. Returns `None` if it is off.
    pub(super) fn open(&self, fsync: bool) -> io::Result<Option<Output>> {
        let (path, opened) = match self {
            Self::Off => return Ok(None),
            Self::Stdout => (None, Opened::stdout()?),
            Self::File(path) => (Some(path.clone()), Opened::file(path, fsync)?),
        };
        Ok(Some(Output { path, opened: Some(opened), fsync }))
    }
}

/// An open sink.
pub(super) struct Output {
    path: Option<PathBuf>,
    opened: Option<Opened>,
    fsync: bool,
}

/// Where a write stopped in the middle of a line.
#[derive(Clone, Copy)]
pub(super) struct Torn {
    identity: Identity,
    length: u64,
}

/// How to go on after a line was torn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resume {
    /// The beginning of the line is the last that was written: write the rest.
    Rest,
    /// It is another file, or an emptied one: write the whole line.
    Whole,
    /// Something else may have been written since: end that line, then write the whole line.
    NewLine,
}

impl Output {
    /// Makes sure that the next write goes to the file that the path leads to now.
    pub(super) fn ready(&mut self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        if let Some(opened) = &self.opened
            && opened.is_at(path)?
        {
            return Ok(());
        }
        self.opened = Some(Opened::file(path, self.fsync)?);
        Ok(())
    }

    /// Closes the file; [`ready`](Self::ready) opens it again.
    pub(super) fn release(&mut self) {
        if self.path.is_some() {
            self.opened = None;
        }
    }

    /// Whether what is written next would continue a line of somebody else: the file ended in
    /// half a line when it was opened, and nothing was written since.
    pub(super) fn is_unfinished(&self) -> bool {
        self.opened.as_ref().is_some_and(|opened| opened.unfinished)
    }

    /// Records that the sink may end in half a line.
    pub(super) fn set_unfinished(&mut self) {
        if let Some(opened) = &mut self.opened {
            opened.unfinished = true;
        }
    }

    /// Returns how many bytes of lines that nobody waits for can be written after `pending`
    /// other bytes, without making a later line block.
    pub(super) fn spare_room(&self, pending: usize) -> usize {
        self.opened.as_ref().map_or(usize::MAX, |opened| opened.spare_room(pending))
    }

    /// Writes once; the write may be short.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(opened) = &mut self.opened else { return Err(io::ErrorKind::NotFound.into()) };
        let mut pushed_back = Duration::ZERO;
        loop {
            match opened.file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    opened.unfinished = false;
                    return Ok(written);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && pushed_back < PUSH_BACK_LIMIT => {
                    thread::sleep(PUSH_BACK_STEP);
                    pushed_back += PUSH_BACK_STEP;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until what was written is on the disk, if that is configured.
    pub(super) fn sync(&self) -> io::Result<()> {
        match &self.opened {
            Some(opened) if self.fsync && opened.is_regular() => opened.file.sync_data(),
            _ => Ok(()),
        }
    }

    /// Records where a line was torn.
    pub(super) fn torn(&self) -> Option<Torn> {
        let opened = self.opened.as_ref()?;
        Some(Torn { identity: opened.identity, length: opened.file.metadata().ok()?.len() })
    }

    /// Returns how to go on with a line that was torn there.
    pub(super) fn resume(&self, torn: Torn) -> Resume {
        let Some(opened) = &self.opened else { return Resume::Whole };
        if opened.identity != torn.identity {
            return Resume::Whole;
        }
        match opened.file.metadata() {
            Ok(metadata) if opened.is_regular() && metadata.len() == torn.length => Resume::Rest,
            Ok(metadata) if opened.is_regular() && metadata.len() == 0 => Resume::Whole,
            _ => Resume::NewLine,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::OpenOptions, os::unix::fs::MetadataExt, path::Path};

    use super::*;

    fn opened(path: &Path) -> Output {
        Sink::File(path.to_owned()).open(false).expect("it opens").expect("it is on")
    }

    #[test]
    fn a_torn_line_is_finished_only_where_it_was_begun() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.jsonl");
        let mut output = opened(&path);
        output.write(b"half a li").expect("it writes");
        let torn = output.torn().expect("a file");
        assert_eq!(output.resume(torn), Resume::Rest);

        let mut other = OpenOptions::new().append(true).open(&path).expect("it opens");
        other.write_all(b"somebody else").expect("it writes");
        assert_eq!(output.resume(torn), Resume::NewLine);

        other.set_len(0).expect("it truncates");
        assert_eq!(output.resume(torn), Resume::Whole);

        std::fs::rename(&path, folder.path().join("audit.1")).expect("it renames");
        output.ready().expect("it opens anew");
        assert_eq!(output.resume(torn), Resume::Whole);
    }

    #[test]
    fn a_new_file_is_closed_to_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.jsonl");
        let _output = opened(&path);
        assert_eq!(std::fs::metadata(&path).expect("it is there").mode() & 0o137, 0);
    }
}
