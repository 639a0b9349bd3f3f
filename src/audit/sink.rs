//! Where the bytes go: standard output, or a file that may be rotated, removed or
//! full.
//!
//! Nothing here knows lines; every function may block for as long as the kernel
//! pleases, and runs on the writer's own thread.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, Write},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// How long a sink that somebody made non-blocking may push back: as long as a call
/// waits for its record.
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
    /// The word for metrics.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Stdout => "stdout",
            Self::File(_) => "file",
        }
    }

    /// The word for messages.
    pub(super) fn path(&self) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            other => PathBuf::from(other.kind()),
        }
    }

    /// Opens it; none if it is off.
    pub(super) fn open(&self, fsync: bool) -> io::Result<Option<Output>> {
        let (path, opened) = match self {
            Self::Off => return Ok(None),
            Self::Stdout => (None, Opened::stdout()?),
            Self::File(path) => (Some(path.clone()), Opened::file(path)?),
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

struct Opened {
    file: File,
    identity: Identity,
    regular: bool,
}

/// Which file it is, whatever it is called.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

/// Where a write broke off in the middle of a line.
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
    /// Who knows what was written since: end that line, then write the whole line.
    NewLine,
}

impl Output {
    /// Makes sure that what is written next goes to the file that the path names now.
    pub(super) fn ready(&mut self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        if let Some(opened) = &self.opened {
            match std::fs::metadata(path) {
                Ok(metadata) if Identity::of(&metadata) == opened.identity => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        self.opened = Some(Opened::file(path)?);
        Ok(())
    }

    /// Lets go of the file; [`ready`](Self::ready) opens it anew.
    pub(super) fn release(&mut self) {
        if self.path.is_some() {
            self.opened = None;
        }
    }

    /// One write; may be short.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(opened) = &mut self.opened else { return Err(io::ErrorKind::NotFound.into()) };
        let mut pushed_back = Duration::ZERO;
        loop {
            match opened.file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && pushed_back < PUSH_BACK_LIMIT => {
                    thread::sleep(PUSH_BACK_STEP);
                    pushed_back += PUSH_BACK_STEP;
                }
                result => return result,
            }
        }
    }

    /// Waits until what was written is on the disk, if that is asked for.
    pub(super) fn sync(&self) -> io::Result<()> {
        match &self.opened {
            Some(opened) if self.fsync && opened.regular => opened.file.sync_data(),
            _ => Ok(()),
        }
    }

    /// Notes where a line was torn.
    pub(super) fn torn(&self) -> Option<Torn> {
        let opened = self.opened.as_ref()?;
        Some(Torn { identity: opened.identity, length: opened.file.metadata().ok()?.len() })
    }

    /// How to go on with a line that was torn there.
    pub(super) fn resume(&self, torn: Torn) -> Resume {
        let Some(opened) = &self.opened else { return Resume::Whole };
        if opened.identity != torn.identity {
            return Resume::Whole;
        }
        match opened.file.metadata() {
            Ok(metadata) if opened.regular && metadata.len() == torn.length => Resume::Rest,
            Ok(metadata) if opened.regular && metadata.len() == 0 => Resume::Whole,
            _ => Resume::NewLine,
        }
    }
}

impl Opened {
    fn stdout() -> io::Result<Self> {
        // A descriptor of its own: the standard library's lock and buffer are not for
        // records.
        Self::new(File::from(io::stdout().as_fd().try_clone_to_owned()?))
    }

    fn file(path: &Path) -> io::Result<Self> {
        // Opening a named pipe that nobody reads must fail, not wait.
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let file =
            OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(nonblocking).open(path)?;
        fcntl_setfl(&file, fcntl_getfl(&file)?.difference(OFlags::NONBLOCK))?;
        Self::new(file)
    }

    fn new(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { file, identity: Identity::of(&metadata), regular: metadata.is_file() })
    }
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

#[cfg(test)]
mod tests {
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
