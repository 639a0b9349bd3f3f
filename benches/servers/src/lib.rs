//! Command-line options of the benchmark servers.

use std::{env, error::Error};

/// The error of a server that cannot start.
pub type Failure = Box<dyn Error + Send + Sync>;

/// The value of `--NAME` on the command line.
#[must_use]
pub fn option(name: &str) -> Option<String> {
    let mut arguments = env::args().skip(1);
    arguments.find(|argument| argument == name)?;
    arguments.next()
}

/// The value of `--NAME` on the command line.
///
/// # Errors
/// If it is missing.
pub fn required(name: &str) -> Result<String, Failure> {
    option(name).ok_or_else(|| format!("{name} is missing").into())
}
