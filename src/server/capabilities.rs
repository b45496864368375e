//! What this kernel allows here: the best driver, engine and CPUs among those that the
//! configuration permits. Each is tried; none is derived from a kernel's version.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
};

use nix::sys::resource::{Resource, getrlimit};
use tracing::{info, warn};

use super::{errors::StartError, shortages::MORE_MEMORY};
use crate::{
    config::{self, Config, DataPlane, HugePages},
    connection::RECEIVE_QUOTA,
    host::{cpu_list::CpuList, descriptors::SystemCallError, runtime::try_monoio_ring},
    plane::engine::{self, Lack},
    worker::Driver,
};

/// The best driver that is wanted and that this kernel has.
pub(super) fn resolve_driver(wanted: config::Driver) -> Result<Driver, StartError> {
    if wanted == config::Driver::Epoll {
        return Ok(Driver::Epoll);
    }
    let obstacle = match try_monoio_ring() {
        Ok(()) if monoio::utils::detect_uring() => return Ok(Driver::IoUring),
        Ok(()) => "this kernel's io_uring lacks an operation that is needed".to_owned(),
        // There may be memory for some of the rings: each worker tries, and reports what it got.
        Err(error) if error.kind() == io::ErrorKind::OutOfMemory => return Ok(Driver::IoUring),
        Err(error) => format!(
            "io_uring cannot be used here ({error}): allow io_uring_setup, io_uring_enter and \
             io_uring_register in the container's seccomp profile, or set \
             kernel.io_uring_disabled=0"
        ),
    };
    if wanted == config::Driver::IoUring {
        return Err(StartError::IoUringUnavailable(obstacle));
    }
    warn!("{obstacle}; using epoll");
    Ok(Driver::Epoll)
}

/// The dimensions of the engine, if one is wanted and this kernel has what it needs.
///
/// Fails without an engine if `--data-plane engine` or `--huge-pages explicit` insists on one.
pub(super) fn resolve_data_plane(
    config: &Config,
    driver: Driver,
) -> Result<Option<engine::Dimensions>, StartError> {
    let data_plane = config.cores.data_plane;
    let obstacle = match (data_plane, driver) {
        (DataPlane::Portable, _) => "--data-plane is portable".to_owned(),
        (_, Driver::Epoll) => "it needs io_uring".to_owned(),
        (_, Driver::IoUring) => match engine::probe() {
            Ok(probe) => return Ok(Some(engine_dimensions(config, probe))),
            Err(Lack::Memory(error)) => {
                format!("there is no memory for its ring ({error}){MORE_MEMORY}")
            }
            Err(lack) => lack.to_string(),
        },
    };
    if data_plane == DataPlane::Engine {
        return Err(StartError::EngineUnavailable(obstacle));
    }
    match config.cores.huge_pages {
        HugePages::Explicit => return Err(StartError::HugePagesUnavailable(obstacle)),
        HugePages::Transparent => warn!(
            "--huge-pages transparent: only an engine has receive buffers to put into huge pages, \
             and there is no engine: {obstacle}"
        ),
        HugePages::Off => {}
    }
    if data_plane == DataPlane::Auto {
        info!("no engine, {obstacle}; using the portable path");
    }
    Ok(None)
}

fn engine_dimensions(config: &Config, probe: engine::Probe) -> engine::Dimensions {
    let echo = &config.echo;
    // If the limit cannot be read, the lowest usual one is assumed.
    let (descriptors_max, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    let unsent_max = echo.unsent_max.get().in_memory();
    let receive_quota =
        if probe.limits_receives { RECEIVE_QUOTA.min(unsent_max / 4) as u32 } else { 0 };
    engine::Dimensions {
        receive_buffers: echo.receive_buffers.get().get() as u16,
        receive_buffer_len: echo.receive_buffer.get().in_memory() as u32,
        huge_pages: config.cores.huge_pages,
        receive_quota,
        unsent_max,
        connections_max: descriptors_max.min(ENGINE_CONNECTIONS_MAX) as u32,
    }
}

/// The most connection slots of an engine. Slots take kernel memory even while they are unused.
const ENGINE_CONNECTIONS_MAX: u64 = 1 << 20;

/// Tries the socket calls that connections and workers cannot do without, so that their refusal
/// fails the start and no client waits for an answer in vain.
pub(super) fn try_socket_pair() -> Result<(), SystemCallError> {
    let (mut one, mut other) = UnixStream::pair().map_err(SystemCallError::naming("socketpair"))?;
    one.write_all(b"?").map_err(SystemCallError::naming("sendto"))?;
    other.read_exact(&mut [0]).map_err(SystemCallError::naming("recvfrom"))
}

/// The CPU that each worker is pinned to.
pub(super) fn resolve_cpus(config: &Config) -> Result<Vec<usize>, StartError> {
    let cpus = match &config.cores.cpus {
        Some(cpus) => cpus.clone(),
        None => CpuList::usable()?,
    };
    let cpus = cpus.as_slice();
    let count = config.cores.workers.map_or(cpus.len(), |count| count.get() as usize);
    Ok(cpus.iter().copied().cycle().take(count).collect())
}
