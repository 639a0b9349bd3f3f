//! Audit sinks that block, for tests.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::Path,
};

use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_setfl, mknodat};

/// Creates a named pipe that is open at its reading end.
pub(crate) fn pipe(path: &Path) -> File {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
    let pipe = OpenOptions::new().read(true).write(true).open(path).expect("it opens");
    fcntl_setfl(&pipe, OFlags::NONBLOCK).expect("a flag");
    pipe
}

/// Fills an empty pipe. Returns the number of bytes in it.
pub(crate) fn fill(pipe: &mut File) -> usize {
    let mut filled = 0;
    // Finally byte by byte, so that nothing fits any more.
    for step in [4096, 1] {
        while let Ok(bytes) = pipe.write(&vec![b'\n'; step]) {
            filled += bytes;
        }
    }
    filled
}

/// Reads the current content of the pipe.
pub(crate) fn read_available(pipe: &mut File) -> String {
    let mut text = Vec::new();
    // Ends when the pipe is empty for now.
    let _ = pipe.read_to_end(&mut text);
    String::from_utf8(text).expect("text")
}
