//! What all connections have in common, whoever carries their bytes: how they end, what time they
//! have, and how a worker asks something of them.

pub mod clock;
mod control;
mod end;
pub mod intake;
mod linger;
pub mod memory_budget;
pub mod peer;
mod quota;
pub mod record;
mod reset;
mod write;

pub(crate) use self::quota::{Quota, let_others_go_on, noting_waits};
pub use self::{
    control::{Control, Demand},
    end::ConnectionEnd,
    linger::linger,
    quota::RECEIVE_QUOTA,
    reset::reset_when_closed,
    write::write_all,
};
