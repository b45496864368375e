//! Landlock: files, connections and other processes, for this thread and those that it starts.
//!
//! Unlike the filter of system calls it sees paths, and it holds for what `io_uring` does too.

use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus,
    PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope,
};

use super::Needs;

/// Where Rust's library reads what its hash maps begin with, if it may not ask the kernel for that.
const RANDOM: [&str; 2] = ["/dev/random", "/dev/urandom"];

/// The newest version whose restrictions are asked for, which is the newest that this was tested on
/// (Linux 6.18). An older kernel gives those that it has: files from Linux 5.13, truncation from 6.2,
/// TCP connections from 6.7, devices' ioctl from 6.10, abstract sockets and signals from 6.12.
const NEWEST: ABI = ABI::V7;

/// Forbids this thread, and those that it starts, all files but those that are needed, TCP
/// connections to elsewhere, and abstract sockets and signals of other processes. Files that are open
/// stay open. Returns the reason if the kernel forbids none of that.
pub(super) fn restrict_this_thread(needs: &Needs) -> Result<(), String> {
    match restrict(needs) {
        Ok(RestrictionStatus { ruleset: RulesetStatus::NotEnforced, landlock, .. }) => {
            Err(match landlock {
                LandlockStatus::NotImplemented => {
                    "this kernel does not have it, or a container \
                                                   forbids it; it came with Linux 5.13"
                }
                LandlockStatus::NotEnabled => {
                    "it is not enabled; add landlock to the kernel's \
                                               parameter lsm="
                }
                LandlockStatus::Available { .. } => "it restricts nothing here",
            }
            .to_owned())
        }
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

fn restrict(needs: &Needs) -> Result<RestrictionStatus, String> {
    let said = |error: RulesetError| error.to_string();
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|rules| rules.handle_access(AccessNet::ConnectTcp))
        .and_then(|rules| rules.scope(Scope::AbstractUnixSocket | Scope::Signal))
        .and_then(Ruleset::create)
        .map_err(said)?;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let random = RANDOM.iter().map(PathBuf::from).filter(|device| device.exists());
    let readable: Vec<_> = random.chain(needs.readable.iter().cloned()).collect();
    let change = read
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeSock
        | AccessFs::RemoveFile;
    for (paths, access) in [(&readable, read), (&needs.changeable, change)] {
        for path in paths {
            let beneath = match PathFd::new(path) {
                Ok(beneath) => beneath,
                // What the user of the program cannot reach, such as root's certificates, it cannot
                // read either.
                Err(_) if access == read => continue,
                Err(error) => return Err(error.to_string()),
            };
            let access: BitFlags<AccessFs> =
                if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
            rules = rules.add_rule(PathBeneath::new(beneath, access)).map_err(said)?;
        }
    }
    rules.restrict_self().map_err(said)
}
