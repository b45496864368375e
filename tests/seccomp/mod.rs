//! A seccomp filter for a program, as a container's profile is one: it refuses some system calls and
//! allows all others. The tests of both programs include this file.
#![expect(unsafe_code, reason = "a filter is installed between fork and exec")]

use std::{io, mem, os::unix::process::CommandExt, process::Command};

use nix::libc::{
    self, BPF_ABS, BPF_JEQ, BPF_JGT, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, PR_SET_NO_NEW_PRIVS,
    PR_SET_SECCOMP, SECCOMP_MODE_FILTER, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO,
    SECCOMP_RET_KILL_PROCESS, seccomp_data, sock_filter, sock_fprog,
};

/// A system call that is refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refused {
    pub(crate) call: libc::c_long,
    /// What it fails with; 0 if it kills the process.
    pub(crate) errno: i32,
    /// If not always, then where its first argument is more than this.
    pub(crate) above: Option<u32>,
}

impl Refused {
    pub(crate) fn always(call: libc::c_long, errno: i32) -> Self {
        Self { call, errno, above: None }
    }

    /// A call that nobody is to make: it kills the process.
    #[allow(dead_code, reason = "only the server's tests use it")]
    pub(crate) fn fatally(call: libc::c_long) -> Self {
        Self::always(call, 0)
    }
}

/// Has `command` run with these system calls refused.
pub(crate) fn refuse(command: &mut Command, refused: &[Refused]) {
    let mut filter = compile(refused);
    let install = move || {
        let program = sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: the filter is there until the kernel has copied it, and prctl may be called
        // between fork and exec.
        let installed = unsafe {
            libc::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &raw const program) == 0
        };
        if installed { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: `install` allocates nothing and takes no lock.
    unsafe { command.pre_exec(install) };
}

fn compile(refused: &[Refused]) -> Vec<sock_filter> {
    let load = |at: usize| statement(BPF_LD | BPF_W | BPF_ABS, at as u32);
    let number = load(mem::offset_of!(seccomp_data, nr));
    // Its lower half, on machines whose least significant byte is the first.
    let argument = load(mem::offset_of!(seccomp_data, args));
    let mut filter = vec![number];
    for Refused { call, errno, above } in refused {
        let refusal = statement(
            BPF_RET,
            match errno {
                0 => SECCOMP_RET_KILL_PROCESS,
                errno => SECCOMP_RET_ERRNO | errno.cast_unsigned(),
            },
        );
        match above {
            None => filter.extend([unless(BPF_JEQ, call.cast_unsigned() as u32, 1), refusal]),
            Some(limit) => filter.extend([
                unless(BPF_JEQ, call.cast_unsigned() as u32, 4),
                argument,
                unless(BPF_JGT, *limit, 1),
                refusal,
                number,
            ]),
        }
    }
    filter.push(statement(BPF_RET, SECCOMP_RET_ALLOW));
    filter
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Passes over so many statements unless the comparison with `k` holds.
fn unless(comparison: u32, k: u32, skipped: u8) -> sock_filter {
    sock_filter { jf: skipped, ..statement(BPF_JMP | comparison | BPF_K, k) }
}
