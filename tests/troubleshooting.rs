//! docs/troubleshooting.md has a row for every message of ours, and no row for a message that
//! is gone.
//!
//! A message is a string literal of src/ that people read: every literal with three words in a
//! row, wherever it stands, since most messages are put together from several. Left out are the
//! literals of unit tests, assertions, attributes, `info!` and `debug!`, and of the calls in
//! [`SILENT`]; and those of [`NOT_FOR_THE_PAGE`]. A placeholder (`{why}`) is `…` on the page.

use std::fs;
use std::path::{Path, PathBuf};

const PAGE: &str = "docs/troubleshooting.md";

/// Macros and functions whose literals are no warnings and no refusals.
const SILENT: [&str; 17] = [
    "info!",
    "debug!",
    "trace!",
    "assert!",
    "assert_eq!",
    "debug_assert!",
    "panic!",
    "unreachable!",
    "expect",
    // A reply of success, a check of the doctor that found all well.
    "done",
    "ok",
    // The name of what the doctor looks at.
    "Subject",
    // The help text of a metric.
    "head",
    // A row of a table.
    "row",
    "row_of",
    "include_str!",
    "env!",
];

/// Literals that are neither a warning nor a refusal, and are not seen to be from where they
/// stand.
const NOT_FOR_THE_PAGE: [(&str, &[&str]); 7] = [
    (
        "what profiles prints",
        &[
            "by no name: what it runs is a program of your own",
            "as the lines below show",
            "takes no socket, as far as is known: leave -b out",
            "; left out if the server refuses it",
            "graceful-run --profile none",
        ],
    ),
    (
        "what ctl says when all is well, and what it attempts",
        &[
            "show the status",
            "pass on signal …",
            "another upgrade follows",
            "worker ended by itself",
            "workers ended by themselves",
            "closed by the next upgrade",
            "… is closed: no worker had it",
            "… is closed once the next upgrade has succeeded (a rollback after that does not open it again)",
            "; one that ends by it is started again, and counts as a crash (upgrade replaces them without)",
            "replaces in …, as its predecessor took long to start",
            "graceful-run … can take over …",
        ],
    ),
    (
        "parts of lines of the level info, or of messages whose other part has a row",
        &[
            "is to be stopped first",
            "it counts as ready after … all the same",
            "--ack-timeout ends the wait after …",
            "it replaces no worker until it is",
            "a stop signal",
            "one worker more",
            "one worker fewer",
            "signal to pass on",
            "version … has taken over from version …",
            "upgrade to generation … begins, generation … serves",
            "handed over from the next upgrade on",
            "listening on … (…), handed over from the next upgrade on",
        ],
    ),
    (
        "what workers say, by which a cause is known",
        &["address in use", "is running, pid", "resource temporarily unavailable", "operation not permitted"],
    ),
    (
        "what the doctor knows of the container",
        &[
            "we are in one (…)",
            "no sign of one",
            "; we are process 1 and reap whatever ends",
            "; we are process …",
            "; a seccomp filter is in force",
            "… in its control group",
        ],
    ),
    (
        "the status for the service manager",
        &["… serves, … is on hold beside it", "… serves again, … was rolled back"],
    ),
    (
        "commands",
        &[
            "graceful-run ctl --help",
            "graceful-run doctor --help",
            "graceful-run doctor --help; a COMMAND goes behind --",
            "graceful-run profiles --help",
            "-db or -Ws, no -D",
            "-g 'daemon off;'",
        ],
    ),
];

/// A string literal and where it stands.
#[derive(Debug, PartialEq)]
struct Literal {
    file: String,
    line: usize,
    /// With `…` for each placeholder.
    text: String,
    /// The macros and functions around it, the innermost last.
    calls: Vec<String>,
}

impl Literal {
    /// The fixed parts by which it is known; none if it is no message.
    fn fragments(&self) -> Vec<&str> {
        let silent = self.calls.iter().any(|call| SILENT.contains(&call.as_str()));
        let mut start = self.text.chars();
        // Messages are lower case; this is a help text.
        let is_help =
            start.next().is_some_and(char::is_uppercase) && start.next().is_some_and(char::is_lowercase);
        let excused = NOT_FOR_THE_PAGE.iter().any(|(_, texts)| texts.contains(&self.text.as_str()));
        if silent || is_help || excused {
            return Vec::new();
        }
        let logged = self.calls.last().is_some_and(|call| call == "warn!" || call == "error!");
        let least = if logged { 2 } else { 3 };
        fragments(&self.text).filter(|fragment| words(fragment) >= least).collect()
    }
}

/// What stands between the placeholders.
fn fragments(text: &str) -> impl Iterator<Item = &str> {
    text.split('…').map(|part| part.trim_matches(|c: char| " .,:;()'\"".contains(c)))
}

fn words(text: &str) -> usize {
    text.split_whitespace().filter(|word| word.contains(|c: char| c.is_ascii_lowercase())).count()
}

#[test]
fn every_message_has_a_row() {
    let rows = rows();
    let messages: Vec<Literal> =
        literals_of_src().into_iter().filter(|literal| !literal.fragments().is_empty()).collect();
    assert!(messages.len() > 400, "only {} messages are seen", messages.len());
    for macro_name in ["warn!", "error!"] {
        let seen = messages.iter().filter(|it| it.calls.iter().any(|call| call == macro_name)).count();
        assert!(seen > 5, "only {seen} of {macro_name} are seen");
    }
    let missing: Vec<String> = messages
        .iter()
        .filter(|it| !rows.iter().any(|row| it.fragments().iter().all(|part| row.contains(part))))
        .map(|it| format!("{}:{}: {:?}", it.file, it.line, it.text))
        .collect();
    assert!(
        missing.is_empty(),
        "these messages have no row in {PAGE} (write one, with … for each placeholder):\n{}",
        missing.join("\n")
    );
}

#[test]
fn every_row_is_a_message_that_there_is() {
    let rows = rows();
    assert!(rows.len() > 300, "only {} messages of rows are seen", rows.len());
    let literals = literals_of_src();
    let dead: Vec<&String> = rows
        .iter()
        .filter(|row| {
            let longest = fragments(row).max_by_key(|part| part.len()).unwrap_or_default();
            // `Error::Cannot` puts it before what was attempted.
            let attempt = longest.strip_prefix("cannot ").unwrap_or(longest);
            !literals.iter().any(|literal| literal.text.contains(attempt))
        })
        .collect();
    assert!(dead.is_empty(), "nothing in src/ says this any more, and {PAGE} has a row for it: {dead:#?}");
}

#[test]
fn the_spans_of_a_row_are_seen() {
    assert_eq!(code_spans("a `b c`<br>`` d `e` ``, `f` g"), ["b c", "d `e`", "f"]);
}

#[test]
fn the_extraction_sees_what_is_written() {
    let source = r##"
        //! A "comment that is not seen".
        #[doc = "an attribute is not seen"]
        fn f<'a>(x: &'a str) -> Error {
            let quote = '"';
            warn!(pid = 1; "cannot signal pid {pid}: {}, {{it}} is \"gone\"", why('\''));
            info!("this is not a warning {}", other("nor is this one"));
            Error::cannot(format!("read {}", r#"a raw "text" of it"#), "a text of \
                two lines")
        }
        #[cfg(test)]
        mod tests { fn g() { let brace = "{"; let text = "a text of a test"; } }
        fn h() { done("all was well here"); "what came after tests" }
    "##;
    let found: Vec<(usize, String)> =
        literals("x.rs", source).into_iter().map(|literal| (literal.line, literal.text)).collect();
    let expected = [
        (6, "cannot signal pid …: …, {it} is \"gone\""),
        (7, "this is not a warning …"),
        (7, "nor is this one"),
        (8, "read …"),
        (8, "a raw \"text\" of it"),
        (8, "a text of two lines"),
        (13, "all was well here"),
        (13, "what came after tests"),
    ];
    assert_eq!(found, expected.map(|(line, text)| (line, text.to_owned())));
    let messages: Vec<String> = literals("x.rs", source)
        .iter()
        .filter(|literal| !literal.fragments().is_empty())
        .map(|literal| literal.text.clone())
        .collect();
    let expected = [expected[0], expected[4], expected[5], expected[7]].map(|(_, text)| text);
    assert_eq!(messages, expected);
}

/// The messages in the first column of the page's tables.
fn rows() -> Vec<String> {
    let page = fs::read_to_string(root().join(PAGE)).expect("the page");
    let cells = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    cells.flat_map(code_spans).map(|text| text.replace("\\|", "|")).collect()
}

/// The code spans of a line of Markdown; one with a backtick in it stands between two of them.
fn code_spans(line: &str) -> Vec<&str> {
    let (mut spans, mut rest) = (Vec::new(), line);
    while let Some(at) = rest.find('`') {
        let opened = &rest[at..];
        let ticks = if opened.starts_with("``") { "``" } else { "`" };
        let Some((span, after)) = opened[ticks.len()..].split_once(ticks) else { break };
        spans.push(span.trim());
        rest = after;
    }
    spans
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn literals_of_src() -> Vec<Literal> {
    let mut files = Vec::new();
    collect(&root().join("src"), &mut files);
    // The build script speaks to whoever builds.
    files.retain(|file| !file.ends_with("profiles/compile.rs"));
    files.sort();
    let tests = |file: &&PathBuf| file.iter().any(|name| name == "tests" || name == "tests.rs");
    files
        .iter()
        .filter(|file| !tests(file))
        .flat_map(|file| {
            let name = file.strip_prefix(root()).unwrap_or(file).display().to_string();
            literals(&name, &fs::read_to_string(file).expect("a source"))
        })
        .collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory of sources") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => collect(&path, files),
            false if path.extension().is_some_and(|it| it == "rs") => files.push(path),
            false => {}
        }
    }
}

/// The string literals of a source, without those of attributes and unit tests.
fn literals(file: &str, source: &str) -> Vec<Literal> {
    let tokens = tokens(source);
    let is = |at: usize, text: &str| matches!(tokens.get(at), Some(Token::Code(code)) if code == text);
    let (mut found, mut calls, mut at) = (Vec::new(), Vec::new(), 0);
    while let Some(token) = tokens.get(at) {
        match token {
            Token::Code(code) if code == "#" && (is(at + 1, "[") || is(at + 1, "!") && is(at + 2, "[")) => {
                let tests = is(at + 2, "cfg") && is(at + 4, "test");
                at = end_of_group(&tokens, at);
                if tests {
                    at = end_of_item(&tokens, at + 1);
                }
            }
            Token::Code(code) if ["(", "[", "{"].contains(&code.as_str()) => {
                let name = |back: usize| match at.checked_sub(back).and_then(|at| tokens.get(at)) {
                    Some(Token::Code(code)) => code.as_str(),
                    _ => "",
                };
                calls.push(if name(1) == "!" { format!("{}!", name(2)) } else { name(1).to_owned() });
            }
            Token::Code(code) if [")", "]", "}"].contains(&code.as_str()) => drop(calls.pop()),
            Token::Code(_) => {}
            Token::Text(line, text) => {
                let (file, line, text) = (file.to_owned(), *line, with_ellipses(text));
                // Blocks have no name of their own.
                let calls = calls.iter().filter(|call| !call.is_empty()).cloned().collect();
                found.push(Literal { file, line, text, calls });
            }
        }
        at += 1;
    }
    found
}

/// Where the group of brackets ends that begins after `at`.
fn end_of_group(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(at) {
        match token {
            Token::Code(code) if ["(", "[", "{"].contains(&code.as_str()) => depth += 1,
            Token::Code(code) if [")", "]", "}"].contains(&code.as_str()) => {
                depth -= 1;
                if depth == 0 {
                    return at;
                }
            }
            _ => {}
        }
    }
    tokens.len()
}

/// Where an item ends: at its semicolon, or with its block.
fn end_of_item(tokens: &[Token], mut at: usize) -> usize {
    while let Some(token) = tokens.get(at) {
        match token {
            Token::Code(code) if code == "{" => return end_of_group(tokens, at),
            Token::Code(code) if code == ";" => return at,
            Token::Code(code) if code == "(" || code == "[" => at = end_of_group(tokens, at),
            _ => {}
        }
        at += 1;
    }
    at
}

/// `…` for each placeholder, one blank for each gap.
fn with_ellipses(text: &str) -> String {
    let (mut shown, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(['{', '}']) {
        shown.push_str(&rest[..at]);
        let (brace, after) = rest[at..].split_at(1);
        rest = match after.strip_prefix(brace) {
            Some(after) => {
                shown.push_str(brace);
                after
            }
            None => {
                shown.push('…');
                after.split_once('}').map_or(after, |(_, after)| after)
            }
        };
    }
    shown.push_str(rest);
    while shown.contains("……") {
        shown = shown.replace("……", "…");
    }
    shown.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[derive(Debug)]
enum Token {
    /// A word, or one other character.
    Code(String),
    /// A string literal: its line, and what it says.
    Text(usize, String),
}

fn tokens(source: &str) -> Vec<Token> {
    let (mut tokens, mut rest) = (Vec::new(), source);
    let (mut line, mut counted) = (1, source);
    while let Some(first) = rest.chars().next() {
        line += counted[..counted.len() - rest.len()].matches('\n').count();
        counted = rest;
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        if rest.starts_with("//") {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
        } else if let Some((text, after)) = raw_text(rest) {
            tokens.push(Token::Text(line, text.to_owned()));
            rest = after;
        } else if let Some(quoted) = rest.strip_prefix('"') {
            let (text, after) = text(quoted);
            tokens.push(Token::Text(line, text));
            rest = after;
        } else if first == '\'' {
            // A character, or else a lifetime.
            let end = match rest[1..].starts_with('\\') {
                true => rest.get(3..).and_then(|rest| rest.find('\'')).map(|at| at + 4),
                false => rest.char_indices().nth(2).filter(|&(_, c)| c == '\'').map(|(at, _)| at + 1),
            };
            rest = &rest[end.unwrap_or(1)..];
        } else if is_word(first) {
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            tokens.push(Token::Code(rest[..end].to_owned()));
            rest = &rest[end..];
        } else {
            if !first.is_whitespace() {
                tokens.push(Token::Code(first.to_string()));
            }
            rest = &rest[first.len_utf8()..];
        }
    }
    tokens
}

/// A raw string literal at the beginning, and what follows it.
fn raw_text(source: &str) -> Option<(&str, &str)> {
    let fenced = source.strip_prefix("br").or_else(|| source.strip_prefix('r'))?;
    let fence = fenced.len() - fenced.trim_start_matches('#').len();
    let text = fenced[fence..].strip_prefix('"')?;
    text.split_once(&format!("\"{}", &fenced[..fence]))
}

/// What a string literal says, from behind its first quote, and what follows it.
fn text(quoted: &str) -> (String, &str) {
    let (mut text, mut chars) = (String::new(), quoted.chars());
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => match chars.next() {
                Some('\n') => {
                    let after = chars.as_str().trim_start();
                    chars = after.chars();
                }
                Some('n') => text.push('\n'),
                Some('"') => text.push('"'),
                Some(other) => text.push(other),
                None => {}
            },
            c => text.push(c),
        }
    }
    (text, chars.as_str())
}
