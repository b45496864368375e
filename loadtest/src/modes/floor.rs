//! The generator's own floor: what it measures of an echo that takes as little time as can be.
//!
//! Before a run, one thread of the generator drives an echo of this process over loopback TCP, with
//! one connection, one small message at a time, and waiting as in the run. The echo is a thread that
//! always polls, so none of the floor is the echo's wake-up, and the two need a CPU each. Whatever a run
//! measures below its floor or close to it says more of the generator than of the server.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use super::run::run;
use crate::{
    count::latency_report::LatencyReport,
    drive::threads::pause,
    payload::{EchoKind, PayloadKind, PayloadPlan},
    plan::{Load, Plan, threads::ThreadPlan},
    result::progress::Progress,
    text::warning::{Warning, WarningCode},
    wire::{
        connector::{Connector, Limits, Wishes},
        handshake::accept_of,
        stream::{Endpoint, Sources},
    },
};

/// Payload of a message, in bytes.
const PAYLOAD_LEN: usize = 64;

/// Messages a second where the run has a rate. They are so few that what a busy machine has delayed
/// is soon made up for; at more, each delay would be in most of the latencies.
const RATE: &str = "2k";

/// At [`RATE`], 100 messages are measured.
const WARMUP: Duration = Duration::from_millis(10);
const DURATION: Duration = Duration::from_millis(50);

/// How long opening the connection may take.
const OPENING_MAX: Duration = Duration::from_millis(500);

/// How long the echo lives, whatever happens.
const ECHO_MAX: Duration = Duration::from_secs(2);

/// The longest request head that the echo answers.
const REQUEST_HEAD_LEN_MAX: usize = 4 << 10;

/// Measures the floor of a run with this plan; a warning says why there is none.
pub fn measure(plan: &Plan, interrupted: &AtomicBool) -> Result<LatencyReport, Warning> {
    let unmeasured = |cause: &dyn std::fmt::Display| {
        let text = format!("the generator's own part of latency could not be measured: {cause}");
        Warning::new(WarningCode::FloorUnmeasured, text)
    };
    if thread::available_parallelism().is_ok_and(|cpus| cpus.get() == 1) {
        return Err(unmeasured(&"the one CPU cannot both send and echo"));
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|it| unmeasured(&it))?;
    let floor_plan = floor_plan(plan, &listener).map_err(|it| unmeasured(&it))?;
    let is_over = Arc::new(AtomicBool::new(false));
    let deadline = Deadline { is_over: Arc::clone(&is_over), end: Instant::now() + ECHO_MAX };
    let echo = thread::Builder::new()
        .name("loadtest-floor".into())
        .spawn(move || echo(&listener, &deadline))
        .map_err(|it| unmeasured(&it))?;
    let measured = run(floor_plan, interrupted, &mut Progress::default());
    is_over.store(true, Relaxed);
    let echoed = echo.join().unwrap_or_else(|_| Err(io::Error::other("the echo panicked")));
    let report = measured.map_err(|it| unmeasured(&it))?;
    match (report.latency_us, echoed) {
        (Some(latency), _) => Ok(latency),
        (None, Err(error)) => Err(unmeasured(&error)),
        (None, Ok(())) => Err(unmeasured(&"no echo came in time")),
    }
}

/// The plan of the measurement: as the run's, with one connection to the echo.
fn floor_plan(plan: &Plan, listener: &TcpListener) -> io::Result<Plan> {
    let endpoint = Endpoint::Tcp(listener.local_addr()?);
    let target = "ws://localhost/".parse().expect("a URL");
    let limits = Limits { connect: OPENING_MAX, opening: OPENING_MAX };
    let (sources, wishes) = (Sources::new(Vec::new()), Wishes::default());
    let connector = Connector::new(&target, endpoint, sources, None, &wishes, limits);
    Ok(Plan {
        connector: Arc::new(connector),
        connections: 1,
        load: match plan.load {
            Load::Closed => Load::Closed,
            Load::Open(_) => Load::Open(RATE.parse().expect("a rate")),
        },
        wait: plan.wait,
        depth: 1,
        payload: PayloadPlan::generated(PayloadKind::Binary, PAYLOAD_LEN),
        fragments: 1,
        echo_kind: EchoKind::Bytes,
        reconnect: false,
        start_at: None,
        compression: false,
        warmup: WARMUP,
        duration: DURATION,
        threads: ThreadPlan { count: 1, cpus: plan.threads.cpus.clone() },
        server_pid: None,
    })
}

/// When the echo ends.
struct Deadline {
    is_over: Arc<AtomicBool>,
    end: Instant,
}

impl Deadline {
    fn check(&self) -> io::Result<()> {
        if self.is_over.load(Relaxed) || Instant::now() >= self.end {
            return Err(ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

/// Accepts one connection, answers its opening handshake, and echoes its bytes until it ends.
fn echo(listener: &TcpListener, deadline: &Deadline) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => deadline.check()?,
            Err(error) => return Err(error),
        }
        pause(Duration::from_millis(1));
    };
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    let mut head = Vec::new();
    let mut chunk = [0; 4096];
    while !head.ends_with(b"\r\n\r\n") {
        let len = receive(&mut stream, &mut chunk, deadline)?;
        if len == 0 || head.len() + len > REQUEST_HEAD_LEN_MAX {
            return Err(ErrorKind::InvalidData.into());
        }
        head.extend_from_slice(&chunk[..len]);
    }
    stream.write_all(&response(&head)?)?;
    loop {
        match receive(&mut stream, &mut chunk, deadline)? {
            0 => return Ok(()),
            // What is in flight always fits into the socket.
            len => stream.write_all(&chunk[..len])?,
        }
    }
}

/// Receives without sleeping; 0 at the end.
fn receive(stream: &mut TcpStream, chunk: &mut [u8], deadline: &Deadline) -> io::Result<usize> {
    loop {
        match stream.read(chunk) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => deadline.check()?,
            received => return received,
        }
    }
}

/// The response that accepts a request.
fn response(head: &[u8]) -> io::Result<Vec<u8>> {
    let head = String::from_utf8_lossy(head);
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    let key = fields.find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"));
    let (_, key) = key.ok_or(ErrorKind::InvalidData)?;
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        accept_of(key.trim())
    );
    Ok(response.into_bytes())
}
