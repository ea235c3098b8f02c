//! The build script: turns `servers/NAME.toml` into one static table, so that nothing is parsed, and
//! no file is read, at run time. A key that is not known here ends the build. Beside it stands one
//! test for each command line, for `tests/interop`.
//!
//! The keys are explained in `docs/profiles.md`, under "A new server".

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use toml::{Table, Value};

fn main() {
    let servers = Path::new("src/profiles/servers");
    let mut cargo = std::io::stdout();
    writeln!(cargo, "cargo::rerun-if-changed={}", servers.display()).expect("cargo reads it");
    let entries = fs::read_dir(servers).expect("src/profiles/servers is a directory");
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let mut table = String::from("[\n");
    let mut tests = String::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a profile is readable");
        let profile: Table = text.parse().unwrap_or_else(|why| panic!("{}: {why}", file.display()));
        let mut reader = Reader { file: &file, table: &profile, place: String::new() };
        assert_eq!(Some(reader.text("name").as_str()), file.file_stem().and_then(|stem| stem.to_str()));
        reader.profile(&mut table);
        reader.tests(&mut tests);
    }
    table.push(']');
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::write(out.join("profiles.rs"), table).expect("the output directory is ours");
    fs::write(out.join("lines.rs"), tests).expect("the output directory is ours");
}

/// A table of a profile, with its place for messages.
struct Reader<'a> {
    file: &'a Path,
    table: &'a Table,
    place: String,
}

impl<'a> Reader<'a> {
    fn only(&self, keys: &[&str]) {
        let unknown = self.table.keys().find(|key| !keys.contains(&key.as_str()));
        assert!(unknown.is_none(), "{}: [{}] has no key {unknown:?}", self.file.display(), self.place);
    }

    fn wrong(&self, key: &str) -> ! {
        panic!("{}: [{}] {key} has another type", self.file.display(), self.place)
    }

    fn text(&self, key: &str) -> String {
        match self.table.get(key) {
            None => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(_) => self.wrong(key),
        }
    }

    fn flag(&self, key: &str) -> bool {
        self.flag_or(key, false)
    }

    fn flag_or(&self, key: &str, otherwise: bool) -> bool {
        match self.table.get(key) {
            None => otherwise,
            Some(Value::Boolean(flag)) => *flag,
            Some(_) => self.wrong(key),
        }
    }

    /// A list of texts, as Rust source.
    fn list(&self, key: &str) -> String {
        let words = match self.table.get(key) {
            None => Vec::new(),
            Some(Value::Array(words)) => words.clone(),
            Some(_) => self.wrong(key),
        };
        let words: Vec<String> = words
            .iter()
            .map(|word| word.as_str().map_or_else(|| self.wrong(key), |word| format!("{word:?}")))
            .collect();
        format!("&[{}]", words.join(", "))
    }

    /// A table of texts as pairs, as Rust source.
    fn pairs(&self, key: &str) -> String {
        let Some(pairs) = self.inner(key) else { return "&[]".into() };
        let pairs = pairs.table.keys().map(|name| format!("({name:?}, {:?})", pairs.text(name)));
        format!("&[{}]", pairs.collect::<Vec<_>>().join(", "))
    }

    fn inner(&self, key: &str) -> Option<Reader<'a>> {
        match self.table.get(key)? {
            Value::Table(table) => Some(Reader { file: self.file, table, place: key.into() }),
            _ => self.wrong(key),
        }
    }

    fn each(&self, key: &str) -> Vec<Reader<'a>> {
        let tables = match self.table.get(key) {
            None => return Vec::new(),
            Some(Value::Array(tables)) => tables,
            Some(_) => self.wrong(key),
        };
        let reader = |value: &'a Value| match value {
            Value::Table(table) => Reader { file: self.file, table, place: key.into() },
            _ => self.wrong(key),
        };
        tables.iter().map(reader).collect()
    }

    fn additions(&self) -> String {
        let one = |add: Reader| {
            add.only(&["arguments", "unless", "optional", "not-followed"]);
            let (arguments, unless) = (add.list("arguments"), add.list("unless"));
            let (optional, not_followed) = (add.flag("optional"), add.flag("not-followed"));
            format!(
                "Addition {{ arguments: {arguments}, unless: {unless}, optional: {optional}, \
                 not_followed: {not_followed} }}"
            )
        };
        format!("&[{}]", self.each("add").into_iter().map(one).collect::<Vec<_>>().join(", "))
    }

    /// What holds with -b, or without.
    fn way(&self, key: &str) -> String {
        let Some(way) = self.inner(key) else { return "None".into() };
        way.only(&[
            "way",
            "follow",
            "export",
            "ack",
            "soak",
            "listener",
            "stop-signal",
            "stop-timeout",
            "stop-first",
            "environment",
            "environment-unix",
            "add",
        ]);
        let kind = way.text("way");
        let ways = ["", "adopt", "stop-first", "stop-first-only", "follow"];
        assert!(ways.contains(&kind.as_str()), "{}: no way {kind:?}", self.file.display());
        let stop_first = way.flag("stop-first") || kind.starts_with("stop-first");
        format!(
            "Some(Way {{ adopt: {}, follow: {:?}, export: {}, ack: {}, soak: {:?}, listener: {:?}, stop_signal: {:?}, stop_timeout: {:?}, stop_first: {stop_first}, environment: {}, environment_unix: {}, add: {} }})",
            matches!(kind.as_str(), "adopt" | "stop-first"),
            way.text("follow"),
            way.list("export"),
            way.list("ack"),
            way.text("soak"),
            way.text("listener"),
            way.text("stop-signal"),
            way.text("stop-timeout"),
            way.pairs("environment"),
            way.pairs("environment-unix"),
            way.additions(),
        )
    }

    fn recognise(&self) -> String {
        let Some(is) = self.inner("recognise") else { return "Recognise::NEVER".into() };
        is.only(&["programs", "modules", "scripts", "jars", "generic", "first", "needs", "never"]);
        format!(
            "Recognise {{ programs: {}, modules: {}, scripts: {}, jars: {}, generic: {}, first: {}, needs: {}, never: {} }}",
            is.list("programs"),
            is.list("modules"),
            is.list("scripts"),
            is.list("jars"),
            is.flag("generic"),
            is.list("first"),
            is.list("needs"),
            is.list("never"),
        )
    }

    fn advice(&self) -> String {
        let nothing = Table::new();
        let none = Reader { file: self.file, table: &nothing, place: String::new() };
        let advice = self.inner("advice").unwrap_or(none);
        advice.only(&[
            "foreground",
            "own-socket",
            "absolute-path",
            "only-one",
            "apart",
            "check",
            "check-program",
            "check-flag",
            "check-default",
            "dialects",
            "listens",
        ]);
        let known = ["bind", "bare"].iter().any(|way| self.table.contains_key(*way));
        let listens = advice.flag_or("listens", known || advice.flag("own-socket"));
        let check = match (advice.table.get("check"), advice.table.get("check-program")) {
            (Some(_), _) => format!("Some(Check::Flags({}))", advice.list("check")),
            (_, Some(_)) => {
                let default = advice.text("check-default");
                let default = if default.is_empty() { None } else { Some(default) };
                format!(
                    "Some(Check::Program({}, {:?}, {default:?}))",
                    advice.list("check-program"),
                    advice.text("check-flag")
                )
            }
            _ => "None".into(),
        };
        format!(
            "listens: {listens}, foreground: {:?}, own_socket: {}, absolute: {}, only_one: {:?}, apart: {}, check: {check}, dialects: {}",
            advice.text("foreground"),
            advice.flag("own-socket"),
            advice.flag("absolute-path"),
            advice.text("only-one"),
            advice.list("apart"),
            advice.list("dialects"),
        )
    }

    fn warnings(&self) -> String {
        let one = |warn: Reader| {
            warn.only(&["words", "unless", "text"]);
            let (words, unless) = (warn.list("words"), warn.list("unless"));
            format!("Warning {{ words: {words}, unless: {unless}, text: {:?} }}", warn.text("text"))
        };
        format!("&[{}]", self.each("warn").into_iter().map(one).collect::<Vec<_>>().join(", "))
    }

    /// The command lines. What only tests use of them stays out of the binary.
    fn lines(&self) -> String {
        let one = |line: Reader| {
            line.only(&[
                "title",
                "command",
                "address",
                "protocol",
                "ask",
                "answer",
                "loses",
                "caveat",
                "install",
                "tested",
                "files",
                "broken",
                "launcher",
                "directory",
                "root",
            ]);
            let title = line.text("title");
            let title = if title.is_empty() { self.text("title") } else { title };
            let loses = line.table.get("loses").is_some_and(|loses| loses.as_integer() != Some(0));
            format!(
                "Line {{ title: {title:?}, command: {:?}, loses: {loses}, caveat: {:?} }}",
                line.text("command"),
                line.text("caveat")
            )
        };
        format!("&[{}]", self.each("line").into_iter().map(one).collect::<Vec<_>>().join(", "))
    }

    /// A test of each command line, named by its title. One that nobody has to pass is ignored.
    fn tests(&self, out: &mut String) {
        let name = self.text("name");
        for (index, line) in self.each("line").into_iter().enumerate() {
            let title = identifier(&line.text("title"));
            let title = match title.strip_prefix(&identifier(&name)) {
                Some(rest) => format!("{}{rest}", identifier(&name)),
                None if title.is_empty() => identifier(&name),
                None => format!("{}_{title}", identifier(&name)),
            };
            let ignored = if line.flag("tested") { "" } else { "#[ignore = \"it is not known to pass\"] " };
            writeln!(out, "#[test] {ignored}fn {title}() {{ super::line::run({name:?}, {index}); }}")
                .expect("a text takes everything");
        }
    }

    fn profile(&mut self, out: &mut String) {
        self.only(&[
            "name",
            "title",
            "version",
            "section",
            "recognise",
            "bind",
            "bare",
            "add",
            "warn",
            "on",
            "advice",
            "line",
        ]);
        writeln!(
            out,
            "Profile {{ name: {:?}, title: {:?}, version: {:?}, recognise: {}, bind: {}, bare: {}, add: {}, warn: {}, on: {}, {}, lines: {} }},",
            self.text("name"),
            self.text("title"),
            self.text("version"),
            self.recognise(),
            self.way("bind"),
            self.way("bare"),
            self.additions(),
            self.warnings(),
            self.pairs("on"),
            self.advice(),
            self.lines(),
        )
        .expect("a text takes everything");
    }
}

/// These words as a name in Rust.
fn identifier(words: &str) -> String {
    let words = words.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect::<Vec<_>>().join("_")
}
