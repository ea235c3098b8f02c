//! What rustc does not check: the rules of the house.
//!
//! Contract: dependencies between modules point one way, and so do those between files
//! (`house/files.rs`); the pure modules stay pure; unsafe code lives in `src/sys`; no file
//! grows past two nouns; nothing prints; no test waits for time to pass; every dependency
//! earns its place.

#[path = "house/files.rs"]
mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A file this long has a second noun in it.
const LONGEST: usize = 450;

struct Source {
    /// Relative to the root.
    path: String,
    /// Without comments and the contents of strings.
    code: String,
    lines: usize,
}

impl Source {
    /// `core` for `src/core/record.rs`, `logger` for `src/logger.rs`.
    fn module(&self) -> &str {
        let inside = self.path.trim_start_matches("src/");
        inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs")
    }
}

#[test]
fn dependencies_point_one_way() {
    let edges = edges(&sources("src"));
    assert!(
        edges["supervisor"].contains("core") && edges["launch"].contains("listener"),
        "the edges are seen: {edges:?}"
    );
    for (module, uses) in &edges {
        assert!(!reachable(&edges, uses).contains(module.as_str()), "{module} depends on itself: {edges:?}");
    }
    for (module, forbidden) in
        [("sys", "core"), ("listener", "supervisor"), ("core", "sys"), ("cli", "config")]
    {
        let found = edges.get(module).is_some_and(|uses| uses.contains(forbidden));
        assert!(!found, "{module} uses {forbidden}");
    }
}

/// The core's state is carried over to the next image of ourselves: serde's derive
/// writes that down and does no I/O.
#[test]
fn the_pure_modules_use_std_and_serde_s_derive_alone() {
    let packages = packages("dependencies");
    for source in sources("src") {
        if !["core", "dialect"].contains(&source.module()) {
            continue;
        }
        let others: Vec<String> =
            uses(&source.code).into_iter().filter(|name| name != source.module()).collect();
        assert!(others.is_empty(), "{} uses {others:?}", source.path);
        for package in &packages {
            let derives = source.module() == "core"
                && package == "serde"
                && source.code.matches("serde::").count() == 1
                && source.code.contains("use serde::{Deserialize, Serialize};");
            assert!(derives || !names_crate(&source.code, package), "{} uses {package}", source.path);
        }
        for impure in [
            "std::fs",
            "std::env",
            "std::process",
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "std::io",
            "std::thread",
            "Instant",
            "SystemTime",
        ] {
            assert!(!source.code.contains(impure), "{} uses {impure}", source.path);
        }
    }
}

#[test]
fn unsafe_code_lives_in_sys() {
    let mut in_sys = 0;
    for source in sources("src") {
        let found = words(&source.code).filter(|word| *word == "unsafe").count();
        match source.module() {
            "sys" => in_sys += found,
            _ => assert_eq!(found, 0, "{} has unsafe code", source.path),
        }
    }
    assert!(in_sys > 0, "unsafe code is seen where it is");
}

/// A `/proc` of another pid namespace shows strangers under the numbers of our processes.
#[test]
fn processes_are_looked_up_through_one_door() {
    let mut at_the_door = 0;
    for source in sources("src") {
        let text = fs::read_to_string(root().join(&source.path)).expect("a source file");
        let product = text.split("\n#[cfg(test)]").next().unwrap_or_default();
        let found = ["\"/proc/{", "read_dir(\"/proc\")"].map(|path| product.matches(path).count());
        match source.path.as_str() {
            "src/sys/proc.rs" => at_the_door = found[0].min(found[1]),
            path => assert_eq!(found, [0, 0], "{path} reads /proc and not sys::proc"),
        }
    }
    assert!(at_the_door > 0, "the door is seen where it is");
}

#[test]
fn no_file_is_too_long() {
    for source in sources("src") {
        assert!(source.lines < LONGEST, "{} has {} lines", source.path, source.lines);
    }
}

#[test]
fn nothing_prints_and_nothing_is_left_to_do() {
    for source in sources("src") {
        for name in ["print", "println", "eprint", "eprintln", "dbg", "todo", "unimplemented"] {
            let called = words_with_next(&source.code).any(|(word, next)| word == name && next == Some('!'));
            assert!(!called, "{} calls {name}!", source.path);
        }
    }
}

#[test]
fn no_test_sleeps() {
    let found: Vec<String> = sources("tests")
        .into_iter()
        .filter(|source| {
            words_with_next(&source.code).any(|(word, next)| word == "sleep" && next == Some('('))
        })
        .map(|source| source.path)
        .collect();
    assert!(found.is_empty(), "these wait for time to pass: {found:?}");
}

/// A graceful-run of a test must meet no other one: the harness gives its command surroundings of
/// its own, and `Scene::spawn` looks whether a command has them.
#[test]
fn no_test_starts_the_binary_in_the_machine_s_surroundings() {
    let mut seen = 0;
    for source in sources("tests").into_iter().filter(|source| !source.path.starts_with("tests/common/")) {
        let text = fs::read_to_string(root().join(&source.path)).expect("it was read before");
        // Not in one piece: this file is read as well.
        let built = concat!("CARGO_BIN", "_EXE");
        assert!(!text.contains(built), "{} has a path of its own to graceful-run", source.path);
        for function in source.code.split("fn ") {
            let has = |name: &str| words(function).any(|word| word == name);
            let starts = [".spawn()", ".output()", ".status()"].iter().any(|call| function.contains(call));
            if has("binary") && starts {
                seen += 1;
                let name = function.split('(').next().unwrap_or_default();
                let surrounded = ["mark", "surround"].iter().any(|call| has(call));
                assert!(surrounded, "{}: {name} starts graceful-run without `Scene::mark`", source.path);
            }
        }
    }
    assert!(seen > 2, "{seen} functions are seen");
}

#[test]
fn every_dependency_is_used() {
    let src = sources("src");
    let all: Vec<Source> = ["src", "tests", "examples", "benches"].into_iter().flat_map(sources).collect();
    for (table, sources) in [("dependencies", &src), ("dev-dependencies", &all)] {
        let packages = packages(table);
        assert!(!packages.is_empty(), "{table} is read");
        for package in packages {
            let used = sources.iter().any(|source| names_crate(&source.code, &package));
            assert!(used, "nothing uses {package} of {table}");
        }
    }
}

#[test]
fn comments_and_strings_are_no_code() {
    let code = code("a // unsafe\n\"un\\\"safe\" '\"' b /* dbg!() */ r#\"todo!()\"# 'x: loop { \"\n");
    assert_eq!(words(&code).collect::<Vec<_>>(), ["a", "b", "r", "x", "loop"]);
}

#[test]
fn grouped_uses_are_seen() {
    let seen = uses("use crate::{\n  a::{b, c}, d, e::f\n};\nlet x = crate::g::h(); use crate::i as j;");
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["a", "d", "e", "g", "i"]);
}

/// Which top-level module uses which; `main` and `lib` are nobody's.
fn edges(sources: &[Source]) -> BTreeMap<String, BTreeSet<String>> {
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources.iter().filter(|source| !["main", "lib"].contains(&source.module())) {
        let used = uses(&source.code).into_iter().filter(|name| name != source.module());
        edges.entry(source.module().to_string()).or_default().extend(used);
    }
    edges
}

fn reachable(edges: &BTreeMap<String, BTreeSet<String>>, from: &BTreeSet<String>) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut next: Vec<&String> = from.iter().collect();
    while let Some(module) = next.pop() {
        if seen.insert(module.clone()) {
            next.extend(edges.get(module).into_iter().flatten());
        }
    }
    seen
}

/// The names right after `crate::`, also in braces.
fn uses(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, mark) in code.match_indices("crate::") {
        let rest = &code[at + mark.len()..];
        match rest.strip_prefix('{') {
            None => names.extend(words(rest).next().map(str::to_string)),
            Some(group) => names.extend(first_names(group)),
        }
    }
    names
}

/// The first name of each item of a group, up to its closing brace.
fn first_names(group: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut depth = 0;
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => items.push(String::new()),
            _ => {}
        }
        if let Some(item) = items.last_mut() {
            item.push(c);
        }
    }
    items.iter().filter_map(|item| words(item).next().map(str::to_string)).collect()
}

fn names_crate(code: &str, package: &str) -> bool {
    let name = package.replace('-', "_");
    code.match_indices(name.as_str()).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = &code[at + name.len()..];
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
            && (after.starts_with("::") || after.starts_with(';'))
    })
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    words_with_next(code).map(|(word, _)| word)
}

fn words_with_next(code: &str) -> impl Iterator<Item = (&str, Option<char>)> {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.split(move |c: char| !part(c)).filter(|word| !word.is_empty()).map(|word| {
        let end = word.as_ptr() as usize - code.as_ptr() as usize + word.len();
        (word, code[end..].chars().next())
    })
}

/// The names in a table of the manifest.
fn packages(table: &str) -> Vec<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("there is a manifest");
    let (_, rest) = manifest.split_once(&format!("\n[{table}]\n")).expect("the manifest has the table");
    let lines = rest.lines().take_while(|line| !line.starts_with('['));
    lines.filter_map(|line| line.split_once('=').map(|(name, _)| name.trim().to_string())).collect()
}

#[test]
fn every_fault_is_held_by_a_test_that_exists() {
    let table = fs::read_to_string(root().join("tests/FAULTS.md")).unwrap();
    let units: String = sources("src").iter().map(|source| source.code.as_str()).collect();
    let mut named = 0;
    for (file, test) in table.split('`').skip(1).step_by(2).filter_map(|name| name.split_once("::")) {
        let text = match file {
            "src" => units.clone(),
            _ => fs::read_to_string(root().join(format!("tests/{file}.rs"))).unwrap_or_default(),
        };
        assert!(text.contains(&format!("fn {test}(")), "there is no {file}::{test}");
        named += 1;
    }
    assert!(named > 60, "{named} tests are named");
}

/// Every Rust file below a directory that may be missing.
fn sources(directory: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut next = vec![root().join(directory)];
    while let Some(directory) = next.pop() {
        for entry in
            fs::read_dir(&directory).into_iter().flatten().map(|entry| entry.expect("it can be read"))
        {
            let path = entry.path();
            if path.is_dir() {
                next.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("sources are UTF-8");
                let path = path.strip_prefix(root()).expect("it is below the root").display().to_string();
                found.push(Source { path, lines: text.lines().count(), code: code(&text) });
            }
        }
    }
    assert!(directory != "src" || found.len() > 20, "the sources are seen");
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).into()
}

/// The text without comments and what stands in quotes. Raw strings with quotes
/// in them would need a parser, and are not used here.
fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => quoted(rest, '"').unwrap_or(rest.len()),
            // A lifetime has no second quote, or one far away.
            '\'' => quoted(rest, '\'').filter(|&end| end <= 12 && is_char(&rest[1..end - 1])).unwrap_or(0),
            _ => 0,
        };
        match skipped {
            0 => {
                code.push(c);
                rest = &rest[c.len_utf8()..];
            }
            _ => {
                code.push(' ');
                rest = &rest[skipped..];
            }
        }
    }
    code
}

/// What a character literal holds: one character, or an escape.
fn is_char(inside: &str) -> bool {
    inside.starts_with('\\') || inside.chars().count() == 1
}

/// The length of a literal that begins here.
fn quoted(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '\\' if !escaped => escaped = true,
            _ if c == quote && !escaped => return Some(at + 1),
            _ => escaped = false,
        }
    }
    None
}
