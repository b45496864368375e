//! The sandbox: what the program gives up once it has started, so that a fault which lets a peer run
//! code in it is of less use to the peer.
//!
//! The order is fixed by what each step holds for:
//!
//! 1. The port is bound, and whatever only root may have is had.
//! 2. [`Sandbox::begin`], while the process has one thread: it becomes another user (`user`), can
//!    gain no privileges any more, and is shut off from files, TCP connections to elsewhere and
//!    other processes (`landlock`). Landlock holds for the thread that asks for it and for those
//!    that it starts, so no other thread may run yet.
//! 3. The threads of log, signals and workers start.
//! 4. [`Sandbox::finish`]: a list of system calls (`seccomp`), for all threads at once. It stands
//!    last, since the start needs calls that the list does not have.
//!
//! The list is the program's own; an embedded server confines nothing.

mod landlock;
pub mod seccomp;
mod user;

use std::{
    env, fmt,
    path::{Path, PathBuf},
};

use nix::sys::prctl::set_no_new_privs;
use thiserror::Error;
use tracing::{debug, warn};

pub use self::user::UserError;
use crate::config::{Privileges, Sandboxing};

/// What the confined program still needs beyond what any echo needs.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Workers on `io_uring`, now or as replacements.
    pub rings: bool,
    /// Local sockets that are made while it runs, as to tell a service manager something.
    pub local_sockets: bool,
    /// Files that are read, and directories with all that is in them.
    pub readable: Vec<PathBuf>,
    /// Directories in which files and sockets are written, made, renamed and removed.
    pub changeable: Vec<PathBuf>,
}

/// A sandbox that is half shut.
pub struct Sandbox {
    wanted: Sandboxing,
    needs: Needs,
    lacks: Vec<Lack>,
}

/// Why the program could not give up what it should.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// It could not become the user.
    #[error("--user {0}")]
    User(#[from] UserError),
    /// The kernel or a container does not let it confine itself.
    #[error("--sandbox required: {0}; use --sandbox auto to start without that")]
    Unavailable(Lack),
}

/// A part of the sandbox that is not to be had.
#[derive(Debug)]
pub enum Lack {
    /// No new privileges, without which an ordinary user gets neither of the others.
    NoNewPrivileges(String),
    /// Files and connections.
    Landlock(String),
    /// System calls.
    Filter(String),
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNewPrivileges(cause) => write!(f, "prctl(PR_SET_NO_NEW_PRIVS): {cause}"),
            Self::Landlock(cause) => write!(f, "files are not shut off (Landlock: {cause})"),
            Self::Filter(cause) => write!(f, "system calls are not limited (seccomp: {cause})"),
        }
    }
}

impl Needs {
    /// Lets a panic find the names of functions for its backtrace, if one is asked for.
    #[must_use]
    pub fn with_backtraces(mut self) -> Self {
        let is_on = |name| env::var_os(name).is_some_and(|value| value != "0");
        if is_on("RUST_BACKTRACE") || is_on("RUST_LIB_BACKTRACE") {
            self.readable.extend(env::current_exe());
            self.readable.extend(Path::new("/proc/self").canonicalize());
        }
        self
    }
}

impl Sandbox {
    /// Becomes another user, and shuts this thread off from files; other threads must not run yet.
    pub fn begin(privileges: &Privileges, needs: Needs) -> Result<Self, SandboxError> {
        if let Some(account) = &privileges.user {
            user::turn_into(account)?;
        }
        let mut sandbox = Self { wanted: privileges.sandbox, needs, lacks: Vec::new() };
        if sandbox.wanted == Sandboxing::Off {
            return Ok(sandbox);
        }
        if let Err(errno) = set_no_new_privs() {
            sandbox.note(Lack::NoNewPrivileges(errno.to_string()))?;
        }
        if let Err(cause) = landlock::restrict_this_thread(&sandbox.needs) {
            sandbox.note(Lack::Landlock(cause))?;
        }
        Ok(sandbox)
    }

    /// Limits all threads to the system calls that they need, and logs what is lacking.
    pub fn finish(mut self) -> Result<(), SandboxError> {
        if self.wanted == Sandboxing::Off {
            return Ok(());
        }
        if let Err(cause) = seccomp::restrict_all_threads(&self.needs) {
            self.note(Lack::Filter(cause))?;
        }
        if self.lacks.is_empty() {
            debug!("the sandbox is shut: no new privileges, Landlock, and a list of system calls");
        } else {
            let lacks: Vec<_> = self.lacks.iter().map(Lack::to_string).collect();
            warn!("the sandbox is not whole: {}", lacks.join("; "));
        }
        Ok(())
    }

    fn note(&mut self, lack: Lack) -> Result<(), SandboxError> {
        if self.wanted == Sandboxing::Required {
            return Err(SandboxError::Unavailable(lack));
        }
        self.lacks.push(lack);
        Ok(())
    }
}
