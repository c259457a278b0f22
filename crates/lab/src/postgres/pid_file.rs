//! Reads `postmaster.pid`: which process serves a data directory, where, and whether it is ready.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

/// The lines of `postmaster.pid` that we use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PidFile {
    /// Line 1.
    pub(super) pid: i32,
    /// Line 4: names the socket, and the TCP port if there is one.
    pub(super) port: Option<u16>,
    /// Line 5.
    pub(super) socket_dir: Option<PathBuf>,
    /// Line 6: empty without TCP.
    pub(super) listens_on_tcp: bool,
    /// Line 8.
    pub(super) status: Status,
}

/// The status of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// Not ready: it starts or recovers, or the line is not written yet.
    Starting,
    /// Accepts connections, perhaps only for reading.
    Ready,
    /// It is stopping.
    Stopping,
}

impl PidFile {
    /// Reads the file of a data directory; `None` when there is none or it is half-written.
    pub(super) fn read(data: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(data.join("postmaster.pid")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let line = |number: usize| lines.get(number - 1).copied().filter(|line| !line.is_empty());
        let status = match line(8) {
            Some("ready" | "standby") => Status::Ready,
            Some("stopping") => Status::Stopping,
            Some(_) | None => Status::Starting,
        };
        Some(Self {
            // A negative number means a single-user session.
            pid: line(1)?.parse().ok().filter(|pid| *pid > 0)?,
            port: line(4).and_then(|port| port.parse().ok()),
            socket_dir: line(5).map(PathBuf::from),
            listens_on_tcp: line(6).is_some(),
            status,
        })
    }

    /// Whether a process with this id exists. It may be another program that got a dead server's id.
    pub(super) fn is_alive(&self) -> bool {
        matches!(kill(Pid::from_raw(self.pid), None), Ok(()) | Err(Errno::EPERM))
    }

    /// Whether a process accepts connections on the named socket, which proves that the server lives.
    pub(super) fn answers(&self) -> bool {
        let (Some(dir), Some(port)) = (&self.socket_dir, self.port) else { return false };
        UnixStream::connect(dir.join(format!(".s.PGSQL.{port}"))).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: &str =
        "4711\n/srv/home/data\n1790000000\n5432\n/tmp/warmproof-x\n\n  1234567    0\nready   \n";

    #[test]
    fn a_ready_file_tells_all() {
        let expected = PidFile {
            pid: 4711,
            port: Some(5432),
            socket_dir: Some("/tmp/warmproof-x".into()),
            listens_on_tcp: false,
            status: Status::Ready,
        };
        assert_eq!(PidFile::parse(READY), Some(expected));
    }

    #[test]
    fn an_unfinished_file_is_not_ready() {
        let half = READY.lines().take(4).collect::<Vec<_>>().join("\n");
        assert_eq!(PidFile::parse(&half).unwrap().status, Status::Starting);
        assert_eq!(PidFile::parse(""), None);
        assert_eq!(PidFile::parse("not a number\n"), None);
    }

    #[test]
    fn a_single_user_session_is_no_server() {
        assert_eq!(PidFile::parse(&READY.replace("4711", "-4711")), None);
    }
}
