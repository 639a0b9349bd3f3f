//! Process settings that protect secrets.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Disables core dumps, and prevents other processes of the same user from attaching a debugger.
///
/// For the start of a program, before there is a log. The caller logs the error later.
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

    /// Child process of the next test, because the settings cannot be undone.
    #[test]
    #[ignore = "run by another test, in a separate process"]
    fn child_that_forbids_core_dumps() {
        // The initial state after `execve`, which the harness has not changed.
        assert!(matches!(dumpable_behavior(), Ok(DumpableBehavior::Dumpable)));
        forbid_core_dumps().unwrap();
        assert!(matches!(dumpable_behavior(), Ok(DumpableBehavior::NotDumpable)));
        let limit = getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
    }

    #[test]
    fn process_is_not_dumpable_or_traceable() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "app::process::tests::child_that_forbids_core_dumps", "--ignored"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }
}
