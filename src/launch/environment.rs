//! A worker's environment: our own without the variables that must not be inherited, what a profile
//! adds to them, then the user's files and `--env`. The files are read at every start.

use crate::config::Environment;
use crate::dialect;
use crate::sys::identity::Identity;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Variables by name.
pub type Variables = BTreeMap<OsString, OsString>;

/// For `#[serde(with)]`: a list of pairs, because names need not be UTF-8.
pub(super) mod pairs {
    use crate::launch::environment::Variables;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::ffi::OsString;

    pub fn serialize<S: Serializer>(variables: &Variables, serializer: S) -> Result<S::Ok, S::Error> {
        variables.iter().collect::<Vec<_>>().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Variables, D::Error> {
        Ok(Vec::<(OsString, OsString)>::deserialize(deserializer)?.into_iter().collect())
    }
}

/// Variables that the dynamic loader, the C library and shells read, and that a program of
/// another user should not inherit by accident (sudo's list).
fn is_unsafe_across_users(variable: &[u8]) -> bool {
    const NAMES: [&[u8]; 7] = [b"BASH_ENV", b"ENV", b"IFS", b"TMPDIR", b"GCONV_PATH", b"LOCPATH", b"NLSPATH"];
    NAMES.contains(&variable) || variable.starts_with(b"LD_") || variable.starts_with(b"MALLOC_")
}

/// The variables of a worker, before those of its dialect, and what is odd about those that files
/// set. `ours` is our own environment, and relative paths begin at `base`.
///
/// # Errors
/// A message that names the file and the line.
pub fn read(
    spec: &Environment,
    ours: &[(OsString, OsString)],
    identity: Option<&Identity>,
    base: &Path,
) -> Result<(Variables, Vec<String>), String> {
    let (mut variables, mut odd) = (Variables::new(), Vec::new());
    if !spec.clear {
        variables.extend(ours.iter().cloned());
        variables.retain(|name, _| {
            let name_is = |unwanted: fn(&[u8]) -> bool| unwanted(name.as_bytes());
            let unsafe_here = identity.is_some() && name_is(is_unsafe_across_users);
            !unsafe_here && !name_is(dialect::is_foreign) && !spec.drop.contains(name)
        });
    }
    if let Some(identity) = identity {
        variables.extend(account(identity));
    }
    for (name, value) in spec.defaults.iter().filter(|(name, _)| !spec.drop.contains(name)) {
        variables.entry(name.clone()).or_insert_with(|| value.clone());
    }
    for file in &spec.files {
        read_file(&base.join(file), &mut variables, &mut odd)?;
    }
    for dir in &spec.dirs {
        read_dir(&base.join(dir), &mut variables, &mut odd)?;
    }
    variables.extend(spec.set.iter().cloned());
    variables.retain(|name, _| !dialect::is_ours(name.as_bytes()));
    Ok((variables, odd))
}

/// What is odd about a name: a shell can neither read nor set such a variable, and may not pass it
/// on. Programs can, and some are configured so (`spring.datasource.url`): it is no mistake for sure.
fn odd_name(name: &[u8]) -> Option<String> {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let usual = name.iter().all(is_word) && !name.first().is_some_and(u8::is_ascii_digit);
    (!usual).then(|| {
        format!(
            "the name '{}' is none that a shell can use (letters, digits and _, no digit first)",
            String::from_utf8_lossy(name)
        )
    })
}

fn account(identity: &Identity) -> Vec<(OsString, OsString)> {
    let texts = [
        ("USER", &identity.name),
        ("LOGNAME", &identity.name),
        ("HOME", &identity.home),
        ("SHELL", &identity.shell),
    ];
    texts.map(|(name, value)| (name.into(), value.into())).to_vec()
}

/// The byte order mark of UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

fn read_file(path: &Path, variables: &mut Variables, odd: &mut Vec<String>) -> Result<(), String> {
    let attempt = format!("read environment file {}", path.display());
    let text = read_regular(path).map_err(|error| failed(&attempt, &error))?;
    // Editors of other systems begin a file with a byte order mark.
    let text = text.strip_prefix(MARK).unwrap_or(&text);
    for (number, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let line = line.strip_prefix(b"export ").unwrap_or(line).trim_ascii_start();
        let refused = |why: &str| format!("cannot {attempt}: line {}: {why}", number + 1);
        foreign(line).map_or(Ok(()), |why| Err(refused(why)))?;
        let at = line.iter().position(|&byte| byte == b'=').filter(|&at| at > 0);
        let at = at.filter(|&at| !line[..at].trim_ascii_end().iter().any(u8::is_ascii_whitespace));
        let at = at.ok_or_else(|| format!("cannot {attempt}: line {} is not of the form K=V", number + 1))?;
        let value = unquoted(line[at + 1..].trim_ascii()).map_err(refused)?;
        let name = line[..at].trim_ascii();
        let why = odd_name(name).map(|why| format!("{}: line {}: {why}", path.display(), number + 1));
        odd.extend(why);
        variables.insert(os(name), os(value));
    }
    Ok(())
}

/// Why a line is in none of the forms that are understood here, if it is not. Taken as it is, it
/// would give a name or a value that nobody meant.
fn foreign(line: &[u8]) -> Option<&'static str> {
    const NO_BREAK_SPACE: &[u8] = b"\xc2\xa0";
    let holds = |part: &[u8]| line.windows(part.len()).any(|window| window == part);
    let begins = |part| line.starts_with(part);
    match line {
        _ if line.contains(&0) => Some("it holds a NUL byte (is the file UTF-16? save it as UTF-8)"),
        _ if line.contains(&b'\r') => Some("it holds a carriage return (end the lines with a newline)"),
        _ if holds(MARK) => Some("it holds a byte order mark (files were joined: remove it)"),
        _ if begins(NO_BREAK_SPACE) => Some("it begins with a no-break space (remove it)"),
        [.., b'\\'] => Some("it ends with a backslash (a value has one line; quote a value that ends so)"),
        _ => None,
    }
}

/// The value without its quotes. Programs that read such files differ in what they make of a
/// comment after a value, and of a quote that does not end: a value that nobody may have meant is
/// refused.
fn unquoted(value: &[u8]) -> Result<&[u8], &'static str> {
    let (quote, rest) = match value {
        [quote @ (b'"' | b'\''), rest @ ..] => (*quote, rest),
        _ if value.windows(2).any(|pair| pair[0].is_ascii_whitespace() && pair[1] == b'#') => {
            return Err("# after a value without quotes (quote the value, or give the comment its own line)");
        }
        _ => return Ok(value),
    };
    let end = rest.iter().position(|&byte| byte == quote);
    let end = end.ok_or("a quote does not end (a value has one line)")?;
    match rest[end + 1..].trim_ascii() {
        [] | [b'#', ..] => Ok(&rest[..end]),
        _ => Err("text after the closing quote (give the value one pair of quotes)"),
    }
}

/// envdir(8): the first line is the value, trailing blanks are cut, a NUL stands
/// for a newline, an empty file unsets.
fn read_dir(path: &Path, variables: &mut Variables, odd: &mut Vec<String>) -> Result<(), String> {
    let attempt = format!("read environment directory {}", path.display());
    let entries = fs::read_dir(path).map_err(|error| failed(&attempt, &error))?;
    for entry in entries {
        let entry = entry.map_err(|error| failed(&attempt, &error))?;
        let name = entry.file_name();
        let file = entry.path();
        if name.as_bytes().starts_with(b".") || name.as_bytes().contains(&b'=') || !file.is_file() {
            continue;
        }
        let attempt = format!("read environment file {}", file.display());
        let text = read_regular(&file).map_err(|error| failed(&attempt, &error))?;
        let text = text.strip_prefix(MARK).unwrap_or(&text);
        let refused = |why: &str| format!("cannot {attempt}: {why}");
        foreign_file(&name, text).map_or(Ok(()), |why| Err(refused(why)))?;
        if text.is_empty() {
            variables.remove(&name);
            continue;
        }
        odd.extend(odd_name(name.as_bytes()).map(|why| format!("{}: {why}", path.display())));
        let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let value = line.trim_ascii_end().iter().map(|&byte| if byte == 0 { b'\n' } else { byte }).collect();
        variables.insert(name, OsString::from_vec(value));
    }
    Ok(())
}

/// Why a file of a directory gives a name or a value that nobody meant, if it does. A NUL by itself
/// stands for a newline there.
fn foreign_file(name: &OsStr, text: &[u8]) -> Option<&'static str> {
    let all_nul = |from: usize| text.iter().skip(from).step_by(2).all(|&byte| byte == 0);
    let is_wide = text.len() >= 4 && text.len().is_multiple_of(2) && (all_nul(0) || all_nul(1));
    let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii_end();
    if name.to_string_lossy().contains(char::is_whitespace) {
        return Some("its name holds a blank (the name of the file is the name of the variable)");
    }
    if is_wide || text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") {
        return Some("it is UTF-16 (save it as UTF-8)");
    }
    let without_nul: Vec<u8> = line.iter().copied().filter(|&byte| byte != 0).collect();
    foreign(&without_nul).filter(|_| !line.ends_with(b"\\"))
}

/// A pipe or a device could keep us waiting, and with us everything else.
fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    const LONGEST: u64 = 1 << 20;
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if metadata.len() > LONGEST {
        return Err(io::Error::other("longer than a mebibyte"));
    }
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text)?;
    Ok(text)
}

fn failed(attempt: &str, error: &io::Error) -> String {
    format!("cannot {attempt}: {}", crate::error::reason(error))
}

fn os(bytes: &[u8]) -> OsString {
    OsStr::from_bytes(bytes).to_os_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Vec<(OsString, OsString)> {
        [("PATH", "/bin"), ("LISTEN_PID", "1"), ("SECRET", "x"), ("LD_PRELOAD", "y")]
            .map(|(name, value)| (name.into(), value.into()))
            .to_vec()
    }

    #[test]
    fn ours_pass_less_what_must_not() {
        let spec = Environment { drop: vec!["SECRET".into()], ..Environment::default() };
        let (variables, _) = read(&spec, &ours(), None, Path::new("/")).unwrap();
        let names: Vec<_> = variables.keys().map(|name| name.to_str().unwrap()).collect();
        assert_eq!(names, ["LD_PRELOAD", "PATH"]);
    }

    #[test]
    fn files_then_directories_then_words() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "# c\n\nA=1\nexport B = 'two words' # c\nC=\"x\"\n").unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/A"), "from\0dir \nsecond line").unwrap();
        fs::write(dir.path().join("d/C"), "").unwrap();
        let spec = Environment {
            clear: true,
            files: vec!["file".into()],
            dirs: vec!["d".into()],
            set: vec![("D".into(), "word".into())],
            ..Environment::default()
        };
        let (variables, _) = read(&spec, &ours(), None, dir.path()).unwrap();
        let pairs: Vec<_> =
            variables.iter().map(|(k, v)| (k.to_str().unwrap(), v.to_str().unwrap())).collect();
        assert_eq!(pairs, [("A", "from\ndir"), ("B", "two words"), ("D", "word")]);
    }

    #[test]
    fn a_default_gives_way_to_whatever_sets_or_drops_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "BY_FILE=user\n").unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/BY_DIRECTORY"), "user").unwrap();
        let names = ["PATH", "SECRET", "BY_FILE", "BY_DIRECTORY", "BY_WORD", "BY_NOBODY"];
        let spec = Environment {
            defaults: names.map(|name| (name.into(), "profile".into())).to_vec(),
            drop: vec!["SECRET".into()],
            files: vec!["file".into()],
            dirs: vec!["d".into()],
            set: vec![("BY_WORD".into(), "user".into())],
            ..Environment::default()
        };
        let (variables, _) = read(&spec, &ours(), None, dir.path()).unwrap();
        let value = |name: &str| variables.get(OsStr::new(name)).map(|value| value.to_str().unwrap());
        for (name, expected) in names.iter().zip(["/bin", "", "user", "user", "user", "profile"]) {
            assert_eq!(value(name).unwrap_or_default(), expected, "{name}");
        }
    }

    #[test]
    fn what_we_alone_set_comes_from_nowhere_else() {
        let set = ["LISTEN_PID", "NOTIFY_SOCKET", "GRACEFUL_RUN_PID", "UNICORN_FD"];
        let set = set.map(|name| (name.into(), "1".into())).to_vec();
        let spec = Environment { clear: true, set, ..Environment::default() };
        let (variables, _) = read(&spec, &[], None, Path::new("/")).unwrap();
        assert_eq!(variables.keys().collect::<Vec<_>>(), ["UNICORN_FD"]);
    }

    #[test]
    fn a_file_that_could_keep_us_waiting_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let spec = Environment { files: vec!["fifo".into()], ..Environment::default() };
        let error = read(&spec, &[], None, dir.path()).unwrap_err();
        assert!(error.ends_with("fifo: not a regular file"), "{error}");
    }

    #[test]
    fn a_value_is_understood_or_its_line_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let spec = Environment { clear: true, files: vec!["file".into()], ..Environment::default() };
        let value = |text: &str| {
            fs::write(dir.path().join("file"), format!("\u{feff}A={text}\r\n")).unwrap();
            read(&spec, &[], None, dir.path())
                .map(|(mut it, _)| it.remove(OsStr::new("A")).unwrap().into_string().unwrap())
        };
        for (text, meant) in [
            ("1", "1"),
            ("", ""),
            ("#fff", "#fff"),
            ("a#b", "a#b"),
            ("it's", "it's"),
            ("\"x\" # production", "x"),
            ("'x'#c", "x"),
            ("\"a # b\"", "a # b"),
            ("'say \"x\"'", "say \"x\""),
            ("\"\"", ""),
        ] {
            assert_eq!(value(text), Ok(meant.to_owned()), "{text}");
        }
        for (text, why) in [
            ("x # production", "line 1: # after a value without quotes"),
            ("\"x", "line 1: a quote does not end"),
            ("\"", "line 1: a quote does not end"),
            ("\"x\" y", "line 1: text after the closing quote"),
            ("\"a\\\"b\"", "line 1: text after the closing quote"),
            ("'a''b'", "line 1: text after the closing quote"),
            ("1\0", "line 1: it holds a NUL byte"),
            ("1\rB=2", "line 1: it holds a carriage return"),
            ("1\n\u{feff}B=2", "line 2: it holds a byte order mark"),
            ("1\n\u{a0}B=2", "line 2: it begins with a no-break space"),
            ("1 \\\n 2", "line 1: it ends with a backslash"),
        ] {
            let error = value(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_name_that_no_shell_can_use_is_passed_on_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let lines = "A=1\n1A=x\nexport A-B=x\na.b = x\n_a1=x\n\u{e4}=x\n";
        fs::write(dir.path().join("file"), lines).unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/C-D"), "x").unwrap();
        let spec = Environment {
            clear: true,
            files: vec!["file".into()],
            dirs: vec!["d".into()],
            ..Environment::default()
        };
        let (variables, odd) = read(&spec, &[], None, dir.path()).unwrap();
        assert_eq!(variables.len(), 7);
        let places =
            ["file: line 2: the name '1A'", "file: line 3: the name 'A-B'", "file: line 4: the name 'a.b'"];
        let places = places.into_iter().chain(["file: line 6: the name '\u{e4}'", "d: the name 'C-D'"]);
        assert_eq!(odd.len(), 5, "{odd:?}");
        for (odd, place) in odd.iter().zip(places) {
            assert!(odd.contains(place) && odd.contains("none that a shell can use"), "{odd}");
        }
    }

    #[test]
    fn a_file_of_a_directory_is_understood_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let spec = Environment { clear: true, dirs: vec!["d".into()], ..Environment::default() };
        let value = |name: &str, text: &[u8]| {
            let _ = fs::remove_dir_all(dir.path().join("d"));
            fs::create_dir(dir.path().join("d")).unwrap();
            fs::write(dir.path().join("d").join(name), text).unwrap();
            read(&spec, &[], None, dir.path())
                .map(|(mut it, _)| it.remove(OsStr::new(name)).map(|value| value.into_string().unwrap()))
        };
        for (text, meant) in [
            (&b"x\nrest"[..], Some("x")),
            (b"\xef\xbb\xbfx\r\n", Some("x")),
            (b"\xef\xbb\xbf", None),
            (b"a\0b", Some("a\nb")),
            (b"C:\\", Some("C:\\")),
            (b"\n", Some("")),
        ] {
            assert_eq!(value("A", text), Ok(meant.map(str::to_owned)), "{text:?}");
        }
        for (text, why) in [
            (&b"\xff\xfev\0\n\0"[..], "it is UTF-16"),
            (b"v\0\n\0", "it is UTF-16"),
            (b"\0v\0\n", "it is UTF-16"),
            (b"x\ry", "a carriage return"),
            (b"x\xef\xbb\xbf", "a byte order mark"),
            (b"\xc2\xa0x", "a no-break space"),
        ] {
            let error = value("A", text).expect_err(why);
            assert!(error.contains("/d/A: it ") && error.contains(why), "{error}");
        }
        for name in [" SP", "\u{a0}N"] {
            let error = value(name, b"x").expect_err(name);
            assert!(error.contains("its name holds a blank"), "{error}");
        }
    }

    #[test]
    fn a_bad_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "A=1\nnonsense\n").unwrap();
        let spec = Environment { files: vec!["file".into(), "missing".into()], ..Environment::default() };
        let error = read(&spec, &[], None, dir.path()).unwrap_err();
        assert!(error.ends_with("line 2 is not of the form K=V"), "{error}");
    }
}
