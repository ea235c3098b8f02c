//! What would be done with one command here, and whether an upgrade of it would lose requests.

use super::table::{row, row_of};
use crate::config::signals::name;
use crate::config::{Applied, Config};
use crate::doctor::{Check, missing_for};
use crate::error::reason;
use crate::launch::{InheritedContext, LaunchSpec, interpreter};
use crate::profiles::{Profile, Warning, advice, plain, quote};
use crate::supervisor::obstacle;
use crate::sys::identity::find_identity;
use serde::Serialize;
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// How the server gets its sockets over an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Way {
    #[serde(rename = "-b")]
    Bind,
    Adopt,
    StopFirst,
    Follow,
    None,
}

/// Fields are only ever added.
#[derive(Debug, Serialize)]
pub(super) struct Outlook {
    version: u32,
    /// The words that would be executed.
    command: Vec<String>,
    /// The file that would be executed; None: see the reasons.
    program: Option<String>,
    profile: Option<&'static str>,
    /// What the profile does, as the log says it.
    applied: Option<String>,
    /// The options that the profile stands for.
    options: Vec<String>,
    /// The arguments that it adds.
    added: Vec<String>,
    way: Way,
    /// Whether sockets are handed over.
    handed: bool,
    /// The addresses of -b.
    sockets: Vec<String>,
    stop_signal: String,
    /// The worker and its children gain no privileges by execve(2).
    no_new_privs: bool,
    warnings: Vec<String>,
    /// What this machine lacks for this way.
    missing: Vec<Check>,
    /// Requests that the server itself is known to lose.
    own_losses: Vec<String>,
    /// What else is known of its upgrades.
    notes: Vec<String>,
    loses_nothing: bool,
    /// Why an upgrade would lose requests; empty: it would not.
    pub(super) reasons: Vec<String>,
}

impl Outlook {
    /// `handed`: sockets were handed to us, or are bound with -b.
    pub(super) fn of(config: Config, handed: bool) -> Outlook {
        let surroundings = InheritedContext::read();
        let mut reasons = Vec::new();
        let mut warnings = Vec::new();
        let program = program(&config, &surroundings).map_err(|why| reasons.push(why)).ok();
        let missing = missing_for(&features(&config));
        let found = config.adopt.as_ref().map(|_| obstacle(&config, &surroundings));
        let no_new_privs = config.worker.no_new_privs || found == Some(Ok(true));
        if found == Some(Ok(true)) {
            warnings.push("to be adopted, the worker runs with no_new_privs, as we lack CAP_SYS_ADMIN: sudo and setuid programs gain nothing in it".into());
        }
        let config = match found {
            Some(Err(why)) if config.adopt.as_ref().is_some_and(|adopt| adopt.auto) => {
                warnings.push(why);
                config.without_adoption()
            }
            _ => config,
        };
        for check in &missing {
            let lacks = format!("there is no {} here for {}", check.name, check.used_by);
            if is_needed(&check.used_by) { reasons.push(lacks) } else { warnings.push(lacks) }
        }
        let way = way(&config, handed);
        let held = handed || config.adopt.is_some();
        reasons.extend(lacks_sockets(way, held, config.unadoptable));
        let applied = config.applied.as_ref();
        let profile = applied.filter(|applied| applied.left_out.is_none()).map(|applied| applied.profile);
        let own = handed && config.adopt.is_none();
        reasons.extend(profile.filter(|_| own).and_then(|profile| takes_none(profile, &config)));
        reasons.extend(applied.and_then(leaves_us));
        if own && profile.is_none() {
            warnings.push("whether it takes the sockets that it is handed cannot be known from here".into());
        }
        warnings.extend(applied.into_iter().flat_map(|applied| applied.warnings.clone()));
        let directory = config.worker.chdir.as_ref();
        let directory = directory
            .map_or_else(|| surroundings.directory.clone(), |path| surroundings.directory.join(path));
        match advice(&config.worker.command, &directory, own) {
            Some(advice) if advice.loses => reasons.push(advice.text),
            Some(advice) => warnings.push(advice.text),
            None => {}
        }
        warnings.extend(profile.filter(|_| way != Way::StopFirst).and_then(|it| only_one(it, &config)));
        warnings.retain(|warning| !reasons.contains(warning));
        Outlook {
            version: 1,
            command: config.worker.command.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
            program,
            profile: profile.map(|profile| profile.name),
            applied: applied.map(Applied::line),
            options: applied.map(|applied| applied.options.clone()).unwrap_or_default(),
            added: applied.map(|applied| applied.added.clone()).unwrap_or_default(),
            way,
            handed: own,
            sockets: config.binds.iter().map(ToString::to_string).collect(),
            stop_signal: name(config.stop_signal as i32),
            no_new_privs,
            warnings,
            missing,
            own_losses: profile.map(|profile| own_losses(profile, own)).unwrap_or_default(),
            notes: profile.and_then(|profile| note(profile, own)).into_iter().collect(),
            loses_nothing: reasons.is_empty(),
            reasons,
        }
    }

    /// The same for people.
    pub(super) fn table(&self) -> String {
        let words: Vec<String> = self.command.iter().map(|word| quote(word.as_ref())).collect();
        let profile = match &self.applied {
            Some(line) => line.strip_prefix("profile ").unwrap_or(line),
            None => "none",
        };
        let way = match (self.way, self.handed) {
            (Way::Bind, _) => row("way", "-b: graceful-run holds the sockets and hands them over"),
            (Way::Adopt, _) => row("way", "adopt: the server binds its own sockets, and they are adopted"),
            (Way::StopFirst, _) => {
                row("way", "stop-first: the old server stops, then the new one starts; clients wait")
            }
            (Way::Follow, _) => row("way", "follow: the server starts its own successor"),
            (Way::None, _) => row("way", "none: the server binds its own sockets, and keeps them to itself"),
        };
        let missing: Vec<String> = self.missing.iter().map(|check| check.to_string()).collect();
        let missing: Vec<String> =
            missing.iter().map(|line| line.trim_start_matches("missing").trim().into()).collect();
        let upgrade = match self.reasons.is_empty() {
            true if self.own_losses.is_empty() => row("upgrade", "loses no request"),
            true => row("upgrade", "loses no request but those that the server itself loses"),
            false => row_of(
                "upgrade",
                &self.reasons.iter().map(|why| format!("not without losses: {why}")).collect::<Vec<_>>(),
            ),
        };
        [
            row("command", &words.join(" ")),
            row("program", self.program.as_deref().unwrap_or("none")),
            row("profile", profile),
            way,
            row_of("sockets", &self.sockets),
            row("stop signal", &self.stop_signal),
            row_of("warning", &self.warnings),
            row_of("missing", &missing),
            row_of("own losses", &self.own_losses),
            row_of("note", &self.notes),
            upgrade,
        ]
        .concat()
    }
}

/// The file that would be executed.
fn program(config: &Config, surroundings: &InheritedContext) -> Result<String, String> {
    let user = config.worker.user.as_deref().map(find_identity).transpose()?;
    let identity = user.filter(|identity| !identity.is_ours());
    let spec = LaunchSpec::read(&config.worker, surroundings, identity.as_ref());
    let spec = spec.map_err(|refused| refused.message)?;
    spec.open_directory().map_err(|refused| refused.message)?;
    let program = spec.program().display().to_string();
    match fs::metadata(spec.program()) {
        Err(error) => Err(format!("cannot find '{program}': {}", reason(&error))),
        Ok(file) if !file.is_file() => Err(format!("cannot execute '{program}': it is no file")),
        Ok(file) if file.permissions().mode() & 0o111 == 0 => {
            Err(format!("cannot execute '{program}': its mode does not allow that (chmod +x)"))
        }
        Ok(_) => match interpreter::fault(spec.program()) {
            Some(why) => Err(format!("cannot execute '{program}': {why}")),
            None => Ok(program),
        },
    }
}

/// The feature that asks for upgrades, and has no part in them.
const WATCH: &str = "--watch";

/// Whether an upgrade loses requests without it.
fn is_needed(used_by: &str) -> bool {
    !used_by.starts_with(WATCH)
}

/// The features that are needed, as the doctor names them.
fn features(config: &Config) -> Vec<&'static str> {
    let needed = [
        (config.adopt.is_some(), "--adopt"),
        (config.follow.is_some(), "--follow"),
        (!config.watch.is_empty(), WATCH),
        (true, "an upgrade"),
    ];
    needed.into_iter().filter(|(needed, _)| *needed).map(|(_, feature)| feature).collect()
}

fn way(config: &Config, handed: bool) -> Way {
    match config {
        _ if config.follow.is_some() => Way::Follow,
        _ if config.policy.stop_first => Way::StopFirst,
        _ if config.adopt.is_some() => Way::Adopt,
        _ if handed => Way::Bind,
        _ => Way::None,
    }
}

/// `held`: the sockets live longer than the server; `unadoptable`: adoption is forbidden here.
fn lacks_sockets(way: Way, held: bool, unadoptable: bool) -> Option<String> {
    let why = match way {
        Way::None if unadoptable => {
            "nobody holds the sockets, and a second server cannot bind them beside the first: give them with -b"
        }
        Way::None => {
            "nobody holds the sockets, and a second server cannot bind them beside the first: give them with -b, or leave out what keeps them from being adopted (--adopt=never, -n, --surge, --export)"
        }
        Way::StopFirst if !held => {
            "nobody holds the sockets between the old server and the new one: clients are refused meanwhile"
        }
        _ => return None,
    };
    Some(why.into())
}

/// The server is handed sockets, and takes none.
fn takes_none(profile: &Profile, config: &Config) -> Option<String> {
    let none = || {
        (!profile.takes_sockets())
            .then(|| format!("{} is not known to take sockets: leave -b out", profile.name))
    };
    profile.socket_hint(&config.dialects).or_else(none)
}

/// The server goes into the background.
fn leaves_us(applied: &Applied) -> Option<String> {
    let leaves = |warning: &&String| warning.starts_with(Warning::BACKGROUND);
    if let Some(warning) = applied.warnings.iter().find(leaves) {
        return Some(warning.clone());
    }
    let profile = applied.profile;
    let needed = profile.add.iter().filter(|add| !add.optional).map(|add| add.arguments.join(" "));
    let to_add = applied.to_add.join(" ");
    let missing = needed
        .filter(|arguments| profile.foreground.contains(arguments.as_str()))
        .find(|arguments| to_add.contains(arguments.as_str()))?;
    Some(format!("it goes into the background: write {missing} {}", applied.where_to_add))
}

/// There can be one of it only, and the command gives nothing of its own to each generation. Whether a
/// file that it names does is not looked at.
fn only_one(profile: &Profile, config: &Config) -> Option<String> {
    let arguments: Vec<String> =
        config.worker.command.iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let alone = !profile.only_one.is_empty() && !profile.is_apart(&arguments, &[]);
    let shown = profile.lines.iter().any(|line| profile.is_apart(&[line.command.into()], &[]));
    let line = match shown {
        true => format!(": graceful-run profiles {} has a command line", profile.name),
        false => String::new(),
    };
    let text = || {
        let (name, what) = (profile.name, profile.only_one);
        format!("each generation of {name} needs {what} of its own, or an upgrade is refused{line}")
    };
    alone.then(text)
}

fn own_losses(profile: &Profile, handed: bool) -> Vec<String> {
    let lines = profile.lines.iter().filter(|line| line.loses && line.command.starts_with("-b") == handed);
    lines.map(|line| format!("{}: {}", line.title, plain(line.caveat))).collect()
}

/// What the documentation says of its only command line. Of several it may be another that is meant.
fn note(profile: &Profile, handed: bool) -> Option<String> {
    let mut lines = profile.lines.iter().filter(|line| line.command.starts_with("-b") == handed);
    let (line, other) = (lines.next()?, lines.next());
    let elsewhere = line.caveat.is_empty() || line.caveat.starts_with("see [");
    (other.is_none() && !line.loses && !elsewhere).then(|| plain(line.caveat))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use crate::config::Situation;
    use clap::Parser;

    fn config(arguments: &[&str]) -> Config {
        let words = ["graceful-run"].iter().chain(arguments).chain(&["--", "./server"]);
        Config::new(Cli::parse_from(words), true, Situation::default(), &|_| false).unwrap()
    }

    #[test]
    fn a_machine_that_forbids_adoption_is_no_word_against_it_by_the_user() {
        let forbidden = config(&[]).without_adoption();
        assert_eq!(way(&forbidden, false), Way::None);
        let told = lacks_sockets(Way::None, false, forbidden.unadoptable).unwrap();
        assert!(told.ends_with(": give them with -b"), "{told}");
        let never = config(&["--adopt=never"]).without_adoption();
        assert!(
            lacks_sockets(way(&never, false), false, never.unadoptable).unwrap().contains("--adopt=never")
        );
    }

    #[test]
    fn what_is_known_of_the_only_line_is_a_note() {
        let noted = |name: &str, handed| note(crate::profiles::named(name).unwrap(), handed);
        assert!(noted("memcached", false).is_some_and(|note| note.contains("empty cache")));
        assert_eq!(noted("memcached", true), None);
        assert_eq!(noted("redis-server", false), None, "it is among its losses");
        assert_eq!(noted("nginx", false), None, "it only leads to a page");
    }

    #[test]
    fn one_that_there_can_be_one_of_is_told_of() {
        let told = |arguments: &[&str]| {
            let words = ["graceful-run", "--"].iter().chain(arguments);
            let config = Config::new(Cli::parse_from(words), true, Situation::default(), &|_| false).unwrap();
            only_one(crate::profiles::named("apache2").unwrap(), &config)
        };
        assert!(
            told(&["apache2", "-f", "a.conf"]).is_some_and(|it| it.contains("a PidFile (-c 'PidFile …')"))
        );
        let own = "exec apache2 -c \"PidFile run/$GRACEFUL_RUN_GENERATION.pid\"";
        assert_eq!(told(&["sh", "-c", own]), None);
    }

    #[test]
    fn what_only_watch_lacks_loses_no_request() {
        let watching = config(&["--watch", "/etc/hosts"]);
        assert_eq!(features(&watching), ["--adopt", "--watch", "an upgrade"]);
        assert_eq!(way(&watching, false), Way::Adopt);
        assert!(!is_needed("--watch and unix paths"));
        assert!(is_needed("--adopt") && is_needed("an upgrade"));
    }
}
