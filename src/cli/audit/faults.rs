//! Places of lines that are not whole records.

/// Maximum number of places that are kept for each kind.
const SHOWN: usize = 10;

/// Lines of one kind.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) count: u64,
    /// File and line of the first ones.
    pub(super) first: Vec<(String, u64)>,
}

/// Lines that are not whole records.
#[derive(Debug, Default)]
pub(super) struct LineFaults {
    /// Parts of records.
    pub(super) torn: Places,
    /// Other text.
    pub(super) foreign: Places,
    /// Lines that are too long to be records.
    pub(super) too_long: Places,
    /// NUL bytes.
    pub(super) nuls: Places,
    /// Number of NUL bytes between and after compressed data.
    pub(super) padding: u64,
}

impl Places {
    pub(super) fn add(&mut self, file: &str, line: u64) {
        self.count += 1;
        if self.first.len() < SHOWN {
            self.first.push((file.to_owned(), line));
        }
    }
}
