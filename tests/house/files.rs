//! Which source file uses which: every path of a `use` and of the code is followed to the
//! file that defines what it names.
//!
//! Contract: a `mod child;` or a re-export ties its file to nothing, a path through a
//! re-export leads to the file that defines the name. Tests are left out. Nothing depends on
//! `main.rs` and `lib.rs`. Method calls, glob re-exports and functions that are re-exported
//! and then passed as values without a call are not seen.

use super::{Source, code, reachable, sources};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// How many imports in a row are followed.
const HOPS: usize = 16;

/// `["core", "record"]` for `src/core/record.rs`; an item's path has the item's name last.
type Path = Vec<String>;

/// By file, the files that it uses, and the names by which it does.
type Edges = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

#[derive(Default)]
struct Module {
    /// Relative to `src`. An inline module has that of the module around it.
    file: String,
    imports: Vec<Import>,
    /// The paths in its code, except those of imports.
    paths: Vec<Path>,
    /// The names in its code that stand alone and are types, constants or functions that are called.
    names: BTreeSet<String>,
}

struct Import {
    /// What it is called here; `*` for all that is in a module.
    name: String,
    path: Path,
    reexport: bool,
}

struct Modules(BTreeMap<Path, Module>);

#[test]
fn no_circle_between_files() {
    let modules = Modules::of(&sources("src"));
    let edges = modules.edges();
    assert!(edges.values().map(BTreeMap::len).sum::<usize>() > 300, "the paths are followed");
    let circles = circles(&edges);
    assert!(
        circles.is_empty(),
        "files that depend on each other, with the names that tie them \
         (move what both use to a third file):\n{}",
        circles.concat()
    );
}

/// A text for each group of files that depend on one another.
fn circles(edges: &Edges) -> Vec<String> {
    let plain: BTreeMap<String, BTreeSet<String>> =
        edges.iter().map(|(file, uses)| (file.clone(), uses.keys().cloned().collect())).collect();
    let reach: BTreeMap<&String, BTreeSet<String>> =
        plain.iter().map(|(file, uses)| (file, reachable(&plain, uses))).collect();
    let mut groups: BTreeSet<Vec<&String>> = BTreeSet::new();
    for (file, reached) in reach.iter().filter(|(file, reached)| reached.contains(**file)) {
        let back = |other: &&&String| reached.contains(**other) && reach[*other].contains(*file);
        groups.insert(reach.keys().filter(back).copied().collect());
    }
    groups.into_iter().map(|group| describe(edges, &group)).collect()
}

fn describe(edges: &Edges, group: &[&String]) -> String {
    let files: Vec<&str> = group.iter().map(|file| file.as_str()).collect();
    let mut text = format!("  circle of {}:\n", files.join(", "));
    for file in group {
        for (other, names) in edges[*file].iter().filter(|(other, _)| group.contains(other)) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let _ = writeln!(text, "    {file} uses {other}: {}", names.join(", "));
        }
    }
    text
}

impl Modules {
    fn of(sources: &[Source]) -> Self {
        let mut modules = Modules(BTreeMap::new());
        for source in sources {
            let file = source.path.trim_start_matches("src/");
            let mut path: Path = file.trim_end_matches(".rs").split('/').map(str::to_string).collect();
            if file == "main.rs" || path.iter().any(|part| part == "tests") {
                continue;
            }
            if ["mod", "lib"].contains(&path[path.len() - 1].as_str()) {
                path.pop();
            }
            modules.read(path, file, &tokens(&source.code));
        }
        modules
    }

    /// Reads the code of a module, and of the modules in it.
    fn read(&mut self, path: Path, file: &str, tokens: &[&str]) {
        let mut module = Module { file: file.to_string(), ..Module::default() };
        let mut public = false;
        let mut at = 0;
        while at < tokens.len() {
            let rest = &tokens[at..];
            let was_public = std::mem::take(&mut public);
            at += match rest {
                ["#", "[", "cfg", "(", "test", ")", "]", ..] => item(rest),
                ["pub", "(", ..] => {
                    public = true;
                    until(rest, ")")
                }
                ["pub", ..] => {
                    public = true;
                    1
                }
                ["use", name, ..] if is_name(name) || *name == "{" => {
                    let length = until(rest, ";");
                    for (path, name) in tree(&rest[1..length - 1]) {
                        module.imports.push(Import { name, path, reexport: was_public });
                    }
                    length
                }
                ["mod", _, ";", ..] => 3,
                ["mod", name, "{", ..] => {
                    let length = item(rest);
                    let inner = [&path[..], &[name.to_string()]].concat();
                    self.read(inner, file, &rest[3..length - 1]);
                    length
                }
                // The name of a definition, of a method or of an associated item.
                ["fn" | "." | "::", name, ..] if is_name(name) => 2,
                [name, ..] if is_name(name) => module.name(rest),
                _ => 1,
            };
        }
        self.0.insert(path, module);
    }

    fn edges(&self) -> Edges {
        let mut edges = Edges::new();
        for (path, module) in &self.0 {
            let uses = edges.entry(module.file.clone()).or_default();
            let imports = module.imports.iter().filter(|import| {
                !import.reexport || import.name != "*" && module.names.contains(&import.name)
            });
            let imports = imports.map(|import| (&import.path, import.name == "*"));
            for (named, glob) in imports.chain(module.paths.iter().map(|named| (named, false))) {
                let Some((home, item)) = self.absolute(path, named, 0).and_then(|path| self.home(path, 0))
                else {
                    continue;
                };
                // What is used of a module that is imported stands in the code: `module::name`.
                let counts = (item || glob) && !home.is_empty();
                let file = &self.0[&home].file;
                if counts && *file != module.file {
                    uses.entry(file.clone()).or_default().insert(named.join("::"));
                }
            }
        }
        edges
    }

    /// The path from the root of the crate; none for that of another crate.
    fn absolute(&self, module: &[String], path: &[String], hops: usize) -> Option<Path> {
        let (first, rest) = path.split_first().filter(|_| hops < HOPS)?;
        let mut base = match first.as_str() {
            "crate" => Path::new(),
            "self" => module.to_vec(),
            "super" => module.split_last()?.1.to_vec(),
            name if self.0.contains_key(&[module, &[name.to_string()]].concat()) => {
                return Some([module, path].concat());
            }
            name => {
                let import = self.import(module, name)?;
                self.absolute(module, &import.path, hops + 1)?
            }
        };
        let mut rest = rest;
        while rest.first().is_some_and(|part| part == "super") {
            base.pop()?;
            rest = &rest[1..];
        }
        base.extend_from_slice(rest);
        Some(base)
    }

    /// The module that defines what is at this path, and whether that is an item of it rather than
    /// the module as such.
    fn home(&self, path: Path, hops: usize) -> Option<(Path, bool)> {
        let length = (0..=path.len()).rev().find(|length| self.0.contains_key(&path[..*length]))?;
        let (module, item) = path.split_at(length);
        let Some(name) = item.first().filter(|name| *name != "*") else {
            return Some((module.to_vec(), false));
        };
        match self.import(module, name).filter(|_| hops < HOPS) {
            None => Some((module.to_vec(), true)),
            Some(import) => {
                let target = self.absolute(module, &import.path, 0)?;
                self.home([&target, &item[1..]].concat(), hops + 1)
            }
        }
    }

    fn import(&self, module: &[String], name: &str) -> Option<&Import> {
        self.0.get(module)?.imports.iter().find(|import| import.name == name)
    }
}

impl Module {
    /// Takes the path or the name that the code begins with, and returns its length.
    fn name(&mut self, code: &[&str]) -> usize {
        let mut path = vec![code[0].to_string()];
        let mut length = 1;
        while let ["::", name, ..] = code[length..] {
            if !is_name(name) {
                break;
            }
            path.push(name.to_string());
            length += 2;
        }
        // A field or a parameter of the same name is nothing that was imported.
        let next = code.get(length).copied().unwrap_or_default();
        let stands_for_an_item = match path[0].starts_with(char::is_uppercase) {
            true => next != ":",
            false => ["(", "::", "!"].contains(&next) || path.len() > 1,
        };
        if stands_for_an_item {
            self.names.insert(path[0].clone());
        }
        if path.len() > 1 {
            self.paths.push(path);
        }
        length
    }
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Words, `::`, and every other character by itself.
fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let length = match word {
            0 if rest.starts_with("::") => 2,
            0 => first.len_utf8(),
            _ => word,
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
}

/// How many tokens there are up to the first of these and with it.
fn until(code: &[&str], end: &str) -> usize {
    code.iter().position(|token| *token == end).map_or(code.len(), |at| at + 1)
}

/// The length of an item, with its attributes: it ends with a brace that is closed, or a semicolon.
fn item(code: &[&str]) -> usize {
    let mut depth = 0;
    for (at, token) in code.iter().enumerate() {
        match *token {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        let group_of_a_use = code.get(at + 1) == Some(&";");
        if depth == 0 && (*token == ";" || *token == "}" && !group_of_a_use) {
            return at + 1;
        }
    }
    code.len()
}

/// The paths of a `use`, each with the name that it gives.
fn tree(code: &[&str]) -> Vec<(Path, String)> {
    let mut prefix = Path::new();
    let mut at = 0;
    while let Some(token) = code.get(at) {
        match *token {
            "::" => {}
            "{" => {
                let group = branches(&code[at + 1..]).into_iter().flat_map(tree);
                let inside = group.map(|(path, name)| match path[..] {
                    // `a::{self}` names `a`, also as something else.
                    [ref only] if only == "self" && !prefix.is_empty() => {
                        let own = if name == "self" { prefix[prefix.len() - 1].clone() } else { name };
                        (prefix.clone(), own)
                    }
                    _ => ([&prefix[..], &path].concat(), name),
                });
                return inside.collect();
            }
            "as" => {
                let name = code.get(at + 1).copied().unwrap_or_default();
                return vec![(prefix, name.to_string())];
            }
            name => prefix.push(name.to_string()),
        }
        at += 1;
    }
    let name = prefix.last().cloned();
    name.map(|name| (prefix, name)).into_iter().collect()
}

/// What the commas of a group separate, up to its closing brace.
fn branches<'a, 'b>(code: &'a [&'b str]) -> Vec<&'a [&'b str]> {
    let mut found = Vec::new();
    let (mut start, mut depth) = (0, 0);
    for (at, token) in code.iter().enumerate() {
        match *token {
            "{" => depth += 1,
            "}" if depth > 0 => depth -= 1,
            "," | "}" if depth == 0 => {
                found.push(&code[start..at]);
                start = at + 1;
                if *token == "}" {
                    break;
                }
            }
            _ => {}
        }
    }
    found
}

/// The edges of a small crate, each in a line.
fn edges_of(files: &[(&str, &str)]) -> Vec<String> {
    let edges = Modules::of(&small(files)).edges();
    let lines = edges.iter().flat_map(|(from, uses)| {
        uses.iter().map(move |(to, names)| {
            format!("{from} -> {to}: {}", names.iter().cloned().collect::<Vec<_>>().join(", "))
        })
    });
    lines.collect()
}

fn small(files: &[(&str, &str)]) -> Vec<Source> {
    let source = |(path, text): &(&str, &str)| Source {
        path: format!("src/{path}"),
        code: code(text),
        lines: text.lines().count(),
    };
    files.iter().map(source).collect()
}

#[test]
fn a_declaration_and_a_reexport_are_no_use() {
    let parent = "mod a; pub mod b; pub use a::X; pub(crate) use b::{Y, f};";
    let files =
        [("p/mod.rs", parent), ("p/a.rs", "pub struct X;"), ("p/b.rs", "pub enum Y {} pub fn f() {}")];
    assert_eq!(edges_of(&files), [""; 0]);
}

#[test]
fn what_a_parent_s_code_names_is_a_use() {
    let parent = "mod a; mod b; pub use a::{X, f, g, Z};\n\
                  pub struct W { pub f: u8 } fn h(x: X, w: W) { w.f; g(); b::go(); }";
    let files = [("p/mod.rs", parent), ("p/a.rs", "pub struct X;"), ("p/b.rs", "pub fn go() {}")];
    assert_eq!(edges_of(&files), ["p/mod.rs -> p/a.rs: a::X, a::g", "p/mod.rs -> p/b.rs: b::go"]);
    let files = [("p/mod.rs", "mod a; use a::Trait; fn f() {}"), ("p/a.rs", "pub trait Trait {}")];
    assert_eq!(edges_of(&files), ["p/mod.rs -> p/a.rs: a::Trait"]);
}

#[test]
fn a_child_uses_what_its_parent_defines() {
    let files = [
        ("p/mod.rs", "mod a; mod b; pub use b::Y; use std::fs; pub struct X;"),
        ("p/a.rs", "use super::X; impl X { fn f(y: super::Y) { super::fs::read(1) } }"),
        ("p/b.rs", "pub struct Y;"),
    ];
    assert_eq!(edges_of(&files), ["p/a.rs -> p/b.rs: super::Y", "p/a.rs -> p/mod.rs: super::X"]);
}

#[test]
fn a_reexport_leads_to_the_file_that_defines_the_name() {
    let files = [
        ("lib.rs", "pub mod p; pub mod q; pub use q::Error;"),
        ("p/mod.rs", "pub mod a; pub use a::{X, Y as Z};"),
        ("p/a.rs", "mod deep; pub use deep::X; pub struct Y; pub enum E { One }"),
        ("p/a/deep.rs", "pub struct X;"),
        ("q.rs", "use crate::p::{self, X, a::{E, E::*}}; fn f() -> p::Z { p::a::go(); self::g() } fn g() {}"),
        ("r.rs", "use crate::p as other; fn f(e: crate::Error) { other::X::new(); std::fs::read(1); }"),
        ("s.rs", "use crate::{p::X as Mine, q}; mod inner { use super::Mine; fn f() { super::q::f() } }"),
    ];
    assert_eq!(
        edges_of(&files),
        [
            "q.rs -> p/a.rs: crate::p::a::E, crate::p::a::E::*, p::Z, p::a::go",
            "q.rs -> p/a/deep.rs: crate::p::X",
            "r.rs -> p/a/deep.rs: other::X::new",
            "r.rs -> q.rs: crate::Error",
            "s.rs -> p/a/deep.rs: crate::p::X, super::Mine",
            "s.rs -> q.rs: super::q::f",
        ]
    );
}

#[test]
fn tests_visibilities_and_names_of_others_are_left_out() {
    let b = "#[cfg(test)] use crate::a::{X, Y}; #[cfg(test)] mod tests { use super::*; use crate::a::X; }\n\
             pub(in crate::a) fn f(x: a::X) -> impl Sized + use<'_> { 1.max(2) } // crate::a::X";
    let files = [
        ("main.rs", "use graceful::a; fn main() { crate::a::go() }"),
        ("a.rs", "mod tests;"),
        ("a/tests.rs", "use crate::b::f;"),
        ("b.rs", b),
    ];
    assert_eq!(edges_of(&files), [""; 0]);
}

#[test]
fn a_circle_is_told_with_the_names_that_tie_it() {
    let files = [
        ("p/mod.rs", "mod a; mod b; mod c; mod d;"),
        ("p/a.rs", "use super::b::B; pub struct A;"),
        ("p/b.rs", "use super::c; fn f() { c::go(); super::d::go(); }"),
        ("p/c.rs", "fn go() { crate::p::a::A }"),
        ("p/d.rs", "pub fn go() {}"),
    ];
    assert_eq!(
        circles(&Modules::of(&small(&files)).edges()),
        ["  circle of p/a.rs, p/b.rs, p/c.rs:\n    \
          p/a.rs uses p/b.rs: super::b::B\n    \
          p/b.rs uses p/c.rs: c::go\n    \
          p/c.rs uses p/a.rs: crate::p::a::A\n"]
    );
}
