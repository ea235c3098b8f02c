//! The profile of a known server: its options and arguments are put where the user has said nothing.
//!
//! Contract: what the user wrote stays. Arguments are only added, directly behind the program, and never
//! to the script of a shell. Everything that was done is in one line.

use super::applied::Applied;
use super::program::{self, is_wrapper};
use super::signals::signal_by_name;
use super::variables::variables;
use crate::cli::{self, Cli};
use crate::error::Error;
use crate::listener::ListenFds;
use crate::profiles::{self, Addition, Found, Profile, Way, quote};
use std::ffi::{OsStr, OsString};

/// What we were started in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Situation {
    /// Sockets were handed to us (LISTEN_FDS).
    pub sockets: bool,
    /// We are process 1 of a container.
    pub first_process: bool,
    /// Whether an image of ours before this one has left the profile out, because the program is a
    /// script of the shell. None: there was none, and the program is looked at.
    pub left_out: Option<bool>,
}

impl Situation {
    /// That of the process `pid`, which is we ourselves, or whoever asks what we would do.
    pub fn of(pid: u32) -> Situation {
        let [listen_pid, listen_fds, names] =
            ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"].map(std::env::var_os);
        let handed = ListenFds::read(listen_pid.as_deref(), listen_fds.as_deref(), names.as_deref(), pid);
        // What is wrong with them is told when they are opened.
        let sockets = handed.is_ok_and(|handed| handed.count() > 0);
        Situation { sockets, first_process: pid == 1, left_out: None }
    }
}

/// Applies the profile that `--profile` names, or that the command is known by.
///
/// # Errors
/// [`Error::Usage`] for a name that there is not.
pub(super) fn apply(cli: &mut Cli, situation: Situation) -> Result<Option<Applied>, Error> {
    let known = profiles::find(&cli.command);
    let found = match cli.profile.as_deref() {
        Some("none") => return Ok(None),
        Some(name) => Some(forced(name, known, &cli.command)?),
        None => known,
    };
    let Some(Found { profile, at, program }) = found else { return Ok(None) };
    let mut applied = Applied {
        profile,
        at,
        options: Vec::new(),
        environment: Vec::new(),
        added: Vec::new(),
        to_add: Vec::new(),
        where_to_add: match profiles::starts_shell(&cli.command) {
            true => "in its script, which is left as it is",
            false => "behind the name of the server, which is not found in this command",
        },
        warnings: Vec::new(),
        optional: Vec::new(),
        refused: false,
        left_out: None,
    };
    let words: Vec<OsString> = profiles::words_behind(&cli.command).into_iter().map(Into::into).collect();
    let is_module = profiles::is_module(&words, program);
    let looked = || {
        let word = words.get(program).filter(|_| !is_module);
        word.is_some_and(|word| is_wrapper(word, cli.chdir.as_deref(), &cli.env))
    };
    if cli.profile.is_none() && situation.left_out.unwrap_or_else(looked) {
        let word = words.get(program).map(|word| word.to_string_lossy()).unwrap_or_default();
        applied.left_out = Some(format!("{word} is a script of the shell, or busybox"));
        return Ok(Some(applied));
    }
    if known.is_none_or(|known| known.profile != profile) {
        let word = cli.command.first().map(|word| word.to_string_lossy()).unwrap_or_default();
        applied.warnings.push(format!("{word} is not known as {}: it is applied all the same", profile.name));
    }
    // Who insists on adoption has the server bind its own sockets, also at the addresses of -b.
    let insists = matches!(cli.adopt, Some(cli::Adopt::Steer | cli::Adopt::Share));
    let handed = !insists && (situation.sockets || !cli.bind.is_empty() || !cli.export.is_empty());
    let way = match handed {
        true => profile.bind.as_ref(),
        false => profile.bare.as_ref(),
    };
    if handed && profile.own_socket {
        applied.warnings.push("it binds its own sockets and takes none from us: leave -b out".into());
    }
    let follows = cli.follow.is_some();
    if let Some(way) = way {
        options(way, handed, cli, &mut applied);
    }
    if situation.first_process {
        meanings(profile, cli, &mut applied);
    }
    let additions = profile.add.iter().chain(way.into_iter().flat_map(|way| way.add));
    let additions = additions.filter(|it| !(follows && it.not_followed));
    add(additions, at, cli, &mut applied);
    let by_number = way.into_iter().flat_map(|way| way.add).find(|add| add.names_one_descriptor());
    let by_number = by_number.map(|add| add.arguments.join(" ")).filter(|it| applied.has_added(it));
    if let Some(added) = by_number.filter(|_| handed && cli.bind.len() > 1) {
        let others = cli.bind[1..].iter().map(|bind| bind.to_string_lossy());
        let others: Vec<String> =
            others.map(|bind| bind.split(',').next().unwrap_or_default().to_owned()).collect();
        applied.warnings.push(format!(
            "{added} is the socket of the first -b alone: nobody accepts connections at {} (leave the other -b out, or write arguments for each socket)",
            others.join(", ")
        ));
    }
    let arguments = profiles::arguments(&cli.command, at);
    let warnings = profile.warn.iter().filter(|warning| warning.applies(&arguments));
    applied.warnings.extend(warnings.map(|warning| warning.text.to_owned()));
    applied.warnings.extend(program::relative(profile, &cli.command));
    Ok(Some(applied))
}

fn forced(name: &str, known: Option<Found>, command: &[OsString]) -> Result<Found, Error> {
    let profile = profiles::named(name).map_err(Error::Usage)?;
    let known = known.filter(|known| known.profile == profile);
    let at = profiles::arguments_of(command);
    Ok(known.unwrap_or(Found { profile, at, program: at.map_or(0, |at| at - 1) }))
}

/// The options of the way in which the server gets its sockets.
fn options(way: &Way, handed: bool, cli: &mut Cli, applied: &mut Applied) {
    let mut said =
        |option: &str, value: &str| applied.options.push(format!("{option} {value}").trim_end().into());
    let mut set = |target: &mut Option<String>, option: &str, value: &str| {
        if target.is_none() && !value.is_empty() {
            *target = Some(value.into());
            said(option, value);
        }
    };
    // Who has chosen to follow it has chosen how it gets its sockets, and not how it is stopped.
    if cli.follow.is_some() {
        set(&mut cli.stop_signal, "--stop-signal", way.stop_signal);
        return set(&mut cli.stop_timeout, "--stop-timeout", way.stop_timeout);
    }
    if !way.follow.is_empty() && can_follow(cli) {
        set(&mut cli.follow, "--follow", way.follow);
    }
    let follows = cli.follow.is_some();
    let mut export = (handed && cli.export.is_empty()).then(String::new).filter(|_| !way.export.is_empty());
    if export.take().is_some() {
        cli.export = way.export.iter().map(ToString::to_string).collect();
        set(&mut None, "--export", &way.export.join(","));
    }
    if cli.ack.is_empty() && !way.ack.is_empty() {
        cli.ack = way.ack.iter().map(ToString::to_string).collect();
        set(&mut None, "--ack", &way.ack.join(","));
    }
    set(&mut cli.soak, "--soak", way.soak);
    set(&mut cli.stop_signal, "--stop-signal", way.stop_signal);
    set(&mut cli.stop_timeout, "--stop-timeout", way.stop_timeout);
    // Who insists on adoption has the new one beside the old one in mind.
    let insists = matches!(cli.adopt, Some(cli::Adopt::Steer | cli::Adopt::Share));
    if way.stop_first && !cli.stop_first && !follows && !insists {
        cli.stop_first = true;
        applied.options.push("--stop-first".into());
    }
    if !handed && !way.adopt && cli.adopt.is_none() && !follows {
        cli.adopt = Some(cli::Adopt::Never);
        applied.options.push("--adopt=never".into());
    }
    for bind in cli.bind.iter_mut().filter(|_| !way.listener.is_empty()) {
        let chosen =
            bind.to_string_lossy().split(',').skip(1).any(|option| ["block", "nonblock"].contains(&option));
        if !chosen {
            bind.push(format!(",{}", way.listener));
            applied.options.push(format!("-b …,{}", way.listener));
        }
    }
    // The files of --env-file and --env-dir are read at each start: what they set wins then.
    for (name, value) in variables(way, cli) {
        applied.options.push(format!("--env {name}={value}"));
        applied.environment.push((name.into(), value.into()));
    }
}

/// Whether nothing is said that `--follow` cannot go with.
fn can_follow(cli: &Cli) -> bool {
    let plain = cli.workers == 1 && cli.surge == "all" && !cli.stop_first && cli.port.is_empty();
    let plain = plain && cli.worker_watchdog.is_none();
    plain && cli.adopt.is_none() && cli.on_death != cli::OnDeath::Term
}

/// The stop signals of official images, where a container sends them to us.
fn meanings(profile: &Profile, cli: &mut Cli, applied: &mut Applied) {
    for (signal, meaning) in profile.on {
        let same = |change: &String| {
            change.split_once('=').and_then(|(name, _)| signal_by_name(name)) == signal_by_name(signal)
        };
        if !cli.on.iter().any(same) {
            cli.on.insert(0, format!("{signal}={meaning}"));
            applied.options.push(format!("--on {signal}={meaning}"));
        }
    }
}

fn add<'a>(
    additions: impl Iterator<Item = &'a Addition>,
    at: Option<usize>,
    cli: &mut Cli,
    applied: &mut Applied,
) {
    let mut next = at;
    for addition in
        additions.filter(|it| it.is_needed(&profiles::arguments(&cli.command, at))).collect::<Vec<_>>()
    {
        let words = addition.arguments.iter().map(|word| quote(OsStr::new(word)));
        let Some(here) = next else {
            applied.to_add.extend(words);
            continue;
        };
        applied.added.extend(words);
        let here = here.min(cli.command.len());
        let end = here + addition.arguments.len();
        cli.command.splice(here..here, addition.arguments.iter().map(OsString::from));
        if addition.optional {
            applied.optional.push(here..end);
        }
        next = Some(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use clap::Parser;

    /// What the profile does to this command line; also the command that is run.
    fn applied(line: &[&str], situation: Situation) -> (Option<Applied>, Cli) {
        let mut cli = Cli::parse_from(["graceful-run"].iter().chain(line));
        let applied = apply(&mut cli, situation).expect("a profile of that name");
        (applied, cli)
    }

    fn line(arguments: &[&str]) -> String {
        applied(arguments, Situation::default()).0.map(|applied| applied.line()).unwrap_or_default()
    }

    #[test]
    fn what_a_profile_names_exists() {
        for profile in profiles::all() {
            let ways = [&profile.bind, &profile.bare].into_iter().flatten();
            for way in ways {
                for dialect in way.export.iter().chain(profile.dialects) {
                    assert!(Dialect::by_name(dialect).is_some(), "{}: {dialect}", profile.name);
                }
                for signal in [way.stop_signal, way.follow].into_iter().filter(|signal| !signal.is_empty()) {
                    assert!(signal_by_name(signal).is_some(), "{}: {signal}", profile.name);
                }
            }
            for (signal, _) in profile.on {
                assert!(signal_by_name(signal).is_some(), "{}: {signal}", profile.name);
            }
        }
    }

    #[test]
    fn what_is_done_is_one_line() {
        let end = "(--profile none leaves it alone)";
        for (arguments, done) in [
            (
                &["-b", ":1", "--", "nginx"][..],
                "nginx: --export nginx --stop-signal QUIT, adds -g 'daemon off;'",
            ),
            (&["-b", ":1", "--stop-signal", "TERM", "nginx", "-g", "daemon off;"], "nginx: --export nginx"),
            (&["redis-server"], "redis-server: --stop-first"),
            (&["php-fpm8.2", "-D"], "php-fpm: --stop-signal QUIT"),
            (&["-b", ":1", "gunicorn", "app"], "gunicorn: --soak 1s, adds --no-control-socket"),
        ] {
            assert_eq!(line(arguments), format!("profile {done} {end}"), "{arguments:?}");
        }
        assert_eq!(
            line(&["python3", "-m", "http.server"]),
            "profile http.server: there is nothing to change"
        );
        assert_eq!(line(&["./server"]), "");
        let followed = line(&["--follow", "USR2", "nginx"]);
        assert_eq!(followed, format!("profile nginx: --stop-signal QUIT {end}"));
        assert!(!line(&["--worker-watchdog", "10s", "hypnotoad", "app"]).contains("--follow"));
        let ulimit = line(&["sh", "-c", "ulimit -n 65536; exec twistd web"]);
        assert!(ulimit.contains("write -n "), "{ulimit}");
        assert_eq!(line(&["--profile", "none", "nginx"]), "");
        let script = line(&["sh", "-c", "exec haproxy -f h.cfg"]);
        assert!(
            script.contains("--stop-signal USR1, write -db in its script, which is left as it is"),
            "{script}"
        );
    }

    #[test]
    fn arguments_are_added_behind_the_program() {
        for (arguments, command) in [
            (&["nginx", "-c", "n"][..], "nginx -g daemon off; -c n"),
            (&["nginx", "-g", "daemon off;"], "nginx -g daemon off;"),
            (&["env", "A=b", "squid", "-f", "c"], "env A=b squid -N -f c"),
            (&["-b", ":1", "python3", "-m", "uvicorn", "a:b"], "python3 -m uvicorn --fd 3 a:b"),
            (&["--profile", "squid", "./server", "-x"], "./server -N -x"),
            (&["--profile", "squid", "python3", "main.py"], "python3 main.py"),
            (&["--profile", "squid", "sh", "-c", "squid -f c"], "sh -c squid -f c"),
            (&["--adopt=share", "-b", ":1", "uvicorn", "a:b"], "uvicorn a:b"),
            (&["-b", ":1", "python3", "-muvicorn", "a:b"], "python3 -muvicorn --fd 3 a:b"),
            (&["./named", "-c", "n"], "./named -c n"),
        ] {
            let (_, cli) = applied(arguments, Situation::default());
            let words: Vec<_> = cli.command.iter().map(|word| word.to_string_lossy()).collect();
            assert_eq!(words.join(" "), command);
        }
    }

    #[test]
    fn a_word_that_takes_a_warning_back_stands_behind_its_option() {
        for (arguments, is_told) in [
            (&["redis-server", "--daemonize", "yes"][..], true),
            (&["redis-server", "--daemonize", "yes", "--appendonly", "no"], true),
            (&["redis-server", "--daemonize", "no"], false),
            (&["h2o", "-m", "daemon"], true),
            (&["h2o", "--mode=daemon"], true),
            (&["h2o", "-m", "master"], true),
            (&["h2o", "-c", "daemon"], false),
        ] {
            let (applied, _) = applied(arguments, Situation::default());
            let warnings = applied.unwrap().warnings;
            assert_eq!(warnings.len(), usize::from(is_told), "{arguments:?}: {warnings:?}");
        }
    }

    #[test]
    fn a_script_with_the_name_of_a_server_is_left_alone_behind_a_shell_too() {
        let place = tempfile::tempdir().unwrap();
        let script = place.path().join("squid");
        std::fs::write(&script, "#!/bin/sh\nexec /usr/sbin/squid\n").unwrap();
        let program = script.display().to_string();
        let behind = format!("exec {program} -f c");
        for arguments in [&[program.as_str(), "-f", "c"][..], &["env", &program], &["sh", "-c", &behind]] {
            let mut cli = Cli::parse_from(["graceful-run"].iter().chain(arguments));
            let known = profiles::find(&cli.command).map(|found| found.profile.name);
            assert_eq!(known, Some("squid"), "{arguments:?}");
            let applied = apply(&mut cli, Situation::default()).unwrap().unwrap();
            assert_eq!(applied.left_out, Some(format!("{program} is a script of the shell, or busybox")));
        }
    }

    #[test]
    fn a_variable_of_a_profile_is_only_a_default() {
        for (arguments, variables) in [
            (&["nginx"][..], &[("NGINX", "")][..]),
            (&["--clear-env", "--env-file", "f", "nginx"], &[("NGINX", "")]),
            (&["--env", "NGINX=3;", "nginx"], &[]),
            (&["--drop-env", "NGINX", "nginx"], &[]),
            (&["-b", ":1", "nghttpx"], &[("NGHTTPX_ACCEPT_1", "tcp,3")]),
            (&["-b", "unix:/run/x.sock,mode=660", "nghttpx"], &[("NGHTTPX_ACCEPT_1", "unix,3,/run/x.sock")]),
            (&["-b", "./x.sock", "-b", ":1", "nghttpx"], &[("NGHTTPX_ACCEPT_1", "unix,3,./x.sock")]),
        ] {
            let (applied, cli) = applied(arguments, Situation::default());
            let expected: Vec<(OsString, OsString)> =
                variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
            assert_eq!(applied.unwrap().environment, expected, "{arguments:?}");
            assert!(cli.env.iter().all(|pair| pair == "NGINX=3;"), "no --env of ours: {arguments:?}");
        }
    }

    #[test]
    fn what_a_server_refuses_is_left_out() {
        let (applied, mut cli) = applied(&["nginx", "-c", "n"], Situation::default());
        let mut applied = applied.unwrap();
        assert_eq!(applied.leave_out_optional(&mut cli.command), ["-g", "'daemon off;'"]);
        assert_eq!(cli.command, ["nginx", "-c", "n"]);
        assert!(applied.has_left_out() && !applied.has_optional() && applied.added.is_empty());
    }

    #[test]
    fn sockets_that_we_were_given_count_as_those_of_a_bind() {
        let handed = Situation { sockets: true, ..Situation::default() };
        let (applied, cli) = applied(&["unicorn"], handed);
        assert!(applied.unwrap().line().starts_with("profile unicorn: --export unicorn "));
        assert_eq!(cli.export, ["unicorn"]);
    }

    #[test]
    fn the_stop_signals_of_images_are_stops_for_process_1() {
        let first = Situation { first_process: true, ..Situation::default() };
        for (program, on) in [
            ("nginx", "QUIT=stop"),
            ("php-fpm", "QUIT=stop"),
            ("httpd", "WINCH=stop"),
            ("httpd-foreground", "WINCH=stop"),
            ("apache2-foreground", "WINCH=stop"),
            ("haproxy", "USR1=stop"),
            ("postgres", "INT=stop"),
        ] {
            assert_eq!(applied(&[program], first).1.on, [on]);
            assert_eq!(applied(&[program], Situation::default()).1.on, [""; 0]);
        }
        assert_eq!(applied(&["--on", "SIGQUIT=ignore", "nginx"], first).1.on, ["SIGQUIT=ignore"]);
    }

    #[test]
    fn another_program_is_told_of_and_an_unknown_name_refused() {
        let (applied, cli) = applied(&["-b", ":1", "--profile", "nginx", "./server"], Situation::default());
        assert_eq!(applied.unwrap().warnings, ["./server is not known as nginx: it is applied all the same"]);
        assert_eq!(cli.export, ["nginx"]);
        let mut cli = Cli::parse_from(["graceful-run", "--profile", "ngnix", "./server"]);
        let error = apply(&mut cli, Situation::default()).unwrap_err();
        assert!(error.to_string().contains("there is no profile 'ngnix' (the nearest is nginx;"), "{error}");
    }
}
