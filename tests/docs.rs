//! The documents: their links lead somewhere, and their commands run as they are written.
//!
//! Contract: every relative link of a tracked Markdown file leads to a file that exists, and its
//! anchor to a heading of that file. A block that is marked `sh start` is a graceful-run in a
//! terminal of its own; one that is marked `sh run` has to succeed in another terminal beside it.
//! The blocks below one heading of level two share a directory that is empty at first, and leave
//! no process behind.

mod common;

use common::{Scene, Wrapper, binary, example, host, says, tool, until};
use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

/// The longest README that is read to its end.
const README_LINES: usize = 150;

/// The host that the commands name. Each section has its own in its place.
const SAMPLE_HOST: &str = "127.0.0.1";

/// Programs that commands need and that a machine may not have.
const TOOLS: [&str; 3] = ["curl", "python3", "gunicorn"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Markdown files of the repository, relative to its root.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["", "docs", "tests"] {
        let entries = fs::read_dir(root().join(folder)).expect("a folder of the repository").flatten();
        let names = entries.map(|entry| Path::new(folder).join(entry.file_name()));
        found.extend(names.filter(|path| path.extension().is_some_and(|it| it == "md")));
    }
    found.sort();
    for expected in ["README.md", "CONTRIBUTING.md", "docs/guide.md", "tests/FAULTS.md"] {
        assert!(found.iter().any(|path| path == Path::new(expected)), "{expected} is not found: {found:?}");
    }
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A fenced block.
struct Block {
    /// What follows the fence: the language, then our marks.
    info: String,
    text: String,
    /// The heading of level two above it.
    section: String,
}

impl Block {
    /// Is it a command that is run?
    fn is_marked(&self) -> bool {
        ["sh run", "sh start"].contains(&self.info.as_str())
    }
}

/// A document, taken apart.
#[derive(Default)]
struct Document {
    headings: Vec<String>,
    blocks: Vec<Block>,
    /// Its lines outside of blocks.
    prose: String,
}

impl Document {
    fn parse(text: &str) -> Self {
        let mut document = Self::default();
        let mut section = String::new();
        let mut block: Option<Block> = None;
        for line in text.lines() {
            match (line.strip_prefix("```"), &mut block) {
                (Some(info), None) if !info.contains('`') => {
                    block = Some(Block { info: info.into(), text: String::new(), section: section.clone() });
                }
                (Some(_), Some(_)) => document.blocks.extend(block.take()),
                (None, Some(block)) => block.text += &format!("{line}\n"),
                (_, None) => {
                    let title = line.trim_start_matches('#').strip_prefix(' ');
                    if let Some(title) = title.filter(|_| line.starts_with('#')) {
                        document.headings.push(title.trim().to_owned());
                        if line.starts_with("## ") {
                            section = title.trim().to_owned();
                        }
                    }
                    document.prose += &format!("{line}\n");
                }
            }
        }
        assert!(block.is_none(), "a block has no end");
        document
    }

    /// The anchors that GitHub gives to the headings.
    fn anchors(&self) -> Vec<String> {
        let mut count: HashMap<String, u32> = HashMap::new();
        let anchors = self.headings.iter().map(|heading| {
            let slug = slug(heading);
            let before = count.entry(slug.clone()).or_default();
            *before += 1;
            if *before == 1 { slug } else { format!("{slug}-{}", *before - 1) }
        });
        anchors.collect()
    }

    /// The targets of its links, other than those in code.
    fn links(&self) -> Vec<String> {
        let text = without_code(&self.prose);
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        targets.map(|(target, _)| target.to_owned()).collect()
    }
}

/// The text with a word in the place of each code span, which as many backticks open as close it.
fn without_code(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('`') {
        let (before, code) = rest.split_at(at);
        let ticks = &code[..code.len() - code.trim_start_matches('`').len()];
        let inside = &code[ticks.len()..];
        let closes =
            |at: &usize| !inside[..*at].ends_with('`') && !inside[at + ticks.len()..].starts_with('`');
        let end = inside.match_indices(ticks).map(|(at, _)| at).find(closes);
        plain += before;
        plain += "code";
        rest = end.map_or(inside, |at| &inside[at + ticks.len()..]);
    }
    plain + rest
}

/// The anchor of a heading: lower case, without punctuation, spaces as hyphens.
fn slug(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// Why a link of this file leads nowhere.
fn broken(from: &Path, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let file = if path.is_empty() { from.to_owned() } else { from.parent().expect("a file").join(path) };
    let file = plain(&file);
    if !root().join(&file).exists() {
        return Some(format!("{} does not exist", file.display()));
    }
    let anchor = anchor?;
    let there = Document::parse(&read(&file)).anchors();
    (!there.iter().any(|it| it == anchor)).then(|| format!("{} has no heading {anchor}", file.display()))
}

/// The path without `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => assert!(plain.pop(), "{} leaves the repository", path.display()),
            other => plain.push(other),
        }
    }
    plain
}

#[test]
fn every_link_leads_somewhere() {
    let mut seen = 0;
    let mut wrong = Vec::new();
    for path in documents() {
        for target in Document::parse(&read(&path)).links() {
            seen += 1;
            wrong.extend(broken(&path, &target).map(|why| format!("{}: {target}: {why}", path.display())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 30, "links are seen: {seen}");
}

#[test]
fn a_link_that_leads_nowhere_is_seen() {
    let readme = Path::new("README.md");
    assert!(broken(readme, "docs/guide.md#signals").is_none());
    assert!(broken(Path::new("docs/guide.md"), "../README.md").is_none());
    assert!(broken(readme, "docs/no-such.md").is_some());
    assert!(broken(readme, "docs/guide.md#no-such").is_some());
    assert!(broken(readme, "#no-such").is_some());
    let text = "# A `b`: c\n[x](y.md) `[no](link)`\n```` ```[no](link) ```` [z](#a)\n```sh\n[no](link)\n# no heading\n```\n## A b c\n## e_f-g\n";
    let document = Document::parse(text);
    assert_eq!(document.anchors(), ["a-b-c", "a-b-c-1", "e_f-g"]);
    assert_eq!(document.links(), ["y.md", "#a"]);
}

#[test]
fn the_readme_is_short() {
    let lines = read(Path::new("README.md")).lines().count();
    assert!(lines <= README_LINES, "README.md has {lines} lines; the rest belongs to docs/");
}

/// A mark that nobody knows would be a block that nobody runs.
#[test]
fn every_mark_is_known() {
    for path in documents() {
        for block in Document::parse(&read(&path)).blocks {
            let (_, marks) = block.info.split_once(' ').unwrap_or_default();
            assert!(["", "run", "start"].contains(&marks), "{}: ```{}", path.display(), block.info);
            assert!(marks.is_empty() || block.is_marked(), "{}: ```{}", path.display(), block.info);
        }
    }
}

/// The blocks of one section, run in the order in which they stand.
struct Session {
    scene: Scene,
    directory: PathBuf,
    host: String,
    path: String,
    started: Vec<Wrapper>,
}

impl Session {
    fn new(tools: &[PathBuf]) -> Self {
        let scene = Scene::new();
        let directory = scene.path("terminal");
        fs::create_dir(&directory).expect("a directory");
        let ours = [binary().to_owned(), example("worker")];
        let folders = ours.iter().chain(tools).map(|program| program.parent().expect("a folder"));
        let path: Vec<String> = folders.map(|folder| folder.display().to_string()).collect();
        let path = format!("{}:{}", path.join(":"), std::env::var("PATH").unwrap_or_default());
        Session { scene, directory, host: host(), path, started: Vec::new() }
    }

    fn shell(&self, block: &Block) -> Command {
        let mut shell = self.scene.mark(Command::new("sh"));
        shell.args(["-e", "-c", &block.text.replace(SAMPLE_HOST, &self.host)]);
        shell.current_dir(&self.directory).env("PATH", &self.path).env("PYTHONDONTWRITEBYTECODE", "1");
        shell
    }

    /// A graceful-run that stays, up to where it serves.
    fn start(&mut self, block: &Block) {
        let wrapper = self.scene.spawn(self.shell(block));
        wrapper.log.wait(&says::ready(1));
        self.started.push(wrapper);
    }

    /// Commands that end, and succeed.
    fn run(&self, block: &Block) {
        // A file: what a command leaves in the background would keep a pipe open.
        let said = self.scene.path("said");
        let file = || File::options().create(true).append(true).open(&said).expect("a file");
        let mut shell = self.shell(block);
        shell.stdout(file()).stderr(file()).stdin(Stdio::null());
        let mut child = shell.spawn().expect("start a shell");
        let mut status = None;
        until("a block does not end", || {
            status = child.try_wait().expect("wait for a shell");
            status.is_some()
        });
        let status = status.expect("it has ended");
        let said = fs::read_to_string(&said).expect("what was said");
        assert!(status.success(), "{status}:\n{}\nsaid:\n{said}", block.text);
    }

    /// Stops what the blocks have not stopped themselves.
    fn end(self) {
        for mut wrapper in self.started {
            if self.scene.ctl(&["status"]).status.success() {
                let stopped = self.scene.ctl(&["stop"]);
                assert!(stopped.status.success(), "{stopped:?}");
            }
            assert_eq!(wrapper.exit_status(), 0, "{}", wrapper.log.all().join("\n"));
        }
    }
}

/// Runs the marked blocks of a document, section by section.
fn commands_of(path: &str) {
    let document = Document::parse(&read(Path::new(path)));
    let marked: Vec<&Block> = document.blocks.iter().filter(|block| block.is_marked()).collect();
    assert!(!marked.is_empty(), "{path} has commands to run");
    for blocks in marked.chunk_by(|one, next| one.section == next.section) {
        let all: String = blocks.iter().map(|block| block.text.as_str()).collect();
        let needed = TOOLS.iter().filter(|name| all.contains(**name));
        let Some(tools) = needed.map(|name| tool(name)).collect::<Option<Vec<_>>>() else { continue };
        let mut session = Session::new(&tools);
        for block in blocks {
            match block.info.as_str() {
                "sh start" => session.start(block),
                _ => session.run(block),
            }
        }
        session.end();
    }
}

#[test]
fn the_commands_of_the_readme_run() {
    commands_of("README.md");
}

#[test]
fn the_commands_of_the_guide_run() {
    commands_of("docs/guide.md");
}

#[test]
fn the_commands_of_the_page_of_adopt_run() {
    commands_of("docs/adopt.md");
}

#[test]
fn the_commands_of_the_page_of_follow_run() {
    commands_of("docs/follow.md");
}

#[test]
fn the_commands_of_the_page_of_ctl_run() {
    commands_of("docs/ctl.md");
}

#[test]
fn the_commands_of_the_page_of_doctor_run() {
    commands_of("docs/doctor.md");
}

#[test]
fn the_commands_of_the_page_of_profiles_run() {
    commands_of("docs/profiles.md");
}

#[test]
fn every_document_with_commands_to_run_is_run() {
    let run = [
        "README.md",
        "docs/guide.md",
        "docs/adopt.md",
        "docs/follow.md",
        "docs/ctl.md",
        "docs/doctor.md",
        "docs/profiles.md",
    ];
    for path in documents() {
        let document = Document::parse(&read(&path));
        let marked = document.blocks.iter().any(Block::is_marked);
        assert_eq!(marked, run.iter().any(|it| Path::new(it) == path), "{}", path.display());
    }
}
