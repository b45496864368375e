//! Another user than root: for a program that root has started, so that it may bind a port below
//! 1024, and that needs no privilege afterwards.

use std::io;

use nix::{
    errno::Errno,
    sys::resource::{RLIM_INFINITY, Resource, setrlimit},
    unistd::{
        Gid, Group, Uid, User, geteuid, getgroups, getresgid, getresuid, setgroups, setresgid,
        setresuid,
    },
};
use thiserror::Error;

use crate::{
    config::{Account, Id},
    host::descriptors::SystemCallError,
};

/// Why the program did not become the user. The flag stands before this text.
#[derive(Debug, Error)]
pub enum UserError {
    /// The program does not run as root.
    #[error("{0}: only root may become another user, and this program runs as user {1}")]
    NotRoot(Id, Uid),
    /// There is no such user.
    #[error(
        "{0}: there is no such user; name one of /etc/passwd, or its number and group, as 1000:1000"
    )]
    UnknownUser(Id),
    /// There is no such group.
    #[error("{user}:{group}: there is no such group; name one of /etc/group, or its number")]
    UnknownGroup {
        /// The user.
        user: Id,
        /// The group.
        group: Id,
    },
    /// A number without an entry, whose group is not known.
    #[error("{0}: no entry of /etc/passwd tells this user's group; name it too, as {0}:{0}")]
    NoGroup(u32),
    /// The user is root.
    #[error("{0}: this user is root; leave --user out to stay root")]
    StaysRoot(Id),
    /// The system refused a call.
    #[error("{user}: {source}")]
    System {
        /// The user.
        user: Id,
        /// The refused call.
        source: SystemCallError,
    },
    /// The way back is open.
    #[error("{0}: the kernel let the program become root again; do without --user")]
    NotFinal(Id),
}

/// Becomes the user, for good, with the user's group and no other. The limit on lockable memory is
/// raised before, since rings are charged to an ordinary user.
pub(super) fn turn_into(account: &Account) -> Result<(), UserError> {
    let user = || account.user.clone();
    if !geteuid().is_root() {
        return Err(UserError::NotRoot(user(), geteuid()));
    }
    let (uid, gid) = resolve(account)?;
    if uid.is_root() {
        return Err(UserError::StaysRoot(user()));
    }
    // Without the right to raise it, workers take what memory there is, and say so.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    let naming = |call| {
        move |errno: Errno| UserError::System {
            user: account.user.clone(),
            source: SystemCallError { call, source: errno.into() },
        }
    };
    setgroups(&[]).map_err(naming("setgroups"))?;
    setresgid(gid, gid, gid).map_err(naming("setresgid"))?;
    setresuid(uid, uid, uid).map_err(naming("setresuid"))?;
    let (users, groups) = (getresuid(), getresgid());
    let are_all = users.is_ok_and(|it| [it.real, it.effective, it.saved] == [uid; 3])
        && groups.is_ok_and(|it| [it.real, it.effective, it.saved] == [gid; 3])
        && getgroups().is_ok_and(|groups| groups.is_empty());
    let root = Uid::from_raw(0);
    if !are_all || setresuid(root, root, root).is_ok() {
        return Err(UserError::NotFinal(user()));
    }
    Ok(())
}

/// The numbers of user and group.
fn resolve(Account { user, group }: &Account) -> Result<(Uid, Gid), UserError> {
    let system = |call| {
        move |errno: Errno| {
            let source = SystemCallError { call, source: io::Error::from(errno) };
            UserError::System { user: user.clone(), source }
        }
    };
    let entry = match user {
        Id::Number(number) => User::from_uid(Uid::from_raw(*number)).map_err(system("getpwuid"))?,
        Id::Name(name) => {
            let entry = User::from_name(name).map_err(system("getpwnam"))?;
            Some(entry.ok_or_else(|| UserError::UnknownUser(user.clone()))?)
        }
    };
    let uid = match (user, &entry) {
        (Id::Number(number), _) => Uid::from_raw(*number),
        (_, Some(entry)) => entry.uid,
        (Id::Name(_), None) => return Err(UserError::UnknownUser(user.clone())),
    };
    let gid = match (group, &entry, user) {
        (Some(Id::Number(number)), ..) => Gid::from_raw(*number),
        (Some(Id::Name(name)), ..) => {
            let entry = Group::from_name(name).map_err(system("getgrnam"))?;
            let group = Id::Name(name.clone());
            entry.ok_or_else(|| UserError::UnknownGroup { user: user.clone(), group })?.gid
        }
        (None, Some(entry), _) => entry.gid,
        (None, None, Id::Number(number)) => return Err(UserError::NoGroup(*number)),
        (None, None, Id::Name(_)) => return Err(UserError::UnknownUser(user.clone())),
    };
    Ok((uid, gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_name_and_number() {
        let resolve = |text: &str| resolve(&text.parse().unwrap());
        let root = (Uid::from_raw(0), Gid::from_raw(0));
        assert_eq!(resolve("root").unwrap(), root);
        assert_eq!(resolve("0").unwrap(), root);
        let numbers = (Uid::from_raw(123_456_789), Gid::from_raw(7));
        assert_eq!(resolve("123456789:7").unwrap(), numbers);
        assert_eq!(resolve("123456789:root").unwrap(), (numbers.0, root.1));
        for (account, said) in [
            ("123456789", "name it too, as 123456789:123456789"),
            ("nobody-of-this-name", "there is no such user"),
            ("root:nobody-of-this-name", "root:nobody-of-this-name: there is no such group"),
        ] {
            let error = resolve(account).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
