//! The real binary, run as a process of its own, stopped and killed by real signals.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, OnceLock};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::pooler::{self, PoolMode};
use super::wait::{until, within};

type Lines = Arc<Mutex<Vec<String>>>;

/// What a process may log while its database is away, hangs or breaks off; for [`Program::may_warn`].
pub const WITHOUT_A_DATABASE: &[&str] =
    &["could not", "connections are", "a fenced step is repeated", "a request failed on the database"];

/// What any process may log on a busy machine.
const BUSY: &[&str] = &["a slow statement"];

/// A process to be started.
#[derive(Debug, Clone)]
pub struct Program {
    file: &'static str,
    announced: Vec<String>,
    reads_stdout: bool,
    reads_stderr: bool,
    /// How many descriptors it may have; as many as this process if none.
    descriptors: Option<u32>,
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
}

impl Program {
    pub fn new(command: &'static str, environment: BTreeMap<String, String>) -> Self {
        Self::of(&[command], environment)
    }

    /// The same with arguments.
    pub fn of(arguments: &[&str], environment: BTreeMap<String, String>) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self {
            file: "warmproof",
            announced: Vec::new(),
            reads_stdout: true,
            reads_stderr: true,
            descriptors: None,
            arguments,
            environment,
        }
    }

    /// The same of the lab's program.
    pub fn of_the_lab(arguments: &[&str], environment: BTreeMap<String, String>) -> Self {
        Self { file: "warmproof-lab", ..Self::of(arguments, environment) }
    }

    pub fn env(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.environment.insert(name.to_owned(), value.to_string());
        self
    }

    /// The process may log these texts as warnings or errors: the test makes something go wrong.
    pub fn may_warn(mut self, texts: &[&str]) -> Self {
        self.announced.extend(texts.iter().map(|text| (*text).to_owned()));
        self
    }

    /// Leaves stdout unread, as a reader does that stalls.
    pub fn with_stdout_unread(mut self) -> Self {
        self.reads_stdout = false;
        self
    }

    /// Leaves stderr unread.
    pub fn with_stderr_unread(mut self) -> Self {
        self.reads_stderr = false;
        self
    }

    /// Runs with so many descriptors at most.
    pub fn descriptors(mut self, most: u32) -> Self {
        self.descriptors = Some(most);
        self
    }

    /// Runs with a wall clock that is off by so much, such as `+1h`. The stopwatch stays true.
    pub fn clock(self, off: &str) -> Self {
        self.env("LD_PRELOAD", faketime()).env("FAKETIME", off).env("FAKETIME_DONT_FAKE_MONOTONIC", 1)
    }

    /// The variables, for what runs in this process.
    pub fn environment(&self) -> warmproof::config::environment::Environment {
        warmproof::config::environment::Environment::from_pairs(self.environment.clone())
    }

    pub fn start(&self) -> Process {
        let mut command = match self.descriptors {
            None => Command::new(built(self.file)),
            Some(most) => {
                // It becomes the program, under the same process id.
                let mut limited = Command::new("prlimit");
                limited.arg(format!("--nofile={most}:{most}")).arg(built(self.file));
                limited
            }
        };
        command.args(&self.arguments).env_clear();
        if pooler::mode() == Some(PoolMode::Transaction) {
            command.env("WARMPROOF_DATABASE_POOLER", "true");
        }
        command
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().expect("the binary starts");
        let (out, err) = (Lines::default(), Lines::default());
        let mut readers = Vec::new();
        // A pipe that is not taken stays open, and full.
        if self.reads_stdout {
            readers.push(read(child.stdout.take().expect("a pipe"), Arc::clone(&out)));
        }
        if self.reads_stderr {
            readers.push(read(child.stderr.take().expect("a pipe"), Arc::clone(&err)));
        }
        let pid = Pid::from_raw(i32::try_from(child.id().expect("it runs")).expect("a process id"));
        let announced = Mutex::new(self.announced.clone());
        Process { child, pid, out, err, readers, announced }
    }
}

/// A process of ours. Dropping it kills it, and fails the test if it has logged a warning that the test did not
/// announce.
pub struct Process {
    child: Child,
    pid: Pid,
    out: Lines,
    err: Lines,
    readers: Vec<JoinHandle<()>>,
    /// What the test waited for or expects; any other warning fails it.
    announced: Mutex<Vec<String>>,
}

impl Process {
    pub fn signal(&self, signal: Signal) {
        // The process is not reaped before `child` was waited for, so the id is still its own.
        kill(self.pid, signal).expect("a signal");
    }

    /// Sends SIGKILL, and waits until the process is dead and all its output is read.
    pub async fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.ended().await;
    }

    /// Sends SIGTERM, waits until the process has ended, and returns its exit code.
    pub async fn terminate(&mut self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    /// Waits until it has ended and all its output is read; returns its exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        let status = within("a process ends", self.child.wait()).await.expect("a status");
        for reader in self.readers.drain(..) {
            within("its pipes are closed", reader).await.expect("a reader");
        }
        status.code()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a status").is_none()
    }

    pub fn stdout(&self) -> Vec<String> {
        self.out.lock().expect("no panic").clone()
    }

    pub fn stderr(&self) -> Vec<String> {
        self.err.lock().expect("no panic").clone()
    }

    /// The wide events so far.
    pub fn events(&self) -> Vec<Value> {
        let parse = |line: &String| serde_json::from_str(line).unwrap_or_else(|_| panic!("no event: {line}"));
        self.stdout().iter().map(parse).collect()
    }

    /// Waits until its log holds a text, and returns the line.
    pub async fn says(&self, text: &str) -> String {
        self.announced.lock().expect("no panic").push(text.to_owned());
        let what = format!("`{text}` is logged");
        until(&what, async || self.stderr().into_iter().find(|line| line.contains(text))).await
    }

    /// Waits until a line on stdout holds a text, and returns the line.
    pub async fn prints(&self, text: &str) -> String {
        let what = format!("`{text}` is printed");
        until(&what, async || self.stdout().into_iter().find(|line| line.contains(text))).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("--- log of process {}", self.pid);
            self.stderr().iter().for_each(|line| println!("{line}"));
            return;
        }
        let announced = self.announced.lock().expect("no panic");
        // A pooler in session mode has fewer sessions than some tests have connections, which then wait.
        let waits = (pooler::mode() == Some(PoolMode::Session)).then_some("no answer within");
        let announced = announced.iter().map(String::as_str).chain(BUSY.iter().copied()).chain(waits);
        let is_announced = |line: &String| announced.clone().any(|text| line.contains(text));
        let unannounced: Vec<String> =
            self.stderr().into_iter().filter(|line| is_warning(line) && !is_announced(line)).collect();
        assert!(unannounced.is_empty(), "unannounced warnings:\n{}", unannounced.join("\n"));
    }
}

/// The level is the second word of a log line for people, after the time.
fn is_warning(line: &str) -> bool {
    line.split_whitespace().nth(1).is_some_and(|level| ["WARN", "ERROR"].contains(&level))
        || [r#""level":"WARN""#, r#""level":"ERROR""#].iter().any(|level| line.contains(level))
}

fn read(pipe: impl AsyncRead + Unpin + Send + 'static, into: Lines) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut lines = BufReader::new(pipe).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            into.lock().expect("no panic").push(line);
        }
    })
}

/// A program that cargo has built beside this test: its package has tests of its own, so cargo builds both.
fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let programs = test.parent().and_then(|deps| deps.parent()).expect("a test is in `deps` of its profile");
    programs.join(name)
}

/// The library that shifts clocks. The command `faketime` would be a process in between and would take our signals.
fn faketime() -> &'static str {
    static LIBRARY: OnceLock<String> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let asked = std::process::Command::new("faketime")
            .args(["-m", "-f", "+0s", "printenv", "LD_PRELOAD"])
            .output();
        let answer = asked.expect("the program faketime; scripts/bootstrap --test installs it");
        String::from_utf8(answer.stdout).expect("a path").trim().to_owned()
    })
}
