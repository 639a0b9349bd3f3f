//! The imports between the files of one top-level module form no cycle.
//!
//! A parent and its children may use each other: a parent re-exports what its children define, and
//! the children share what the parent defines. Paths within macros are not parsed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use syn::{
    ItemMod, ItemUse, UseTree,
    visit::{self, Visit},
};

use super::{is_test, sources};

/// The path of a module below the crate.
type Module = Vec<String>;
/// The modules that each module uses.
type Graph = BTreeMap<Module, BTreeSet<Module>>;

#[test]
fn imports_within_a_module_form_no_cycle() {
    let texts = sources(Path::new("src")).into_iter().map(|file| {
        let text = fs::read_to_string(&file).expect("a source file can be read");
        (module_of(&file), text)
    });
    let found = cycles(&graph(&texts.collect()));
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn cycle_within_a_module_is_found() {
    let graph = |files: &[(&str, &str)]| {
        let texts = files.iter().map(|(module, text)| (path(module), (*text).to_owned())).collect();
        cycles(&graph(&texts))
    };
    let cycle = BTreeSet::from([vec!["top::a".to_owned(), "top::b".to_owned(), "top::c".to_owned()]]);
    let files = [
        ("top", "mod a; mod b; mod c; pub use a::A;"),
        ("top::a", "use super::{A, b::{self, B as Other}};"),
        ("top::b", "mod inner { pub(super) fn f() { super::super::c::g(); } }"),
        ("top::c", "use crate::top::a::{A, sub};"),
        ("top::a::sub", "use super::A;"),
    ];
    assert_eq!(graph(&files), cycle);
    let mut without = files;
    without[3].1 = "use crate::other::a; #[cfg(test)] mod tests { use super::super::a::A; }";
    assert_eq!(graph(&without), BTreeSet::new());
}

fn path(module: &str) -> Module {
    module.split("::").map(str::to_owned).collect()
}

fn module_of(file: &Path) -> Module {
    let below = file.strip_prefix("src").expect("a file under src/").with_extension("");
    below.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect()
}

/// Uses between modules of one top-level module, apart from those between parents and children.
fn graph(texts: &BTreeMap<Module, String>) -> Graph {
    let is_related = |one: &Module, other: &Module| one.starts_with(other) || other.starts_with(one);
    let mut graph = Graph::new();
    for (module, text) in texts {
        let mut paths = Paths::default();
        paths.visit_file(&syn::parse_file(text).expect("a source file is Rust"));
        let targets = paths.found.iter().filter_map(|(depth, path)| {
            let mut target = base(module, *depth, path)?;
            for segment in path.iter().skip_while(|segment| is_keyword(segment)) {
                target.push(segment.clone());
                if !texts.contains_key(&target) {
                    target.pop();
                    break;
                }
            }
            Some(target)
        });
        let uses = targets
            .filter(|target| target.first() == module.first() && !is_related(target, module))
            .collect();
        graph.insert(module.clone(), uses);
    }
    graph
}

fn is_keyword(segment: &str) -> bool {
    matches!(segment, "crate" | "self" | "super")
}

/// Returns the module that the keywords at the start of a path refer to. `None` for a path without
/// keywords, which starts at a child or another crate. `depth` is the number of enclosing modules
/// within the file.
fn base(module: &Module, depth: usize, path: &[String]) -> Option<Module> {
    match path.first()?.as_str() {
        "crate" => Some(Module::new()),
        "self" | "super" => {
            let up = path.iter().filter(|segment| *segment == "super").count();
            let length = (module.len() + depth).checked_sub(up)?;
            Some(module.iter().take(length).cloned().collect())
        }
        _ => None,
    }
}

/// Returns the groups of modules that use each other, directly or through others of the group.
fn cycles(graph: &Graph) -> BTreeSet<Vec<String>> {
    let reach: BTreeMap<&Module, BTreeSet<&Module>> =
        graph.keys().map(|module| (module, reachable(graph, module))).collect();
    let cycle_of = |module: &Module| -> Vec<String> {
        let others = reach[module].iter().filter(|other| reach[*other].contains(module));
        others.map(|other| other.join("::")).collect()
    };
    graph.keys().map(cycle_of).filter(|cycle| !cycle.is_empty()).collect()
}

fn reachable<'a>(graph: &'a Graph, module: &Module) -> BTreeSet<&'a Module> {
    let mut reached: BTreeSet<&Module> = BTreeSet::new();
    let mut next: Vec<&Module> = graph[module].iter().collect();
    while let Some(module) = next.pop() {
        if reached.insert(module) {
            next.extend(&graph[module]);
        }
    }
    reached
}

/// Every path in a file's code, excluding tests, with the number of enclosing modules within the
/// file.
#[derive(Default)]
struct Paths {
    depth: usize,
    found: Vec<(usize, Vec<String>)>,
}

impl Paths {
    fn add_tree(&mut self, tree: &UseTree, before: &[String]) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.add_tree(&path.tree, &with(&path.ident)),
            UseTree::Name(name) => self.found.push((self.depth, with(&name.ident))),
            UseTree::Rename(name) => self.found.push((self.depth, with(&name.ident))),
            UseTree::Glob(_) => self.found.push((self.depth, before.to_vec())),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_tree(tree, before)),
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if !is_test(module) {
            self.depth += 1;
            visit::visit_item_mod(self, module);
            self.depth -= 1;
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.add_tree(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path.segments.iter().map(|segment| segment.ident.to_string());
        self.found.push((self.depth, segments.collect()));
        visit::visit_path(self, path);
    }
}
