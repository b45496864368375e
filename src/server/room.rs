//! How many connections there is room for: each takes a descriptor, and some descriptors are kept for
//! other things.

use nix::sys::resource::{Resource, getrlimit};
use tracing::{info, warn};

use crate::{
    config::{Bounds, Within},
    entry::admission::Room,
    host::descriptors,
    worker::TURNED_AWAY_MAX,
};

/// Descriptors that are kept for what is not a connection: a worker's replacement, files that are read
/// again, connections to operate the server.
const RESERVE: u64 = 64;

/// The server warns if there is room for fewer connections than this.
const ROOM_SMALL: u32 = 1024;

/// Descriptors that are free, and how many of them are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Descriptors {
    free: u64,
    reserve: u64,
    workers: usize,
}

/// Finds how many connections there is room for, now that the server has opened everything else, and
/// says so.
pub(super) fn find_room(bounds: &Bounds, workers: usize) -> Room {
    if let Err(error) = getrlimit(Resource::RLIMIT_NOFILE) {
        info!(%error, "the limit of open files is not known, and does not bound connections");
        return Room { connections: u32::MAX, refused: u32::MAX };
    }
    let descriptors = Descriptors::new(descriptors::count_free(), workers);
    let room = descriptors.room();
    let connections_max = room.connections;
    if let Some(wanted) = bounds.connections_max.map(Within::get) {
        if wanted > connections_max {
            warn!(
                "--connections-max {wanted}: the limit of open files leaves room for \
                 {connections_max} connections; raise it with ulimit -n, or LimitNOFILE= of the \
                 service"
            );
        }
    } else {
        let Descriptors { free, reserve, .. } = descriptors;
        info!(
            "at most {connections_max} connections at a time: {free} descriptors are free, of which \
             {reserve} are kept in reserve"
        );
        if connections_max < ROOM_SMALL {
            warn!(
                "the limit of open files leaves room for {connections_max} connections; raise it \
                 with ulimit -n, or LimitNOFILE= of the service"
            );
        }
    }
    room
}

impl Descriptors {
    fn new(free: u64, workers: usize) -> Self {
        let reserve = RESERVE + (workers * TURNED_AWAY_MAX) as u64;
        Self { free, reserve: reserve.min(free / 4), workers }
    }

    /// Room for one connection at least. Of a reserve that is not whole a share is left for the rest too.
    fn room(self) -> Room {
        let connections = (self.free - self.reserve).clamp(1, u32::MAX.into()) as u32;
        let refused = (self.reserve / (self.workers as u64 + 1)) as u32;
        Room { connections, refused }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserve_is_for_all_workers_and_at_most_a_quarter() {
        let room = |free, workers| {
            let descriptors = Descriptors::new(free, workers);
            let Room { connections, refused } = descriptors.room();
            (descriptors.reserve, connections, refused)
        };
        assert_eq!(room(1 << 20, 2), (192, (1 << 20) - 192, 64));
        assert_eq!(room(1 << 20, 64), (4160, (1 << 20) - 4160, 64));
        assert_eq!(room(40, 2), (10, 30, 3));
        assert_eq!(room(1, 2), (0, 1, 0));
        assert_eq!(room(0, 2), (0, 1, 0));
        assert_eq!(room(1 << 40, 1).1, u32::MAX);
    }
}
