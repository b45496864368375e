//! `--spin`: workers that poll before they sleep answer as others do.

use std::time::Duration;

use ringecho::config::{Config, Cores, ShortTime, Within};

use crate::{
    frames::{close, server_close, text},
    peer::{config, with_server},
};

/// The shortest, after which a worker sleeps between two messages, and the longest, within which the
/// next message usually comes.
const SPINS: [Duration; 2] = [Duration::from_nanos(1), Duration::from_millis(1)];

#[test]
fn workers_that_poll_before_they_sleep_echo_and_stop() {
    for spin in SPINS {
        let spin = Within::new(ShortTime(spin)).unwrap();
        let cores = Cores { spin, ..config().cores };
        with_server(&Config { cores, ..config() }, |server| {
            let mut peers = [server.open(), server.open()];
            for _ in 0..100 {
                for peer in &mut peers {
                    peer.send(text("hello").encode());
                    peer.expect(b"\x81\x05hello");
                }
            }
            server.begin_to_stop();
            for peer in &mut peers {
                peer.expect(server_close(1001, "the server is stopping"));
                peer.send(close(1001, "").encode());
                peer.expect_end();
            }
        });
    }
}
