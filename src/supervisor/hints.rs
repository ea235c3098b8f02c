//! What the user can do about a worker that failed.
//!
//! Contract: a hint is given where there is evidence for it: what the worker wrote to a stderr that
//! is captured, its command line, a known server, the sockets of the workers that serve. Without
//! evidence there is none. Hints that rest on anything else than the worker's own words, and are not
//! certain, say so with an "if". Where its words are not known to us, and there is no hint, the reader
//! is told where they are.

use super::context::Context;
use super::workers::Workers;
use crate::core::event::{Exit, Generation, Report, WorkerId};
use crate::dialect::Dialect;
use crate::launch::interpreter::by_env;
use crate::process::{Named, Symptom, symptom};
use crate::profiles::Profile;
use crate::sys::file_privileges::file_privileges;
use crate::sys::{listeners, tree};
use nix::unistd::{Pid, geteuid};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::iter;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Notes a hint about the worker of this report, which comes before the reports of what follows from
/// its failure.
pub(super) fn on_report(report: &Report, workers: &Workers, ctx: &mut Context) {
    let (id, early) = match *report {
        Report::Gone { stop_sent: true, .. } => return,
        // A shell gives 126 and 127 for what it cannot execute.
        Report::Gone { worker, exit, ready, .. } => {
            (worker, !ready && matches!(exit, Exit::Code(0..126 | 128..)))
        }
        Report::NoAck(id, _) | Report::Silent(id, _) => (id, false),
        _ => return,
    };
    let Some(entry) = ctx.processes.get(id) else { return };
    let (generation, unbound) = (entry.generation, entry.unbound.clone());
    let words = workers.last_words(id);
    let symptom = symptom(&words);
    // Some say it on stdout (apache2).
    let unknown = symptom.is_none();
    let failure = Failed { generation, early, silent: words.is_empty(), unbound, ctx };
    let not_found = matches!(*report, Report::Gone { exit: Exit::Code(127), .. });
    let hint = failure.interpreter().filter(|_| not_found).or_else(|| failure.hint(symptom.as_ref()));
    let unread = workers.capture.is_none() && has_words(report, id, generation, ctx);
    let failed = early && !matches!(*report, Report::Gone { exit: Exit::Code(0), .. });
    let hint = hint.or_else(|| failure.refused_addition(&words, unread).filter(|_| failed && unknown));
    let hint = hint.or_else(|| unread.then(|| SEE_OUTPUT.into()));
    if let Some(entry) = ctx.processes.get_mut(id) {
        (entry.symptom, entry.hint) = (symptom, hint);
    }
}

/// Where the reason of a failure is that is not known to us.
const SEE_OUTPUT: &str = "see its output, or use --capture-stderr to have it here";

/// Whether a worker whose end is told of has said something, as far as can be known. One that served
/// and is started again has no verdict; one that was killed had no time for words.
fn has_words(report: &Report, id: WorkerId, generation: Generation, ctx: &Context) -> bool {
    let Report::Gone { exit, ready, .. } = *report else { return false };
    let replaces = generation != ctx.core.generation() || ctx.core.probation().is_some();
    let follows = ctx.processes.get(id).is_some_and(|entry| entry.predecessor.is_some());
    exit != Exit::Signal(libc::SIGKILL) && (!ready || replaces || follows)
}

/// A worker that failed.
struct Failed<'a> {
    generation: Generation,
    /// It exited before it was ready.
    early: bool,
    /// Whether nothing is known that it wrote to stderr.
    silent: bool,
    /// As its entry has it.
    unbound: Option<String>,
    ctx: &'a Context,
}

impl Failed<'_> {
    fn hint(&self, symptom: Option<&Symptom>) -> Option<String> {
        match symptom {
            Some(Symptom::RunsAlready) => self.only_one(),
            Some(Symptom::NotPermitted) => self.lost_privileges(),
            Some(Symptom::AddressInUse(named)) => self.address_in_use(named),
            Some(Symptom::MissingLibrary(name)) => Some(format!(
                "its shared library {name} is not found: install it, or name its directory with --env LD_LIBRARY_PATH=…"
            )),
            Some(Symptom::WouldBlock) => None,
            None if self.early && self.silent => self.without_words(),
            None => None,
        }
    }

    /// The first line of its file leaves it to env(1) to find its interpreter, which is not there.
    fn interpreter(&self) -> Option<String> {
        let spec = self.ctx.launcher.specs.get(&self.generation)?;
        let name = by_env(spec.real_program())?;
        let path = spec.environment().get(OsStr::new("PATH"));
        let found = which::which_in(&name, path, spec.real_program().parent()?).is_ok();
        (!found).then(|| {
            format!("its first line asks env for '{name}', which is not in the worker's PATH (install it, or set PATH with --env)")
        })
    }

    /// A replacement may have refused what the profile has added to its command line, because its
    /// configuration says the same since. Where its `words` are known, they have to name that.
    fn refused_addition(&self, words: &[String], unread: bool) -> Option<String> {
        let applied = self.ctx.config.applied.as_ref()?;
        let added = applied.optional(&self.ctx.config.worker.command);
        let is_replacement = self.ctx.core.has_served() && self.generation != self.ctx.core.generation();
        if added.is_empty() || !is_replacement {
            return None;
        }
        let names = |line: &String| added.iter().flat_map(|word| parts(word)).any(|part| line.contains(part));
        let (before, whether) = match (unread, words.iter().any(names)) {
            (true, _) => (format!("{SEE_OUTPUT}; "), "if it refuses"),
            (false, true) => (String::new(), "it may refuse"),
            (false, false) => return None,
        };
        let (added, name) = (added.join(" "), applied.profile.name);
        Some(format!(
            "{before}{whether} {added}, which profile {name} adds: leave that setting out of its configuration, or start graceful-run with --profile none (graceful-run profiles {name} -- COMMAND has the other options)"
        ))
    }

    /// It has said nothing that we could read.
    fn without_words(&self) -> Option<String> {
        let profile = self.ctx.config.server;
        let config = &self.ctx.config;
        if self.holds()
            && let Some(sockets) = profile.and_then(|profile| profile.socket_hint(&config.dialects))
        {
            return Some(sockets);
        }
        if let Some(lost) = self.lost_privileges() {
            return Some(format!("if it was not permitted something: {lost}"));
        }
        if let Some(port) = self.ports_of_others().first().filter(|_| !self.is_adopted()) {
            return Some(format!("if its address is in use: {}", self.bound_by_others(*port)));
        }
        if let Some((what, address)) = self.address_in_configuration().filter(|_| profile.is_none()) {
            return Some(format!(
                "if it says that its address is in use: {what} names {address}, which -b holds: leave -b out, or, if it can take the socket, keep -b and see --export"
            ));
        }
        // One that has replaced another has run beside it.
        let first = self.ctx.core.generation() == Generation(1);
        let alone =
            profile.filter(|profile| first && !profile.only_one.is_empty() && !self.is_apart(profile));
        alone.and_then(|_| self.only_one()).map(|only_one| format!("if it runs already: {only_one}"))
    }

    fn address_in_use(&self, named: &Named) -> Option<String> {
        if self.is_adopted() {
            return self.finds_the_other();
        }
        let others = self.ports_of_others();
        if let Some(port) =
            others.iter().find(|port| *named == Named::default() || named.ports.contains(port))
        {
            return Some(self.bound_by_others(*port));
        }
        let held = self.held();
        let is_ours = |path: &String| held.has_path(path, self.directory());
        // A word with a slash may be anything.
        let is_socket = |path: &&String| fs::metadata(path).is_ok_and(|file| file.file_type().is_socket());
        match (named.ports.first(), named.paths.iter().find(is_socket)) {
            (Some(port), _) if !named.ports.iter().any(|port| held.ports.contains(port)) => {
                Some(format!("ss -ltnp 'sport = :{port}' shows who has its address"))
            }
            (None, Some(path)) if !named.paths.iter().any(is_ours) => {
                Some(format!("ss -lxp src {path} shows who has its address"))
            }
            _ if !self.holds() => None,
            _ => {
                let profile = self.ctx.config.server;
                let known = profile.and_then(|profile| profile.socket_hint(&self.ctx.config.dialects));
                Some(known.unwrap_or_else(|| {
                    "it binds its address itself, and -b holds that: leave -b out; or, if it can take the socket, keep -b and see --export".into()
                }))
            }
        }
    }

    /// It says that an address is in use which it has never tried to bind.
    fn finds_the_other(&self) -> Option<String> {
        let address = self.unbound.as_ref()?;
        Some(format!(
            "it never bound {address}: a server that connects to its port to see whether it is free finds the one that serves; it has to be told not to, or say --stop-first"
        ))
    }

    /// The workers that serve have bound this port by themselves.
    fn bound_by_others(&self, port: u16) -> String {
        let config = &self.ctx.config;
        let next = match (self.holds(), !config.unadoptable, self.how_it_is_given_its_sockets()) {
            (true, ..) => "give it that socket with -b too, or leave -b out".into(),
            (false, true, Some(given)) => format!("say --adopt, or {given}"),
            (false, true, None) => "say --adopt".into(),
            (false, false, Some(given)) => given,
            (false, false, None) => "it takes no socket from -b, so that only --stop-first is left (graceful-run doctor says what adoption lacks)".into(),
        };
        format!("the worker that serves has bound port {port} itself, so a second one cannot: {next}")
    }

    /// None: it is known to take none.
    fn how_it_is_given_its_sockets(&self) -> Option<String> {
        let Some(profile) = self.ctx.config.server else {
            return Some("give it its socket with -b ADDRESS, if it can take one (see --export)".into());
        };
        let dialect = profile.dialects().first().copied().filter(|it| *it != Dialect::ListenFds);
        let export = dialect.map(|dialect| format!(" --export {}", dialect.name())).unwrap_or_default();
        profile.takes_sockets().then(|| format!("give it its socket with -b ADDRESS{export}"))
    }

    /// There can be one of it only: what that is has to belong to one generation.
    fn only_one(&self) -> Option<String> {
        let beside = self.others().next().is_some();
        if !beside || self.ctx.config.policy.stop_first {
            return None;
        }
        // Several workers of one generation are beside each other all the time.
        let numbers = match self.ctx.config.policy.workers {
            1 => "$GRACEFUL_RUN_GENERATION",
            _ => "$GRACEFUL_RUN_GENERATION and $GRACEFUL_RUN_SLOT",
        };
        let profile = self.ctx.config.server;
        Some(match profile.filter(|profile| !profile.only_one.is_empty()) {
            Some(Profile { name, only_one: what, .. }) => format!(
                "each worker of {name} needs {what} of its own: write {numbers} in its path, and let a shell expand it (sh -c 'exec …'); or say --stop-first"
            ),
            None => format!(
                "the worker that serves has the pid file, lock or directory that it wants: write {numbers} in its path, and let a shell expand it (sh -c 'exec …'); where there can be only one (a database), say --stop-first"
            ),
        })
    }

    /// Whether its arguments, or the files that they name, give each generation its own of what there
    /// can be one of.
    fn is_apart(&self, profile: &Profile) -> bool {
        let arguments = self.ctx.config.worker.command.iter().skip(1);
        let arguments: Vec<String> = arguments.map(|word| word.to_string_lossy().into_owned()).collect();
        let spec = self.ctx.launcher.specs.get(&self.generation);
        let files = spec.map(|spec| spec.files()).unwrap_or_default().into_iter().skip(1);
        let files: Vec<String> = files.filter_map(|(path, _)| text(&path)).collect();
        profile.is_apart(&arguments, &files)
    }

    /// Its file gives it privileges that no_new_privs takes away.
    fn lost_privileges(&self) -> Option<String> {
        let (ours, config) = (geteuid().is_root(), &self.ctx.config);
        let why = match config.worker.no_new_privs {
            true => "leave --no-new-privs out",
            false if self.is_adopted() && !ours => {
                "--adopt needs that for everybody but root: run us as root with --user, or give it its sockets with -b"
            }
            false => return None,
        };
        let spec = self.ctx.launcher.specs.get(&self.generation)?;
        let how = file_privileges(spec.real_program())?;
        Some(format!("no_new_privs takes away what its file gives it ({how}): {why}"))
    }

    fn is_adopted(&self) -> bool {
        self.ctx.config.adopt.is_some() || self.ctx.config.follow.is_some()
    }

    /// Whether workers are given sockets of ours.
    fn holds(&self) -> bool {
        !self.ctx.launcher.settings.listeners.is_empty() && !self.is_adopted()
    }

    fn held(&self) -> Held {
        let listeners = || self.ctx.launcher.settings.listeners.iter().map(|listener| listener.exported());
        Held {
            ports: listeners().filter_map(|it| it.inet).map(|address| address.port()).collect(),
            paths: listeners().filter(|it| it.inet.is_none()).map(|it| it.address.into()).collect(),
        }
    }

    /// The directory that its relative paths begin at.
    fn directory(&self) -> &Path {
        let spec = self.ctx.launcher.specs.get(&self.generation);
        spec.map_or(Path::new("/"), |spec| spec.directory())
    }

    /// An address of ours that its arguments name, or a variable, or a file among its arguments; and
    /// which of them.
    fn address_in_configuration(&self) -> Option<(String, String)> {
        if !self.holds() {
            return None;
        }
        let held = self.held();
        let address = |text: &str| held.in_word(text, self.directory());
        let arguments = &self.ctx.config.worker.command[1..];
        if let Some(address) = arguments.iter().filter_map(|word| word.to_str()).find_map(address) {
            return Some(("an argument of it".into(), address));
        }
        let spec = self.ctx.launcher.specs.get(&self.generation)?;
        let says_where =
            |name: &str| ["PORT", "ADDR", "BIND", "LISTEN", "SOCK"].iter().any(|word| name.contains(word));
        let variables =
            spec.environment().iter().filter_map(|(name, value)| Some((name.to_str()?, value.to_str()?)));
        let mut variables = variables.filter(|(name, _)| says_where(&name.to_uppercase()));
        let variable =
            variables.find_map(|(name, value)| Some((format!("its variable {name}"), address(value)?)));
        variable.or_else(|| {
            let files = spec.files().into_iter().skip(1).map(|(path, _)| path);
            let named = |path: &Path| held.in_text(&text(path)?, self.directory());
            files.filter_map(|path| Some((path.display().to_string(), named(&path)?))).next()
        })
    }

    /// The processes of the workers of other generations.
    fn others(&self) -> impl Iterator<Item = Pid> {
        let other = self.ctx.core.workers().filter(|shown| shown.generation != self.generation);
        let processes = other.filter_map(|shown| self.ctx.processes.process(shown.worker));
        processes.filter(|process| process.lives()).map(|process| process.pid)
    }

    /// The ports on which they listen by themselves.
    fn ports_of_others(&self) -> Vec<u16> {
        let held = self.held().ports;
        let tree = self.others().flat_map(|pid| iter::once(pid).chain(tree::descendants(pid)));
        let ports: BTreeSet<u16> = tree.flat_map(listeners::listen_ports).collect();
        ports.difference(&held).copied().collect()
    }
}

/// The words of an argument that are long enough to tell it from others.
fn parts(argument: &str) -> impl Iterator<Item = &str> {
    let words = argument.split(|c: char| !c.is_alphanumeric() && c != '-');
    words.map(|word| word.trim_matches('-')).filter(|word| word.len() > 3)
}

/// The addresses of our listeners.
struct Held {
    ports: BTreeSet<u16>,
    /// And abstract names, as `@name`.
    paths: Vec<String>,
}

impl Held {
    /// One of them that an argument, or the value of a variable, names.
    fn in_word(&self, text: &str, directory: &Path) -> Option<String> {
        let words = text.split(|c: char| c.is_whitespace() || c == '=');
        let mut ports = words.filter_map(|word| word.rsplit(':').next()?.parse().ok());
        let port = ports.find(|port| self.ports.contains(port));
        port.map(|port| format!("port {port}")).or_else(|| self.path_in(text, directory))
    }

    /// One of them that the text of a file names.
    fn in_text(&self, text: &str, directory: &Path) -> Option<String> {
        let mut ports = text.split(|c: char| !c.is_ascii_alphanumeric()).filter_map(|word| word.parse().ok());
        let port = ports.find(|port| self.ports.contains(port));
        port.map(|port| format!("port {port}")).or_else(|| self.path_in(text, directory))
    }

    fn path_in(&self, text: &str, directory: &Path) -> Option<String> {
        let mut words = text.split(|c: char| c.is_whitespace() || "='\"`,;()[]{}<>".contains(c));
        words.find(|word| self.has_path(word, directory)).map(String::from)
    }

    /// Whether a path, or an abstract name, is one of ours. It may be spelled in another way.
    fn has_path(&self, word: &str, directory: &Path) -> bool {
        let written = word.strip_prefix("unix:").unwrap_or(word);
        let written = written.strip_prefix("//").unwrap_or(written);
        let file = |path: &Path| fs::metadata(path).ok();
        let id = |file: Metadata| (file.dev(), file.ino());
        self.paths.iter().any(|ours| {
            let same_name = || Path::new(written).file_name() == Path::new(ours).file_name();
            let same_file = || {
                let ours = file(Path::new(ours)).map(id);
                ours.is_some() && file(&directory.join(written)).map(id) == ours
            };
            !written.is_empty() && (written == ours || same_name() && same_file())
        })
    }
}

/// The text of a file, if it is one and short enough for a configuration.
fn text(path: &Path) -> Option<String> {
    const LONGEST: u64 = 1 << 20;
    let mut text = String::new();
    let file = fs::metadata(path).ok().filter(|file| file.is_file() && file.len() <= LONGEST);
    file.and_then(|_| File::open(path).ok())?.take(LONGEST).read_to_string(&mut text).ok()?;
    Some(text)
}
