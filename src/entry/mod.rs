//! How connections come in: the listening sockets, and which worker gets a connection.

pub mod balance;
pub mod listener;
