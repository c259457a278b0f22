//! Off is the default and a complete no-op: no connection, no task, no row, one line at debug.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::runtime::Handle;
use warmproof::config::environment::Environment;
use warmproof::config::{ApiSettings, SchedulerSettings, WorkerSettings};
use warmproof::domain::dispatch::Dispatch;
use warmproof::domain::verification::CancelReason;
use warmproof::scheduler::{Hit, Scheduler};

use warmproof_testkit::dispatch::{cancellation, message};
use warmproof_testkit::logs::captured_at;

/// Every way of being off: unset, false, and words that resemble `true` and are not.
const OFF: [Option<&str>; 6] = [None, Some("false"), Some("yes"), Some("on"), Some(""), Some("0")];

/// Counts the connections to a port.
struct Counted {
    url: String,
    connections: Arc<AtomicUsize>,
}

impl Counted {
    async fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { url: format!("127.0.0.1:{port}"), connections }
    }

    /// Opens one connection itself: all earlier ones are counted by the time it is counted.
    async fn count(&self) -> usize {
        drop(tokio::net::TcpStream::connect(&self.url).await.expect("a connection"));
        tokio::time::timeout(Duration::from_secs(10), async {
            while self.connections.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("our own connection is counted");
        self.connections.load(Ordering::SeqCst) - 1
    }

    /// The variables for everything that a process could connect to; all lead to this port.
    fn variables(&self, switch: Option<&str>) -> Vec<(&'static str, String)> {
        let http = format!("http://{}", self.url);
        let mut variables = vec![
            ("WARMPROOF_DATABASE_URL", format!("postgres://u:p@{}/d", self.url)),
            ("TRIGGER_API_URL", http.clone()),
            ("TRIGGER_WARM_START_URL", http.clone()),
            ("COMPUTE_GATEWAY_URL", http.clone()),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", http),
            ("TRIGGER_WORKER_TOKEN", "tr_wgt_x".to_owned()),
            ("MANAGED_WORKER_SECRET", "s".to_owned()),
            ("TRIGGER_WORKLOAD_API_DOMAIN", "d".to_owned()),
            // The process would refuse to start if it read this value.
            ("WARMPROOF_API_TOKEN", "short".to_owned()),
            ("WARMPROOF_API_LISTEN", "no address".to_owned()),
        ];
        variables.extend(switch.map(|switch| ("TRIGGER_WARM_START_VERIFY_ENABLED", switch.to_owned())));
        variables
    }
}

/// Uses a scheduler for everything it can do.
async fn use_it(environment: &Environment) {
    let settings = SchedulerSettings::from_environment(environment).expect("off is no fault");
    let scheduler = Scheduler::connect(&settings).await.expect("off never fails");
    let dispatch =
        Dispatch::parse(message("run_a", "snapshot_a", chrono::Utc::now()), None).expect("a dispatch");
    for _ in 0..3 {
        assert_eq!(scheduler.schedule(Hit::new(dispatch.clone())).await.expect("no error"), None);
        let cancel = cancellation("run_a", None, CancelReason::Connected);
        assert_eq!(scheduler.cancel(cancel).await.expect("no error"), None);
    }
    // A value that is refused while verification is on is not even read.
    assert_eq!(scheduler.schedule(Hit::new(dispatch).delay(Duration::ZERO)).await.expect("no error"), None);
}

// On one thread, so that the subscriber of this test gets every event.
#[tokio::test]
async fn the_library_opens_and_starts_nothing_and_says_so_once_at_debug() {
    for switch in OFF {
        let counted = Counted::listen().await;
        for environment in [
            Environment::from_pairs(counted.variables(switch)),
            Environment::from_pairs(switch.map(|switch| ("TRIGGER_WARM_START_VERIFY_ENABLED", switch))),
        ] {
            let tasks = Handle::current().metrics().num_alive_tasks();
            let (logs, guard) = captured_at("debug");
            use_it(&environment).await;
            drop(guard);
            assert_eq!(Handle::current().metrics().num_alive_tasks(), tasks, "a task was started");
            let said = logs.text();
            assert_eq!(said.lines().count(), 1, "{switch:?}: {said}");
            assert!(said.contains("DEBUG"), "{said}");
            assert!(said.contains("warm-start verification is off"), "{said}");
            assert!(said.contains("TRIGGER_WARM_START_VERIFY_ENABLED"), "the reason is named: {said}");
        }
        assert_eq!(counted.count().await, 0, "{switch:?}: a connection was opened");
    }
}

#[tokio::test]
async fn verification_is_off_without_a_warm_start_service() {
    let counted = Counted::listen().await;
    let mut variables = counted.variables(Some("true"));
    variables.retain(|(name, _)| *name != "TRIGGER_WARM_START_URL");
    let (logs, _guard) = captured_at("debug");
    use_it(&Environment::from_pairs(variables)).await;
    assert!(logs.text().contains("`TRIGGER_WARM_START_URL` is not set"), "{}", logs.text());
    assert_eq!(counted.count().await, 0);
}

#[test]
fn nothing_else_is_read_while_it_is_off() {
    // Each of these is a fault while verification is on.
    let wrong =
        [("WARMPROOF_DATABASE_URL", "nonsense"), ("WARMPROOF_LEASE_MS", "soon"), ("TRIGGER_API_URL", "x")];
    let environment = Environment::from_pairs(wrong);
    assert!(SchedulerSettings::from_environment(&environment).is_ok());
    assert!(ApiSettings::from_environment(&environment).is_ok());
    assert!(WorkerSettings::from_environment(&environment).is_ok());
}

#[tokio::test]
async fn worker_and_api_connect_to_nothing_and_stop_on_sigterm() {
    for command in ["worker", "api"] {
        for switch in [None, Some("yes")] {
            let counted = Counted::listen().await;
            let mut child = Command::new(env!("CARGO_BIN_EXE_warmproof"))
                .arg(command)
                .env_clear()
                .envs(counted.variables(switch))
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .unwrap();
            let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
            let line = tokio::time::timeout(Duration::from_secs(30), said.next_line()).await.unwrap();
            let line = line.unwrap().unwrap_or_default();
            assert!(line.contains("warm-start verification is off"), "{command}: {line}");
            let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap());
            kill(pid, Signal::SIGTERM).unwrap();
            let output = tokio::time::timeout(Duration::from_secs(30), child.wait_with_output()).await;
            let output = output.expect("it stops on SIGTERM").unwrap();
            assert!(output.status.success(), "{command}: {:?}", output.status);
            assert!(output.stdout.is_empty(), "{command} said it was ready: {:?}", output.stdout);
            assert_eq!(counted.count().await, 0, "{command} opened a connection");
        }
    }
}
