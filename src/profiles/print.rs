//! What a profile does, for people and as JSON.

use super::check::Check;
use super::profile::{Addition, Profile, Way};
use serde::Serialize;
use std::collections::BTreeMap;

/// A profile. Fields are only ever added.
#[derive(Debug, Serialize)]
pub struct Shown {
    version: u32,
    /// As `--profile` has it.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// The version that was tried; None: nobody has noted it.
    pub tried: Option<&'static str>,
    /// Words by which it is recognised.
    pub recognised: Vec<String>,
    /// Only where it is installed: any program may have such a name.
    pub only_installed: bool,
    /// Words with which it is no server.
    pub never: &'static [&'static str],
    /// With -b; None: it is not known to take sockets.
    pub with_b: Option<ShownWay>,
    /// With no socket of ours.
    pub without_b: ShownWay,
    /// Arguments that harm.
    pub warnings: Vec<ShownWarning>,
    /// Meanings of signals, as process 1 of a container.
    pub as_process_1: BTreeMap<&'static str, &'static str>,
    /// How it is kept in the foreground.
    pub foreground: Option<&'static str>,
    /// What belongs to one instance of it.
    pub only_one: Option<&'static str>,
    /// How it checks its own configuration.
    pub check: Option<String>,
    /// Command lines that are known to work.
    pub lines: Vec<ShownLine>,
}

/// What is done in one way.
#[derive(Debug, Serialize)]
pub struct ShownWay {
    /// Its name.
    pub way: &'static str,
    /// Options.
    pub options: Vec<String>,
    /// Arguments that are added.
    pub adds: Vec<ShownAddition>,
}

/// Arguments that are added.
#[derive(Debug, Serialize)]
pub struct ShownAddition {
    /// They.
    pub arguments: &'static [&'static str],
    /// Patterns of arguments with which they are not.
    pub unless: &'static [&'static str],
    /// The server is started without them if it refuses them.
    pub optional: bool,
}

/// Arguments that harm.
#[derive(Debug, Serialize)]
pub struct ShownWarning {
    /// Their patterns; empty: any.
    pub words: &'static [&'static str],
    /// Patterns of arguments with which there is none.
    pub unless: &'static [&'static str],
    /// What happens.
    pub text: &'static str,
}

/// A command line.
#[derive(Debug, Serialize)]
pub struct ShownLine {
    /// For people.
    pub title: &'static str,
    /// With `graceful-run`.
    pub command: String,
    /// The server itself loses requests.
    pub own_losses: bool,
    /// What to know.
    pub caveat: String,
}

impl Profile {
    /// All that it does.
    pub fn shown(&self) -> Shown {
        let is = &self.recognise;
        let modules = is.modules.iter().map(|module| format!("python -m {module}"));
        let jars = is.jars.iter().map(|jar| format!("java -jar {jar}"));
        let scripts = is.scripts.iter().filter(|name| !is.programs.contains(name));
        let names = is.programs.iter().chain(scripts).map(ToString::to_string);
        let first =
            is.first.iter().map(|words| format!(" {}", words.replace('|', " or "))).collect::<String>();
        let mut recognised: Vec<String> =
            names.chain(modules).chain(jars).map(|name| format!("{name}{first}")).collect();
        recognised.dedup();
        let known = |text: &'static str| Some(text).filter(|text| !text.is_empty());
        Shown {
            version: 1,
            name: self.name,
            title: self.title,
            tried: known(self.version),
            recognised,
            only_installed: is.generic,
            never: is.never,
            with_b: self.takes_sockets().then(|| shown_way("-b", self.bind.as_ref(), self.add)),
            without_b: shown_way(bare(self.bare.as_ref()), self.bare.as_ref(), self.add),
            warnings: self
                .warn
                .iter()
                .map(|it| ShownWarning { words: it.words, unless: it.unless, text: it.text })
                .collect(),
            as_process_1: self.on.iter().copied().collect(),
            foreground: known(self.foreground),
            only_one: known(self.only_one),
            check: self.check.map(|check| check.shown(self.name)),
            lines: self
                .lines
                .iter()
                .map(|line| ShownLine {
                    title: line.title,
                    command: format!("graceful-run {}", line.command),
                    own_losses: line.loses,
                    caveat: plain(line.caveat),
                })
                .collect(),
        }
    }

    /// Whether it is known to take sockets.
    pub fn takes_sockets(&self) -> bool {
        let shown = || self.lines.iter().any(|line| line.command.starts_with("-b "));
        !self.own_socket && (self.bind.is_some() || !self.dialects().is_empty() || shown())
    }
}

impl Check {
    fn shown(self, name: &str) -> String {
        match self {
            Check::Flags(flags) => format!("{name} … {}", flags.join(" ")),
            Check::Program(words, ..) => words.join(" "),
        }
    }
}

fn bare(way: Option<&Way>) -> &'static str {
    match way {
        Some(way) if !way.follow.is_empty() => "follow",
        Some(way) if way.stop_first => "stop-first",
        Some(way) if !way.adopt => "none",
        _ => "adopt",
    }
}

fn shown_way(name: &'static str, way: Option<&Way>, always: &'static [Addition]) -> ShownWay {
    let mut options = Vec::new();
    let mut say = |option: &str, value: &str| {
        if !value.is_empty() {
            options.push(format!("{option} {value}"));
        }
    };
    if let Some(way) = way {
        say("--follow", way.follow);
        say("--export", &way.export.join(","));
        say("--ack", &way.ack.join(","));
        say("--soak", way.soak);
        say("--stop-signal", way.stop_signal);
        say("--stop-timeout", way.stop_timeout);
        for (name, value) in way.environment {
            say("--env", &format!("{name}={value}"));
        }
        if !way.listener.is_empty() {
            say("-b", &format!("…,{}", way.listener));
        }
        if way.stop_first {
            options.push("--stop-first".into());
        }
    }
    let adds = always.iter().chain(way.into_iter().flat_map(|way| way.add));
    let adds = adds
        .map(|add| ShownAddition { arguments: add.arguments, unless: add.unless, optional: add.optional })
        .collect();
    ShownWay { way: name, options, adds }
}

/// A text of the documentation without its links: they lead to other places of docs/servers.md.
pub fn plain(text: &str) -> String {
    let (mut plain, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('[') {
        let Some((name, (_, behind))) =
            after.split_once("](").and_then(|(name, link)| Some((name, link.split_once(')')?)))
        else {
            break;
        };
        plain.push_str(&format!("{before}docs/servers.md, {name}"));
        rest = behind;
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::super::known::by_name;
    use super::*;

    #[test]
    fn links_of_the_documentation_are_named() {
        assert_eq!(plain("see [nginx](#nginx); no"), "see docs/servers.md, nginx; no");
        assert_eq!(plain("an array [1]"), "an array [1]");
    }

    #[test]
    fn a_profile_is_shown_as_it_is() {
        let nginx = by_name("nginx").unwrap().shown();
        let with_b = nginx.with_b.unwrap();
        assert_eq!(with_b.options, ["--export nginx", "--stop-signal QUIT"]);
        assert_eq!(with_b.adds[0].arguments, ["-g", "daemon off;"]);
        assert_eq!((nginx.without_b.way, nginx.as_process_1["QUIT"]), ("adopt", "stop"));
        assert_eq!(nginx.check.as_deref(), Some("nginx … -t"));
        let apache = by_name("apache2").unwrap().shown();
        assert!(apache.with_b.is_none());
        let module = by_name("http.server").unwrap().shown();
        assert!(!module.only_installed && by_name("serve").unwrap().shown().only_installed);
        let rails = by_name("rails").unwrap().shown().recognised;
        assert!(rails.contains(&"rails server or s".into()), "{rails:?}");
        assert!(by_name("node").unwrap().shown().with_b.is_some());
        assert!(module.recognised.contains(&"python -m http.server".into()), "{module:?}");
    }
}
