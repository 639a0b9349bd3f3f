//! The memory limit of the process.

use std::{fs, path::Path};

/// Mount point of the cgroup file systems, as used by container runtimes and systemd.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Returns the memory limit of the process in bytes: the minimum of the limits of its control group
/// and the parent groups, and of the memory of the machine. `None` if the system reports none of
/// them.
#[must_use]
pub fn system_limit() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|info| total(&info));
    cgroup_limit(Path::new(CGROUPS), &own).into_iter().chain(machine).min()
}

/// Returns the smallest limit of the groups listed in `own` (cgroups(7), `/proc/pid/cgroup`), of
/// either version.
fn cgroup_limit(root: &Path, own: &str) -> Option<u64> {
    own.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, group) = (fields.next()?, fields.next()?);
            let group = Path::new(group.trim_start_matches('/'));
            if controllers.is_empty() {
                // On a system with both versions, version 2 is mounted below.
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

/// Returns the smallest limit of `group` and its parents. In a container, `group` may be a path
/// outside of its own root, so missing directories are skipped.
fn smallest(root: &Path, group: &Path, file: &str) -> Option<u64> {
    group
        .ancestors()
        // "max" is not a number. Version 1 reports a number larger than any memory instead.
        .filter_map(|group| fs::read_to_string(root.join(group).join(file)).ok()?.trim().parse().ok())
        .min()
}

/// Returns `MemTotal` in bytes.
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
    fn smallest_limit_of_a_group_and_its_parents_is_used() {
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
    fn version_1_is_read_even_beside_version_2() {
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
