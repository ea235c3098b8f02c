//! The flags. Their doc comments are `--help` and the OPTIONS of the man page;
//! what they mean together is decided in [`config`](crate::config).

pub mod ctl;
pub mod doctor;

use clap::{ArgAction, Parser, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

/// Wrap any server, in any language, and restart it without a dropped request
///
/// graceful-run binds the sockets, runs COMMAND with the sockets handed over
/// (LISTEN_FDS, from descriptor 3 on) and, on SIGUSR2 or SIGHUP, starts a
/// replacement, waits until it is ready, and only then asks the old one to stop.
/// A replacement that fails is undone: the old worker never got a signal. The
/// process id of graceful-run never changes.
#[derive(Debug, Parser)]
#[command(
    name = "graceful-run",
    version,
    override_usage = "graceful-run [OPTIONS] [-b BIND]... [--] COMMAND [ARG]...",
    after_help = EXAMPLES,
    after_long_help = EXAMPLES,
    max_term_width = 100,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// Socket to hold and hand over: [NAME=]ADDRESS[,OPTION]...
    ///
    /// Repeatable; the order is the order of descriptors, from 3 on. ADDRESS is
    /// `:5001` or `5001` (all addresses, IPv6 and IPv4), `127.0.0.1:5001`,
    /// `[::1]:5001`, `localhost:5001`, `*:5001` (IPv4 only), `tcp://ADDR`,
    /// `udp://ADDR`, `unix:/run/app.sock` (also `unix-dgram:`, `unix-seqpacket:`,
    /// a path with a slash), `@name` (abstract), or `fd://N` (a socket that we were started
    /// with). Port 0 lets the kernel choose. OPTION is `backlog=N`, `reuseport`,
    /// `v6only`, `nonblock`, `block`, `mode=0660`, `user=`, `group=`, `freebind`,
    /// `defer-accept=SECS`, `fastopen=N`, `rcvbuf=BYTES`, `sndbuf=BYTES` or
    /// `nodelay`. NAME goes to LISTEN_FDNAMES (default: socket0, socket1, ...).
    /// O_NONBLOCK is shared by all generations: `nonblock` and `block` keep it as
    /// they say; with neither a socket begins blocking and is left to the workers.
    #[arg(short, long = "bind", value_name = "BIND", help_heading = "Sockets")]
    pub bind: Vec<OsString>,

    /// Number of workers, each in a slot 0..N-1
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1, help_heading = "Worker",
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub workers: u32,

    /// How the listeners are handed over; several at once with commas [default: listen-fds]
    ///
    /// `listen-fds`: LISTEN_FDS, as systemd does (most servers, facebookgo/grace,
    /// listenfd). `einhorn`: einhorn's workers, baseplate. `server-starter`:
    /// Server::Starter's Starlet, Starman, h2o. `nginx`, `unicorn`, `gunicorn`,
    /// `php-fpm`, `puma`: what these servers hand to their own successors.
    /// `endless`, `overseer`, `goagain`, `tableflip`: the Go libraries of these
    /// names. `ecdysis`, `shellflip`: the Rust libraries. `crank`: crank's
    /// workers. `listener-json`: programs that read LISTENER={"addr":...,"fd":3}.
    /// `stdin`: the listener is descriptor 0, as inetd and supervisord have it. A
    /// dialect brings its own ack and the stop signal and stop timeout that its
    /// programs need.
    #[arg(long, value_name = "DIALECT,...", help_heading = "Worker")]
    pub export: Vec<String>,

    /// Directory of the worker, looked up anew at every start [default: $PWD]
    #[arg(short = 'C', long, value_name = "DIR", help_heading = "Worker")]
    pub chdir: Option<PathBuf>,

    /// Set a variable for the worker; repeatable, the last word on it
    #[arg(short = 'E', long, value_name = "K=V", help_heading = "Worker")]
    pub env: Vec<OsString>,

    /// Read variables from a file of K=V lines, anew at every start; repeatable
    ///
    /// Empty lines and lines that begin with # are passed over, and so is the word
    /// `export` before K; quotes around a
    /// whole value are taken off; nothing is expanded.
    #[arg(long, value_name = "FILE", help_heading = "Worker")]
    pub env_file: Vec<PathBuf>,

    /// Read variables from a directory, one file each, anew at every start; repeatable
    ///
    /// As envdir does: the name of the file is the variable, its first line the
    /// value; an empty file removes the variable.
    #[arg(long, value_name = "DIR", help_heading = "Worker")]
    pub env_dir: Vec<PathBuf>,

    /// Start the worker's environment from nothing
    #[arg(long, help_heading = "Worker")]
    pub clear_env: bool,

    /// Do not pass this variable of ours on; repeatable
    #[arg(long, value_name = "K", help_heading = "Worker")]
    pub drop_env: Vec<OsString>,

    /// Run the worker as this user and group, by name or number
    #[arg(long, value_name = "USER[:GROUP]", help_heading = "Worker")]
    pub user: Option<String>,

    /// Umask of the worker, octal [default: ours]
    #[arg(long, value_name = "MASK", help_heading = "Worker")]
    pub umask: Option<String>,

    /// The worker and its children can gain no privilege by executing
    #[arg(long, help_heading = "Worker")]
    pub no_new_privs: bool,

    /// Pass on this descriptor too, under its own number; repeatable
    #[arg(long, value_name = "N", help_heading = "Worker", value_parser = clap::value_parser!(i32).range(0..65536))]
    pub pass_fd: Vec<i32>,

    /// Keep the worker in the terminal's foreground group, to debug it there
    ///
    /// Ctrl-C then reaches the worker from the terminal, and is taken for its
    /// stop signal.
    #[arg(long, help_heading = "Worker")]
    pub foreground_tty: bool,

    /// Keep the last 20 lines of each worker's stderr, to tell them when it fails
    ///
    /// Its stderr is then a pipe of ours, copied to our own stderr: it is no
    /// terminal, and workers that outlive us (kill -9) get SIGPIPE when they write.
    #[arg(long, help_heading = "Worker")]
    pub capture_stderr: bool,

    /// What becomes of the workers if we are killed with -9
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = OnDeath::Keep, help_heading = "Worker")]
    pub on_death: OnDeath,

    /// What makes a worker ready; the first of several counts [default: auto, or the dialect's own]
    ///
    /// `notify`: READY=1 on NOTIFY_SOCKET. `fd` or `fd:N`: a newline on the
    /// descriptor in READY_FD. `einhorn`: worker:ack on EINHORN_SOCK_PATH or
    /// EINHORN_SOCK_FD. `parent-term`: it sends TERM to us, its parent, as servers
    /// built on grace and endless do. `goagain`, `crank`, `tableflip`, `ecdysis`,
    /// `shellflip`: the word of that dialect. `accepting`: it is seen waiting for connections on
    /// every listener. `exec:CMD`: CMD, run by sh with the worker's environment,
    /// exits 0; it takes the rest of the value, so it comes last. `listen`: with --adopt, it listens on
    /// every address that the generation before it had, and is alive 250 ms later; whatever else
    /// is named counts only once it listens there. `timer:DUR`: it has lived that long. `auto`:
    /// the strongest of these that the program is known to do: one that it says
    /// itself; accepting (with --adopt: listen) while no generation has given one of those; 10 s of life
    /// while nothing at all is known, 2 s where there are no listeners (not with --adopt). Where the
    /// workers that serve are seen accepting when an upgrade begins, their replacements have to be as
    /// well, whatever they say.
    #[arg(long, value_name = "KIND,...", help_heading = "Readiness")]
    pub ack: Vec<String>,

    /// How long a worker may take to become ready; 0 is for ever [default: 30s]
    ///
    /// Unless it is given, a worker has twice the time that the one before it took, if that is more.
    #[arg(long, value_name = "DUR", help_heading = "Readiness")]
    pub ack_timeout: Option<String>,

    /// What a worker is that has not become ready in time [default: abort where an ack is expected]
    ///
    /// `abort`: it has failed. `proceed`: it counts as ready. An ack is expected
    /// if --ack names a kind, or once a generation has given one.
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "Readiness")]
    pub on_ack_timeout: Option<OnAckTimeout>,

    /// How long a new generation must live after its ack before the old one is asked to stop [default: 500ms]
    ///
    /// One that does not say itself that it is ready also lives for as long as the one before it took
    /// from its start until it was seen accepting. 1.5 s at least where only the timer of `--ack auto`
    /// has spoken. Make it longer than
    /// --worker-watchdog where a replacement that never says WATCHDOG=1 is to be refused. Unless it
    /// is given, a worker that is ready by `listen` needs none: it has lived for 250 ms by then.
    #[arg(long, value_name = "DUR", help_heading = "Upgrade")]
    pub soak: Option<String>,

    /// How long a new generation is on probation once it serves; 0 is not at all
    ///
    /// If its workers end by themselves three times in that time, the generation before is started
    /// again, from what that was started from: the same directory, environment, and arguments, where
    /// symbolic links lead to where they led. Time in which a worker that has ended is not yet replaced
    /// does not count. What --watch sees does not bring the same files back.
    #[arg(long, value_name = "DUR", default_value = "60s", help_heading = "Upgrade")]
    pub probation: String,

    /// Replace this many slots at a time instead of all together
    ///
    /// Bounds memory. A failure then stops there: the slots not yet replaced keep
    /// their old workers, those that were keep their new ones. Put the old program back
    /// and upgrade once more.
    #[arg(long, value_name = "K", default_value = "all", help_heading = "Upgrade")]
    pub surge: String,

    /// Stop the old worker before the new one starts
    ///
    /// For programs that own something single (a database directory, a lock).
    /// Connections wait in the backlog meanwhile. If the new worker fails, the
    /// old command is started again.
    #[arg(long, help_heading = "Upgrade")]
    pub stop_first: bool,

    /// Have the program start its own successor: an upgrade sends it SIG
    ///
    /// For servers that restart themselves (grace, endless, tableflip, ecdysis,
    /// nginx, unicorn, gunicorn). We bind nothing; a descendant that takes the
    /// listeners over is the worker from then on. Not with --bind, --export, --surge,
    /// --stop-first, --on-death term or several workers.
    #[arg(long, value_name = "SIG", help_heading = "Upgrade")]
    pub follow: Option<String>,

    /// Wrap a server that knows nothing of inherited sockets [default MODE: steer]
    ///
    /// No -b, no change to the server: it binds its own addresses, we see it do so, and
    /// at an upgrade the new one binds them too. `steer`: each generation has its own
    /// sockets; new connections go to the new one at one moment, the old one serves what it has
    /// accepted, and is asked to stop when it has drained. `share`: the worker's own socket is replaced
    /// by one that all generations share: with -b, which it must bind exactly; it loses what it
    /// has accepted when it is asked to stop, unless it finishes that itself. UDP is always shared. Multipath TCP is
    /// refused as by a kernel without it: who falls back takes plain TCP. `graceful-run doctor` says whether this
    /// machine allows all that. Not with --export, --follow, --surge or several workers.
    #[arg(long, value_enum, value_name = "MODE", num_args = 0..=1, require_equals = true,
          default_missing_value = "steer", help_heading = "Adopt")]
    pub adopt: Option<Adopt>,

    /// Adopt only this port of the worker's; repeatable [default: every port that it binds]
    #[arg(long, value_name = "PORT", requires = "adopt", help_heading = "Adopt",
          value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Vec<u16>,

    /// How long an old worker may serve what it has before it is asked to stop all the same; 0 is for ever
    #[arg(long, value_name = "DUR", default_value = "30s", requires = "adopt", help_heading = "Adopt")]
    pub drain_timeout: String,

    /// A connection on which the server spoke last, and nothing has moved for this long, counts as drained
    ///
    /// So does one on which the client never spoke. Make it longer than the pauses within an answer (event
    /// streams, websockets): they look the same.
    #[arg(long, value_name = "DUR", default_value = "1s", requires = "adopt", help_heading = "Adopt")]
    pub idle: String,

    /// Upgrade when PATH changes; repeatable
    ///
    /// A file that is replaced, written or touched, a link that is switched, a directory whose
    /// entries change (not what lies deeper); PATH need not exist yet. Told when
    /// nothing more has happened for 200 ms, 2 s at the latest. Leave out what the worker
    /// itself writes, and do not ask for an upgrade by other means as well.
    #[arg(long, value_name = "PATH", help_heading = "Upgrade")]
    pub watch: Vec<PathBuf>,

    /// Run a command of your own at EVENT, by sh; repeatable, in this order
    ///
    /// `pre-upgrade`: an upgrade is to begin; anything but exit status 0 refuses it.
    /// `pre-start`: a worker is to be started; anything but 0 fails that. `post-ready`:
    /// it has become ready. `pre-stop`: it is to be asked to stop, which waits for the
    /// hook (take it out of a load balancer). `post-stop`: it has ended.
    /// `upgrade-failed`: an upgrade was undone. The worker's environment is joined by
    /// GRACEFUL_RUN_EVENT and, where there is one, GRACEFUL_RUN_WORKER, its pid, and
    /// GRACEFUL_RUN_REASON.
    #[arg(long, value_name = "EVENT=CMD", help_heading = "Hooks")]
    pub hook: Vec<String>,

    /// How long a hook may run before it is killed
    #[arg(long, value_name = "DUR", default_value = "30s", help_heading = "Hooks")]
    pub hook_timeout: String,

    /// Signal that asks a worker to stop; CONT follows it [default: TERM, or the dialect's own]
    ///
    /// nginx, unicorn, php-fpm and goagain bring QUIT, listener-json INT, overseer USR2; einhorn
    /// USR2 where it is the only one.
    #[arg(long, value_name = "SIG", help_heading = "Stopping")]
    pub stop_signal: Option<String>,

    /// How long a worker may take to stop before it is killed; 0 is for ever [default: 30s]
    ///
    /// Unless it is given: 31 s with the dialect overseer, 61 s with endless, and 121 s
    /// with --follow and for a worker that acks by parent-term, because grace takes up to 120 s.
    #[arg(long, value_name = "DUR", help_heading = "Stopping")]
    pub stop_timeout: Option<String>,

    /// Generations that may drain at a time; beyond that the oldest is killed
    #[arg(long, value_name = "N", default_value_t = 8, help_heading = "Stopping",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub max_draining: u32,

    /// Change what a signal to us means; repeatable
    ///
    /// MEANING is `upgrade`, `start-alongside` (start the first worker of a new
    /// generation and keep the old ones until commit or rollback), `stop`, `kill`,
    /// `hammer` (kill what drains), `forward` or `forward:SIG` (to ready workers),
    /// `more`, `fewer` or `ignore`. By default: USR2 HUP upgrade; TERM INT QUIT stop; USR1 WINCH
    /// forward; TTIN more; TTOU fewer; ALRM hammer; TSTP and CONT stop and
    /// continue us and the workers.
    #[arg(long, value_name = "SIGNAL=MEANING", help_heading = "Signals")]
    pub on: Vec<String>,

    /// Whether a worker that ends by itself is started again
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Restart::Always, help_heading = "Crashes")]
    pub restart: Restart,

    /// A worker that has lived this long has not crashed in a row
    #[arg(long, value_name = "DUR", default_value = "30s", help_heading = "Crashes")]
    pub stable: String,

    /// Replace a worker that has not said WATCHDOG=1 on NOTIFY_SOCKET for this long
    ///
    /// From its ack on; it finds the time in WATCHDOG_USEC, as under systemd, and says it
    /// twice as often. A replacement that falls silent while it soaks has failed; with a
    /// shorter --soak it serves by then, and is replaced as one that has crashed.
    #[arg(long, value_name = "DUR", help_heading = "Crashes")]
    pub worker_watchdog: Option<String>,

    /// Keep trying when the very first worker fails, instead of exiting
    #[arg(long, help_heading = "Crashes")]
    pub retry_start: bool,

    /// Write our process id here once the first generation is ready
    #[arg(long, value_name = "FILE", help_heading = "Service")]
    pub pid_file: Option<PathBuf>,

    /// A name for this instance: of its control socket, and of a lock
    ///
    /// A second instance of the same name exits with 100 and touches nothing. Letters,
    /// digits, `.`, `_` and `-`.
    #[arg(long, value_name = "NAME", help_heading = "Service")]
    pub name: Option<String>,

    /// Where the control socket is [default: /run/graceful-run/NAME.sock, or PID.sock]
    ///
    /// That of `graceful-run ctl`. Without this option it is in $RUNTIME_DIRECTORY, else in
    /// $XDG_RUNTIME_DIR/graceful-run, else in /run/graceful-run; where that cannot be and
    /// there is no --name either, we go on without one.
    #[arg(long, value_name = "PATH", help_heading = "Service")]
    pub socket: Option<PathBuf>,

    /// Have no control socket
    #[arg(long, conflicts_with_all = ["socket", "control_group"], help_heading = "Service")]
    pub no_socket: bool,

    /// Let the members of this group use the control socket, beside ourselves and root
    #[arg(long, value_name = "GROUP", help_heading = "Service")]
    pub control_group: Option<String>,

    /// Say more; twice: even more
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "quiet", help_heading = "Service")]
    pub verbose: u8,

    /// Say only what went wrong; twice: only what ended us
    #[arg(short, long, action = ArgAction::Count, help_heading = "Service")]
    pub quiet: u8,

    /// Form of the log lines on stderr
    #[arg(long, value_enum, value_name = "FORM", default_value_t = LogFormat::Text, help_heading = "Service")]
    pub log_format: LogFormat,

    /// The program and its arguments; no shell is involved
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    pub command: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  graceful-run -b :5001 -- ./myserver             hold port 5001; then: kill -HUP PID
  graceful-run -b http=:80 -b https=:443 --user www-data -- ./myserver
  graceful-run -b 127.0.0.1:8000 -n 4 --surge 1 -- ./myserver
  graceful-run -b /run/app.sock,mode=0660,group=www-data --pid-file /run/app.pid -- ./myserver
  graceful-run --adopt -- python3 -m http.server 8000     a server that knows nothing of us
  graceful-run --follow USR2 -- ./restarts-itself-on-usr2

Our options end at COMMAND: what follows it is its own. Durations are written 500ms, 30s, 5m, 1h30m.
A script finds the sockets for its server with 'graceful-run here -- CMD' (graceful-run here
--help). A running one is asked with 'graceful-run ctl VERB' (graceful-run ctl --help), and
graceful-run doctor says what this machine allows. A COMMAND that is one of our own words (ctl,
doctor, help, here) goes after --. Exit status: 0 stopped, 137 a worker had to be killed, 2 usage,
100 another instance has the name, 124 the first worker did not become ready, 125 our own failure,
126 or 127 COMMAND cannot be executed or is not found; else the worker's own, or 128+n if signal n
ended it. See graceful-run(1).";

/// `--adopt`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Adopt {
    /// Sockets of its own for each generation; new connections go to one of them.
    Steer,
    /// One socket for all of them, in the place of the worker's own.
    Share,
}

/// `--on-death`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnDeath {
    /// They go on serving.
    Keep,
    /// The kernel sends them TERM.
    Term,
}

/// `--on-ack-timeout`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnAckTimeout {
    /// It has failed.
    Abort,
    /// It counts as ready.
    Proceed,
}

/// `--restart`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Restart {
    /// Whatever its exit status.
    Always,
    /// Unless it exits with status 0.
    OnFailure,
    /// Never; we exit as it did.
    Never,
}

/// `--log-format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A sentence a line.
    Text,
    /// A JSON object a line.
    Json,
}
