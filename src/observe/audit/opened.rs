//! One open file, pipe or device, and the properties that affect how it is written.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Seek},
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::{Errno, ioctl_fionread},
    pipe::fcntl_getpipe_size,
};

use super::device;

/// Lines that no call waits for may fill one part in this many of a pipe. A pipe has whole pages,
/// and a write that does not fit into the rest of one begins another: in the worst case, this part
/// of the bytes takes half of the pages.
const SPARE_PART: usize = 4;
/// Bytes of such lines that are written to a socket at once. A socket is writable while at most a
/// quarter of its buffer of about 200 KiB is in use.
const SPARE_IN_SOCKET: usize = 32 * 1024;
/// Bytes of such lines that are written to a device at once. A terminal is writable while at most
/// 256 bytes of its buffer of 4 KiB are in use.
const SPARE_IN_DEVICE: usize = 2048;

/// Mode bits that let users outside the file's group read it, or users other than its owner change
/// it.
const OPEN_TO_OTHERS: u32 = 0o026;

/// An open sink.
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) identity: Identity,
    /// Whether the existing content may end in a partial line.
    pub(super) unfinished: bool,
    kind: Kind,
}

/// Identity of a file, regardless of its name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Regular,
    Pipe,
    Socket,
    /// A terminal or another device.
    Device,
}

impl Opened {
    pub(super) fn stdout() -> io::Result<Self> {
        // A separate descriptor: records bypass the lock and buffer of the standard library.
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        // Leads to the same file, with a separate offset and access mode.
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        Self::new(file, &path)
    }

    /// Opens the file at this path, or creates it. With `fsync`, its name is on the disk
    /// afterwards.
    pub(super) fn file(path: &Path, fsync: bool) -> io::Result<Self> {
        // Opening a named pipe without a reader must fail, not wait.
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            .custom_flags(flags(OFlags::NONBLOCK))
            .open(path)?;
        fcntl_setfl(&file, fcntl_getfl(&file)?.difference(OFlags::NONBLOCK))?;
        let opened = Self::new(file, path)?;
        match (fsync, opened.is_regular()) {
            (false, _) => {}
            (true, true) => sync_name(path)?,
            (true, false) => tracing::warn!(
                path = %path.display(),
                "audit sink cannot be synced"
            ),
        }
        Ok(opened)
    }

    /// `path` leads to the same file, for reading it.
    fn new(file: File, path: &Path) -> io::Result<Self> {
        let metadata = file.metadata()?;
        device::check(&metadata)?;
        let kind = match metadata.file_type() {
            kind if kind.is_file() => Kind::Regular,
            kind if kind.is_fifo() => Kind::Pipe,
            kind if kind.is_socket() => Kind::Socket,
            _ => Kind::Device,
        };
        let identity = Identity::of(&metadata);
        let mut opened = Self { file, identity, unfinished: false, kind };
        opened.unfinished = opened.ends_in_partial_line(path)?;
        Ok(opened)
    }

    pub(super) const fn is_regular(&self) -> bool {
        matches!(self.kind, Kind::Regular)
    }

    /// Returns whether the file still has a name. True for everything but regular files.
    pub(super) fn has_name(&self) -> bool {
        !self.is_regular() || self.file.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
    }

    /// Warns if other users can read or change the file. A file that replaced a rotated one may
    /// have a different mode.
    pub(super) fn warn_if_exposed(&self, path: &Path) {
        if let Ok(metadata) = self.file.metadata()
            && self.is_regular()
            && metadata.mode() & OPEN_TO_OTHERS != 0
        {
            let mode = format!("{:04o}", metadata.mode() & 0o7777);
            tracing::warn!(path = %path.display(), mode, "audit file accessible to other users");
        }
    }

    /// Waits until it is writable, at most for this time.
    pub(super) fn await_room(&self, limit: Duration) {
        let mut descriptors = [PollFd::new(&self.file, PollFlags::OUT)];
        // If this fails, the write that follows reports why.
        let _ = poll(&mut descriptors, Timespec::try_from(limit).ok().as_ref());
    }

    /// Returns whether the path leads to this file.
    pub(super) fn is_at(&self, path: &Path) -> io::Result<bool> {
        match fs::metadata(path) {
            Ok(metadata) => Ok(Identity::of(&metadata) == self.identity),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns how many bytes of lines that no call waits for can be written after `pending` other
    /// bytes, without making a later line block.
    pub(super) fn spare_room(&self, pending: usize) -> usize {
        match self.kind {
            Kind::Regular => usize::MAX,
            Kind::Pipe => self.spare_room_in_pipe(pending).unwrap_or_default(),
            Kind::Socket => self.room_if_writable(SPARE_IN_SOCKET),
            Kind::Device => self.room_if_writable(SPARE_IN_DEVICE),
        }
    }

    fn spare_room_in_pipe(&self, pending: usize) -> Result<usize, Errno> {
        let unread = usize::try_from(ioctl_fionread(&self.file)?).unwrap_or(usize::MAX);
        let taken = unread.saturating_add(pending);
        let limit = fcntl_getpipe_size(&self.file)? / SPARE_PART;
        Ok(limit.saturating_sub(taken))
    }

    fn room_if_writable(&self, room: usize) -> usize {
        let mut descriptors = [PollFd::new(&self.file, PollFlags::OUT)];
        match poll(&mut descriptors, Some(&Timespec::default())) {
            Ok(0) => 0,
            // If the sink has a problem, the write reports it.
            Ok(_) | Err(_) => room,
        }
    }

    /// Returns whether the next write would continue a partial line, left by a crash or a full
    /// disk. Only regular files are read.
    fn ends_in_partial_line(&self, path: &Path) -> io::Result<bool> {
        if !self.is_regular() {
            return Ok(false);
        }
        let end = if fcntl_getfl(&self.file)?.contains(OFlags::APPEND) {
            self.file.metadata()?.len()
        } else {
            (&self.file).stream_position()?
        };
        let Some(last) = end.checked_sub(1) else { return Ok(false) };
        match self.byte_at(last, path) {
            Ok(byte) => Ok(byte != b'\n'),
            Err(error) => {
                tracing::warn!(
                    %error,
                    path = %path.display(),
                    "cannot read end of audit file, starting a new line"
                );
                Ok(true)
            }
        }
    }

    fn byte_at(&self, offset: u64, path: &Path) -> io::Result<u8> {
        // A named pipe may have replaced the file, and opening that must not wait.
        let reader = OpenOptions::new().read(true).custom_flags(flags(OFlags::NONBLOCK)).open(path)?;
        if Identity::of(&reader.metadata()?) != self.identity {
            return Err(io::Error::other("the file was replaced"));
        }
        let mut byte = [0];
        reader.read_exact_at(&mut byte, offset)?;
        Ok(byte[0])
    }
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

fn flags(flags: OFlags) -> i32 {
    i32::try_from(flags.bits()).unwrap_or_default()
}

/// Syncs the directory entry of the file: without it, the file may be missing after a power
/// failure.
fn sync_name(path: &Path) -> io::Result<()> {
    // A link may lead to a file in another folder.
    let file = fs::canonicalize(path)?;
    let Some(folder) = file.parent() else { return Ok(()) };
    let context = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot sync the folder {}: {error}", folder.display()))
    };
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            tracing::warn!(folder = %folder.display(), "file system cannot sync folders");
            Ok(())
        }
        result => result.map_err(context),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(content: &str, reader: &Path) -> Opened {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.jsonl");
        fs::write(&path, content).expect("it is written");
        let file = OpenOptions::new().append(true).open(&path).expect("it opens");
        Opened::new(file, reader).expect("its state can be read")
    }

    #[test]
    fn file_with_an_unreadable_end_counts_as_unfinished_unless_it_is_empty() {
        for reader in ["/nowhere", "/dev/null", "/proc/self/cmdline"] {
            assert!(opened("a line\n", Path::new(reader)).unfinished, "{reader}");
            assert!(!opened("", Path::new(reader)).unfinished, "{reader}");
        }
    }

    #[test]
    fn file_that_is_not_appended_to_is_continued_at_its_offset() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.jsonl");
        fs::write(&path, "one\ntwo").expect("it is written");
        for (offset, unfinished) in [(0, false), (1, true), (4, false), (7, true)] {
            let mut file = OpenOptions::new().write(true).open(&path).expect("it opens");
            file.seek(io::SeekFrom::Start(offset)).expect("it seeks");
            let opened = Opened::new(file, &path).expect("its state can be read");
            assert_eq!(opened.unfinished, unfinished, "{offset}");
        }
    }
}
