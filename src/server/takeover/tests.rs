//! Servers that are taken over, by others and by impostors that do not go through with it.

use std::{
    env, fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process,
    sync::{
        atomic::{AtomicU32, Ordering::Relaxed},
        mpsc::channel,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use socket2::{Domain, SockAddr, Socket};

use super::{
    door::{Behind, knock},
    link::Link,
    message::Message,
    successor::{Doorkeeper, HandOver, News},
    *,
};
use crate::{
    config::{Config, Network},
    metrics::Totals,
    server::{Server, StartError, StopHandle, sockets::Opened, tests},
};

/// A path that no other test has, whose file is removed at the end.
struct TestPath(PathBuf);

impl TestPath {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ringecho-takeover-{}-{}", process::id(), COUNT.fetch_add(1, Relaxed));
        Self(env::temp_dir().join(name))
    }

    /// A configuration with this path that listens there.
    fn config(&self, listen: SocketAddr) -> Config {
        let takeover = Some(self.0.to_str().unwrap().parse().unwrap());
        let config = tests::config();
        let listen = vec![listen.into()];
        Config { network: Network { listen, takeover, ..config.network }, ..config }
    }
}

impl Drop for TestPath {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

const ANY_PORT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

struct Running {
    address: SocketAddr,
    stop: StopHandle,
    thread: JoinHandle<Totals>,
}

fn run(config: &Config) -> Result<Running, StartError> {
    let server = Server::start(config)?;
    let (address, stop) = (server.address(), server.stop_handle());
    Ok(Running { address, stop, thread: thread::spawn(move || server.run().unwrap()) })
}

impl Running {
    fn stop(self) -> Totals {
        self.stop.stop();
        self.thread.join().unwrap()
    }
}

/// A connection to whoever listens at the path.
fn link(path: &Path) -> Link {
    let Behind::Server(socket) = knock(path, Duration::from_secs(1)).unwrap() else {
        panic!("a server listens at the path")
    };
    Link::new(socket, Instant::now() + Duration::from_mins(1))
}

/// A server answers there, be it with a refusal.
fn assert_serves(address: SocketAddr) {
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    client.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 404 "), "{response}");
}

#[test]
fn socket_file_is_its_owners_alone_and_goes_with_the_server() {
    let path = TestPath::new();
    let server = run(&path.config(ANY_PORT)).unwrap();
    let mode = fs::symlink_metadata(&path.0).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    server.stop();
    assert!(!path.0.exists());
}

#[test]
fn new_server_that_fails_at_any_step_leaves_the_running_one_as_it_was() {
    let path = TestPath::new();
    let old = run(&path.config(ANY_PORT)).unwrap();
    let ask = |link: &Link| link.send(&Message::Ask, &[]).unwrap();
    let take = |link: &Link| {
        ask(link);
        link.receive_with_descriptors().unwrap()
    };
    let steps: [&dyn Fn(&Link); 6] = [
        // It dies after it has connected, after it has asked, or after it has got the sockets.
        &|_| {},
        &ask,
        &|link| drop(take(link)),
        // It speaks out of turn, early or late.
        &|link| link.send(&Message::Accepting, &[]).unwrap(),
        &|link| {
            drop(take(link));
            ask(link);
            assert!(matches!(link.receive(), Err(LinkError::Off(_))));
        },
        // It calls the takeover off.
        &|link| {
            drop(take(link));
            link.send(&Message::Off("a change of mind".to_owned()), &[]).unwrap();
        },
    ];
    for step in steps {
        step(&link(&path.0));
        assert_serves(old.address);
    }
    // A port that the running server does not have is refused, and the running one goes on.
    let elsewhere = path.config(SocketAddr::from(([127, 0, 0, 1], 1)));
    let refusal = run(&elsewhere).err().unwrap();
    assert!(matches!(refusal, StartError::Takeover(TakeoverError::Elsewhere { .. })), "{refusal}");
    assert!(refusal.to_string().contains("--listen 127.0.0.1:1; give both"), "{refusal}");
    assert_serves(old.address);
    // After all this a real one takes over.
    let new = run(&path.config(old.address)).unwrap();
    let totals = old.thread.join().unwrap();
    assert_eq!(totals.ended, [("refused", 7)]);
    assert_serves(new.address);
    assert_eq!(new.stop().ended, [("refused", 1)]);
}

/// The thread behind the door, without a server.
#[test]
fn new_server_that_hangs_is_given_up_and_the_next_one_has_its_turn() {
    let path = TestPath::new();
    let (told, news) = channel();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let twin = listener.try_clone().unwrap();
    let tell = move |news: News| {
        let name = match news {
            News::Asks(answer) => {
                let socket = twin.try_clone().unwrap();
                let listen = socket.local_addr().unwrap().into();
                let sockets = vec![Opened { socket, listen }];
                let _ = answer.send(Ok(HandOver { sockets, are_supervised: false }));
                "asks"
            }
            News::Accepts => "accepts",
            News::Failed => "failed",
        };
        told.send(name).is_ok()
    };
    let door = Door::open(&path.0).unwrap();
    let _doorkeeper = Doorkeeper::start(door, Duration::from_millis(50), tell).unwrap();

    let hanging = link(&path.0);
    let off = hanging.receive().unwrap_err();
    assert!(off.to_string().contains("does not answer in time"), "{off}");
    let hanging = link(&path.0);
    hanging.send(&Message::Ask, &[]).unwrap();
    hanging.receive_with_descriptors().unwrap();
    assert!(matches!(hanging.receive(), Err(LinkError::Off(_))));
    assert_eq!(
        ["failed", "asks", "failed"].map(|_| news.recv().unwrap()),
        ["failed", "asks", "failed"]
    );

    let nonsense = Socket::new(Domain::UNIX, Link::TYPE, None).unwrap();
    nonsense.connect(&SockAddr::unix(&path.0).unwrap()).unwrap();
    nonsense.send(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(news.recv().unwrap(), "failed");

    let good = link(&path.0);
    good.send(&Message::Ask, &[]).unwrap();
    good.receive_with_descriptors().unwrap();
    good.send(&Message::Accepting, &[]).unwrap();
    assert_eq!(good.receive().unwrap(), Message::Yours);
    assert_eq!([(); 2].map(|()| news.recv().unwrap()), ["asks", "accepts"]);
}

/// Here nobody accepts for a while after the takeover, so that connections have to wait.
#[test]
fn connections_that_wait_at_a_takeover_are_the_new_servers() {
    const CLIENTS: usize = 16;
    let path = TestPath::new();
    let old = run(&path.config(ANY_PORT)).unwrap();
    let mut predecessor = Predecessor::find(&path.0, &[old.address.into()]).unwrap().unwrap();
    let sockets = predecessor.take_sockets();
    let door = predecessor.succeed(&path.0).unwrap();
    assert_eq!(old.thread.join().unwrap().accepted, 0);
    let clients = [(); CLIENTS].map(|()| TcpStream::connect(old.address).unwrap());
    let mut accepted = 0;
    for Opened { socket, .. } in &sockets {
        socket.set_nonblocking(true).unwrap();
        while socket.accept().is_ok() {
            accepted += 1;
        }
    }
    assert_eq!(accepted, CLIENTS);
    drop(clients);
    door.remove();
}

#[test]
fn file_of_a_dead_server_is_replaced_and_any_other_file_is_not() {
    let path = TestPath::new();
    // A closed door leaves its file behind, as a killed process does.
    Door::open(&path.0).unwrap().shut();
    let server = run(&path.config(ANY_PORT)).unwrap();
    assert_serves(server.address);
    server.stop();

    fs::write(&path.0, "a file").unwrap();
    let refusal = run(&path.config(ANY_PORT)).err().unwrap().to_string();
    assert!(refusal.contains("there is a file that is no socket"), "{refusal}");
    assert_eq!(fs::read_to_string(&path.0).unwrap(), "a file");
}

#[test]
fn server_removes_no_file_but_its_own() {
    let path = TestPath::new();
    let old = Door::open(&path.0).unwrap();
    let new = Door::open(&path.0).unwrap();
    assert!(!old.is_in_place() && new.is_in_place());
    old.remove();
    assert!(new.is_in_place());
    new.remove();
    assert!(!path.0.exists());
}

/// As after a new server that has died with its file in place.
#[test]
fn socket_file_that_is_gone_is_made_anew() {
    let path = TestPath::new();
    let old = run(&path.config(ANY_PORT)).unwrap();
    let impostor = link(&path.0);
    impostor.send(&Message::Ask, &[]).unwrap();
    impostor.receive_with_descriptors().unwrap();
    drop(Door::open(&path.0).unwrap());
    drop(impostor);
    while !matches!(knock(&path.0, Duration::from_secs(1)), Ok(Behind::Server(_))) {
        thread::yield_now();
    }
    let new = run(&path.config(old.address)).unwrap();
    assert_eq!(old.thread.join().unwrap().accepted, 0);
    new.stop();
}
