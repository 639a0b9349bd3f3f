//! What the process asks of the system for the sake of its secrets.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Keeps secrets out of core dumps, and out of reach of a debugger that another process
/// of the same user attaches.
///
/// For the very start of a program, before there is a log: whoever starts one should
/// warn of an error.
pub fn forbid_core_dumps() -> std::io::Result<()> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let limited = setrlimit(Resource::Core, none);
    let hidden = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    limited.and(hidden)?;
    Ok(())
}
