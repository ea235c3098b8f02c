//! The flags. Their doc comments are `--help` and the OPTIONS of the man page;
//! what they mean together is decided in [`config`](crate::config).

mod canary;
pub mod ctl;
pub mod doctor;
pub mod profiles;
mod values;

use clap::{ArgAction, Parser, ValueHint};
use std::ffi::OsString;
use std::path::PathBuf;

pub use canary::Canary;
pub use values::{Adopt, LogFormat, OnAckTimeout, OnDeath, Restart};

/// Wrap any server, in any language, and restart it without a dropped request
///
/// graceful-run binds the listening sockets and starts COMMAND, the worker, which
/// inherits them (LISTEN_FDS, from descriptor 3 on). On SIGUSR2 or SIGHUP it
/// starts a replacement, waits until that is ready, and only then asks the old
/// worker to stop. If the replacement fails, it is removed and the old worker goes
/// on: it has not received any signal. The process id of graceful-run never changes.
#[derive(Debug, Clone, Parser)]
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
    #[allow(rustdoc::broken_intra_doc_links, reason = "clap prints it as it stands")]
    /// Bind this socket and pass it to the worker: [NAME=]ADDRESS[,OPTION]...
    ///
    /// Repeatable. The worker gets the sockets as descriptors 3, 4, ... in the order of
    /// the options. ADDRESS is `:5001` or `5001` (all addresses, IPv6 and IPv4),
    /// `127.0.0.1:5001`, `[::1]:5001`, `localhost:5001`, `*:5001` (all IPv4 addresses),
    /// `tcp://ADDR`, `udp://ADDR`, `unix:/run/app.sock` (also `unix-dgram:` and
    /// `unix-seqpacket:`; a path that contains a slash is a unix socket too), `@name` (abstract unix
    /// socket), or `fd://N` (a socket that graceful-run itself inherited as descriptor N). With
    /// port 0 the kernel chooses the port. OPTION is `backlog=N`, `reuseport`, `v6only`,
    /// `nonblock`, `block`, `mode=0660`, `user=`, `group=`, `freebind`,
    /// `defer-accept=SECS`, `fastopen=N`, `rcvbuf=BYTES`, `sndbuf=BYTES` or `nodelay`.
    /// NAME is the name of the socket in LISTEN_FDNAMES (default: socket0, socket1, ...).
    /// All generations share the O_NONBLOCK flag of a socket. `nonblock` keeps it set and `block`
    /// keeps it cleared. With neither, the socket is blocking at first, and the workers may change it.
    #[arg(short, long = "bind", value_name = "BIND", help_heading = "Sockets")]
    pub bind: Vec<OsString>,

    /// Number of workers; each fills one slot, numbered from 0 to N-1
    ///
    /// They share the sockets of -b. Without -b each binds the same addresses itself (see --adopt).
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1, help_heading = "Worker",
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub workers: u32,

    /// Convention by which the worker finds its listeners; several with commas [default: listen-fds]
    ///
    /// Such a convention is called a dialect.
    /// `listen-fds`: LISTEN_FDS, as from systemd (most servers, facebookgo/grace,
    /// listenfd). `einhorn`: workers of einhorn, baseplate. `server-starter`:
    /// servers of Server::Starter (Starlet, Starman, h2o). `nginx`, `unicorn`, `gunicorn`,
    /// `php-fpm`, `puma`: what these servers pass to their own successors.
    /// `endless`, `overseer`, `goagain`, `tableflip`: the Go libraries of these
    /// names. `ecdysis`, `shellflip`: the Rust libraries of these names. `crank`: workers
    /// of crank. `listener-json`: programs that read LISTENER={"addr":...,"fd":3}.
    /// `stdin`: the listener is descriptor 0, as with inetd and supervisord. A
    /// dialect sets the defaults of --ack, --stop-signal and --stop-timeout that its
    /// programs need.
    #[arg(long, value_name = "DIALECT,...", help_heading = "Worker")]
    pub export: Vec<String>,

    /// Use the profile of this server, whatever COMMAND is; none: use none [default: by the name of COMMAND]
    ///
    /// A profile holds what is known of a server: the options of graceful-run that it needs, arguments
    /// that keep it in the foreground, and its stop signal. It is applied before the other
    /// options, which win; one line of the log says what was done. `graceful-run profiles` lists
    /// them.
    #[arg(long, value_name = "NAME", help_heading = "Worker")]
    pub profile: Option<String>,

    /// Working directory of the worker; its path is resolved again at every start [default: $PWD]
    #[arg(short = 'C', long, value_name = "DIR", help_heading = "Worker")]
    pub chdir: Option<PathBuf>,

    /// Set a variable for the worker; repeatable; overrides every other source
    #[arg(short = 'E', long, value_name = "K=V", help_heading = "Worker")]
    pub env: Vec<OsString>,

    /// Read variables from a file of K=V lines, again at every start; repeatable
    ///
    /// Empty lines, lines that begin with # and the word `export` before K are skipped.
    /// One pair of quotes around a whole value is removed, and a comment after such a value. Nothing is
    /// expanded. A line that can be read in two ways is refused: a quote that does not end, text
    /// after the closing quote, # after a value without quotes, \ at the end. A name that no shell can
    /// use, such as 1A or A-B, is passed on, with a warning.
    #[arg(long, value_name = "FILE", help_heading = "Worker")]
    pub env_file: Vec<PathBuf>,

    /// Read variables from a directory, one file each, again at every start; repeatable
    ///
    /// This is the format of envdir: the name of the file is the name of the variable, and its
    /// first line is the value. An empty file removes the variable.
    #[arg(long, value_name = "DIR", help_heading = "Worker")]
    pub env_dir: Vec<PathBuf>,

    /// Start with an empty environment for the worker
    #[arg(long, help_heading = "Worker")]
    pub clear_env: bool,

    /// Do not pass this variable from the environment of graceful-run to the worker; repeatable
    #[arg(long, value_name = "K", help_heading = "Worker")]
    pub drop_env: Vec<OsString>,

    /// Run the worker as this user and group, by name or number
    #[arg(long, value_name = "USER[:GROUP]", help_heading = "Worker")]
    pub user: Option<String>,

    /// Umask of the worker, octal [default: that of graceful-run]
    #[arg(long, value_name = "MASK", help_heading = "Worker")]
    pub umask: Option<String>,

    /// Set no_new_privs: the worker and its children cannot gain privileges by executing a program
    #[arg(long, help_heading = "Worker")]
    pub no_new_privs: bool,

    /// Pass this descriptor to the worker as well, under the same number; repeatable
    #[arg(long, value_name = "N", help_heading = "Worker", value_parser = clap::value_parser!(i32).range(0..65536))]
    pub pass_fd: Vec<i32>,

    /// Keep the worker in the foreground process group of the terminal, to debug it there
    ///
    /// Ctrl-C then reaches the worker directly from the terminal, and graceful-run treats it as the
    /// stop signal of this worker.
    #[arg(long, help_heading = "Worker")]
    pub foreground_tty: bool,

    /// Keep the last 20 lines of stderr of each worker, and show them when it fails
    ///
    /// The stderr of the worker is then a pipe to graceful-run, which copies it to its own stderr. So
    /// it is not a terminal, and workers that outlive graceful-run (kill -9) get SIGPIPE when they
    /// write to it.
    #[arg(long, help_heading = "Worker")]
    pub capture_stderr: bool,

    /// What happens to the workers if graceful-run is killed with SIGKILL
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = OnDeath::Keep, help_heading = "Worker")]
    pub on_death: OnDeath,

    /// What makes a worker ready; with several kinds, the first ack counts
    /// [default: auto, or the ack of the dialect]
    ///
    /// `notify`: the worker sends READY=1 to NOTIFY_SOCKET. `fd` or `fd:N`: it writes a newline to the
    /// descriptor in READY_FD. `einhorn`: it sends worker:ack to EINHORN_SOCK_PATH or
    /// EINHORN_SOCK_FD. `parent-term`: it sends TERM to its parent, graceful-run, as servers
    /// built on grace and endless do. `goagain`, `crank`, `tableflip`, `ecdysis`,
    /// `shellflip`: the ack that this dialect defines. `accepting`: graceful-run sees in /proc that
    /// the worker waits for connections on every listener. `exec:CMD`: CMD, run by sh with the
    /// environment of the worker, exits with 0; CMD is the remainder of the value, commas included,
    /// so this kind comes last. `listen` (only with --adopt): the worker listens on
    /// every address that the generation before it had, and is still alive 250 ms later; with --adopt,
    /// every other kind counts only once this is so. `timer:DUR`: the worker has lived for DUR.
    ///
    /// `auto` accepts the strongest kind that the program is known to support. That is an ack that the
    /// worker sends itself. While no generation has sent one, it is also `accepting` (with --adopt:
    /// `listen`). While neither has been seen, it is also 10 s of life, or 2 s if there are no
    /// listeners (not with --adopt). If the serving workers are seen waiting for connections when an
    /// upgrade begins, their replacements must be seen waiting as well, whatever acks they send.
    #[arg(long, value_name = "KIND,...", help_heading = "Readiness")]
    pub ack: Vec<String>,

    /// How long a worker may take to become ready; 0 means no limit [default: 30s]
    ///
    /// If this option is not given, the limit is twice the time that the previous worker took, where
    /// that is more than 30 s.
    #[arg(long, value_name = "DUR", help_heading = "Readiness")]
    pub ack_timeout: Option<String>,

    /// What to do with a worker that is not ready in time [default: abort if an ack is expected]
    ///
    /// `abort`: it has failed. `proceed`: it counts as ready. An ack is expected
    /// if --ack names an explicit kind, with --adopt, and once a generation has sent one.
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "Readiness")]
    pub on_ack_timeout: Option<OnAckTimeout>,

    /// How long new workers must live after the last ack before the old ones get their stop signal
    /// [default: 500ms]
    ///
    /// The startup time of a worker is the time from its start until it is first seen waiting for
    /// connections. A worker that does not send an ack itself must live at least for the startup
    /// time of its predecessor. If only the timer of `--ack auto`
    /// has made it ready, the soak is 1.5 s at least. Make the soak longer than
    /// --worker-watchdog if a replacement that never sends WATCHDOG=1 is to be refused. If this option
    /// is not given, a worker that is ready by `listen` has no further soak: it has already lived for
    /// 250 ms.
    #[arg(long, value_name = "DUR", help_heading = "Upgrade")]
    pub soak: Option<String>,

    /// How long a new generation is on probation once it serves; 0 means no probation
    ///
    /// If its workers end by themselves three times in this time, graceful-run starts the previous
    /// generation again, from what that was started from: the same directory, environment and
    /// arguments, and the files to which symbolic links pointed then. The time
    /// until a worker that has ended is replaced does not count. After such a rollback, a change seen by
    /// --watch does not start the refused files again.
    #[arg(long, value_name = "DUR", default_value = "60s", help_heading = "Upgrade")]
    pub probation: String,

    /// Replace this many slots at a time instead of all at once
    ///
    /// This limits memory use. A failure stops the upgrade at that point: the slots not yet
    /// replaced keep their old workers, and those that were replaced keep their new ones. To get back
    /// to one release, restore the old program and upgrade once more.
    #[arg(long, value_name = "K", default_value = "all", help_heading = "Upgrade")]
    pub surge: String,

    /// Upgrades that are held.
    #[command(flatten)]
    pub canary: Canary,

    /// Stop the old worker before the new one starts
    ///
    /// For programs that own something that exists only once (a database directory, a lock).
    /// Meanwhile connections wait in the backlog. If the new worker fails, the
    /// old command is started again. A known server (nginx, apache2, haproxy, squid, dovecot, ...)
    /// checks its configuration first, unless there is a hook for `pre-upgrade`: the old worker is
    /// not stopped for one that is wrong.
    #[arg(long, help_heading = "Upgrade")]
    pub stop_first: bool,

    /// For a program that starts its own successor: an upgrade sends it SIG
    ///
    /// For servers that restart themselves (grace, endless, tableflip, ecdysis,
    /// nginx, unicorn, gunicorn). graceful-run binds nothing. A descendant that inherits the
    /// listeners and accepts on them becomes the worker. Not with --bind, --export, --surge,
    /// --stop-first, --on-death term or several workers.
    #[arg(long, value_name = "SIG", help_heading = "Upgrade")]
    pub follow: Option<String>,

    /// Whether the sockets that the server binds itself are adopted [default: auto]
    ///
    /// The server needs no change and no -b. It binds its own addresses, graceful-run observes these
    /// calls, and at an upgrade the new server binds the same addresses. `auto` does this as `steer`
    /// does where no sockets are handed over (no -b, no LISTEN_FDS, no --export or --follow),
    /// and where this machine allows it; otherwise the server runs without. `never` does not do it.
    /// `steer` (or --adopt alone) insists: each generation has
    /// its own sockets. All new connections are switched to the new generation at one moment; the
    /// old one serves those that it has accepted, and gets its stop signal when it has drained.
    /// `share`: the socket of the worker is replaced by one that all generations share; with -b it is
    /// the socket of -b, and the worker must bind exactly that address. Nothing is
    /// drained in this mode: at the stop signal the server loses the connections that it has
    /// accepted, unless it finishes them itself. UDP and unix stream sockets are always shared. A Multipath TCP socket is refused, as on a kernel without MPTCP; a server that
    /// then falls back to plain TCP works. `graceful-run doctor` tests whether this machine allows all
    /// that. With several workers (-n) each has its own sockets at the same addresses, and new connections
    /// are spread evenly over those that are ready. `steer` and `share` not with --export or --follow.
    #[arg(long, value_enum, value_name = "MODE", num_args = 0..=1, require_equals = true,
          default_missing_value = "steer", help_heading = "Adopt")]
    pub adopt: Option<Adopt>,

    /// Adopt only this port; repeatable [default: every port and unix path that the worker binds]
    #[arg(long, value_name = "PORT", help_heading = "Adopt",
          value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Vec<u16>,

    /// How long an old worker may drain before it gets its stop signal all the same; 0 means no limit
    #[arg(long, value_name = "DUR", default_value = "30s", help_heading = "Adopt")]
    pub drain_timeout: String,

    /// A connection counts as drained if the server sent last and no data has moved for this long
    ///
    /// So does a connection on which the client has never sent anything. Make it longer than the
    /// pauses within an answer (event streams, websockets): from outside they look the same.
    #[arg(long, value_name = "DUR", default_value = "10s", help_heading = "Adopt")]
    pub idle: String,

    /// Upgrade when PATH changes; repeatable
    ///
    /// A change is: a file is replaced, written or touched; a link points elsewhere; the entries of
    /// a directory change (not those of its subdirectories). PATH need not exist yet. The upgrade
    /// begins when nothing more has changed for 200 ms, at most 2 s after the first change. Do not
    /// watch what the worker itself writes, and do not request the same upgrade by other means as well.
    #[arg(long, value_name = "PATH", help_heading = "Upgrade")]
    pub watch: Vec<PathBuf>,

    /// Run a shell command at EVENT; repeatable; hooks of one event run in the given order
    ///
    /// `pre-upgrade`: before an upgrade begins; any exit status but 0 refuses it.
    /// `pre-start`: before a worker starts; any exit status but 0 makes this start fail. `post-ready`:
    /// a worker has become ready. `pre-stop`: before a worker gets its stop signal, with --adopt before
    /// it drains; both wait for the hook (to take it out of a load balancer). `post-stop`: a worker has ended.
    /// `upgrade-failed`: an upgrade was undone. The hook gets the environment of the worker, with
    /// GRACEFUL_RUN_EVENT, GRACEFUL_RUN_GENERATION and, where they apply, GRACEFUL_RUN_SLOT,
    /// GRACEFUL_RUN_WORKER (the pid of the worker) and GRACEFUL_RUN_REASON.
    #[arg(long, value_name = "EVENT=CMD", help_heading = "Hooks")]
    pub hook: Vec<String>,

    /// How long a hook may run before it is killed
    #[arg(long, value_name = "DUR", default_value = "30s", help_heading = "Hooks")]
    pub hook_timeout: String,

    /// Signal that asks a worker to stop; CONT follows it [default: TERM, or that of the dialect]
    ///
    /// The dialects nginx, unicorn, php-fpm and goagain set QUIT, listener-json sets INT, overseer
    /// sets USR2, and einhorn sets USR2 if it is the only dialect.
    #[arg(long, value_name = "SIG", help_heading = "Stopping")]
    pub stop_signal: Option<String>,

    /// How long a worker may take to stop before it is killed; 0 means no limit [default: 30s]
    ///
    /// Other defaults: 31 s with the dialect overseer, 61 s with endless, and 121 s
    /// with --follow and for a worker that acks by parent-term, because grace takes up to 120 s.
    /// A worker that was never ready gets TERM instead of its stop signal, and 5 s at most.
    #[arg(long, value_name = "DUR", help_heading = "Stopping")]
    pub stop_timeout: Option<String>,

    /// How many generations may drain at a time; beyond that the oldest is killed
    #[arg(long, value_name = "N", default_value_t = 8, help_heading = "Stopping",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub max_draining: u32,

    /// Change the meaning of a signal that graceful-run gets; repeatable
    ///
    /// MEANING is `upgrade`, `start-alongside` (start the first worker of a new
    /// generation and keep the old workers until commit or rollback), `stop`, `wait` (stop, but send
    /// the workers no signal: whoever signals graceful-run signals them too), `kill`,
    /// `hammer` (kill the workers that drain), `forward` or `forward:SIG` (to ready workers),
    /// `more`, `fewer` (one worker more or fewer) or `ignore`. Defaults: USR2 and HUP upgrade (a
    /// HUP that says that the terminal has gone stops); TERM, INT and QUIT stop; USR1 and WINCH forward; TTIN more; TTOU fewer; ALRM hammer; TSTP and CONT
    /// suspend and continue graceful-run and the workers; every other signal that would end it stops.
    #[arg(long, value_name = "SIGNAL=MEANING", help_heading = "Signals")]
    pub on: Vec<String>,

    /// Whether a worker that ends by itself is started again
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Restart::Always, help_heading = "Crashes")]
    pub restart: Restart,

    /// After this lifetime of a worker, the restart delay begins at its minimum again
    #[arg(long, value_name = "DUR", default_value = "30s", help_heading = "Crashes")]
    pub stable: String,

    /// Replace a worker that has not sent WATCHDOG=1 to NOTIFY_SOCKET for this long
    ///
    /// The watchdog begins with the ack. The worker finds the time in WATCHDOG_USEC, as under systemd,
    /// and should send WATCHDOG=1 twice as often. If a replacement is silent for too long during its
    /// soak, it has failed. If --soak is shorter than that, the replacement already serves, and is
    /// replaced like a crashed worker.
    #[arg(long, value_name = "DUR", help_heading = "Crashes")]
    pub worker_watchdog: Option<String>,

    /// If the very first worker fails, try again instead of exiting
    #[arg(long, help_heading = "Crashes")]
    pub retry_start: bool,

    /// Write the process id of graceful-run to this file once the first generation is ready
    #[arg(long, value_name = "FILE", help_heading = "Service")]
    pub pid_file: Option<PathBuf>,

    /// Name of this instance, for its control socket and its lock
    ///
    /// A second instance of the same name exits with 100 and changes nothing. Allowed are letters,
    /// digits, `.`, `_` and `-`.
    #[arg(long, value_name = "NAME", help_heading = "Service")]
    pub name: Option<String>,

    /// Path of the control socket [default: /run/graceful-run/NAME.sock, or PID.sock]
    ///
    /// `graceful-run ctl` connects to it. Without this option the socket is in $RUNTIME_DIRECTORY,
    /// else in $XDG_RUNTIME_DIR/graceful-run (of another user than root, /run/user/UID/graceful-run
    /// without that variable), else in /run/graceful-run. If it cannot be made there and --name is not
    /// given either, graceful-run runs without one.
    #[arg(long, value_name = "PATH", help_heading = "Service")]
    pub socket: Option<PathBuf>,

    /// Run without a control socket
    #[arg(long, conflicts_with_all = ["socket", "control_group"], help_heading = "Service")]
    pub no_socket: bool,

    /// Allow the members of this group to use the control socket, as well as the own user and root
    #[arg(long, value_name = "GROUP", help_heading = "Service")]
    pub control_group: Option<String>,

    /// Print what would be done with COMMAND, as one JSON object, and start nothing
    ///
    /// The object is that of `graceful-run doctor --json -- COMMAND`. So is the exit status: 0 if an
    /// upgrade would lose nothing, 1 if it would lose requests, 2 for wrong usage.
    #[arg(long, help_heading = "Service")]
    pub dry_run: bool,

    /// Log more; given twice, even more
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "quiet", help_heading = "Service")]
    pub verbose: u8,

    /// Log only what went wrong; given twice, only why graceful-run ended
    #[arg(short, long, action = ArgAction::Count, help_heading = "Service")]
    pub quiet: u8,

    /// Format of the log lines on stderr
    #[arg(long, value_enum, value_name = "FORM", default_value_t = LogFormat::Text, help_heading = "Service")]
    pub log_format: LogFormat,

    /// The program and its arguments; no shell is involved
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    #[arg(value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  graceful-run python3 -m http.server 8000        as it is; to upgrade: kill -HUP PID
  graceful-run -b :5001 -- ./myserver             keep port 5001, and hand it over
  graceful-run -b http=:80 -b https=:443 --user www-data -- ./myserver
  graceful-run -b 127.0.0.1:8000 -n 4 --surge 1 -- ./myserver
  graceful-run -b /run/app.sock,mode=0660,group=www-data --pid-file /run/app.pid -- ./myserver
  graceful-run --follow USR2 -- ./restarts-itself-on-usr2

The options of graceful-run end at COMMAND; what follows belongs to COMMAND. If COMMAND is named
ctl, doctor, help, here or profiles, write -- before it. Durations are written 500ms, 30s, 5m, 1h30m.

Other commands:
  graceful-run ctl VERB        show or control a running graceful-run
  graceful-run doctor          show what this machine allows, and what would be done with a command
  graceful-run profiles        show what is known of servers
  graceful-run here -- CMD     in a script: pass the sockets on to CMD
Each has a --help of its own.

Exit status: 0 stopped, 137 a worker had to be killed, 2 wrong usage, 100 another instance has
the same --name, 124 the first worker did not become ready in time, 125 graceful-run itself
failed, 126 COMMAND cannot be executed, 127 COMMAND is not found; otherwise that of the worker,
or 128+n if signal n ended it.

See graceful-run(1), graceful-run-ctl(1), graceful-run-doctor(1) and graceful-run-profiles(1).";
