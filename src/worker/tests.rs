//! Workers of this process, on everything that they can stand on here.

use std::{
    env, fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, OwnedFd, RawFd},
    process::Command,
    sync::mpsc::channel,
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::resource::{Resource, getrlimit, setrlimit},
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use socket2::{Domain, SockRef, Socket, Type};
use tungstenite::WebSocket;

use super::{
    accept::{Failing, remedy},
    *,
};
use crate::{
    config::{self, HugePages, Proxies, Within},
    connection::memory_budget::MemoryBudget,
    entry::{
        admission::Ticket,
        arrival::Arrival,
        balance::{Accepted, Balance},
    },
    host::cpu_list::CpuList,
    http::{HEADER_FIELDS_MAX, Response},
    metrics::RefusalReason,
    plane::engine,
    protocol::session::Goodbye,
};

fn service() -> Service {
    let policy =
        Policy { allowed_origins: Vec::new(), subprotocols: Vec::new(), passes_compression: false };
    let (echo, time) = (Echo::default(), Time::default());
    let echo_paths = EchoPaths::new(&["/ws"]);
    let page = SharedResponse::new(&Response::page(String::new()));
    let (http_echo, header_fields_max) = (None, HEADER_FIELDS_MAX);
    let server = Arc::new(ServerState::new(&Config::default()));
    let (proxies, tls, http2) = (Proxies::default(), None, Http2::default());
    Service {
        echo_paths,
        policy,
        proxies,
        page,
        http_echo,
        echo,
        time,
        header_fields_max,
        tls,
        http2,
        server,
    }
}

const DIMENSIONS: engine::Dimensions = engine::Dimensions {
    receive_buffers: 2,
    receive_buffer_len: 4096,
    huge_pages: HugePages::Off,
    receive_quota: 0,
    unsent_max: 4096,
    connections_max: 1024,
    spin: Duration::ZERO,
};

/// Everything that a worker can stand on here.
fn platforms() -> Vec<Platform> {
    let engine = match engine::probe() {
        Ok(_) => Some(DIMENSIONS),
        Err(lack) => {
            let is_needed =
                env::var_os("RINGECHO_TESTS_NEED_ENGINE").is_some_and(|it| !it.is_empty());
            assert!(!is_needed, "without an engine: {lack}");
            eprintln!("without an engine: {lack}");
            None
        }
    };
    let mut platforms = vec![
        Platform { driver: Driver::IoUring, engine: None },
        Platform { driver: Driver::Epoll, engine: None },
        Platform { driver: Driver::Epoll, engine: Some(DIMENSIONS) },
    ];
    platforms.extend(engine.map(|_| Platform { driver: Driver::IoUring, engine }));
    platforms
}

/// A worker that has not started, of a runtime on epoll.
fn portable_worker(counters: Arc<Counters>) -> Worker<Portable> {
    let (plane, bounds) = (Portable::on_epoll(), Bounds::new(&Echo::default()));
    Worker::new(plane, Arc::new(service()), bounds, counters, None, Share::unlimited())
}

/// A worker that is alone.
fn plan(
    platform: Platform,
    listener: TcpListener,
    orders: OrderReceiver,
    counters: Arc<Counters>,
    service: Service,
) -> Plan {
    let cpu = Some(CpuList::usable().unwrap().as_slice()[0]);
    let (platforms, service) = (vec![platform], Arc::new(service));
    let listener = Listener { socket: listener, speaks_tls: false };
    let (listeners, backlog, member) = (vec![listener], 128, None);
    let (observers, memory) = (Observers::default(), MemoryBudget::new(u64::MAX, 1).shares(0));
    Plan {
        cpu,
        platforms,
        listeners,
        backlog,
        member,
        orders,
        counters,
        memory,
        service,
        observers,
    }
}

/// An acceptor assigns connections to a worker that is told to stop in the middle of it. Each
/// stays with the acceptor or is answered by the worker.
#[test]
fn stopping_worker_answers_everything_that_was_assigned_to_it() {
    const CONNECTIONS: usize = 200;
    for platform in platforms() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let balance = Arc::new(Balance::new(2));
        let (acceptor, _woken) = balance.join(0).unwrap();
        // So many that it has the fewest only when it is alone.
        for _ in 0..=CONNECTIONS {
            assert!(acceptor.assign((), |()| unreachable!("it is alone")).is_some());
        }
        let (stop, worker_orders) = orders().unwrap();
        let counters = Arc::new(Counters::new(&ConnectionEnd::KINDS));
        let own_listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let service = service();
        let admission = service.server.admission.clone();
        let plan = Plan {
            member: Some(balance.join(1).unwrap()),
            ..plan(platform, own_listener, worker_orders, counters.clone(), service)
        };
        let worker = thread::spawn(move || run(plan, |_| ()));
        let mut stop = Some(stop);
        let mut assigned = Vec::new();
        for at in 0..CONNECTIONS {
            let client = TcpStream::connect(address).unwrap();
            let (stream, peer) = listener.accept().unwrap();
            let ticket = admission.admit(peer.ip()).unwrap();
            let release = |(stream, ticket): (TcpStream, Ticket)| Accepted {
                descriptor: stream.into(),
                arrival: Arrival { peer: peer.into(), speaks_tls: false },
                ticket,
            };
            match acceptor.assign((stream, ticket), release) {
                None => assigned.push(client),
                Some(_) => assert!(stop.is_none(), "the worker has fewer"),
            }
            if at == CONNECTIONS / 2 {
                stop = None;
            }
        }
        for client in &mut assigned {
            let mut response = String::new();
            client.read_to_string(&mut response).unwrap();
            assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
        }
        let assigned_count = assigned.len() as u64;
        drop(assigned);
        worker.join().unwrap().unwrap();
        assert_eq!(counters.accepted.get(), assigned_count);
        assert_eq!(admission.counts(), (0, 0));
    }
}

/// More connections than a worker accepts in one go wait in its queue when it is told to stop. None
/// is reset: the worker answers each.
#[test]
fn stopping_worker_answers_everything_that_waits_in_its_queue() {
    const WAITING: usize = 128;
    for platform in platforms() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut clients: Vec<_> =
            (0..WAITING).map(|_| TcpStream::connect(address).unwrap()).collect();
        let (stop, worker_orders) = orders().unwrap();
        let counters = Arc::new(Counters::new(&ConnectionEnd::KINDS));
        let plan = plan(platform, listener, worker_orders, counters.clone(), service());
        stop.drain(Drain::configured(&Time::default()));
        let worker = thread::spawn(move || run(plan, |_| ()));
        for client in &mut clients {
            let mut response = String::new();
            client.read_to_string(&mut response).unwrap();
            assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
        }
        drop(clients);
        worker.join().unwrap().unwrap();
        assert_eq!(counters.accepted.get(), WAITING as u64, "{platform}");
    }
}

/// The tasks' table: those with a session have their turn in order, once.
#[test]
fn tasks_are_drained_in_shares_and_none_is_forgotten() {
    runtime::build_on_epoll().unwrap().block_on(async {
        let counters = Arc::new(Counters::new(&ConnectionEnd::KINDS));
        let worker = Rc::new(portable_worker(counters));
        let add = |is_open: bool| {
            let control = Rc::new(Control::new(worker.now.clone(), None));
            if is_open {
                control.opened();
            }
            worker.connections.borrow_mut().insert(control.clone());
            control
        };
        let told = |controls: &[&Rc<Control>]| -> Vec<bool> {
            controls.iter().map(|it| it.is_open() && !it.is_undrained()).collect()
        };
        let (first, second, handshake) = (add(true), add(true), add(false));
        assert_eq!(worker.undrained_count(), 2);
        worker.close_some(1);
        assert_eq!(told(&[&first, &second, &handshake]), [true, false, false]);
        // One is upgraded meanwhile, and one comes.
        handshake.opened();
        let late = add(true);
        assert_eq!(worker.undrained_count(), 3);
        worker.close_some(2);
        assert_eq!(told(&[&second, &handshake, &late]), [true, true, false]);
        worker.close_some(usize::MAX);
        assert_eq!(worker.undrained_count(), 0);
        let heard = [&first, &second, &handshake, &late].map(|it| it.demanded());
        for demanded in heard {
            assert_eq!(demanded.await, Demand::Goodbye(Goodbye::Stopping));
        }
    });
}

/// A page that no buffers of sockets hold, and a client that reads nothing of it. Were it taken
/// for an open connection, it would be ended later and for its silence.
#[test]
fn response_that_is_not_taken_is_given_up_after_the_close_timeout() {
    const SECOND: Duration = Duration::from_secs(1);
    for platform in platforms() {
        let time = Time {
            close_timeout: Within::new(SECOND).unwrap(),
            keep_alive_interval: Within::new(SECOND).unwrap(),
            keep_alive_timeout: Within::new(SECOND).unwrap(),
            ..Time::default()
        };
        let page = SharedResponse::new(&Response::page(" ".repeat(64 << 20)));
        let service = Service { page, time, ..service() };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, worker_orders) = orders().unwrap();
        let counters = Arc::new(Counters::new(&ConnectionEnd::KINDS));
        let plan = plan(platform, listener, worker_orders, counters.clone(), service);
        let worker = thread::spawn(move || run(plan, |_| ()));
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let ended = || (0..ConnectionEnd::KINDS.len()).find(|at| counters.ended(*at).get() > 0);
        let end = loop {
            match ended() {
                Some(kind) => break kind,
                None => thread::sleep(Duration::from_millis(10)),
            }
        };
        assert_eq!(ConnectionEnd::KINDS[end], "close_timeout", "{platform}");
        drop(stop);
        worker.join().unwrap().unwrap();
    }
}

/// A worker of its own thread that accepts connections, what it counts, and what stops it.
fn start(
    platform: Platform,
    service: Service,
) -> (SocketAddr, JoinHandle<Result<(), WorkerError>>, Arc<Counters>, OrderSender) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, worker_orders) = orders().unwrap();
    let counters = Arc::new(Counters::new(&ConnectionEnd::KINDS));
    let plan = plan(platform, listener, worker_orders, counters.clone(), service);
    let (say, ready) = channel();
    let worker = thread::spawn(move || run(plan, move |_| say.send(()).unwrap()));
    ready.recv().unwrap();
    (address, worker, counters, stop)
}

fn open(address: SocketAddr) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(address).unwrap();
    tungstenite::client(format!("ws://{address}/ws"), stream).unwrap().0
}

/// The rings of this process, by their descriptors.
fn rings() -> Vec<RawFd> {
    let ring = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).ok()?;
        let is_ring = target.to_string_lossy().contains("[io_uring]");
        is_ring.then(|| entry.file_name().to_string_lossy().parse().unwrap())
    };
    fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| ring(entry.unwrap())).collect()
}

/// Whether this is a process for one test alone, as those need that look at its descriptors.
/// If not, that test runs in one.
fn is_alone(test: &str) -> bool {
    const ALONE: &str = "RUN_ALONE";
    if env::var_os(ALONE).is_some() {
        return true;
    }
    let mut alone = Command::new(env::current_exe().unwrap());
    alone.args(["--exact", &format!("worker::tests::{test}")]).env(ALONE, "1");
    let output = alone.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    false
}

#[test]
fn worker_whose_ring_fails_lets_go_of_its_listener_and_its_connections() {
    if !is_alone("worker_whose_ring_fails_lets_go_of_its_listener_and_its_connections") {
        return;
    }
    let is_engine_on_ring =
        |platform: &Platform| platform.driver == Driver::IoUring && platform.engine.is_some();
    let Some(platform) = platforms().into_iter().find(is_engine_on_ring) else { return };
    let (address, worker, _counters, _stop) = start(platform, service());
    let mut upgraded = open(address);
    upgraded.send("a".into()).unwrap();
    upgraded.read().unwrap();
    let mut half_headed = TcpStream::connect(address).unwrap();
    half_headed.write_all(b"GET").unwrap();
    let ring = rings();
    let null = fs::File::open("/dev/null").unwrap();
    // SAFETY: the descriptor stays open, but is another file's, as if the kernel had closed the
    // ring by itself.
    #[expect(unsafe_code, reason = "a descriptor that another thread owns is replaced")]
    let replaced = unsafe { libc::dup2(null.as_raw_fd(), ring[0]) };
    assert_eq!((ring.len(), replaced), (1, ring[0]));
    // Something for the worker to see that by.
    upgraded.send("b".into()).unwrap();
    assert!(matches!(worker.join().unwrap(), Err(WorkerError::Engine(_))));
    // The kernel closes a ring, and what it held, a little later.
    while TcpStream::connect(address).is_ok() {
        thread::yield_now();
    }
    assert!(upgraded.read().is_err());
    assert!(!matches!(half_headed.read(&mut [0]), Ok(1..)));
}

/// The stream by which a worker is told to stop, and what makes reading from it fail.
fn stop_that_can_fail() -> (OrderReceiver, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    SockRef::from(&other).set_linger(Some(Duration::ZERO)).unwrap();
    (OrderReceiver::without_orders(OwnedFd::from(stream).into()), other)
}

/// The worker dies with connections that are tasks and, on an engine, with some that are not.
#[test]
fn dead_worker_gives_back_what_its_connections_were_counted_for() {
    for platform in platforms() {
        let (worker_orders, fail) = stop_that_can_fail();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let counters = Arc::new(Counters::new(&ConnectionEnd::KINDS));
        let bounds = config::Bounds {
            connections_per_ip_max: Within::new(4).unwrap(),
            ..config::Bounds::default()
        };
        let server = Arc::new(ServerState::new(&Config { bounds, ..Config::default() }));
        let admission = server.admission.clone();
        let service = Service { server, ..service() };
        let plan = plan(platform, listener, worker_orders, counters.clone(), service);
        let worker = thread::spawn(move || run(plan, |_| ()));
        let mut upgraded = [open(address), open(address)];
        let mut half_headed = [(); 2].map(|()| TcpStream::connect(address).unwrap());
        for client in &mut half_headed {
            client.write_all(b"GET").unwrap();
        }
        // The fifth of its address.
        let mut refused = TcpStream::connect(address).unwrap();
        let mut response = String::new();
        refused.read_to_string(&mut response).unwrap();
        assert!(response.starts_with("HTTP/1.1 429 "), "{platform}: {response}");
        for client in &mut upgraded {
            client.send("a".into()).unwrap();
            client.read().unwrap();
        }
        assert_eq!(admission.counts(), (4, 2), "{platform}");
        assert!(admission.admit(address.ip()).is_err());
        drop(fail);
        assert!(matches!(worker.join().unwrap(), Err(WorkerError::Signal(_))), "{platform}");
        assert_eq!(admission.counts(), (0, 0), "{platform}");
        let again: Vec<_> = (0..4).map(|_| admission.admit(address.ip()).unwrap()).collect();
        assert!(admission.admit(address.ip()).is_err());
        drop(again);
    }
}

#[test]
fn connections_that_wait_for_a_dead_worker_stay_counted_until_its_replacement_ends_them() {
    for platform in platforms() {
        let service = service();
        let admission = service.server.admission.clone();
        let balance = Arc::new(Balance::new(2));
        let (acceptor, _woken) = balance.join(0).unwrap();
        let (dead, _) = balance.join(1).unwrap();
        assert!(acceptor.assign((), |()| unreachable!("it prefers itself")).is_some());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, peer) = listener.accept().unwrap();
        let ticket = admission.admit(peer.ip()).unwrap();
        let release = |(stream, ticket): (TcpStream, Ticket)| Accepted {
            descriptor: stream.into(),
            arrival: Arrival { peer: peer.into(), speaks_tls: false },
            ticket,
        };
        assert!(acceptor.assign((stream, ticket), release).is_none());
        dead.leave();
        drop(dead);
        assert_eq!(admission.counts(), (1, 1));

        let (stop, worker_orders) = orders().unwrap();
        let counters = Arc::new(Counters::new(&ConnectionEnd::KINDS));
        let plan = Plan {
            member: Some(balance.join(1).unwrap()),
            ..plan(platform, listener, worker_orders, counters.clone(), service)
        };
        let worker = thread::spawn(move || run(plan, |_| ()));
        client.write_all(b"GET /no HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let mut response = String::new();
        client.read_to_string(&mut response).unwrap();
        assert!(response.starts_with("HTTP/1.1 404 "), "{response}");
        drop((client, stop));
        worker.join().unwrap().unwrap();
        assert_eq!(admission.counts(), (0, 0), "{platform}");
    }
}

#[test]
fn stopped_worker_leaves_no_ring_behind_however_many_connections_it_had() {
    if !is_alone("stopped_worker_leaves_no_ring_behind_however_many_connections_it_had") {
        return;
    }
    for platform in platforms() {
        for clients in [0, 1, 20, 100] {
            let (address, worker, counters, stop) = start(platform, service());
            let connections: Vec<_> = (0..clients).map(|_| open(address)).collect();
            drop(stop);
            for mut connection in connections {
                while connection.read().is_ok() {}
            }
            worker.join().unwrap().unwrap();
            assert_eq!(counters.accepted.get(), clients);
            assert!(rings().is_empty(), "{platform}");
        }
    }
}

/// What it sends is no sign that it takes anything.
#[test]
fn refused_peer_that_goes_on_sending_is_given_up_after_the_close_timeout() {
    for platform in platforms() {
        let close_timeout = Within::new(Duration::from_secs(3)).unwrap();
        let time = Time { close_timeout, ..Time::default() };
        let (address, worker, counters, stop) = start(platform, Service { time, ..service() });
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"GET /no HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        // Until it is reset.
        while client.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(100));
        }
        drop(stop);
        worker.join().unwrap().unwrap();
        let refused = ConnectionEnd::Refused(RefusalReason::PathUnknown).kind();
        assert_eq!(counters.ended(refused).get(), 1, "{platform}");
    }
}

/// A seed says when the process may open no descriptor, who connects meanwhile, and who leaves again.
/// At the end the worker is told to stop while accepting fails.
#[test]
fn nobody_is_lost_where_accepting_fails_now_and_then() {
    const ROUNDS: usize = 10;
    // All of them are taken. With none, poll(2) would fail too.
    const FEW: u64 = 3;
    if !is_alone("nobody_is_lost_where_accepting_fails_now_and_then") {
        return;
    }
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let allow = |descriptors| setrlimit(Resource::RLIMIT_NOFILE, descriptors, hard).unwrap();
    for (seed, platform) in (0..).zip(platforms()) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let (address, worker, counters, stop) = start(platform, service());
        // Sockets that are there before no more may be opened.
        let sockets = |count| -> Vec<_> {
            (0..count).map(|_| Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()).collect()
        };
        let mut clients: Vec<TcpStream> = Vec::new();
        let mut left = 0;
        for _ in 0..ROUNDS {
            let coming = sockets(rng.random_range(1..20));
            if rng.random() {
                allow(FEW);
            }
            for socket in coming {
                socket.connect(&address.into()).unwrap();
                clients.push(socket.into());
            }
            if rng.random() {
                left += 1;
                drop(clients.swap_remove(rng.random_range(0..clients.len())));
            }
            thread::sleep(Duration::from_millis(rng.random_range(0..150)));
            allow(soft);
        }
        let served = clients.len();
        for client in clients {
            let (mut client, _) = tungstenite::client(format!("ws://{address}/ws"), client)
                .unwrap_or_else(|error| panic!("seed {seed}, {platform}: {error}"));
            client.send("a".into()).unwrap();
            assert_eq!(client.read().unwrap(), "a".into());
        }
        let late = sockets(5);
        allow(FEW);
        for socket in &late {
            socket.connect(&address.into()).unwrap();
        }
        drop(stop);
        worker.join().unwrap().unwrap();
        allow(soft);
        drop(late);
        let ended: u64 =
            (0..ConnectionEnd::KINDS.len()).map(|kind| counters.ended(kind).get()).sum();
        let accepted = counters.accepted.get();
        assert_eq!(ended, accepted, "seed {seed}, {platform}");
        assert!(accepted >= (served + left) as u64, "seed {seed}, {platform}: {accepted}");
    }
}

/// As when the drain timeout passes while the 101 is being written: the data plane would not
/// know of it.
#[test]
fn connection_whose_end_was_demanded_is_not_handed_over() {
    runtime::build_on_epoll().unwrap().block_on(async {
        let counters = Arc::new(Counters::new(&ConnectionEnd::KINDS));
        let worker = Rc::new(portable_worker(counters.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client
            .write_all(
                b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                Sec-WebSocket-Version: 13\r\n\r\n",
            )
            .unwrap();
        let (stream, peer) = listener.accept().unwrap();
        let stream = worker.plane.stream(stream).unwrap();
        let ticket = worker.service().server.admission.admit(peer.ip()).unwrap();
        let entered = worker.roster.enter(ticket, stream.as_raw_fd());
        let control = Rc::new(Control::new(worker.now.clone(), None));
        control.demand(Demand::End(ConnectionEnd::Abandoned));
        let arrival = Arrival { peer: peer.into(), speaks_tls: false };
        let end = worker.converse(stream, arrival, &control, &entered).await;
        assert_eq!(end, Some(ConnectionEnd::Abandoned));
        assert_eq!(counters.upgraded.get(), 0);
    });
}

#[test]
fn remedy_is_that_of_what_is_wanting() {
    let remedy = |errno| remedy(&io::Error::from(errno));
    let said = |errno, what| remedy(errno).is_some_and(|remedy| remedy.contains(what));
    assert!(said(Errno::EMFILE, "ulimit -n"));
    assert!(said(Errno::ENOMEM, "memory") && said(Errno::ENOBUFS, "memory"));
    assert_eq!(remedy(Errno::ECONNABORTED), None);
}

#[test]
fn failure_that_lasts_begins_once() {
    let mut failing = Failing::default();
    assert_eq!([(); 3].map(|()| failing.begins()), [true, false, false]);
    failing.ends();
    assert!(failing.begins());
}

#[test]
fn panic_in_a_connection_ends_that_connection_only() {
    runtime::build_on_epoll().unwrap().block_on(async {
        let counters = Arc::new(Counters::new(&ConnectionEnd::KINDS));
        let worker = portable_worker(counters.clone());
        let worker = Rc::new(worker);
        let control = || Rc::new(Control::new(worker.now.clone(), None));
        worker.start_connection(control(), Box::pin(async { panic!("as a defect would") }));
        worker.start_connection(control(), Box::pin(async { Some(ConnectionEnd::ClosedByPeer) }));
        worker.drained().await;
        for end in [ConnectionEnd::Panicked, ConnectionEnd::ClosedByPeer] {
            assert_eq!(counters.ended(end.kind()).get(), 1, "{end:?}");
        }
    });
}
