//! Where a server stands between the one before it and the one after it: whether its sockets are also
//! others', and what happens when a new server takes over. The talk between the two is left to
//! `takeover`.

use std::{path::Path, sync::mpsc::Sender};

use super::{
    Event, Server, StartError, Stop,
    takeover::{Door, Doorkeeper, HandOver, News, PATIENCE, Predecessor, TakeoverError},
};
use crate::{
    config::{Config, Time},
    worker::Drain,
};

/// Where a server stands between its predecessor and its successor.
#[derive(Default)]
pub(super) struct Succession {
    /// Waits for a successor.
    doorkeeper: Option<Doorkeeper>,
    /// A successor has the sockets too.
    is_handed_over: bool,
    /// There was a predecessor.
    pub(super) has_taken_over: bool,
}

impl Succession {
    /// Takes the place of the predecessor, if there is one, and waits for a successor from now on, if
    /// the configuration has a path for that.
    pub(super) fn begin(
        config: &Config,
        predecessor: Option<Predecessor>,
        events: Sender<Event>,
    ) -> Result<Self, StartError> {
        let Some(path) = &config.network.takeover else { return Ok(Self::default()) };
        let path: &Path = path.as_ref();
        let has_taken_over = predecessor.is_some();
        let door = match predecessor {
            Some(predecessor) => predecessor.succeed(path)?,
            None => Door::open(path).map_err(TakeoverError::at(path))?,
        };
        let tell = move |news| events.send(Event::Successor(news)).is_ok();
        let doorkeeper = Some(Doorkeeper::start(door, PATIENCE, tell)?);
        Ok(Self { doorkeeper, has_taken_over, ..Self::default() })
    }

    /// Waits for no successor any more.
    pub(super) fn end(&mut self) {
        self.doorkeeper = None;
    }
}

impl Server {
    /// Finds the server that runs at the configured path, and takes its sockets.
    pub(super) fn find_predecessor(config: &Config) -> Result<Option<Predecessor>, StartError> {
        let Some(path) = &config.network.takeover else { return Ok(None) };
        Ok(Predecessor::find(path.as_ref(), &config.network.listen)?)
    }

    /// Waits until all workers accept connections, and takes the predecessor's place if there is one.
    pub(super) fn succeed(
        &mut self,
        config: &Config,
        predecessor: Option<Predecessor>,
    ) -> Result<(), StartError> {
        let is_alone = predecessor.is_none();
        let succession = self
            .wait_until_ready()
            .and_then(|()| Succession::begin(config, predecessor, self.events_sender.clone()));
        match succession {
            Ok(succession) => self.succession = succession,
            Err(error) if is_alone => return Err(error),
            Err(error) => {
                // The predecessor goes on, but workers may have accepted connections meanwhile.
                let drain = Drain::configured(&self.service.time);
                self.stop_workers(Drain { leaves_queues: true, ..drain });
                return Err(error);
            }
        }
        Ok(())
    }

    /// Hears of a new server. Returns why to stop, if that is due.
    pub(super) fn hear_of_successor(&mut self, news: News) -> Option<Stop> {
        match news {
            News::Asks(answer) => {
                self.succession.is_handed_over = true;
                let are_supervised = self.sockets.are_supervised();
                let sockets = self.sockets.duplicates();
                let _ = answer.send(sockets.map(|sockets| HandOver { sockets, are_supervised }));
                None
            }
            News::Failed => {
                self.succession.is_handed_over = false;
                None
            }
            News::Accepts => {
                // Whoever asks is told of the successor from now on.
                self.admin = None;
                Some(Stop::Ordered(drain_of_takeover(&self.service.time)))
            }
        }
    }

    /// The same order, but queues that others accept from, or will, are left to them.
    pub(super) fn leaving_shared_queues(&self, drain: Drain) -> Drain {
        let are_shared = self.succession.is_handed_over || self.sockets.are_supervised();
        Drain { leaves_queues: drain.leaves_queues || are_shared, ..drain }
    }
}

/// How a server drains that another has taken over.
fn drain_of_takeover(time: &Time) -> Drain {
    Drain { quiet: Some(time.drain_quiet.get()), leaves_queues: true, ..Drain::configured(time) }
}
