//! The configuration file: what it sets, how it is refused, and how SIGHUP has it read again.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    net::TcpStream,
    path::PathBuf,
    process::{Child, ChildStderr, Command, Output},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use nix::sys::signal::Signal;
use tungstenite::{ClientRequestBuilder, WebSocket};

use crate::program::{address, ringecho, signal, start, url};

/// A file of this test's own, which is removed with it.
pub struct ConfigFile(PathBuf);

impl ConfigFile {
    pub fn new(text: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ringecho-{}-{}.toml", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let file = Self(env::temp_dir().join(name));
        file.write(text);
        file
    }

    pub fn write(&self, text: &str) {
        fs::write(&self.0, text).unwrap();
    }

    pub fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

pub fn output(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// A scalar, a list and a switch: each is set by none, one or more of file, variable and flag.
#[test]
fn flags_beat_variables_beat_the_file_beat_the_defaults() {
    let file = ConfigFile::new("hold = '5KiB'\npath = ['/f1', '/f2']\nreuse-port = true\n");
    for (sources, hold, path, reuse_port) in [
        ("", "4KiB", r#"["/ws"]"#, "false"),
        ("file", "5KiB", r#"["/f1", "/f2"]"#, "true"),
        ("variable", "6KiB", r#"["/v1", "/v2"]"#, "false"),
        ("flag", "7KiB", r#"["/a1", "/a2"]"#, "true"),
        ("file variable", "6KiB", r#"["/v1", "/v2"]"#, "false"),
        ("file flag", "7KiB", r#"["/a1", "/a2"]"#, "true"),
        ("variable flag", "7KiB", r#"["/a1", "/a2"]"#, "true"),
        ("file variable flag", "7KiB", r#"["/a1", "/a2"]"#, "true"),
    ] {
        let mut command = ringecho();
        command.args(["config", "show"]);
        if sources.contains("file") {
            command.env("RINGECHO_CONFIG", &file.0);
        }
        if sources.contains("variable") {
            command.envs([
                ("RINGECHO_HOLD", "6KiB"),
                ("RINGECHO_PATH", "/v1,/v2"),
                ("RINGECHO_REUSE_PORT", "off"),
            ]);
        }
        if sources.contains("flag") {
            command.args(["--hold=7KiB", "--path=/a1", "--path=/a2", "--reuse-port"]);
        }
        let (code, shown, said) = output(&mut command);
        assert_eq!(code, Some(0), "{said}");
        let value = |name| {
            let line = shown.lines().find_map(|line| line.strip_prefix(&format!("{name} = ")));
            line.expect(&shown).split(" # ").next().unwrap().to_owned()
        };
        assert_eq!(value("hold"), format!("{hold:?}"), "{sources}");
        assert_eq!(value("path"), path, "{sources}");
        let is_on = if value("reuse-port") == "\"off\"" { "false" } else { &value("reuse-port") };
        assert_eq!(is_on.trim_matches('"'), reuse_port, "{sources}");
    }
}

#[test]
fn server_runs_with_the_values_of_its_file() {
    let file = ConfigFile::new(
        "listen = '127.0.0.1:0'\nworkers = 1\npath = ['/from-file']\ndriver = 'epoll'\n",
    );
    let (mut child, line) = start(ringecho().args(["--config", file.path()]));
    assert!(line.ends_with("/from-file (1 worker, epoll with engine)\n"), "{line}");
    signal(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn wrong_file_is_refused_with_file_line_name_value_and_what_is_allowed() {
    let file = ConfigFile::new("workers = 2\nhold = '2MiB'\nworker = 3\n");
    let path = file.path();
    for arguments in [&["--config", path][..], &["config", "check", "--config", path]] {
        let (code, _, said) = output(ringecho().args(arguments));
        assert_eq!(code, Some(2), "{said}");
        let expected = format!(
            "error: {path}, line 2: hold = \"2MiB\": must be from 0 to 1MiB, not 2MiB\n\
             {path}, line 3: \"worker\": no flag has this name, but workers is one\n"
        );
        assert!(said.starts_with(&expected), "{said}");
    }
    let (code, _, said) = output(ringecho().args(["--log-format=json", "--config", path]));
    assert_eq!((code, said.lines().count()), (Some(2), 1), "{said}");
    assert!(said.contains("line 2: hold = \\\"2MiB\\\": must be"), "{said}");
}

#[test]
fn file_that_cannot_be_read_is_refused() {
    let directory = env::temp_dir();
    for (path, expected) in [
        ("/nowhere/ringecho.toml", "/nowhere/ringecho.toml cannot be read: No such file"),
        (directory.to_str().unwrap(), " is no regular file"),
        ("/dev/zero", "/dev/zero is no regular file"),
    ] {
        let (code, _, said) = output(ringecho().args(["--config", path]));
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(expected), "{said}");
    }
    let binary = ConfigFile::new("");
    fs::write(&binary.0, b"path = '\xff'").unwrap();
    let (code, _, said) = output(ringecho().args(["--config", binary.path()]));
    assert!(code == Some(2) && said.contains("is not UTF-8 text"), "{said}");
}

#[test]
fn check_says_whether_a_server_would_take_it_and_starts_none() {
    let file = ConfigFile::new("hold = 0\n");
    let (code, said, _) = output(ringecho().args(["config", "check", "--config", file.path()]));
    assert_eq!((code, said), (Some(0), format!("{} is valid\n", file.path())));
    let (code, said, _) = output(ringecho().args(["config", "check"]));
    assert_eq!((code, &*said), (Some(0), "the configuration is valid\n"));
    // Values that contradict each other, and a command that is none.
    file.write("incoming-cpu = true\n");
    let (code, _, said) = output(ringecho().args(["config", "check", "--config", file.path()]));
    assert!(code == Some(2) && said.contains("add --balance off"), "{said}");
    for arguments in [&["config"][..], &["config", "chekc"]] {
        let (code, _, said) = output(ringecho().args(arguments));
        assert!(code == Some(2) && said.contains("check"), "{said}");
    }
}

/// Lines of the program's log until one has this text, which is returned.
pub fn log_line(log: &mut BufReader<ChildStderr>, text: &str) -> String {
    loop {
        let mut line = String::new();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "no line has {text:?}");
        if line.contains(text) {
            return line;
        }
    }
}

pub fn stop(mut child: Child, mut log: BufReader<ChildStderr>) -> String {
    signal(&child, Signal::SIGTERM);
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    rest
}

/// The status of a handshake from this origin, and the connection if there is one.
fn connect_from(line: &str, origin: &str) -> Result<WebSocket<TcpStream>, u16> {
    let request =
        ClientRequestBuilder::new(url(line).parse().unwrap()).with_header("Origin", origin);
    let stream = TcpStream::connect(address(line)).unwrap();
    match tungstenite::client(request, stream) {
        Ok((client, _)) => Ok(client),
        Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(response))) => {
            Err(response.status().as_u16())
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn hangup_has_the_file_read_again_while_connections_live_on() {
    for plane in ["--data-plane=auto", "--driver=epoll", "--data-plane=portable"] {
        let file = ConfigFile::new("allowed-origin = ['https://a.example']\nworkers = 2\n");
        let arguments = ["--listen=127.0.0.1:0", "--config", file.path(), plane];
        let (mut child, line) = start(ringecho().args(arguments));
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut old = connect_from(&line, "https://a.example").unwrap();
        assert_eq!(connect_from(&line, "https://b.example").unwrap_err(), 403);

        file.write("allowed-origin = ['https://b.example']\nworkers = 3\nlog-level = 'debug'\n");
        signal(&child, Signal::SIGHUP);
        let said = log_line(&mut log, "configuration read again: ");
        let change = "allowed-origin: [https://a.example] -> [https://b.example]; \
                      log-level: info -> debug";
        assert!(said.contains(change), "{said}");
        let said = log_line(&mut log, "only a restart changes these");
        assert!(said.contains("workers: 2 -> 3"), "{said}");
        // Both workers have it once each has been asked often enough; until then one may still
        // answer as before.
        while connect_from(&line, "https://a.example").is_ok() {}
        while connect_from(&line, "https://b.example").is_err() {}
        log_line(&mut log, "connection upgraded");
        old.send("still here".into()).unwrap();
        assert_eq!(old.read().unwrap(), "still here".into());

        // A wrong file changes nothing.
        file.write("allowed-origin = ['https://c.example']\nhold = 'big'\n");
        signal(&child, Signal::SIGHUP);
        let said = log_line(&mut log, "the configuration stays as it is: ");
        assert!(said.contains("line 2: hold = \"big\": a size is a number of bytes"), "{said}");
        assert_eq!(connect_from(&line, "https://c.example").unwrap_err(), 403);

        // What was not taken over is said again, and only that.
        file.write("allowed-origin = ['https://b.example']\nworkers = 3\nlog-level = 'debug'\n");
        signal(&child, Signal::SIGHUP);
        log_line(&mut log, "configuration read again: nothing changed");
        log_line(&mut log, "workers: 2 -> 3");
        drop(old);
        let rest = stop(child, log);
        assert!(rest.contains("stopped"), "{rest}");
    }
}

#[test]
fn hangup_without_a_file_stops_the_program() {
    let (mut child, _) = start(ringecho().args(["--listen=127.0.0.1:0"]));
    signal(&child, Signal::SIGHUP);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
