//! The layers of ARCHITECTURE.md: modules depend only on lower layers.
//!
//! The tests parse the source, so that a `use` in the wrong direction fails here instead of in a
//! review.

mod cycles;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::{
    Attribute, Expr, ExprCall, ExprMethodCall, Ident, ItemImpl, ItemMod, Macro, UsePath, UseTree,
    visit::{self, Visit},
};

/// The modules that each module may use (ARCHITECTURE.md: server → service → {caller, access,
/// platform} → credential → {`http_client`, secret, clock, backoff}). Unlisted modules fail, so
/// that each new one must be placed.
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
            "server",
            "access",
            "credential",
            "audit",
            "call",
            "ott",
            "clock",
            "secret",
            "pki",
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
            "files",
            "memory",
            "pki",
            "call",
            "ott",
            "backoff",
            "supervision",
            "fault_injection",
        ],
    ),
    (
        "config",
        &[
            "server",
            "access",
            "caller",
            "platform",
            "credential",
            "http_client",
            "audit",
            "telemetry",
            "call",
            "ott",
            "secret",
            "text",
            "files",
            "pki",
            "clock",
        ],
    ),
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
            "files",
            "memory",
            "pki",
            "validity",
            "supervision",
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
            "text",
            "fault_injection",
        ],
    ),
    ("arrival", &["caller", "access", "telemetry", "call", "clock"]),
    ("caller", &["call", "http_client", "telemetry", "clock", "secret", "files", "backoff"]),
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
    ("credential", &["http_client", "telemetry", "call", "clock", "secret", "files", "backoff"]),
    ("status", &["platform", "credential", "access", "caller", "call", "proto", "reason", "text", "backoff"]),
    ("http_client", &["pki", "files", "memory", "telemetry", "clock", "backoff"]),
    ("audit", &["call", "ott", "reason", "telemetry", "clock", "secret", "text", "backoff"]),
    ("health", &["proto", "telemetry", "clock"]),
    ("admin", &["health", "telemetry", "clock"]),
    ("supervision", &["telemetry", "clock", "backoff"]),
    ("telemetry", &["call", "reason", "text", "files", "memory", "validity", "clock", "backoff"]),
    ("call", &["clock", "memory", "ott", "reason"]),
    ("reason", &[]),
    ("ott", &["secret", "text"]),
    ("session", &["ott", "secret"]),
    ("secret", &["files"]),
    ("memory", &[]),
    ("text", &[]),
    ("files", &["clock"]),
    ("pki", &["validity"]),
    ("validity", &[]),
    ("clock", &[]),
    ("backoff", &[]),
    ("fault_injection", &["reason"]),
    ("sandbox", &["clock", "reason", "fault_injection"]),
];

/// Files that start tasks and threads, how many, and why they are not duties of `supervision`. A
/// task that runs as long as the gateway must be a duty, because otherwise nothing notices its end.
const MAY_SPAWN: &[(&str, usize, &str)] = &[
    ("src/supervision.rs", 1, "runs the duties"),
    ("src/audit/thread.rs", 1, "the audit thread, which has a heartbeat"),
    ("src/audit/handover.rs", 1, "the hand-over of a worker; without it, lines are sent one by one"),
    ("src/server/http1.rs", 2, "the admin thread, which has a heartbeat, and the connections on it"),
    ("src/server/worker.rs", 2, "a worker, which has a heartbeat, and the connections on it"),
    ("src/telemetry/threads/activity.rs", 1, "the heartbeat of a thread"),
    ("src/telemetry/logging/writer.rs", 1, "the log thread, which reports lines that it cannot write"),
    ("src/telemetry/tracing/otlp/export.rs", 1, "the thread that sends spans"),
    ("src/server/completion.rs", 1, "the record of one call"),
    ("src/server/tls/turns.rs", 1, "the completion of one handshake step"),
    ("src/service/detached.rs", 1, "the work of one call"),
    ("src/service/undelivered.rs", 1, "the logout of one session"),
    ("src/platform/connections.rs", 1, "one renewal of connections"),
    ("src/app/online_check.rs", 1, "one token request"),
    ("src/app/reload.rs", 1, "one check of the configuration"),
    ("src/config/common_tokens.rs", 1, "one comparison with common tokens"),
    ("src/cli/prompt.rs", 1, "one read from the terminal"),
    ("src/files/timed.rs", 1, "one read of files"),
    ("src/http_client/resolver/system.rs", 1, "the threads of name lookups"),
    ("src/sandbox.rs", 1, "the simulated platform"),
    ("src/sandbox/listener.rs", 1, "the connections to the simulated platform"),
];

#[test]
fn tasks_that_run_as_long_as_the_gateway_are_supervised() {
    let mut wrong = Vec::new();
    let is_for_tests = |file: &PathBuf| file.file_name().is_some_and(|name| name == "for_test.rs");
    for file in sources(Path::new("src")).into_iter().filter(|file| !is_for_tests(file)) {
        let text = fs::read_to_string(&file).expect("a source file can be read");
        let found = spawns(&text);
        let listed = MAY_SPAWN.iter().find(|(path, ..)| Path::new(path) == file);
        let expected = listed.map_or(0, |(_, count, _)| *count);
        if found != expected {
            wrong.push(format!("{}: starts {found} tasks or threads, {expected} are listed", file.display()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn started_tasks_are_counted() {
    let text = "
        fn f() { tokio::spawn(async {}); thread::Builder::new().spawn(|| ()); tasks.spawn(async {}); }
        async fn g() { tokio::select! { _ = spawn_blocking(|| ()) => {} } }
        #[cfg(test)]
        mod tests { fn f() { tokio::spawn(async {}); } }
    ";
    assert_eq!(spawns(text), 4);
}

#[test]
fn dependencies_run_downwards() {
    let mut wrong = Vec::new();
    for file in sources(Path::new("src")) {
        let module = module_of(&file);
        if module == "lib" {
            continue;
        }
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{}: the module `{module}` has no layer in MAY_USE", file.display()));
            continue;
        };
        let text = fs::read_to_string(&file).expect("a source file can be read");
        for used in uses(&text) {
            if used != module && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{}: `{module}` uses `{used}`", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn layers_have_no_cycle() {
    let mut placed: BTreeSet<&str> = BTreeSet::new();
    let mut left: Vec<_> = MAY_USE.to_vec();
    while !left.is_empty() {
        let before = left.len();
        left.retain(|(module, uses)| {
            let ready = uses.iter().all(|used| placed.contains(used));
            if ready {
                placed.insert(module);
            }
            !ready
        });
        assert!(left.len() < before, "a cycle among {left:?}");
    }
}

#[test]
fn uses_of_modules_are_found() {
    let text = "
        use crate::{domain::call::Call, server::Thing, Word};
        use crate::app;
        fn f() { crate::config::load(); }
        #[cfg(test)]
        mod tests { use crate::cli; }
    ";
    assert_eq!(uses(text), ["app", "call", "config", "server"].map(str::to_owned).into());
}

#[test]
fn every_ignored_test_is_started_by_another() {
    let (mut files, mut folders) = (Vec::new(), vec![PathBuf::from("src"), PathBuf::from("tests")]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("the folder can be read") {
            let path = entry.expect("the folder can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                files.push(path);
            }
        }
    }
    let mut ignored = 0;
    for file in files {
        let text = fs::read_to_string(&file).expect("the file can be read");
        // Split, so that this file does not match itself.
        for part in text.split(concat!("#[", "ignore")).skip(1) {
            let (_, name) = part.split_once("fn ").expect("a function");
            let (name, _) = name.split_once('(').expect("its arguments");
            assert!(text.contains(&format!("::{name}\"")), "{}: nothing starts {name}", file.display());
            ignored += 1;
        }
    }
    assert!(ignored > 0, "this test finds them");
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
fn module_of(file: &Path) -> String {
    let first = file.components().nth(1).expect("a file under src/");
    Path::new(first.as_os_str()).with_extension("").to_string_lossy().into_owned()
}

/// The top-level modules of the crate that a file's code uses, excluding tests.
fn uses(text: &str) -> BTreeSet<String> {
    let mut seen = UsedModules::default();
    seen.visit_file(&syn::parse_file(text).expect("a source file is Rust"));
    seen.modules
}

/// Number of calls that start tasks or threads, excluding tests: of any function whose name begins
/// with `spawn`.
fn spawns(text: &str) -> usize {
    let mut spawns = Spawns::default();
    spawns.visit_file(&syn::parse_file(text).expect("a source file is Rust"));
    spawns.0
}

#[derive(Default)]
struct Spawns(usize);

impl Spawns {
    fn note(&mut self, function: &Ident) {
        self.0 += usize::from(function.to_string().starts_with("spawn"));
    }
}

impl<'ast> Visit<'ast> for Spawns {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if !is_test(module) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        if !item.attrs.iter().any(is_for_tests) {
            visit::visit_item_impl(self, item);
        }
    }

    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        self.note(&call.method);
        visit::visit_expr_method_call(self, call);
    }

    fn visit_expr_call(&mut self, call: &'ast ExprCall) {
        if let Expr::Path(function) = &*call.func
            && let Some(last) = function.path.segments.last()
        {
            self.note(&last.ident);
        }
        visit::visit_expr_call(self, call);
    }

    /// Macro arguments are not parsed, so calls in them are found by tokens.
    fn visit_macro(&mut self, call: &'ast Macro) {
        self.0 += spawns_in(call.tokens.clone());
    }
}

/// Number of identifiers that begin with `spawn` and are followed by parentheses.
fn spawns_in(tokens: TokenStream) -> usize {
    let mut count = 0;
    let mut names_spawn = false;
    for token in tokens {
        let is_spawn = matches!(&token, TokenTree::Ident(word) if word.to_string().starts_with("spawn"));
        if let TokenTree::Group(group) = token {
            count += usize::from(names_spawn && group.delimiter() == Delimiter::Parenthesis);
            count += spawns_in(group.stream());
        }
        names_spawn = is_spawn;
    }
    count
}

/// Whether an attribute is `#[cfg(test)]`.
fn is_for_tests(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute.parse_args::<Ident>().is_ok_and(|condition| condition == "test")
}

fn is_test(module: &ItemMod) -> bool {
    module.attrs.iter().any(is_for_tests)
}

#[derive(Default)]
struct UsedModules {
    modules: BTreeSet<String>,
}

impl UsedModules {
    fn note(&mut self, name: &Ident) {
        let name = name.to_string();
        // Types and constants of the crate root are not modules.
        if name.starts_with(|first: char| first.is_lowercase()) {
            self.modules.insert(name);
        }
    }
}

impl<'ast> Visit<'ast> for UsedModules {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if !is_test(module) {
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
            && let Some(module) = segments.next()
        {
            self.note(&module.ident);
        }
        visit::visit_path(self, path);
    }
}
