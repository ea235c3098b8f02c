//! The file that the kernel starts for a program: the interpreter of a script, the loader of a
//! native program. Where it is missing, execve(2) gives ENOENT, as if the program were.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// How many scripts may be the interpreters of one another: the kernel's limit.
const MOST_INTERPRETERS: usize = 5;

/// Why the kernel does not know the format of a program (ENOEXEC).
pub fn unknown_format(program: &Path) -> String {
    let mut program = program.to_path_buf();
    for depth in 0..MOST_INTERPRETERS {
        let mut head = Vec::new();
        let read = File::open(&program).and_then(|file| file.take(256).read_to_end(&mut head));
        // It is its interpreter that the kernel does not know.
        let next = interpreter(&program);
        let why = match head.as_slice() {
            _ if read.is_err() => "it cannot be read to see why",
            b"" => "the file is empty",
            [0x7f, b'E', b'L', b'F', ..] => {
                "it is built for another kind of machine, or damaged: file(1) says which"
            }
            [0xef, 0xbb, 0xbf, ..] => {
                "it begins with a byte order mark, and a script has to begin with #! (save it as UTF-8 without one)"
            }
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
                "it is UTF-16, and a script has to begin with #! (save it as UTF-8)"
            }
            _ if head.contains(&0) => "it is no program of this system: file(1) says what it is",
            [b'#', b'!', ..] => match next {
                Some(path) if !path.is_empty() => {
                    program = PathBuf::from(OsString::from_vec(path));
                    continue;
                }
                _ => "its first line names no interpreter behind #!",
            },
            _ if head.trim_ascii_start().starts_with(b"#!") => {
                "something stands before its #!, which has to begin the file"
            }
            _ => "a script begins with #! and its interpreter",
        };
        return match depth {
            0 => why.into(),
            _ => format!("of its interpreter {}: {why}", program.display()),
        };
    }
    "its interpreter is a script, whose interpreter is one, and so on".into()
}

/// The program that env(1) looks for in PATH, if the first line of a script leaves that to it.
pub fn by_env(program: &Path) -> Option<String> {
    let mut head = Vec::new();
    File::open(program).ok()?.take(256).read_to_end(&mut head).ok()?;
    let line = head.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line).into_owned();
    let mut words = line.split_whitespace();
    let env = words.next()?.ends_with("/env");
    words.find(|word| !word.starts_with('-') && !word.contains('=')).filter(|_| env).map(String::from)
}

/// Which file is missing for a program that is there: its `#!` line names it, or its ELF header.
pub fn missing(program: &Path) -> String {
    let named = interpreter(program).map(|path| String::from_utf8_lossy(&path).into_owned());
    match named {
        Some(name) if name.ends_with('\r') => {
            "its first line ends with a carriage return (CRLF), which the kernel takes for a part of the name of its interpreter (write LF alone)".into()
        }
        Some(name) if !Path::new(&name).exists() => {
            format!("its interpreter {name} is missing (install it, or correct the program)")
        }
        _ => "its interpreter is missing".into(),
    }
}

/// Why execve(2) is certain to refuse a program that is there, as far as its first bytes tell: they are no
/// program's, or the file that they name is missing. None where the kernel was taught formats that it
/// does not know itself (binfmt_misc), and of an interpreter that the working directory decides.
pub fn fault(program: &Path) -> Option<String> {
    let mut head = Vec::new();
    File::open(program).and_then(|file| file.take(4).read_to_end(&mut head)).ok()?;
    match interpreter(program) {
        Some(name) if !name.is_empty() && name[0] != b'/' => None,
        Some(name) if !name.is_empty() => {
            (!Path::new(&OsString::from_vec(name)).exists()).then(|| missing(program))
        }
        Some(_) => Some(unknown_format(program)),
        None => (head != b"\x7fELF" && !knows_other_formats()).then(|| unknown_format(program)),
    }
}

/// Whether somebody has registered a format with the kernel: its directory has a file for each, beside
/// two of its own.
fn knows_other_formats() -> bool {
    std::fs::read_dir("/proc/sys/fs/binfmt_misc").is_ok_and(|formats| formats.count() > 2)
}

/// The interpreter of a script, or the loader of a native program (PT_INTERP of elf(5)); None if the
/// file cannot be read, or is another one.
fn interpreter(program: &Path) -> Option<Vec<u8>> {
    let mut file = File::open(program).ok()?;
    let mut head = Vec::new();
    file.by_ref().take(4096).read_to_end(&mut head).ok()?;
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|&byte| byte == b'\n').next()?.trim_ascii_start();
        return Some(line.split(|byte| [b' ', b'\t'].contains(byte)).next()?.to_vec());
    }
    let number = |at: usize, length: usize| -> Option<u64> {
        let bytes = head.get(at..at.checked_add(length)?)?;
        let sum = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        Some(match head[5] {
            1 => bytes.iter().rev().fold(0, sum),
            _ => bytes.iter().fold(0, sum),
        })
    };
    // A program header, as elf(5) has it for 32 and 64 bits: its type, the offset of the segment
    // in the file, and the size there.
    let (table, size, count, word, offset, length) = match head.get(..5)? {
        b"\x7fELF\x01" => (number(28, 4)?, number(42, 2)?, number(44, 2)?, 4, 4, 16),
        b"\x7fELF\x02" => (number(32, 8)?, number(54, 2)?, number(56, 2)?, 8, 8, 32),
        _ => return None,
    };
    let header = (0..count)
        .map(|index| table.wrapping_add(index * size) as usize)
        .find(|&at| number(at, 4) == Some(3))?;
    let (offset, length) = (number(header + offset, word)? as usize, number(header + length, word)? as usize);
    Some(head.get(offset..offset.checked_add(length)?)?.split(|&byte| byte == 0).next()?.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_interpreter_of_a_script_and_the_loader_of_a_binary_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let read = |bytes: &[u8]| {
            fs::write(&file, bytes).unwrap();
            interpreter(&file).map(|path| String::from_utf8(path).unwrap())
        };
        assert_eq!(read(b"#! /bin/sh -e\nexit"), Some("/bin/sh".into()));
        assert_eq!(read(b"#!/bin/sh\r\nexit"), Some("/bin/sh\r".into()));
        assert!(missing(&file).contains("ends with a carriage return"), "{}", missing(&file));
        assert_eq!(read(b"exit 0"), None);
        // With binfmt_misc the kernel may know a format that we do not.
        let unknown = |why: &str| fault(&file).map_or(knows_other_formats(), |told| told.starts_with(why));
        assert!(unknown("a script begins with #!"));
        assert_eq!(read(b""), None);
        assert!(unknown("the file is empty"));
        assert_eq!(read(b"#!/non/sh\n"), Some("/non/sh".into()));
        assert!(fault(&file).is_some_and(|why| why.contains("its interpreter /non/sh is missing")));
        assert_eq!(read(b"#!/bin/sh\n").and(fault(&file)), None);
        assert_eq!(read(b"#!non/sh\n").and(fault(&file)), None);
        // A header whose offsets are too large.
        let mut damaged = b"\x7fELF\x02\x01".to_vec();
        damaged.resize(64, 0xff);
        assert_eq!(read(&damaged), None);
        // This program is dynamically linked, or static and without a loader.
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        let whole = read(&own);
        assert_eq!(fault(&file), None);
        if let Some(loader) = whole {
            assert!(loader.starts_with("/lib"), "{loader}");
            for cut in [5, 30, 63, 64, 100, 600] {
                read(&own[..cut]);
            }
            let place = own.windows(loader.len()).position(|bytes| bytes == loader.as_bytes()).unwrap();
            let mut other = own.clone();
            other[place..place + 4].copy_from_slice(b"/non");
            assert!(read(&other).unwrap().starts_with("/non"));
            assert!(missing(&file).contains("its interpreter /non"), "{}", missing(&file));
        }
    }

    #[test]
    fn an_unknown_format_is_told_apart_and_env_is_looked_through() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        for (bytes, why) in [
            (&b""[..], "the file is empty"),
            (b"\x7fELF\x02", "it is built for another kind of machine"),
            (b"exit 7\n", "a script begins with #!"),
            (b"\xef\xbb\xbf#!/bin/sh\n", "it begins with a byte order mark"),
            (b"\xff\xfe#\0!\0", "it is UTF-16"),
            (b"\n#!/bin/sh\n", "something stands before its #!"),
            (b"#!\nexit 7\n", "its first line names no interpreter"),
            (b"PK\x03\x04\0", "it is no program of this system"),
        ] {
            fs::write(&file, bytes).unwrap();
            assert!(unknown_format(&file).starts_with(why), "{}", unknown_format(&file));
        }
        // The interpreter is what the kernel does not know.
        fs::write(&file, "\u{feff}#!/bin/sh\n").unwrap();
        let script = dir.path().join("script");
        fs::write(&script, format!("#!{}\n", file.display())).unwrap();
        let why = unknown_format(&script);
        assert!(why.starts_with("of its interpreter /") && why.contains("byte order mark"), "{why}");
        for (line, name) in [
            ("#!/usr/bin/env node\n", Some("node")),
            ("#! /usr/bin/env -S A=b deno run\n", Some("deno")),
            ("#!/bin/sh\n", None),
            ("", None),
        ] {
            fs::write(&file, line).unwrap();
            assert_eq!(by_env(&file).as_deref(), name, "{line}");
        }
    }
}
