//! The JSON of `/status` and `/connections`.

use std::{fmt, str::FromStr};

use nix::sys::{
    resource::{Resource, getrlimit},
    utsname::uname,
};
use serde_json::{Value, json};

use super::directory::{Directory, WorkerView};
use crate::{
    config::{Config, format_duration},
    connection::record::{Announced, RecordView, RequestRecord, Traffic},
};

/// Where a connection stands in the list of all: by its worker, then by its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) worker: usize,
    pub(super) number: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.worker, self.number)
    }
}

/// The text is no connection's id.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotACursor;

impl FromStr for Cursor {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<Self, NotACursor> {
        let (worker, number) = text.split_once('.').ok_or(NotACursor)?;
        let worker = worker.parse().map_err(|_| NotACursor)?;
        Ok(Self { worker, number: number.parse().map_err(|_| NotACursor)? })
    }
}

/// The server and its workers.
pub(super) fn status(directory: &Directory) -> Value {
    let views = directory.views();
    let answers = directory.ask_all(|_| None, 0);
    let workers = views.into_iter().zip(answers).enumerate();
    let workers: Vec<_> = workers
        .map(|(worker, (view, answer))| {
            let WorkerView { cpu, platform, accepted, open } = view;
            json!({
                "worker": worker,
                "cpu": cpu,
                "platform": platform.map(|platform| platform.to_string()),
                "answers": answer.is_some(),
                "connections_open": open,
                "connections_accepted": accepted,
            })
        })
        .collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "kernel": kernel_release(),
        "process_id": std::process::id(),
        "uptime_seconds": directory.started.elapsed().as_secs(),
        "listen": directory.listens.get().and_then(|listens| listens.first()),
        "listens": directory.listens.get(),
        "ready": directory.is_ready(),
        "workers": workers,
        "limits": limits(&directory.config),
    })
}

/// What bounds the server.
fn limits(config: &Config) -> Value {
    let Config { network, echo, time, .. } = config;
    let open_files = getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft);
    json!({
        "open_files": open_files,
        "backlog": network.backlog.get(),
        "receive_buffer": echo.receive_buffer.get().to_string(),
        "receive_buffers": echo.receive_buffers.get().get(),
        "unsent_max": echo.unsent_max.get().to_string(),
        "hold": echo.hold.get().to_string(),
        "message_size_max": echo.message_size_max.get().to_string(),
        "handshake_timeout": format_duration(&time.handshake_timeout.get()),
        "keep_alive_interval": format_duration(&time.keep_alive_interval.get()),
        "keep_alive_timeout": format_duration(&time.keep_alive_timeout.get()),
        "close_timeout": format_duration(&time.close_timeout.get()),
        "drain_timeout": format_duration(&time.drain_timeout.get()),
    })
}

fn kernel_release() -> Option<String> {
    Some(uname().ok()?.release().to_string_lossy().into_owned())
}

/// The first `limit` open connections behind `after`.
pub(super) fn connections(directory: &Directory, after: Option<Cursor>, limit: usize) -> Value {
    let first_worker = after.map_or(0, |after| after.worker);
    let after_in = |worker| after.filter(|after| after.worker == worker).map(|it| it.number);
    let answers = directory.ask_all(after_in, limit);
    let mut silent_workers = Vec::new();
    let mut connections = Vec::new();
    let mut has_more = false;
    for (worker, answer) in answers.into_iter().enumerate().skip(first_worker) {
        let Some(answer) = answer else {
            silent_workers.push(worker);
            continue;
        };
        has_more |= answer.has_more;
        for record in answer.connections {
            if connections.len() < limit {
                connections.push((Cursor { worker, number: record.number }, record));
            } else {
                has_more = true;
            }
        }
    }
    let next = connections.last().filter(|_| has_more).map(|(cursor, _)| cursor.to_string());
    let connections: Vec<_> =
        connections.iter().map(|(cursor, record)| connection(*cursor, record)).collect();
    json!({ "connections": connections, "next": next, "silent_workers": silent_workers })
}

fn connection(cursor: Cursor, record: &RecordView) -> Value {
    let RecordView { peer, via, announced, carrier, http, age, client, .. } = record;
    let RecordView { request, subprotocol, state, traffic, .. } = record;
    let proxy = announced.as_ref().map(|it| {
        let Announced { authority, alpn, tls, unique_id } = it;
        json!({ "authority": authority, "alpn": alpn, "tls": tls, "unique_id": unique_id })
    });
    let Traffic { received_bytes, sent_bytes, messages } = *traffic;
    let unknown = RequestRecord::default();
    let RequestRecord { path, origin, agent } = request.as_ref().unwrap_or(&unknown);
    json!({
        "id": cursor.to_string(),
        "worker": cursor.worker,
        "peer": peer.to_string(),
        "via": via.map(|via| via.to_string()),
        "proxy": proxy,
        "client": client,
        "http": http,
        "connection": carrier.map(|number| Cursor { number, ..cursor }.to_string()),
        "age_seconds": age.as_secs_f64(),
        "state": <&str>::from(*state),
        "path": request.as_ref().map(|_| path),
        "origin": origin,
        "agent": agent,
        "subprotocol": subprotocol,
        "messages": messages,
        "received_bytes": received_bytes,
        "sent_bytes": sent_bytes,
    })
}
