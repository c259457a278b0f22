//! The thread that owns the server's process, from its start to its end.
//!
//! It is a separate thread because the kernel's "parent died" signal refers to the *thread* that spawned
//! the child. A thread of a pool may end at any moment, and the server would end with it.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};

/// How long the server may take to shut down cleanly before it is stopped at once.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the keeper checks whether the server still runs.
const CHECK_EVERY: Duration = Duration::from_millis(100);
const CHECK_EVERY_WHILE_STOPPING: Duration = Duration::from_millis(10);

/// A handle to the thread that owns a server.
#[derive(Debug)]
pub(super) struct Keeper {
    stop: Sender<()>,
    thread: JoinHandle<()>,
    ended: Arc<OnceLock<String>>,
    pid: i32,
}

impl Keeper {
    /// Spawns the server from a new thread and returns once the process exists.
    pub(super) fn spawn(command: Command) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let (born, birth) = channel();
        let ended = Arc::new(OnceLock::new());
        let end = Arc::clone(&ended);
        let thread = thread::Builder::new().name("postgres-keeper".into()).spawn(move || {
            let mut child = match spawn_bound(command) {
                Ok(child) => child,
                Err(error) => return drop(born.send(Err(error))),
            };
            // The receiver waits for exactly this message.
            let _ = born.send(Ok(process_id(&child)));
            keep(&mut child, &stopped, &end);
        })?;
        let pid = birth.recv().map_err(io::Error::other)??;
        Ok(Self { stop, thread, ended, pid })
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// How the server ended, if it ended by itself.
    pub(super) fn ended(&self) -> Option<&str> {
        self.ended.get().map(String::as_str)
    }

    /// Stops the server and waits until it is gone.
    pub(super) fn stop(self) {
        // Fails when the keeper has already ended with its server; the join covers both cases.
        let _ = self.stop.send(());
        if self.thread.join().is_err() {
            tracing::error!(pid = self.pid, "the keeper of the private PostgreSQL panicked");
        }
    }
}

/// Waits for the request to stop, or until the server ends by itself.
fn keep(child: &mut Child, stopped: &Receiver<()>, end: &OnceLock<String>) {
    loop {
        match stopped.recv_timeout(CHECK_EVERY) {
            // Disconnected: the handle was dropped without a request, which also means stop.
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return shut_down(child),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some(status) = child.try_wait().ok().flatten() {
            tracing::error!(pid = child.id(), %status, "the private PostgreSQL ended by itself");
            let _ = end.set(status.to_string());
            return;
        }
    }
}

/// SIGINT cuts connections and writes a checkpoint; SIGQUIT ends at once, and the next start recovers.
fn shut_down(child: &mut Child) {
    signal(child, Signal::SIGINT);
    if wait(child, STOP_TIMEOUT).is_none() {
        tracing::warn!(pid = child.id(), "the private PostgreSQL did not stop in time and is cut off");
        signal(child, Signal::SIGQUIT);
        // Bounded: five seconds after SIGQUIT the server kills its remaining children.
        if let Err(error) = child.wait() {
            tracing::error!(pid = child.id(), %error, "could not wait for the private PostgreSQL");
        }
    }
}

fn signal(child: &Child, signal: Signal) {
    // Not reaped yet, so the id still belongs to our child. The child may have ended already.
    let _ = kill(Pid::from_raw(process_id(child)), signal);
}

fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let began = Instant::now();
    while began.elapsed() < patience {
        if let Some(status) = child.try_wait().ok().flatten() {
            return Some(status);
        }
        thread::sleep(CHECK_EVERY_WHILE_STOPPING);
    }
    None
}

fn process_id(child: &Child) -> i32 {
    i32::try_from(child.id()).expect("a process id is a small positive number")
}

/// Spawns a process in its own group, so that ^C reaches only us and we can drain first. It is bound to
/// the life of this thread, so that it shuts down cleanly when we are killed.
#[expect(unsafe_code, reason = "binding a child to its parent's life must happen between fork and exec")]
fn spawn_bound(mut command: Command) -> io::Result<Child> {
    command.process_group(0);
    #[cfg(target_os = "linux")]
    {
        let parent = getpid();
        // SAFETY: runs in the child between fork and exec, where only async-signal-safe calls are
        // allowed. `prctl` and `getppid` are plain system calls, and no branch allocates: both errors
        // are bare numbers. It comes after the change of account, which would clear the request.
        unsafe {
            command.pre_exec(move || {
                nix::sys::prctl::set_pdeathsig(Signal::SIGINT)?;
                // The parent may have died before the request: then no signal will come.
                if nix::unistd::getppid() == parent { Ok(()) } else { Err(nix::errno::Errno::ESRCH.into()) }
            });
        }
    }
    command.spawn()
}
