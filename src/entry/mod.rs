//! How connections come in: the listening sockets, and which worker gets whom.

pub mod balance;
pub mod listener;
