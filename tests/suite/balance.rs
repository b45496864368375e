//! Connections on several workers: where they are, and that nothing gets lost on the way there.

use std::{sync::Barrier, thread};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use ringecho::{
    config::{Config, Cores},
    host::cpu_list::{CpuList, format},
};

use crate::{
    frames::{close, text},
    peer::{Peer, TestServer, config_with_workers, planes},
};

const WORKERS: usize = 8;
const CONNECTIONS: usize = 64;

fn config_with(balance: bool) -> Config {
    let config = config_with_workers(WORKERS as u32);
    Config { cores: Cores { balance, ..config.cores }, ..config }
}

fn echo_and_close(mut peer: Peer) {
    peer.send(text("hello").encode());
    peer.expect(text("hello").encode_echo());
    peer.send(close(1000, "").encode());
    peer.expect(b"\x88\x02\x03\xe8");
    peer.expect_end();
}

#[test]
fn connections_opened_one_after_another_are_spread_exactly() {
    for config in planes(&config_with(true)) {
        let server = TestServer::start(&config);
        let peers: Vec<Peer> = (0..CONNECTIONS).map(|_| server.open()).collect();
        peers.into_iter().for_each(echo_and_close);
        let totals = server.stop();
        assert_eq!(totals.accepted_by_worker, [CONNECTIONS / WORKERS; WORKERS].map(|n| n as u64));
        assert_eq!(totals.ended, [("closed_by_peer", CONNECTIONS as u64)]);
    }
}

#[test]
fn connections_opened_at_once_are_spread_exactly() {
    const CLIENTS: usize = 4;
    for config in planes(&config_with(true)) {
        let server = TestServer::start(&config);
        let all_open = Barrier::new(CLIENTS);
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    let peers: Vec<Peer> =
                        (0..CONNECTIONS / CLIENTS).map(|_| server.open()).collect();
                    all_open.wait();
                    peers.into_iter().for_each(echo_and_close);
                });
            }
        });
        let totals = server.stop();
        assert_eq!(totals.accepted_by_worker, [CONNECTIONS / WORKERS; WORKERS].map(|n| n as u64));
        assert_eq!(totals.ended, [("closed_by_peer", CONNECTIONS as u64)]);
    }
}

/// That a hash spreads 256 connections exactly has a chance of 1 in 40 million.
#[test]
fn without_balance_connections_are_where_the_kernel_puts_them() {
    const EACH: u64 = 32;
    let server = TestServer::start(&config_with(false));
    let peers: Vec<Peer> = (0..EACH * WORKERS as u64).map(|_| server.open()).collect();
    drop(peers);
    let totals = server.stop();
    assert_eq!(totals.accepted, EACH * WORKERS as u64);
    assert_ne!(totals.accepted_by_worker, [EACH; WORKERS]);
}

/// On loopback packets arrive on the CPU that their sender runs on.
#[test]
fn connections_can_be_left_on_the_cpu_that_they_come_from() {
    const EACH: usize = 16;
    const CPUS_MAX: usize = 4;
    let usable = CpuList::usable().unwrap();
    let cpus = &usable.as_slice()[..usable.as_slice().len().min(CPUS_MAX)];
    let config = config_with_workers(cpus.len() as u32);
    let cores = Cores {
        cpus: Some(format(cpus).parse().unwrap()),
        balance: false,
        incoming_cpu: true,
        ..config.cores
    };
    let config = Config { cores, ..config };
    let server = TestServer::start(&config);
    thread::scope(|scope| {
        for cpu in cpus {
            scope.spawn(|| {
                let mut here = CpuSet::new();
                here.set(*cpu).unwrap();
                sched_setaffinity(Pid::from_raw(0), &here).unwrap();
                drop((0..EACH).map(|_| server.open()).collect::<Vec<_>>());
            });
        }
    });
    let totals = server.stop();
    assert!(
        totals.accepted_by_worker.iter().all(|accepted| *accepted == EACH as u64),
        "{totals:?}"
    );
}
