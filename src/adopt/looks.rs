//! When it is checked whether workers have closed sockets of which we have a copy. No event says so:
//! it is looked after each event that may go with it, several times at growing pauses, and then not
//! again before the next event. So nothing is done at rest.

use crate::core::event::Time;
use std::time::Duration;

/// The pauses between checks after an event: doubled from the first to the longest, in which three
/// seconds pass.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(1600);
/// From this pause on a new connection counts as an event again. Under load there are so few checks.
const REARM_PAUSE: Duration = Duration::from_millis(800);
/// A pause is at least this many times what the last check took: it takes a sixtieth of a core.
const COST_FACTOR: u32 = 60;
/// The same where a worker binds an address again: it waits for the answer, and what is in its queue
/// would be lost. A server that does so all the time, and has many descriptors, gets a fifth of a core.
const BIND_COST_FACTOR: u32 = 4;
/// A check that costs no more is done each time that a worker binds an address again.
const FREE_COST: Duration = Duration::from_millis(5);
/// A check of so many sockets that it costs more is not done for each connection.
const FREE_LOOK: Duration = Duration::from_millis(1);

/// The times of the checks.
#[derive(Debug, Default)]
pub struct Looks {
    due: Option<Time>,
    pause: Duration,
    /// A check that reads every descriptor costs too much before this time.
    not_before: Time,
    /// The same where a worker binds an address again.
    bind_not_before: Time,
    /// A check for a connection costs too much before this time.
    arrival_not_before: Time,
}

impl Looks {
    /// Something has happened that may go with a close. A check that is due sooner stays, or a server
    /// that opens and closes all the time would put it off for ever.
    pub fn begin(&mut self, now: Time) {
        self.pause = FIRST_PAUSE;
        let next = (now + FIRST_PAUSE).max(self.not_before);
        self.due = Some(self.due.map_or(next, |due| due.min(next)));
    }

    /// When the next check is due.
    pub fn due(&self) -> Option<Time> {
        self.due
    }

    /// Whether every descriptor may be read now.
    pub fn may_read_all(&self, now: Time) -> bool {
        self.not_before <= now
    }

    /// The same where a worker binds an address again.
    pub fn may_read_all_to_bind(&self, now: Time) -> bool {
        self.bind_not_before <= now
    }

    /// Whether it is checked now because a connection has come.
    pub fn may_look_on_arrival(&self, now: Time) -> bool {
        self.arrival_not_before <= now
    }

    /// Every socket was looked at, which has taken this long.
    pub fn has_looked(&mut self, took: Duration, now: Time) {
        self.arrival_not_before = if took <= FREE_LOOK { now } else { now + took * COST_FACTOR };
    }

    /// Every descriptor was read, which has taken this long.
    pub fn has_read_all(&mut self, took: Duration, now: Time) {
        self.not_before = now + took * COST_FACTOR;
        self.bind_not_before = if took <= FREE_COST { now } else { now + took * BIND_COST_FACTOR };
    }

    /// A check is over. True if new connections are to be noticed again.
    pub fn end(&mut self, now: Time) -> bool {
        let rearm = self.pause >= REARM_PAUSE;
        self.due = (self.pause < LONGEST_PAUSE).then(|| {
            self.pause = (self.pause * 2).max(FIRST_PAUSE);
            (now + self.pause).max(self.not_before)
        });
        rearm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_come_to_an_end() {
        let mut looks = Looks::default();
        assert_eq!(looks.due(), None, "at rest");
        looks.begin(Time::ZERO);
        let mut times = Vec::new();
        let mut armed = 0;
        while let Some(due) = looks.due() {
            times.push(due.as_millis());
            armed += u32::from(looks.end(due));
        }
        assert_eq!((times, armed), (vec![50, 150, 350, 750, 1550, 3150], 2));
    }

    #[test]
    fn costly_checks_are_rare() {
        let mut looks = Looks::default();
        let read = Time::ZERO + Duration::from_secs(1);
        looks.has_read_all(Duration::from_millis(40), read);
        assert!(!looks.may_read_all(read + Duration::from_secs(2)));
        looks.begin(read);
        assert_eq!(looks.due(), Some(read + Duration::from_millis(2400)));
        assert!(looks.may_read_all(read + Duration::from_millis(2400)));
        assert!(!looks.may_read_all_to_bind(read + Duration::from_millis(159)));
        assert!(looks.may_read_all_to_bind(read + Duration::from_millis(160)));
        looks.has_read_all(Duration::from_millis(5), read);
        assert!(looks.may_read_all_to_bind(read));
    }

    #[test]
    fn a_check_of_many_sockets_does_not_come_with_each_connection() {
        let mut looks = Looks::default();
        let at = |millis| Time::ZERO + Duration::from_millis(millis);
        looks.has_looked(Duration::from_millis(1), at(100));
        assert!(looks.may_look_on_arrival(at(100)));
        looks.has_looked(Duration::from_millis(5), at(100));
        assert!(!looks.may_look_on_arrival(at(399)));
        assert!(looks.may_look_on_arrival(at(400)));
        looks.begin(at(110));
        assert_eq!(looks.due(), Some(at(160)), "it comes in time all the same");
    }

    #[test]
    fn a_server_that_opens_and_closes_all_the_time_puts_no_check_off() {
        let mut looks = Looks::default();
        let at = |millis| Time::ZERO + Duration::from_millis(millis);
        for millis in 0..50 {
            looks.begin(at(millis));
        }
        assert_eq!(looks.due(), Some(at(50)));
    }
}
