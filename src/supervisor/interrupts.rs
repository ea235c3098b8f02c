//! Which INTs and QUITs are one act of the user.
//!
//! Ctrl-C reaches every process of the terminal's foreground group. A runner that passes INT on
//! (npm, concurrently, a shell script) sends us another one a moment later, and so does each
//! runner above it that knows us. The kernel says of a signal whether the terminal or a process
//! has sent it (si_code, sigaction(2)). A second one of the same source is a second act, but not
//! one of timeout(1), which signals its child and then its group.

use crate::core::event::Time;
use crate::sys::tree::{self, Origin};
use log::info;
use nix::unistd::Pid;
use std::time::Duration;

/// How long after the first signal of an act another one may belong to it.
const ONE_ACT: Duration = Duration::from_secs(1);

/// The last act, and which of its signals have come.
#[derive(Debug, Default)]
pub(super) struct Interrupts {
    last: Option<Act>,
}

#[derive(Debug)]
struct Act {
    signal: i32,
    since: Time,
    sources: Vec<Source>,
}

impl Act {
    /// Whether a signal of this source that comes now belongs to it.
    fn includes(&self, source: Source, now: Time) -> bool {
        let is_in_time = now.saturating_sub(self.since) < ONE_ACT;
        is_in_time
            && match (self.sources.contains(&source), source) {
                (true, Source::Process(pid)) => tree::name(pid) == "timeout",
                (true, _) => false,
                (false, _) => source == Source::Terminal || self.sources.contains(&Source::Terminal),
            }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Terminal,
    Process(Pid),
    Unknown,
}

impl Interrupts {
    /// Takes note of an INT or QUIT. True if it repeats one that has come: a runner has passed on
    /// what the terminal has sent to us as well.
    pub(super) fn is_repeated(&mut self, signal: i32, origin: &Origin, now: Time) -> bool {
        let source = match origin {
            Origin::Kernel => Source::Terminal,
            Origin::Process(sender) => Source::Process(sender.pid),
            Origin::Unknown => Source::Unknown,
        };
        if let Some(act) = &mut self.last
            && act.signal == signal
            && act.includes(source, now)
        {
            act.sources.push(source);
            if let Source::Process(pid) = source {
                match act.sources.contains(&Source::Terminal) {
                    true => info!("pid {pid} has passed on what the terminal sent: this is no second signal"),
                    false => {
                        info!(
                            "pid {pid}, timeout, has signalled us and then its group: this is no second signal"
                        )
                    }
                }
            }
            return true;
        }
        self.last = Some(Act { signal, since: now, sources: vec![source] });
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::tree::{Lineage, Sender};

    fn pid(pid: i32) -> Origin {
        Origin::Process(Sender { pid: Pid::from_raw(pid), lineage: Lineage::default() })
    }

    /// How many acts these are, each with its time in milliseconds.
    fn acts(signals: &[(i32, Origin, u64)]) -> usize {
        let mut interrupts = Interrupts::default();
        let is_new = |(signal, origin, ms): &&(i32, Origin, u64)| {
            !interrupts.is_repeated(*signal, origin, Duration::from_millis(*ms))
        };
        signals.iter().filter(is_new).count()
    }

    #[test]
    fn what_runners_pass_on_belongs_to_the_ctrl_c() {
        const INT: i32 = libc::SIGINT;
        let terminal = || Origin::Kernel;
        assert_eq!(acts(&[(INT, terminal(), 0), (INT, pid(7), 20), (INT, pid(8), 900)]), 1);
        assert_eq!(acts(&[(INT, pid(7), 0), (INT, terminal(), 20), (INT, pid(8), 30)]), 1);
        assert_eq!(acts(&[(INT, terminal(), 0), (INT, Origin::Unknown, 20)]), 1);
        assert_eq!(acts(&[(libc::SIGQUIT, terminal(), 0), (libc::SIGQUIT, pid(7), 20)]), 1);
    }

    #[test]
    fn a_second_one_of_the_same_source_is_a_second_act() {
        const INT: i32 = libc::SIGINT;
        let terminal = || Origin::Kernel;
        assert_eq!(acts(&[(INT, terminal(), 0), (INT, terminal(), 300)]), 2);
        assert_eq!(acts(&[(INT, terminal(), 0), (INT, pid(7), 5), (INT, pid(7), 300)]), 2);
        assert_eq!(acts(&[(INT, terminal(), 0), (INT, pid(7), 1000)]), 2);
        assert_eq!(acts(&[(INT, pid(7), 0), (INT, pid(7), 1)]), 2);
        // Without a terminal nothing says that they belong together.
        assert_eq!(acts(&[(INT, pid(7), 0), (INT, pid(8), 20)]), 2);
        assert_eq!(acts(&[(INT, Origin::Unknown, 0), (INT, Origin::Unknown, 20)]), 2);
        assert_eq!(acts(&[(INT, terminal(), 0), (libc::SIGQUIT, terminal(), 20)]), 2);
    }
}
