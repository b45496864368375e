//! The machine that numbers are of.

use std::{fmt, fs, thread};

use nix::sys::utsname::uname;
use ringecho::host::cpu_list::CpuList;
use serde::Serialize;

/// The machine that this program runs on.
#[derive(Clone, Debug, Serialize)]
pub struct Host {
    /// As the kernel names it.
    pub cpu_model: String,
    /// Those that may be used.
    pub cpus: usize,
    /// Name and release.
    pub kernel: String,
}

impl Host {
    /// Asks the kernel.
    pub fn read() -> Self {
        let kernel = uname().map(|name| {
            [name.sysname(), name.release()].map(|part| part.to_string_lossy()).join(" ")
        });
        Self {
            cpu_model: cpu_model(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
            cpus: usable_cpus(),
            kernel: kernel.unwrap_or_else(|_| "an unknown kernel".to_owned()),
        }
    }
}

/// How many there are, or how many threads the system would have, where it does not tell.
fn usable_cpus() -> usize {
    let guess = || thread::available_parallelism().map_or(1, Into::into);
    CpuList::usable().map_or_else(|_| guess(), |cpus| cpus.as_slice().len())
}

fn cpu_model(cpuinfo: &str) -> String {
    let line = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
    let model = line.and_then(|line| line.split_once(':')).map(|(_, model)| model.trim());
    model.unwrap_or("an unknown CPU").to_owned()
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} CPUs, {}", self.cpu_model, self.cpus, self.kernel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_model_is_found() {
        let cpuinfo = "processor\t: 0\nmodel\t\t: 1\nmodel name\t: A CPU @ 3 GHz\nstepping\t: 1\n";
        assert_eq!(cpu_model(cpuinfo), "A CPU @ 3 GHz");
        assert_eq!(cpu_model("Hardware : x"), "an unknown CPU");
    }
}
