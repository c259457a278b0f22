//! The checklist of platform.md §12, line by line, over real HTTP.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use warmproof::domain::dispatch::Dispatch;
use warmproof::domain::ids::SnapshotId;
use warmproof::domain::verdict::ProbeFailure;
use warmproof::platform::{CallError, Client};

mod attempts;
mod faults;
mod runners;

const HOUR: Duration = Duration::from_hours(1);
const MS: Duration = Duration::from_millis(1);

/// Timers never expire within a test, and all that a test waits for happens at once.
fn quick() -> SimulatorOptions {
    SimulatorOptions {
        dequeue_block: MS,
        redrive: HOUR,
        cancel_confirm: HOUR,
        backoff_scale: 0.0,
        slow_delay: MS,
        execute: MS,
        boot: MS,
        start_retry_delay: MS,
        ..SimulatorOptions::default()
    }
}

async fn simulator(options: SimulatorOptions) -> Simulator {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Simulator::start(listener, options).unwrap()
}

fn client(simulator: &Simulator) -> Client {
    Client::new(&PlatformConfig {
        api_url: simulator.base_url().parse().unwrap(),
        worker_token: SimulatorOptions::default().worker_token,
        managed_secret: SimulatorOptions::default().managed_secret,
        instance_name: "node-a".to_owned(),
        probe_timeout: Duration::from_secs(10),
        redrive: warmproof::domain::claim::REDRIVE_DEFAULT,
    })
    .unwrap()
}

/// Queues a run and dequeues it.
async fn dispatched(simulator: &Simulator) -> Dispatch {
    simulator.queue_run();
    Dispatch::parse(simulator.dequeue_now().await.unwrap(), None).unwrap()
}

/// A request with the right credentials, any of which a test may leave out.
fn request(simulator: &Simulator, method: &str, path: &str, without: &str) -> reqwest::RequestBuilder {
    let url = format!("{}{}{path}", simulator.base_url(), wire::BASE_PATH);
    let token = SimulatorOptions::default().worker_token.expose_secret().to_owned();
    let secret = SimulatorOptions::default().managed_secret.expose_secret().to_owned();
    let mut request = Client::without_credentials().unwrap().request(method.parse().unwrap(), url);
    for (name, value) in [
        ("authorization", format!("Bearer {token}")),
        (wire::INSTANCE_NAME_HEADER, "node-a".to_owned()),
        (wire::MANAGED_SECRET_HEADER, secret),
    ] {
        if name != without {
            request = request.header(name, value);
        }
    }
    request
}

async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or(Value::Null))
}

fn refusal(error: CallError) -> (u16, String) {
    match error {
        CallError::Status { status, message } => (status, message),
        CallError::Transport { .. } | CallError::Timeout { .. } | CallError::BadBody { .. } => {
            panic!("{error}")
        }
    }
}

#[tokio::test]
async fn every_credential_is_asked_for_before_anything_else() {
    let simulator = simulator(quick()).await;
    let unauthorized = (401, json!({ "error": "Invalid or missing worker token" }));
    for without in ["authorization", wire::INSTANCE_NAME_HEADER, wire::MANAGED_SECRET_HEADER] {
        let request = request(&simulator, "POST", "/dequeue", without).body("not even JSON");
        assert_eq!(answer(request).await, unauthorized, "{without}");
    }
    for (name, value) in [
        ("authorization", "Bearer tr_wgt_another"),
        ("authorization", "Bearer another"),
        (wire::MANAGED_SECRET_HEADER, "another"),
    ] {
        let request = request(&simulator, "GET", "/runs/x/snapshots/latest", name).header(name, value);
        assert_eq!(answer(request).await, unauthorized, "{name}: {value}");
    }
    assert_eq!(simulator.counters().unauthorized, 6);
}

#[tokio::test]
async fn bodies_are_json_under_any_content_type() {
    let simulator = simulator(quick()).await;
    let post = |body: &'static str| {
        request(&simulator, "POST", "/connect", "").header("content-type", "text/plain").body(body)
    };
    assert_eq!(answer(post("{\"metadata\":{}}")).await.0, 200);
    assert_eq!(answer(post("{")).await, (500, json!({ "error": "Internal Server Error" })));
    let (status, body) = answer(post("{}")).await;
    assert_eq!((status, body["error"].as_str()), (400, Some("Body Error")));
    assert!(body["details"].is_array());
    let wrong_method = answer(request(&simulator, "GET", "/dequeue", "")).await;
    assert_eq!(wrong_method, (405, json!({ "error": "Method not allowed" })));
}

#[tokio::test]
async fn connect_and_heartbeat_answer_as_recorded() {
    let simulator = simulator(quick()).await;
    assert_eq!(client(&simulator).connect().await.unwrap().kind, "MANAGED");
    client(&simulator).heartbeat().await.unwrap();
}

#[tokio::test]
async fn a_dequeue_gives_one_message_or_none() {
    let simulator = simulator(quick()).await;
    let client = client(&simulator);
    assert!(client.dequeue().await.unwrap().is_empty());
    let runs = simulator.queue_runs(2);
    let messages = client.dequeue().await.unwrap();
    assert_eq!(messages.len(), 1);
    let dispatch = Dispatch::parse(messages[0].clone(), None).unwrap();
    assert_eq!(dispatch.run_id, runs[0]);
    let latest = simulator.latest_of(&runs[0]).await.unwrap();
    assert_eq!(latest.snapshot.friendly_id, dispatch.snapshot_id);
    assert_eq!(latest.snapshot.execution_status, "PENDING_EXECUTING");
    assert_eq!(latest.snapshot.description, "Run was dequeued for execution");
}

#[tokio::test]
async fn a_dequeue_blocks_until_a_run_is_queued() {
    let simulator = simulator(SimulatorOptions { dequeue_block: HOUR, ..quick() }).await;
    let client = client(&simulator);
    let (messages, run) = tokio::join!(client.dequeue(), async { simulator.queue_run() });
    let dispatch = Dispatch::parse(messages.unwrap().remove(0), None).unwrap();
    assert_eq!(dispatch.run_id, run);
}

#[tokio::test]
async fn latest_says_pending_and_leaves_absent_fields_out() {
    let simulator = simulator(quick()).await;
    let dispatch = dispatched(&simulator).await;
    let path = format!("/runs/{}/snapshots/latest", dispatch.run_id);
    let (status, body) = answer(request(&simulator, "GET", &path, "")).await;
    assert_eq!(status, 200);
    let execution = &body["execution"];
    assert_eq!(execution["version"], "1");
    assert_eq!(execution["completedWaitpoints"], json!([]));
    assert_eq!(execution["run"]["status"], "PENDING");
    for (object, field) in [("run", "attemptNumber"), ("run", "taskEventStore")] {
        assert!(execution[object].get(field).is_none(), "{field} must be absent, not null");
    }
    assert!(execution.get("checkpoint").is_none() && execution.get("batch").is_none());

    let observation = client(&simulator).latest_snapshot(&dispatch.run_id).await.unwrap();
    assert_eq!(observation.snapshot_id, dispatch.snapshot_id);
}

#[tokio::test]
async fn an_unknown_run_is_a_500_like_any_outage() {
    let simulator = simulator(quick()).await;
    let unknown = RunId::parse("run_unknown").unwrap();
    let observation = client(&simulator).latest_snapshot(&unknown).await;
    assert_eq!(observation, Err(ProbeFailure::ServerError { status: 500 }));
    for path in ["/runs/malformed/snapshots/latest", "/runs/run_unknown/snapshots/since/snapshot_x"] {
        let expected = (500, json!({ "error": "Internal Server Error" }));
        assert_eq!(answer(request(&simulator, "GET", path, "")).await, expected, "{path}");
    }
    let run = simulator.queue_run();
    let path = format!("/runs/{run}/snapshots/latest");
    let elsewhere = |name| request(&simulator, "GET", &path, "").header(wire::ENVIRONMENT_HEADER, name);
    assert_eq!(answer(elsewhere("another")).await.0, 500);
    assert_eq!(answer(elsewhere(" ")).await.0, 200, "a blank header counts as absent");
}

#[tokio::test]
async fn since_gives_newer_snapshots_oldest_first() {
    let simulator = simulator(quick()).await;
    let run = simulator.queue_run();
    let first = simulator.latest_of(&run).await.unwrap().snapshot.friendly_id;
    let dequeued = Dispatch::parse(simulator.dequeue_now().await.unwrap(), None).unwrap().snapshot_id;
    client(&simulator).start_attempt(&run, &dequeued, false).await.unwrap();
    let path = format!("/runs/{run}/snapshots/since/{first}");
    let (_, body) = answer(request(&simulator, "GET", &path, "")).await;
    let statuses: Vec<_> = body["snapshots"].as_array().unwrap().iter().collect();
    assert_eq!(statuses.len(), 2);
    assert_eq!(statuses[0]["snapshot"]["executionStatus"], "PENDING_EXECUTING");
    assert_eq!(statuses[1]["snapshot"]["executionStatus"], "EXECUTING");
}

#[tokio::test]
async fn of_two_starters_one_wins_and_the_other_gets_409() {
    let simulator = simulator(quick()).await;
    let (client, dispatch) = (client(&simulator), dispatched(&simulator).await);
    let start = |warm| client.start_attempt(&dispatch.run_id, &dispatch.snapshot_id, warm);
    let (first, second) = tokio::join!(start(true), start(true));
    let (won, lost) = if first.is_ok() { (first, second) } else { (second, first) };
    let (won, lost) = (won.unwrap(), lost.unwrap_err());
    assert_eq!(refusal(lost), (409, "Snapshot changed inside startRunAttempt".to_owned()));
    assert_eq!(won.run.attempt_number, Some(1));
    assert_eq!(won.snapshot.description, "Attempt created, starting execution (warm start)");
    assert_ne!(won.snapshot.friendly_id, dispatch.snapshot_id);

    let run = &dispatch.run_id;
    let done = || Completed::ok(run);
    let stale = client.complete_attempt(run, &dispatch.snapshot_id, done()).await.unwrap_err();
    assert_eq!(refusal(stale), (400, "Snapshot ID doesn't match the latest snapshot".to_owned()));
    let result = client.complete_attempt(run, &won.snapshot.friendly_id, done()).await.unwrap();
    assert_eq!(result.attempt_status, "RUN_FINISHED");
    let finished = &result.snapshot.friendly_id;
    let again = client.complete_attempt(run, finished, done()).await.unwrap_err();
    assert_eq!(refusal(again), (400, "Run is already finished".to_owned()));
    let late = client.start_attempt(run, finished, false).await.unwrap_err();
    assert_eq!(refusal(late), (400, "Task run is already finished".to_owned()));
    assert_eq!((simulator.counters().double_starts, simulator.counters().lost), (0, 0));
}

struct Completed;

impl Completed {
    fn ok(run: &RunId) -> wire::Completion {
        let output_type = Some("application/json".to_owned());
        wire::Completion { ok: true, id: run.to_string(), output_type, error: None, retry: None }
    }
}

#[tokio::test]
async fn a_failed_attempt_with_a_retry_is_queued_again() {
    let simulator = simulator(quick()).await;
    let (client, dispatch) = (client(&simulator), dispatched(&simulator).await);
    let run = &dispatch.run_id;
    let started = client.start_attempt(run, &dispatch.snapshot_id, false).await.unwrap();
    let retry = Some(wire::Retry { timestamp: 0.0, delay: 0.0 });
    let failed = wire::Completion { ok: false, error: Some(json!({})), retry, ..Completed::ok(run) };
    let result = client.complete_attempt(run, &started.snapshot.friendly_id, failed).await.unwrap();
    assert_eq!(result.attempt_status, "RETRY_QUEUED");
    assert_eq!(result.run.status, "RETRYING_AFTER_FAILURE");
    let message = simulator.core.engine.dequeue_within(HOUR).await.unwrap();
    let message: Value = serde_json::from_str(message.get()).unwrap();
    assert_eq!(message["run"]["attemptNumber"], 2);
}

#[tokio::test]
async fn a_start_before_any_dequeue_is_refused_and_an_unknown_run_is_a_500() {
    let simulator = simulator(quick()).await;
    let client = client(&simulator);
    let run = simulator.queue_run();
    let queued = simulator.latest_of(&run).await.unwrap().snapshot.friendly_id;
    let error = client.start_attempt(&run, &queued, false).await.unwrap_err();
    assert_eq!(refusal(error), (400, "Task run is not locked".to_owned()));

    let unknown = RunId::parse("run_unknown").unwrap();
    let error = client.start_attempt(&unknown, &queued, false).await.unwrap_err();
    assert_eq!(refusal(error), (500, "Internal Server Error".to_owned()));
    let path = format!("/runs/{unknown}/snapshots/{queued}/attempts/start");
    let within = request(&simulator, "POST", &path, "").header(wire::ENVIRONMENT_HEADER, "x").body("{}");
    assert_eq!(answer(within).await.0, 404);
}

#[tokio::test]
async fn a_run_that_is_never_started_is_requeued_and_fails_at_the_limit() {
    let options = SimulatorOptions { redrive: MS, delivery_limit: 2, ..quick() };
    let simulator = simulator(options).await;
    let first = dispatched(&simulator).await;
    let run = &first.run_id;
    simulator.wait_for_record(run, |record| record.redrives == 1).await;
    let latest = simulator.latest_of(run).await.unwrap();
    assert_eq!(latest.snapshot.execution_status, "QUEUED");
    assert_eq!(latest.snapshot.description, "Requeued the run after a failure");
    assert_eq!(latest.run.status, "PENDING");

    let message = simulator.core.engine.dequeue_within(HOUR).await.unwrap();
    let second = Dispatch::parse(message, None).unwrap();
    assert_eq!(second.run_id, *run);
    assert_ne!(second.snapshot_id, first.snapshot_id);
    let record = simulator.wait_for_record(run, |record| record.finished_at_ms.is_some()).await;
    assert_eq!(record.dispatches.len(), 2);
    let latest = simulator.latest_of(run).await.unwrap();
    assert_eq!(latest.snapshot.execution_status, "FINISHED");
    assert_eq!(latest.run.status, "SYSTEM_FAILURE");
    let counters = simulator.counters();
    assert_eq!((counters.dead_lettered, counters.lost), (1, 1));
}

#[tokio::test]
async fn a_cancelled_run_cannot_start_and_is_finished_by_force() {
    let simulator = simulator(SimulatorOptions { cancel_confirm: MS, ..quick() }).await;
    let dispatch = dispatched(&simulator).await;
    assert!(simulator.cancel_run(&dispatch.run_id).await);
    let error =
        client(&simulator).start_attempt(&dispatch.run_id, &dispatch.snapshot_id, true).await.unwrap_err();
    assert_eq!(refusal(error).0, 409);
    simulator.wait_for_record(&dispatch.run_id, |record| record.finished_at_ms.is_some()).await;
    let latest = simulator.latest_of(&dispatch.run_id).await.unwrap();
    assert_eq!(latest.snapshot.description, "Run was cancelled, not finished");
    assert_eq!(
        (latest.snapshot.execution_status.as_str(), latest.run.status.as_str()),
        ("FINISHED", "CANCELED")
    );
    assert!(!simulator.cancel_run(&dispatch.run_id).await);
    assert_eq!(simulator.counters().lost, 0, "a cancelled run is not lost");
}

#[tokio::test]
async fn a_run_being_cancelled_refuses_to_start() {
    let simulator = simulator(quick()).await;
    let run = dispatched(&simulator).await.run_id;
    assert!(simulator.cancel_run(&run).await);
    let latest = simulator.latest_of(&run).await.unwrap().snapshot;
    assert_eq!(latest.execution_status, "PENDING_CANCEL");
    let error = client(&simulator).start_attempt(&run, &latest.friendly_id, true).await.unwrap_err();
    assert_eq!(refusal(error), (400, "Task run is already finished".to_owned()));
}

#[tokio::test]
async fn a_probe_is_recorded_without_its_secrets() {
    let simulator = simulator(quick()).await;
    let dispatch = dispatched(&simulator).await;
    let client = client(&simulator);
    let (_, visit) =
        tokio::join!(client.latest_snapshot(&dispatch.run_id), simulator.wait_for_probe(&dispatch.run_id, 1));
    assert_eq!(visit.headers["authorization"], "(present)");
    assert_eq!(visit.headers[wire::MANAGED_SECRET_HEADER], "(present)");
    assert_eq!(visit.headers[wire::INSTANCE_NAME_HEADER], "node-a");
    assert!(visit.idempotency_key.is_some());
    client.latest_snapshot(&dispatch.run_id).await.unwrap();
    let second = simulator.wait_for_probe(&dispatch.run_id, 2).await;
    assert_ne!(second.idempotency_key, visit.idempotency_key);

    let url = format!("{}/simulator/probes?run={}&at_least=2", simulator.base_url(), dispatch.run_id);
    let (_, body) = answer(Client::without_credentials().unwrap().get(url)).await;
    assert_eq!(body["probes"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_token_of_another_form_does_not_start() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = SimulatorOptions { worker_token: "another".into(), ..quick() };
    let Err(error) = Simulator::start(listener, options) else { panic!("it started") };
    assert_eq!(error.to_string(), "the worker token must begin with `tr_wgt_`");
}

#[tokio::test]
async fn runs_are_queued_at_the_asked_rate_until_their_total() {
    let options = SimulatorOptions { queued_runs: 3, runs_per_second: Some(1000.0), ..quick() };
    let simulator = simulator(options).await;
    let counters = simulator.wait_for_counters(|counters| counters.queued >= 3).await;
    assert_eq!(counters.queued, 3);
}

#[tokio::test]
async fn a_shutdown_cuts_what_hangs() {
    let simulator = simulator(quick()).await;
    let run = dispatched(&simulator).await.run_id;
    simulator.faults().probe.add(Rule::always(ProbeFault::Hang));
    let client = client(&simulator);
    let (observation, ()) = tokio::join!(client.latest_snapshot(&run), async {
        simulator.wait_for_probe(&run, 1).await;
        simulator.shutdown().await;
    });
    assert!(matches!(observation, Err(ProbeFailure::Connection { .. })), "{observation:?}");
}

fn snapshot_of(run: &RunId, simulator: &Simulator) -> SnapshotId {
    simulator.record_of(run).unwrap().dispatches.last().unwrap().snapshot_id.clone()
}
