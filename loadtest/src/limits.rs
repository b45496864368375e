//! The limit on open files, which each connection takes one of.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors beside those of the connections: standard streams, rings, and connections that are
/// being opened while others are being closed.
const DESCRIPTORS_BESIDE: u64 = 128;

/// Raises the soft limit as far as `connections` need and the hard limit allows; returns a warning
/// if that is not far enough.
pub(crate) fn raise_descriptor_limit(connections: usize) -> Option<String> {
    let needed = connections as u64 + DESCRIPTORS_BESIDE;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    if soft >= needed {
        return None;
    }
    let limit = needed.min(hard);
    let raised = setrlimit(Resource::RLIMIT_NOFILE, limit, hard).is_ok();
    let limit = if raised { limit } else { soft };
    (limit < needed).then(|| {
        format!(
            "--connections {connections} needs {needed} open files, but the limit is {limit}; \
             raise it for this shell: sudo prlimit --pid $$ --nofile={needed}:{needed}"
        )
    })
}
