//! What the user can do about a worker that failed.
//!
//! Contract: a hint is given where there is evidence for it: what the worker wrote to a stderr that
//! is captured, its command line, a known server, the sockets of the workers that serve. Without
//! evidence there is none. Hints that rest on anything else than the worker's own words, and are not
//! certain, say so with an "if".

use super::context::Context;
use super::workers::Workers;
use crate::core::event::{Exit, Generation, Report};
use crate::launch::interpreter::by_env;
use crate::process::{Symptom, symptom};
use crate::profiles;
use crate::sys::file_privileges::file_privileges;
use crate::sys::{listeners, tree};
use nix::unistd::{Pid, geteuid};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::iter;
use std::path::Path;

/// Notes a hint about the worker of this report, which comes before the reports of what follows from
/// its failure.
pub(super) fn on_report(report: &Report, workers: &Workers, ctx: &mut Context) {
    let (id, early) = match *report {
        Report::Gone { stop_sent: true, .. } => return,
        Report::Gone { worker, exit, ready, .. } => (worker, !ready && matches!(exit, Exit::Code(_))),
        Report::NoAck(id, _) | Report::Silent(id, _) => (id, false),
        _ => return,
    };
    let Some(entry) = ctx.processes.get(id) else { return };
    let (generation, unbound) = (entry.generation, entry.unbound.clone());
    let words = workers.last_words(id);
    let symptom = symptom(&words);
    // Some say it on stdout (apache2).
    let failure = Failed { generation, early, silent: words.is_empty(), unbound, ctx };
    let not_found = matches!(*report, Report::Gone { exit: Exit::Code(127), .. });
    let hint = failure.interpreter().filter(|_| not_found).or_else(|| failure.hint(symptom.as_ref()));
    if let Some(entry) = ctx.processes.get_mut(id) {
        (entry.symptom, entry.hint) = (symptom, hint);
    }
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
            Some(Symptom::AddressInUse(ports)) => self.address_in_use(ports),
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

    /// It has said nothing that we could read.
    fn without_words(&self) -> Option<String> {
        let profile = profiles::find_profile(&self.program());
        let config = &self.ctx.config;
        if self.holds()
            && let Some(sockets) = profile.and_then(|profile| profile.socket_hint(&config.dialects))
        {
            return Some(sockets);
        }
        if let Some(lost) = self.lost_privileges() {
            return Some(lost);
        }
        if let Some(port) = self.ports_of_others().first().filter(|_| !self.is_adopted()) {
            return Some(format!("if its address is in use: {}", self.bound_by_others(*port)));
        }
        if let Some((what, port)) = self.port_in_configuration().filter(|_| profile.is_none()) {
            return Some(format!(
                "{what} names port {port}, which -b holds: if it binds that itself, leave -b out and say --adopt; if it can take the socket, see --export"
            ));
        }
        let only_one = profile.and_then(|profile| profile.only_one).and_then(|_| self.only_one());
        only_one.map(|only_one| format!("if it runs already: {only_one}"))
    }

    fn address_in_use(&self, ports: &[u16]) -> Option<String> {
        if self.is_adopted() {
            return self.finds_the_other();
        }
        let others = self.ports_of_others();
        if let Some(port) = others.iter().find(|port| ports.is_empty() || ports.contains(port)) {
            return Some(self.bound_by_others(*port));
        }
        let held = self.held_ports();
        match ports.first() {
            Some(port) if !ports.iter().any(|port| held.contains(port)) => {
                Some(format!("ss -ltnp 'sport = :{port}' shows who has its address"))
            }
            _ if !self.holds() => None,
            _ => {
                let profile = profiles::find_profile(&self.program());
                let known = profile.and_then(|profile| profile.socket_hint(&self.ctx.config.dialects));
                Some(known.unwrap_or_else(|| {
                    "it binds its address itself, and -b holds that: leave -b out and say --adopt; or, if it can take the socket, keep -b and see --export".into()
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
        let next = match self.holds() {
            true => "give it that socket with -b too, or leave -b out and say --adopt",
            false => "say --adopt, or give it its sockets with -b and --export",
        };
        format!("the worker that serves has bound port {port} itself, so a second one cannot: {next}")
    }

    /// There can be one of it only: what that is has to belong to one generation.
    fn only_one(&self) -> Option<String> {
        let beside = self.others().next().is_some();
        if !beside || self.ctx.config.policy.stop_first {
            return None;
        }
        let profile = profiles::find_profile(&self.program());
        Some(match profile.and_then(|profile| Some((profile.name, profile.only_one?))) {
            Some((name, what)) => format!(
                "each generation of {name} needs {what} of its own: write $GRACEFUL_RUN_GENERATION in its path, and let a shell expand it (sh -c 'exec …'); or say --stop-first"
            ),
            None => "the worker that serves has the pid file, lock or directory that it wants: write $GRACEFUL_RUN_GENERATION in its path, and let a shell expand it (sh -c 'exec …'); where there can be only one (a database), say --stop-first".into(),
        })
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

    fn program(&self) -> String {
        profiles::program(&self.ctx.config.worker.command)
    }

    fn is_adopted(&self) -> bool {
        self.ctx.config.adopt.is_some() || self.ctx.config.follow.is_some()
    }

    /// Whether workers are given sockets of ours.
    fn holds(&self) -> bool {
        !self.ctx.launcher.settings.listeners.is_empty() && !self.is_adopted()
    }

    fn held_ports(&self) -> BTreeSet<u16> {
        let listeners = self.ctx.launcher.settings.listeners.iter();
        listeners.filter_map(|listener| listener.exported().inet).map(|address| address.port()).collect()
    }

    /// A port of ours that its arguments name, or a variable, or a file among its arguments; and
    /// which of them.
    fn port_in_configuration(&self) -> Option<(String, u16)> {
        if !self.holds() {
            return None;
        }
        let held = self.held_ports();
        let port = |text: &str| {
            let words = text.split(|c: char| c.is_whitespace() || c == '=');
            let mut ports = words.filter_map(|word| word.rsplit(':').next()?.parse().ok());
            ports.find(|port| held.contains(port))
        };
        let arguments = &self.ctx.config.worker.command[1..];
        if let Some(port) = arguments.iter().filter_map(|word| word.to_str()).find_map(port) {
            return Some(("an argument of it".into(), port));
        }
        let spec = self.ctx.launcher.specs.get(&self.generation)?;
        let says_where =
            |name: &str| ["PORT", "ADDR", "BIND", "LISTEN"].iter().any(|word| name.contains(word));
        let variables =
            spec.environment().iter().filter_map(|(name, value)| Some((name.to_str()?, value.to_str()?)));
        let mut variables = variables.filter(|(name, _)| says_where(&name.to_uppercase()));
        let variable =
            variables.find_map(|(name, value)| Some((format!("its variable {name}"), port(value)?)));
        variable.or_else(|| {
            let files = spec.files().into_iter().skip(1).map(|(path, _)| path);
            files.filter_map(|path| Some((path.display().to_string(), port_in_file(&path, &held)?))).next()
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
        let held = self.held_ports();
        let tree = self.others().flat_map(|pid| iter::once(pid).chain(tree::descendants(pid)));
        let ports: BTreeSet<u16> = tree.flat_map(listeners::listen_ports).collect();
        ports.difference(&held).copied().collect()
    }
}

/// One of these ports, if a text file has it as a number.
fn port_in_file(path: &Path, ports: &BTreeSet<u16>) -> Option<u16> {
    const LONGEST: u64 = 1 << 20;
    let mut text = String::new();
    let file = fs::metadata(path).ok().filter(|file| file.is_file() && file.len() <= LONGEST);
    file.and_then(|_| File::open(path).ok())?.take(LONGEST).read_to_string(&mut text).ok()?;
    let mut numbers = text.split(|c: char| !c.is_ascii_alphanumeric()).filter_map(|word| word.parse().ok());
    numbers.find(|number| ports.contains(number))
}
