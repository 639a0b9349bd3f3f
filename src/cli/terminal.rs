//! Detects what standard output and standard error are connected to.
//!
//! Colors of the log and of the commands follow `NO_COLOR` (no-color.org) and `CLICOLOR`
//! (bixense.com/clicolors).

use std::{io, os::fd::AsFd};

use rustix::fs::fstat;

use crate::config::Environment;

/// Returns whether an output has colors.
pub(super) fn has_colors(environment: &dyn Environment, is_terminal: bool) -> bool {
    let value = |name: &str| environment.value(name).filter(|value| !value.is_empty());
    if value("NO_COLOR").is_some() {
        return false;
    }
    if value("CLICOLOR_FORCE").is_some_and(|value| value != "0") {
        return true;
    }
    let is_off = value("CLICOLOR").is_some_and(|value| value == "0");
    let is_dumb = value("TERM").is_some_and(|terminal| terminal == "dumb");
    is_terminal && !is_off && !is_dumb
}

/// Returns whether an output is the systemd journal, which reads a priority from the beginning of each
/// line (sd-daemon(3)). `JOURNAL_STREAM` contains device and inode of the journal's socket. They are
/// compared, because a process with redirected output also inherits the variable.
pub(super) fn is_journal(environment: &dyn Environment, output: impl AsFd) -> io::Result<bool> {
    let stream = environment.value("JOURNAL_STREAM").and_then(|stream| stream.into_string().ok());
    let Some(stream) = stream else { return Ok(false) };
    let file = fstat(output)?;
    Ok(stream == format!("{}:{}", file.st_dev, file.st_ino))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs::File, os::unix::fs::MetadataExt};

    use super::*;

    fn environment(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
        variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn colors_follow_the_usual_variables() {
        for (variables, on_a_terminal, elsewhere) in [
            (&[][..], true, false),
            (&[("TERM", "xterm")], true, false),
            (&[("TERM", "dumb")], false, false),
            (&[("NO_COLOR", "1")], false, false),
            (&[("NO_COLOR", "")], true, false),
            (&[("CLICOLOR", "0")], false, false),
            (&[("CLICOLOR", "1")], true, false),
            (&[("CLICOLOR_FORCE", "1")], true, true),
            (&[("CLICOLOR_FORCE", "0")], true, false),
            (&[("CLICOLOR_FORCE", "1"), ("CLICOLOR", "0")], true, true),
            (&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], false, false),
        ] {
            let environment = environment(variables);
            let colors = [true, false].map(|is_terminal| has_colors(&environment, is_terminal));
            assert_eq!(colors, [on_a_terminal, elsewhere], "{variables:?}");
        }
    }

    #[test]
    fn journal_is_recognized_by_device_and_inode() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = File::create(folder.path().join("stream")).expect("a file");
        let of = file.metadata().expect("metadata");
        let stream = |stream: String| environment(&[("JOURNAL_STREAM", &stream)]);
        let is_journal = |environment| is_journal(&environment, &file).expect("an open file");
        assert!(is_journal(stream(format!("{}:{}", of.dev(), of.ino()))));
        assert!(!is_journal(stream(format!("{}:{}", of.dev(), of.ino() + 1))), "redirected elsewhere");
        assert!(!is_journal(stream("invalid".to_owned())));
        assert!(!is_journal(environment(&[])));
    }
}
