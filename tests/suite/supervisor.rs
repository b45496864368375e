//! The program under a service manager: sockets that it inherits, and what it reports.

use std::{
    env, fs,
    io::Read,
    net::{TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixDatagram,
    },
    process::{self, Child, Command},
};

use nix::sys::signal::Signal;
use socket2::SockRef;

use crate::{
    program::{address, ringecho, signal, start, url},
    takeover::TestPath,
};

/// The program with these descriptors as the first inherited ones, under a shell that passes them on.
fn with_inherited(descriptors: &[&dyn AsFd], names: &str) -> Command {
    let redirections = descriptors.iter().zip(3..).map(|(descriptor, number)| {
        SockRef::from(descriptor).set_cloexec(false).unwrap();
        format!(" {number}<&{}", descriptor.as_fd().as_raw_fd())
    });
    let redirections: String = redirections.collect();
    let count = descriptors.len();
    let script =
        format!("export LISTEN_PID=$$ LISTEN_FDS={count}; exec \"$0\" \"$@\"{redirections}");
    let mut command = Command::new("bash");
    command.args(["-c", &script]).arg(ringecho().get_program());
    command.env("LISTEN_FDNAMES", names);
    command
}

fn log_of(mut child: Child) -> (Option<i32>, String) {
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    (child.wait().unwrap().code(), log)
}

fn connect(line: &str, address: std::net::SocketAddr) {
    let stream = TcpStream::connect(address).unwrap();
    assert!(tungstenite::client(url(line), stream).is_ok());
}

#[test]
fn inherited_sockets_are_served_and_outlive_the_program() {
    let sockets = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
    let descriptors = sockets.each_ref().map(|socket| socket as &dyn AsFd);
    for workers in ["--workers=1", "--workers=2", "--workers=5"] {
        let mut command = with_inherited(&descriptors, "first::third");
        // The address of the flag is that of the first socket: nobody listens there a second time.
        let (child, line) = start(command.args([workers, "--listen", &addresses[0].to_string()]));
        assert_eq!(address(&line), addresses[0].to_string());
        for address in addresses {
            connect(&line, address);
        }
        signal(&child, Signal::SIGTERM);
        let (code, log) = log_of(child);
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("stopped connections=3"), "{log}");
        for (address, name) in addresses.iter().zip(["first", "unnamed", "third"]) {
            assert!(log.contains(&format!("address={address} name=\"{name}\"")), "{log}");
        }
    }
    // The queues are the manager's, and whoever connects now waits for the next program.
    drop(TcpStream::connect(addresses[0]).unwrap());
}

#[test]
fn inherited_descriptor_of_the_wrong_kind_is_refused_with_number_and_name() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut command = with_inherited(&[&socket, &datagrams], "web:dns");
    let (code, log) = log_of(start(&mut command).0);
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("descriptor 4 (dns) is no stream socket; a listening stream"), "{log}");

    let mut command = ringecho();
    let command = command.env("WATCHDOG_USEC", "soon").arg("--listen=127.0.0.1:0");
    let (code, log) = log_of(start(command).0);
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("WATCHDOG_USEC=soon: expected a whole number"), "{log}");
}

/// A socket as a service manager has one.
struct Manager {
    socket: UnixDatagram,
    path: TestPath,
}

impl Manager {
    fn new() -> Self {
        let path = TestPath::new();
        Self { socket: UnixDatagram::bind(path.as_str()).unwrap(), path }
    }

    fn heard(&self) -> String {
        let mut bytes = [0; 512];
        let len = self.socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..len].to_vec()).unwrap()
    }

    /// What is heard next, but for the signs of life.
    fn heard_of_state(&self) -> String {
        loop {
            let heard = self.heard();
            if heard != "WATCHDOG=1" {
                return heard;
            }
        }
    }
}

#[test]
fn manager_hears_that_the_program_is_ready_alive_and_stopping() {
    let manager = Manager::new();
    let mut command = ringecho();
    command.env("NOTIFY_SOCKET", manager.path.as_str()).env("WATCHDOG_USEC", "20000");
    let (mut child, line) = start(command.arg("--listen=127.0.0.1:0"));
    assert_eq!(manager.heard(), format!("READY=1\nSTATUS={}", line.trim_end()));
    for _ in 0..3 {
        assert_eq!(manager.heard(), "WATCHDOG=1");
    }
    signal(&child, Signal::SIGTERM);
    assert_eq!(manager.heard_of_state(), "STOPPING=1\nSTATUS=draining");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn program_that_takes_over_becomes_the_services_main_process() {
    let (manager, path) = (Manager::new(), TestPath::new());
    let program = |listen: &str| {
        let mut command = ringecho();
        command.env("NOTIFY_SOCKET", manager.path.as_str());
        command.args(["--takeover", path.as_str(), "--listen", listen]);
        command
    };
    let (mut old, line) = start(&mut program("127.0.0.1:0"));
    assert!(manager.heard().starts_with("READY=1\n"));
    let (mut new, _) = start(&mut program(address(&line)));
    // The old one does not say that the service stops.
    let heard = manager.heard();
    assert!(heard.starts_with(&format!("MAINPID={}\nREADY=1\n", new.id())), "{heard}");
    assert_eq!(old.wait().unwrap().code(), Some(0));
    signal(&new, Signal::SIGTERM);
    assert!(manager.heard().starts_with("STOPPING=1\n"));
    assert_eq!(new.wait().unwrap().code(), Some(0));
}

/// A server that takes over from one with inherited sockets has them all, and leaves them open too.
#[test]
fn inherited_sockets_are_handed_on() {
    let path = TestPath::new();
    let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
    let descriptors = sockets.each_ref().map(|socket| socket as &dyn AsFd);
    let takeover = ["--takeover", path.as_str()];
    let (mut old, _) = start(with_inherited(&descriptors, "").args(takeover));
    // The flag's address does not count.
    let (new, line) = start(ringecho().args(takeover).arg("--listen=127.0.0.1:1"));
    assert_eq!(old.wait().unwrap().code(), Some(0));
    for address in addresses {
        connect(&line, address);
    }
    signal(&new, Signal::SIGTERM);
    let (code, log) = log_of(new);
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("stopped connections=2"), "{log}");
    drop(TcpStream::connect(addresses[1]).unwrap());
}

#[test]
fn variables_of_another_process_are_ignored() {
    let path = env::temp_dir().join(format!("ringecho-nobody-{}", process::id()));
    let mut command = ringecho();
    command.env("LISTEN_PID", "1").env("LISTEN_FDS", "2").env("NOTIFY_SOCKET", &path);
    let (child, _) = start(command.arg("--listen=127.0.0.1:0"));
    signal(&child, Signal::SIGTERM);
    let (code, log) = log_of(child);
    assert_eq!(code, Some(0), "{log}");
    // Nobody hears the program, and it goes on.
    assert!(log.contains("the service manager cannot be notified"), "{log}");
    assert!(fs::metadata(path).is_err());
}
