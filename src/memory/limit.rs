//! The memory that the system allows the process.

use std::{fs, path::Path};

/// The file systems of control groups, as every container runtime and systemd mount them.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Returns the memory limit of the process in bytes: that of its control group or of one of its
/// parents, or else the memory of the machine; `None` if the system reports neither.
#[must_use]
pub fn system_limit() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|info| total(&info));
    cgroup_limit(Path::new(CGROUPS), &own).into_iter().chain(machine).min()
}

/// The smallest limit of the groups that `own` lists (cgroups(7), `/proc/pid/cgroup`), of either
/// version.
fn cgroup_limit(root: &Path, own: &str) -> Option<u64> {
    own.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, group) = (fields.next()?, fields.next()?);
            let group = Path::new(group.trim_start_matches('/'));
            if controllers.is_empty() {
                // On a system with both versions, the second one is mounted below.
                let unified = smallest(&root.join("unified"), group, "memory.max");
                smallest(root, group, "memory.max").into_iter().chain(unified).min()
            } else if controllers.split(',').any(|controller| controller == "memory") {
                smallest(&root.join("memory"), group, "memory.limit_in_bytes")
            } else {
                None
            }
        })
        .min()
}

/// The smallest limit in `group` and its parents. A container may see itself as the root while
/// `group` is a path outside of it, so folders that do not exist are skipped.
fn smallest(root: &Path, group: &Path, file: &str) -> Option<u64> {
    group
        .ancestors()
        // "max" is not a number; the first version writes a number larger than any memory.
        .filter_map(|group| fs::read_to_string(root.join(group).join(file)).ok()?.trim().parse().ok())
        .min()
}

/// `MemTotal` in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn groups(files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a directory");
        for (file, contents) in files {
            let file = folder.path().join(file);
            fs::create_dir_all(file.parent().expect("a parent")).expect("a directory");
            fs::write(file, contents).expect("a file");
        }
        let root = folder.path().to_path_buf();
        (folder, root)
    }

    #[test]
    fn smallest_limit_of_a_group_and_its_parents_counts() {
        let (_folder, root) = groups(&[
            ("memory.max", "max\n"),
            ("pod/memory.max", "268435456\n"),
            ("pod/container/memory.max", "536870912\n"),
            ("other/memory.max", "1\n"),
        ]);
        assert_eq!(cgroup_limit(&root, "0::/pod/container\n"), Some(268_435_456));
        assert_eq!(cgroup_limit(&root, "0::/\n"), None);
        assert_eq!(cgroup_limit(&root, ""), None);
    }

    #[test]
    fn container_that_is_its_own_root_has_the_limit_of_the_root() {
        let (_folder, root) = groups(&[("memory.max", "134217728\n")]);
        assert_eq!(cgroup_limit(&root, "0::/\n"), Some(134_217_728));
        assert_eq!(cgroup_limit(&root, "0::/../../elsewhere/pod\n"), Some(134_217_728));
    }

    #[test]
    fn first_version_is_read_too_also_beside_the_second() {
        let (_folder, root) = groups(&[
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/service/memory.limit_in_bytes", "67108864\n"),
            ("unified/service/memory.max", "134217728\n"),
        ]);
        let own = "9:name=systemd:/service\n4:cpu,memory:/service\n0::/service\n";
        assert_eq!(cgroup_limit(&root, own), Some(67_108_864));
        assert_eq!(cgroup_limit(&root, "0::/service\n"), Some(134_217_728));
    }

    #[test]
    fn memory_of_the_machine_is_read() {
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       24567 kB\n"), Some(24567 * 1024));
        assert_eq!(total("MemFree: 1 kB\n"), None);
        assert!(system_limit().is_none_or(|limit| limit > 0));
    }
}
