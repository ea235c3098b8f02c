//! The core by example: each pair of requests in each phase, and common cases. Times are
//! milliseconds.

mod probation;

use graceful_run::core::event::{
    AckKind, Action, Ending, Event, Exit, Failure, Generation, LaunchSource, Refusal, Report, Request, Slot,
    WorkerId,
};
use graceful_run::core::policy::{Adopt, OnAckTimeout, Policy, Readiness, Restart};
use graceful_run::core::{Phase, Supervisor};
use std::time::Duration;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn policy() -> Policy {
    Policy {
        workers: 1,
        least_workers: 1,
        readiness: Readiness { auto: true, kinds: Vec::new(), timer: Some(ms(2000)), probe: None },
        ack_timeout: Some(ms(30_000)),
        on_ack_timeout: Some(OnAckTimeout::Abort),
        soak: ms(500),
        surge: None,
        stop_first: false,
        follow: false,
        adopt: None,
        stop_timeout: Some(ms(30_000)),
        parent_term_stop_timeout: Some(ms(121_000)),
        max_draining: 8,
        restart: Restart::Always,
        stable: ms(30_000),
        retry_start: false,
        second_start: false,
        pre_upgrade: false,
        pre_stop: false,
        worker_watchdog: None,
        ack_timeout_grows: true,
        probation: Some(ms(60_000)),
        listeners: false,
        canary: None,
        verify: None,
        weighs: false,
    }
}

/// A supervisor whose starts succeed at once and whose liveness checks are answered at once.
struct Case {
    core: Supervisor,
    now: Duration,
    done: Vec<Action>,
    /// Whether new connections can be switched.
    switches: bool,
    /// Whether old workers have nothing left to serve.
    drained: bool,
    /// Whether serving workers are seen waiting on their listeners.
    waits: bool,
}

impl Case {
    fn new(policy: Policy) -> Self {
        let mut case = Case {
            core: Supervisor::new(policy),
            now: ms(0),
            done: Vec::new(),
            switches: true,
            drained: false,
            waits: false,
        };
        case.deliver(Event::Tick);
        case
    }

    /// One generation serves, and has for a second.
    fn serving(policy: Policy) -> Self {
        let workers = policy.workers;
        let mut case = Case::new(policy);
        (1..=workers).for_each(|id| case.ack(id));
        case.wait(1000);
        case
    }

    /// One step and nothing else.
    fn step(&mut self, event: Event) -> Vec<Action> {
        let actions = self.core.step(self.now, event);
        self.done.extend(&actions);
        actions
    }

    fn deliver(&mut self, event: Event) {
        for action in self.step(event) {
            match action {
                Action::Spawn { worker, .. } => self.deliver(Event::Spawned(worker)),
                Action::CheckAlive => self.deliver(Event::CheckedAlive),
                Action::CheckWaiting => {
                    let workers = if self.waits { self.core.workers().collect() } else { Vec::new() };
                    workers.iter().for_each(|shown| self.deliver(Event::Waits(shown.slot)));
                    self.deliver(Event::CheckedWaiting);
                }
                Action::Switch(to) => self.deliver(Event::Switched(to, self.switches)),
                Action::CheckDrained(worker) => {
                    self.deliver(Event::DrainChecked { worker, drained: self.drained, pause: ms(250) });
                }
                _ => {}
            }
        }
    }

    fn request(&mut self, request: Request) {
        self.deliver(Event::Request(request));
    }

    fn ack(&mut self, id: u32) {
        self.deliver(Event::Ack(WorkerId(id), AckKind::Notify));
    }

    fn listen(&mut self, id: u32) {
        self.deliver(Event::Ack(WorkerId(id), AckKind::Listen));
    }

    fn exit(&mut self, id: u32, status: i32) {
        self.deliver(Event::Exited { worker: WorkerId(id), exit: Exit::Code(status), remains: false });
    }

    /// Time passes, and every deadline in it is kept.
    fn wait(&mut self, n: u64) {
        let end = self.now + ms(n);
        while let Some(at) = self.core.deadline().filter(|&at| at <= end) {
            self.now = at;
            self.deliver(Event::Tick);
        }
        self.now = end;
    }

    fn did(&self, action: Action) -> bool {
        self.done.contains(&action)
    }

    fn stopped(&self, id: u32) -> bool {
        self.did(Action::Stop(WorkerId(id))) || self.did(Action::StopUnready(WorkerId(id)))
    }

    fn reported(&self, which: impl Fn(&Report) -> bool) -> bool {
        self.done.iter().any(|action| matches!(action, Action::Report(report) if which(report)))
    }

    fn ready(&self, id: u32) -> bool {
        self.reported(|report| matches!(report, Report::Ready(WorkerId(worker), ..) if *worker == id))
    }

    fn ending(&self) -> Option<Ending> {
        self.done.iter().find_map(|action| match action {
            Action::Exit(ending) => Some(*ending),
            _ => None,
        })
    }

    fn failure(&self) -> Option<(Failure, u32, u32)> {
        self.done.iter().find_map(|action| match *action {
            Action::Report(Report::UpgradeFailed { why, replaced, slots, .. }) => {
                Some((why, replaced, slots))
            }
            _ => None,
        })
    }

    fn spawns(&self) -> Vec<(u32, u32, LaunchSource)> {
        let spawn = |action: &Action| match *action {
            Action::Spawn { generation, slot, source, .. } => Some((generation.0, slot.0, source)),
            _ => None,
        };
        self.done.iter().filter_map(spawn).collect()
    }

    /// Lets every worker ack as soon as it runs, and exit when it is asked to stop.
    fn run_to_completion(&mut self) {
        self.drained = true;
        for _ in 0..20 {
            let workers: Vec<u32> = self.core.workers().map(|shown| shown.worker.0).collect();
            for id in workers {
                self.ack(id);
                self.listen(id);
                if self.stopped(id) || self.did(Action::Kill(WorkerId(id))) {
                    self.exit(id, 0);
                }
            }
            self.wait(1000);
        }
    }

    /// The result: generation and number of workers, or the ending.
    fn summary(&self) -> String {
        match self.ending() {
            Some(Ending::Stopped) => "stopped".into(),
            Some(Ending::Killed) => "killed".into(),
            Some(ending) => format!("{ending:?}"),
            None => {
                let slots = self.core.workers().count();
                format!("{} serves in {slots}", self.core.generation())
            }
        }
    }
}

const PHASES: [&str; 6] = ["starting", "running", "upgrading", "holding", "draining", "stopping"];

fn in_phase(phase: &str) -> Case {
    let two = Policy { workers: 2, ..policy() };
    match phase {
        "starting" => Case::new(two),
        "running" => Case::serving(two),
        "upgrading" => {
            let mut case = Case::serving(two);
            case.request(Request::Upgrade);
            case
        }
        "holding" => held(two),
        "draining" => draining(adopting()),
        _ => {
            let mut case = Case::serving(two);
            case.request(Request::Stop);
            case
        }
    }
}

/// Generation 2 is on hold beside generation 1, with the worker after the last.
fn held(policy: Policy) -> Case {
    let first = policy.workers + 1;
    let mut case = Case::serving(policy);
    case.request(Request::Hold(None));
    case.ack(first);
    case.wait(1000);
    assert!(case.reported(|report| matches!(report, Report::Held { .. })), "{:?}", case.done);
    case
}

/// Every kind of request that changes the result.
const REQUESTS: [Request; 12] = [
    Request::Upgrade,
    Request::UpgradeNow,
    Request::Hold(None),
    Request::Commit,
    Request::Rollback,
    Request::More,
    Request::Fewer,
    Request::Scale(3),
    Request::Hammer,
    Request::Stop,
    INTERRUPT,
    Request::Kill,
];

const INTERRUPT: Request = Request::Interrupt { workers_signalled: false };

/// First request, second request, and the result of both while starting, running and
/// upgrading. Two workers; while upgrading, generation 2 is starting.
#[rustfmt::skip]
const PAIRS: [(Request, Request, [&str; 3]); 49] = {
    use Request::{Fewer, Hammer, Kill, More, Stop, Upgrade};
    const STOPPED: [&str; 3] = ["stopped"; 3];
    const KILLED: [&str; 3] = ["killed"; 3];
    [
        (Upgrade, Upgrade,     ["generation 2 serves in 2", "generation 3 serves in 2", "generation 3 serves in 2"]),
        (Upgrade, More,        ["generation 2 serves in 3", "generation 2 serves in 3", "generation 3 serves in 3"]),
        (Upgrade, Fewer,       ["generation 2 serves in 1", "generation 2 serves in 1", "generation 3 serves in 1"]),
        (Upgrade, Hammer,      ["generation 2 serves in 2", "generation 2 serves in 2", "generation 3 serves in 2"]),
        (Upgrade, Stop,        STOPPED),
        (Upgrade, INTERRUPT,   STOPPED),
        (Upgrade, Kill,        KILLED),
        (More, Upgrade,        ["generation 2 serves in 3", "generation 2 serves in 3", "generation 3 serves in 3"]),
        (More, More,           ["generation 1 serves in 4", "generation 1 serves in 4", "generation 2 serves in 4"]),
        (More, Fewer,          ["generation 1 serves in 2", "generation 1 serves in 2", "generation 2 serves in 2"]),
        (More, Hammer,         ["generation 1 serves in 3", "generation 1 serves in 3", "generation 2 serves in 3"]),
        (More, Stop,           STOPPED),
        (More, INTERRUPT,      STOPPED),
        (More, Kill,           KILLED),
        (Fewer, Upgrade,       ["generation 2 serves in 1", "generation 2 serves in 1", "generation 3 serves in 1"]),
        (Fewer, More,          ["generation 1 serves in 2", "generation 1 serves in 2", "generation 2 serves in 2"]),
        (Fewer, Fewer,         ["generation 1 serves in 1", "generation 1 serves in 1", "generation 2 serves in 1"]),
        (Fewer, Hammer,        ["generation 1 serves in 1", "generation 1 serves in 1", "generation 2 serves in 1"]),
        (Fewer, Stop,          STOPPED),
        (Fewer, INTERRUPT,     STOPPED),
        (Fewer, Kill,          KILLED),
        (Hammer, Upgrade,      ["generation 2 serves in 2", "generation 2 serves in 2", "generation 3 serves in 2"]),
        (Hammer, More,         ["generation 1 serves in 3", "generation 1 serves in 3", "generation 2 serves in 3"]),
        (Hammer, Fewer,        ["generation 1 serves in 1", "generation 1 serves in 1", "generation 2 serves in 1"]),
        (Hammer, Hammer,       ["generation 1 serves in 2", "generation 1 serves in 2", "generation 2 serves in 2"]),
        (Hammer, Stop,         STOPPED),
        (Hammer, INTERRUPT,    STOPPED),
        (Hammer, Kill,         KILLED),
        (Stop, Upgrade,        STOPPED),
        (Stop, More,           STOPPED),
        (Stop, Fewer,          STOPPED),
        (Stop, Hammer,         KILLED),
        (Stop, Stop,           STOPPED),
        (Stop, INTERRUPT,      STOPPED),
        (Stop, Kill,           KILLED),
        (INTERRUPT, Upgrade,   STOPPED),
        (INTERRUPT, More,      STOPPED),
        (INTERRUPT, Fewer,     STOPPED),
        (INTERRUPT, Hammer,    KILLED),
        (INTERRUPT, Stop,      STOPPED),
        (INTERRUPT, INTERRUPT, KILLED),
        (INTERRUPT, Kill,      KILLED),
        (Kill, Upgrade,        KILLED),
        (Kill, More,           KILLED),
        (Kill, Fewer,          KILLED),
        (Kill, Hammer,         KILLED),
        (Kill, Stop,           KILLED),
        (Kill, INTERRUPT,      KILLED),
        (Kill, Kill,           KILLED),
    ]
};

#[test]
fn pairs_of_requests_in_every_phase() {
    let requests = REQUESTS.iter().flat_map(|&first| REQUESTS.map(|second| (first, second)));
    let mut wrong = Vec::new();
    for (first, second) in requests {
        for phase in PHASES {
            let mut case = in_phase(phase);
            case.request(first);
            case.request(second);
            case.run_to_completion();
            let expected = match phase {
                "stopping" => while_stopping(first, second).to_string(),
                _ => Expected::of(phase, &[first, second]),
            };
            if case.summary() != expected {
                wrong.push(format!("{phase}: {first:?}, {second:?}: {}, not {expected}", case.summary()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_computed_results_of_pairs_are_what_people_expect() {
    for (first, second, expected) in PAIRS {
        let account = ["starting", "running", "upgrading"].map(|phase| Expected::of(phase, &[first, second]));
        assert_eq!(account, expected, "{first:?}, {second:?}");
    }
}

/// Computes the result of requests without workers, acks and time: two workers, and every
/// one behaves well.
struct Expected {
    serving: u32,
    last: u32,
    workers: u32,
    /// The generation that is to replace the serving one, and whether it is held.
    next: Option<(u32, bool)>,
    /// A pending request, and whether it is to be held.
    kept: Option<bool>,
    /// Nothing serves yet.
    starting: bool,
    /// There is one worker, because it binds its own sockets.
    alone: bool,
    end: Option<&'static str>,
}

impl Expected {
    fn of(phase: &str, requests: &[Request]) -> String {
        let next = match phase {
            "upgrading" => Some((2, false)),
            "holding" => Some((2, true)),
            _ => None,
        };
        let (starting, alone) = (phase == "starting", phase == "draining");
        let last = if next.is_some() || alone { 2 } else { 1 };
        let (serving, workers) = if alone { (2, 1) } else { (1, 2) };
        let mut it = Expected { serving, last, workers, next, kept: None, starting, alone, end: None };
        requests.iter().for_each(|&request| it.take(request));
        it.finish()
    }

    fn take(&mut self, request: Request) {
        use Request::{Commit, Fewer, Hammer, Hold, Interrupt, Kill, More, Rollback};
        use Request::{Scale, Stop, Upgrade, UpgradeNow};
        match request {
            Kill | Hammer if self.end.is_some() => self.end = Some("killed"),
            Interrupt { .. } if self.end == Some("interrupted") => self.end = Some("killed"),
            _ if self.end.is_some() => {}
            Hold(_) | More | Fewer | Scale(_) if self.alone => {}
            Upgrade | Hold(_) if self.next.is_some() || self.starting => {
                self.kept = Some(matches!(request, Hold(_)))
            }
            UpgradeNow if self.starting => self.kept = Some(false),
            Upgrade | UpgradeNow | Hold(_) => self.begin(matches!(request, Hold(_))),
            Commit => self.next = self.next.map(|(next, _)| (next, false)),
            // The pending request is dropped as well: it would start the same program again.
            Rollback if self.next.is_some_and(|(_, held)| held) => (self.next, self.kept) = (None, None),
            More => self.workers += 1,
            Fewer => self.workers = self.workers.max(2) - 1,
            Scale(workers) => self.workers = workers,
            Stop => self.end = Some("stopped"),
            Interrupt { .. } => self.end = Some("interrupted"),
            Kill => self.end = Some("killed"),
            _ => {}
        }
        if self.next.is_none()
            && let Some(hold) = self.kept.filter(|_| !self.starting && self.end.is_none())
        {
            self.begin(hold);
        }
    }

    fn begin(&mut self, hold: bool) {
        self.kept = None;
        self.last += 1;
        self.next = Some((self.last, hold));
    }

    fn finish(mut self) -> String {
        if let Some(end) = self.end {
            return end.replace("interrupted", "stopped");
        }
        loop {
            if let Some((next, false)) = self.next {
                self.serving = next;
                self.next = None;
            }
            match self.kept.filter(|_| self.next.is_none()) {
                Some(hold) => self.begin(hold),
                None => break,
            }
        }
        format!("generation {} serves in {}", self.serving, self.workers + u32::from(self.next.is_some()))
    }
}

/// A stop is final: only a kill changes how it ends.
fn while_stopping(first: Request, second: Request) -> &'static str {
    let force = |request| matches!(request, Request::Kill | Request::Hammer);
    let twice = (first, second) == (INTERRUPT, INTERRUPT);
    if force(first) || force(second) || twice { "killed" } else { "stopped" }
}

#[test]
fn suspend_resume_and_forward_change_nothing_in_any_phase() {
    for phase in PHASES {
        for request in
            [Request::Suspend, Request::Resume, Request::Forward(graceful_run::core::event::Token(10))]
        {
            for (other, _, expected) in PAIRS {
                let (mut plain, mut mixed) = (in_phase(phase), in_phase(phase));
                plain.request(other);
                mixed.request(request);
                mixed.request(other);
                mixed.request(request);
                plain.run_to_completion();
                mixed.run_to_completion();
                assert_eq!(mixed.summary(), plain.summary(), "{phase}: {request:?}, {other:?} {expected:?}");
            }
        }
    }
}

#[test]
fn a_bounded_surge_that_fails_at_its_second_batch_keeps_the_others() {
    let mut case = Case::serving(Policy { workers: 3, surge: Some(1), ..policy() });
    case.request(Request::Upgrade);
    case.ack(4);
    case.wait(500);
    assert!(case.stopped(1), "the first slot is replaced");
    case.exit(5, 3);
    let why = Failure::Exited { worker: WorkerId(5), exit: Exit::Code(3), ready: false };
    assert_eq!(case.failure(), Some((why, 1, 3)), "1 of 3 replaced");
    assert!(!case.stopped(2) && !case.stopped(3) && !case.stopped(4), "the others got no signal");
}

#[test]
fn stop_first_brings_the_old_command_back() {
    let mut case = Case::serving(Policy { stop_first: true, ..policy() });
    case.request(Request::Upgrade);
    assert!(case.stopped(1) && case.spawns().len() == 1, "asked, and nothing starts beside it");
    case.exit(1, 0);
    assert_eq!(case.spawns()[1], (2, 0, LaunchSource::Anew));
    case.exit(2, 1);
    assert!(case.failure().is_some());
    assert_eq!(case.spawns()[2], (1, 0, LaunchSource::AsBefore), "at once, as it was");
}

#[test]
fn e6_the_serving_worker_crashes_and_its_replacement_takes_over() {
    let mut case = Case::serving(policy());
    case.request(Request::Upgrade);
    case.exit(1, 1);
    case.wait(5000);
    case.ack(2);
    case.wait(500);
    assert_eq!(case.spawns().len(), 2, "the replacement is the restart");
    assert_eq!(case.summary(), "generation 2 serves in 1");
}

#[test]
fn e6_the_serving_worker_crashes_and_so_does_its_replacement() {
    let mut case = Case::serving(policy());
    case.request(Request::Upgrade);
    case.exit(1, 1);
    case.exit(2, 1);
    case.wait(100);
    assert_eq!(case.spawns()[2..], [(1, 0, LaunchSource::AsBefore)]);
    case.ack(3);
    assert_eq!(case.summary(), "generation 1 serves in 1");
}

#[test]
fn d7_an_ack_from_a_worker_that_then_dies_replaces_nothing() {
    let mut case = Case::serving(Policy { soak: ms(0), ..policy() });
    case.request(Request::Upgrade);
    let actions = case.step(Event::Ack(WorkerId(2), AckKind::Notify));
    assert!(actions.contains(&Action::CheckAlive), "it checks before it asks a worker to stop");
    case.exit(2, 1);
    case.deliver(Event::CheckedAlive);
    assert!(matches!(case.failure(), Some((Failure::Exited { ready: true, .. }, 0, 1))));
    assert!(!case.stopped(1));
}

#[test]
fn d8_an_ack_in_the_tick_of_its_timeout_wins_if_it_comes_first() {
    let timeout = Policy { ack_timeout: Some(ms(1000)), ..policy() };
    for (ack_first, replaced) in [(true, true), (false, false)] {
        let mut case = Case::serving(timeout.clone());
        case.request(Request::Upgrade);
        case.now += ms(1000);
        if !ack_first {
            case.deliver(Event::Tick);
        }
        case.ack(2);
        case.deliver(Event::Tick);
        case.wait(500);
        assert_eq!(case.stopped(1), replaced, "the ack came first: {ack_first}");
        assert_eq!(case.failure().is_none(), replaced, "and never both");
    }
}

#[test]
fn acks_that_come_late_twice_or_from_strangers_change_nothing() {
    let mut case = Case::serving(policy());
    case.request(Request::Upgrade);
    for id in [1, 7] {
        assert!(case.step(Event::Ack(WorkerId(id), AckKind::Notify)).is_empty(), "worker {id}");
    }
    case.ack(2);
    assert!(case.step(Event::Ack(WorkerId(2), AckKind::Fd)).is_empty(), "a second one");
    case.wait(500);
    assert!(case.step(Event::Ack(WorkerId(1), AckKind::Notify)).is_empty(), "of a worker that drains");
    case.exit(1, 0);
    assert!(case.step(Event::Ack(WorkerId(1), AckKind::Notify)).is_empty(), "of a worker that is gone");
    assert_eq!(case.summary(), "generation 2 serves in 1");
}

#[test]
fn once_a_program_has_said_that_it_is_ready_nothing_less_counts() {
    let mut case = Case::serving(policy());
    case.request(Request::Upgrade);
    case.deliver(Event::Ack(WorkerId(2), AckKind::Accepting));
    case.wait(10_000);
    assert!(!case.ready(2), "neither accepting nor the timer");
    case.ack(2);
    assert!(case.ready(2));
}

#[test]
fn the_timer_counts_only_while_nothing_is_known() {
    let mut case = Case::new(policy());
    case.wait(2000);
    assert!(case.reported(|report| matches!(report, Report::Ready(_, AckKind::Timer, _))));
    case.deliver(Event::Ack(WorkerId(1), AckKind::Accepting));
    case.request(Request::Upgrade);
    case.wait(10_000);
    assert!(!case.ready(2), "it has been seen to accept, so that is waited for");
    case.deliver(Event::Ack(WorkerId(2), AckKind::Accepting));
    assert!(case.ready(2));
}

#[test]
fn a_worker_that_has_only_lived_must_live_on_for_as_long_as_servers_try_to_bind() {
    // (the kinds, the soak, when the old worker is asked to stop)
    let timer = vec![AckKind::Timer];
    for (kinds, soak, at) in [(vec![], 500, 3500), (vec![], 4000, 6000), (timer, 500, 2500)] {
        let readiness = Readiness { auto: true, kinds, timer: Some(ms(2000)), probe: None };
        let mut case = Case::new(Policy { readiness, soak: ms(soak), ..policy() });
        case.wait(10_000);
        case.request(Request::Upgrade);
        case.wait(at - 1);
        assert!(case.ready(2) && !case.stopped(1), "{soak}");
        case.wait(1);
        assert!(case.stopped(1), "{soak}");
    }
}

#[test]
fn a_failed_generation_proves_nothing() {
    let mut case = Case::new(policy());
    case.wait(2600);
    case.request(Request::Upgrade);
    case.ack(2);
    case.exit(2, 1);
    case.request(Request::Upgrade);
    case.wait(2000);
    assert!(case.ready(3), "the timer still counts for a program that has not acked while it served");
}

#[test]
fn an_extension_is_capped_at_ten_ack_timeouts() {
    let mut case = Case::new(Policy { ack_timeout: Some(ms(1000)), readiness: notify(), ..policy() });
    case.deliver(Event::Extend(WorkerId(1), ms(3_600_000)));
    case.wait(9999);
    assert_eq!(case.ending(), None);
    case.wait(1);
    assert!(case.reported(|report| *report == Report::NoAck(WorkerId(1), ms(10_000))));
}

/// It may not handle its own stop signal yet, and has nothing to finish.
#[test]
fn one_that_was_never_ready_gets_term_and_five_seconds_at_most() {
    for (stop_timeout, most) in [(Some(ms(30_000)), 5000), (Some(ms(2000)), 2000), (None, 5000)] {
        let mut case = Case::new(Policy { stop_timeout, readiness: notify(), ..policy() });
        case.ack(1);
        case.request(Request::Upgrade);
        case.wait(30_000);
        assert!(case.did(Action::StopUnready(WorkerId(2))) && !case.did(Action::Stop(WorkerId(2))));
        case.wait(most - 1);
        assert!(!case.did(Action::Kill(WorkerId(2))), "{stop_timeout:?}");
        case.wait(1);
        assert!(case.did(Action::Kill(WorkerId(2))), "{stop_timeout:?}");
    }
}

fn notify() -> Readiness {
    Readiness { auto: false, kinds: vec![AckKind::Notify], timer: None, probe: None }
}

#[test]
fn a_first_worker_that_fails_ends_everything() {
    let mut exits = Case::new(policy());
    exits.exit(1, 3);
    assert_eq!(exits.ending(), Some(Ending::Worker(WorkerId(1), Exit::Code(3))));
    let mut hangs = Case::new(Policy { readiness: notify(), ..policy() });
    hangs.wait(30_000);
    hangs.exit(1, 0);
    assert_eq!(hangs.ending(), Some(Ending::NoAck(WorkerId(1), ms(30_000))));
    let mut missing = Supervisor::new(policy());
    missing.step(ms(0), Event::Tick);
    let actions = missing.step(ms(0), Event::SpawnFailed(WorkerId(1), Refusal::NotFound));
    assert_eq!(actions.last(), Some(&Action::Exit(Ending::NotStarted(WorkerId(1), Refusal::NotFound))));
}

#[test]
fn retry_start_tries_again_after_the_pause() {
    let mut case = Case::new(Policy { retry_start: true, ..policy() });
    case.exit(1, 3);
    assert!(case.reported(|report| *report == Report::Restarting(Slot(0), ms(100))));
    case.wait(100);
    case.exit(2, 3);
    assert!(case.reported(|report| *report == Report::Restarting(Slot(0), ms(200))));
    case.wait(200);
    case.ack(3);
    assert!(case.reported(|report| *report == Report::Serving(Generation(1))));
}

/// It is started with fewer arguments then.
#[test]
fn a_second_start_follows_the_very_first_worker_that_exits_with_an_error() {
    let second = Policy { second_start: true, ..policy() };
    let mut case = Case::new(second.clone());
    case.exit(1, 1);
    assert!(case.reported(|report| *report == Report::Restarting(Slot(0), ms(100))));
    case.wait(100);
    case.exit(2, 1);
    assert_eq!(case.ending(), Some(Ending::Worker(WorkerId(2), Exit::Code(1))));
    let mut clean = Case::new(second);
    clean.exit(1, 0);
    assert_eq!(clean.ending(), Some(Ending::Worker(WorkerId(1), Exit::Code(0))));
}

#[test]
fn without_restarts_our_ending_is_that_of_the_worker() {
    for (restart, status, ends) in [
        (Restart::Never, 0, true),
        (Restart::Never, 4, true),
        (Restart::OnFailure, 0, true),
        (Restart::OnFailure, 4, false),
    ] {
        let mut case = Case::serving(Policy { restart, ..policy() });
        case.exit(1, status);
        let expected = ends.then_some(Ending::Worker(WorkerId(1), Exit::Code(status)));
        assert_eq!(case.ending(), expected, "{restart:?} {status}");
    }
}

#[test]
fn no_worker_is_asked_to_stop_within_half_a_second_of_its_ack() {
    let mut case = Case::new(Policy { soak: ms(0), ..policy() });
    case.ack(1);
    case.request(Request::Upgrade);
    case.ack(2);
    case.wait(499);
    assert!(!case.stopped(1));
    case.wait(1);
    assert!(case.stopped(1));
}

#[test]
fn a_replacement_that_ends_in_the_signal_grace_of_the_old_worker_fails_the_upgrade() {
    let mut case = Case::new(Policy { soak: ms(0), ..policy() });
    case.ack(1);
    case.request(Request::Upgrade);
    case.ack(2);
    case.wait(200);
    case.exit(2, 1);
    case.wait(10_000);
    assert!(case.failure().is_some() && !case.stopped(1));
}

#[test]
fn a_stop_does_not_wait_for_the_signal_grace() {
    let mut case = Case::new(policy());
    case.ack(1);
    case.request(Request::Stop);
    assert!(case.stopped(1));
}

#[test]
fn a_late_tick_leaves_the_whole_stop_timeout() {
    let mut case = Case::new(Policy { workers: 2, ..policy() });
    case.ack(1);
    case.ack(2);
    case.request(Request::Fewer);
    case.now += ms(600_000);
    case.deliver(Event::Tick);
    assert!(case.stopped(2) && !case.did(Action::Kill(WorkerId(2))));
    assert_eq!(case.core.deadline(), Some(case.now + ms(30_000)));
}

#[test]
fn a_worker_that_acks_by_term_has_its_own_stop_timeout() {
    let mut case = Case::new(Policy { workers: 2, ..policy() });
    case.deliver(Event::Ack(WorkerId(1), AckKind::ParentTerm));
    case.ack(2);
    case.request(Request::Stop);
    case.now += ms(30_000);
    case.deliver(Event::Tick);
    assert!(case.did(Action::Kill(WorkerId(2))) && !case.did(Action::Kill(WorkerId(1))));
    case.now += ms(91_000);
    case.deliver(Event::Tick);
    assert!(case.did(Action::Kill(WorkerId(1))));
}

#[test]
fn on_hold_no_worker_is_asked_to_stop_and_everything_else_goes_on() {
    let mut case = held(Policy { workers: 2, ..policy() });
    assert_eq!((case.core.phase(), case.core.generation()), (Phase::Holding, Generation(1)));
    assert_eq!(case.spawns()[2..], [(2, 0, LaunchSource::Anew)]);
    case.exit(1, 1);
    case.exit(2, 1);
    case.wait(100);
    assert_eq!(case.spawns()[3..], [(1, 0, LaunchSource::AsBefore), (1, 1, LaunchSource::AsBefore)]);
    case.request(Request::Scale(3));
    assert_eq!(case.spawns()[5..], [(1, 2, LaunchSource::AsBefore)]);
    case.run_to_completion();
    assert!(case.reported(|report| *report == Report::ScaleDone(3)));
    case.request(Request::Scale(1));
    assert!(case.stopped(5) && case.stopped(6), "the surplus");
    assert!(!case.stopped(3) && !case.stopped(4), "the one on hold, and the one beside it");
    assert_eq!(case.core.phase(), Phase::Holding);
}

#[test]
fn a_commit_replaces_the_other_slots_before_any_old_worker_is_asked_to_stop() {
    let mut case = held(Policy { workers: 3, ..policy() });
    case.request(Request::Commit);
    assert_eq!(case.spawns()[4..], [(2, 1, LaunchSource::AsBefore), (2, 2, LaunchSource::AsBefore)]);
    case.ack(5);
    case.wait(10_000);
    assert!(
        !case.done.iter().any(|action| matches!(action, Action::Stop(_) | Action::StopUnready(_))),
        "one is not ready"
    );
    case.ack(6);
    case.wait(500);
    assert!((1..=3).all(|id| case.stopped(id)));
    assert!(case.reported(|report| matches!(report, Report::UpgradeDone { .. })));
}

#[test]
fn a_failure_after_the_commit_undoes_the_first_worker_too() {
    let mut case = held(Policy { workers: 2, ..policy() });
    case.request(Request::Commit);
    case.exit(4, 1);
    assert!(matches!(case.failure(), Some((Failure::Exited { .. }, 0, 2))));
    assert!(case.stopped(3) && !case.stopped(1) && !case.stopped(2));
}

#[test]
fn with_a_bounded_surge_the_first_worker_is_the_first_batch() {
    let mut case = held(Policy { workers: 3, surge: Some(2), ..policy() });
    case.request(Request::Commit);
    assert!(case.stopped(1) && !case.stopped(2) && !case.stopped(3));
    assert_eq!(case.spawns()[4..], [(2, 1, LaunchSource::AsBefore), (2, 2, LaunchSource::AsBefore)]);
    case.exit(5, 1);
    assert!(matches!(case.failure(), Some((Failure::Exited { .. }, 1, 3))), "1 of 3 replaced");
}

#[test]
fn a_rollback_asks_the_new_worker_alone() {
    let mut case = held(Policy { workers: 2, ..policy() });
    case.request(Request::Rollback);
    assert_eq!(case.failure(), Some((Failure::RolledBack, 0, 2)));
    assert!(case.stopped(3) && !case.stopped(1) && !case.stopped(2));
    for request in [Request::Rollback, Request::Commit] {
        case.request(request);
        assert!(case.reported(|report| *report == Report::NothingHeld(request)));
    }
}

#[test]
fn a_decision_while_the_first_worker_starts_counts() {
    let start = || {
        let mut case = Case::serving(Policy { workers: 2, ..policy() });
        case.request(Request::Hold(None));
        case
    };
    let mut committed = start();
    committed.request(Request::Commit);
    committed.run_to_completion();
    assert!(!committed.reported(|report| matches!(report, Report::Held { .. })), "it does not stop there");
    assert_eq!(committed.summary(), "generation 2 serves in 2");
    let mut undone = start();
    undone.request(Request::Rollback);
    assert_eq!(undone.failure(), Some((Failure::RolledBack, 0, 2)));
    assert!(undone.stopped(3));
}

#[test]
fn an_upgrade_is_held_in_an_empty_slot_if_there_is_one() {
    let mut case = Case::serving(Policy { workers: 2, ..policy() });
    case.exit(2, 1);
    case.request(Request::Hold(None));
    assert_eq!(case.spawns()[2..], [(2, 1, LaunchSource::Anew)]);
    case.ack(3);
    case.wait(500);
    assert_eq!(case.spawns()[3..], [(1, 1, LaunchSource::AsBefore)], "what had crashed comes back");
}

#[test]
fn generations_that_cannot_run_side_by_side_are_not_held() {
    let stop_first = Policy { stop_first: true, ..policy() };
    for policy in [stop_first].into_iter().chain(that_bind_themselves()) {
        let mut case = Case::serving(policy);
        let before = case.core.phase();
        case.request(Request::Hold(None));
        assert!(case.reported(|report| *report == Report::CannotHold));
        assert!(case.core.phase() == before && !case.core.has_pending_upgrade());
    }
}

#[test]
fn the_last_of_two_kept_requests_counts() {
    for (words, held) in
        [([Request::Hold(None), Request::Upgrade], false), ([Request::Upgrade, Request::Hold(None)], true)]
    {
        let mut case = Case::serving(policy());
        case.request(Request::Upgrade);
        for word in words {
            case.request(word);
        }
        case.run_to_completion();
        assert_eq!(case.core.phase() == Phase::Holding, held, "{words:?}");
    }
}

#[test]
fn an_upgrade_is_undone_at_once_when_it_is_superseded() {
    let mut case = Case::serving(policy());
    case.request(Request::Upgrade);
    case.request(Request::UpgradeNow);
    assert_eq!(case.failure(), Some((Failure::Superseded, 0, 1)));
    assert_eq!(case.spawns()[2..], [(3, 0, LaunchSource::Anew)]);
    assert!(case.stopped(2) && !case.stopped(1));
    assert!(!case.reported(|report| matches!(report, Report::UpgradeKept(_))));
}

#[test]
fn an_upgrade_waits_for_its_hook_and_a_crash_does_not() {
    let mut case = Case::serving(Policy { workers: 2, pre_upgrade: true, ..policy() });
    case.request(Request::Upgrade);
    assert!(case.did(Action::PreUpgrade(Generation(2))));
    case.exit(1, 1);
    case.wait(100);
    assert_eq!(case.spawns()[2..], [(1, 0, LaunchSource::Anew)]);
    case.deliver(Event::PreUpgraded(Generation(2), true));
    assert_eq!(case.spawns()[3..], [(2, 0, LaunchSource::Anew), (2, 1, LaunchSource::Anew)]);
    assert!(case.stopped(3), "it would be a second generation that starts");
    case.run_to_completion();
    case.request(Request::Upgrade);
    case.deliver(Event::PreUpgraded(Generation(3), false));
    assert_eq!(case.failure(), Some((Failure::Refused, 0, 2)));
}

#[test]
fn neither_a_stop_nor_another_upgrade_waits_for_the_pre_upgrade_hook() {
    let mut case = Case::serving(Policy { pre_upgrade: true, ..policy() });
    case.request(Request::Upgrade);
    case.request(Request::UpgradeNow);
    assert!(case.did(Action::PreUpgrade(Generation(3))));
    case.deliver(Event::PreUpgraded(Generation(2), true));
    assert_eq!(case.spawns().len(), 1, "that was another one");
    case.request(Request::Stop);
    assert!(case.stopped(1));
}

#[test]
fn the_stop_signal_follows_the_pre_stop_hook_and_its_timeout_begins_there() {
    let mut case = Case::serving(Policy { pre_stop: true, ..policy() });
    case.request(Request::Stop);
    assert!(case.did(Action::PreStop(WorkerId(1))) && !case.stopped(1));
    case.wait(60_000);
    assert!(!case.did(Action::Kill(WorkerId(1))));
    case.deliver(Event::PreStopped(WorkerId(1)));
    assert!(case.stopped(1));
    case.wait(29_999);
    assert!(!case.did(Action::Kill(WorkerId(1))));
    case.wait(1);
    assert!(case.did(Action::Kill(WorkerId(1))));
}

#[test]
fn workers_that_somebody_else_has_signalled_get_no_signal_before_the_kill() {
    let told = [Request::StopSignalled, Request::Interrupt { workers_signalled: true }];
    for request in told {
        let mut case = Case::serving(Policy { pre_stop: true, ..policy() });
        case.request(Request::Upgrade);
        case.ack(2);
        case.wait(1000);
        case.deliver(Event::PreStopped(WorkerId(1)));
        assert!(case.stopped(1), "the old one drains");
        case.request(request);
        assert!(case.did(Action::PreStop(WorkerId(2))), "the hook is run all the same");
        case.deliver(Event::PreStopped(WorkerId(2)));
        case.wait(29_000);
        assert!(!case.stopped(2) && !case.did(Action::Kill(WorkerId(2))), "{request:?}");
        case.wait(1000);
        assert!(case.did(Action::Kill(WorkerId(2))), "{request:?}");
    }
}

#[test]
fn a_kill_does_not_wait_for_the_pre_stop_hook() {
    for force in [Request::Kill, Request::Hammer] {
        let mut case = Case::serving(Policy { pre_stop: true, ..policy() });
        case.request(Request::Stop);
        case.request(force);
        assert!(case.did(Action::Kill(WorkerId(1))), "{force:?}");
        assert!(case.step(Event::PreStopped(WorkerId(1))).is_empty());
    }
}

#[test]
fn a_worker_that_was_never_ready_has_no_pre_stop_hook() {
    let mut case = Case::new(Policy { pre_stop: true, ..policy() });
    case.request(Request::Stop);
    assert!(case.stopped(1));
}

#[test]
fn a_silent_worker_is_replaced_as_one_that_crashed() {
    let mut case = Case::serving(Policy { worker_watchdog: Some(ms(2000)), ..policy() });
    case.deliver(Event::Heartbeat(WorkerId(1)));
    case.wait(1999);
    assert!(!case.stopped(1));
    case.wait(1);
    assert!(case.stopped(1) && case.reported(|report| *report == Report::Silent(WorkerId(1), ms(2000))));
    assert!(case.reported(|report| *report == Report::Restarting(Slot(0), ms(100))));
    case.wait(100);
    assert_eq!(case.spawns().len(), 2);
    case.wait(60_000);
    assert!(case.did(Action::Kill(WorkerId(1))), "it hangs");
}

#[test]
fn heartbeats_are_not_expected_before_a_worker_is_ready() {
    let readiness = notify();
    let mut case = Case::new(Policy { worker_watchdog: Some(ms(1000)), readiness, ..policy() });
    case.wait(5000);
    assert!(!case.stopped(1));
    case.ack(1);
    case.wait(1000);
    assert!(case.stopped(1));
}

#[test]
fn a_replacement_that_falls_silent_in_its_soak_fails_the_upgrade() {
    let mut case = Case::serving(Policy { worker_watchdog: Some(ms(2000)), soak: ms(5000), ..policy() });
    case.deliver(Event::Heartbeat(WorkerId(1)));
    case.request(Request::Upgrade);
    case.ack(2);
    case.wait(1000);
    case.deliver(Event::Heartbeat(WorkerId(1)));
    case.wait(1000);
    assert_eq!(case.failure(), Some((Failure::Silent(WorkerId(2), ms(2000)), 0, 1)));
    assert!(case.stopped(2) && !case.stopped(1));
}

#[test]
fn a_scale_is_done_when_the_workers_are_ready_and_the_surplus_was_asked_to_stop() {
    let mut case = Case::serving(Policy { workers: 2, ..policy() });
    let done = |case: &Case, n: u32| case.reported(|report| *report == Report::ScaleDone(n));
    case.request(Request::Scale(3));
    assert!(!done(&case, 3));
    case.ack(3);
    assert!(done(&case, 3));
    case.request(Request::Scale(1));
    assert!(case.stopped(2) && !case.stopped(3) && !done(&case, 1), "one has only just become ready");
    case.wait(500);
    assert!(done(&case, 1));
    for impossible in [0, 1001] {
        case.request(Request::Scale(impossible));
        assert_eq!(case.done.last(), Some(&Action::Report(Report::CannotScale(1))));
    }
}

/// Policies for programs that bind their own sockets; each has one worker.
fn that_bind_themselves() -> [Policy; 2] {
    [Policy { follow: true, ..policy() }, adopting()]
}

#[test]
fn a_program_that_binds_its_own_sockets_is_not_scaled() {
    for policy in that_bind_themselves() {
        let mut case = Case::serving(policy);
        for request in [Request::More, Request::Scale(2)] {
            case.request(request);
            assert_eq!(case.done.last(), Some(&Action::Report(Report::CannotScale(1))));
        }
    }
}

/// A worker that starts its own successor serves, and has for a second.
fn followed() -> Case {
    Case::serving(Policy { follow: true, ..policy() })
}

fn seen(case: &mut Case, id: u32) {
    case.deliver(Event::Spawned(WorkerId(id)));
    case.deliver(Event::Ack(WorkerId(id), AckKind::Accepting));
}

#[test]
fn a_followed_worker_starts_its_successor_and_is_asked_to_stop() {
    let mut case = followed();
    case.request(Request::Upgrade);
    let (generation, slot) = (Generation(2), Slot(0));
    assert!(case.did(Action::RequestHandover {
        worker: WorkerId(2),
        predecessor: WorkerId(1),
        generation,
        slot
    }));
    case.wait(20);
    assert!(case.did(Action::Probe(WorkerId(2))), "its process is searched for");
    // The channels of the first worker prove nothing about this one.
    case.deliver(Event::Spawned(WorkerId(2)));
    case.ack(2);
    case.wait(3000);
    assert!(!case.ready(2));
    case.deliver(Event::Ack(WorkerId(2), AckKind::Accepting));
    assert!(case.ready(2) && !case.stopped(1));
    case.wait(500);
    assert!(case.stopped(1) && case.core.generation() == generation);
}

#[test]
fn a_master_stays_as_the_process_of_its_successor() {
    let mut case = followed();
    case.request(Request::Upgrade);
    seen(&mut case, 2);
    case.deliver(Event::StaysMaster(WorkerId(1)));
    case.wait(500);
    assert!(case.did(Action::KeepMaster { worker: WorkerId(2), predecessor: WorkerId(1) }));
    assert!(!case.stopped(1) && case.core.workers().count() == 1);
    assert_eq!(case.core.generation(), Generation(2));
    // It may be no master of the next one.
    case.request(Request::Upgrade);
    case.wait(500);
    seen(&mut case, 3);
    case.wait(500);
    assert!(case.stopped(2) && case.core.generation() == Generation(3));
}

#[test]
fn a_worker_that_hands_over_gets_no_signal_and_has_not_crashed() {
    let mut case = followed();
    case.request(Request::Upgrade);
    seen(&mut case, 2);
    case.deliver(Event::HandedOver(WorkerId(1)));
    case.wait(1000);
    assert_eq!(case.core.generation(), Generation(2));
    case.request(Request::Stop);
    case.exit(1, 0);
    assert!(!case.stopped(1) && case.stopped(2));
    assert!(!case.reported(|report| matches!(report, Report::Restarting(..))));
}

#[test]
fn a_successor_that_was_not_requested_is_the_next_generation() {
    let mut case = followed();
    case.deliver(Event::HandedOver(WorkerId(1)));
    let (generation, slot) = (Generation(2), Slot(0));
    assert!(case.did(Action::TakeSuccessor {
        worker: WorkerId(2),
        predecessor: WorkerId(1),
        generation,
        slot
    }));
    case.exit(1, 0);
    case.request(Request::Upgrade);
    case.wait(500);
    let generation = Generation(3);
    assert!(case.did(Action::RequestHandover {
        worker: WorkerId(3),
        predecessor: WorkerId(2),
        generation,
        slot
    }));
    assert!(!case.stopped(1));
}

#[test]
fn without_a_successor_the_old_worker_stays() {
    let mut case = followed();
    case.request(Request::Upgrade);
    case.wait(30_000);
    assert_eq!(case.failure(), Some((Failure::NoAck(WorkerId(2), ms(30_000)), 0, 1)));
    assert!(!case.stopped(1) && case.core.workers().count() == 1);
    case.request(Request::Upgrade);
    case.deliver(Event::Exited { worker: WorkerId(1), exit: Exit::Signal(12), remains: false });
    let why = Failure::NoSuccessor { worker: WorkerId(1), exit: Exit::Signal(12) };
    assert!(case.reported(|report| matches!(report, Report::UpgradeFailed { why: it, .. } if *it == why)));
    case.wait(100);
    assert!(case.done.iter().any(|action| matches!(action, Action::Spawn { worker: WorkerId(4), .. })));
}

#[test]
fn when_the_predecessor_has_left_a_failed_successor_is_a_crash() {
    let mut case = followed();
    case.request(Request::Upgrade);
    seen(&mut case, 2);
    case.exit(1, 0);
    case.deliver(Event::Exited { worker: WorkerId(2), exit: Exit::Unseen, remains: false });
    assert!(case.reported(|report| matches!(report, Report::UpgradeFailed { predecessor_left: true, .. })));
    case.wait(100);
    let (generation, slot) = (Generation(1), Slot(0));
    let again = Action::Spawn { worker: WorkerId(3), generation, slot, source: LaunchSource::AsBefore };
    assert!(case.did(again));
}

#[test]
fn a_successor_that_does_not_accept_has_a_second_when_the_old_one_has_gone() {
    let mut case = followed();
    case.request(Request::Upgrade);
    case.deliver(Event::Spawned(WorkerId(2)));
    case.wait(5000);
    case.exit(1, 0);
    case.wait(999);
    assert_eq!(case.failure(), None);
    case.wait(1);
    assert!(case.reported(|report| matches!(report, Report::UpgradeFailed { predecessor_left: true, .. })));
    assert!(case.stopped(2));
}

#[test]
fn the_next_upgrade_waits_for_an_old_worker_that_was_asked_to_stop() {
    let mut case = followed();
    case.request(Request::Upgrade);
    seen(&mut case, 2);
    case.wait(500);
    assert!(case.stopped(1));
    case.request(Request::Upgrade);
    case.wait(1000);
    let asked = |case: &Case| {
        case.done
            .iter()
            .any(|action| matches!(action, Action::RequestHandover { predecessor: WorkerId(2), .. }))
    };
    assert!(!asked(&case) && case.core.has_pending_upgrade());
    case.exit(1, 0);
    // gunicorn checks once a second whether its predecessor is gone.
    assert!(!asked(&case));
    case.wait(1500);
    assert!(asked(&case));
}

/// A program that binds its own sockets; new connections are steered to one generation.
fn adopting() -> Policy {
    let adopt = Adopt { steer: true, soak: ms(0), drain_timeout: Some(ms(30_000)) };
    let readiness = Readiness { auto: true, kinds: Vec::new(), timer: None, probe: None };
    Policy { adopt: Some(adopt), readiness, ..policy() }
}

/// A worker that listens serves, and has for a second.
fn listening(policy: Policy) -> Case {
    let mut case = Case::new(policy);
    case.listen(1);
    case.wait(1250);
    case
}

/// Generation 2 serves, and the worker of generation 1 has something left.
fn draining(policy: Policy) -> Case {
    let mut case = listening(policy);
    case.request(Request::Upgrade);
    case.listen(2);
    case.wait(250);
    assert!(case.core.generation() == Generation(2) && !case.stopped(1), "{:?}", case.done);
    case
}

#[test]
fn one_that_listens_is_ready_a_quarter_of_a_second_after_its_last_address() {
    let mut case = Case::new(adopting());
    case.listen(1);
    case.wait(200);
    case.listen(1);
    case.wait(249);
    assert!(!case.ready(1));
    case.wait(1);
    assert!(case.ready(1));
}

/// It is ready by its age, or by its ack; once a generation has sent an ack, by that alone.
#[test]
fn one_that_has_no_sockets_need_not_listen() {
    let auto = |kinds: Vec<AckKind>| Policy {
        adopt: Some(Adopt { steer: true, soak: ms(0), drain_timeout: None }),
        readiness: Readiness { auto: kinds.is_empty(), kinds, timer: None, probe: None },
        ..policy()
    };
    let mut aged = Case::new(auto(Vec::new()));
    aged.deliver(Event::HasNoSockets(WorkerId(1)));
    assert!(aged.reported(|report| *report == Report::Serving(Generation(1))));
    for first in [true, false] {
        let mut acked = Case::new(auto(vec![AckKind::Notify]));
        let events = [Event::HasNoSockets(WorkerId(1)), Event::Ack(WorkerId(1), AckKind::Notify)];
        let mut order = if first { [0, 1] } else { [1, 0] }.into_iter();
        acked.deliver(events[order.next().unwrap()]);
        assert!(!acked.reported(|report| *report == Report::Serving(Generation(1))));
        acked.deliver(events[order.next().unwrap()]);
        assert!(acked.reported(|report| *report == Report::Serving(Generation(1))));
    }
}

#[test]
fn one_that_listens_and_dies_replaces_nothing() {
    let mut case = listening(adopting());
    case.request(Request::Upgrade);
    case.listen(2);
    case.wait(249);
    case.exit(2, 1);
    let why = Failure::Exited { worker: WorkerId(2), exit: Exit::Code(1), ready: false };
    assert_eq!(case.failure(), Some((why, 0, 1)));
    assert!(!case.stopped(1) && !case.done.iter().any(|action| matches!(action, Action::Switch(_))));
}

#[test]
fn an_ack_counts_once_it_listens_in_either_order() {
    let needs_ack = || Case::new(Policy { readiness: notify(), ..adopting() });
    let mut case = needs_ack();
    case.ack(1);
    case.wait(1000);
    assert!(!case.ready(1));
    case.listen(1);
    assert!(case.ready(1), "it has acked before");
    let mut case = needs_ack();
    case.listen(1);
    case.wait(1000);
    assert!(!case.ready(1));
    case.ack(1);
    assert!(case.ready(1));
}

#[test]
fn the_timer_does_not_replace_listening() {
    let readiness =
        Readiness { auto: false, kinds: vec![AckKind::Timer], timer: Some(ms(2000)), probe: None };
    let mut case = Case::new(Policy { readiness, ..adopting() });
    case.wait(5000);
    assert!(!case.ready(1));
    case.listen(1);
    assert!(case.ready(1));
}

#[test]
fn new_connections_are_switched_before_the_old_worker_drains_and_stops() {
    let mut case = draining(adopting());
    case.wait(1000);
    case.drained = true;
    case.wait(1000);
    let at = |action: Action| case.done.iter().position(|&it| it == action);
    let order = [
        at(Action::CheckAlive),
        at(Action::Switch(Generation(2))),
        at(Action::CheckDrained(WorkerId(1))),
        at(Action::Stop(WorkerId(1))),
    ];
    assert!(order.is_sorted() && order.iter().all(Option::is_some), "{:?}", case.done);
    assert!(case.reported(|report| matches!(report, Report::Drained(WorkerId(1), _))));
}

#[test]
fn a_failure_during_the_switch_is_switched_back() {
    let mut case = listening(adopting());
    case.request(Request::Upgrade);
    case.listen(2);
    case.now += ms(250);
    assert!(case.step(Event::Tick).contains(&Action::CheckAlive));
    assert!(case.step(Event::CheckedAlive).contains(&Action::Switch(Generation(2))));
    case.exit(2, 1);
    assert!(case.failure().is_some() && case.did(Action::Switch(Generation(1))));
    assert_eq!(case.step(Event::Switched(Generation(2), true)), [], "an answer that comes too late");
    assert_eq!(case.core.generation(), Generation(1));
}

#[test]
fn shared_sockets_are_not_switched_and_no_worker_drains() {
    let adopt = adopting().adopt.map(|adopt| Adopt { steer: false, ..adopt });
    let mut case = listening(Policy { adopt, ..adopting() });
    case.request(Request::Upgrade);
    case.listen(2);
    case.wait(250);
    assert!(case.stopped(1) && !case.did(Action::Switch(Generation(2))));
}

#[test]
fn a_worker_that_has_not_drained_in_time_is_asked_to_stop() {
    let mut case = draining(adopting());
    case.wait(29_999);
    assert!(!case.stopped(1));
    case.wait(1);
    assert!(case.stopped(1));
    assert!(case.reported(|report| *report == Report::NotDrained(WorkerId(1), ms(30_000))));
}

#[test]
fn an_old_worker_that_ends_before_it_is_asked_has_not_crashed() {
    let mut case = draining(adopting());
    case.exit(1, 1);
    case.wait(1000);
    assert!(case.core.workers().map(|shown| shown.worker).eq([WorkerId(2)]));
    assert!(!case.reported(|report| matches!(report, Report::Restarting(..))));
}

#[test]
fn a_stop_does_not_wait_until_an_old_worker_has_drained() {
    let mut case = draining(adopting());
    case.request(Request::Stop);
    assert!(case.stopped(1) && case.stopped(2));
}

#[test]
fn a_hammer_kills_a_worker_that_has_not_drained() {
    let mut case = draining(adopting());
    case.request(Request::Hammer);
    assert!(case.did(Action::Kill(WorkerId(1))) && !case.did(Action::Kill(WorkerId(2))));
}

#[test]
fn generations_that_have_not_drained_do_not_pile_up() {
    let mut case = draining(Policy { max_draining: 1, ..adopting() });
    case.wait(1000);
    case.request(Request::Upgrade);
    case.listen(3);
    case.wait(250);
    assert!(case.did(Action::Kill(WorkerId(1))) && !case.did(Action::Kill(WorkerId(2))));
}

#[test]
fn the_next_upgrade_does_not_wait_until_an_old_worker_has_drained() {
    let mut case = draining(adopting());
    case.wait(1000);
    case.request(Request::Upgrade);
    case.listen(3);
    case.wait(250);
    assert!(case.core.generation() == Generation(3) && !case.stopped(1) && !case.stopped(2));
}

#[test]
fn two_workers_that_bind_the_same_addresses_cannot_be_requested() {
    let mut case = listening(adopting());
    for (request, refused) in [
        (Request::More, Report::CannotScale(1)),
        (Request::Scale(2), Report::CannotScale(1)),
        (Request::Hold(None), Report::CannotHold),
    ] {
        case.request(request);
        assert_eq!(case.done.last(), Some(&Action::Report(refused)));
    }
}

#[test]
fn a_switch_that_is_refused_fails_the_upgrade_and_is_not_switched_back() {
    let mut case = listening(adopting());
    case.switches = false;
    case.request(Request::Upgrade);
    case.listen(2);
    case.wait(1000);
    assert_eq!(case.failure(), Some((Failure::NotSwitched, 0, 1)));
    assert!(case.stopped(2) && !case.stopped(1) && !case.did(Action::Switch(Generation(1))));
}

#[test]
fn a_late_tick_that_finds_the_timer_passed_finds_the_ack_timeout_passed_too() {
    let readiness =
        Readiness { auto: false, kinds: vec![AckKind::Timer], timer: Some(ms(2000)), probe: None };
    let mut case = Case::new(Policy { readiness, ..adopting() });
    case.now = ms(31_000);
    case.deliver(Event::Tick);
    assert!(case.reported(|report| matches!(report, Report::NoAck(..))), "{:?}", case.done);
}
