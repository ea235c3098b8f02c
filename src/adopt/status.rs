//! What status and messages show of the adopted sockets.

use super::Adopt;
use super::key::Key;
use crate::core::event::WorkerId;
use crate::sys::steering;
use std::os::fd::AsFd;

/// An address, as status shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The address.
    pub address: String,
    /// Whether all generations share its sockets.
    pub shared: bool,
    /// The worker whose sockets new connections go to; None if they are shared.
    pub serving: Option<WorkerId>,
    /// The number of those sockets.
    pub sockets: usize,
    /// The number of sockets of workers that drain, start or have ended.
    pub others: usize,
    /// The number of connections that the worker that serves has not accepted yet.
    pub queue: Option<u32>,
}

impl Adopt {
    /// Why the worker does not listen at every address that it has to, for people.
    pub fn unmet(&self, id: WorkerId) -> Option<String> {
        let worker = self.workers.get(&id)?;
        let list = |keys: &mut dyn Iterator<Item = &Key>| {
            keys.map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        let missing = list(&mut self.wanted.difference(&worker.listens));
        let listens = list(&mut worker.listens.iter());
        let others = list(&mut worker.others.iter());
        let nothing = if let Some(warning) = worker.warnings.last() {
            warning.clone()
        } else if others.is_empty() {
            "it was never seen to listen".to_owned()
        } else {
            format!("it listens on {others} alone, which --port leaves out")
        };
        Some(match (worker.listens.is_empty(), missing.is_empty()) {
            (true, true) if others.is_empty() && worker.warnings.is_empty() => {
                format!(
                    "{nothing} on a TCP port (a unix socket, port 0, io_uring, a 32-bit program? Those are not adopted: let it have its sockets from -b; or it needs a longer --ack-timeout)"
                )
            }
            (true, true) => nothing,
            (true, false) => format!("{nothing}, and is to listen on {missing}"),
            (false, false) => format!("it is to listen on {missing}, and listens on {listens}"),
            (false, true) => return None,
        })
    }

    /// Every address, for people.
    pub fn addresses(&self) -> Vec<Shown> {
        let steered = self.groups.iter().map(|(key, group)| {
            let sockets = group.serving().map_or(0, |id| group.sockets(id).count());
            let others = group.len() - sockets;
            let own = group.serving().into_iter().flat_map(|id| group.sockets(id));
            let queue = own.filter_map(|(_, socket)| steering::queue_length(socket.as_fd()).ok()).sum();
            let (address, serving) = (key.to_string(), group.serving());
            Shown { address, shared: false, serving, sockets, others, queue: Some(queue) }
        });
        let shared = self.shared.counts().map(|(key, sockets, queue)| Shown {
            address: key.to_string(),
            shared: true,
            serving: None,
            sockets,
            others: 0,
            queue,
        });
        steered.chain(shared).collect()
    }

    /// How sockets are adopted, as `--adopt` has it.
    pub fn mode(&self) -> &'static str {
        if self.config.share { "share" } else { "steer" }
    }

    /// The last warning about the worker.
    pub fn last_warning(&self, id: WorkerId) -> Option<&str> {
        self.workers.get(&id)?.warnings.last().map(String::as_str)
    }
}
