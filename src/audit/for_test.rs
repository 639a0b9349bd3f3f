//! Audit sinks that do not take what they are given, for tests.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::Path,
};

use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_setfl, mknodat};

/// Makes a named pipe that is open at its reading end, and full. Returns the number of
/// bytes in it.
pub(crate) fn full_pipe(path: &Path) -> (File, usize) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
    let mut pipe = OpenOptions::new().read(true).write(true).open(path).expect("it opens");
    fcntl_setfl(&pipe, OFlags::NONBLOCK).expect("a flag");
    let mut filled = 0;
    // Byte by byte at the end, so that nothing at all fits any more.
    for step in [4096, 1] {
        while let Ok(bytes) = pipe.write(&vec![b'\n'; step]) {
            filled += bytes;
        }
    }
    (pipe, filled)
}

/// Reads what is in the pipe now.
pub(crate) fn read_available(pipe: &mut File) -> String {
    let mut text = Vec::new();
    // Ends when the pipe is empty for now.
    let _ = pipe.read_to_end(&mut text);
    String::from_utf8(text).expect("text")
}
