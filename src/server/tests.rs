//! Servers whose workers stop, die and are replaced.

use std::{
    env,
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
    sync::{
        Barrier, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc::channel,
    },
    thread,
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{
    replacement::{DEATHS_MAX, TRIES_MAX},
    sandbox::{Sandbox, SandboxError},
    watchdog::Report,
    *,
};
use crate::{
    config::{self, Cores, DataPlane, Network, Privileges, Sandboxing, Within},
    entry::listener::ListenError,
    host::descriptors::count_free,
};

pub(super) fn config() -> Config {
    listening_at(SocketAddr::from(([127, 0, 0, 1], 0)))
}

fn listening_at(listen: SocketAddr) -> Config {
    let listen = vec![listen.into()];
    Config { network: Network { listen, ..Network::default() }, ..Config::default() }
}

fn with_workers(workers: u32) -> Config {
    let workers = Some(Within::new(workers).unwrap());
    Config { cores: Cores { workers, ..Cores::default() }, ..config() }
}

/// Runs ordinary workers, and calls `when_ready` with a worker's number once it accepts
/// connections.
fn running(when_ready: impl Fn(usize) + Send + Sync + 'static) -> RunWorker {
    let when_ready = Arc::new(when_ready);
    Arc::new(move |worker, plan, announce| {
        let when_ready = when_ready.clone();
        worker::run(plan, move |ready| {
            announce(ready);
            when_ready(worker);
        })
    })
}

/// Has the worker `dying` panic when the returned sender tells it to. It waits for that once it is
/// ready.
fn dying_when_told(dying: usize) -> (Sender<()>, RunWorker) {
    let (die, told) = channel();
    let told = Mutex::new(told);
    let run_worker = running(move |worker| {
        if worker == dying {
            told.lock().unwrap().recv().unwrap();
            panic!("a defect, for the test");
        }
    });
    (die, run_worker)
}

#[test]
fn taken_port_is_refused_unless_it_is_shared() {
    let server = Server::start(&config()).unwrap();
    let second = listening_at(server.address());
    let refusal = Server::start(&second).err().expect("the port is taken");
    assert!(matches!(refusal, StartError::Listen(ListenError::AddressInUse(_))), "{refusal}");
    let network = Network { reuse_port: true, ..second.network };
    let shared = Config { network, ..second };
    assert!(Server::start(&shared).is_ok());
}

#[test]
fn replacement_has_its_share_of_the_connections() {
    let both_ready = Barrier::new(2);
    let lives = AtomicU32::new(0);
    let (ready, replaced) = channel();
    let run_worker = running(move |worker| {
        if worker == 0 {
            both_ready.wait();
            return;
        }
        match lives.fetch_add(1, Ordering::Relaxed) {
            // A server whose worker dies before the others are ready does not start.
            0 => both_ready.wait().is_leader(),
            1 => false,
            _ => return ready.send(()).unwrap(),
        };
        panic!("a defect, for the test");
    });
    let server = Server::start_with(&with_workers(2), run_worker).unwrap();
    let (address, stop) = (server.address(), server.stop_handle());
    let running = thread::spawn(move || server.run());
    replaced.recv().unwrap();

    let url = format!("ws://{address}/ws");
    let connect = |_| tungstenite::client(&url, TcpStream::connect(address).unwrap()).unwrap();
    let clients: Vec<_> = (0..8).map(connect).collect();
    drop(clients);
    stop.stop();
    let totals = running.join().unwrap().unwrap();
    assert_eq!(totals.accepted_by_worker, [4, 4]);
    assert_eq!(totals.ended_count(), 8);
}

#[test]
fn connections_of_a_worker_that_dies_while_it_is_to_stop_are_counted() {
    const LOST: u64 = 3;
    let (die, run_worker) = dying_when_told(1);
    let config = with_workers(2);
    let server = Server::start_with(&config, run_worker).unwrap();
    server.workers[1].counters.accepted.add(LOST);
    server.stop_handle().stop();
    die.send(()).unwrap();
    let totals = server.run().unwrap();
    assert_eq!(totals.ended, [("worker_died", LOST)]);
}

/// A lost worker's connections stay counted in the balance, and the server ends all the same.
#[test]
fn server_that_loses_a_worker_with_connections_ends() {
    let (die, run_worker) = dying_when_told(0);
    let config = with_workers(2);
    let mut server = Server::start_with(&config, run_worker).unwrap();
    let clients = [(); 16].map(|()| TcpStream::connect(server.address()).unwrap());
    while server.workers[1].counters.accepted.get() == 0 {
        thread::yield_now();
    }
    for _ in 1..DEATHS_MAX {
        assert!(!server.deaths.are_too_many(Instant::now()));
    }
    die.send(()).unwrap();
    drop(clients);
    let counters = [0, 1].map(|worker: usize| server.workers[worker].counters.clone());
    let Err(RunError::WorkerLost { loss, totals }) = server.run() else { panic!("it gives up") };
    assert_eq!(loss.worker, 0);
    let accepted = counters.map(|counters| counters.accepted.get());
    assert_eq!(totals.accepted_by_worker, accepted);
    assert!(totals.accepted > 0 && totals.ended_count() == totals.accepted, "{totals:?}");
}

#[test]
fn replacement_that_cannot_start_is_tried_again_until_the_server_gives_up() {
    let mut server = Server::start(&config()).unwrap();
    server.spawn_thread = |_, _| Err(io::ErrorKind::WouldBlock.into());
    for tried in 1..TRIES_MAX {
        server.replace_worker(0).unwrap();
        assert_eq!(server.workers[0].place.tries, tried);
        assert_eq!(server.replacements.len(), 1);
    }
    let error = server.replace_worker(0).unwrap_err();
    assert!(matches!(error, WorkerLoss { worker: 0, hopeless: Hopeless::Tries(TRIES_MAX), .. }));
    assert!(error.to_string().contains("no thread can be started"), "{error}");
    server.stop_workers(Drain::configured(&server.service.time));
}

/// Descriptors belong to the process, so this test runs in one of its own.
#[test]
fn replacement_for_which_there_is_no_descriptor_waits_until_there_is_one() {
    const ALONE: &str = "RUN_ALONE";
    const NAME: &str = "replacement_for_which_there_is_no_descriptor_waits_until_there_is_one";
    if env::var_os(ALONE).is_none() {
        let mut alone = Command::new(env::current_exe().unwrap());
        alone.args(["--exact", &format!("server::tests::{NAME}")]).env(ALONE, "1");
        let output = alone.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        return assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }
    let mut server = Server::start(&config()).unwrap();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let lowest_free = soft - count_free();
    // None for the listener, or one for it and too few for the socket pair.
    for more in 0..3 {
        setrlimit(Resource::RLIMIT_NOFILE, lowest_free + more, hard).unwrap();
        for _ in 0..2 * TRIES_MAX {
            server.replace_worker(0).unwrap();
            assert_eq!((server.workers[0].place.tries, server.replacements.len()), (0, 1));
        }
    }
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    server.replace_worker(0).unwrap();
    assert!(server.replacements.is_empty());
    while !matches!(server.next_event(), Event::Ready { .. }) {}
    server.stop_workers(Drain::configured(&server.service.time));
}

#[test]
fn replacement_whose_thread_cannot_be_started_is_assigned_no_connections() {
    const CLIENTS: u64 = 8;
    let (die, run_worker) = dying_when_told(1);
    let mut server = Server::start_with(&with_workers(2), run_worker).unwrap();
    die.send(()).unwrap();
    assert!(matches!(server.next_event(), Event::Ended { worker: 1, .. }));
    server.spawn_thread = |_, _| Err(io::ErrorKind::WouldBlock.into());
    server.replace_worker(1).unwrap();

    // The place of worker 1 has the fewest connections. Those that the kernel puts into its queue
    // wait there for a replacement.
    let mut clients = Vec::new();
    while server.workers[0].counters.accepted.get() < CLIENTS {
        clients.push(TcpStream::connect(server.address()).unwrap());
        thread::sleep(Duration::from_millis(1));
    }
    drop(clients);
    let drain = Drain::configured(&server.service.time);
    let accepted = server.stop_workers(drain).accepted_by_worker;
    assert!(accepted[0] >= CLIENTS && accepted[1] == 0, "{accepted:?}");
}

#[test]
fn worker_whose_ring_fails_is_replaced_by_one_on_epoll() {
    const LOST: u64 = 5;
    let (start, started) = channel();
    let run_worker: RunWorker = Arc::new(move |_, plan, announce| {
        let platform = plan.platforms[0];
        start.send(plan.platforms.clone()).unwrap();
        if platform.driver == Driver::Epoll {
            return worker::run(plan, announce);
        }
        announce(Ready { platform, shortage: None, unpinned: None });
        plan.counters.accepted.add(LOST);
        Err(WorkerError::Engine(nix::errno::Errno::EPERM.into()))
    });
    let mut server = Server::start_with(&with_workers(1), run_worker).unwrap();
    let platforms = started.recv().unwrap();
    if platforms[0].driver == Driver::Epoll {
        server.stop_workers(Drain::configured(&server.service.time));
        return eprintln!("skipped, this kernel carries no engine on a ring");
    }
    let (stop, running) = (server.stop_handle(), thread::spawn(move || server.run()));
    let replacements = started.recv().unwrap();
    assert!(matches!(replacements[..], [Platform { driver: Driver::Epoll, engine: Some(_) }]));
    stop.stop();
    assert_eq!(running.join().unwrap().unwrap().ended, [("worker_died", LOST)]);
}

#[test]
fn engine_whose_kernel_fails_is_no_defect() {
    let failure = WorkerError::Engine(io::Error::from(nix::errno::Errno::EPERM));
    let cause = WorkerEnd::Failed(failure).cause_of_death().unwrap();
    assert!(cause.starts_with("its engine failed: ") && !cause.contains("defect"), "{cause}");
    assert!(WorkerEnd::Panicked.cause_of_death().unwrap().contains("defect"));
    assert_eq!(WorkerEnd::Stopped.cause_of_death(), None);
}

#[test]
fn worker_that_dies_is_replaced() {
    let first = AtomicBool::new(true);
    let (ready, replaced) = channel();
    let run_worker = running(move |_| {
        assert!(!first.swap(false, Ordering::Relaxed), "a defect, for the test");
        ready.send(()).unwrap();
    });
    let config = with_workers(1);
    let server = Server::start_with(&config, run_worker).unwrap();
    let (address, stop) = (server.address(), server.stop_handle());
    let running = thread::spawn(move || server.run());
    replaced.recv().unwrap();

    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    client.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 404 "), "{response}");
    stop.stop();
    let totals = running.join().unwrap().unwrap();
    assert_eq!(totals.ended, [("refused", 1)]);
}

/// Peers that can bring a worker down cannot do so for ever.
#[test]
fn server_whose_workers_die_again_and_again_gives_up() {
    let lives = Arc::new(AtomicU32::new(0));
    let counted = lives.clone();
    let both_ready = Barrier::new(2);
    let run_worker = running(move |worker| {
        // A server whose worker dies before the others are ready does not start.
        if counted.fetch_add(1, Ordering::Relaxed) < 2 {
            both_ready.wait();
        }
        assert!(worker == 0, "a defect, for the test");
    });
    let server = Server::start_with(&with_workers(2), run_worker).unwrap();
    let Err(RunError::WorkerLost { loss, .. }) = server.run() else { panic!("it gives up") };
    let within = Duration::from_mins(1);
    assert_eq!(loss.hopeless, Hopeless::Deaths { deaths: DEATHS_MAX, within });
    assert!(loss.to_string().contains("with it 5 workers within 1m: a defect"), "{loss}");
    // The two first ones, and a replacement at once for each death but the last.
    assert_eq!(lives.load(Ordering::Relaxed) as usize, 2 + DEATHS_MAX - 1);
}

/// A replacement takes over the queue of its predecessor.
#[test]
fn whoever_waits_to_be_accepted_by_a_worker_that_dies_is_served_by_its_replacement() {
    let (die, told) = channel();
    let told = Mutex::new(Some(told));
    let run_worker = running(move |_| {
        let told = told.lock().unwrap().take();
        if let Some(told) = told {
            let () = told.recv().unwrap();
            panic!("a defect, for the test");
        }
    });
    let server = Server::start_with(&with_workers(1), run_worker).unwrap();
    // The worker does not accept, since its thread waits to be told.
    let mut client = TcpStream::connect(server.address()).unwrap();
    client.write_all(b"GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let stop = server.stop_handle();
    let running = thread::spawn(move || server.run());
    die.send(()).unwrap();
    let mut response = String::new();
    client.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 404 "), "{response}");
    stop.stop();
    assert_eq!(running.join().unwrap().unwrap().ended, [("refused", 1)]);
}

/// A worker whose thread is kept from its work in the midst of its start.
#[test]
fn worker_that_stands_still_is_reported_with_what_it_was_doing_and_when_it_goes_on() {
    let (let_go_on, told) = channel();
    let told = Mutex::new(told);
    let run_worker = running(move |worker| {
        if worker == 1 {
            told.lock().unwrap().recv().unwrap();
        }
    });
    let server = Server::start_with(&with_workers(2), run_worker).unwrap();
    let counters: Vec<_> = server.workers.iter().map(|worker| worker.counters.clone()).collect();
    let (report, reports) = channel();
    let report = move |worker, said| {
        // The other worker may have had no CPU for so long on a busy machine.
        if worker == 1 {
            let _ = report.send(said);
        }
    };
    let timeout = Duration::from_millis(500);
    let watchdog = Watchdog::start_with(counters, timeout, report).unwrap();
    let Report::Stalls { activity, .. } = reports.recv().unwrap() else {
        panic!("it stands still")
    };
    assert_eq!(activity, Activity::Starting);
    assert!(reports.try_recv().is_err());
    let_go_on.send(()).unwrap();
    assert!(matches!(reports.recv().unwrap(), Report::GoesOn { .. }));
    drop(watchdog);
    server.stop_handle().stop();
    server.run().unwrap();
}

/// The child's number among those below.
const CONFINED: &str = "RINGECHO_TESTS_CONFINED";

/// Every driver and data plane; a process that is confined stays so, so each has its own.
const CONFINED_CORES: [(config::Driver, DataPlane); 4] = [
    (config::Driver::Auto, DataPlane::Auto),
    (config::Driver::Epoll, DataPlane::Auto),
    (config::Driver::Auto, DataPlane::Portable),
    (config::Driver::Epoll, DataPlane::Portable),
];

#[test]
fn worker_that_dies_in_the_sandbox_is_replaced() {
    if let Ok(number) = env::var(CONFINED) {
        return die_in_the_sandbox(CONFINED_CORES[number.parse::<usize>().unwrap()]);
    }
    for number in 0..CONFINED_CORES.len() {
        let mut child = Command::new(env::current_exe().unwrap());
        child.args(["--exact", "server::tests::worker_that_dies_in_the_sandbox_is_replaced"]);
        child.arg("--nocapture").env(CONFINED, number.to_string());
        child.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = child.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let said = lines
            .find_map(|line| line.split_once(LISTENING).map(|(_, address)| address.to_owned()));
        let Some(address) = said.filter(|said| said != "nowhere") else {
            assert!(child.wait().unwrap().success());
            return eprintln!("skipped, this kernel has not all of the sandbox");
        };
        for _ in 0..20 {
            let mut client = TcpStream::connect(&address).unwrap();
            client
                .write_all(b"GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                .unwrap();
            let mut response = String::new();
            client.read_to_string(&mut response).unwrap();
            assert!(response.starts_with("HTTP/1.1 404 "), "{response}");
        }
        // The end of its input tells it to stop.
        drop(child.stdin.take());
        lines.for_each(drop);
        assert!(child.wait().unwrap().success());
    }
}

const LISTENING: &str = "listening on ";

fn die_in_the_sandbox((driver, data_plane): (config::Driver, DataPlane)) {
    let first = AtomicBool::new(true);
    let (ready, replaced) = channel();
    let (die, told) = channel();
    let told = Mutex::new(told);
    let run_worker = running(move |_| {
        if first.swap(false, Ordering::Relaxed) {
            let () = told.lock().unwrap().recv().unwrap();
            panic!("a defect, for the test");
        }
        ready.send(()).unwrap();
    });
    let config = with_workers(1);
    let config = Config { cores: Cores { driver, data_plane, ..config.cores }, ..config };
    let prepared = Server::prepare(&config).unwrap();
    let privileges = Privileges { sandbox: Sandboxing::Required, user: None };
    let sandbox = match Sandbox::begin(&privileges, prepared.needs()) {
        Ok(sandbox) => sandbox,
        Err(SandboxError::Unavailable(_)) => return println!("{LISTENING}nowhere"),
        Err(error) => panic!("{error}"),
    };
    let server = prepared.start_with(run_worker).unwrap();
    sandbox.finish().unwrap();
    let (address, stop) = (server.address(), server.stop_handle());
    let running = thread::spawn(move || server.run());
    die.send(()).unwrap();
    replaced.recv().unwrap();
    println!("{LISTENING}{address}");
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
    stop.stop();
    assert_eq!(running.join().unwrap().unwrap().ended, [("refused", 20)]);
}
