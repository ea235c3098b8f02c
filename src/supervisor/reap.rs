//! What has ended: every exit is found its owner, and at the end nothing is left.

use super::{LAST_PATIENCE, LOOK_AGAIN, Run};
use crate::core::event::{AckKind, Event};
use crate::process::{Owner, exit_of};
use crate::supervisor::inputs::Input;
use crate::sys::process;
use crossbeam_channel::Receiver;
use log::debug;

impl Run {
    /// Signals coalesce, so every exit is looked for.
    pub(super) fn reap(&mut self) {
        for (pid, exit) in process::reap() {
            if self.is_check_of_successor(pid, exit) {
                continue;
            }
            match self.processes.owner(pid) {
                Owner::Worker(worker) => {
                    self.processes.reaped(worker, self.clock.now());
                    if exit == process::Exit::Code(0) && self.is_wanted(worker) {
                        self.processes.claim(worker);
                    }
                    if self.is_carried_on(worker, exit) {
                        continue;
                    }
                    let remains = self.processes.remains(worker);
                    self.soon.push_back(Event::Exited { worker, exit: exit_of(exit), remains });
                }
                Owner::Check(worker) => {
                    if let Some(process) =
                        self.processes.get_mut(worker).and_then(|entry| entry.process.as_mut())
                    {
                        process.check = None;
                    }
                    if exit == process::Exit::Code(0) {
                        self.soon.push_back(Event::Ack(worker, AckKind::Exec));
                    }
                }
                Owner::Hook => self.hook_ended(pid, exit),
                Owner::Nobody => debug!("reaped pid {pid}, an orphan"),
            }
        }
        self.look_for_unseen_ends();
        self.look_at_remains();
    }

    /// What no worker answers for goes with us, as what they leave behind does.
    pub(super) fn end_strays(&mut self, inputs: &Receiver<Input>) {
        let until = self.clock.now() + self.config.policy.stop_timeout.unwrap_or(LAST_PATIENCE);
        let mut kill = false;
        while self.processes.end_strays(kill) {
            let hurried = [libc::SIGINT, libc::SIGQUIT];
            self.service.turn();
            let input = inputs.recv_timeout(LOOK_AGAIN / 20);
            kill |= self.clock.now() >= until;
            kill |= matches!(input, Ok(Input::Signal(signal, _)) if hurried.contains(&signal));
            if let Ok(Input::Control(message)) = input {
                self.control(message);
            }
            process::reap().for_each(drop);
        }
    }
}
