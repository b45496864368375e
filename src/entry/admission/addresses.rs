//! What is counted for each address: its open connections, and how fast they come.
//!
//! Connections are counted for addresses that have some. How fast an address connects is a bucket of
//! tokens, of which only the time is kept when it will be full. A bucket is full at the latest a
//! second after it was last taken from, and then need not be kept. So buckets lie in two
//! generations: one that is taken from, and the one before. Each second the older one is dropped as a
//! whole, and earlier when the younger one has [`BUCKETS_MAX`].

use std::{collections::HashMap, mem, net::IpAddr, time::Duration};

use super::AdmissionRefusal;

/// Addresses that count as one: an IPv4 address, or an IPv6 network of 64 bits (RFC 6177: a site has
/// at least one). An IPv4-mapped IPv6 address is the IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum AddressBlock {
    V4(u32),
    V6(u64),
}

/// The most buckets in a generation: as many as a hash table with 65,536 places takes. Whoever
/// connects from more addresses in a second gets the oldest buckets full again too early.
pub(super) const BUCKETS_MAX: usize = 7 << 13;

/// The time in which an empty bucket becomes full.
const FILLING: Duration = Duration::from_secs(1);

/// The addresses that are known, and what bounds each.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// The most open connections of an address; 0 for no bound.
    pub(super) connections_max: u32,
    /// The most new connections of an address in a second; 0 for no bound.
    pub(super) rate_max: u32,
    /// The number of open connections, where there are some.
    connections: HashMap<AddressBlock, u32>,
    buckets: Buckets,
}

/// How fast addresses connect.
#[derive(Debug, Default)]
struct Buckets {
    /// When a bucket will be full.
    younger: HashMap<AddressBlock, Duration>,
    older: HashMap<AddressBlock, Duration>,
    /// When the younger generation began.
    since: Duration,
}

impl From<IpAddr> for AddressBlock {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

impl Addresses {
    /// Whether there is a bound on an address.
    pub(super) fn are_bounded(&self) -> bool {
        self.connections_max > 0 || self.rate_max > 0
    }

    /// Admits a connection at the time `now`, and returns whether it is counted from now on, so that
    /// it has to be given back. A refused connection takes no token.
    pub(super) fn admit(
        &mut self,
        block: AddressBlock,
        now: Duration,
    ) -> Result<bool, AdmissionRefusal> {
        let is_counted = self.connections_max > 0;
        let open = if is_counted { self.connections.get(&block).copied().unwrap_or(0) } else { 0 };
        if is_counted && open >= self.connections_max {
            return Err(AdmissionRefusal::ConnectionsPerIpMax);
        }
        if self.rate_max > 0 && !self.buckets.take(block, self.rate_max, now) {
            return Err(AdmissionRefusal::ConnectRatePerIp);
        }
        if is_counted {
            self.connections.insert(block, open + 1);
        }
        Ok(is_counted)
    }

    /// Counts the end of a connection that was counted.
    pub(super) fn give_back(&mut self, block: AddressBlock) {
        let Some(open) = self.connections.get_mut(&block) else {
            debug_assert!(false, "only a counted connection is given back");
            return;
        };
        *open -= 1;
        if *open == 0 {
            self.connections.remove(&block);
            if self.connections.len() < self.connections.capacity() / 8 {
                self.connections.shrink_to(2 * self.connections.len());
            }
        }
    }

    /// How many addresses are known by their connections, and how many by their buckets.
    #[cfg(test)]
    pub(super) fn known(&self) -> (usize, usize) {
        (self.connections.len(), self.buckets.younger.len() + self.buckets.older.len())
    }
}

impl Buckets {
    /// Takes a token, of which a full bucket has `rate`. Returns whether there was one.
    fn take(&mut self, block: AddressBlock, rate: u32, now: Duration) -> bool {
        if now.saturating_sub(self.since) >= FILLING || self.younger.len() >= BUCKETS_MAX {
            self.older = mem::take(&mut self.younger);
            self.since = now;
        }
        let known = self.younger.get(&block).or_else(|| self.older.get(&block));
        let full_at = known.copied().unwrap_or_default().max(now) + FILLING / rate;
        if full_at > now + FILLING {
            return false;
        }
        self.younger.insert(block, full_at);
        true
    }
}
