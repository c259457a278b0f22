//! The wide event that a worker process writes: one line with the row's values, and no secrets.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use secrecy::SecretString;
use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use warmproof::domain::dispatch::{Dispatch, trace_id};
use warmproof::domain::ids::{PoolName, SupervisorName};
use warmproof::domain::verification::{Intent, NewVerification};
use warmproof_lab::simulator::{Simulator, SimulatorOptions};

use warmproof_testkit::db::{Db, db};
use warmproof_testkit::dispatch::schedule;
use warmproof_testkit::pooler::{PoolMode, mode};

const WORKER_TOKEN: &str = "tr_wgt_plantedplantedplantedplantedplantedpl";
const MANAGED_SECRET: &str = "planted-managed-secret";
const GATEWAY_TOKEN: &str = "planted-gateway-token";
const RUNNER_SECRET: &str = "planted-runner-secret";
const SOON: Duration = Duration::from_secs(30);

async fn simulator() -> Simulator {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let options = SimulatorOptions {
        worker_token: SecretString::from(WORKER_TOKEN),
        managed_secret: SecretString::from(MANAGED_SECRET),
        gateway_token: Some(SecretString::from(GATEWAY_TOKEN)),
        queued_runs: 1,
        ..SimulatorOptions::default()
    };
    Simulator::start(listener, options).expect("a simulator")
}

fn worker(db: &Db, platform: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_warmproof"))
        .arg("worker")
        .env_clear()
        .envs([
            ("TRIGGER_WARM_START_VERIFY_ENABLED", "true"),
            ("TRIGGER_WARM_START_URL", platform),
            ("TRIGGER_API_URL", platform),
            ("COMPUTE_GATEWAY_URL", platform),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", platform),
            ("TRIGGER_WORKLOAD_API_DOMAIN", "supervisor"),
            ("TRIGGER_WORKER_TOKEN", WORKER_TOKEN),
            ("MANAGED_WORKER_SECRET", MANAGED_SECRET),
            ("COMPUTE_GATEWAY_AUTH_TOKEN", GATEWAY_TOKEN),
            ("RUNNER_ADDITIONAL_ENV_VARS", &format!("KEY={RUNNER_SECRET}")),
            ("TRIGGER_WORKER_INSTANCE_NAME", "node-of-the-test"),
            ("WARMPROOF_DATABASE_URL", &db.url()),
            ("WARMPROOF_DATABASE_POOLER", &(mode() == Some(PoolMode::Transaction)).to_string()),
            ("WARMPROOF_LOG", "debug"),
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("a worker")
}

#[tokio::test]
async fn a_loss_that_was_started_cold_is_one_flat_line_without_secrets() {
    let (db, simulator) = (db().await, simulator().await);
    let message = simulator.dequeue_now().await.expect("a run is queued");
    let dispatch = Dispatch::parse(message, None).unwrap();
    let new = NewVerification {
        dispatch: dispatch.clone(),
        pool: PoolName::default_pool(),
        supervisor: SupervisorName::parse("supervisor-1").ok(),
        region: None,
        intent: Intent::Hit,
        delay: Some(Duration::from_secs(1)),
    };
    let scheduled = schedule(&db.store, new).await;
    let mut worker = worker(&db, simulator.base_url());
    let mut events = BufReader::new(worker.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(SOON, events.next_line()).await.expect("an event in time");
    let line = line.unwrap().expect("an event");
    kill(Pid::from_raw(i32::try_from(worker.id().unwrap()).unwrap()), Signal::SIGTERM).unwrap();
    let (mut logs, mut log) = (worker.stderr.take().unwrap(), String::new());
    tokio::time::timeout(SOON, logs.read_to_string(&mut log)).await.expect("the log ends").unwrap();
    assert!(worker.wait().await.unwrap().success(), "{log}");
    assert_eq!(events.next_line().await.unwrap(), None, "one line for one settlement");

    let event: Map<String, Value> = serde_json::from_str(&line).expect("one object on one line");
    assert!(event.values().all(|value| !value.is_object() && !value.is_array()), "flat: {line}");
    assert_eq!(event["meta.run_id"], dispatch.run_id.as_str());
    assert_eq!(event["meta.verification_id"], scheduled.id.to_string());
    assert_eq!(event["trace_id"].as_str(), dispatch.traceparent.as_deref().and_then(trace_id));
    assert_eq!((&event["outcome"], &event["fallback_result"]), (&"fallback".into(), &"created".into()));
    assert_eq!(
        (&event["node_id"], &event["supervisor"]),
        (&"node-of-the-test".into(), &"supervisor-1".into())
    );
    assert_eq!(event["delay_ms"], 1000);
    assert!(event["actual_delay_ms"].as_i64().is_some_and(|ms| ms >= 1000), "{line}");
    let stored: String = db.value("select worker from outcome").await;
    assert_eq!(event["worker"], stored, "the event has the row's values");
    assert!(log.contains("worker started"), "{log}");
    assert!(!log.contains('\u{1b}'), "colours are for terminals: {log}");
    for secret in [WORKER_TOKEN, MANAGED_SECRET, GATEWAY_TOKEN, RUNNER_SECRET] {
        assert!(!line.contains(secret), "{line}");
        assert!(!log.contains(secret), "{log}");
    }
    db.assert_conserved().await;
}
