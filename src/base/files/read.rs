//! A bounded read of a regular file.
//!
//! Other kinds of files are refused: opening a FIFO blocks until another process writes to it, and
//! pipes and devices cannot be read again, which following changes requires.

use std::{
    borrow::Cow,
    fs::{self, Metadata, OpenOptions},
    io::{self, Read, Seek},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
    time::SystemTime,
};

use aws_lc_rs::digest::{self, SHA256};
use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::{no_result::NoResult, progress::Progress, timed};

/// Default maximum size of a file, in bytes. Several times the size of the bundle of all public
/// authorities.
pub const MAX_BYTES: usize = 1024 * 1024;

/// Size of the buffer for a file of unknown size. Some file systems report a size of 0 for files
/// with contents.
const UNKNOWN_SIZE_BUFFER: usize = 64 * 1024;

/// Reason that a file cannot be read. `Display` is the text that `check-config`, startup and
/// reloads report.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file is a FIFO, a pipe, a socket or a device.
    #[error("is not a regular file, so it cannot be read again after a change; write the contents to a file")]
    NotRegular,
    /// The file has more bytes than allowed.
    #[error("is larger than {0} bytes; check that this is the right file")]
    TooLarge(usize),
    /// The operating system returned an error, for a directory
    /// [`IsADirectory`](io::ErrorKind::IsADirectory).
    #[error("{}", describe(.0.kind()))]
    Io(#[from] io::Error),
    /// The file was not read in time.
    #[error(transparent)]
    NoResult(#[from] NoResult),
}

/// Returns why the operating system could not open or read a file, and the remedy.
pub fn describe(kind: io::ErrorKind) -> Cow<'static, str> {
    match kind {
        io::ErrorKind::NotFound => "no such file".into(),
        io::ErrorKind::NotADirectory => "no such file, because a part of the path is a file".into(),
        io::ErrorKind::IsADirectory => "is a directory; name a file".into(),
        io::ErrorKind::PermissionDenied => {
            "permission denied; allow this user to read it and to enter its folders".into()
        }
        other => format!("the file cannot be read ({other})").into(),
    }
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => error,
            ReadError::NoResult(NoResult::TimedOut) => Self::new(io::ErrorKind::TimedOut, error.to_string()),
            other => Self::new(io::ErrorKind::InvalidInput, other.to_string()),
        }
    }
}

/// The contents of a file, overwritten when dropped.
pub struct Contents {
    /// The bytes of the file.
    pub bytes: Zeroizing<Vec<u8>>,
    /// The metadata of the file that was read, even if another one has replaced it since.
    pub metadata: Metadata,
    /// Access of other users of this machine to the file.
    pub exposure: Exposure,
}

/// Access of every user of this machine to a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exposure {
    /// They can read it.
    pub readable: bool,
    /// They can change it.
    pub writable: bool,
    /// They can replace it, because they can write to its directory or to that of the symbolic link
    /// by which it was opened.
    pub replaceable: bool,
}

/// Mode bits (inode(7)).
const OTHERS_MAY_READ: u32 = 0o004;
const OTHERS_MAY_WRITE: u32 = 0o002;
/// In a directory with this bit, users can rename and remove only their own files.
const STICKY: u32 = 0o1000;

impl Exposure {
    fn of(path: &Path, file: &Metadata) -> Self {
        let is_open = |folder: &Path| {
            fs::metadata(folder)
                .is_ok_and(|folder| folder.mode() & OTHERS_MAY_WRITE != 0 && folder.mode() & STICKY == 0)
        };
        // The parent of a bare file name is the current directory.
        let folder =
            path.parent().map(|folder| if folder == Path::new("") { Path::new(".") } else { folder });
        let target = fs::canonicalize(path).ok();
        let target_folder = target.as_deref().and_then(Path::parent);
        Self {
            readable: file.mode() & OTHERS_MAY_READ != 0,
            writable: file.mode() & OTHERS_MAY_WRITE != 0,
            replaceable: folder.into_iter().chain(target_folder).any(is_open),
        }
    }
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents").finish_non_exhaustive()
    }
}

/// Reads a regular file of at most `max_bytes`. Follows symbolic links. Blocks for at most
/// [`READ_TIMEOUT`](super::READ_TIMEOUT).
///
/// # Errors
///
/// The file is not a regular file, is larger than `max_bytes`, or cannot be read in time.
pub fn read(path: &Path, max_bytes: usize) -> Result<Contents, ReadError> {
    let file = path.to_owned();
    timed::wait(&path.display().to_string(), move |progress| Reader::new(progress).read(&file, max_bytes))?
}

/// Reads the files of one poll, and records their versions.
pub struct Reader {
    progress: Progress,
    version: digest::Context,
    last_write: Option<SystemTime>,
}

/// Identifies the state of all files that were read in one poll: their identity and their contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version([u8; 32]);

impl Reader {
    pub(super) fn new(progress: Progress) -> Self {
        Self { progress, version: digest::Context::new(&SHA256), last_write: None }
    }

    /// Reads a regular file of at most `max_bytes`. Follows symbolic links. Has no timeout of its
    /// own, because the poll has one.
    ///
    /// # Errors
    ///
    /// The file is not a regular file, is larger than `max_bytes`, or cannot be read.
    pub fn read(&mut self, path: &Path, max_bytes: usize) -> Result<Contents, ReadError> {
        let approached = self.progress.approach(path).map_err(ReadError::from);
        let result = approached.and_then(|()| read_untimed(path, max_bytes));
        match &result {
            Ok(Contents { bytes, metadata, .. }) => {
                let modified = metadata.modified().ok();
                self.last_write = self.last_write.max(modified);
                let stamps = [metadata.dev(), metadata.ino(), metadata.len(), bytes.len() as u64];
                let times = [metadata.mtime(), metadata.mtime_nsec()];
                self.version.update(b"file");
                for stamp in stamps {
                    self.version.update(&stamp.to_be_bytes());
                }
                for time in times {
                    self.version.update(&time.to_be_bytes());
                }
                self.version.update(bytes);
            }
            Err(error) => {
                self.version.update(b"none");
                self.version.update(error.to_string().as_bytes());
            }
        }
        result
    }

    /// Begins a read of files that bypasses this reader.
    ///
    /// # Errors
    ///
    /// Earlier reads hang, so this one may hang too.
    pub const fn begin_untracked(&self) -> Result<(), NoResult> {
        self.progress.untracked()
    }

    pub(super) fn version(&self) -> Version {
        let mut version = [0; 32];
        version.copy_from_slice(self.version.clone().finish().as_ref());
        Version(version)
    }

    /// Returns the time of the last write to any of the files; unknown on some file systems.
    pub(super) const fn last_write(&self) -> Option<SystemTime> {
        self.last_write
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

fn read_untimed(path: &Path, max_bytes: usize) -> Result<Contents, ReadError> {
    // Checked before opening, because opening a device can have side effects.
    check(&fs::metadata(path)?)?;
    // The file can be replaced in between. With this flag, opening a FIFO does not block. It has no
    // effect on a regular file.
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    let metadata = file.metadata()?;
    check(&metadata)?;
    let reported = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    if reported > max_bytes {
        return Err(ReadError::TooLarge(max_bytes));
    }
    let bytes = read_contents(file, reported, max_bytes)?;
    let exposure = Exposure::of(path, &metadata);
    Ok(Contents { bytes, metadata, exposure })
}

/// Reads a file whose metadata reports the size `reported`.
///
/// The buffer is allocated at its full size, because a growing buffer leaves copies of a secret in
/// memory. It is no larger than needed, because it is overwritten on drop, at every poll. A file
/// with more contents than reported, because it grows, is read again with a larger buffer.
fn read_contents(
    mut file: impl Read + Seek,
    reported: usize,
    max_bytes: usize,
) -> Result<Zeroizing<Vec<u8>>, ReadError> {
    let mut expected = if reported == 0 { UNKNOWN_SIZE_BUFFER } else { reported }.min(max_bytes);
    loop {
        // One more byte than expected shows whether there is more.
        let capacity = expected.saturating_add(1);
        let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
        (&mut file).take(capacity as u64).read_to_end(&mut bytes)?;
        if bytes.len() <= expected {
            return Ok(bytes);
        }
        if expected == max_bytes {
            return Err(ReadError::TooLarge(max_bytes));
        }
        expected = max_bytes;
        file.rewind()?;
    }
}

fn check(metadata: &Metadata) -> Result<(), ReadError> {
    if metadata.is_file() {
        Ok(())
    } else if metadata.is_dir() {
        Err(ReadError::Io(io::ErrorKind::IsADirectory.into()))
    } else {
        Err(ReadError::NotRegular)
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, process::Command};

    use super::*;

    #[test]
    fn regular_file_is_read_up_to_its_limit_even_through_a_symlink() {
        let folder = tempfile::tempdir().expect("a directory");
        let (path, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&path, [7; 100]).expect("a file");
        symlink(&path, &link).expect("a link");
        for path in [&path, &link] {
            assert_eq!(*read(path, 100).expect("it fits").bytes, [7; 100]);
            assert!(matches!(read(path, 99), Err(ReadError::TooLarge(99))));
        }
    }

    #[test]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().expect("a directory");
        let fifo = folder.path().join("fifo");
        // Opening it would block until the test is killed.
        assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        for path in [&*fifo, &*socket, Path::new("/dev/null")] {
            assert!(matches!(read(path, MAX_BYTES), Err(ReadError::NotRegular)), "{}", path.display());
        }
        let kind = |path: &Path| io::Error::from(read(path, MAX_BYTES).expect_err("no file")).kind();
        assert_eq!(kind(folder.path()), io::ErrorKind::IsADirectory);
        assert_eq!(kind(&folder.path().join("missing")), io::ErrorKind::NotFound);
        assert_eq!(kind(&fifo), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn endless_and_too_large_files_use_no_memory() {
        let folder = tempfile::tempdir().expect("a directory");
        let (large, endless) = (folder.path().join("large"), folder.path().join("endless"));
        fs::File::create(&large).expect("a file").set_len(1 << 40).expect("a sparse file");
        symlink("/dev/zero", &endless).expect("a link");
        assert!(matches!(read(&large, MAX_BYTES), Err(ReadError::TooLarge(MAX_BYTES))));
        assert!(matches!(read(&endless, MAX_BYTES), Err(ReadError::NotRegular)));
    }

    #[test]
    fn version_changes_with_contents_inode_and_modification_time() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("file");
        let version = || {
            let mut reader = Reader::new(Progress::default());
            let _ = reader.read(&path, MAX_BYTES);
            reader.version()
        };
        let mut seen = vec![version()];
        let mut is_new = |what: &str| {
            let new = version();
            assert!(!seen.contains(&new), "{what}");
            assert_eq!(new, version(), "{what}");
            seen.push(new);
        };
        let set_time = |seconds| {
            let file = fs::File::options().append(true).open(&path).expect("it can be opened");
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).expect("set");
        };
        fs::write(&path, "one").expect("a file");
        set_time(1);
        is_new("a new file");
        set_time(2);
        is_new("a later write of the same contents");
        fs::write(&path, "two").expect("a file");
        set_time(2);
        is_new("other contents of the same size at the same time");
        fs::write(folder.path().join("new"), "two").expect("a file");
        fs::rename(folder.path().join("new"), &path).expect("renamed");
        set_time(2);
        is_new("another file");
    }

    #[test]
    fn growing_file_is_read_in_full_without_growing_the_buffer() {
        let contents = |bytes: usize, reported: usize| {
            let read = read_contents(io::Cursor::new(vec![7; bytes]), reported, 100);
            read.map(|read| (read.len(), read.capacity()))
        };
        assert_eq!(contents(10, 10).expect("it fits"), (10, 11));
        assert_eq!(contents(9, 10).expect("it has shrunk"), (9, 11));
        for (bytes, reported) in [(11, 10), (99, 10), (100, 10), (100, 99), (100, 100), (10, 0)] {
            assert_eq!(contents(bytes, reported).expect("it fits"), (bytes, 101), "{reported}");
        }
        for reported in [0, 10, 100] {
            assert!(matches!(contents(101, reported), Err(ReadError::TooLarge(100))), "{reported}");
        }
    }

    /// Some file systems report a size of 0.
    #[cfg(target_os = "linux")]
    #[test]
    fn file_that_reports_a_size_of_0_is_read() {
        assert!(!read(Path::new("/proc/self/status"), MAX_BYTES).expect("a file").bytes.is_empty());
    }
}
