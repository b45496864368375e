//! The access log: one line of JSON for each connection when it ends. A thread of its own writes the
//! lines, so that no worker waits for a disk or a reader.
//!
//! Lines wait in a bounded queue, as those of the [`log`](crate::log) do. A line that finds no room
//! there, or that cannot be written, is lost; how many were is logged once lines can be written again,
//! and [`AccessLog::lost`] says it at any time. What peers said is in the lines only as
//! [`record`](crate::connection::record) keeps it: bounded, and with control characters escaped.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt,
    },
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::SystemTime,
};

use serde::Serialize;
use thiserror::Error;
use tracing::{error, warn};

use crate::{
    config::AccessLogTarget,
    connection::{
        ConnectionEnd,
        record::{RecordView, Traffic},
    },
    log::{FINISH_TIMEOUT, Queue, write_line},
    metrics::RefusalReason,
};

/// Lines of ended connections, on their way to a file or to stdout.
#[derive(Debug)]
pub struct AccessLog {
    queue: Arc<Queue>,
    reopening: Arc<AtomicBool>,
}

/// Why an access log cannot be written.
#[derive(Debug, Error)]
pub enum AccessLogError {
    /// The file cannot be opened.
    #[error("--access-log {path}: cannot be opened for appending: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The thread that writes cannot be started.
    #[error("--access-log: no thread can be started: {0}")]
    Thread(#[source] io::Error),
}

/// Where lines go.
enum Output {
    Stdout,
    File { path: PathBuf, file: File },
}

/// A line, in the order of its fields.
#[derive(Serialize)]
struct Line<'a> {
    /// When the connection ended.
    time: String,
    peer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<&'a str>,
    path: Option<&'a str>,
    origin: Option<&'a str>,
    agent: Option<&'a str>,
    subprotocol: Option<&'a str>,
    /// The version of HTTP.
    http: u8,
    /// The number of a stream's connection, and the connection's own number.
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<u64>,
    messages: u64,
    received_bytes: u64,
    sent_bytes: u64,
    duration_ms: u64,
    end: &'static str,
    close_code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<&'static str>,
}

/// An access log whose thread has not started.
pub struct OpenAccessLog(Output);

impl OpenAccessLog {
    /// Opens the log.
    pub fn open(target: &AccessLogTarget) -> Result<Self, AccessLogError> {
        Output::open(target).map(Self)
    }

    /// Starts the thread that writes.
    pub fn write_in_background(self) -> Result<AccessLog, AccessLogError> {
        let Self(mut output) = self;
        let log = AccessLog { queue: Arc::default(), reopening: Arc::default() };
        let (queue, reopening) = (log.queue.clone(), log.reopening.clone());
        let write = move || {
            // Whether the last line may have been written in part.
            let mut is_broken = false;
            while queue.wait_for_line() {
                if reopening.swap(false, Relaxed) {
                    output.reopen();
                }
                let write = |line: &[u8]| {
                    let begin: &[u8] = if is_broken { b"\n" } else { b"" };
                    let written = write_line(&output, &[begin, line].concat());
                    is_broken = written.is_err();
                    written
                };
                queue.write_lines(write, |lost| {
                    error!(lost, "lines of the access log were lost: they could not be written");
                });
            }
        };
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(write)
            .map_err(AccessLogError::Thread)?;
        Ok(log)
    }
}

impl AccessLog {
    /// Opens the file anew before the next line is written, as after a rotation of logs. If it cannot be
    /// opened, a warning is logged, and the file that is open stays in use.
    pub fn reopen(&self) {
        self.reopening.store(true, Relaxed);
    }

    /// The lines that have been lost.
    pub fn lost(&self) -> u64 {
        self.queue.lost()
    }

    /// Waits until all lines are written, but at most a second.
    pub fn finish(&self) {
        self.queue.wait_until_written(FINISH_TIMEOUT);
    }

    /// Writes the line of a connection that has ended.
    pub fn write(&self, record: &RecordView, end: ConnectionEnd, close_code: Option<u16>) {
        // Numbers and text can always be written as JSON.
        if let Ok(mut line) = serde_json::to_vec(&Line::new(record, end, close_code)) {
            line.push(b'\n');
            self.queue.push(&line);
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.finish();
        self.queue.end();
    }
}

impl<'a> Line<'a> {
    fn new(record: &'a RecordView, end: ConnectionEnd, close_code: Option<u16>) -> Self {
        let RecordView { number, peer, via, carrier, http, age, client, .. } = record;
        let RecordView { request, subprotocol, traffic, .. } = record;
        let request = request.as_ref();
        let refusal = match end {
            ConnectionEnd::Refused(reason) => Some(RefusalReason::NAMES[reason.index()]),
            _ => None,
        };
        let Traffic { received_bytes, sent_bytes, messages } = *traffic;
        Self {
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            peer: peer.to_string(),
            via: via.map(|via| via.to_string()),
            client: client.as_deref(),
            path: request.map(|request| &*request.path),
            origin: request.and_then(|request| request.origin.as_deref()),
            agent: request.and_then(|request| request.agent.as_deref()),
            subprotocol: subprotocol.as_deref(),
            http: *http,
            connection: carrier.or_else(|| (*http == 2).then_some(*number)),
            messages,
            received_bytes,
            sent_bytes,
            duration_ms: age.as_millis() as u64,
            end: ConnectionEnd::KINDS[end.kind()],
            close_code,
            refusal,
        }
    }
}

impl Output {
    fn open(target: &AccessLogTarget) -> Result<Self, AccessLogError> {
        let AccessLogTarget::File(path) = target else { return Ok(Self::Stdout) };
        match open_file(path) {
            Ok(file) => Ok(Self::File { path: path.clone(), file }),
            Err(source) => Err(AccessLogError::Open { path: path.clone(), source }),
        }
    }

    fn reopen(&mut self) {
        let Self::File { path, file } = self else { return };
        match open_file(path) {
            Ok(opened) => *file = opened,
            Err(error) => {
                let path = path.display();
                warn!(%path, %error, "the access log cannot be opened anew; it goes on as it was");
            }
        }
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            // Rust never closes it.
            Self::Stdout => STDOUT.as_fd(),
            Self::File { file, .. } => file.as_fd(),
        }
    }
}

static STDOUT: std::sync::LazyLock<io::Stdout> = std::sync::LazyLock::new(io::stdout);

/// Opens a file for appending, without waiting for a reader if it is a pipe.
fn open_file(path: &PathBuf) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o640).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use std::{fs, net::SocketAddr, time::Duration};

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        connection::record::{Record, RequestRecord, printable},
        protocol::ProtocolError,
    };

    fn open(target: &AccessLogTarget) -> AccessLog {
        OpenAccessLog::open(target).unwrap().write_in_background().unwrap()
    }

    fn view(path: &[u8]) -> RecordView {
        let record = Record::new(1, SocketAddr::from(([127, 0, 0, 1], 80)).into());
        record.asked_for(RequestRecord { path: printable(path), ..RequestRecord::default() });
        RecordView { age: Duration::from_millis(1500), ..record.view() }
    }

    fn lines(path: &PathBuf) -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// A path of this test's own, without a file.
    fn path_without_file(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("ringecho-{}-{name}", std::process::id()));
        let _ = fs::remove_file(&path);
        path
    }

    #[test]
    fn ended_connection_is_one_line_whatever_its_peer_said() {
        let path = path_without_file("access.log");
        let log = open(&AccessLogTarget::File(path.clone()));
        let end = ConnectionEnd::Failed(ProtocolError::MaskMissing);
        log.write(&view(b"/a\r\n{\"fake\":1}\x1b"), end, Some(1002));
        drop(log);
        let written = lines(&path);
        assert_eq!(written.len(), 1);
        assert_eq!(written[0]["path"], json!(r#"/a\u{d}\u{a}{"fake":1}\u{1b}"#));
        assert_eq!(written[0]["end"], json!("failed"));
        assert_eq!(written[0]["close_code"], json!(1002));
        assert_eq!(written[0]["duration_ms"], json!(1500));
        assert_eq!(written[0]["origin"], Value::Null);
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn rotated_file_is_left_for_a_new_one_before_the_next_line() {
        let (path, rotated) =
            (path_without_file("rotated.log"), path_without_file("rotated.log.1"));
        let log = open(&AccessLogTarget::File(path.clone()));
        log.write(&view(b"/first"), ConnectionEnd::PeerLeft, None);
        log.queue.wait_until_written(Duration::from_mins(1));
        fs::rename(&path, &rotated).unwrap();
        log.reopen();
        log.write(&view(b"/second"), ConnectionEnd::PeerLeft, None);
        drop(log);
        let paths = |file| lines(file).iter().map(|line| line["path"].clone()).collect::<Vec<_>>();
        assert_eq!(
            (paths(&rotated), paths(&path)),
            (vec![json!("/first")], vec![json!("/second")])
        );
        for file in [path, rotated] {
            fs::remove_file(file).unwrap();
        }
    }

    #[test]
    fn full_disk_loses_lines_and_nothing_else() {
        let log = open(&AccessLogTarget::File("/dev/full".into()));
        for _ in 0..3 {
            log.write(&view(b"/"), ConnectionEnd::PeerLeft, None);
        }
        log.queue.wait_until_written(Duration::from_mins(1));
        assert_eq!(log.lost(), 3);
    }

    #[test]
    fn file_that_cannot_be_opened_is_refused_with_its_path() {
        let target = AccessLogTarget::File("/no/such/folder/access.log".into());
        let refusal = OpenAccessLog::open(&target).err().expect("it is refused").to_string();
        assert!(refusal.starts_with("--access-log /no/such/folder/access.log: "), "{refusal}");
    }
}
