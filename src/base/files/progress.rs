//! The progress of a read, so that other reads do not hang at the same place.
//!
//! A hanging read occupies its thread. Once many do, further reads stop before the place at which
//! an earlier one hangs, so they hang only if the path now leads to another place.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs::{self, Metadata},
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::no_result::NoResult;

/// Maximum number of symbolic links in a path, as in the kernel (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// A place at which a read can hang: the next component of a path, or the file itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    path: PathBuf,
    /// Devices and inodes on the path to it, including symbolic links.
    way: Vec<(u64, u64)>,
    /// Modification times of the file, or of the directory that contains the next component.
    times: Option<[i64; 4]>,
    /// Hash of all mounts, because another file system at the same path is another place.
    mounts: u64,
}

/// The place that a read has reached, at which it hangs if it does not return.
pub(super) type Reached = Arc<Mutex<Option<Place>>>;

/// The progress of one read.
#[derive(Debug, Default)]
pub(super) struct Progress {
    reached: Reached,
    /// The places at which earlier reads hang. Empty if this read may hang there too.
    avoided: Vec<Place>,
    is_careful: bool,
}

impl Progress {
    /// Creates the progress of a read that may hang anywhere.
    pub(super) fn free() -> Self {
        Self::default()
    }

    /// Creates the progress of a read that stops before these places.
    pub(super) fn careful(avoided: Vec<Place>) -> Self {
        Self { avoided, is_careful: true, ..Self::default() }
    }

    pub(super) const fn is_careful(&self) -> bool {
        self.is_careful
    }

    pub(super) fn reached(&self) -> Reached {
        Arc::clone(&self.reached)
    }

    /// Walks a path up to its file, which the caller reads next. File system errors are left to
    /// that read.
    ///
    /// # Errors
    ///
    /// An earlier read hangs at one of the places on the path.
    pub(super) fn approach(&self, path: &Path) -> Result<(), NoResult> {
        let mut rest: VecDeque<OsString> = components(path).collect();
        let mut place = Place { path: PathBuf::new(), way: Vec::new(), times: None, mounts: mounts() };
        let (mut folder, mut links) = (PathBuf::new(), 0);
        while let Some(name) = rest.pop_front() {
            place.path = folder.join(name);
            self.reach(&place)?;
            let Ok(metadata) = fs::symlink_metadata(&place.path) else { return Ok(()) };
            place.way.push((metadata.dev(), metadata.ino()));
            if metadata.is_symlink() {
                links += 1;
                let Ok(target) = fs::read_link(&place.path) else { return Ok(()) };
                if links > MAX_LINKS {
                    return Ok(());
                }
                for name in components(&target).rev() {
                    rest.push_front(name);
                }
            } else {
                place.times = Some(times(&metadata));
                folder.clone_from(&place.path);
            }
        }
        self.reach(&place)
    }

    /// Begins work that does not report its progress.
    ///
    /// # Errors
    ///
    /// Earlier reads hang, so this one may hang too.
    pub(super) const fn untracked(&self) -> Result<(), NoResult> {
        if self.is_careful { Err(NoResult::TooManyPending) } else { Ok(()) }
    }

    fn reach(&self, place: &Place) -> Result<(), NoResult> {
        if self.avoided.contains(place) {
            return Err(NoResult::TooManyPending);
        }
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner) = Some(place.clone());
        Ok(())
    }
}

fn components(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().map(|component| component.as_os_str().to_owned())
}

fn times(metadata: &Metadata) -> [i64; 4] {
    [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()]
}

/// Returns a hash of the mounts of this process. Reading them does not access the file systems.
fn mounts() -> u64 {
    let mut hasher = DefaultHasher::new();
    fs::read("/proc/self/mountinfo").unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// The place at which a read of `path` hangs if the file does not respond.
    fn reached(path: &Path) -> Place {
        let progress = Progress::free();
        progress.approach(path).expect("nothing is avoided");
        let reached = progress.reached.lock().expect("no panic").clone();
        reached.expect("a place")
    }

    #[test]
    fn read_stops_before_a_hanging_file_until_the_path_leads_elsewhere() {
        let folder = tempfile::tempdir().expect("a directory");
        let at = |name: &str| folder.path().join(name);
        for version in ["one", "two"] {
            fs::create_dir(at(version)).expect("a directory");
            fs::write(at(version).join("file"), version).expect("a file");
        }
        symlink("one", at("data")).expect("a link");
        symlink("data/file", at("file")).expect("a link");
        let path = at("file");
        let replace = |new: &str, old: &str| fs::rename(at(new), at(old)).expect("renamed");
        let mut hanging = Vec::new();
        let mut leads_elsewhere = |what: &str| {
            assert!(Progress::careful(hanging.clone()).approach(&path).is_ok(), "{what}");
            hanging.push(reached(&path));
            assert!(Progress::careful(hanging.clone()).approach(&path).is_err(), "{what}, now hanging");
        };
        leads_elsewhere("nothing hangs yet");
        fs::write(at("one/new"), "one").expect("a file");
        replace("one/new", "one/file");
        leads_elsewhere("another file with the same contents");
        let file = fs::File::options().append(true).open(at("one/file")).expect("the file can be opened");
        file.set_modified(std::time::UNIX_EPOCH).expect("the time can be set");
        leads_elsewhere("the file was written to");
        symlink("two", at("new")).expect("a link");
        replace("new", "data");
        leads_elsewhere("a link on the way was replaced");
        fs::remove_file(&path).expect("removed");
        leads_elsewhere("nothing");
        fs::write(&path, "three").expect("a file");
        leads_elsewhere("a file instead of the link");
    }

    /// The directory does not respond, so its contents cannot be compared.
    #[test]
    fn read_stops_before_a_hanging_directory_until_it_is_replaced() {
        let folder = tempfile::tempdir().expect("a directory");
        let (mount, other) = (folder.path().join("mount"), folder.path().join("other"));
        for directory in [&mount, &other] {
            fs::create_dir(directory).expect("a directory");
            fs::write(directory.join("file"), "").expect("a file");
        }
        let hanging = Place { path: mount.clone(), ..reached(folder.path()) };
        let path = mount.join("file");
        assert!(Progress::careful(vec![hanging.clone()]).approach(&path).is_err());
        assert!(Progress::careful(vec![hanging.clone()]).approach(&other.join("file")).is_ok());
        let mounted = Place { mounts: 0, ..hanging.clone() };
        assert!(Progress::careful(vec![mounted]).approach(&path).is_ok(), "something else is mounted");
        fs::rename(&mount, folder.path().join("old")).expect("renamed");
        fs::rename(&other, &mount).expect("renamed");
        assert!(Progress::careful(vec![hanging]).approach(&path).is_ok());
    }

    #[test]
    fn file_system_errors_are_left_to_the_read() {
        let folder = tempfile::tempdir().expect("a directory");
        let circle = folder.path().join("circle");
        symlink("circle", &circle).expect("a link");
        for path in [&circle, &folder.path().join("missing/file"), Path::new(""), Path::new("../..")] {
            assert!(Progress::free().approach(path).is_ok(), "{}", path.display());
        }
    }
}
