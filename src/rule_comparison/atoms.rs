//! The entries of rules that name callers or users, each stored once, and how two of them relate.

use std::{cell::RefCell, collections::HashMap, sync::Arc};

use super::{
    bits::Bits,
    glob::Glob,
    names::{Space, UserForm},
    search::{Budget, Exhausted},
};
use crate::{
    caller::{ANONYMOUS, TOKEN_PREFIX},
    domain::ott::{SubjectForm, SubjectKind, SubjectPattern},
};

/// Position of an atom in its table.
pub(super) type AtomId = u32;

/// Users that no pattern matches, because their names contain forms of ASCII characters. They are
/// an element of their own: only `users = "all"` contains them.
pub(super) const FOLDED_USERS: usize = 0;

/// Text of the set of all users. Patterns have the prefix of their kind.
pub(super) const ALL_USERS: &str = "all";

/// One entry of `callers`, of `issued_by`, or of the lists of users: a set of names.
#[derive(Debug)]
pub(super) struct Atom {
    /// The entry in canonical form, for people.
    pub(super) text: Arc<str>,
    /// The names of each space that belong to the set.
    pub(super) globs: Vec<(Space, Glob)>,
    /// The names that are listed one by one: `anonymous` and tokens of callers, or
    /// [`FOLDED_USERS`].
    pub(super) listed: Bits,
    /// The text as a glob.
    glob: Glob,
    is_literal: bool,
}

/// How the sets of two atoms relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Relation {
    /// No name is in both.
    pub(super) is_disjoint: bool,
    /// Every name of the first is in the second. `false` if this is not obvious from the globs.
    pub(super) is_within: bool,
}

/// All atoms of one kind.
#[derive(Debug, Default)]
pub(super) struct Atoms {
    entries: Vec<Atom>,
    known: HashMap<(Box<str>, Bits), AtomId>,
    relations: RefCell<HashMap<(AtomId, AtomId), Relation>>,
}

impl Atoms {
    pub(super) fn get(&self, id: AtomId) -> &Atom {
        &self.entries[id as usize]
    }

    /// Adds an entry of `callers`. `listed` are `anonymous` and the tokens, each with its position;
    /// `jwt_prefixes` are the beginnings of the names of callers with JWTs.
    pub(super) fn add_caller(
        &mut self,
        entry: &str,
        listed: &[(usize, String)],
        jwt_prefixes: &[String],
    ) -> Vec<AtomId> {
        if jwt_prefixes == [Space::Jwt.prefix()] {
            return vec![self.add_caller_in(entry, listed, &Space::CALLERS)];
        }
        if entry == ANONYMOUS {
            return vec![self.add_caller_in(entry, listed, &[])];
        }
        // One atom for each kind of name, so that the texts are exact: `*` does not contain all of
        // `jwt:*`.
        let glob = Glob::new(entry);
        let mut atoms = Vec::new();
        for (prefix, spaces) in [
            (Space::Spiffe.prefix(), &[Space::Spiffe][..]),
            (Space::Dns.prefix(), &[Space::Dns]),
            (TOKEN_PREFIX, &[]),
        ] {
            for glob in glob.with_prefix(prefix) {
                atoms.push(self.add_caller_in(&glob, listed, spaces));
            }
        }
        atoms.extend(self.add_jwt_callers(entry, jwt_prefixes));
        atoms
    }

    fn add_caller_in(&mut self, entry: &str, listed: &[(usize, String)], spaces: &[Space]) -> AtomId {
        let glob = Glob::new(entry);
        let matches = |name: &str| {
            if name == ANONYMOUS { entry == ANONYMOUS } else { glob.matches(name) }
        };
        let listed: Bits = listed.iter().filter(|(_, name)| matches(name)).map(|(at, _)| *at).collect();
        let spaces = spaces.iter().copied();
        let globs = spaces.filter(|space| !glob.is_disjoint(&Glob::new(&format!("{}*", space.prefix()))));
        let globs = globs.map(|space| (space, glob.clone())).collect();
        self.add(entry, globs, listed)
    }

    /// Adds an entry of `callers` of a rule that requires claims, which only callers with JWTs have.
    pub(super) fn add_jwt_callers(&mut self, entry: &str, jwt_prefixes: &[String]) -> Vec<AtomId> {
        let entry = Glob::new(entry);
        let globs = jwt_prefixes.iter().flat_map(|prefix| entry.with_prefix(prefix));
        globs.map(|glob| self.add_caller_in(&glob, &[], &[Space::Jwt])).collect()
    }

    /// Adds an entry of `issued_by`. `listed` is `anonymous` with its position.
    pub(super) fn add_issuer(&mut self, entry: &str, listed: &[(usize, String)]) -> AtomId {
        self.add_caller_in(entry, listed, &Space::ISSUERS)
    }

    /// Adds a pattern of users.
    pub(super) fn add_users(&mut self, pattern: &SubjectPattern) -> AtomId {
        let globs: Vec<(SubjectForm, &str)> = pattern.globs().collect();
        let canonical = globs.first().map_or("", |(_, glob)| glob);
        let text = format!("{}:{canonical}", pattern.kind().field());
        let globs = globs.into_iter().map(|(form, glob)| (Space::User(UserForm::of(form)), Glob::new(glob)));
        self.add(&text, globs.collect(), Bits::default())
    }

    /// Adds the set of all users.
    pub(super) fn add_all_users(&mut self) -> AtomId {
        let globs = Space::USERS.map(|space| (space, Glob::new("*")));
        self.add(ALL_USERS, globs.into(), [FOLDED_USERS].into_iter().collect())
    }

    fn add(&mut self, text: &str, globs: Vec<(Space, Glob)>, listed: Bits) -> AtomId {
        let next = AtomId::try_from(self.entries.len()).unwrap_or(AtomId::MAX);
        let id = *self.known.entry((text.into(), listed.clone())).or_insert(next);
        if id == next {
            let is_literal = text != ALL_USERS && !text.contains(['*', '?']);
            self.entries.push(Atom { text: text.into(), globs, listed, glob: Glob::new(text), is_literal });
        }
        id
    }

    /// Returns how two atoms relate.
    pub(super) fn relation(
        &self,
        one: AtomId,
        other: AtomId,
        budget: &Budget,
    ) -> Result<Relation, Exhausted> {
        // Some megabytes.
        const MAX_REMEMBERED: usize = 500_000;
        budget.spend(2)?;
        if one == other {
            return Ok(Relation { is_disjoint: false, is_within: true });
        }
        let (ours, theirs) = (self.get(one), self.get(other));
        // The same name can have two atoms, with different tokens.
        let are_different = ours.is_literal && theirs.is_literal && ours.text != theirs.text;
        // Most pairs; remembering them would take more time and memory.
        if are_different || ours.is_obviously_disjoint(theirs) {
            return Ok(Relation { is_disjoint: true, is_within: false });
        }
        budget.spend(3)?;
        if let Some(relation) = self.relations.borrow().get(&(one, other)) {
            return Ok(*relation);
        }
        budget.spend(ours.relation_steps(theirs))?;
        let relation = ours.relation(theirs);
        let mut relations = self.relations.borrow_mut();
        if relations.len() >= MAX_REMEMBERED {
            relations.clear();
        }
        relations.insert((one, other), relation);
        Ok(relation)
    }
}

impl Atom {
    pub(super) fn glob_in(&self, space: Space) -> Option<&Glob> {
        self.globs.iter().find(|(other, _)| *other == space).map(|(_, glob)| glob)
    }

    fn is_obviously_disjoint(&self, other: &Self) -> bool {
        let is_common = |space: Space, glob: &Glob| {
            other.glob_in(space).is_some_and(|theirs| !glob.is_obviously_disjoint(theirs))
        };
        !self.globs.iter().any(|(space, glob)| is_common(*space, glob))
            && !self.listed.intersects(&other.listed)
    }

    /// Returns the work of computing the relation, in steps.
    fn relation_steps(&self, other: &Self) -> usize {
        let steps = |(space, glob): &(Space, Glob)| {
            other.glob_in(*space).map_or(0, |theirs| glob.relation_steps(theirs))
        };
        10 + self.globs.iter().map(steps).sum::<usize>()
    }

    fn relation(&self, other: &Self) -> Relation {
        let mut is_disjoint = !self.listed.intersects(&other.listed);
        let mut is_within = self.listed.is_within(&other.listed);
        for (space, glob) in &self.globs {
            match other.glob_in(*space) {
                Some(theirs) => {
                    is_disjoint = is_disjoint && glob.is_disjoint(theirs);
                    is_within = is_within && glob.is_within(theirs);
                }
                None => is_within = false,
            }
        }
        Relation { is_disjoint, is_within }
    }

    /// Returns whether the text matches a name that is listed one by one, regardless of whether the
    /// name is in the set.
    pub(super) fn matches_listed(&self, name: &str) -> bool {
        match &*self.text {
            text if name == ANONYMOUS => text == ANONYMOUS,
            // Only one set of users has a member that is listed.
            text if self.globs.iter().any(|(space, _)| matches!(space, Space::User(_))) => text == ALL_USERS,
            _ => self.glob.matches(name),
        }
    }

    /// Returns whether a name of a space is in the set.
    pub(super) fn contains(&self, space: Space, name: &str) -> bool {
        self.glob_in(space).is_some_and(|glob| glob.matches(name))
    }

    /// Returns names of a space that match the glob and that people can read, in order of
    /// preference. Not all are possible names.
    pub(super) fn candidates(&self, space: Space) -> Vec<String> {
        // Runs are filled with the first text that makes a possible name.
        const FILLS: [&str; 4] = ["x", "x/x", "", "x@example.com"];
        let (text, prefix) = (&*self.text, space.prefix());
        let glob = match space {
            Space::User(form) => match (form, text.split_once(':')) {
                (UserForm::Login, None) => "*@example.com",
                (UserForm::Uuid, _) => return Vec::new(),
                (_, None) => "*",
                (_, Some((_, glob))) => glob,
            },
            _ => text,
        };
        let with_prefix = if glob.starts_with('*') && !prefix.is_empty() {
            format!("{prefix}{glob}")
        } else {
            glob.to_owned()
        };
        let filled = |fill: &str| {
            let name = with_prefix.replace("**", "*").replace('*', fill).replace('?', "x");
            // `*` as a whole SPIFFE id needs a domain and a path.
            if name == "spiffe://x" { "spiffe://x/x".to_owned() } else { name }
        };
        FILLS.iter().map(|fill| filled(fill)).collect()
    }
}

/// Returns the written form of a user's name, as `check-config --explain` reads it.
pub(super) fn user_text(space: Space, name: &str) -> String {
    match space {
        Space::User(form) => format!("{}:{name}", form.kind().field()),
        _ => name.to_owned(),
    }
}

/// A user of [`FOLDED_USERS`].
pub(super) fn folded_user() -> String {
    format!("{}:\u{ff58}@example.com", SubjectKind::Login.field())
}
