//! How connections come in: the listening sockets, who may stay, and which worker gets a connection.

pub mod admission;
pub mod arrival;
pub mod balance;
pub mod complaints;
pub mod listener;
pub mod proxy_header;
pub(crate) mod socket_file;
pub mod tls;
