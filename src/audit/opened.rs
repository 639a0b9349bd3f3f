//! One open file, pipe or device, with what decides how it is written to.

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

/// Part of a pipe that may be filled by lines that nobody waits for. A pipe has whole pages,
/// and a write that does not fit into the rest of one begins another: in the worst case,
/// this part of the bytes takes half of the pages.
const SPARE_PART: usize = 4;
/// Bytes of such lines that a socket takes at once. It counts as writable while at most a
/// quarter of its buffer is in use, which has some 200 KiB.
const SPARE_IN_SOCKET: usize = 32 * 1024;
/// Bytes of such lines that a device takes at once. A terminal counts as writable while at
/// most 256 bytes of its buffer are in use, which has 4 KiB.
const SPARE_IN_DEVICE: usize = 2048;

/// Bits of a file's mode that let users read it who are not in its group, or others than
/// its owner change it.
const OPEN_TO_OTHERS: u32 = 0o026;

/// An open sink.
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) identity: Identity,
    /// What is there may end in half a line.
    pub(super) unfinished: bool,
    kind: Kind,
}

/// Which file it is, regardless of its name.
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
        // A descriptor of its own: records bypass the standard library's lock and buffer.
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        // Leads to the same file, with an offset and an access mode of its own.
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        Self::new(file, &path)
    }

    /// Opens the file at this path, or creates it. With `fsync`, its name is on the disk
    /// afterwards.
    pub(super) fn file(path: &Path, fsync: bool) -> io::Result<Self> {
        // Opening a named pipe that nobody reads must fail, not wait.
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
                "fsync has no effect: audit sink is not a regular file"
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
        opened.unfinished = opened.ends_in_half_a_line(path)?;
        Ok(opened)
    }

    pub(super) const fn is_regular(&self) -> bool {
        matches!(self.kind, Kind::Regular)
    }

    /// Whether the file can still be found by some name. Others than regular files always
    /// can.
    pub(super) fn has_name(&self) -> bool {
        !self.is_regular() || self.file.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
    }

    /// Warns if others can read or change the file, as one may be that was put in the place of
    /// a rotated one.
    pub(super) fn warn_if_exposed(&self, path: &Path) {
        if let Ok(metadata) = self.file.metadata()
            && self.is_regular()
            && metadata.mode() & OPEN_TO_OTHERS != 0
        {
            let mode = format!("{:04o}", metadata.mode() & 0o7777);
            tracing::warn!(path = %path.display(), mode, "audit file is open to other users, use mode 0640");
        }
    }

    /// Waits until something can be written to it, at most for this time.
    pub(super) fn await_room(&self, limit: Duration) {
        let mut descriptors = [PollFd::new(&self.file, PollFlags::OUT)];
        // If this fails, the write that follows reports why.
        let _ = poll(&mut descriptors, Timespec::try_from(limit).ok().as_ref());
    }

    /// Whether the path leads to this file.
    pub(super) fn is_at(&self, path: &Path) -> io::Result<bool> {
        match fs::metadata(path) {
            Ok(metadata) => Ok(Identity::of(&metadata) == self.identity),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns how many bytes of lines that nobody waits for can be written after `pending`
    /// other bytes. What they leave in the sink does not make a later line block.
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
            // The write reports what is wrong with the sink, if anything is.
            Ok(_) | Err(_) => room,
        }
    }

    /// Whether the byte before the next one that is written belongs to a line that has no
    /// end: a crash or a full disk has cut it. Only regular files are read.
    fn ends_in_half_a_line(&self, path: &Path) -> io::Result<bool> {
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
        // A named pipe may have replaced it: opening that must not wait.
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

/// Waits until the file's name is on the disk: a record that is on the disk cannot be found
/// without it after a power failure.
fn sync_name(path: &Path) -> io::Result<()> {
    // A link leads to a file that may have been created in another folder.
    let file = fs::canonicalize(path)?;
    let Some(folder) = file.parent() else { return Ok(()) };
    let context = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot sync its folder {}: {error}", folder.display()))
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
    fn file_whose_end_cannot_be_read_counts_as_unfinished_unless_it_is_empty() {
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
