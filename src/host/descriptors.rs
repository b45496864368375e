//! The limit on open files, of which each connection takes one, and errors that name the refused
//! system call. The load generator uses this too.

use std::{
    error::Error,
    io,
    os::fd::{AsFd, AsRawFd},
};

use nix::{
    errno::Errno,
    sys::resource::{Resource, getrlimit, setrlimit},
};
use thiserror::Error;

/// Raises the limit to `wanted`, or as near to it as the system grants; never lowers it. Returns
/// the limit after that.
pub fn raise_limit(wanted: u64) -> nix::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let limit = wanted.min(hard);
    if limit <= soft {
        return Ok(soft);
    }
    setrlimit(Resource::RLIMIT_NOFILE, limit, hard)?;
    Ok(limit)
}

/// How many more files this process may open, judged by the lowest free number.
pub fn count_free() -> u64 {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default();
    let lowest_free = io::stdin().as_fd().try_clone_to_owned();
    lowest_free.map_or(0, |lowest| limit.saturating_sub(lowest.as_raw_fd().unsigned_abs().into()))
}

/// The remedy if the kernel refuses to open one more file.
pub fn remedy(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::EMFILE => Some("raise the limit of this process with ulimit -n"),
        Errno::ENFILE => Some("raise the limit of the system with sysctl -w fs.file-max=N"),
        _ => None,
    }
}

/// The error of a call that got no descriptor, if that is why something failed.
pub fn find_want<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(refused) = cause.downcast_ref::<io::Error>()
            && let Some(errno) = refused.raw_os_error()
            && remedy(Errno::from_raw(errno)).is_some()
        {
            return Some(refused);
        }
        next = cause.source();
    }
    None
}

/// The remedy for an error, to be appended to its text; empty if none is known.
pub fn advice(error: &io::Error) -> String {
    let remedy = error.raw_os_error().map(Errno::from_raw).and_then(remedy);
    remedy.map_or_else(String::new, |remedy| format!("; {remedy}"))
}

/// A system call that was refused, with its name, which tells people what is forbidden.
#[derive(Debug, Error)]
#[error("{call}: {source}{advice}", advice = advice(.source))]
pub struct SystemCallError {
    /// The call's name, as in the manual.
    pub call: &'static str,
    /// The kernel's error.
    pub source: io::Error,
}

impl SystemCallError {
    /// Makes a function that adds the name of the failed call to an error.
    pub fn naming(call: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self { call, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_of_a_descriptor_is_found_below_other_errors() {
        let call = |errno: Errno| SystemCallError { call: "socket", source: errno.into() };
        assert!(find_want(&call(Errno::EMFILE)).is_some());
        assert!(find_want(&call(Errno::EACCES)).is_none());
        assert!(find_want(&io::Error::from(Errno::ENFILE)).is_some());
        assert!(find_want(&io::Error::other("nothing of the kernel's")).is_none());
    }

    #[test]
    fn remedy_is_that_of_what_is_wanting() {
        assert!(remedy(Errno::EMFILE).is_some_and(|remedy| remedy.contains("ulimit -n")));
        assert!(remedy(Errno::ENFILE).is_some_and(|remedy| remedy.contains("fs.file-max")));
        assert_eq!(remedy(Errno::EINVAL), None);
    }

    #[test]
    fn limit_is_raised_as_far_as_granted_and_never_lowered() {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(raise_limit(0), Ok(soft));
        assert_eq!(raise_limit(u64::MAX), Ok(hard));
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE), Ok((hard, hard)));
        assert_eq!(raise_limit(soft), Ok(hard));
    }
}
