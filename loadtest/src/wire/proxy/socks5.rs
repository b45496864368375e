//! A connection by SOCKS 5 (RFC 1928), with user and password (RFC 1929) or without.
//!
//! Each side speaks only when it was spoken to, so nothing is read that belongs to the server.

use std::net::SocketAddr;

use super::{Credentials, Destination, ProxyError, SOCKS_TEXT_LEN_MAX};
use crate::wire::halves::{ReadHalf, WriteHalf};

const VERSION: u8 = 5;

/// Ways to say who asks (RFC 1928 §3).
const NOBODY: u8 = 0;
const USER_AND_PASSWORD: u8 = 2;
const NO_ACCEPTABLE_METHOD: u8 = 0xff;

/// The version of RFC 1929, which is not that of SOCKS.
const AUTHENTICATION_VERSION: u8 = 1;

const CONNECT: u8 = 1;

/// Types of addresses (RFC 1928 §5).
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// The longest reply: with an address that is a name of 255 bytes.
const REPLY_LEN_MAX: usize = 4 + 1 + SOCKS_TEXT_LEN_MAX + 2;

/// Asks for a connection to `destination`.
pub(super) async fn ask(
    destination: &Destination,
    credentials: Option<&Credentials>,
    reader: &mut impl ReadHalf,
    writer: &mut impl WriteHalf,
) -> Result<(), ProxyError> {
    let request = request(destination)?;
    let mut dialogue = Dialogue { reader, writer, heard: Vec::new() };
    match credentials {
        None => dialogue.say(vec![VERSION, 1, NOBODY]).await?,
        Some(_) => dialogue.say(vec![VERSION, 2, NOBODY, USER_AND_PASSWORD]).await?,
    }
    let [version] = dialogue.hear().await?;
    if version != VERSION {
        return Err(ProxyError::NotSocks5(version));
    }
    let [method] = dialogue.hear().await?;
    match (method, credentials) {
        (NOBODY, _) => {}
        (USER_AND_PASSWORD, Some(credentials)) => {
            dialogue.say(authentication(credentials)).await?;
            let [_version, status] = dialogue.hear().await?;
            //= https://www.rfc-editor.org/rfc/rfc1929#section-2
            //# A STATUS field of X'00' indicates success.
            if status != 0 {
                return Err(ProxyError::SocksAuthenticationRefused(status));
            }
        }
        (NO_ACCEPTABLE_METHOD, None) => return Err(ProxyError::SocksAuthenticationNeeded),
        (NO_ACCEPTABLE_METHOD, Some(_)) => return Err(ProxyError::SocksMethodMissing),
        (method, _) => return Err(ProxyError::SocksMethodUnasked(method)),
    }
    dialogue.say(request).await?;
    let [version, reply, _reserved, address_type] = dialogue.hear().await?;
    if version != VERSION {
        return Err(ProxyError::NotSocks5(version));
    }
    if reply != 0 {
        return Err(ProxyError::SocksRefused(reply));
    }
    // Where the proxy connects from is of no interest.
    match address_type {
        IPV4 => dialogue.hear::<6>().await.map(drop)?,
        IPV6 => dialogue.hear::<18>().await.map(drop)?,
        NAME => {
            let [len] = dialogue.hear().await?;
            dialogue.pass_over(usize::from(len) + 2).await?;
        }
        other => return Err(ProxyError::SocksAddressType(other)),
    }
    if dialogue.heard.is_empty() { Ok(()) } else { Err(ProxyError::BytesUnasked) }
}

fn authentication(Credentials { user, password }: &Credentials) -> Vec<u8> {
    // Both lengths were checked with the URL.
    let [user_len, password_len] = [user, password].map(|text| text.len() as u8);
    [&[AUTHENTICATION_VERSION, user_len], &**user, &[password_len], password].concat()
}

fn request(destination: &Destination) -> Result<Vec<u8>, ProxyError> {
    let (address, port) = match destination {
        Destination::Address(SocketAddr::V4(address)) => {
            ([&[IPV4], &address.ip().octets()[..]].concat(), address.port())
        }
        Destination::Address(SocketAddr::V6(address)) => {
            ([&[IPV6], &address.ip().octets()[..]].concat(), address.port())
        }
        Destination::Name(name, port) => {
            let len =
                u8::try_from(name.len()).map_err(|_| ProxyError::SocksNameTooLong(name.len()))?;
            ([&[NAME, len], name.as_bytes()].concat(), *port)
        }
    };
    Ok([&[VERSION, CONNECT, 0], &*address, &port.to_be_bytes()].concat())
}

/// The two sides of the connection, and what the proxy has said that was not looked at.
struct Dialogue<'h, R, W> {
    reader: &'h mut R,
    writer: &'h mut W,
    /// At most one reply is left in it, since nothing is said before it was asked for.
    heard: Vec<u8>,
}

impl<R: ReadHalf, W: WriteHalf> Dialogue<'_, R, W> {
    async fn say(&mut self, bytes: Vec<u8>) -> Result<(), ProxyError> {
        if !self.heard.is_empty() {
            return Err(ProxyError::BytesUnasked);
        }
        let (sent, _) = self.writer.write_all(bytes).await;
        sent.map(drop).map_err(ProxyError::Broken)
    }

    /// The next bytes that the proxy says.
    async fn hear<const LEN: usize>(&mut self) -> Result<[u8; LEN], ProxyError> {
        self.wait_for(LEN).await?;
        let mut bytes = [0; LEN];
        bytes.copy_from_slice(&self.heard[..LEN]);
        self.heard.drain(..LEN);
        Ok(bytes)
    }

    async fn pass_over(&mut self, len: usize) -> Result<(), ProxyError> {
        self.wait_for(len).await?;
        self.heard.drain(..len);
        Ok(())
    }

    async fn wait_for(&mut self, len: usize) -> Result<(), ProxyError> {
        while self.heard.len() < len {
            let (read, chunk) = self.reader.read(Vec::with_capacity(REPLY_LEN_MAX)).await;
            match read {
                Ok(0) => return Err(ProxyError::CutOff),
                Ok(_) => self.heard.extend_from_slice(&chunk),
                Err(error) => return Err(ProxyError::Broken(error)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_those_of_the_standard() {
        let name = |name: &str| Destination::Name(name.to_owned(), 443);
        for (destination, bytes) in [
            (
                Destination::Address("10.1.2.3:80".parse().unwrap()),
                &b"\x05\x01\x00\x01\x0a\x01\x02\x03\x00\x50"[..],
            ),
            (
                Destination::Address("[2001:db8::1]:443".parse().unwrap()),
                b"\x05\x01\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x01\xbb",
            ),
            (name("h.example"), b"\x05\x01\x00\x03\x09h.example\x01\xbb"),
        ] {
            assert_eq!(request(&destination).unwrap(), bytes, "{destination}");
        }
        assert!(request(&name(&"x".repeat(255))).is_ok());
        let refused = request(&name(&"x".repeat(256))).unwrap_err();
        assert!(matches!(refused, ProxyError::SocksNameTooLong(256)));
        let credentials = Credentials { user: b"me".to_vec(), password: Vec::new() };
        assert_eq!(authentication(&credentials), b"\x01\x02me\x00");
    }
}
