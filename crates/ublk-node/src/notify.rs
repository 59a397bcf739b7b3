//! One message to the service manager, over the socket that it gave: Node.js has no datagram sockets of the Unix family.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::error::NativeError;

/// Sends `state` to `address`: a path, or `@` and the name of an abstract socket. Waits while the reader's queue is full.
pub(crate) fn notify(address: &str, state: &str) -> Result<(), NativeError> {
    send(address, state).map_err(|source| NativeError {
        code: "ERR_UBLK_FILE".into(),
        message: format!("{address}, the socket of the service manager: {source}"),
        hint: "NOTIFY_SOCKET must be that of systemd, or of another reader of datagrams.".into(),
        errno: source.raw_os_error().map(|errno| -errno),
        syscall: Some("sendto".into()),
        device_id: None,
    })
}

fn send(address: &str, state: &str) -> io::Result<()> {
    let address = match address.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(address)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a reader at `address` gets.
    fn heard(socket: &UnixDatagram, address: &str) -> String {
        notify(address, "READY=1\nSTATUS=1 of 1").unwrap();
        let mut buffer = [0; 100];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn a_message_arrives_whole_at_a_path_and_at_an_abstract_socket() {
        let name = format!("ublk-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let at_path = UnixDatagram::bind(&path).unwrap();
        let text = heard(&at_path, path.to_str().unwrap());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(text, "READY=1\nSTATUS=1 of 1");

        let hidden = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        assert_eq!(heard(&hidden, &format!("@{name}")), "READY=1\nSTATUS=1 of 1");
    }

    #[test]
    fn a_socket_that_is_not_there_is_an_error_that_names_it() {
        let error = notify("/nowhere/notify", "READY=1").unwrap_err();
        assert_eq!((error.code.as_str(), error.errno), ("ERR_UBLK_FILE", Some(-libc::ENOENT)));
        assert!(error.message.starts_with("/nowhere/notify, "), "{}", error.message);
    }
}
