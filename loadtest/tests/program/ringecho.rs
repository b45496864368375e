//! The generator against ringecho itself: over TCP, TLS and HTTP/2, on each of its data planes, every echo
//! is right.
//!
//! The server is another package's program, which cargo builds beside the generator's whenever it
//! tests both, and which is not built for these tests alone. Where it is not there, they are skipped.

use std::{
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::invocation::{
    Outcome, assert_matches, assert_matches_definition, in_long_enough, program, run,
};

const PLANES: [&[&str]; 4] = [
    &[],
    &["--driver=epoll"],
    &["--data-plane=portable"],
    &["--driver=epoll", "--data-plane=portable"],
];

const SHORT: &str = "--warmup 50ms --duration 500ms --threads 2 --connections 8";

/// A running server that listens with TLS and without.
pub(crate) struct Ringecho {
    pub(crate) child: Child,
    pub(crate) plain: String,
    secure: String,
}

impl Ringecho {
    /// Starts it; `None` if its program has not been built.
    pub(crate) fn start(flags: &[&str]) -> Option<Self> {
        let path = Path::new(env!("CARGO_BIN_EXE_ringecho-loadtest")).with_file_name("ringecho");
        if !path.exists() {
            // It stands for a machine that has everything.
            let is_needed =
                env::var_os("RINGECHO_TESTS_NEED_ENGINE").is_some_and(|it| !it.is_empty());
            assert!(!is_needed, "there is no {}: build it before", path.display());
            eprintln!("skipped: there is no {}", path.display());
            return None;
        }
        let mut command = Command::new(path);
        command.args(["--listen=127.0.0.1:0", "--listen=tls+127.0.0.1:0", "--tls-self-signed"]);
        command.args(["--workers=1", "--log-level=error"]).args(flags);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut url = || {
            let line = lines.next().expect("the server starts").unwrap();
            let url = line.strip_prefix("listening on ").expect(&line);
            url.split(' ').next().unwrap().to_owned()
        };
        let (plain, secure) = (url(), url());
        Some(Self { child, plain, secure })
    }

    /// Stops it, which ends what is still open in order.
    fn stop(mut self) {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Ringecho {
    fn drop(&mut self) {
        // It is not left behind by a test that fails.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn ringecho_echoes_everything_over_every_way_in() {
    for plane in PLANES {
        let Some(server) = Ringecho::start(plane) else { return };
        let (plain, secure) = (&server.plain, format!("{} --insecure", server.secure));
        for load in ["", "--depth 8 --payload 1..20KiB --fragments 3 --text", "--rate 500"] {
            for http2 in ["", "--http2 --transports 2"] {
                run(&format!("{plain} {SHORT} {load} {http2}")).assert_success();
                let outcome = run(&format!("{secure} {SHORT} {load} {http2}"));
                outcome.assert_success();
                let (alpn, sessions) = if http2.is_empty() { ("http/1.1", 8) } else { ("h2", 2) };
                assert_eq!(outcome.report["tls"]["agreed"][0]["alpn"], alpn);
                assert_eq!(outcome.number("/tls/handshake_us/samples"), sessions);
                if !http2.is_empty() {
                    assert_eq!(outcome.number("/http2/stream_us/samples"), 8);
                }
            }
        }
        server.stop();
    }
}

#[test]
fn cycles_searches_and_comparisons_go_over_every_way_in() {
    let Some(server) = Ringecho::start(&[]) else { return };
    let (plain, secure) = (&server.plain, format!("{} --insecure", server.secure));
    let load = "-c 4 -t 2 --warmup 0s --json -";
    let short = &format!("{load} --duration 300ms");
    for http2 in ["", "--http2"] {
        for url in [plain, &secure] {
            let churn = in_long_enough(
                |window| {
                    let flags = format!("{load} --duration {window} {http2}");
                    Outcome::read_any(&program(&format!("churn {url} {flags}")).output().unwrap())
                },
                |churn| churn.number("/cycles") > 0,
            );
            assert_matches(&churn.report, include_str!("../../churn.schema.json"));
            assert_eq!(churn.code, Some(0), "{:#}\n{}", churn.report, churn.stderr);
            assert!(churn.number("/cycles") > 0);
        }
        let range = "--slo p99<9s --start-rate 20 --max-rate 20 --confirm 1";
        let output = program(&format!("search {secure} {short} {range} {http2}")).output().unwrap();
        let search = Outcome::read_any(&output);
        assert_matches_definition(&search.report, "search");
        assert!(search.number("/probes/0/tls/handshake_us/samples") > 0);
        let compared = format!("{} {secure} {short} --rounds 2 {http2}", server.secure);
        let output = program(&format!("compare {compared}")).output().unwrap();
        let compare = Outcome::read_any(&output);
        assert_matches_definition(&compare.report, "compare");
        assert_eq!(compare.code, Some(0), "{:#}\n{}", compare.report, compare.stderr);
        assert!(compare.number("/b/rounds/1/tls/handshake_us/samples") > 0);
    }
    server.stop();
}
