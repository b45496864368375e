//! Echo: what a connection's buffers take, and what frames and messages may be.

use clap::Args;

use crate::config::values::{KIB, MIB, PowerOfTwo, Size, Within, group_defaults};

/// What a connection's buffers take, and what frames and messages may be.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(next_help_heading = "Echo")]
pub struct Echo {
    /// How far a connection's receive buffer may grow; on the engine, the size of the shared ones
    ///
    /// The buffer starts with [`RECEIVE_BUFFER_START`] and doubles whenever a read fills it. A
    /// larger buffer takes fewer reads for large messages, until it no longer fits the CPU's cache.
    #[arg(long, value_name = "SIZE", default_value = "256KiB")]
    pub receive_buffer: Within<Size, { RECEIVE_BUFFER_START.0 }, { 16 * MIB }>,

    /// How many receive buffers of that size a worker's connections share on the engine
    ///
    /// The buffers hold what arrives in a turn; the kernel fills those first that the cache still
    /// holds. Each turn lists all buffers for the kernel, so their number is bounded. Together they
    /// take at most [`RECEIVE_BUFFERS_TOTAL_MAX`].
    #[arg(long, value_name = "COUNT", default_value = "8")]
    pub receive_buffers: Within<PowerOfTwo, 2, 1024>,

    /// Most that is kept for a client that does not read its echoes
    ///
    /// Once this much is kept, nothing more is received from the client. A client that sends
    /// everything before it reads anything can send this much, and what fits the buffers of both
    /// sockets. Before Linux 6.17 the engine may keep more, by what fits its shared buffers.
    #[arg(long, value_name = "SIZE", default_value = "1MiB")]
    pub unsent_max: Within<Size, { 64 * KIB }, { 64 * MIB }>,

    /// Most that all connections together hold beyond the shared receive buffers
    ///
    /// Copies of unsent echoes, receive buffers of single connections, held frames and request
    /// heads. Once they hold more, the connections that hold the most are reset. Unlimited by
    /// default, since only who runs the server knows what else the machine's memory is for.
    #[arg(long, value_name = "SIZE", default_value = "unlimited")]
    pub memory_max: Within<Size, MIB, { Size::UNLIMITED.0 }>,

    /// Longest frame that is held until it is whole; longer ones are sent on as they arrive
    ///
    /// A fault in a held frame is answered with a close code; a fault in a frame that is half sent
    /// ends the connection without one. Held bytes take memory only while their frame is
    /// incomplete.
    #[arg(long, value_name = "SIZE", default_value = "4KiB")]
    pub hold: Within<Size, 0, MIB>,

    /// Longest frame of a message; a longer one is answered with close code 1009
    ///
    /// The fault is found at the frame's header, before any of its payload is received. No frame
    /// takes memory in proportion to its length, so the default needs no limit.
    #[arg(long, value_name = "SIZE", default_value = "unlimited")]
    pub frame_size_max: Within<Size, 1, { Size::UNLIMITED.0 }>,

    /// Longest message; a longer one is answered with close code 1009
    ///
    /// No message takes memory in proportion to its length, so the default needs no limit.
    #[arg(long, value_name = "SIZE", default_value = "unlimited")]
    pub message_size_max: Within<Size, 1, { Size::UNLIMITED.0 }>,
}

/// The size with which every connection's receive buffer starts: one page holds most messages.
pub const RECEIVE_BUFFER_START: Size = Size(4 * KIB);

/// The most memory that the shared receive buffers of a worker take together. It is taken at the
/// start, and a small part of it is already more than any cache holds.
pub const RECEIVE_BUFFERS_TOTAL_MAX: Size = Size(1024 * MIB);

impl Default for Echo {
    fn default() -> Self {
        group_defaults()
    }
}
