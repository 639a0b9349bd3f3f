//! Checks whether the system's hosts file lists a name.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

/// Maximum number of bytes that are searched. Block lists have some megabytes.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Returns whether the file has an entry for the name. Also true if the file cannot be read,
/// because the system then has to decide; a missing file has no entries.
pub(super) fn lists(path: &Path, name: &str) -> bool {
    match File::open(path).and_then(|file| has_entry(BufReader::new(file.take(MAX_BYTES)), name)) {
        Ok(found) => found,
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// An entry is an address and one name or more, separated by spaces or tabs (hosts(5)).
fn has_entry(mut file: impl BufRead, name: &str) -> io::Result<bool> {
    let mut line = Vec::new();
    while file.read_until(b'\n', &mut line)? > 0 {
        let entry = line.split(|byte| *byte == b'#').next().unwrap_or_default();
        let mut fields = entry.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty()).skip(1);
        if fields.any(|field| field.eq_ignore_ascii_case(name.as_bytes())) {
            return Ok(true);
        }
        line.clear();
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(file: &[u8], name: &str) -> bool {
        has_entry(file, name).unwrap()
    }

    #[test]
    fn entries_are_found_in_any_column_and_case() {
        let file = b"# eu2.example\n127.0.0.1\tlocalhost  vm #eu3.example\r\n\n::1 EU4.example\xff x\n10.0.0.1 Eu5.Example";
        for name in ["localhost", "vm", "x", "eu5.example"] {
            assert!(found(file, name), "{name}");
        }
        for name in ["eu2.example", "eu3.example", "eu4.example", "127.0.0.1", "10.0.0.1", "5.example", ""] {
            assert!(!found(file, name), "{name}");
        }
    }

    #[test]
    fn missing_file_has_no_entries_and_an_unreadable_one_may_have_any() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!lists(&folder.path().join("hosts"), "eu2.example"));
        assert!(lists(folder.path(), "eu2.example"), "a folder");
    }

    proptest! {
        #[test]
        fn arbitrary_files_are_read_to_their_end(
            before in prop::collection::vec(any::<u8>(), 0..200),
            space in "[ \t]{1,3}",
        ) {
            let mut file = before;
            file.extend_from_slice(format!("\n10.0.0.1{space}eu2.example\n").as_bytes());
            prop_assert!(found(&file, "EU2.example"));
        }
    }
}
