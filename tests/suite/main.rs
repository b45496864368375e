//! Everything that needs more than one module: the transformer against an oracle, the portable
//! path over faulty streams, real workers with scripted peers and other people's clients, and the
//! program itself.
#![expect(unreachable_pub, reason = "the modules of a test binary are all private")]

mod admission;
mod balance;
mod check_host;
mod clients;
mod config_file;
mod demands;
mod dialogue;
mod drain;
mod endings;
mod fairness;
mod faults;
mod filter;
mod frame_header;
mod frames;
mod fuzzed;
mod hostile;
mod hostile_floods;
mod hostile_http;
mod hostile_http2;
mod hostile_port;
mod hostile_tcp;
mod hostile_text;
mod http;
mod http2;
mod http2_peer;
mod http_echo;
mod http_persistent;
mod listeners;
mod log;
mod oracle;
mod peer;
mod process;
mod program;
mod proxy;
mod proxy_header;
mod records;
mod sandbox;
#[path = "../seccomp/mod.rs"]
mod seccomp;
mod seen;
mod session;
mod signals;
mod slow;
mod soak;
mod spin;
mod start;
mod streams;
mod supervisor;
mod takeover;
mod time;
mod tls;
#[path = "../../benches/tls_client/mod.rs"]
mod tls_client;
mod transformer;
