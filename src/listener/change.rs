//! Listeners that are added and removed while workers serve: `ctl bind` and `ctl unbind`.
//!
//! Contract: a change is part of the next upgrade. A new listener is bound at once, so that an
//! error is reported to the client. Workers get it from the next generation on, after those that
//! were there before. A listener that is removed is closed once that generation serves. If the
//! upgrade is undone, both wait for the one after it, and workers of the old generation that are
//! started again get the same listeners as before.

use super::address::{Address, Bind, Host};
use super::baseline::Baseline;
use super::lifetime::FirstGeneration;
use super::open::{open, plan};
use super::{Listener, Listeners};
use crate::dialect::{Dialect, check};
use crate::error::Error;
use std::path::Path;

impl Listener {
    /// Whether workers of this generation get it.
    pub fn is_for(&self, generation: u32) -> bool {
        self.since.includes(generation) && !self.until.is_some_and(|until| until.includes(generation))
    }

    /// Whether workers get it only from the next upgrade on.
    pub fn is_new(&self) -> bool {
        self.since == FirstGeneration::Next
    }

    /// Whether the next upgrade closes it.
    pub fn is_leaving(&self) -> bool {
        self.until.is_some()
    }

    /// What the next upgrade changes about it, in words; None: nothing.
    pub fn outlook(&self) -> Option<&'static str> {
        match (self.is_new(), self.is_leaving()) {
            (true, _) => Some("handed over from the next upgrade on"),
            (_, true) => Some("closed by the next upgrade"),
            _ => None,
        }
    }
}

impl Listeners {
    /// The listeners that workers of this generation get, in the order of their descriptors.
    pub fn of(&self, generation: u32) -> impl Iterator<Item = &Listener> {
        self.list.iter().filter(move |listener| listener.is_for(generation))
    }

    /// The listeners that the next generation will get.
    pub fn next(&self) -> impl Iterator<Item = &Listener> {
        self.list.iter().filter(|listener| !listener.is_leaving())
    }

    /// Binds one more listener, for the next upgrade. If there is already one at this address,
    /// which that upgrade would close, it is kept instead. Returns the listener, and whether it
    /// is new.
    ///
    /// # Errors
    /// As [`Listeners::open`]; and for what is possible only at the start: a descriptor,
    /// `reuseport`, a host name (a lookup could block the loop).
    pub fn add(
        &mut self,
        mut bind: Bind,
        directory: &Path,
        dialects: &[Dialect],
    ) -> Result<(&Listener, bool), Error> {
        let refuse = |why: &str| Err(Error::Usage(why.to_owned()));
        if bind.options.reuseport {
            return refuse("reuseport belongs to slots, which have their sockets from the start");
        }
        match &bind.address {
            Address::Fd(_) => return refuse("only a start hands us descriptors"),
            Address::Tcp { host: Host::Name(name), .. } | Address::Udp { host: Host::Name(name), .. }
                if name != "localhost" =>
            {
                return refuse("names are looked up at the start only (write its address)");
            }
            _ => {}
        }
        let written = bind.address.to_string();
        let named = |listener: &Listener| bind.name.as_ref().is_none_or(|name| listener.name == *name);
        let is_kept = |listener: &Listener| {
            let same_address = listener.written == written || listener.address == written;
            listener.until == Some(FirstGeneration::Next) && same_address && named(listener)
        };
        if let Some(index) = self.list.iter().position(is_kept) {
            self.list[index].until = None;
            return Ok((&self.list[index], false));
        }
        if let Some(name) = &bind.name
            && self.next().any(|listener| listener.name == *name)
        {
            return refuse(&format!("{name} is there already"));
        }
        if dialects.iter().any(|dialect| dialect.nonblock()) {
            bind.options.nonblock.get_or_insert(true);
        }
        let plan = plan(&bind, directory)?;
        let new = check::UnboundListener { written, kind: plan.kind() };
        let unbound: Vec<check::UnboundListener> = self.next().map(unbound_listener).chain([new]).collect();
        check::listeners(dialects, &unbound).map_err(Error::Usage)?;
        let free = |name: &String| !self.list.iter().any(|listener| listener.name == *name);
        let unnamed = || (self.list.len()..).map(|number| format!("socket{number}")).find(free);
        let name = bind.name.clone().or_else(unnamed).unwrap_or_default();
        let mut listener = open(&bind, plan, name, 1, &self.list)?;
        listener.since = FirstGeneration::Next;
        listener.origin = bind.to_string();
        listener.baseline = Baseline::new(&listener.sockets);
        self.list.push(listener);
        Ok((&self.list[self.list.len() - 1], true))
    }

    /// Removes the listener of this name with the next upgrade. One that no worker has got yet is
    /// closed at once. Returns whether it was closed.
    ///
    /// # Errors
    /// A message: there is no such listener, or there are several, or none would be left although
    /// the workers need one.
    pub fn withdraw(&mut self, name: &str, dialects: &[Dialect]) -> Result<bool, String> {
        let list = self.list.iter().enumerate();
        let mut found = list.filter(|(_, it)| it.name == name && !it.is_leaving()).map(|(index, _)| index);
        let Some(index) = found.next() else {
            let names: Vec<&str> = self.next().map(Listener::name).collect();
            return Err(format!("there is no such listener (there are: {})", names.join(", ")));
        };
        if found.next().is_some() {
            return Err("several listeners have that name".into());
        }
        let left = self.list.iter().enumerate().filter(|(at, it)| *at != index && !it.is_leaving());
        let unbound: Vec<check::UnboundListener> =
            left.map(|(_, listener)| unbound_listener(listener)).collect();
        if unbound.is_empty() {
            return Err("it is the last one (bind another first)".into());
        }
        check::listeners(dialects, &unbound)?;
        if self.list[index].is_new() {
            self.list.remove(index);
            return Ok(true);
        }
        self.list[index].until = Some(FirstGeneration::Next);
        Ok(false)
    }

    /// An upgrade to this generation begins: the pending changes are part of it.
    pub fn begin(&mut self, to: u32) {
        for listener in &mut self.list {
            listener.since.begin(to);
            listener.until.iter_mut().for_each(|until| until.begin(to));
        }
    }

    /// That upgrade was undone as a whole. A listener that was added for it and then removed is
    /// closed.
    pub fn undo(&mut self, to: u32) {
        for listener in &mut self.list {
            listener.since.undo(to);
            listener.until.iter_mut().for_each(|until| until.undo(to));
        }
        self.list.retain(|listener| !(listener.is_new() && listener.is_leaving()));
    }

    /// Every worker that serves belongs to this generation: listeners that none of them has got
    /// are closed. Returns them in words.
    pub fn close_for(&mut self, generation: u32) -> Vec<String> {
        let closed = |listener: &mut Listener| listener.until.is_some_and(|until| until.includes(generation));
        let closed = self.list.extract_if(.., closed).map(|listener| listener.to_string());
        closed.inspect(|listener| log::info!("{listener} is closed")).collect()
    }
}

fn unbound_listener(listener: &Listener) -> check::UnboundListener {
    check::UnboundListener { written: listener.written.clone(), kind: listener.kind }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::ListenFds;

    fn names(listeners: &Listeners, generation: u32) -> Vec<String> {
        listeners.of(generation).map(|listener| listener.name.clone()).collect()
    }

    fn some(binds: &[&str]) -> Listeners {
        let binds: Vec<Bind> = binds.iter().map(|bind| bind.parse().unwrap()).collect();
        Listeners::open(ListenFds::default(), &binds, Path::new("/"), 1, &[]).unwrap()
    }

    fn add(listeners: &mut Listeners, bind: &str) -> Result<String, Error> {
        let (added, _) = listeners.add(bind.parse().unwrap(), Path::new("/"), &[Dialect::ListenFds])?;
        Ok(added.name.clone())
    }

    #[test]
    fn a_change_is_part_of_the_next_upgrade_that_succeeds() {
        let mut listeners = some(&["a=127.0.0.1:0", "b=127.0.0.1:0"]);
        assert_eq!(add(&mut listeners, "127.0.0.1:0"), Ok("socket2".into()));
        assert_eq!(listeners.withdraw("a", &[]), Ok(false));
        assert_eq!(names(&listeners, 1), ["a", "b"]);
        listeners.begin(2);
        assert_eq!(
            (names(&listeners, 1), names(&listeners, 2)),
            (vec!["a".into(), "b".into()], vec!["b".into(), "socket2".into()])
        );
        listeners.undo(2);
        listeners.close_for(1);
        assert_eq!((names(&listeners, 1), listeners.len()), (vec!["a".into(), "b".into()], 3));
        listeners.begin(3);
        listeners.close_for(3);
        assert_eq!((names(&listeners, 3), listeners.len()), (vec!["b".into(), "socket2".into()], 2));
    }

    #[test]
    fn a_listener_that_no_worker_has_is_closed_at_once() {
        let mut listeners = some(&["a=127.0.0.1:0"]);
        add(&mut listeners, "b=127.0.0.1:0").unwrap();
        assert_eq!(listeners.withdraw("b", &[]), Ok(true));
        assert_eq!(listeners.len(), 1);
    }

    #[test]
    fn a_listener_that_would_be_closed_can_be_kept() {
        let mut listeners = some(&["a=127.0.0.1:0", "b=127.0.0.1:0"]);
        let address = listeners.iter().next().unwrap().address().to_owned();
        assert_eq!(listeners.withdraw("a", &[]), Ok(false));
        assert!(listeners.withdraw("b", &[]).unwrap_err().contains("the last one"));
        assert!(add(&mut listeners, &format!("c={address}")).unwrap_err().to_string().contains("in use"));
        assert_eq!(add(&mut listeners, &address), Ok("a".into()));
        listeners.begin(2);
        listeners.close_for(2);
        assert_eq!((names(&listeners, 2), listeners.len()), (vec!["a".into(), "b".into()], 2));
    }

    #[test]
    fn a_listener_that_was_added_for_an_undone_upgrade_can_be_removed() {
        let mut listeners = some(&["a=127.0.0.1:0"]);
        add(&mut listeners, "b=127.0.0.1:0").unwrap();
        listeners.begin(2);
        assert_eq!(listeners.withdraw("b", &[]), Ok(false));
        listeners.undo(2);
        assert_eq!(names(&listeners, 1), ["a"]);
        assert_eq!(listeners.len(), 1);
    }

    #[test]
    fn an_invalid_change_is_refused_and_changes_nothing() {
        let mut listeners = some(&["a=127.0.0.1:0", "b=127.0.0.1:0"]);
        for (bind, why) in [
            ("127.0.0.1:0,reuseport", "reuseport"),
            ("fd://0", "descriptors"),
            ("host.invalid:1", "write its address"),
            ("a=127.0.0.1:0", "a is there already"),
        ] {
            let error = add(&mut listeners, bind).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let address = listeners.iter().next().unwrap().address().to_owned();
        assert!(add(&mut listeners, &address).unwrap_err().to_string().contains("in use"));
        assert!(listeners.withdraw("c", &[]).unwrap_err().contains("there are: a, b"));
        assert_eq!(listeners.withdraw("a", &[]), Ok(false));
        assert!(listeners.withdraw("a", &[]).is_err(), "twice");
        assert!(listeners.withdraw("b", &[]).unwrap_err().contains("the last one"));
        assert_eq!(listeners.len(), 2);
    }
}
