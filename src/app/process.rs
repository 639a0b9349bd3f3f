//! What the process asks of the system for the sake of its secrets.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Keeps secrets out of core dumps, and out of reach of a debugger that another process
/// of the same user attaches.
///
/// For the very start of a program, before there is a log. The caller logs the error once
/// there is one.
pub fn forbid_core_dumps() -> std::io::Result<()> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let limited = setrlimit(Resource::Core, none);
    let hidden = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    limited.and(hidden)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::process::{dumpable_behavior, getrlimit};

    use super::*;

    /// The other process of the next test: what it forbids is forbidden for its life.
    #[test]
    #[ignore = "run by another test, in a process of its own"]
    fn child_that_forbids_core_dumps() {
        // The state after `execve`, which the harness has not changed.
        assert!(matches!(dumpable_behavior(), Ok(DumpableBehavior::Dumpable)));
        forbid_core_dumps().unwrap();
        assert!(matches!(dumpable_behavior(), Ok(DumpableBehavior::NotDumpable)));
        let limit = getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
    }

    #[test]
    fn process_is_neither_dumped_nor_open_to_debuggers() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "app::process::tests::child_that_forbids_core_dumps", "--ignored"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }
}
