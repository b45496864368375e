//! Datagrams to the socket of a service manager, as in `sd_notify(3)`.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{ffi::OsStrExt, net::SocketAddr, net::UnixDatagram},
    },
    sync::Once,
};

use tracing::warn;

/// Where a service manager hears of the service's state.
#[derive(Debug)]
pub(super) struct Notifier(OsString);

impl Notifier {
    /// For the value of `NOTIFY_SOCKET`: a path, or an abstract name behind an `@`.
    pub(super) fn new(socket: &OsStr) -> Self {
        Self(socket.to_owned())
    }

    /// Sends assignments, one a line. The server neither waits for the manager nor needs it, so a
    /// failure is only logged, once.
    pub(super) fn send(&self, state: &str) {
        static SAID: Once = Once::new();
        if let Err(error) = self.try_to_send(state) {
            SAID.call_once(|| warn!(%error, "the service manager cannot be notified"));
        }
    }

    fn try_to_send(&self, state: &str) -> io::Result<()> {
        let address = match self.0.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(&self.0)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.send_to_addr(state.as_bytes(), &address).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::{env, fs, process};

    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        let len = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..len].to_vec()).unwrap()
    }

    #[test]
    fn manager_is_told_at_a_path_or_at_an_abstract_name() {
        let path = env::temp_dir().join(format!("notify-{}", process::id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        Notifier::new(path.as_os_str()).send("READY=1\nSTATUS=a");
        assert_eq!(heard(&socket), "READY=1\nSTATUS=a");
        fs::remove_file(&path).unwrap();

        let name = format!("ringecho-notify-{}", process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        Notifier::new(format!("@{name}").as_ref()).send("STOPPING=1");
        assert_eq!(heard(&socket), "STOPPING=1");
    }

    #[test]
    fn manager_that_is_not_there_is_an_error_and_nothing_more() {
        let notifier = Notifier::new("/nowhere/notify".as_ref());
        assert!(notifier.try_to_send("READY=1").is_err());
        notifier.send("READY=1");
    }
}
