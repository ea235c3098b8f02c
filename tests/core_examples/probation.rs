//! What replacements have to be seen doing, and releases that fail after they went live.

use crate::{Case, ms};
use graceful_run::core::event::{
    AckKind, Action, Event, Exit, Failure, Generation, LaunchSource, Report, Request, WorkerId,
};
use graceful_run::core::policy::{OnAckTimeout, Policy, Readiness};

/// As `graceful-run -b ADDRESS -- COMMAND` has it.
fn policy() -> Policy {
    Policy {
        workers: 1,
        least_workers: 1,
        readiness: Readiness {
            auto: true,
            kinds: Vec::new(),
            timer: Some(ms(10_000)),
            probe: Some((ms(10), ms(250))),
        },
        ack_timeout: Some(ms(30_000)),
        ack_timeout_grows: true,
        soak: ms(500),
        stop_timeout: Some(ms(30_000)),
        parent_term_stop_timeout: Some(ms(121_000)),
        max_draining: 8,
        stable: ms(30_000),
        probation: Some(ms(60_000)),
        listeners: true,
        ..Policy::default()
    }
}

/// Generation 1 is seen to wait after so long, and serves.
fn serving(policy: Policy, after: u64) -> Case {
    let workers = policy.workers;
    let mut case = Case::new(policy);
    case.wait(after);
    (1..=workers).for_each(|id| case.seen(id));
    case.waits = true;
    case.wait(1000);
    case
}

/// Generation 2 has gone live; its workers come after those of generation 1.
fn upgraded(policy: Policy) -> Case {
    let workers = policy.workers;
    let mut case = serving(policy, 0);
    case.request(Request::Upgrade);
    (workers + 1..=2 * workers).for_each(|id| case.seen(id));
    case.wait(1000);
    (1..=workers).for_each(|id| case.exit(id, 0));
    assert!(case.reported(|report| matches!(report, Report::UpgradeDone { .. })));
    case
}

impl Case {
    fn seen(&mut self, id: u32) {
        self.deliver(Event::Ack(WorkerId(id), AckKind::Accepting));
    }

    fn leave(&mut self, id: u32, status: i32) {
        self.deliver(Event::Exited { worker: WorkerId(id), exit: Exit::Code(status), remains: true });
    }

    /// The worker that was started last.
    fn last(&self) -> u32 {
        let spawned = |action: &Action| match action {
            Action::Spawn { worker, .. } => Some(worker.0),
            _ => None,
        };
        self.done.iter().rev().find_map(spawned).unwrap_or_default()
    }

    /// The generation of that worker, and what it was started from.
    fn last_start(&self) -> (u32, LaunchSource) {
        self.spawns().last().map_or((0, LaunchSource::Anew), |&(generation, _, source)| (generation, source))
    }

    /// The worker that serves ends, is started again and becomes ready, so many times.
    fn crash(&mut self, times: u32) {
        for _ in 0..times {
            self.exit(self.last(), 3);
            self.wait(1000);
            self.seen(self.last());
            self.wait(100);
        }
    }

    fn rolled_back(&self) -> bool {
        self.reported(|report| matches!(report, Report::RolledBack { .. }))
    }

    fn forgot(&self, generation: u32) -> bool {
        self.did(Action::Forget(Generation(generation)))
    }
}

#[test]
fn a_slow_first_worker_is_reported_and_ready_by_its_timer() {
    let mut case = Case::new(policy());
    case.wait(9999);
    let unseen = Report::Unseen { worker: WorkerId(1), after: ms(2000), timer: Some(ms(10_000)) };
    assert!(case.did(Action::Report(unseen)) && !case.ready(1));
    case.wait(1);
    assert!(case.ready(1));
}

#[test]
fn a_replacement_must_wait_if_the_serving_workers_began_to_after_they_were_ready() {
    let mut case = Case::new(policy());
    case.wait(10_000);
    assert!(case.ready(1), "by the timer");
    case.waits = true;
    case.wait(60_000);
    case.request(Request::Upgrade);
    case.wait(20_000);
    assert!(!case.ready(2), "only its timer has passed, and the workers before it wait");
    case.exit(2, 3);
    assert!(!case.stopped(1) && case.core.generation() == Generation(1));
}

#[test]
fn a_worker_that_acks_has_to_wait_as_well_in_either_order() {
    for ack_first in [true, false] {
        let mut case = serving(policy(), 0);
        case.ack(1);
        case.request(Request::Upgrade);
        if ack_first {
            case.ack(2);
            assert!(!case.ready(2), "gunicorn acks before it has imported the application");
            case.seen(2);
        } else {
            case.seen(2);
            assert!(!case.ready(2), "the workers before it have acked");
            case.ack(2);
        }
        assert!(case.ready(2));
    }
}

#[test]
fn an_ack_without_waiting_fails_the_upgrade() {
    let mut case = serving(policy(), 0);
    case.ack(1);
    case.request(Request::Upgrade);
    case.ack(2);
    case.wait(30_000);
    assert!(case.reported(|report| matches!(report, Report::UpgradeFailed { why: Failure::NoAck(..), .. })));
    assert!(!case.stopped(1));
}

#[test]
fn the_word_that_the_user_names_is_not_enough_of_a_worker_that_listens_elsewhere() {
    for elsewhere in [false, true] {
        let readiness = Readiness { auto: false, kinds: vec![AckKind::Notify], ..policy().readiness };
        let mut case = Case::new(Policy { readiness, ..policy() });
        case.ack(1);
        case.waits = true;
        case.request(Request::Upgrade);
        if elsewhere {
            case.deliver(Event::ListensElsewhere(WorkerId(2)));
        }
        case.ack(2);
        assert_eq!(case.ready(2), !elsewhere, "its predecessor waits on our listener");
        case.seen(2);
        assert!(case.ready(2));
    }
}

#[test]
fn a_check_of_the_user_counts_by_itself() {
    let readiness =
        Readiness { auto: false, kinds: vec![AckKind::Notify, AckKind::Exec], ..policy().readiness };
    let mut case = Case::new(Policy { readiness, ..policy() });
    case.ack(1);
    case.waits = true;
    case.request(Request::Upgrade);
    case.deliver(Event::ListensElsewhere(WorkerId(2)));
    case.deliver(Event::Ack(WorkerId(2), AckKind::Exec));
    assert!(case.ready(2));
}

#[test]
fn without_an_ack_a_worker_lives_as_long_as_its_predecessor_took() {
    let readiness =
        Readiness { auto: false, kinds: vec![AckKind::Timer], timer: Some(ms(200)), ..policy().readiness };
    let mut case = Case::new(Policy { readiness, ..policy() });
    case.wait(4000);
    assert!(case.ready(1));
    case.seen(1);
    case.wait(1000);
    case.request(Request::Upgrade);
    case.wait(3999);
    assert!(case.ready(2) && !case.stopped(1));
    case.wait(1);
    assert!(case.stopped(1));
}

#[test]
fn a_ready_worker_is_probed_until_it_waits() {
    let mut case = Case::new(policy());
    case.wait(10_000);
    let probes = |case: &Case| case.done.iter().filter(|it| **it == Action::Probe(WorkerId(1))).count();
    let before = probes(&case);
    case.wait(10_000);
    let after = probes(&case);
    assert!((5..12).contains(&(after - before)), "{before} then {after}");
    case.seen(1);
    case.wait(1_000_000);
    assert_eq!(probes(&case), after);
    assert_eq!(case.core.startup_time(), ms(20_000));
    case.request(Request::Upgrade);
    case.wait(39_000);
    case.seen(2);
    assert!(case.ready(2), "it has twice the time that the one before it took");
}

#[test]
fn probes_of_a_ready_worker_end() {
    let mut case = Case::new(policy());
    case.wait(700_000);
    assert_eq!(case.core.deadline(), None);
}

#[test]
fn three_crashes_bring_the_generation_before_back_as_it_was() {
    let mut case = upgraded(policy());
    assert!(!case.forgot(1));
    case.crash(2);
    assert_eq!(case.last_start(), (2, LaunchSource::Anew));
    case.exit(case.last(), 3);
    assert_eq!(case.last_start(), (1, LaunchSource::Exactly));
    case.seen(case.last());
    case.wait(1000);
    assert!(case.rolled_back() && case.core.generation() == Generation(1));
    assert!(case.forgot(2) && !case.forgot(1));
    case.exit(case.last(), 3);
    case.wait(100);
    assert_eq!(
        case.last_start(),
        (1, LaunchSource::AsBefore),
        "the files on the disk are those of the generation that crashed"
    );
    case.seen(case.last());
    case.request(Request::Upgrade);
    assert_eq!(case.last_start(), (3, LaunchSource::Anew));
}

#[test]
fn a_proven_generation_is_not_rolled_back() {
    let mut case = upgraded(policy());
    case.wait(60_000);
    assert!(case.reported(|report| *report == Report::Proven(Generation(2))) && case.forgot(1));
    case.crash(5);
    assert!(!case.rolled_back());
}

#[test]
fn the_time_until_it_serves_again_does_not_count() {
    let mut case = upgraded(policy());
    for _ in 0..2 {
        case.exit(case.last(), 3);
        case.wait(29_000);
        case.seen(case.last());
    }
    case.wait(58_000);
    case.exit(case.last(), 3);
    assert_eq!(case.last_start(), (1, LaunchSource::Exactly), "it has served for 59 s");
}

#[test]
fn a_request_comes_before_a_rollback() {
    let mut case = upgraded(policy());
    case.crash(2);
    case.request(Request::Upgrade);
    case.exit(case.last() - 1, 3);
    let replacement = case.last();
    assert_eq!(case.last_start(), (3, LaunchSource::Anew));
    case.seen(replacement);
    case.wait(1000);
    assert_eq!(case.core.generation(), Generation(3));
    let probation = case.core.probation().expect("generation 3 is on probation");
    assert_eq!(probation.before, Generation(1), "generation 2 is nothing to go back to");
}

#[test]
fn a_failed_rollback_is_tried_again_with_the_next_crash() {
    let mut case = upgraded(policy());
    case.crash(2);
    case.exit(case.last(), 3);
    assert_eq!(case.last_start(), (1, LaunchSource::Exactly));
    case.exit(case.last(), 4);
    assert!(case.reported(|report| matches!(report, Report::RollbackFailed { .. })));
    case.wait(5000);
    assert_eq!(case.last_start(), (2, LaunchSource::AsBefore));
    case.exit(case.last(), 3);
    assert_eq!(case.last_start(), (1, LaunchSource::Exactly));
}

#[test]
fn slots_that_crash_while_others_are_not_replaced_undo_a_surge() {
    let mut case = serving(Policy { workers: 2, surge: Some(1), ..policy() }, 0);
    case.request(Request::Upgrade);
    case.seen(3);
    case.wait(1000);
    case.exit(1, 0);
    let mut crashing = 3;
    for _ in 0..3 {
        case.exit(crashing, 3);
        case.wait(1000);
        crashing = case.last();
    }
    let failed = |report: &Report| {
        matches!(report, Report::UpgradeFailed { why: Failure::Crashes(_, 3), replaced: 1, .. })
    };
    assert!(case.reported(failed), "{:?}", case.done);
    assert_eq!(case.last_start(), (1, LaunchSource::Exactly));
    case.seen(case.last());
    case.wait(1000);
    assert!(case.rolled_back() && !case.stopped(2));
}

#[test]
fn without_probation_it_crashes_on() {
    let mut case = upgraded(Policy { probation: None, ..policy() });
    assert!(case.forgot(1));
    case.crash(5);
    assert_eq!(case.last_start(), (2, LaunchSource::Anew));
}

#[test]
fn a_stop_ends_a_rollback() {
    let mut case = upgraded(policy());
    case.crash(2);
    case.exit(case.last(), 3);
    case.request(Request::Stop);
    assert!(case.stopped(case.last()));
    case.exit(case.last(), 0);
    assert!(case.done.iter().any(|action| matches!(action, Action::Exit(_))));
}

#[test]
fn what_a_worker_leaves_behind_has_time_to_finish_then_is_asked_then_killed() {
    let mut case = serving(policy(), 0);
    case.request(Request::Upgrade);
    case.seen(2);
    case.wait(1000);
    case.leave(1, 0);
    assert!(case.did(Action::DrainRemains(WorkerId(1))) && !case.did(Action::StopRemains(WorkerId(1))));
    case.wait(30_000);
    assert!(case.did(Action::StopRemains(WorkerId(1))) && !case.did(Action::KillRemains(WorkerId(1))));
    case.wait(30_000);
    assert!(case.did(Action::KillRemains(WorkerId(1))));
}

#[test]
fn a_crash_or_a_stop_leaves_nothing_to_finish() {
    let mut case = serving(policy(), 0);
    case.leave(1, 3);
    assert!(case.did(Action::StopRemains(WorkerId(1))));
    let mut case = serving(policy(), 0);
    case.request(Request::Upgrade);
    case.seen(2);
    case.wait(1000);
    case.leave(1, 0);
    case.request(Request::Stop);
    assert!(case.did(Action::StopRemains(WorkerId(1))));
    let mut case = serving(Policy { stop_first: true, ..policy() }, 0);
    case.request(Request::Upgrade);
    case.leave(1, 0);
    assert!(case.did(Action::StopRemains(WorkerId(1))), "the next one waits for it");
}

#[test]
fn on_ack_timeout_proceed_makes_it_ready() {
    let mut case = serving(Policy { on_ack_timeout: Some(OnAckTimeout::Proceed), ..policy() }, 0);
    case.request(Request::Upgrade);
    case.wait(32_000);
    assert!(case.ready(2) && case.stopped(1));
}

#[test]
fn a_worker_that_acks_need_not_live_as_long_as_its_predecessor_took() {
    let readiness = Readiness {
        auto: false,
        kinds: vec![AckKind::Notify, AckKind::Timer],
        timer: Some(ms(200)),
        ..policy().readiness
    };
    let mut case = serving(Policy { readiness, ..policy() }, 4000);
    case.request(Request::Upgrade);
    case.ack(2);
    case.seen(2);
    case.wait(500);
    assert!(case.stopped(1));
}

#[test]
fn a_crash_that_is_delivered_after_the_probation_does_not_count() {
    let mut case = upgraded(policy());
    case.crash(2);
    let until = case.core.probation().expect("on probation").until;
    case.now = until;
    case.exit(case.last(), 3);
    assert!(case.reported(|report| *report == Report::Proven(Generation(2))));
    case.wait(1000);
    assert_eq!(case.last_start(), (2, LaunchSource::Anew));
}

/// It would start the files on the disk, which are those of the generation that crashes.
#[test]
fn a_worker_that_starts_its_own_successor_is_not_asked_to_start_the_generation_before() {
    let mut case = Case::new(Policy { follow: true, listeners: false, pre_upgrade: true, ..policy() });
    case.seen(1);
    case.wait(1000);
    case.request(Request::Upgrade);
    case.deliver(Event::PreUpgraded(Generation(2), true));
    case.deliver(Event::Spawned(WorkerId(2)));
    case.seen(2);
    case.wait(1000);
    case.exit(1, 0);
    case.exit(2, 3);
    case.wait(2000);
    case.seen(case.last());
    case.crash(1);
    // While the pre-upgrade hook runs, a third worker ends and is started again.
    case.request(Request::Upgrade);
    case.crash(1);
    let ready = case.last();
    assert!(case.ready(ready));
    case.deliver(Event::PreUpgraded(Generation(3), false));
    case.wait(500);
    assert!(case.stopped(ready));
    case.exit(ready, 0);
    assert_eq!(case.last_start(), (1, LaunchSource::Exactly));
}
