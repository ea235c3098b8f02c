//! The variables that a profile gives to a worker.

use crate::cli::Cli;
use crate::listener::{Address, Bind};
use crate::profiles::Way;

/// Those that the command line and our own environment neither set nor drop. What tells of a socket
/// names its path, if it has one.
pub(super) fn variables(way: &Way, cli: &Cli) -> Vec<(&'static str, String)> {
    let first = cli.bind.first().and_then(|text| text.to_str()?.parse::<Bind>().ok());
    let path = first.and_then(|bind| match bind.address {
        Address::Unix { path, .. } => Some(path.to_string_lossy().into_owned()),
        _ => None,
    });
    let all = match &path {
        Some(_) if !way.environment_unix.is_empty() => way.environment_unix,
        _ => way.environment,
    };
    let path: String = path.unwrap_or_default();
    let is_open = |name: &str| {
        let given = cli.env.iter().any(|pair| pair.to_string_lossy().starts_with(&format!("{name}=")));
        let dropped = cli.drop_env.iter().any(|dropped| dropped == name);
        !given && !dropped && (cli.clear_env || std::env::var_os(name).is_none())
    };
    let open = all.iter().filter(|(name, _)| is_open(name));
    open.map(|&(name, value)| (name, value.replace("{path}", &path))).collect()
}
