//! The tables of stages and phases at the head of `src/core/mod.rs`, compared with the
//! transitions that the worlds show: every transition is in a table, and every row of a
//! table is seen.

use graceful_run::core::event::WorkerId;
use graceful_run::core::{Phase, StageName, Supervisor};
use std::collections::BTreeMap;
use std::fmt;

const HEAD_OF_CORE: &str = include_str!("../../src/core/mod.rs");

/// What one step may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transition {
    /// Of a worker; None: there is no such worker before, or after, the step.
    Stage(Option<StageName>, Option<StageName>),
    /// Of the supervisor.
    Phase(Phase, Phase),
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |stage: &Option<StageName>| stage.map_or("none".into(), |stage| format!("{stage:?}"));
        match self {
            Transition::Stage(from, to) => write!(f, "stage {} -> {}", name(from), name(to)),
            Transition::Phase(from, to) => write!(f, "phase {from:?} -> {to:?}"),
        }
    }
}

/// The stages and the phase between two steps.
pub struct Snapshot {
    stages: Vec<(WorkerId, StageName)>,
    phase: Phase,
}

impl Snapshot {
    pub fn of(supervisor: &Supervisor) -> Self {
        Snapshot { stages: supervisor.stages().collect(), phase: supervisor.phase() }
    }

    /// What the steps since have changed.
    pub fn transitions(&self, supervisor: &Supervisor) -> Vec<Transition> {
        let after = Snapshot::of(supervisor);
        let find = |stages: &[(WorkerId, StageName)], id: WorkerId| {
            stages.iter().find(|(worker, _)| *worker == id).map(|(_, stage)| *stage)
        };
        let changed = self.stages.iter().map(|&(id, from)| (Some(from), find(&after.stages, id)));
        let new = after.stages.iter().filter(|(id, _)| find(&self.stages, *id).is_none());
        let stages = changed.chain(new.map(|&(_, to)| (None, Some(to))));
        let stages = stages.filter(|(from, to)| from != to).map(|(from, to)| Transition::Stage(from, to));
        let phase = (self.phase != after.phase).then_some(Transition::Phase(self.phase, after.phase));
        stages.chain(phase).collect()
    }
}

/// The first two columns of the rows below this heading.
fn rows(heading: &str) -> Vec<(String, String)> {
    let lines = HEAD_OF_CORE.lines().map(|line| line.trim_start_matches("//!").trim());
    let section = lines.skip_while(|line| *line != heading).skip(1).take_while(|line| !line.starts_with('#'));
    let rows = section.filter(|line| line.starts_with('|')).skip(2);
    rows.flat_map(|row| {
        let cells: Vec<&str> = row.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let to = cells[2].to_string();
        // One row may name several stages that are left in the same way.
        cells[1]
            .split(", ")
            .map(move |from| (from.trim_matches('`').to_string(), to.clone()))
            .collect::<Vec<_>>()
    })
    .collect()
}

/// The tables, as lines that [`Transition`] displays.
pub fn documented() -> Vec<String> {
    let stages = rows("# Stages of a worker").into_iter().map(|(from, to)| format!("stage {from} -> {to}"));
    let phases =
        rows("# Phases of the supervisor").into_iter().map(|(from, to)| format!("phase {from} -> {to}"));
    stages.chain(phases).collect()
}

/// How often each transition was seen.
#[derive(Default)]
pub struct Transitions(BTreeMap<Transition, u64>);

impl Transitions {
    pub fn see(&mut self, transition: Transition) {
        *self.0.entry(transition).or_default() += 1;
    }

    pub fn add(&mut self, other: Transitions) {
        for (transition, times) in other.0 {
            *self.0.entry(transition).or_default() += times;
        }
    }

    /// Transitions that are in no table, and rows that were never seen.
    pub fn undocumented_and_unseen(&self) -> (Vec<String>, Vec<String>) {
        let seen: Vec<String> = self.0.keys().map(Transition::to_string).collect();
        let documented = documented();
        let undocumented = seen.iter().filter(|line| !documented.contains(line)).cloned().collect();
        let unseen = documented.into_iter().filter(|line| !seen.contains(line)).collect();
        (undocumented, unseen)
    }
}

impl fmt::Display for Transitions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(transition, times)| write!(f, "\n  {transition}: {times}"))
    }
}
