//! Requests that do not come whole, and workers that do not answer.

use std::{fs, io::Cursor as Bytes, os::unix::fs::MetadataExt};

use super::*;
use crate::{
    config::{Config, Observation},
    connection::ConnectionEnd,
    metrics::Counters,
};

fn directory() -> Directory {
    let admin_listen = Some("127.0.0.1:0".parse().unwrap());
    let observation = Observation { admin_listen, ..Observation::default() };
    let config = Config { observation, ..Config::default() };
    Directory::new(&config, Arc::default(), None)
}

fn status_of(request: &str, directory: &Directory) -> String {
    let response = match read_request(&mut Bytes::new(request)) {
        Ok(request) => answer(&request, directory),
        Err(HeadError::Refused { refusal, .. }) => encode_refusal(&refusal.into()),
        Err(HeadError::PeerLeft) => return "none".to_owned(),
    };
    String::from_utf8(response).unwrap().lines().next().unwrap().to_owned()
}

#[test]
fn requests_are_read_as_on_the_main_port() {
    let directory = directory();
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(REQUEST_HEAD_LEN_MAX));
    for (request, expected) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK"),
        ("GET /metrics HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK"),
        ("GET /other HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 404 Not Found"),
        ("POST /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 405 Method Not Allowed"),
        ("GET /connections?limit=0 HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        ("nonsense\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        (&long, "HTTP/1.1 431 Request Header Fields Too Large"),
        ("GET / HTTP/1.1\r\nHost: a\r\n", "none"),
        ("", "none"),
    ] {
        assert_eq!(status_of(request, &directory), expected, "{request:?}");
    }
}

#[test]
fn server_that_is_stopping_is_not_healthy() {
    let directory = directory();
    let request = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(status_of(request, &directory), "HTTP/1.1 200 OK");
    directory.end_readiness();
    assert_eq!(status_of(request, &directory), "HTTP/1.1 503 Service Unavailable");
}

/// One worker is stuck, and the other has died.
#[test]
fn workers_that_do_not_answer_are_named() {
    let directory = directory();
    let counters = Arc::new(Counters::new(&ConnectionEnd::KINDS));
    let _stuck = directory.enter(0, Some(0), &counters).unwrap();
    drop(directory.enter(1, None, &counters).unwrap());
    let report = report::connections(&directory, None, 10);
    assert_eq!(report["silent_workers"], serde_json::json!([0, 1]));
    assert_eq!(report["next"], serde_json::Value::Null);
    assert_eq!(report::status(&directory)["workers"][0]["answers"], false);
}

/// A file that a killed process has left is replaced; one at which somebody listens is not.
#[test]
fn socket_file_is_replaced_unless_somebody_listens_there() {
    let name = format!("ringecho-{}-admin.sock", std::process::id());
    let path = std::env::temp_dir().join(name);
    let _ = fs::remove_file(&path);
    let address = ListenAddress::Unix(path.clone());
    drop(AdminListener::bind(&address, false).unwrap());
    assert!(path.exists());
    let listener = AdminListener::bind(&address, false).unwrap();
    let refusal =
        AdminListener::bind(&address, false).err().expect("somebody listens there").to_string();
    assert!(refusal.contains("another program listens there"), "{refusal}");
    let admin = listener.serve(directory().into()).unwrap();
    assert_eq!(admin.address(), &address);
    drop(admin);
    assert!(!path.exists());
}

#[test]
fn file_that_is_no_socket_is_left_alone() {
    let name = format!("ringecho-{}-no-socket", std::process::id());
    let path = std::env::temp_dir().join(name);
    fs::write(&path, "kept").unwrap();
    let address = ListenAddress::Unix(path.clone());
    for takes_over in [false, true] {
        let refusal = AdminListener::bind(&address, takes_over).err().expect("a file is there");
        assert!(refusal.to_string().contains("there is a file that is no socket"), "{refusal}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
    }
    fs::remove_file(path).unwrap();
}

/// The file of a server that is about to be taken over stays at its path until the new one is served.
#[test]
fn socket_file_passes_to_the_server_that_takes_over() {
    let name = format!("ringecho-{}-passing.sock", std::process::id());
    let path = std::env::temp_dir().join(name);
    let _ = fs::remove_file(&path);
    let address = ListenAddress::Unix(path.clone());
    let inode = || fs::metadata(&path).unwrap().ino();
    let old = AdminListener::bind(&address, true).unwrap().serve(directory().into()).unwrap();
    let old_inode = inode();
    let new = AdminListener::bind(&address, true).unwrap();
    assert_eq!(inode(), old_inode);
    let new = new.serve(directory().into()).unwrap();
    let new_inode = inode();
    assert_ne!(new_inode, old_inode);
    drop(old);
    assert_eq!(inode(), new_inode);
    drop(new);
    assert!(!path.exists());
}

#[test]
fn port_is_shared_with_the_server_that_takes_over() {
    let any = ListenAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
    let old = AdminListener::bind(&any, true).unwrap().serve(directory().into()).unwrap();
    assert!(AdminListener::bind(old.address(), true).is_ok());
    assert!(AdminListener::bind(old.address(), false).is_err());
}
