//! The layers of ARCHITECTURE.md: dependencies between the stages run downwards.
//!
//! Checked in the source, so that a `use` in the wrong direction fails here and not in a
//! review.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use syn::{
    Attribute, Ident, ItemMod, UsePath, UseTree,
    visit::{self, Visit},
};

/// The modules that each module may use (ARCHITECTURE.md: server → service → {caller,
/// access, platform} → credential → {`http_client`, secret, clock, backoff}). A module that is
/// not listed is refused, so that a new one has to be placed.
const MAY_USE: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    (
        "cli",
        &[
            "app",
            "config",
            "http_client",
            "proto",
            "telemetry",
            "sandbox",
            "access",
            "call",
            "ott",
            "clock",
            "secret",
            "text",
        ],
    ),
    (
        "app",
        &[
            "config",
            "proto",
            "admin",
            "server",
            "caller",
            "access",
            "service",
            "platform",
            "credential",
            "http_client",
            "audit",
            "health",
            "telemetry",
            "clock",
            "secret",
            "memory",
            "regular_file",
            "call",
            "ott",
            "backoff",
        ],
    ),
    ("config", &["http_client", "call", "secret", "text", "regular_file", "validity", "clock"]),
    ("proto", &[]),
    (
        "server",
        &[
            "arrival",
            "caller",
            "access",
            "service",
            "audit",
            "health",
            "status",
            "telemetry",
            "call",
            "clock",
            "backoff",
            "secret",
            "memory",
            "regular_file",
            "validity",
        ],
    ),
    (
        "service",
        &[
            "arrival",
            "caller",
            "access",
            "platform",
            "http_client",
            "proto",
            "status",
            "audit",
            "telemetry",
            "call",
            "ott",
            "session",
            "clock",
            "secret",
        ],
    ),
    ("arrival", &["caller", "access", "telemetry", "call", "clock"]),
    ("caller", &["http_client", "telemetry", "clock", "secret", "regular_file", "backoff"]),
    ("access", &["caller", "call", "ott", "telemetry", "clock"]),
    (
        "platform",
        &[
            "access",
            "credential",
            "http_client",
            "telemetry",
            "call",
            "ott",
            "session",
            "clock",
            "secret",
            "memory",
            "text",
            "backoff",
        ],
    ),
    ("credential", &["http_client", "telemetry", "call", "clock", "secret", "backoff"]),
    ("status", &["platform", "credential", "access", "caller", "call", "proto", "reason", "text", "backoff"]),
    ("http_client", &["memory", "clock", "backoff"]),
    ("audit", &["call", "ott", "reason", "telemetry", "clock", "secret", "text", "backoff"]),
    ("health", &["proto", "telemetry", "clock"]),
    ("admin", &["health", "telemetry", "clock"]),
    ("telemetry", &["call", "reason", "text", "memory", "validity", "clock"]),
    ("call", &["clock", "memory", "ott", "reason"]),
    ("reason", &[]),
    ("ott", &["secret"]),
    ("session", &["ott", "secret"]),
    ("secret", &["regular_file"]),
    ("memory", &[]),
    ("text", &[]),
    ("regular_file", &[]),
    ("validity", &[]),
    ("clock", &[]),
    ("backoff", &[]),
    ("sandbox", &["clock"]),
];

#[test]
fn dependencies_run_downwards() {
    let mut wrong = Vec::new();
    for file in sources(Path::new("src")) {
        let room = room_of(&file);
        if room == "lib" {
            continue;
        }
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("{}: the room `{room}` has no place in the drawing", file.display()));
            continue;
        };
        let text = fs::read_to_string(&file).expect("a source file can be read");
        for used in uses(&text) {
            if used != room && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{}: `{room}` uses `{used}`", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_drawing_has_no_circle() {
    let mut placed: BTreeSet<&str> = BTreeSet::new();
    let mut left: Vec<_> = MAY_USE.to_vec();
    while !left.is_empty() {
        let before = left.len();
        left.retain(|(room, uses)| {
            let ready = uses.iter().all(|used| placed.contains(used));
            if ready {
                placed.insert(room);
            }
            !ready
        });
        assert!(left.len() < before, "a circle among {left:?}");
    }
}

#[test]
fn a_use_in_the_wrong_direction_is_seen() {
    let text = "
        use crate::{call::Call, server::Thing, Word};
        use crate::app;
        fn f() { crate::config::load(); }
        #[cfg(test)]
        mod tests { use crate::cli; }
    ";
    assert_eq!(uses(text), ["app", "call", "config", "server"].map(str::to_owned).into());
}

/// The files under a folder that are not tests.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("the source folder can be read") {
        let path = entry.expect("the source folder can be listed").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            if name != "tests" {
                files.extend(sources(&path));
            }
        } else if path.extension().is_some_and(|ending| ending == "rs") && name != "tests.rs" {
            files.push(path);
        }
    }
    files
}

/// The top-level module that a file belongs to.
fn room_of(file: &Path) -> String {
    let first = file.components().nth(1).expect("a file under src/");
    Path::new(first.as_os_str()).with_extension("").to_string_lossy().into_owned()
}

/// The top-level modules of the crate that a file's code names, tests left out.
fn uses(text: &str) -> BTreeSet<String> {
    let mut seen = Seen::default();
    seen.visit_file(&syn::parse_file(text).expect("a source file is Rust"));
    seen.rooms
}

#[derive(Default)]
struct Seen {
    rooms: BTreeSet<String>,
}

impl Seen {
    fn note(&mut self, name: &Ident) {
        let name = name.to_string();
        // A type or constant at the crate's root is no room.
        if name.starts_with(|first: char| first.is_lowercase()) {
            self.rooms.insert(name);
        }
    }
}

impl<'ast> Visit<'ast> for Seen {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        let is_test = |attribute: &Attribute| {
            attribute.path().is_ident("cfg")
                && attribute.parse_args::<Ident>().is_ok_and(|condition| condition == "test")
        };
        if !module.attrs.iter().any(is_test) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_use_path(&mut self, path: &'ast UsePath) {
        if path.ident == "crate" || path.ident == "ott_gateway" {
            match &*path.tree {
                UseTree::Path(next) => self.note(&next.ident),
                UseTree::Name(next) => self.note(&next.ident),
                UseTree::Rename(next) => self.note(&next.ident),
                UseTree::Glob(_) => panic!("`use crate::*` hides what is used"),
                UseTree::Group(group) => {
                    for tree in &group.items {
                        match tree {
                            UseTree::Path(next) => self.note(&next.ident),
                            UseTree::Name(next) => self.note(&next.ident),
                            UseTree::Rename(next) => self.note(&next.ident),
                            UseTree::Glob(_) | UseTree::Group(_) => {
                                panic!("one group after `crate::` is enough")
                            }
                        }
                    }
                }
            }
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let mut segments = path.segments.iter();
        if segments.next().is_some_and(|first| first.ident == "crate" || first.ident == "ott_gateway")
            && let Some(room) = segments.next()
        {
            self.note(&room.ident);
        }
        visit::visit_path(self, path);
    }
}
