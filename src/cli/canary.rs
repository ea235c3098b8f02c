//! The flags of upgrades that are held at their first worker and judge themselves.

use clap::Args;

/// `--canary` and what belongs to it.
#[derive(Debug, Clone, Default, Args)]
pub struct Canary {
    /// Hold every upgrade at its first worker for DUR, and complete it only if that worker is good
    ///
    /// However an upgrade was requested, only one worker of the new generation is started (a canary),
    /// and both generations serve. After DUR the upgrade goes on by itself. If that worker ends before,
    /// is silent (--worker-watchdog) or fails its --verify, the upgrade is undone at once. `ctl commit`
    /// and `ctl rollback` end the hold earlier. With `,PCT%` the worker gets that part of the new
    /// connections (hundredths are possible: 0.25%); this needs `,reuseport` in each -b. Without it, the worker
    /// gets as many as any other where each -b has `,reuseport`; elsewhere the kernel decides. An upgrade is
    /// not held where no worker of the old generation serves. Not with --stop-first, --follow or
    /// --adopt.
    #[arg(long, value_name = "DUR[,PCT%]", help_heading = "Upgrade")]
    pub canary: Option<String>,

    /// Shell command that says whether the first worker of an upgrade that is held is good
    ///
    /// It runs while an upgrade is held (--canary, `ctl upgrade --hold`), at once and then every
    /// --verify-interval, never twice at a time. Any exit status but 0 undoes the upgrade, and its last
    /// lines are the reason; so does one that runs for longer than --hook-timeout. An upgrade with
    /// --canary goes on only when the last one has succeeded. Its environment is that of a hook, with
    /// GRACEFUL_RUN_EVENT=verify and the pid of the new worker in GRACEFUL_RUN_WORKER.
    #[arg(long, value_name = "CMD", help_heading = "Upgrade")]
    pub verify: Option<String>,

    /// Time from one start of the --verify command to the next
    #[arg(long, value_name = "DUR", default_value = "10s", requires = "verify", help_heading = "Upgrade")]
    pub verify_interval: String,
}
