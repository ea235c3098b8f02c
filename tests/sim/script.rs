//! The script of one worker: what it will do from its start to its end.

use crate::policies::own_kinds;
use crate::rng::Rng;
use graceful_run::core::event::{AckKind, Exit, Refusal};
use graceful_run::core::policy::Policy;
use std::time::Duration;

/// Decided at the start; only signals change it.
#[derive(Debug, Clone)]
pub struct Script {
    /// The program cannot be started.
    pub refusal: Option<Refusal>,
    /// From the start to the event that it runs, or does not.
    pub spawn_takes: Duration,
    /// What it does, this long after its start.
    pub acts: Vec<(Duration, Act)>,
    /// How it reacts to its stop signal; None: not at all.
    pub on_stop: Option<(Duration, Exit)>,
    /// What it leaves behind.
    pub remains: Remains,
    /// What a probe of it finds.
    pub probed: Option<AckKind>,
    /// How many drain checks find connections; None: every one.
    pub busy_checks: Option<u32>,
    /// Whether it sends heartbeats where they are expected.
    pub sends_heartbeats: bool,
}

#[derive(Debug, Clone, Copy)]
pub enum Act {
    Ack(AckKind),
    Extend(Duration),
    /// It sends a heartbeat.
    Heartbeat,
    Exit(Exit),
    /// It starts a successor and leaves.
    HandOver,
    /// It listens with a socket of its own on an address of ours.
    OwnSocket,
    /// It listens by itself at an address that is none of ours.
    ListenElsewhere,
    /// It is taken for a worker without sockets.
    NoSockets,
    /// A signal halts it.
    Halt,
    /// It is continued.
    Continue,
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
    /// A worker that behaves well.
    pub fn good(rng: &mut Rng, policy: &Policy) -> Self {
        let mut acts = vec![(rng.ms(&[0, 50, 300]), Act::Ack(expected_ack(policy)))];
        if policy.must_see_accepting() {
            acts.push((rng.ms(&[0, 50, 300]), Act::Ack(AckKind::Accepting)));
        }
        if policy.adopt.is_some() {
            let addresses = rng.pick(&[1, 1, 2]);
            acts.extend((0..addresses).map(|_| (rng.ms(&[0, 50, 200]), Act::Ack(AckKind::Listen))));
        }
        Script {
            refusal: None,
            spawn_takes: Duration::ZERO,
            acts,
            busy_checks: Some(rng.pick(&[0, 1, 3, 10])),
            on_stop: Some((rng.ms(&[0, 50, 300]), Exit::Code(0))),
            remains: Remains::Nothing,
            probed: None,
            sends_heartbeats: true,
        }
    }

    /// A worker that its predecessor has started, and that must be seen accepting.
    pub fn successor(rng: &mut Rng, policy: &Policy, good: bool) -> Self {
        let ack = Act::Ack(rng.pick(&[AckKind::Accepting, AckKind::Takeover]));
        let mut script = if good { Script::good(rng, policy) } else { Script::bad(rng, policy) };
        script.spawn_takes = rng.ms(&[0, 50, 300]);
        script.refusal = None;
        if good {
            script.acts = vec![(rng.ms(&[0, 50, 300]), ack)];
        } else if rng.chance(60) {
            script.acts.push((rng.ms(&[0, 50, 300]), ack));
        }
        script
    }

    pub fn bad(rng: &mut Rng, policy: &Policy) -> Self {
        let [_, _, seen, _] = own_kinds(policy.adopt.is_some());
        Script {
            refusal: rng.chance(15).then(|| refusal(rng)),
            spawn_takes: if rng.chance(20) { rng.moment() } else { Duration::ZERO },
            acts: acts(rng, policy),
            on_stop: rng.chance(75).then(|| (rng.moment(), exit(rng))),
            remains: match rng.below(10) {
                0 => Remains::Go(rng.moment()),
                1 => Remains::GoWhenAsked(rng.moment()),
                2 => Remains::Stay,
                _ => Remains::Nothing,
            },
            busy_checks: rng.chance(70).then(|| rng.pick(&[0, 1, 2, 20])),
            sends_heartbeats: rng.chance(60),
            probed: rng.chance(50).then(|| rng.pick(&[seen, AckKind::Exec])),
        }
    }
}

/// An ack that makes every worker ready under this policy, unless only the timer does.
fn expected_ack(policy: &Policy) -> AckKind {
    match policy.readiness.kinds.first() {
        Some(&kind) if kind != AckKind::Timer => kind,
        _ => AckKind::Notify,
    }
}

/// The acks that make every worker ready under this policy; a successor must be seen.
pub fn sufficient_acks(policy: &Policy, successor: bool) -> Vec<AckKind> {
    match (successor, policy.adopt) {
        (true, _) => vec![AckKind::Accepting],
        (false, None) if policy.listeners => vec![expected_ack(policy), AckKind::Accepting],
        (false, None) => vec![expected_ack(policy)],
        (false, Some(_)) => vec![AckKind::Listen, expected_ack(policy)],
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

fn acts(rng: &mut Rng, policy: &Policy) -> Vec<(Duration, Act)> {
    let mut acts = Vec::new();
    for _ in 0..rng.below(4) {
        let kind =
            if rng.chance(60) { expected_ack(policy) } else { rng.pick(&own_kinds(policy.adopt.is_some())) };
        acts.push((rng.moment(), Act::Ack(kind)));
    }
    if policy.adopt.is_some() && rng.chance(80) {
        let addresses = rng.pick(&[1, 1, 1, 2, 3]);
        acts.extend((0..addresses).map(|_| (rng.moment(), Act::Ack(AckKind::Listen))));
    }
    if policy.adopt.is_some() && rng.chance(15) {
        acts.push((rng.moment(), Act::NoSockets));
    }
    for _ in 0..rng.below(8).saturating_sub(5) {
        acts.push((rng.moment(), Act::Extend(rng.ms(&[100, 1000, 5000, 60_000]))));
    }
    if rng.chance(20) {
        let at = rng.moment();
        acts.push((at, Act::Halt));
        if rng.chance(60) {
            acts.push((at + rng.moment(), Act::Continue));
        }
    }
    if policy.follow && rng.chance(30) {
        acts.push((rng.moment(), Act::HandOver));
    }
    if policy.listeners && rng.chance(15) {
        acts.push((rng.moment(), Act::OwnSocket));
    }
    if policy.listeners && rng.chance(15) {
        acts.push((rng.ms(&[0, 20, 200]), Act::ListenElsewhere));
    }
    if rng.chance(45) {
        let at = rng.moment() * rng.pick(&[1, 1, 1, 3]);
        acts.push((at, Act::Exit(exit(rng))));
    }
    acts
}
