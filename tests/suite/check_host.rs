//! `scripts/check-host.sh` on machines that are made up: its verdicts, commands and exit codes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A directory with the `/proc` and `/sys` of a machine, made of paths and contents.
struct Host(PathBuf);

impl Host {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&root);
        for (path, contents) in files {
            let file = root.join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, format!("{contents}\n")).unwrap();
        }
        Self(root)
    }

    /// What the script prints about the machine, and its exit code.
    fn check(&self, arguments: &[&str]) -> (String, Option<i32>) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/check-host.sh");
        let output = Command::new(script).args(arguments).env("HOST_ROOT", &self.0).output();
        let output = output.unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        (String::from_utf8(output.stdout).unwrap(), output.status.code())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A setting, a value that is as it should be, a value that is not, its verdict, and the command.
const SETTINGS: [(&str, &str, &str, &str, &str); 18] = [
    ("proc/sys/kernel/osrelease", "6.17.0-5", "6.1.0", "note", ""),
    ("proc/sys/kernel/io_uring_disabled", "0", "2", "note", ""),
    (
        "proc/self/limits",
        "Max open files            1024                 1048576              files",
        "Max open files            1024                 4096                 files",
        "change",
        "--nofile=20000:20000",
    ),
    ("proc/sys/fs/nr_open", "1048576", "1024", "change", "sudo sysctl -w fs.nr_open=20000"),
    ("proc/sys/net/core/somaxconn", "4096", "128", "change", "net.core.somaxconn=4096"),
    ("proc/sys/net/ipv4/tcp_max_syn_backlog", "4096", "256", "change", "syn_backlog=4096"),
    (
        "proc/sys/net/ipv4/ip_local_port_range",
        "32768\t60999",
        "40000\t41000",
        "change",
        "\"1024 65535\"",
    ),
    ("proc/sys/net/ipv4/tcp_congestion_control", "cubic", "bbr", "note", ""),
    (
        "proc/sys/net/ipv4/tcp_rmem",
        "4096\t131072\t6291456",
        "4096\t131072\t212992",
        "change",
        "tcp_rmem=",
    ),
    (
        "proc/sys/net/ipv4/tcp_wmem",
        "4096\t16384\t4194304",
        "4096\t16384\t65536",
        "change",
        "tcp_wmem=",
    ),
    ("proc/sys/net/core/busy_poll", "0", "50", "note", ""),
    (
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
        "performance",
        "powersave",
        "change",
        "cpupower",
    ),
    ("sys/devices/system/cpu/intel_pstate/no_turbo", "1", "0", "note", ""),
    ("sys/devices/system/cpu/smt/active", "0", "1", "note", ""),
    ("sys/fs/cgroup/cpu.max", "max 100000", "50000 100000", "change", "without a CPU limit"),
    ("sys/devices/system/node/online", "0", "0-1", "note", ""),
    (
        "sys/kernel/mm/transparent_hugepage/enabled",
        "always [madvise] never",
        "[always] madvise never",
        "note",
        "",
    ),
    (
        "sys/devices/system/cpu/vulnerabilities/meltdown",
        "Not affected",
        "Mitigation: PTI",
        "note",
        "",
    ),
];

fn lines_with(report: &str, verdict: &str) -> usize {
    report.lines().filter(|line| line.starts_with(&format!("{verdict} "))).count()
}

#[test]
fn machine_that_is_as_it_should_be_needs_no_change() {
    let host = Host::new("good-host", &SETTINGS.map(|(path, good, ..)| (path, good)));
    for arguments in [&[][..], &["--strict"]] {
        let (report, code) = host.check(arguments);
        assert!(report.ends_with("\nNothing needs to be changed.\n"), "{report}");
        assert_eq!(lines_with(&report, "ok"), SETTINGS.len(), "{report}");
        assert_eq!(code, Some(0));
    }
}

#[test]
fn each_setting_that_is_not_is_told_with_its_command() {
    let host = Host::new("bad-host", &SETTINGS.map(|(path, _, bad, ..)| (path, bad)));
    let (report, code) = host.check(&["--strict"]);
    assert_eq!(code, Some(1));
    assert_eq!(host.check(&[]), (report.clone(), Some(0)));
    let (_, commands) = report.split_once("\nTo be changed:\n").unwrap();
    for (path, _, _, verdict, command) in SETTINGS {
        assert!(commands.contains(command), "{path}: {report}");
        let expected = SETTINGS.iter().filter(|setting| setting.3 == verdict).count();
        assert_eq!(lines_with(&report, verdict), expected, "{verdict}: {report}");
    }
}

#[test]
fn machine_that_shows_nothing_is_no_error() {
    let (report, code) = Host::new("hidden-host", &[]).check(&["--strict"]);
    assert!(lines_with(&report, "hidden") > SETTINGS.len(), "{report}");
    assert_eq!(code, Some(0));
}
