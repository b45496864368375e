//! The list of system calls that the confined program may make, and the filter that holds it to
//! them.
//!
//! The list has what `strace -f` shows of connections, replacements, drains and ends on each driver
//! and data plane, what the same functions of the C library call on other machines and versions,
//! and what a panic, an abort and a stopped and continued process need.
//!
//! Any other call fails with EPERM, as in a container. It does not end the process: the list cannot
//! foresee what a library will call one day, and a call that fails costs less than a server that is
//! gone. Whoever runs code in the server gains nothing by the difference.
//!
//! A filter is asked at each call. The kernel (from 5.11 on) remembers which calls are allowed
//! whatever their arguments are, and does not run the filter for them; so the calls of the message
//! path have no condition. The sockets that they send to are those that are open, accepted or a
//! pair: a replacement listens on the socket of its predecessor, so `connect` is not in the list, and
//! `socket`, `bind` and `listen` only with [`Needs::local_sockets`].

use std::{collections::BTreeMap, env::consts::ARCH, process};

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, apply_filter_all_threads,
};

use super::Needs;

/// Calls that are allowed whatever their arguments are.
const FREE: &[&[c_long]] = &[
    // Memory.
    &[libc::SYS_brk, libc::SYS_madvise, libc::SYS_mremap, libc::SYS_munmap],
    // Threads, their signals and ends, also those of a panic and of a stopped process.
    &[
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_futex,
        libc::SYS_geteuid,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_restart_syscall,
        libc::SYS_rseq,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sched_getaffinity,
        libc::SYS_sched_setaffinity,
        libc::SYS_sched_yield,
        libc::SYS_set_robust_list,
        libc::SYS_sigaltstack,
        libc::SYS_wait4,
    ],
    // Time, randomness, and what the machine is.
    &[
        libc::SYS_clock_getres,
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_getcpu,
        libc::SYS_getrandom,
        libc::SYS_getrusage,
        libc::SYS_gettimeofday,
        libc::SYS_nanosleep,
        libc::SYS_sysinfo,
        libc::SYS_uname,
    ],
    // Waiting.
    &[
        libc::SYS_epoll_create1,
        libc::SYS_epoll_ctl,
        libc::SYS_epoll_pwait,
        libc::SYS_epoll_pwait2,
        libc::SYS_eventfd2,
        libc::SYS_ppoll,
        libc::SYS_timerfd_create,
        libc::SYS_timerfd_settime,
    ],
    // Connections, and whatever else is open.
    &[
        libc::SYS_accept,
        libc::SYS_accept4,
        libc::SYS_close,
        libc::SYS_close_range,
        libc::SYS_dup,
        libc::SYS_fcntl,
        libc::SYS_getpeername,
        libc::SYS_getsockname,
        libc::SYS_getsockopt,
        libc::SYS_pipe2,
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_sendmsg,
        libc::SYS_sendto,
        libc::SYS_setsockopt,
        libc::SYS_shutdown,
        libc::SYS_write,
        libc::SYS_writev,
    ],
    // Files that may be read; which ones, Landlock decides.
    &[
        libc::SYS_faccessat,
        libc::SYS_faccessat2,
        libc::SYS_fstat,
        libc::SYS_getcwd,
        libc::SYS_getdents64,
        libc::SYS_lseek,
        libc::SYS_newfstatat,
        libc::SYS_pread64,
        libc::SYS_readlinkat,
        libc::SYS_statx,
    ],
];

/// Older forms of the same calls, which this machine's C library may use.
#[cfg(target_arch = "x86_64")]
const OLDER: &[c_long] = &[
    libc::SYS_access,
    libc::SYS_epoll_wait,
    libc::SYS_lstat,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_stat,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[c_long] = &[];

const RINGS: [c_long; 3] =
    [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// Calls that change files, for a program that still has to.
const CHANGES: &[c_long] = &[
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_openat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
];
#[cfg(target_arch = "x86_64")]
const OLDER_CHANGES: &[c_long] =
    &[libc::SYS_chmod, libc::SYS_open, libc::SYS_rename, libc::SYS_renameat, libc::SYS_unlink];
#[cfg(not(target_arch = "x86_64"))]
const OLDER_CHANGES: &[c_long] = &[];

/// Limits all threads, and those that they start, to the calls that they need. Returns the reason if
/// that cannot be had.
pub fn restrict_all_threads(needs: &Needs) -> Result<(), String> {
    let filters = [without_clone3(), allowed(needs)];
    for filter in filters {
        let filter = filter.map_err(|error| error.to_string())?;
        apply_filter_all_threads(&filter).map_err(|error| match error {
            // Its own text says again which call it is.
            Error::Prctl(cause) | Error::Seccomp(cause) => cause.to_string(),
            other => other.to_string(),
        })?;
    }
    Ok(())
}

/// A filter that knows no `clone3`, whose flags are in memory that no filter sees. The C library then
/// starts threads by `clone`.
fn without_clone3() -> Result<BpfProgram, BackendError> {
    let unknown = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    SeccompFilter::new(rules, SeccompAction::Allow, unknown, ARCH.try_into()?)?.try_into()
}

/// The filter with the list.
fn allowed(needs: &Needs) -> Result<BpfProgram, BackendError> {
    let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    SeccompFilter::new(rules(needs)?, refuse, SeccompAction::Allow, ARCH.try_into()?)?.try_into()
}

/// The list: each call with the alternatives of what its arguments may be, none for any.
fn rules(needs: &Needs) -> Result<BTreeMap<c_long, Vec<SeccompRule>>, BackendError> {
    let mut rules = conditional()?;
    // The other filter answers for it.
    let mut free = vec![libc::SYS_clone3];
    free.extend(FREE.iter().copied().flatten());
    free.extend(OLDER);
    if needs.rings {
        free.extend(RINGS);
    }
    if needs.local_sockets {
        free.extend([libc::SYS_bind, libc::SYS_listen]);
        let local = SeccompRule::new(vec![is(0, libc::AF_UNIX)?])?;
        rules.insert(libc::SYS_socket, vec![local]);
    }
    if !needs.changeable.is_empty() {
        free.extend(CHANGES);
        free.extend(OLDER_CHANGES);
    }
    rules.extend(free.into_iter().map(|call| (call, Vec::new())));
    Ok(rules)
}

/// Calls that are allowed with some arguments only.
fn conditional() -> Result<BTreeMap<c_long, Vec<SeccompRule>>, BackendError> {
    let mut rules = BTreeMap::new();
    for (call, alternatives) in [
        // Memory is never code.
        (libc::SYS_mmap, vec![vec![bits(2, libc::PROT_EXEC, 0)]]),
        (libc::SYS_mprotect, vec![vec![bits(2, libc::PROT_EXEC, 0)]]),
        // Threads, and no processes; nor namespaces, in which a user is root.
        (libc::SYS_clone, vec![vec![bits(0, NEW | libc::CLONE_THREAD, libc::CLONE_THREAD)]]),
        // Names of threads and of memory.
        (libc::SYS_prctl, vec![vec![is(0, libc::PR_SET_NAME)], vec![is(0, PR_SET_VMA)]]),
        // An abort, which is a signal to a thread of this process.
        (libc::SYS_tgkill, vec![vec![is(0, process::id().cast_signed())]]),
        // Limits are read and not set.
        (libc::SYS_prlimit64, vec![vec![nothing(2)]]),
        // Threads tell each other something; a socket that could connect is not to be had.
        (libc::SYS_socketpair, vec![vec![is(0, libc::AF_UNIX)]]),
        // Whether a descriptor blocks; nothing is typed into a terminal.
        (libc::SYS_ioctl, vec![vec![is(1, FIONBIO)]]),
        // Files are read.
        (libc::SYS_openat, vec![vec![bits(2, WRITES, 0)]]),
    ] {
        let alternatives = alternatives
            .into_iter()
            .map(|conditions| SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?));
        rules.insert(call, alternatives.collect::<Result<_, _>>()?);
    }
    Ok(rules)
}

/// What makes a new process one of its own kind.
const NEW: i32 = libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWUTS;

/// `PR_SET_VMA` of the kernel's interface; the allocator names its memory with it.
const PR_SET_VMA: i32 = 0x53_56_4d_41;

/// `FIONBIO` as a number that a condition takes.
const FIONBIO: i32 = libc::FIONBIO as i32;

/// How a file is opened that is not only read.
const WRITES: i32 = libc::O_WRONLY
    | libc::O_RDWR
    | libc::O_CREAT
    | libc::O_TRUNC
    | (libc::O_TMPFILE & !libc::O_DIRECTORY);

type Condition = Result<SeccompCondition, BackendError>;

/// The argument with this index is `value`.
fn is(argument: u8, value: i32) -> Condition {
    let value = u64::from(value.cast_unsigned());
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

/// Of the bits in `mask`, the argument with this index has those of `value`.
fn bits(argument: u8, mask: i32, value: i32) -> Condition {
    let [mask, value] = [mask, value].map(|it| u64::from(it.cast_unsigned()));
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value)
}

/// The argument with this index is a null pointer.
fn nothing(argument: u8) -> Condition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn list_grows_with_what_is_needed() {
        let lists = |needs: &Needs, call: c_long| rules(needs).unwrap().contains_key(&call);
        let least = Needs::default();
        for call in [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ptrace,
            libc::SYS_socket,
            libc::SYS_bind,
            libc::SYS_connect,
            libc::SYS_io_uring_setup,
            libc::SYS_unlinkat,
            libc::SYS_mount,
            libc::SYS_kill,
            libc::SYS_setuid,
            libc::SYS_bpf,
            libc::SYS_seccomp,
            libc::SYS_sendmmsg,
            libc::SYS_openat2,
        ] {
            assert!(!lists(&least, call), "{call}");
        }
        let local = Needs { local_sockets: true, ..Needs::default() };
        assert!(lists(&local, libc::SYS_bind) && !lists(&local, libc::SYS_connect));
        assert_ne!(rules(&local).unwrap()[&libc::SYS_socket], []);
        let rings = Needs { rings: true, ..Needs::default() };
        assert!(RINGS.iter().all(|call| lists(&rings, *call)));
        let changes = Needs { changeable: vec![PathBuf::from("/tmp")], ..Needs::default() };
        assert!(lists(&changes, libc::SYS_unlinkat) && !lists(&changes, libc::SYS_execve));
        assert_eq!(rules(&changes).unwrap()[&libc::SYS_openat], []);
        assert_ne!(rules(&least).unwrap()[&libc::SYS_openat], []);
    }

    #[test]
    fn filters_are_programs_that_the_kernel_takes_by_their_length() {
        let all =
            Needs { rings: true, changeable: vec![PathBuf::from("/tmp")], ..Needs::default() };
        for filter in [without_clone3(), allowed(&Needs::default()), allowed(&all)] {
            assert!((1..4096).contains(&filter.unwrap().len()));
        }
    }
}
