//! Opens audit files for a command.

use std::{
    fs::File,
    io,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use crate::{
    base::text::Printable,
    cli::{explain_command::quoted, failure::Failure, output::Output},
    observe::audit::reader::{Records, Source, SourceError},
};

/// Time after which a message is printed that a named pipe has no writer.
const PIPE_NOTICE: Duration = Duration::from_secs(1);

/// Opens a file, or standard input if it is `-`.
///
/// A named pipe is opened once a program writes to it, as by other commands. `command` is the
/// beginning of a command that reads files, for the advice about one that cannot be read.
///
/// # Errors
///
/// It cannot be read, or is compressed in another way than with gzip.
pub(in crate::cli) fn open(
    file: &Path,
    command: &str,
    output: &mut Output,
) -> Result<Records<Source>, Failure> {
    let is_pipe = file.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo());
    let source = if is_pipe && !is_standard_input(file) {
        open_pipe(file, output).map_err(SourceError::from).and_then(Source::of_file)
    } else {
        Source::open(file)
    };
    source.map(Records::of).map_err(|error| unreadable(file, &error, command))
}

/// Opens a named pipe, which waits for a writer.
fn open_pipe(file: &Path, output: &mut Output) -> io::Result<File> {
    let (sender, opened) = mpsc::channel();
    let path = PathBuf::from(file);
    thread::Builder::new().name("pipe".to_owned()).spawn(move || {
        // The receiver waits until the end of the process.
        let _ = sender.send(File::open(path));
    })?;
    let opened = match opened.recv_timeout(PIPE_NOTICE) {
        Err(RecvTimeoutError::Timeout) => {
            output.note(format_args!(
                "waiting for a program that writes to the pipe {}",
                Printable(file.display())
            ));
            opened.recv().ok()
        }
        opened => opened.ok(),
    };
    opened.unwrap_or_else(|| Err(io::ErrorKind::Other.into()))
}

/// Returns the failure of a command that cannot read a file.
pub(in crate::cli) fn unreadable(file: &Path, error: &SourceError, command: &str) -> Failure {
    let (name, piped) = if is_standard_input(file) {
        ("standard input".to_owned(), None)
    } else {
        (file.display().to_string(), Some(quoted(&file.display().to_string())))
    };
    Failure::Usage(match error {
        SourceError::Io(error) => format!("cannot read {name}: {error}"),
        SourceError::Unsupported { program } => {
            let advice = match piped {
                Some(file) => format!("{program} -dc {file} | {command} -"),
                None => format!("… | {program} -dc | {command} -"),
            };
            format!("{name} {error}; decompress it first: {advice}")
        }
    })
}

/// Returns whether a file is `-`.
pub(in crate::cli) fn is_standard_input(file: &Path) -> bool {
    file.as_os_str() == "-"
}
