//! `[token_binding]`: the keys of sealed tokens.

use super::{finding::Problem, named_file, section::Section};
use crate::token_binding::KeySource;

/// Reads `[token_binding]`. `None` if it has errors.
pub(super) fn read_token_binding(mut section: Section<'_>) -> Option<KeySource> {
    if !section.has("keys_file") {
        section.error(
            "keys_file",
            Problem::Missing("set it to a file with one key per line, such as \"2026-11 KEY\"; create a KEY with \"openssl rand -base64 32\""),
        );
    }
    let keys_file = named_file::token_keys(&mut section, "keys_file");
    section.finish();
    keys_file.map(KeySource::File)
}
