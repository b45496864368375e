//! What this kernel allows here: the platforms and CPUs among those that the configuration
//! permits. Each is tried; none is derived from a kernel's version.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
};

use nix::sys::resource::{Resource, getrlimit};
use tracing::{info, warn};

use super::{errors::StartError, shortages::MORE_MEMORY};
use crate::{
    config::{self, Config, DataPlane, HugePages, Within, format_duration},
    connection::RECEIVE_QUOTA,
    host::{
        cgroup::{self, CpuQuota},
        cpu_list::CpuList,
        descriptors::SystemCallError,
        runtime::try_monoio_ring,
        trial::HOW_TO_ALLOW_RINGS,
    },
    plane::engine::{self, Lack, Probe},
    worker::{Driver, Platform},
};

/// What workers may run on, the best first, as the configuration wants it and this kernel has it.
pub(super) fn resolve_platforms(config: &Config) -> Result<Vec<Platform>, StartError> {
    let (driver, data_plane) = (config.cores.driver, config.cores.data_plane);
    if data_plane == DataPlane::Portable {
        heed_lack_of_engine(config, "--data-plane is portable")?;
        return portable_platforms(driver);
    }
    // On epoll, every receive is limited.
    let on_epoll =
        Platform { driver: Driver::Epoll, engine: Some(engine_dimensions(config, true)) };
    if driver == config::Driver::Epoll {
        return Ok(vec![on_epoll]);
    }
    let obstacle = match engine::probe() {
        Ok(Probe { limits_receives }) => {
            let engine = Some(engine_dimensions(config, limits_receives));
            let on_ring = Platform { driver: Driver::IoUring, engine };
            return Ok(if driver == config::Driver::Auto {
                vec![on_ring, on_epoll]
            } else {
                vec![on_ring]
            });
        }
        Err(lack @ Lack::Memory(_)) => format!("{lack}{MORE_MEMORY}"),
        Err(lack) => lack.to_string(),
    };
    match (driver, data_plane) {
        (config::Driver::IoUring, DataPlane::Engine) => {
            Err(StartError::EngineUnavailable(obstacle))
        }
        (config::Driver::IoUring, _) => {
            heed_lack_of_engine(config, &obstacle)?;
            info!("{obstacle}; using the portable path");
            portable_platforms(driver)
        }
        _ => {
            info!("{obstacle}; the engine uses epoll");
            Ok(vec![on_epoll])
        }
    }
}

/// What workers may run on without an engine.
fn portable_platforms(driver: config::Driver) -> Result<Vec<Platform>, StartError> {
    let on_ring = Platform { driver: Driver::IoUring, engine: None };
    let on_epoll = Platform { driver: Driver::Epoll, engine: None };
    if driver == config::Driver::Epoll {
        return Ok(vec![on_epoll]);
    }
    let obstacle = match try_monoio_ring() {
        Ok(()) if !monoio::utils::detect_uring() => {
            Some("this kernel's io_uring lacks an operation that is needed".to_owned())
        }
        Ok(()) => None,
        // There may be memory for some of the rings: each worker tries, and reports what it got.
        Err(error) if error.kind() == io::ErrorKind::OutOfMemory => None,
        Err(error) => Some(format!("io_uring cannot be used here ({error}): {HOW_TO_ALLOW_RINGS}")),
    };
    match (obstacle, driver) {
        (None, config::Driver::Auto) => Ok(vec![on_ring, on_epoll]),
        (None, _) => Ok(vec![on_ring]),
        (Some(obstacle), config::Driver::Auto) => {
            warn!("{obstacle}; using epoll");
            Ok(vec![on_epoll])
        }
        (Some(obstacle), _) => Err(StartError::IoUringUnavailable(obstacle)),
    }
}

/// Refuses `--huge-pages explicit` where there is no engine, and says that other huge pages and
/// `--spin` have no use there.
fn heed_lack_of_engine(config: &Config, obstacle: &str) -> Result<(), StartError> {
    match config.cores.huge_pages {
        HugePages::Explicit => return Err(StartError::HugePagesUnavailable(obstacle.to_owned())),
        HugePages::Transparent => warn!(
            "--huge-pages transparent: only an engine has receive buffers to put into huge pages, \
             and there is no engine: {obstacle}"
        ),
        HugePages::Off => {}
    }
    let spin = config.cores.spin.get().0;
    if !spin.is_zero() {
        warn!(
            "--spin {}: only an engine polls, and there is no engine: {obstacle}",
            format_duration(&spin)
        );
    }
    Ok(())
}

fn engine_dimensions(config: &Config, limits_receives: bool) -> engine::Dimensions {
    let echo = &config.echo;
    // If the limit cannot be read, the lowest usual one is assumed.
    let (descriptors_max, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    let unsent_max = echo.unsent_max.get().in_memory();
    let receive_quota = if limits_receives { RECEIVE_QUOTA.min(unsent_max / 4) as u32 } else { 0 };
    engine::Dimensions {
        receive_buffers: echo.receive_buffers.get().get() as u16,
        receive_buffer_len: echo.receive_buffer.get().in_memory() as u32,
        huge_pages: config.cores.huge_pages,
        receive_quota,
        unsent_max,
        connections_max: descriptors_max.min(ENGINE_CONNECTIONS_MAX) as u32,
        spin: config.cores.spin.get().0,
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

/// Where the workers run: one for each entry of `cpus`.
pub(super) struct Places {
    /// The CPU of each worker.
    pub(super) cpus: Vec<usize>,
    /// Whether workers are pinned to their CPUs.
    pub(super) are_pinned: bool,
}

/// How many workers there are, and the CPU of each.
///
/// By default there is one on each CPU that may be used, but no more than can use the quota of CPU
/// time. Those that are fewer because of a quota are not pinned: a quota bounds how much time there
/// is and not where, and the servers of other containers, pinned by the same rule, would all take
/// the first CPUs.
pub(super) fn resolve_places(config: &Config) -> Result<Places, StartError> {
    let cores = &config.cores;
    let cpus = match &cores.cpus {
        Some(cpus) => cpus.clone(),
        None => CpuList::usable()?,
    };
    // Who names CPUs or a number has decided.
    let is_default = cores.cpus.is_none() && cores.workers.is_none();
    let quota = if is_default { cgroup::cpu_quota() } else { None };
    let places = place(cpus.as_slice(), cores.workers.map(Within::get), quota, cores.incoming_cpu);
    if let Some(quota) = quota.filter(|_| places.cpus.len() < cpus.as_slice().len()) {
        info!(
            "fewer workers ({}) than CPUs ({}): the control group may use the time of {}",
            places.cpus.len(),
            cpus.as_slice().len(),
            quota.in_cpus()
        );
    }
    Ok(places)
}

fn place(
    cpus: &[usize],
    workers: Option<u32>,
    quota: Option<CpuQuota>,
    incoming_cpu: bool,
) -> Places {
    let all = cpus.len();
    let count = match (workers, quota) {
        (Some(count), _) => count as usize,
        (None, quota) => quota.map_or(all, |quota| quota.cpus().min(all)),
    };
    let is_fewer_by_quota = workers.is_none() && count < all;
    // With --incoming-cpu a worker is for the packets of one CPU.
    let are_pinned = !is_fewer_by_quota || incoming_cpu;
    Places { cpus: cpus.iter().copied().cycle().take(count).collect(), are_pinned }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quota_lowers_the_number_of_workers_and_leaves_them_to_the_scheduler() {
        let quota = |text: &str| Some(text.parse::<CpuQuota>().unwrap());
        for (workers, quota, incoming_cpu, cpus, are_pinned) in [
            (None, None, false, &[1, 3, 5][..], true),
            (None, quota("150000 100000"), false, &[1, 3], false),
            (None, quota("150000 100000"), true, &[1, 3], true),
            (None, quota("1000 100000"), false, &[1], false),
            (None, quota("250000 100000"), false, &[1, 3, 5], true),
            (None, quota("900000 100000"), false, &[1, 3, 5], true),
            (Some(1), None, false, &[1], true),
            (Some(4), None, false, &[1, 3, 5, 1], true),
        ] {
            let places = place(&[1, 3, 5], workers, quota, incoming_cpu);
            assert_eq!((&*places.cpus, places.are_pinned), (cpus, are_pinned), "{quota:?}");
        }
    }
}
