//! Rejects files that cannot hold an audit log.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use rustix::fs::{major, minor};

/// Major number of the memory devices (Linux, `Documentation/admin-guide/devices.txt`).
const MEMORY_DEVICES: u32 = 1;
/// Minor numbers of those that accept and discard data: `/dev/null`, `/dev/zero`, `/dev/random` and
/// `/dev/urandom`.
const DISCARDING: [u32; 4] = [3, 5, 8, 9];

/// Fails if a file with this metadata would discard every record.
///
/// The standard library opens `/dev/null` in place of a standard output that was closed at process
/// start, so this detects that case as well.
pub(super) fn check(metadata: &Metadata) -> io::Result<()> {
    let device = metadata.rdev();
    let discards = metadata.file_type().is_char_device()
        && major(device) == MEMORY_DEVICES
        && DISCARDING.contains(&minor(device));
    if discards {
        return Err(io::Error::other(
            "it is /dev/null or another device that discards all data; to run without an audit log, \
             set sink = \"off\"",
        ));
    }
    Ok(())
}

/// Fails if the path leads to such a file, without opening it. A file that does not exist yet
/// is fine.
pub(super) fn check_path(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(metadata) => check(&metadata),
        // Opening the file reports whether it is accessible.
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn devices_that_discard_records_are_refused_by_any_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let link = folder.path().join("audit.jsonl");
        symlink("/dev/null", &link).expect("a link");
        for path in ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"].map(Path::new) {
            let error = check_path(path).expect_err("it discards").to_string();
            assert!(error.ends_with("set sink = \"off\""), "{error}");
        }
        check_path(&link).expect_err("it leads there");
        for path in ["/dev/full", "/etc/passwd", "/nowhere"].map(Path::new) {
            check_path(path).expect("it keeps or refuses what is written");
        }
    }
}
