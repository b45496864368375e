//! The judge of a soak (`scripts/soak.sh --check`), on series that are made up.

use std::{fmt::Write, fs, path::Path, process::Command};

/// Writes a series of points, one each ten seconds for half an hour, and has it judged.
fn check(
    name: &str,
    resident_kib: impl Fn(u32) -> u32,
    descriptors: impl Fn(u32) -> u32,
) -> (bool, String) {
    let mut file = "second,phase,pid,resident_kib,descriptors,threads\n".to_owned();
    for second in (0..1800).step_by(10) {
        let (resident_kib, descriptors) = (resident_kib(second), descriptors(second));
        let phase = if second % 20 == 0 { "rest" } else { "mix" };
        // What is under way counts for nothing.
        let load = if phase == "mix" { 50_000 + second * 100 } else { 0 };
        writeln!(file, "{second},{phase},7,{},{},4", resident_kib + load, descriptors + load)
            .unwrap();
    }
    judge(name, &file)
}

fn judge(name: &str, file: &str) -> (bool, String) {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("soak-{name}.csv"));
    fs::write(&path, file).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/soak.sh");
    let output = Command::new(script).arg("--check").arg(&path).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

/// Numbers that go up and down by at most `most`, and nowhere else.
fn noise(second: u32, most: u32) -> u32 {
    second.wrapping_mul(2_654_435_761) % most
}

#[test]
fn series_that_stays_is_flat_however_it_began() {
    let settles = |second: u32| 12_000 - 6000 / (1 + second / 60) + noise(second, 2000);
    let (is_flat, said) = check("flat", settles, |_| 20);
    assert!(
        is_flat && said.contains("ok resident_kib") && said.contains("ok descriptors"),
        "{said}"
    );
}

#[test]
fn memory_that_leaks_fails() {
    // 6 MiB in the 20 minutes that are judged.
    let leaks = |second: u32| 12_000 + second * 5 + noise(second, 1000);
    let (is_flat, said) = check("memory", leaks, |_| 20);
    assert!(
        !is_flat && said.contains("FAILED resident_kib") && said.contains("ok descriptors"),
        "{said}"
    );
}

#[test]
fn descriptors_that_leak_fail() {
    let (is_flat, said) =
        check("descriptors", |second| 12_000 + noise(second, 1000), |second| 20 + second / 300);
    assert!(
        !is_flat && said.contains("ok resident_kib") && said.contains("FAILED descriptors"),
        "{said}"
    );
}

#[test]
fn series_that_is_too_short_is_no_evidence() {
    let rows =
        "second,phase,pid,resident_kib,descriptors,threads\n1,rest,7,10,10,4\n2,rest,7,10,10,4\n";
    for file in [rows, rows.lines().next().unwrap()] {
        let (is_flat, said) = judge("short", file);
        assert!(!is_flat && said.contains("too few"), "{said}");
    }
}
