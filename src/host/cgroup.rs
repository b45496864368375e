//! The CPU time that this process may use, as its control groups bound it: `cpu.max` of version 2,
//! `cpu.cfs_quota_us` and `cpu.cfs_period_us` of version 1.
//!
//! A group is bounded by its parents too, so all are read from the process's own up to the mount. In
//! a container the mount may show only a part of the tree; what lies above it is not seen. A file
//! that is missing or cannot be read bounds nothing.

use std::{
    cmp::Ordering,
    fs,
    path::{Path, PathBuf},
    str::FromStr,
};

/// CPU time per time, as a fraction: `quota` microseconds of CPUs in each `period` microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuQuota {
    quota: u64,
    period: u64,
}

/// A text is no quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoQuota;

/// The version of a hierarchy of control groups, by which its files differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A process's group in a mounted hierarchy: the directory of the mount, and the group below it.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    version: Version,
    mount: PathBuf,
    below: PathBuf,
}

/// The least CPU time that any control group of this process grants; `None` if none bounds it.
pub fn cpu_quota() -> Option<CpuQuota> {
    let read = |path: &Path| fs::read_to_string(path).ok();
    let own = read(Path::new("/proc/self/cgroup"))?;
    let mounts = read(Path::new("/proc/self/mountinfo"))?;
    groups(&own, &mounts).iter().filter_map(|group| group.least(read)).min()
}

impl CpuQuota {
    /// The fewest CPUs that can use all of it, at least one.
    pub fn cpus(self) -> usize {
        self.quota.div_ceil(self.period).max(1) as usize
    }

    /// The CPUs' worth of time, such as 1.5.
    pub fn in_cpus(self) -> f64 {
        let [quota, period] = [self.quota, self.period].map(|us| {
            #[expect(clippy::cast_precision_loss, reason = "microseconds, for people")]
            let us = us as f64;
            us
        });
        quota / period
    }

    /// Reads `cpu.cfs_quota_us`, which is -1 for no bound, and `cpu.cfs_period_us`.
    fn from_v1(quota: &str, period: &str) -> Option<Self> {
        Self::new(quota.trim().parse().ok()?, period.trim().parse().ok()?)
    }

    fn new(quota: u64, period: u64) -> Option<Self> {
        (period > 0).then_some(Self { quota, period })
    }
}

/// The text of `cpu.max`: the quota, which is `max` for no bound, and the period.
impl FromStr for CpuQuota {
    type Err = NoQuota;

    fn from_str(text: &str) -> Result<Self, NoQuota> {
        let (quota, period) = text.trim().split_once(' ').ok_or(NoQuota)?;
        let number = |text: &str| text.parse().map_err(|_| NoQuota);
        Self::new(number(quota)?, number(period)?).ok_or(NoQuota)
    }
}

impl Ord for CpuQuota {
    fn cmp(&self, other: &Self) -> Ordering {
        let scaled = |it: &Self, by: &Self| u128::from(it.quota) * u128::from(by.period);
        scaled(self, other).cmp(&scaled(other, self))
    }
}

impl PartialOrd for CpuQuota {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Group {
    /// The least quota of the group and its parents, up to the mount.
    fn least(&self, read: impl Fn(&Path) -> Option<String>) -> Option<CpuQuota> {
        let quota = |below: &Path| {
            let read = |file: &str| read(&self.mount.join(below).join(file));
            match self.version {
                Version::Two => read("cpu.max")?.parse().ok(),
                Version::One => {
                    CpuQuota::from_v1(&read("cpu.cfs_quota_us")?, &read("cpu.cfs_period_us")?)
                }
            }
        };
        self.below.ancestors().filter_map(quota).min()
    }
}

/// Finds a process's groups that bound CPU time: `own` is its `/proc/self/cgroup`, `mounts` its
/// `/proc/self/mountinfo`.
fn groups(own: &str, mounts: &str) -> Vec<Group> {
    own.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let version = match controllers {
                "" => Version::Two,
                _ if controllers.split(',').any(|it| it == "cpu") => Version::One,
                _ => return None,
            };
            let (mount, root) = mounts.lines().find_map(|line| mount(line, version))?;
            Some(Group { version, mount: mount.into(), below: below(path, root) })
        })
        .collect()
}

/// Where a line of mountinfo mounts the hierarchy of this version that bounds CPU time, and which
/// group is at the mount's root; `None` if the line is of something else.
fn mount(line: &str, version: Version) -> Option<(&str, &str)> {
    // ID parent device ROOT POINT options... - TYPE source OPTIONS
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, point) = (before.next()?, before.next()?);
    let mut after = after.split(' ');
    let (kind, options) = (after.next()?, after.nth(1)?);
    let is_it = match version {
        Version::Two => kind == "cgroup2",
        Version::One => kind == "cgroup" && options.split(',').any(|option| option == "cpu"),
    };
    is_it.then_some((point, root))
}

/// The path of a group below a mount. Where the mount does not show the group, as in a container
/// that sees the host's paths, it is the mount itself, which then is the container's group.
fn below(path: &str, root: &str) -> PathBuf {
    let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
    let is_inside = below.components().all(|part| part.as_os_str() != "..");
    if is_inside { below.to_path_buf() } else { PathBuf::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The least quota of a process with these files.
    fn least(own: &str, mounts: &str, files: &[(&str, &str)]) -> Option<CpuQuota> {
        let read = |path: &Path| {
            let file = files.iter().find(|(name, _)| Path::new(name) == path);
            file.map(|(_, text)| (*text).to_owned())
        };
        groups(own, mounts).iter().filter_map(|group| group.least(read)).min()
    }

    const V2: &str = "24 1 0:22 / / rw - ext4 /dev/root rw\n\
                      30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
    const V1: &str = "31 30 0:27 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
                      32 30 0:28 /docker/c0 /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n";

    #[test]
    fn least_quota_of_a_group_and_its_parents_counts() {
        let own = "0::/kubepods/pod1/c0\n";
        let at = "/sys/fs/cgroup/kubepods";
        let (inner, middle, outer) = (
            format!("{at}/pod1/c0/cpu.max"),
            format!("{at}/pod1/cpu.max"),
            format!("{at}/cpu.max"),
        );
        let files = [
            (&*inner, "max 100000\n"),
            (&*middle, "150000 100000\n"),
            (&*outer, "800000 200000\n"),
        ];
        let quota = least(own, V2, &files).unwrap();
        assert_eq!((quota.cpus(), quota.in_cpus()), (2, 1.5));
        assert_eq!(least(own, V2, &files[..1]), None);
        assert_eq!(least(own, V2, &[(&*outer, "50000 100000")]).unwrap().cpus(), 1);
    }

    #[test]
    fn quota_of_version_1_is_read_from_its_two_files() {
        let own = "9:cpuset:/docker/c0\n4:cpu,cpuacct:/docker/c0\n1:name=systemd:/\n0::/\n";
        let at = "/sys/fs/cgroup/cpu,cpuacct";
        let (quota, period) = (format!("{at}/cpu.cfs_quota_us"), format!("{at}/cpu.cfs_period_us"));
        let read = |text| least(own, V1, &[(&*quota, text), (&*period, "100000\n")]);
        assert_eq!(read("250000\n").unwrap().cpus(), 3);
        assert_eq!(read("-1\n"), None);
        assert_eq!(least(own, V1, &[(&*quota, "250000")]), None);
    }

    /// With both versions mounted, only one of them has the controller.
    #[test]
    fn groups_of_both_versions_are_looked_at() {
        let own = "1:cpu:/\n0::/user.slice\n";
        let mounts = format!("{V2}33 30 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n");
        let files = [
            ("/sys/fs/cgroup/user.slice/cpu.max", "300000 100000"),
            ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000"),
            ("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000"),
        ];
        assert_eq!(least(own, &mounts, &files).unwrap().cpus(), 2);
        assert_eq!(least(own, &mounts, &files[..1]).unwrap().cpus(), 3);
    }

    #[test]
    fn group_that_the_mount_does_not_show_is_the_mount_itself() {
        let files = [("/sys/fs/cgroup/cpu.max", "100000 100000")];
        for own in ["0::/../other", "0::/"] {
            assert_eq!(least(own, V2, &files).unwrap().cpus(), 1, "{own}");
        }
        let inside = V2.replace("0:26 / ", "0:26 /docker/c0 ");
        assert_eq!(least("0::/docker/c1", &inside, &files).unwrap().cpus(), 1);
    }

    #[test]
    fn what_is_no_quota_bounds_nothing() {
        for text in ["", "max", "max 100000", "1 0", "x 1", "-1 100000", "1 2 3"] {
            assert_eq!(text.parse::<CpuQuota>(), Err(NoQuota), "{text}");
        }
        assert_eq!(least("", V2, &[]), None);
        assert_eq!(least("0::/", "no line of mountinfo", &[]), None);
        assert_eq!(least("garbage\n0::\n", V2, &[]), None);
    }
}
