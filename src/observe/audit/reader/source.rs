//! Files and standard input, compressed or not.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Cursor, Read},
    os::fd::AsFd as _,
    path::Path,
};

use flate2::bufread::GzDecoder;

use super::lines::{MAX_BYTES_WITHOUT_RECORD, Nuls, skip_buffered_nuls};

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
pub struct Source {
    content: Content,
    /// Whether it is a regular file, which has an end.
    is_file: bool,
}

enum Content {
    Plain(Input),
    Gzip(Box<BufReader<GzipMembers>>),
}

/// The bytes of a file.
type Input = Box<dyn BufRead>;

/// The decompressed members of a gzip file: a rotated file may have been appended to. NUL bytes
/// between and after members are skipped, as by gzip(1): copies in blocks, such as those on tapes,
/// are padded with them.
struct GzipMembers {
    /// `None` at the end.
    member: Option<GzDecoder<Input>>,
    padding: u64,
    max_padding: u64,
}

/// Reason that a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The system reports an error.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is compressed in another way than with gzip.
    #[error("is compressed with {program}, which cannot be read here")]
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
        if path.as_os_str() == "-" {
            let is_file =
                io::stdin().as_fd().try_clone_to_owned().is_ok_and(|it| is_regular(&File::from(it)));
            Self::new(io::stdin().lock(), is_file)
        } else {
            Self::of_file(File::open(path)?)
        }
    }

    /// Reads an open file. Detects gzip by its content.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is compressed in another way.
    pub fn of_file(file: File) -> Result<Self, SourceError> {
        let is_file = is_regular(&file);
        Self::new(file, is_file)
    }

    fn new(mut input: impl Read + 'static, is_file: bool) -> Result<Self, SourceError> {
        let mut magic = Vec::new();
        (&mut input).take(MAGIC_BYTES).read_to_end(&mut magic)?;
        if let Some((_, program)) = UNSUPPORTED.iter().find(|(bytes, _)| magic.starts_with(bytes)) {
            return Err(SourceError::Unsupported { program });
        }
        let is_gzip = magic.starts_with(&[0x1f, 0x8b]);
        let whole: Input = Box::new(BufReader::with_capacity(BUFFER, Cursor::new(magic).chain(input)));
        let content = if is_gzip {
            let max_padding = if is_file { u64::MAX } else { MAX_BYTES_WITHOUT_RECORD };
            let members = GzipMembers { member: Some(GzDecoder::new(whole)), padding: 0, max_padding };
            Content::Gzip(Box::new(BufReader::with_capacity(BUFFER, members)))
        } else {
            Content::Plain(whole)
        };
        Ok(Self { content, is_file })
    }

    /// Returns whether it is a regular file, which has an end.
    #[must_use]
    pub const fn is_file(&self) -> bool {
        self.is_file
    }

    /// Returns the number of NUL bytes between and after compressed data so far.
    #[must_use]
    pub fn padding(&self) -> u64 {
        match &self.content {
            Content::Plain(_) => 0,
            Content::Gzip(members) => members.get_ref().padding,
        }
    }
}

fn is_regular(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file())
}

impl Read for GzipMembers {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let read = member.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            // The member is at its end.
            let Some(mut input) = self.member.take().map(GzDecoder::into_inner) else { break };
            loop {
                let Nuls { count, is_end } = skip_buffered_nuls(&mut input)?;
                self.padding = self.padding.saturating_add(count);
                if self.padding > self.max_padding {
                    let text = "the compressed data is followed by NUL bytes without an end";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                if is_end {
                    break;
                }
            }
            self.member = if input.fill_buf()?.is_empty() { None } else { Some(GzDecoder::new(input)) };
        }
        Ok(0)
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.content {
            Content::Plain(input) => input.read(buffer),
            Content::Gzip(members) => members.read(buffer),
        }
    }
}

impl BufRead for Source {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match &mut self.content {
            Content::Plain(input) => input.fill_buf(),
            Content::Gzip(members) => members.fill_buf(),
        }
    }

    fn consume(&mut self, amount: usize) {
        match &mut self.content {
            Content::Plain(input) => input.consume(amount),
            Content::Gzip(members) => members.consume(amount),
        }
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
        padded_content(bytes).map(|(text, _)| text)
    }

    fn padded_content(bytes: Vec<u8>) -> Result<(String, u64), String> {
        let mut text = String::new();
        let mut source = Source::new(Cursor::new(bytes), true).map_err(|error| error.to_string())?;
        source.read_to_string(&mut text).map_err(|error| error.to_string())?;
        Ok((text, source.padding()))
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
            assert!(error.contains(&format!("compressed with {program}")), "{error}");
        }
        let mut cut = gzip("a longer text\n");
        cut.truncate(cut.len() - 9);
        content(cut).expect_err("the compressed data is cut off");
    }

    #[test]
    fn nul_bytes_between_and_after_members_are_skipped_and_counted() {
        let text = "a longer text\n";
        for length in [1_usize, 511, 10_240, 3 * BUFFER] {
            let padding = vec![0; length];
            let padded = [gzip(text), padding.clone()].concat();
            assert_eq!(padded_content(padded.clone()), Ok((text.to_owned(), length as u64)));
            let twice = [padded.clone(), padded].concat();
            assert_eq!(padded_content(twice), Ok((text.repeat(2), 2 * length as u64)));
            // gzip(1) ignores what follows; here, it may be records.
            for rest in [&b"x"[..], &gzip(text)[..9]] {
                content([gzip(text), padding.clone(), rest.to_vec()].concat()).expect_err("not padding");
            }
        }
        assert_eq!(padded_content(gzip(text)), Ok((text.to_owned(), 0)));
    }

    #[test]
    fn padding_without_an_end_is_an_error() {
        let endless = Cursor::new(gzip("a\n")).chain(io::repeat(0));
        let mut source = Source::new(endless, false).expect("gzip");
        let error = source.read_to_end(&mut Vec::new()).expect_err("it has no end");
        assert!(error.to_string().contains("NUL bytes without an end"), "{error}");
    }
}
