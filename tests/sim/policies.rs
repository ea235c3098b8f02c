//! Random policies.

use crate::rng::Rng;
use graceful_run::core::event::{AckKind, Weight};
use graceful_run::core::policy::{Adopt, Canary, OnAckTimeout, Policy, Readiness, Restart};
use std::time::Duration;

/// The kinds of ack that a worker itself causes.
pub fn own_kinds(adopts: bool) -> [AckKind; 4] {
    let seen = if adopts { AckKind::Listen } else { AckKind::Accepting };
    [AckKind::Notify, AckKind::Fd, seen, AckKind::Exec]
}

pub fn random(rng: &mut Rng) -> Policy {
    let follow = rng.chance(25);
    let adopt = (!follow && rng.chance(30)).then(|| Adopt {
        steer: rng.chance(75),
        soak: rng.ms(&[0, 0, 500]),
        drain_timeout: rng.chance(60).then(|| rng.ms(&[500, 3000, 30_000])),
    });
    let workers = if follow { 1 } else { rng.pick(&[1, 1, 1, 2, 2, 3, 4, 5]) };
    let stop_timeout = rng.chance(75).then(|| rng.ms(&[100, 1000, 10_000]));
    let policy = Policy {
        workers,
        adopt,
        least_workers: rng.pick(&[1, 1, 1, workers]),
        follow,
        readiness: if adopt.is_some() { of_listening(rng) } else { readiness(rng) },
        ack_timeout: rng.chance(75).then(|| rng.ms(&[500, 1000, 3000, 10_000])),
        on_ack_timeout: rng.pick(&[None, Some(OnAckTimeout::Abort), Some(OnAckTimeout::Proceed)]),
        soak: rng.ms(&[0, 500]),
        surge: rng.pick(&[None, None, None, Some(1), Some(2), Some(3)]).filter(|_| !follow),
        stop_first: rng.chance(25) && !follow,
        stop_timeout,
        parent_term_stop_timeout: stop_timeout,
        max_draining: rng.pick(&[1, 2, 8, 8]),
        restart: rng.pick(&[Restart::Always, Restart::Always, Restart::OnFailure, Restart::Never]),
        stable: rng.ms(&[500, 3000, 30_000]),
        retry_start: rng.chance(60),
        second_start: false,
        pre_upgrade: rng.chance(25),
        pre_stop: rng.chance(25),
        ack_timeout_grows: rng.chance(50),
        probation: rng.chance(75).then(|| rng.ms(&[500, 3000, 60_000])),
        listeners: !follow && adopt.is_none() && rng.chance(70),
        worker_watchdog: rng.chance(15).then(|| rng.ms(&[1000, 3000, 10_000])),
        canary: None,
        verify: None,
        weighs: false,
    };
    let own_sockets = if adopt.is_some() { policy.steers() } else { policy.listeners };
    let weighs = own_sockets && !policy.stop_first && rng.chance(50);
    let policy = Policy { second_start: policy.max_draining == 1, weighs, ..policy };
    if !policy.can_hold() {
        return policy;
    }
    Policy {
        canary: rng.chance(25).then(|| Canary {
            lasts: rng.ms(&[1, 300, 3000, 20_000]),
            weight: rng.pick(&[None, Weight::new(0), Weight::new(1000)]).filter(|_| weighs),
        }),
        verify: rng.chance(40).then(|| rng.ms(&[300, 1000, 10_000])),
        ..policy
    }
}

fn readiness(rng: &mut Rng) -> Readiness {
    let probe = rng.chance(50).then(|| (Duration::from_millis(100), Duration::from_secs(1)));
    let seconds = Duration::from_secs;
    if rng.chance(50) {
        let timer = rng.chance(70).then(|| seconds(2));
        return Readiness { auto: true, kinds: Vec::new(), timer, probe };
    }
    let mut kinds =
        vec![rng.pick(&[AckKind::Notify, AckKind::Fd, AckKind::Accepting, AckKind::Exec, AckKind::Timer])];
    if rng.chance(30) {
        kinds.push(rng.pick(&own_kinds(false)));
    }
    // Shorter than every ack timeout, or no worker could ever be ready.
    let timer = kinds.contains(&AckKind::Timer).then(|| Duration::from_millis(400));
    Readiness { auto: rng.chance(10), kinds, timer, probe }
}

/// For workers that bind their own sockets: there is no timer unless it is named.
fn of_listening(rng: &mut Rng) -> Readiness {
    let probe = rng.chance(50).then(|| (Duration::from_millis(10), Duration::from_millis(250)));
    let named = rng.pick(&[AckKind::Listen, AckKind::Notify, AckKind::Fd, AckKind::Exec, AckKind::Timer]);
    let mut kinds = vec![named];
    if rng.chance(30) {
        kinds.push(rng.pick(&[AckKind::Listen, AckKind::Notify, AckKind::Timer]));
    }
    let auto = rng.chance(50);
    kinds.retain(|_| !auto || rng.chance(15));
    let timer = kinds.contains(&AckKind::Timer).then(|| Duration::from_millis(400));
    Readiness { auto, kinds, timer, probe }
}
