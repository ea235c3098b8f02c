//! The configuration: checks the arguments and what they mean together. Nothing is bound, started
//! or written here, so every error is one of usage.

mod adopt;
mod applied;
mod canary;
mod control;
pub(crate) mod hooks;
mod profile;
mod program;
pub(crate) mod readiness;
pub mod signals;
mod stopping;
mod value;
mod variables;

use crate::ack::Acks;
use crate::cli::{self, Cli};
use crate::core::policy::{OnAckTimeout, Policy, Restart};
use crate::dialect::{Dialect, check};
use crate::error::Error;
use crate::listener::Bind;
use crate::profiles::Profile;
use hooks::{Hooks, Occasion};
use nix::sys::signal::Signal;
use signals::Table;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;
use stopping::{PARENT_TERM_STOP_TIMEOUT, stop_signal, stop_timeouts};
use value::{duration, invalid, surge, variable};

pub use adopt::Adopt;
pub use applied::Applied;
pub use control::{Control, is_name};
pub use profile::Situation;
pub use value::{duration_text, timeout, weight, weight_text};

/// The default of `--soak`.
const SOAK: &str = "500ms";
/// The default of `--ack-timeout`.
const ACK_TIMEOUT: &str = "30s";
/// The shortest `--worker-watchdog`: with a shorter one, a busy worker would often miss it.
const SHORTEST_WATCHDOG: Duration = Duration::from_millis(100);

/// The subcommands.
const SUBCOMMANDS: [&str; 4] = ["ctl", "here", "doctor", "profiles"];

/// The configuration of a supervisor.
#[derive(Debug, Clone)]
pub struct Config {
    /// The policy of the core.
    pub policy: Policy,
    /// The sockets to bind, in order.
    pub binds: Vec<Bind>,
    /// How a worker is started.
    pub worker: Worker,
    /// The ack channels that a worker is given.
    pub acks: Acks,
    /// The dialects in which listeners are passed.
    pub dialects: Vec<Dialect>,
    /// The signal that asks a worker to stop.
    pub stop_signal: Signal,
    /// Whether the user or a dialect has chosen it.
    pub stop_signal_chosen: bool,
    /// `--adopt`: how sockets that workers bind themselves are adopted.
    pub adopt: Option<Adopt>,
    /// `--follow`: the signal that asks a worker to start its own successor.
    pub follow: Option<Signal>,
    /// The meanings of the signals that we get.
    pub signals: Table,
    /// The paths whose change causes an upgrade.
    pub watch: Vec<PathBuf>,
    /// The pid file.
    pub pid_file: Option<PathBuf>,
    /// The control socket and the name.
    pub control: Control,
    /// The user's hooks.
    pub hooks: Hooks,
    /// The server that the command is known as, or that `--profile` names; also where its profile is not
    /// applied to a script of that name: hints come from it, and nothing else.
    pub server: Option<&'static Profile>,
    /// What its profile has changed.
    pub applied: Option<Applied>,
    /// The same without adoption, for a machine that forbids it.
    pub unadopted: Option<Box<Config>>,
    /// It is that, because adoption is forbidden here.
    pub unadoptable: bool,
}

/// How a worker is started.
#[derive(Debug, Clone)]
pub struct Worker {
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// The directory, as it was written.
    pub chdir: Option<PathBuf>,
    /// The sources of its environment.
    pub environment: Environment,
    /// The user that it runs as.
    pub user: Option<String>,
    /// Its umask.
    pub umask: Option<u32>,
    /// Whether it may not gain privileges by execve(2) (no_new_privs).
    pub no_new_privs: bool,
    /// Descriptors of ours that it is given.
    pub pass_fds: Vec<i32>,
    /// Whether it shares our process group.
    pub foreground_tty: bool,
    /// Whether the kernel sends it TERM when we die.
    pub dies_with_us: bool,
    /// Whether its stderr is a pipe of ours.
    pub capture_stderr: bool,
}

/// The sources of a worker's environment, in the order in which they are applied.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// Variables of a profile, for those that none of the others sets or drops.
    pub defaults: Vec<(OsString, OsString)>,
    /// Whether our own environment is left out.
    pub clear: bool,
    /// Variables of ours that are left out.
    pub drop: Vec<OsString>,
    /// Files of K=V lines.
    pub files: Vec<PathBuf>,
    /// Directories with one file for each variable.
    pub dirs: Vec<PathBuf>,
    /// Variables from the command line.
    pub set: Vec<(OsString, OsString)>,
}

impl Config {
    /// Checks `cli`, after the profile of a known server was applied. `separated` says that COMMAND came
    /// after `--`; `ignored` says which signals were ignored when we were started.
    ///
    /// # Errors
    /// [`Error::Usage`], naming the argument.
    pub fn new(
        mut cli: Cli,
        separated: bool,
        situation: Situation,
        ignored: &dyn Fn(i32) -> bool,
    ) -> Result<Config, Error> {
        check_command(&cli, separated)?;
        let applied = profile::apply(&mut cli, situation)?;
        let unadopted = unadopted(&cli);
        let config = Config::checked(cli, situation, applied.as_ref(), ignored)?;
        let is_auto = config.adopt.as_ref().is_some_and(|adopt| adopt.auto);
        let unadopted =
            is_auto.then(|| Config::checked(unadopted, situation, applied.as_ref(), ignored)).transpose()?;
        let unadopted = unadopted.map(|config| Box::new(Config { applied: applied.clone(), ..config }));
        let mut config = Config { applied, unadopted, ..config };
        let optional = config.applied.as_ref().is_some_and(Applied::has_optional);
        config.policy.second_start = optional && config.policy.restart != Restart::Never;
        if let Some(unadopted) = &mut config.unadopted {
            unadopted.policy.second_start = config.policy.second_start;
        }
        Ok(config)
    }

    /// The same without adoption, if nobody has asked for it.
    pub fn without_adoption(self) -> Config {
        match self.unadopted {
            Some(unadopted) => Config { unadoptable: true, ..*unadopted },
            None => self,
        }
    }

    /// Leaves out the arguments that the profile has added and the server can do without. Returns them.
    pub fn leave_out_optional(&mut self) -> Vec<String> {
        self.policy.second_start = false;
        let command = &mut self.worker.command;
        self.applied.as_mut().map(|applied| applied.leave_out_optional(command)).unwrap_or_default()
    }

    fn checked(
        mut cli: Cli,
        situation: Situation,
        applied: Option<&Applied>,
        ignored: &dyn Fn(i32) -> bool,
    ) -> Result<Config, Error> {
        let (adopt, policy_of_adopt) = adopt::adopt(&cli, situation.sockets, applied)?.unzip();
        let dialects = match cli.export.is_empty() {
            // With --adopt the program binds its own sockets, and is given none.
            true if adopt.is_some() => Vec::new(),
            true => vec![Dialect::ListenFds],
            false => check::dialects(&cli.export.join(","))
                .map_err(|why| invalid("--export", &cli.export.join(","), &why))?,
        };
        let mut binds = cli.bind.iter().map(|text| bind(text)).collect::<Result<Vec<Bind>, Error>>()?;
        if dialects.iter().any(|dialect| dialect.nonblock()) {
            binds.iter_mut().for_each(|bind| {
                bind.options.nonblock.get_or_insert(true);
            });
        }
        let several = binds.iter().any(|bind| bind.options.reuseport) && cli.workers > 1;
        if several && cli.restart != cli::Restart::Always {
            return Err(Error::Usage(
                "reuseport with several workers needs --restart always: nobody would serve the queue of a slot that stays empty".into(),
            ));
        }
        if let Some(user) =
            cli.user.as_deref().filter(|user| user.starts_with(':') || user.ends_with(':') || user.is_empty())
        {
            return Err(invalid("--user", user, "not of the form USER or USER:GROUP"));
        }
        let is_bad = |name: &&OsString| name.is_empty() || name.as_bytes().contains(&b'=');
        if let Some(name) = cli.drop_env.iter().find(is_bad) {
            return Err(invalid("--drop-env", &name.to_string_lossy(), "not the name of a variable"));
        }
        let follow = follow(&cli)?;
        let control = control::control(&mut cli)?;
        let canary = canary::canary(&cli, adopt.as_ref(), follow.is_some(), &binds)?;
        let hooks = Hooks::new(&cli.hook, &cli.hook_timeout, cli.canary.verify)?;
        let (acks, readiness) = readiness::readiness(cli.ack, &dialects, adopt.is_some())?;
        let (stop_timeout, parent_term_stop_timeout) = match (cli.stop_timeout, follow) {
            // Any server may be followed, and grace is one of them.
            (None, Some(_)) => (Some(PARENT_TERM_STOP_TIMEOUT), Some(PARENT_TERM_STOP_TIMEOUT)),
            (given, _) => stop_timeouts(given, &dialects)?,
        };
        let stop_signal = stop_signal(cli.stop_signal.as_deref(), &dialects)?;
        let environment = Environment {
            defaults: applied.map(|applied| applied.environment.clone()).unwrap_or_default(),
            clear: cli.clear_env,
            drop: cli.drop_env,
            files: cli.env_file,
            dirs: cli.env_dir,
            set: cli.env.iter().map(|pair| variable(pair)).collect::<Result<_, Error>>()?,
        };
        Ok(Config {
            policy: Policy {
                workers: cli.workers,
                least_workers: 1,
                readiness,
                ack_timeout: timeout("--ack-timeout", cli.ack_timeout.as_deref().unwrap_or(ACK_TIMEOUT))?,
                ack_timeout_grows: cli.ack_timeout.is_none(),
                on_ack_timeout: match cli.on_ack_timeout {
                    Some(cli::OnAckTimeout::Abort) => Some(OnAckTimeout::Abort),
                    Some(cli::OnAckTimeout::Proceed) => Some(OnAckTimeout::Proceed),
                    // A worker that does not listen could not be replaced without lost connections.
                    None => adopt.as_ref().map(|_| OnAckTimeout::Abort),
                },
                soak: duration("--soak", cli.soak.as_deref().unwrap_or(SOAK))?,
                surge: surge(&cli.surge)?,
                stop_first: cli.stop_first,
                follow: follow.is_some(),
                adopt: policy_of_adopt,
                stop_timeout,
                parent_term_stop_timeout,
                max_draining: cli.max_draining,
                restart: match cli.restart {
                    cli::Restart::Always => Restart::Always,
                    cli::Restart::OnFailure => Restart::OnFailure,
                    cli::Restart::Never => Restart::Never,
                },
                stable: duration("--stable", &cli.stable)?,
                retry_start: cli.retry_start,
                // Set once the profile is applied.
                second_start: false,
                pre_upgrade: hooks.has(Occasion::PreUpgrade),
                pre_stop: hooks.has(Occasion::PreStop),
                probation: timeout("--probation", &cli.probation)?,
                // Set once the listeners are open.
                listeners: false,
                weighs: false,
                canary: canary.policy,
                verify: canary.verify,
                worker_watchdog: watchdog(cli.worker_watchdog.as_deref(), follow.is_some(), &acks)?,
            },
            binds,
            worker: Worker {
                command: cli.command,
                chdir: cli.chdir,
                environment,
                user: cli.user,
                umask: cli.umask.as_deref().map(umask).transpose()?,
                no_new_privs: cli.no_new_privs,
                pass_fds: cli.pass_fd,
                foreground_tty: cli.foreground_tty,
                dies_with_us: cli.on_death == cli::OnDeath::Term,
                capture_stderr: cli.capture_stderr,
            },
            acks,
            stop_signal: stop_signal.unwrap_or(Signal::SIGTERM),
            stop_signal_chosen: stop_signal.is_some(),
            adopt,
            follow,
            dialects,
            signals: Table::new(&cli.on, ignored)?,
            watch: cli.watch,
            pid_file: cli.pid_file,
            control,
            hooks,
            server: applied.map(|applied| applied.profile),
            applied: None,
            unadopted: None,
            unadoptable: false,
        })
    }
}

/// The same command line without adoption, and without what only that has.
fn unadopted(cli: &Cli) -> Cli {
    let kinds = |ack: &String| -> String {
        let kinds = ack.split(',').map(|kind| if kind == "listen" { "auto" } else { kind });
        kinds.collect::<Vec<_>>().join(",")
    };
    let ack = cli.ack.iter().map(kinds).collect();
    let mut cli = cli.clone();
    // A weight needs sockets for each generation.
    cli.canary.canary = cli.canary.canary.map(|text| text.split(',').take(1).collect());
    Cli { adopt: Some(cli::Adopt::Never), port: Vec::new(), ack, ..cli }
}

/// COMMAND is a program, and no subcommand of ours.
fn check_command(cli: &Cli, separated: bool) -> Result<(), Error> {
    let first = cli.command.first().map(OsString::as_os_str).unwrap_or_default();
    if !separated && SUBCOMMANDS.iter().any(|word| first == *word) {
        let word = first.to_string_lossy();
        let form = match &*word {
            "here" => "here -- CMD",
            "ctl" => "ctl VERB",
            "profiles" => "profiles [NAME]",
            _ => "doctor",
        };
        return Err(Error::Usage(format!(
            "'{word}' takes none of our options (write graceful-run {form}; to run a program of that name, write '-- {word}')"
        )));
    }
    if first.is_empty() {
        return Err(Error::Usage("COMMAND is empty".into()));
    }
    Ok(())
}

/// `--follow`: one program binds its own sockets, and passes them to its successor itself.
fn follow(cli: &Cli) -> Result<Option<Signal>, Error> {
    let Some(name) = &cli.follow else { return Ok(None) };
    let against = [
        (!cli.bind.is_empty(), "--bind", "the program binds its own sockets"),
        (!cli.export.is_empty(), "--export", "no socket is handed over"),
        (cli.workers > 1, "--workers", "several would bind the same addresses"),
        (cli.surge != "all", "--surge", "there is one slot"),
        (cli.stop_first, "--stop-first", "the old worker has to live to start the new one"),
        (
            cli.on_death == cli::OnDeath::Term,
            "--on-death term",
            "the kernel would tell the first worker alone",
        ),
    ];
    if let Some((_, option, why)) = against.iter().find(|(given, ..)| *given) {
        return Err(Error::Usage(format!("--follow cannot go with {option}: {why}")));
    }
    match signals::signal_by_name(name) {
        Some(signal) if !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP) => Ok(Some(signal)),
        _ => Err(invalid("--follow", name, "no signal that a program can act on (write USR2 or HUP)")),
    }
}

fn bind(text: &OsStr) -> Result<Bind, Error> {
    let utf8 = text.to_str();
    utf8.ok_or_else(|| invalid("--bind", &text.to_string_lossy(), "it is not UTF-8"))?.parse()
}

/// How long a worker may send no watchdog ping, which needs NOTIFY_SOCKET.
fn watchdog(given: Option<&str>, follow: bool, acks: &Acks) -> Result<Option<Duration>, Error> {
    const OPTION: &str = "--worker-watchdog";
    let Some(text) = given else { return Ok(None) };
    let every = duration(OPTION, text)?;
    match every {
        _ if follow => {
            Err(Error::Usage(format!("{OPTION} cannot go with --follow: successors have no NOTIFY_SOCKET")))
        }
        _ if !acks.notify => {
            Err(Error::Usage(format!("{OPTION} needs NOTIFY_SOCKET (--ack notify, or auto)")))
        }
        _ if every < SHORTEST_WATCHDOG => Err(invalid(OPTION, text, "shorter than 100 ms")),
        _ => Ok(Some(every)),
    }
}

fn umask(text: &str) -> Result<u32, Error> {
    match u32::from_str_radix(text, 8) {
        Ok(mask) if mask <= 0o777 && text.starts_with(|c: char| c.is_ascii_digit()) => Ok(mask),
        _ => Err(invalid("--umask", text, "not an octal number from 0 to 777")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn refused(arguments: &[&str]) -> String {
        let words = ["graceful-run"].iter().chain(arguments).chain(&["--", "server"]);
        let error = Config::new(Cli::parse_from(words), true, Situation::default(), &|_| false).unwrap_err();
        assert_eq!(error.status(), 2);
        error.to_string()
    }

    #[test]
    fn a_slot_that_can_stay_empty_has_no_socket_of_its_own() {
        let some = ["-b", ":1,reuseport", "-n", "2", "--restart", "on-failure"];
        assert!(refused(&some).contains("needs --restart always"));
    }

    #[test]
    fn follow_says_what_it_cannot_go_with() {
        for (arguments, why) in [
            (&["-b", ":1"][..], "--bind"),
            (&["--export", "stdin"], "--export"),
            (&["-n", "2"], "--workers"),
            (&["--surge", "1"], "--surge"),
            (&["--stop-first"], "--stop-first"),
            (&["--on-death", "term"], "--on-death term"),
        ] {
            let line = refused(&[&["--follow", "USR2"], arguments].concat());
            assert!(line.contains(&format!("--follow cannot go with {why}: ")), "{line}");
        }
        for wrong in ["", "NONE", "KILL", "STOP"] {
            assert!(refused(&["--follow", wrong]).contains("for '--follow'"));
        }
    }

    #[test]
    fn names_that_are_none_are_refused() {
        for (option, value) in
            [("--user", ""), ("--user", "nobody:"), ("--drop-env", ""), ("--drop-env", "A=B")]
        {
            assert!(refused(&[option, value]).contains(&format!("'{value}' for '{option}'")));
        }
    }

    #[test]
    fn durations_need_a_unit_and_an_end() {
        assert_eq!(duration("--soak", "1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(timeout("--stop-timeout", "0"), Ok(None));
        for wrong in ["", "5x", "-1s", "1e20", "5", "99999999999y", "s"] {
            let error = duration("--soak", wrong).unwrap_err();
            assert_eq!(error.status(), 2, "{wrong}");
            assert!(error.to_string().contains(&format!("'{wrong}' for '--soak'")), "{error}");
        }
    }
}
