//! Files and standard input, compressed or not.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Cursor, Read},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;

/// Size of the buffer for data of a file.
const BUFFER: usize = 128 * 1024;
/// Number of bytes that identify a compression.
const MAGIC_BYTES: u64 = 6;

/// The first bytes of compressed files that are not supported, with the program to decompress them.
const UNSUPPORTED: [(&[u8], &str); 4] = [
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
    (b"BZh", "bzip2"),
    (&[0x04, 0x22, 0x4d, 0x18], "lz4"),
];

/// The decompressed content of a file.
pub struct Source(Box<dyn BufRead>);

/// Reason that a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The system reports an error.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is compressed in another way than with gzip.
    #[error(
        "is compressed with {program}, which cannot be read here; decompress it first: {program} -dc FILE | \
         ott-gateway audit check -"
    )]
    Unsupported {
        /// The program to decompress it with.
        program: &'static str,
    },
}

impl Source {
    /// Opens a file, or standard input if the path is `-`. Detects gzip by its content.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is compressed in another way.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        if path.as_os_str() == "-" { Self::new(io::stdin().lock()) } else { Self::new(File::open(path)?) }
    }

    fn new(mut input: impl Read + 'static) -> Result<Self, SourceError> {
        let mut magic = Vec::new();
        (&mut input).take(MAGIC_BYTES).read_to_end(&mut magic)?;
        if let Some((_, program)) = UNSUPPORTED.iter().find(|(bytes, _)| magic.starts_with(bytes)) {
            return Err(SourceError::Unsupported { program });
        }
        let is_gzip = magic.starts_with(&[0x1f, 0x8b]);
        let whole = BufReader::with_capacity(BUFFER, Cursor::new(magic).chain(input));
        Ok(Self(if is_gzip {
            // Several members: a rotated file may have been appended to.
            Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(whole)))
        } else {
            Box::new(whole)
        }))
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl BufRead for Source {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.0.consume(amount);
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn content(bytes: Vec<u8>) -> Result<String, String> {
        let mut text = String::new();
        let mut source = Source::new(Cursor::new(bytes)).map_err(|error| error.to_string())?;
        source.read_to_string(&mut text).map_err(|error| error.to_string())?;
        Ok(text)
    }

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).expect("memory");
        encoder.finish().expect("memory")
    }

    #[test]
    fn gzip_is_detected_by_content_and_other_compressions_are_refused() {
        for text in ["", "a", "a longer text\n"] {
            assert_eq!(content(text.as_bytes().to_vec()), Ok(text.to_owned()));
            let twice = [gzip(text), gzip(text)].concat();
            assert_eq!(content(twice), Ok(text.repeat(2)), "several members");
        }
        for (magic, program) in UNSUPPORTED {
            let error = content([magic, b"..."].concat()).expect_err("not supported");
            assert!(error.contains(&format!("{program} -dc")), "{error}");
        }
        let mut cut = gzip("a longer text\n");
        cut.truncate(cut.len() - 9);
        content(cut).expect_err("the compressed data is cut off");
    }
}
