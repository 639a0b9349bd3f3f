//! Entry point; the implementation is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    ott_gateway::cli::run()
}
