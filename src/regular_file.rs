//! Reads the files that the configuration names.
//!
//! Only regular files are read. Opening a FIFO blocks until somebody writes to it, and a
//! pipe or a device cannot be read a second time, which following a file for changes
//! needs. Parsing the contents is left to the callers.

use std::{
    fs::{self, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

/// Maximum size of a file without a limit of its own, in bytes. Far above any real
/// configuration, certificate bundle or key set.
pub const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Smallest buffer for a file: some file systems report a size of 0 for files that have
/// contents.
const MIN_BUFFER: usize = 64 * 1024;

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A FIFO, a pipe, a socket or a device.
    #[error("it is not a regular file")]
    NotRegular,
    /// The file has more bytes than allowed.
    #[error("it is larger than {0} bytes")]
    TooLarge(usize),
    /// The operating system refuses to read it. A directory is
    /// [`IsADirectory`](io::ErrorKind::IsADirectory).
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => error,
            other => Self::new(io::ErrorKind::InvalidInput, other.to_string()),
        }
    }
}

/// The contents of a file, overwritten when dropped.
pub struct Contents {
    /// Everything that the file contained.
    pub bytes: Zeroizing<Vec<u8>>,
    /// The metadata of the file that was read, even if another one has replaced it since.
    pub metadata: Metadata,
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents").finish_non_exhaustive()
    }
}

/// Reads a regular file of at most `max_bytes`. Follows symbolic links. Blocks on the disk,
/// never on another process.
///
/// # Errors
///
/// The file is not a regular one, is larger than `max_bytes`, or cannot be read.
pub fn read(path: &Path, max_bytes: usize) -> Result<Contents, ReadError> {
    // Before opening: opening a device can have side effects.
    check(&fs::metadata(path)?)?;
    // The file can be replaced in between. This flag keeps opening a FIFO from blocking, and
    // has no effect on a regular file.
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    let metadata = file.metadata()?;
    check(&metadata)?;
    let reported = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    // Allocated in full: a buffer that grows leaves copies of a secret behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(reported.max(MIN_BUFFER).min(max_bytes) + 1));
    file.take(max_bytes as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > max_bytes {
        return Err(ReadError::TooLarge(max_bytes));
    }
    Ok(Contents { bytes, metadata })
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
    fn regular_file_is_read_up_to_its_limit_also_behind_a_link() {
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
    fn nothing_but_a_regular_file_is_opened() {
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

    /// Some file systems report a size of 0.
    #[cfg(target_os = "linux")]
    #[test]
    fn file_that_reports_no_size_is_read() {
        assert!(!read(Path::new("/proc/self/status"), MAX_BYTES).expect("a file").bytes.is_empty());
    }
}
