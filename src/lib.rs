//! A WebSocket echo server for Linux: `io_uring`, one runtime per core, frames echoed in place.
//!
//! The program `ringecho` is a thin shell around [`server::Server`]. A test that needs an echo
//! server can start one in its own process:
//!
//! ```
//! use std::{net::TcpStream, thread};
//!
//! use ringecho::{
//!     config::{Config, Network},
//!     server::Server,
//! };
//!
//! // Port 0 takes a free one.
//! let network = Network { listen: vec!["127.0.0.1:0".parse()?], ..Network::default() };
//! let config = Config { network, ..Config::default() };
//! let server = Server::start(&config)?;
//! let (address, stop) = (server.address(), server.stop_handle());
//! let running = thread::spawn(move || server.run());
//!
//! let stream = TcpStream::connect(address)?;
//! let (mut client, _) = tungstenite::client(format!("ws://{address}/ws"), stream)?;
//! client.send("hello".into())?;
//! assert_eq!(client.read()?, "hello".into());
//! client.close(None)?;
//! // Reads until the server has answered the Close frame.
//! while client.read().is_ok() {}
//!
//! stop.stop();
//! let totals = running.join().expect("the server does not panic")?;
//! assert_eq!((totals.upgraded, totals.messages), (1, 1));
//! assert_eq!(totals.ended, [("closed_by_peer", 1)]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The modules
//!
//! The API is [`config`], [`server`] and [`metrics`]. The other modules are public for the project's
//! own tests and benchmarks, may change with every version, and are hidden in this documentation.
//! Without the feature `server` there are `host`, `protocol`, `stream` and `tls` alone, which the load
//! generator uses.
//!
//! The modules from the highest to the lowest: each uses modules below it and no other. In short,
//! `server` uses `worker`, which uses `entry`, `http2` and `plane`; below these are `handshake`,
//! `connection` and `protocol`, and `host` is the ground. `config` stands above `http` and
//! `handshake`, whose types some of its values have; these two never read the configuration.
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`server`] | the workers from start to stop: what this kernel can do, replacements, watchdog, takeover, signals, sandbox |
//! | `worker` | one core: accepting, the conversation of one connection, sweep, drain |
//! | `entry` | listening sockets, which connections may stay, and which worker gets one |
//! | `plane` | who moves the bytes of upgraded connections: the engine, or the portable path |
//! | `access_log` | a line for each connection that has ended |
//! | `connection` | what all connections share: ends, deadlines, quotas, lingering |
//! | `log` | the lines on stderr, which a thread of its own writes |
//! | [`config`] | every knob once: its flag, variable, default, range and reason |
//! | `http2` | the frames and streams of HTTP/2: one connection, and its streams as what a session is carried over |
//! | `handshake` | the opening handshake: origin, subprotocol, extensions, and its response |
//! | `http` | request heads in, small responses out: routes, refusals, the page |
//! | [`metrics`] | counters of each worker, their totals, and their exposition |
//! | `protocol` | RFC 6455 without I/O: session, echo, frame headers, masking, UTF-8, close codes |
//! | `stream` | what tasks read and write: halves, and waiting for them |
//! | `trust` | networks, and which peers are believed when they say for whom they speak |
//! | `pulse` | what a worker's thread is doing, for the watchdog |
//! | `tls` | TLS: sessions without I/O, and their streams, which the load generator uses too |
//! | `host` | CPUs, descriptors, runtimes, and what the kernel lets this process do |

#[cfg(feature = "server")]
#[doc(hidden)]
pub mod access_log;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod connection;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod entry;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod handshake;
#[doc(hidden)]
pub mod host;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod http;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod http2;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod log;
#[cfg(feature = "server")]
pub mod metrics;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod plane;
#[doc(hidden)]
pub mod protocol;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod pulse;
#[cfg(feature = "server")]
pub mod server;
#[doc(hidden)]
pub mod stream;
#[doc(hidden)]
pub mod tls;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod trust;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod worker;
