//! Interpreters, and how many words their options take.
//!
//! Contract: an option that is not known here has no number of words, because the next word could be its
//! value, and no script.

use super::profile::matches;

/// The name of an interpreter without its version.
pub(super) fn unversioned(program: &str) -> &str {
    program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.')
}

/// Whether this program runs a script.
pub(super) fn is_interpreter(program: &str) -> bool {
    let plain = unversioned(program);
    ["python", "pypy", "node", "nodejs", "ruby", "perl", "php", "java", "bun", "deno"].contains(&plain)
}

/// How many words this option of the interpreter takes. None if that is not known: the next word could be
/// its value, and no script.
pub(super) fn words_of_option(interpreter: &str, word: &str) -> Option<usize> {
    let (valued, plain): (&[&str], &[&str]) = match interpreter {
        "python" | "pypy" => (&["-W", "-X"], &["-W*", "-X*"]),
        "node" | "nodejs" => (
            &[
                "-r",
                "--require",
                "--import",
                "--loader",
                "--experimental-loader",
                "-C",
                "--conditions",
                "--watch-path",
                "--inspect-port",
                "--inspect-publish-uid",
                "--trace-event-categories",
                "--trace-event-file-pattern",
            ],
            &[
                "--inspect*",
                "--watch*",
                "--no-*",
                "--experimental-*",
                "--enable-*",
                "--trace-*",
                "--harmony*",
                "--expose-*",
                "--preserve-symlinks*",
                "--throw-deprecation",
                "--use-*",
                "--abort-*",
            ],
        ),
        "ruby" => (
            &["-I", "-r", "-C", "-E"],
            &["-I*", "-r*", "-E*", "-K*", "-W*", "--yjit*", "--jit*", "--enable*"],
        ),
        "perl" => (&["-I"], &["-I*", "-M*", "-m*", "-C*"]),
        "php" => (&["-d", "-c", "-z"], &["-n", "-q", "-C", "-d*"]),
        "java" => (
            &[
                "-cp",
                "-classpath",
                "--class-path",
                "-p",
                "--module-path",
                "--add-opens",
                "--add-exports",
                "--add-modules",
                "--add-reads",
                "--upgrade-module-path",
            ],
            &[
                "-D*",
                "-X*",
                "-ea*",
                "-da*",
                "-esa",
                "-server",
                "-client",
                "-agentlib*",
                "-javaagent*",
                "-verbose*",
            ],
        ),
        _ => (&[], &[]),
    };
    if valued.contains(&word) {
        return Some(2);
    }
    let letters = match interpreter {
        "python" | "pypy" => "bBdEiIOPqRsSuvx",
        "ruby" => "dSUvw",
        "perl" => "sTtUWwX",
        _ => "",
    };
    let flags = word.strip_prefix('-').is_some_and(|flags| flags.chars().all(|c| letters.contains(c)));
    let joined = word.starts_with("--") && word.contains('=');
    (flags || joined || plain.iter().any(|pattern| matches(pattern, word))).then_some(1)
}

/// The module that this option of python names; empty: the next word does. None for another option.
pub(super) fn module(word: &str) -> Option<&str> {
    let (flags, module) = word.strip_prefix('-')?.split_once('m')?;
    flags.chars().all(|flag| "bBdEiIOPqRsSuv".contains(flag)).then_some(module)
}
