//! The configuration of the control socket and the name.

use super::value::invalid;
use crate::cli::Cli;
use crate::error::Error;
use std::path::PathBuf;

/// The control socket and the name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Control {
    /// `--name`
    pub name: Option<String>,
    /// `--socket`
    pub socket: Option<PathBuf>,
    /// `--no-socket`
    pub none: bool,
    /// `--control-group`
    pub group: Option<String>,
}

/// Checks what can be checked without reading the file system.
///
/// # Errors
/// [`Error::Usage`], naming the argument.
pub(super) fn control(cli: &mut Cli) -> Result<Control, Error> {
    if let Some(name) = cli.name.as_deref().filter(|name| !is_name(name)) {
        return Err(invalid("--name", name, "a name has letters, digits, '.', '_' and '-' only"));
    }
    if cli.socket.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
        return Err(invalid("--socket", "", "it is empty"));
    }
    if cli.control_group.as_deref() == Some("") {
        return Err(invalid("--control-group", "", "it is empty"));
    }
    Ok(Control {
        name: cli.name.take(),
        socket: cli.socket.take(),
        none: cli.no_socket,
        group: cli.control_group.take(),
    })
}

/// Whether `name` can be used as a name: it becomes a part of file names.
pub fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty() && name.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn names_are_parts_of_file_names() {
        for name in ["web", "a.b-c_D9", ".."] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "a/b", "a b", "ä", "a\n"] {
            assert!(!is_name(name), "{name}");
        }
    }
}
