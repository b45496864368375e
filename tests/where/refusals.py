"""The system calls that a container's filter may refuse, and what the programs do then.

The lists are those of `strace -f` over starts, connections and stops on each data plane and driver.
Whatever is not named below them is done without.
"""

IO_URING_CALLS = ["io_uring_setup", "io_uring_enter", "io_uring_register"]

# Not tried, because no code of ours could answer for them:
#   access, arch_prctl, brk, execve, mmap, mprotect, newfstatat, open, openat, pread64, read,
#   set_robust_list, set_tid_address      the dynamic loader ends the process before main
#   clock_nanosleep, poll, rt_sigaction   the standard library asserts that they work
#   close, exit, exit_group, futex, rt_sigreturn    nothing could end, or wait for another thread
#   write                                 nothing could be said
SERVER_CALLS = [
    "accept4", "bind", "clone3", "epoll_create1", "epoll_ctl", "epoll_wait", "eventfd2", "fcntl",
    "getrandom", "getsockname", "gettid", "ioctl", "landlock_create_ruleset", "landlock_restrict_self",
    "listen", "madvise", "munmap", "prctl", "prlimit64", "recvfrom", "rt_sigprocmask",
    "sched_getaffinity", "sched_setaffinity", "seccomp", "sendto",
    "setsockopt SO_REUSEADDR", "setsockopt SO_REUSEPORT", "setsockopt TCP_NODELAY", "shutdown",
    "sigaltstack", "socket", "socketpair", "statx", "sysinfo", "timerfd_create", "timerfd_settime",
]

# Calls that have no substitute, and what the server says.
SERVER_NEEDS = {
    "bind": "--listen .*Operation not permitted",
    "clone3": "thread.*Operation not permitted",
    "listen": "--listen .*Operation not permitted",
    "socket": "--listen .*Operation not permitted",
}

# Calls that the server either does without or names before it ends.
SERVER_MAY_NEED = [
    "accept4", "epoll_create1", "epoll_ctl", "epoll_wait", "fcntl", "getsockname", "ioctl", "recvfrom",
    "sched_getaffinity", "sendto", "setsockopt SO_REUSEPORT", "socketpair",
]

# Calls that the server does without, and says so.
SERVER_SAYS = {
    "landlock_create_ruleset": ["the sandbox is not whole: files"],
    "landlock_restrict_self": ["the sandbox is not whole: files"],
    "prctl": ["the sandbox is not whole: prctl.*files.*system calls"],
    "seccomp": ["the sandbox is not whole: system calls"],
    "sched_setaffinity": ["pinned"],
    "setsockopt SO_REUSEADDR": ["listening without SO_REUSEADDR"],
    "setsockopt TCP_NODELAY": ["listening without TCP_NODELAY"],
}

GENERATOR_CALLS = [
    "clone3", "connect", "epoll_create1", "epoll_ctl", "epoll_wait", "eventfd2", "fcntl", "getdents64",
    "getpid", "getrandom", "gettid", "ioctl", "lseek", "madvise", "munmap", "prctl", "prlimit64",
    "recvfrom", "rt_sigprocmask", "sched_getaffinity", "sched_setaffinity", "sendto",
    "setsockopt TCP_NODELAY", "shutdown", "sigaltstack", "socket", "statx", "sysinfo", "uname",
]

# Calls that have no substitute, and what the generator says.
GENERATOR_NEEDS = {
    "clone3": "cannot start a thread: Operation not permitted",
    "socket": "no connection to .* could be opened: connect: Operation not permitted",
}
