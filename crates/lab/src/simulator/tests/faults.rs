//! Fault switches: probes, starts, gateway.

use super::*;

async fn probe(simulator: &Simulator, run: &RunId) -> warmproof::domain::verdict::Observation {
    client(simulator).latest_snapshot(run).await
}

async fn control(simulator: &Simulator, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
    let url = format!("{}/simulator{path}", simulator.base_url());
    let mut request = Client::without_credentials().unwrap().request(method.parse().unwrap(), url);
    if let Some(body) = body {
        request = request.json(&body);
    }
    answer(request).await
}

#[tokio::test]
async fn every_probe_fault_is_seen_by_its_name() {
    let simulator = simulator(quick()).await;
    let run = dispatched(&simulator).await.run_id;
    let rate_limited = |reset_after_ms| ProbeFault::RateLimited { reset_after_ms };
    let cases = [
        (ProbeFault::Status { status: 500 }, "server_error"),
        (ProbeFault::Status { status: 503 }, "server_error"),
        (ProbeFault::Status { status: 404 }, "unexpected_status"),
        (rate_limited(Some(5000)), "rate_limited"),
        (rate_limited(None), "rate_limited"),
        (ProbeFault::Reset, "connection"),
        (ProbeFault::ResetMidBody, "connection"),
        (ProbeFault::InvalidJson, "invalid_json"),
        (ProbeFault::WrongSchema, "wrong_schema"),
    ];
    for (fault, name) in cases {
        simulator.faults().probe.add(Rule::always(fault.clone()).times(1));
        let failure = probe(&simulator, &run).await.expect_err("a failure").to_string();
        assert!(failure.starts_with(&format!("{name}:")), "{fault:?} gave {failure}");
    }
    assert!(probe(&simulator, &run).await.is_ok(), "each fault struck once");
    simulator.faults().probe.add(Rule::always(ProbeFault::Delay { delay_ms: 1 }).times(1));
    assert!(probe(&simulator, &run).await.is_ok());
}

#[tokio::test]
async fn a_429_tells_when_to_come_back() {
    let simulator = simulator(quick()).await;
    let run = dispatched(&simulator).await.run_id;
    let fault = ProbeFault::RateLimited { reset_after_ms: Some(30_000) };
    simulator.faults().probe.add(Rule::always(fault));
    let Err(ProbeFailure::RateLimited { reset_after: Some(after) }) = probe(&simulator, &run).await else {
        panic!("the answer named no wait");
    };
    // The answer's `Date` has only whole seconds.
    assert!((Duration::from_secs(28)..=Duration::from_secs(32)).contains(&after), "{after:?}");
}

#[tokio::test]
async fn a_fault_strikes_its_run_its_times_or_its_share() {
    let simulator = simulator(quick()).await;
    let (one, other) = (dispatched(&simulator).await.run_id, dispatched(&simulator).await.run_id);
    let faults = &simulator.faults().probe;
    faults.add(Rule::always(ProbeFault::InvalidJson).of(&one).times(2));
    assert!(probe(&simulator, &other).await.is_ok());
    assert!(probe(&simulator, &one).await.is_err());
    assert!(probe(&simulator, &one).await.is_err());
    assert!(probe(&simulator, &one).await.is_ok());
    faults.add(Rule::always(ProbeFault::InvalidJson).share(0.0));
    assert!(probe(&simulator, &one).await.is_ok());
    faults.add(Rule::always(ProbeFault::InvalidJson).share(1.0));
    assert!(probe(&simulator, &one).await.is_err());
    faults.clear();
    assert!(faults.rules().is_empty());
}

#[test]
fn a_share_is_repeated_by_its_seed() {
    let strikes = |seed| {
        let faults = Faults::seeded(seed);
        faults.probe.add(Rule::always(ProbeFault::Hang).share(0.5));
        (0..64).map(|_| faults.probe.strike("run_a").is_some()).collect::<Vec<_>>()
    };
    assert_eq!(strikes(7), strikes(7));
    assert_ne!(strikes(7), strikes(8));
}

#[tokio::test]
async fn a_hanging_probe_can_be_seen_and_released_from_another_process() {
    let simulator = simulator(quick()).await;
    let run = dispatched(&simulator).await.run_id;
    let rule = json!({ "fault": { "kind": "hang" }, "run": run, "times": 1 });
    assert_eq!(control(&simulator, "POST", "/faults/probe", Some(rule)).await.0, 204);
    let (observation, ()) = tokio::join!(probe(&simulator, &run), async {
        let path = format!("/probes?run={run}&hanging=true&at_least=1&wait_ms=60000");
        let (_, body) = control(&simulator, "GET", &path, None).await;
        assert_eq!(body["probes"][0]["state"], "hanging");
        assert_eq!(control(&simulator, "POST", "/faults/release", None).await.0, 204);
    });
    assert!(observation.is_ok(), "released, it is answered as if nothing had happened");
    let visit = simulator.probes(&run).remove(0);
    assert_eq!(visit.state, VisitState::Answered(200));
}

#[tokio::test]
async fn a_prober_that_gives_up_is_seen_to_leave() {
    let simulator = simulator(quick()).await;
    let run = dispatched(&simulator).await.run_id;
    simulator.faults().probe.add(Rule::always(ProbeFault::Hang));
    tokio::select! {
        _ = probe(&simulator, &run) => panic!("it was answered"),
        visit = simulator.wait_for_probe(&run, 1) => assert_eq!(visit.state, VisitState::Hanging),
    }
    let left =
        || simulator.probes(&run).first().filter(|visit| visit.state == VisitState::Abandoned).cloned();
    simulator.core.changes.until(left).await;
}

#[tokio::test]
async fn a_start_whose_answer_is_lost_was_committed() {
    let simulator = simulator(quick()).await;
    let dispatch = dispatched(&simulator).await;
    let (run, snapshot) = (&dispatch.run_id, &dispatch.snapshot_id);
    simulator.faults().start.add(Rule::always(StartFault::LoseAnswer).of(run).times(1));
    let client = client(&simulator);
    let error = client.start_attempt(run, snapshot, true).await.unwrap_err();
    assert!(matches!(error, CallError::Transport { .. }), "{error}");
    assert_eq!(simulator.latest_of(run).await.unwrap().snapshot.execution_status, "EXECUTING");
    let again = client.start_attempt(run, snapshot, true).await.unwrap_err();
    assert_eq!(refusal(again).0, 409, "there is no idempotent replay");
    let counters = simulator.counters();
    assert_eq!((counters.start_answers_lost, counters.lost), (1, 1), "committed, and no runner executes it");
}

fn create(simulator: &Simulator, name: &str, run: &RunId) -> reqwest::RequestBuilder {
    let snapshot = snapshot_of(run, simulator);
    let body = json!({
        "name": name,
        "image": "registry.example/image:1",
        "env": { "TRIGGER_RUN_ID": run, "TRIGGER_SNAPSHOT_ID": snapshot },
        "cpu": 0.5,
        "memory_gb": 0.5
    });
    let url = format!("{}/api/instances", simulator.base_url());
    Client::without_credentials().unwrap().post(url).json(&body)
}

#[tokio::test]
async fn a_created_instance_starts_its_run_cold_and_owns_its_name() {
    let simulator = simulator(quick()).await;
    let run = dispatched(&simulator).await.run_id;
    let (status, body) = answer(create(&simulator, "runner-a", &run)).await;
    assert_eq!(status, 201);
    assert!(body["id"].is_string());
    let record = simulator.wait_for_record(&run, |record| record.finished_at_ms.is_some()).await;
    assert_eq!(record.dispatches[0].start_kind, Some(StartKind::Cold));
    assert_eq!((record.executions, record.creates), (1, 1));
    // It now polls for warm starts like any other runner, and still owns its name.
    simulator.wait_for_pollers(1).await;
    assert_eq!(answer(create(&simulator, "runner-a", &run)).await.0, 409);
    let url = format!("{}/api/instances/runner-a", simulator.base_url());
    let delete = || Client::without_credentials().unwrap().delete(&url);
    assert_eq!(answer(delete()).await.0, 204);
    assert_eq!(answer(delete()).await.0, 404);
}

#[tokio::test]
async fn gateway_faults_have_their_effect_and_their_answer() {
    let simulator = simulator(quick()).await;
    let status = |status| GatewayAnswer::Status { status };
    let cases = [
        (GatewayEffect::None, 500, 201),
        (GatewayEffect::None, 503, 201),
        (GatewayEffect::None, 504, 201),
        (GatewayEffect::Created, 502, 409),
        (GatewayEffect::Created, 202, 409),
        (GatewayEffect::NameOnly, 500, 409),
    ];
    for (index, (effect, answered, then)) in cases.into_iter().enumerate() {
        let run = dispatched(&simulator).await.run_id;
        let name = format!("runner-{index}");
        let fault = GatewayFault { effect, answer: status(answered) };
        simulator.faults().gateway.add(Rule::always(fault).times(1));
        assert_eq!(answer(create(&simulator, &name, &run)).await.0, answered);
        assert_eq!(answer(create(&simulator, &name, &run)).await.0, then, "{effect:?} {answered}");
        if effect == GatewayEffect::NameOnly {
            assert_eq!(simulator.record_of(&run).unwrap().creates, 0);
        } else {
            simulator.wait_for_record(&run, |record| record.executions == 1).await;
        }
    }
    let run = dispatched(&simulator).await.run_id;
    let fault = GatewayFault { effect: GatewayEffect::None, answer: GatewayAnswer::Reset };
    simulator.faults().gateway.add(Rule::always(fault).times(1));
    assert!(create(&simulator, "runner-reset", &run).send().await.is_err());
}

#[tokio::test]
async fn a_create_can_hang_before_or_after_its_effect() {
    for effect in [GatewayEffect::None, GatewayEffect::Created] {
        let simulator = simulator(quick()).await;
        let run = dispatched(&simulator).await.run_id;
        let rule = json!({ "fault": { "effect": effect, "answer": { "kind": "hang" } } });
        assert_eq!(control(&simulator, "POST", "/faults/gateway", Some(rule)).await.0, 204);
        let (answered, ()) = tokio::join!(answer(create(&simulator, "runner-a", &run)), async {
            let path = format!("/instances?run={run}&hanging=true&at_least=1&wait_ms=60000");
            let (_, body) = control(&simulator, "GET", &path, None).await;
            let expected = if effect == GatewayEffect::Created { json!(["runner-a"]) } else { json!([]) };
            assert_eq!(body["names"], expected);
            simulator.faults().release();
        });
        assert_eq!(answered.0, 201);
    }
}
