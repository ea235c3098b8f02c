//! The script of a shell that executes one program.

use super::hints::is_shell;
use std::ffi::{OsStr, OsString};

/// The script of `sh -c`, if all that it does is to execute one program: what prepares that (`cd`,
/// variables), and the command with its `exec`.
pub(super) fn script(command: &[OsString]) -> Option<(&str, &str)> {
    let [shell, option, script] = command else { return None };
    let script = script.to_str()?.trim();
    let behind = |separator: &str| script.rfind(&format!("{separator}exec ")).map(|at| at + separator.len());
    let at = ["&&", "&& ", ";", "; ", "\n"].into_iter().filter_map(behind).max().unwrap_or(0);
    let (before, script) = script.split_at(at);
    let one = script.starts_with("exec ") && !script.contains(['\n', '&', '|', '<', '>', '`']);
    // A semicolon between quotes is a word of the server (-g 'daemon off;'). A comment would hide what
    // is written behind the command.
    let outside: String = script.split(['\'', '"']).step_by(2).collect();
    let alone = one && !outside.contains([';', '#']) && is_preparation(before);
    (is_shell(shell) && option == OsStr::new("-c") && alone).then_some((before, script))
}

/// Whether these commands start no program.
fn is_preparation(script: &str) -> bool {
    const WORDS: [&str; 6] = ["cd", "export", "umask", "ulimit", "set", "unset"];
    let commands = script.split(['\n', ';']).flat_map(|part| part.split("&&")).map(str::trim);
    let is_harmless = |command: &str| {
        let word = command.split_whitespace().next().unwrap_or_default();
        let variable = word.split_once('=').is_some_and(|(name, _)| is_name(name)) && word == command;
        (variable || WORDS.contains(&word))
            && !command.contains(['&', '|', '<', '>', '`', '(', '\'', '"', '#'])
    };
    commands.filter(|command| !command.is_empty()).all(is_harmless)
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The words behind `exec`, as a shell splits them; what it expands is left as it is written.
pub(super) fn words_of(script: &str) -> Vec<String> {
    let (mut words, mut quote, mut begun) = (vec![String::new()], None, false);
    for c in script.chars() {
        match (c, quote) {
            ('\'' | '"', None) => (quote, begun) = (Some(c), true),
            (_, Some(open)) if c == open => quote = None,
            (c, None) if c.is_whitespace() => {
                if std::mem::take(&mut begun) {
                    words.push(String::new());
                }
            }
            _ => {
                begun = true;
                words.last_mut().expect("there is one").push(c);
            }
        }
    }
    if !begun {
        words.pop();
    }
    words.into_iter().skip(1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[&str]) -> Vec<OsString> {
        line.iter().map(OsString::from).collect()
    }

    #[test]
    fn the_words_of_a_script_are_those_of_the_shell() {
        let script = "exec  env TITLE=\"my redis-server\" ./server -g 'pid a;' '' \n";
        assert_eq!(words_of(script), ["env", "TITLE=my redis-server", "./server", "-g", "pid a;", ""]);
        assert_eq!(words_of("exec"), [""; 0]);
    }

    #[test]
    fn a_script_that_only_executes_a_program_is_found() {
        for (script_text, found) in [
            ("exec nginx -g \"pid n.$GRACEFUL_RUN_GENERATION.pid;\"", true),
            ("cd /srv && exec twistd -n web", true),
            ("cd /srv; A=b; export A\nexec nginx -g 'daemon off;'", true),
            ("cd /srv || exec nginx", false),
            ("cd $(pwd); exec nginx", false),
            ("A=b migrate; exec nginx", false),
            ("migrate; exec nginx", false),
            ("nginx", false),
            ("exec squid -N -f c # main", false),
            ("cd /srv # here\nexec nginx", false),
            ("exec nginx -g 'user a#b;'", true),
        ] {
            assert_eq!(script(&words(&["sh", "-c", script_text])).is_some(), found, "{script_text}");
        }
    }
}
