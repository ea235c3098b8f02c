//! The start of a worker: what it is made of is read, its channels are made, and its
//! process is entered in the processes.

use super::Run;
use crate::ack;
use crate::core::event::{Event, Generation, Reading as From, Refusal, Slot, WorkerId};
use crate::error::reason;
use crate::launch::capture::Capture;
use crate::launch::start::refused;
use crate::launch::{Reading, Refused};
use crate::process::Process;
use crate::sys::child;
use crate::sys::tree::{self, Family};
use log::{info, warn};
use nix::unistd::{Pid, Uid};
use std::os::fd::AsRawFd;

impl Run {
    pub(super) fn spawn(&mut self, id: WorkerId, generation: Generation, slot: Slot, from: From) {
        self.processes.open(id, generation, slot);
        self.look(self.processes.look(id));
        let event = match self.try_spawn(id, generation, slot, from) {
            Ok(()) => Event::Spawned(id),
            Err(Refused { refusal, message }) => {
                self.processes.refuse(id, message);
                Event::SpawnFailed(id, refusal)
            }
        };
        self.soon.push_back(event);
    }

    fn try_spawn(
        &mut self,
        id: WorkerId,
        generation: Generation,
        slot: Slot,
        from: From,
    ) -> Result<(), Refused> {
        let before = self.readings.get(&generation).filter(|_| from != From::Anew);
        let mut reading = match before {
            Some(reading) if from == From::Exactly => reading.exactly()?,
            Some(reading) => reading.as_before(),
            None => Reading::anew(&self.config.worker, &self.around, self.common.identity.as_ref())?,
        };
        if !self.readings.contains_key(&generation) {
            reading.pin(&self.config.worker.command);
        }
        let no_channels = |error: std::io::Error| Refused {
            refusal: Refusal::Other,
            message: format!("cannot make the ack channels: {}", reason(&error)),
        };
        let stderr = match &self.capture {
            Some(_) => Some(Capture::pipe(self.common.identity.as_ref()).map_err(no_channels)?),
            None => None,
        };
        let stored = self.stored(slot, generation).map_err(no_channels)?;
        let exported = self.common.exported(generation);
        let taken = &self.config.worker.pass_fds;
        let channels = self.config.acks.open(&self.directory, &exported, stored.len(), taken);
        let channels = channels.map_err(no_channels)?;
        let mut launch = self.common.worker(&reading, &channels, &stored, id, generation, slot)?;
        launch.fds.extend(stderr.as_ref().map(|(_, theirs)| (theirs.as_raw_fd(), 2)));
        let mut started = child::spawn(&launch).map_err(|error| refused(&error, &reading))?;
        info!(
            generation = generation.0, pid = started.pid.as_raw(), slot = slot.0;
            "{generation}: started pid {} (slot {}): {}", started.pid, slot.0, reading.real_program().display()
        );
        let ours = Uid::effective();
        let uid = self.common.identity.as_ref().map_or(ours, |identity| Uid::from_raw(identity.uid));
        let family = Family { worker: started.pid, group: started.pid, supervisor: Pid::this(), start: id.0 };
        let worker = ack::Worker { uid, generation, slot, stores: self.common.stores(), family };
        if let Some(entry) = self.processes.get_mut(id) {
            let mut process = Process::started(family, launch.own_group, started.pidfd);
            process.born = tree::stat(started.pid).map_or(0, |stat| stat.born);
            let given = self.common.listeners.of(generation.0).map(|listener| listener.inode(slot.0));
            process.listening = given.collect();
            entry.process = Some(process);
        }
        self.note_birth(id);
        self.hear_calls(id, started.calls.take());
        match channels.watch(&self.watcher, id, worker) {
            Ok(until_alone) => self.processes.until_alone(id, until_alone),
            Err(error) => {
                warn!("{generation}: pid {}: its acks cannot be heard: {}", started.pid, reason(&error));
            }
        }
        if let (Some(capture), Some((ours, _))) = (&self.capture, stderr)
            && let Err(error) = capture.watch(id, ours)
        {
            warn!("{generation}: pid {}: its stderr cannot be read: {}", started.pid, reason(&error));
        }
        self.readings.entry(generation).or_insert(reading);
        Ok(())
    }

    /// Keeps what a generation is made of whose first worker another one starts.
    pub(super) fn note_reading(&mut self, generation: Generation) {
        if self.readings.contains_key(&generation) {
            return;
        }
        let (worker, identity) = (&self.config.worker, self.common.identity.as_ref());
        if let Ok(mut reading) = Reading::anew(worker, &self.around, identity) {
            reading.pin(&worker.command);
            self.readings.insert(generation, reading);
        }
    }
}
