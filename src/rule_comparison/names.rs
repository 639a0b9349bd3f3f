//! The names that callers and users can have, as grammars that read one character at a time.
//!
//! A region of calls is only reported if a possible call is in it. The grammars therefore accept
//! the same names as [`is_caller_name`] and [`Subject::new`], in canonical form; for logins together
//! with `combining`, which excludes sequences of characters that no canonical login contains. Of
//! callers, named tokens and `anonymous` are few, and are not spaces of names but listed one by one. Of the
//! callers that tokens were issued to, only `anonymous` is: a sealed token may have been issued by a
//! gateway with other named tokens.
//!
//! Maximum lengths of the parts of a name are only counted if `counting` is set, because counters
//! multiply the states of a search.

use crate::{
    caller::{DNS_PREFIX, JWT_PREFIX, SPIFFE_PREFIX, TOKEN_PREFIX, is_caller_name},
    domain::ott::{MAX_SUBJECT_BYTES, Subject, SubjectForm, SubjectKind},
};

/// A set of possible names with one grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Space {
    Spiffe,
    Dns,
    Jwt,
    /// Callers with named tokens.
    Token,
    User(UserForm),
}

/// The form of a user, as rules compare it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum UserForm {
    Login,
    ExternalId,
    Uuid,
    OpaqueUserId,
}

/// Position in the grammar of a space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Position {
    phase: u8,
    /// Position in the grammar of UUIDs, for user ids.
    inner: u8,
    count: u16,
}

const LETTERS: &str = "xyzabcdefghijklmnopqrstuvw0123456789-_";
const LETTERS_AND_DOT: &str = "xyzabcdefghijklmnopqrstuvw0123456789-_.";
const SEGMENT: &str = "xyzabcdefghijklmnopqrstuvw0123456789-_ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const GRAPHIC: &str = "xyzabcdefghijklmnopqrstuvw0123456789-_./:@ABCDEFGHIJKLMNOPQRSTUVWXYZ\
                       !\"#$%&'()*+,;<=>?[\\]^`{|}~";
const LETTERS_AND_DIGITS: &str = "xyzabcdefghijklmnopqrstuvw0123456789-";
const OTHER_GRAPHIC: &str = "_./@ABCDEFGHIJKLMNOPQRSTUVWXYZ!\"#$%&'()*+,;<=>?[\\]^`{|}~";
const TEXT: &str =
    "xyzabcdefghijklmnopqrstuvw0123456789-_+/!#$%&'()*,:;<=>?[]^`{|}~\"\\\u{e4}\u{f6}\u{fc}\u{e9}";
const ID: &str = "xyzghjklmopqstvwXYZGHJKLMOPQSTVW_+./@!#$%&'*,;<=>?^`|~\"\\\u{e4}\u{f6}\u{fc}\u{e9}";
const DIGITS: &str = "0123456789abcefABCEF";

// Positions in the grammar of UUIDs in any spelling: brackets, `urn:`, `uuid:`, brackets, 32
// hexadecimal digits with any hyphens, brackets.
const BEFORE_URN: u8 = 0;
const U: u8 = 1;
const UR: u8 = 2;
const URN: u8 = 3;
const AFTER_URN: u8 = 4;
const URN_U: u8 = 5;
const UU: u8 = 6;
const UUI: u8 = 7;
const UUID: u8 = 8;
const AFTER_UUID: u8 = 9;
const INNER_BRACKETS: u8 = 10;
const IN_DIGITS: u8 = 11;
const AFTER_DIGITS: u8 = 12;
const NO_UUID: u8 = 13;
const UUID_DIGITS: u16 = 32;
const UUID_BYTES: u16 = 36;

impl Space {
    pub(super) const CALLERS: [Self; 3] = [Self::Spiffe, Self::Dns, Self::Jwt];
    /// The callers that tokens are issued to.
    pub(super) const ISSUERS: [Self; 4] = [Self::Spiffe, Self::Dns, Self::Jwt, Self::Token];
    pub(super) const USERS: [Self; 4] = [
        Self::User(UserForm::Login),
        Self::User(UserForm::ExternalId),
        Self::User(UserForm::Uuid),
        Self::User(UserForm::OpaqueUserId),
    ];

    /// Prefix of all names.
    pub(super) const fn prefix(self) -> &'static str {
        match self {
            Self::Spiffe => SPIFFE_PREFIX,
            Self::Dns => DNS_PREFIX,
            Self::Jwt => JWT_PREFIX,
            Self::Token => TOKEN_PREFIX,
            Self::User(_) => "",
        }
    }

    /// Returns the form of users, or `None` for callers.
    const fn form(self) -> Option<UserForm> {
        match self {
            Self::User(form) => Some(form),
            _ => None,
        }
    }

    /// Maximum length of a name, in bytes.
    pub(super) const fn max_bytes(self) -> usize {
        match self {
            Self::Spiffe => 2048,
            Self::Dns => 4 + 253,
            // The name of the issuer, and the subject.
            Self::Jwt => 4 + 63 + 1 + 255,
            Self::Token => 6 + 255,
            Self::User(_) => MAX_SUBJECT_BYTES,
        }
    }

    /// Returns whether a name exists.
    pub(super) fn contains(self, name: &str) -> bool {
        match self.form() {
            None => name.starts_with(self.prefix()) && is_caller_name(name),
            Some(form) => {
                let user = Subject::new(form.kind(), name.to_owned());
                user.is_ok_and(|user| user.canonical() == name && user.form() == Some(form.form()))
            }
        }
    }

    /// Returns the position after one more character, or `None` if no name continues with it.
    pub(super) fn step(self, at: Position, char: char, counting: bool) -> Option<Position> {
        let prefix = self.prefix().as_bytes();
        if let Some(wanted) = prefix.get(usize::from(at.phase)).filter(|_| at.inner == 0) {
            let is_next = u32::from(char) == u32::from(*wanted);
            let phase = at.phase + 1;
            // The rest of the grammar counts its phases from the end of the prefix.
            let inner = u8::from(usize::from(phase) == prefix.len());
            let phase = if inner == 1 { 0 } else { phase };
            return is_next.then_some(Position { phase, inner, count: 0 });
        }
        match self {
            Self::Spiffe => step_spiffe(at, char, counting),
            Self::Dns => step_dns(at, char, counting),
            Self::Jwt => step_jwt(at, char, counting),
            Self::Token => step_token(at, char, counting),
            Self::User(UserForm::Login) => step_login(at, char),
            Self::User(UserForm::ExternalId) => step_id(at, char, SubjectKind::ExternalId),
            Self::User(UserForm::Uuid) => step_uuid(at, char),
            Self::User(UserForm::OpaqueUserId) => {
                let next = step_id(at, char, SubjectKind::UserId)?;
                let (inner, count) = step_uuid_spelling(at.inner, at.count, char);
                Some(Position { inner, count, ..next })
            }
        }
    }

    /// Returns whether a name may end at a position.
    pub(super) const fn is_end(self, at: Position) -> bool {
        match self {
            Self::Spiffe => at.inner == 1 && at.phase == 5,
            Self::Dns | Self::Token => at.inner == 1 && at.phase == 1,
            Self::Jwt => at.inner == 1 && at.phase >= 1,
            Self::User(UserForm::Login) => matches!(at.phase, 1 | 3 | 4),
            Self::User(UserForm::ExternalId) => at.phase == 1,
            Self::User(UserForm::Uuid) => at.count == UUID_BYTES,
            Self::User(UserForm::OpaqueUserId) => {
                let is_uuid = matches!(at.inner, IN_DIGITS | AFTER_DIGITS) && at.count == UUID_DIGITS;
                at.phase == 1 && !is_uuid
            }
        }
    }

    /// Returns the characters that can come next, in groups that the grammar does not distinguish,
    /// each in the order in which people like to read them.
    pub(super) fn groups(self, at: Position) -> &'static [&'static str] {
        const HYPHEN: &[&str] = &["-"];
        let prefix = self.prefix();
        if at.inner == 0
            && let Some(rest) = prefix.get(usize::from(at.phase)..).filter(|rest| !rest.is_empty())
        {
            return match rest.as_bytes()[0] {
                b's' => &["s"],
                b'p' => &["p"],
                b'i' => &["i"],
                b'f' => &["f"],
                b'e' => &["e"],
                b':' => &[":"],
                b'/' => &["/"],
                b'd' => &["d"],
                b'n' => &["n"],
                b'j' => &["j"],
                b'w' => &["w"],
                b't' => &["t"],
                b'o' => &["o"],
                b'k' => &["k"],
                _ => &[],
            };
        }
        match self {
            Self::Spiffe if at.phase <= 1 => &[LETTERS_AND_DOT, "/"],
            Self::Spiffe => &[SEGMENT, ".", "/"],
            Self::Dns => &[LETTERS, "."],
            Self::Jwt => &[LETTERS_AND_DIGITS, ":", OTHER_GRAPHIC],
            Self::Token => &[GRAPHIC],
            Self::User(UserForm::Login) => &[TEXT, "@", ".", " "],
            Self::User(UserForm::ExternalId) => &[GRAPHIC, " "],
            Self::User(UserForm::Uuid) if matches!(at.count, 8 | 13 | 18 | 23) => HYPHEN,
            Self::User(UserForm::Uuid) => &["0123456789abcdef"],
            Self::User(UserForm::OpaqueUserId) => {
                &[ID, DIGITS, "uU", "rR", "nN", "iI", "dD", ":", "-", "{}()[]", " "]
            }
        }
    }

    /// Returns whether names are folded, so that not all sequences of their characters exist.
    pub(super) fn is_folded(self) -> bool {
        self == Self::User(UserForm::Login)
    }

    /// Returns whether names can contain characters outside ASCII.
    pub(super) fn is_text(self) -> bool {
        self.form().is_some_and(|form| form != UserForm::Uuid)
    }
}

impl UserForm {
    pub(super) const fn kind(self) -> SubjectKind {
        match self {
            Self::Login => SubjectKind::Login,
            Self::ExternalId => SubjectKind::ExternalId,
            Self::Uuid | Self::OpaqueUserId => SubjectKind::UserId,
        }
    }

    const fn form(self) -> SubjectForm {
        match self {
            Self::Login => SubjectForm::Login,
            Self::ExternalId => SubjectForm::ExternalId,
            Self::Uuid => SubjectForm::Uuid,
            Self::OpaqueUserId => SubjectForm::OpaqueUserId,
        }
    }

    pub(super) const fn of(form: SubjectForm) -> Self {
        match form {
            SubjectForm::Login => Self::Login,
            SubjectForm::ExternalId => Self::ExternalId,
            SubjectForm::Uuid => Self::Uuid,
            SubjectForm::OpaqueUserId => Self::OpaqueUserId,
        }
    }
}

/// Phases after the prefix: 0 and 1 in the trust domain, 2 to 5 in a segment of the path: at its
/// start, after `.`, after `..`, and in any other segment.
fn step_spiffe(at: Position, char: char, counting: bool) -> Option<Position> {
    const MAX_TRUST_DOMAIN_BYTES: u16 = 255;
    let phase = match (at.phase, char) {
        (0 | 1, 'a'..='z' | '0'..='9' | '.' | '-' | '_') => {
            let count = if counting { at.count + 1 } else { 0 };
            return (count <= MAX_TRUST_DOMAIN_BYTES).then_some(Position { phase: 1, count, ..at });
        }
        (1 | 5, '/') => 2,
        (2 | 3, '.') => at.phase + 1,
        (4 | 5, '.') | (2..=5, 'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_') => 5,
        _ => return None,
    };
    Some(Position { phase, count: 0, ..at })
}

/// Phases after the prefix: 0 at the start of a label, 1 in it.
fn step_dns(at: Position, char: char, counting: bool) -> Option<Position> {
    const MAX_LABEL_BYTES: u16 = 63;
    match (at.phase, char) {
        (1, '.') => Some(Position { phase: 0, count: 0, ..at }),
        (_, 'a'..='z' | '0'..='9' | '-' | '_') => {
            let count = if counting { at.count + 1 } else { 0 };
            (count <= MAX_LABEL_BYTES).then_some(Position { phase: 1, count, ..at })
        }
        _ => None,
    }
}

/// Phases after the prefix: 0 at the start, 1 in a name that can be that of an issuer, 2 in another
/// subject, 3 in a subject after the name of an issuer.
fn step_jwt(at: Position, char: char, counting: bool) -> Option<Position> {
    const MAX_ISSUER_BYTES: u16 = 63;
    const MAX_SUBJECT_BYTES: u16 = 255;
    if !char.is_ascii_graphic() {
        return None;
    }
    if !counting {
        return Some(Position { phase: 2, ..at });
    }
    let is_issuer = matches!(char, 'a'..='z' | '0'..='9' | '-') && at.count < MAX_ISSUER_BYTES;
    let phase = match at.phase {
        // The name of an issuer is not empty.
        1 if char == ':' => return Some(Position { phase: 3, count: 0, ..at }),
        0 | 1 if is_issuer => 1,
        3 => 3,
        _ => 2,
    };
    (at.count < MAX_SUBJECT_BYTES).then_some(Position { phase, count: at.count + 1, ..at })
}

/// Phases after the prefix: 0 at the start, 1 in the name.
fn step_token(at: Position, char: char, counting: bool) -> Option<Position> {
    const MAX_NAME_BYTES: u16 = 255;
    let count = if counting { at.count + 1 } else { 0 };
    (char.is_ascii_graphic() && count <= MAX_NAME_BYTES).then_some(Position { phase: 1, count, ..at })
}

/// Phases: 0 at the start; then after a space (2, 5), after a dot (3, 6), or after any other
/// character (1, 4); the second of each pair after an `@`.
fn step_login(at: Position, char: char) -> Option<Position> {
    let has_at = at.phase >= 4;
    let after = |phase: u8, has_at: bool| Some(Position { phase: phase + 3 * u8::from(has_at), ..at });
    match char {
        ' ' if at.phase == 0 => None,
        ' ' => after(2, has_at),
        '.' => after(3, has_at),
        '@' => after(1, true),
        char if is_text_of(SubjectKind::Login, char) => after(1, has_at),
        _ => None,
    }
}

/// Phases: 0 at the start, 1 after a character, 2 after a space.
fn step_id(at: Position, char: char, kind: SubjectKind) -> Option<Position> {
    match char {
        ' ' if at.phase == 0 => None,
        ' ' => Some(Position { phase: 2, ..at }),
        char if is_text_of(kind, char) => Some(Position { phase: 1, ..at }),
        _ => None,
    }
}

fn step_uuid(at: Position, char: char) -> Option<Position> {
    let is_next = match at.count {
        8 | 13 | 18 | 23 => char == '-',
        0..UUID_BYTES => matches!(char, '0'..='9' | 'a'..='f'),
        _ => false,
    };
    is_next.then_some(Position { count: at.count + 1, ..at })
}

/// Follows the grammar of UUIDs in any spelling, which are not opaque.
fn step_uuid_spelling(at: u8, count: u16, char: char) -> (u8, u16) {
    if char.is_ascii() {
        return step_folded(at, count, char.to_ascii_lowercase());
    }
    // Compatibility forms, such as full-width letters.
    let Ok(folded) = Subject::new(SubjectKind::Login, format!("0{char}0")) else { return (NO_UUID, 0) };
    let folded = folded.canonical();
    let inner = folded.get(1..folded.len() - 1).unwrap_or_default();
    inner.chars().fold((at, count), |(at, count), char| step_folded(at, count, char))
}

fn step_folded(at: u8, count: u16, char: char) -> (u8, u16) {
    let can_begin = matches!(at, BEFORE_URN | AFTER_URN | AFTER_UUID | INNER_BRACKETS);
    match (at, char) {
        (BEFORE_URN, '{' | '}' | '(' | ')' | '[' | ']') => (BEFORE_URN, 0),
        (AFTER_URN | AFTER_UUID | INNER_BRACKETS, '{' | '}' | '(' | ')' | '[' | ']') => (INNER_BRACKETS, 0),
        (IN_DIGITS | AFTER_DIGITS, '{' | '}' | '(' | ')' | '[' | ']') => (AFTER_DIGITS, count),
        (BEFORE_URN, 'u') => (U, 0),
        (U, 'r') => (UR, 0),
        (UR, 'n') => (URN, 0),
        (URN, ':') => (AFTER_URN, 0),
        (AFTER_URN, 'u') => (URN_U, 0),
        (U | URN_U, 'u') => (UU, 0),
        (UU, 'i') => (UUI, 0),
        (UUI, 'd') => (UUID, 0),
        (UUID, ':') => (AFTER_UUID, 0),
        (_, '-') if can_begin || at == IN_DIGITS => (IN_DIGITS, count),
        (_, '0'..='9' | 'a'..='f') if (can_begin || at == IN_DIGITS) && count < UUID_DIGITS => {
            (IN_DIGITS, count + 1)
        }
        _ => (NO_UUID, 0),
    }
}

/// Returns whether a character can occur in a name of this kind in canonical form.
fn is_text_of(kind: SubjectKind, char: char) -> bool {
    if char.is_ascii() {
        return !(char.is_ascii_control() || (kind == SubjectKind::Login && char.is_ascii_uppercase()));
    }
    // Between digits, which combine with nothing and may be at either end.
    let name = format!("0{char}0");
    Subject::new(kind, name.clone()).is_ok_and(|user| user.canonical() == name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rule_comparison::combining::Combining;

    /// Returns whether the grammar accepts a name.
    fn accepts(space: Space, name: &str) -> bool {
        let step = |at: Option<Position>, char| space.step(at?, char, true);
        let end = name.chars().fold(Some(Position::default()), step);
        let combining = |end: Option<Combining>, char| end?.step(char);
        let is_possible =
            !space.is_folded() || name.chars().fold(Some(Combining::default()), combining).is_some();
        is_possible && end.is_some_and(|at| space.is_end(at)) && name.len() <= space.max_bytes()
    }

    #[test]
    fn uuids_in_any_spelling_are_not_opaque() {
        let opaque = Space::User(UserForm::OpaqueUserId);
        let uuid = "3f2504e0-4f89-11d3-9a0c-0305e82c3301";
        let plain = uuid.replace('-', "");
        for spelling in [
            uuid.to_owned(),
            format!("{{{uuid}}}"),
            format!("urn:uuid:{uuid}"),
            format!("URN:{{{plain}-"),
            format!("[(uuid:{{{}}})]", plain.to_uppercase()),
            format!("\u{ff13}{}", &plain[1..]),
        ] {
            assert!(!accepts(opaque, &spelling) && !opaque.contains(&spelling), "{spelling}");
        }
        for spelling in [format!("{uuid}0"), format!("{{urn:{{uuid:{uuid}"), plain[1..].to_owned()] {
            assert!(accepts(opaque, &spelling) && opaque.contains(&spelling), "{spelling}");
        }
        assert!(accepts(Space::User(UserForm::Uuid), uuid));
    }

    proptest! {
        #[test]
        fn grammars_accept_the_names_that_exist(
            caller in "(spiffe://|dns:|jwt:|token:)?[a-zA._/:-]{0,8}",
            user in r"[aA1.@ \-\u{3b1}\u{ff21}\u{1}]{0,6}",
            id in r"[{(]{0,2}(urn:)?(uuid:)?[{]{0,1}[0-9a-fA-F-]{0,3}(3f2504e04f8911d39a0c0305e82c33)?[0-9a-f-]{0,3}[})]{0,2}",
        ) {
            for space in Space::ISSUERS {
                prop_assert_eq!(accepts(space, &caller), space.contains(&caller), "{:?} {}", space, caller);
            }
            for space in Space::USERS {
                for name in [&user, &id] {
                    prop_assert_eq!(accepts(space, name), space.contains(name), "{:?} {:?}", space, name);
                }
            }
        }

        /// Marks above and below, before and after each other, Jamo, and characters that compose with
        /// marks or contain them.
        #[test]
        fn logins_with_combining_marks_are_accepted_if_they_are_canonical(
            login in "[xeq<\u{e9}\u{1eb9}\u{1ebf}\u{ea}\u{301}\u{302}\u{308}\u{323}\u{327}\u{338}\u{345}\u{3b1}\u{1100}\u{1161}\u{11a8}\u{ac00}\u{9c7}\u{9be}\u{4e00} ]{0,6}",
        ) {
            let space = Space::User(UserForm::Login);
            prop_assert_eq!(accepts(space, &login), space.contains(&login), "{:?}", login);
        }

        #[test]
        fn long_parts_are_counted(
            label in 1..70_usize,
            domain in 1..300_usize,
            issuer in 0..66_usize,
            subject in 0..260_usize,
        ) {
            for (space, name) in [
                (Space::Jwt, format!("jwt:{}:{}", "a".repeat(issuer), "b".repeat(subject))),
                (Space::Jwt, format!("jwt:{}:{}", "A".repeat(issuer), "b".repeat(subject))),
                (Space::Dns, format!("dns:{}.x", "a".repeat(label))),
                (Space::Spiffe, format!("spiffe://{}/x", "a".repeat(domain))),
                (Space::Token, format!("token:{}", "a".repeat(subject))),
            ] {
                prop_assert_eq!(accepts(space, &name), space.contains(&name), "{}", name);
            }
        }
    }

    #[test]
    fn groups_contain_every_character_that_can_come_next() {
        for space in Space::ISSUERS.into_iter().chain(Space::USERS) {
            let mut seen = vec![Position::default()];
            let mut next = 0;
            while let Some(&at) = seen.get(next).filter(|_| next < 300) {
                next += 1;
                for char in (0..=127_u8).map(char::from) {
                    let Some(after) = space.step(at, char, false) else { continue };
                    let groups = space.groups(at);
                    let listed = groups.iter().any(|group| group.contains(char));
                    assert!(listed, "{space:?} {at:?} {char}");
                    // Characters of one group lead to one position.
                    let same = groups.iter().filter(|group| group.contains(char));
                    for other in same.flat_map(|group| group.chars()) {
                        assert_eq!(
                            space.step(at, other, false),
                            Some(after),
                            "{space:?} {at:?} {char} {other}"
                        );
                    }
                    if !seen.contains(&after) {
                        seen.push(after);
                    }
                }
            }
        }
    }
}
