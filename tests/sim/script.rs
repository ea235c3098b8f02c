//! What one worker will do with its life.

use crate::policies::own_kinds;
use crate::rng::Rng;
use graceful_run::core::event::{AckKind, Exit, Refusal};
use graceful_run::core::policy::Policy;
use std::time::Duration;

/// Decided when its start is asked for; nothing but signals changes it.
#[derive(Debug, Clone)]
pub struct Script {
    /// The program cannot be started.
    pub refusal: Option<Refusal>,
    /// From the decision to the news that it runs, or does not.
    pub spawn_takes: Duration,
    /// What it does, this long after its start.
    pub deeds: Vec<(Duration, Deed)>,
    /// How it follows its stop signal; None: it does not.
    pub on_stop: Option<(Duration, Exit)>,
    /// What it leaves behind.
    pub remains: Remains,
    /// What looking at it finds.
    pub probed: Option<AckKind>,
    /// How many looks find it serving what it has; None: every one.
    pub serves_on: Option<u32>,
    /// Where it is to say that it is alive, it does.
    pub beats: bool,
}

#[derive(Debug, Clone, Copy)]
pub enum Deed {
    Ack(AckKind),
    Extend(Duration),
    /// It says that it is alive.
    Beat,
    Exit(Exit),
    /// It starts a successor and leaves.
    Succeed,
}

/// Processes that outlive the worker that started them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remains {
    Nothing,
    /// They go by themselves after this long.
    Go(Duration),
    /// They go when asked to.
    GoWhenAsked(Duration),
    /// They have to be killed.
    Stay,
}

impl Script {
    /// A worker that does what its supervisor hopes for.
    pub fn good(rng: &mut Rng, policy: &Policy) -> Self {
        let mut deeds = vec![(rng.ms(&[0, 50, 300]), Deed::Ack(hoped_for(policy)))];
        if policy.listeners && policy.readiness.auto {
            deeds.push((rng.ms(&[0, 50, 300]), Deed::Ack(AckKind::Accepting)));
        }
        if policy.adopt.is_some() {
            let addresses = rng.pick(&[1, 1, 2]);
            deeds.extend((0..addresses).map(|_| (rng.ms(&[0, 50, 200]), Deed::Ack(AckKind::Listen))));
        }
        Script {
            refusal: None,
            spawn_takes: Duration::ZERO,
            deeds,
            serves_on: Some(rng.pick(&[0, 1, 3, 10])),
            on_stop: Some((rng.ms(&[0, 50, 300]), Exit::Code(0))),
            remains: Remains::Nothing,
            probed: None,
            beats: true,
        }
    }

    /// A worker that its predecessor has started, and that must be seen.
    pub fn heir(rng: &mut Rng, policy: &Policy, good: bool) -> Self {
        let ack = Deed::Ack(rng.pick(&[AckKind::Accepting, AckKind::Takeover]));
        let mut script = if good { Script::good(rng, policy) } else { Script::bad(rng, policy) };
        script.spawn_takes = rng.ms(&[0, 50, 300]);
        script.refusal = None;
        if good {
            script.deeds = vec![(rng.ms(&[0, 50, 300]), ack)];
        } else if rng.chance(60) {
            script.deeds.push((rng.ms(&[0, 50, 300]), ack));
        }
        script
    }

    pub fn bad(rng: &mut Rng, policy: &Policy) -> Self {
        let [_, _, seen, _] = own_kinds(policy.adopt.is_some());
        Script {
            refusal: rng.chance(15).then(|| refusal(rng)),
            spawn_takes: if rng.chance(20) { rng.moment() } else { Duration::ZERO },
            deeds: deeds(rng, policy),
            on_stop: rng.chance(75).then(|| (rng.moment(), exit(rng))),
            remains: match rng.below(10) {
                0 => Remains::Go(rng.moment()),
                1 => Remains::GoWhenAsked(rng.moment()),
                2 => Remains::Stay,
                _ => Remains::Nothing,
            },
            serves_on: rng.chance(70).then(|| rng.pick(&[0, 1, 2, 20])),
            beats: rng.chance(60),
            probed: rng.chance(50).then(|| rng.pick(&[seen, AckKind::Exec])),
        }
    }
}

/// An ack that makes every worker ready under this policy, unless the clock
/// alone does.
fn hoped_for(policy: &Policy) -> AckKind {
    match policy.readiness.kinds.first() {
        Some(&kind) if kind != AckKind::Timer => kind,
        _ => AckKind::Notify,
    }
}

/// The acks that make every worker ready under this policy; a successor must be seen.
pub fn wanted(policy: &Policy, heir: bool) -> Vec<AckKind> {
    match (heir, policy.adopt) {
        (true, _) => vec![AckKind::Accepting],
        (false, None) if policy.listeners => vec![hoped_for(policy), AckKind::Accepting],
        (false, None) => vec![hoped_for(policy)],
        (false, Some(_)) => vec![AckKind::Listen, hoped_for(policy)],
    }
}

pub fn refusal(rng: &mut Rng) -> Refusal {
    rng.pick(&[Refusal::NotFound, Refusal::NotExecutable, Refusal::Busy, Refusal::Exhausted, Refusal::Other])
}

fn exit(rng: &mut Rng) -> Exit {
    rng.pick(&[
        Exit::Code(0),
        Exit::Code(0),
        Exit::Code(1),
        Exit::Code(3),
        Exit::Signal(15),
        Exit::Signal(11),
    ])
}

fn deeds(rng: &mut Rng, policy: &Policy) -> Vec<(Duration, Deed)> {
    let mut deeds = Vec::new();
    for _ in 0..rng.below(4) {
        let kind =
            if rng.chance(60) { hoped_for(policy) } else { rng.pick(&own_kinds(policy.adopt.is_some())) };
        deeds.push((rng.moment(), Deed::Ack(kind)));
    }
    if policy.adopt.is_some() && rng.chance(80) {
        let addresses = rng.pick(&[1, 1, 1, 2, 3]);
        deeds.extend((0..addresses).map(|_| (rng.moment(), Deed::Ack(AckKind::Listen))));
    }
    for _ in 0..rng.below(8).saturating_sub(5) {
        deeds.push((rng.moment(), Deed::Extend(rng.ms(&[100, 1000, 5000, 60_000]))));
    }
    if policy.follow && rng.chance(30) {
        deeds.push((rng.moment(), Deed::Succeed));
    }
    if rng.chance(45) {
        let at = rng.moment() * rng.pick(&[1, 1, 1, 3]);
        deeds.push((at, Deed::Exit(exit(rng))));
    }
    deeds
}
