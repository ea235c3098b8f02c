//! The profile of a known server: what it has changed is logged, and arguments that the server refuses
//! are left out.

use super::context::Context;
use crate::config::Config;
use crate::core::event::{Exit, Report};
use crate::profiles;
use log::{info, warn};
use std::path::Path;

/// Says what the profile has done, and what is to be known of the command line. `directory` is the one
/// that we were started in; `handed`: workers are given sockets.
pub(super) fn log(config: &Config, directory: &Path, handed: bool) {
    let worker = &config.worker;
    let directory = worker.chdir.as_ref().map_or_else(|| directory.into(), |path| directory.join(path));
    if let Some(advice) = profiles::advice(&worker.command, &directory, handed) {
        warn!("{}", advice.text);
    }
    let Some(applied) = &config.applied else { return };
    info!("{}", applied.line());
    for warning in &applied.warnings {
        warn!("profile {}: {warning}", applied.profile.name);
    }
}

/// Before the log tells of the report: the very first worker is started once more without arguments
/// that it may have refused.
pub(super) fn on_report(report: &Report, ctx: &mut Context) {
    let Report::Gone { worker, exit: Exit::Code(1..126 | 128..), ready: false, stop_sent: false, .. } =
        *report
    else {
        return;
    };
    if ctx.core.has_served() || !ctx.config.policy.second_start {
        return;
    }
    let left_out = ctx.config.leave_out_optional();
    let Some(entry) = ctx.processes.get(worker) else { return };
    let applied = ctx.config.applied.as_ref();
    if ctx.config.hooks.has_own_check()
        && let Some(check) = applied.and_then(|applied| applied.own_check(&ctx.config.worker.command))
    {
        ctx.config.hooks.set_own_check(check);
    }
    // What the next one is started from is read anew.
    ctx.launcher.specs.remove(&entry.generation);
    ctx.launcher.settings.worker.command.clone_from(&ctx.config.worker.command);
    info!(
        "the server may have refused what its profile has added: it is started once more without {}",
        left_out.join(" ")
    );
}
