//! Keepalive: makes our kernel notice that a server is gone, even while no statement waits for an answer.
//!
//! The driver offers neither these options nor its socket. So this module finds the socket among this
//! process's file descriptors, by the server's port, and passes a copy of it to itself over a socket pair.
//! That is the only way, without `unsafe`, to own a descriptor of which only the number is known. Both copies
//! are one socket.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{
    ControlMessage, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, getpeername, sendmsg,
};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt};

/// After this long without a byte the kernel asks the server whether it still lives.
pub(super) const IDLE: Duration = Duration::from_secs(10);
/// How long it waits before it asks again.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);
/// This many questions without an answer end the connection.
pub(super) const COUNT: u32 = 3;
/// Data that stays unacknowledged for this long ends the connection.
pub(super) const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(20);

/// Sets the options on each connection of this process to that port that has none yet; returns on how many.
///
/// # Errors
/// This process may not list its descriptors (`/proc` is missing), or may not open a socket pair.
pub(super) fn set_for_port(port: u16) -> io::Result<usize> {
    let passage = UnixStream::pair()?;
    let mut set = 0;
    for entry in fs::read_dir("/proc/self/fd")? {
        let Some(fd) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if !leads_to(fd, port) {
            continue;
        }
        // Another thread may have closed it since; then its connection needs no options either.
        let Ok(Some(socket)) = copy(fd, &passage) else { continue };
        // The number may belong to another socket by now.
        if leads_to(socket.as_raw_fd(), port) && !sockopt::socket_keepalive(&socket)? {
            set_options(&socket)?;
            set += 1;
        }
    }
    Ok(set)
}

fn leads_to(fd: RawFd, port: u16) -> bool {
    let Ok(peer) = getpeername::<SockaddrStorage>(fd) else { return false };
    let v4 = peer.as_sockaddr_in().map(SockaddrIn::port);
    v4.or_else(|| peer.as_sockaddr_in6().map(SockaddrIn6::port)) == Some(port)
}

/// A descriptor of our own for the same socket.
fn copy(fd: RawFd, (from, to): &(UnixStream, UnixStream)) -> io::Result<Option<OwnedFd>> {
    let byte = [IoSlice::new(&[0])];
    let rights = [ControlMessage::ScmRights(&[fd])];
    sendmsg::<()>(from.as_raw_fd(), &byte, &rights, MsgFlags::empty(), None)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut received = RecvAncillaryBuffer::new(&mut space);
    recvmsg(to, &mut [IoSliceMut::new(&mut [0])], &mut received, RecvFlags::CMSG_CLOEXEC)?;
    Ok(received.drain().find_map(|message| {
        // We sent nothing else.
        let RecvAncillaryMessage::ScmRights(mut fds) = message else { return None };
        fds.next()
    }))
}

fn set_options(socket: &OwnedFd) -> io::Result<()> {
    sockopt::set_tcp_keepidle(socket, IDLE)?;
    sockopt::set_tcp_keepintvl(socket, INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, COUNT)?;
    let milliseconds = u32::try_from(UNACKNOWLEDGED_MAX.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(socket, milliseconds)?;
    sockopt::set_socket_keepalive(socket, true)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn only_connections_to_that_port_get_the_options_and_each_once() {
        let (server, other) =
            (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let port = server.local_addr().unwrap().port();
        let ours = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let neighbour = TcpStream::connect(other.local_addr().unwrap()).unwrap();

        assert_eq!(set_for_port(port).unwrap(), 1);
        assert!(sockopt::socket_keepalive(&ours).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&ours).unwrap(), IDLE);
        assert_eq!(sockopt::tcp_keepintvl(&ours).unwrap(), INTERVAL);
        assert_eq!(sockopt::tcp_keepcnt(&ours).unwrap(), COUNT);
        assert_eq!(sockopt::tcp_user_timeout(&ours).unwrap(), 20_000);
        assert!(!sockopt::socket_keepalive(&neighbour).unwrap());
        assert_eq!(set_for_port(port).unwrap(), 0);
    }
}
