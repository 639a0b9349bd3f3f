//! The syntax of globs in rules: `*` matches any run of characters and `?` one character; there is
//! no escape.

/// One step of a glob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GlobToken {
    /// Any run of characters.
    AnyRun,
    /// Any one character.
    AnyChar,
    /// This character.
    Char(char),
}

/// Returns the tokens of a glob. Globs that differ only in the order of adjacent wildcards, such as
/// `*?` and `?**`, have the same tokens.
#[must_use]
pub fn glob_tokens(glob: &str) -> Vec<GlobToken> {
    let mut tokens = Vec::with_capacity(glob.len());
    let mut has_run = false;
    for char in glob.chars() {
        match char {
            '*' => has_run = true,
            '?' => tokens.push(GlobToken::AnyChar),
            char => {
                if std::mem::take(&mut has_run) {
                    tokens.push(GlobToken::AnyRun);
                }
                tokens.push(GlobToken::Char(char));
            }
        }
    }
    if has_run {
        tokens.push(GlobToken::AnyRun);
    }
    tokens
}
