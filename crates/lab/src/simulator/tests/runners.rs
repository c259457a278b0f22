//! Broker and runners: which poller gets a message, and what happens to the message.

use futures_util::FutureExt;

use super::*;

/// Dequeues the next run and offers it to the broker, as a supervisor does.
async fn offer(simulator: &Simulator) -> (Dispatch, bool) {
    let dispatch = dispatched(simulator).await;
    let warm = offer_again(simulator, &dispatch).await;
    (dispatch, warm)
}

async fn offer_again(simulator: &Simulator, dispatch: &Dispatch) -> bool {
    let body = wire::WarmStartRequest { dequeued_message: dispatch.message.clone() };
    let url = format!("{}/warm-start", simulator.base_url());
    let (status, body) = answer(Client::without_credentials().unwrap().post(url).json(&body)).await;
    assert_eq!(status, 200);
    body["didWarmStart"].as_bool().unwrap()
}

async fn with_runner(kind: RunnerKind) -> Simulator {
    let simulator = simulator(quick()).await;
    simulator.spawn_runner(kind);
    simulator.wait_for_pollers(1).await;
    simulator
}

#[tokio::test]
async fn without_a_poller_nothing_is_warm_started() {
    let simulator = simulator(quick()).await;
    let (dispatch, warm) = offer(&simulator).await;
    assert!(!warm);
    assert_eq!(simulator.record_of(&dispatch.run_id).unwrap().dispatches[0].hit_at_ms, None);
    assert_eq!((simulator.counters().hits, simulator.counters().misses), (0, 1));
}

#[tokio::test]
async fn a_live_runner_announces_itself_starts_completes_and_polls_again() {
    let simulator = with_runner(RunnerKind::Live).await;
    let mut connected = simulator.connected();
    let (dispatch, warm) = offer(&simulator).await;
    assert!(warm);
    let announced = connected.recv().await.unwrap();
    assert_eq!(announced, RunConnected { run: dispatch.run_id.clone(), snapshot: dispatch.snapshot_id });
    let record = simulator.wait_for_record(&dispatch.run_id, |record| record.finished_at_ms.is_some()).await;
    let truth = &record.dispatches[0];
    assert_eq!(truth.start_kind, Some(StartKind::Warm));
    assert!(truth.hit_at_ms.is_some() && truth.started_at_ms.is_some() && !truth.silently_lost);
    simulator.wait_for_pollers(1).await;
    let (second, warm) = offer(&simulator).await;
    assert!(warm);
    simulator.wait_for_record(&second.run_id, |record| record.executions == 1).await;
}

#[tokio::test]
async fn a_slow_runner_announces_itself_before_it_starts() {
    let simulator = with_runner(RunnerKind::Slow).await;
    simulator.faults().start.add(Rule::always(StartFault::Hang).times(1));
    let mut connected = simulator.connected();
    let (dispatch, warm) = offer(&simulator).await;
    assert!(warm);
    connected.recv().await.unwrap();
    assert_eq!(
        simulator.latest_of(&dispatch.run_id).await.unwrap().snapshot.friendly_id,
        dispatch.snapshot_id
    );
}

#[tokio::test]
async fn a_silently_dead_runner_is_a_hit_that_no_runner_acts_on() {
    let simulator = with_runner(RunnerKind::SilentlyDead).await;
    let (dispatch, warm) = offer(&simulator).await;
    assert!(warm);
    let record = simulator.record_of(&dispatch.run_id).unwrap();
    assert!(record.dispatches[0].silently_lost);
    assert_eq!(record.dispatches[0].hit_kind, Some(RunnerKind::SilentlyDead));
    assert_eq!((simulator.counters().silently_lost, simulator.counters().lost), (1, 1));
    assert!(!offer(&simulator).await.1, "a dead runner never polls again");
}

#[tokio::test]
async fn an_abort_that_crosses_loses_the_message_and_not_the_runner() {
    let simulator = with_runner(RunnerKind::AbortCrossing).await;
    let (dispatch, warm) = offer(&simulator).await;
    assert!(warm);
    assert!(simulator.record_of(&dispatch.run_id).unwrap().dispatches[0].silently_lost);
    simulator.wait_for_pollers(1).await;
    assert!(offer(&simulator).await.1);
}

#[tokio::test]
async fn a_message_delivered_twice_is_executed_once() {
    let simulator = with_runner(RunnerKind::Duplicating).await;
    simulator.spawn_runner(RunnerKind::Live);
    simulator.wait_for_pollers(2).await;
    let (dispatch, warm) = offer(&simulator).await;
    assert!(warm);
    let counters = simulator.wait_for_counters(|counters| counters.starts_refused == 1).await;
    assert_eq!((counters.duplicate_deliveries, counters.starts_granted), (1, 1));
    let record = simulator.wait_for_record(&dispatch.run_id, |record| record.finished_at_ms.is_some()).await;
    assert_eq!(record.executions, 1);
    // The loser does not exit: both poll again.
    simulator.wait_for_pollers(2).await;
    assert_eq!(simulator.counters().double_starts, 0);
}

#[tokio::test]
async fn a_loser_that_asks_on_is_refused_thirty_times_and_polls_again() {
    let simulator = simulator(SimulatorOptions { loser: Loser::AsksOn, ..quick() }).await;
    simulator.spawn_runner(RunnerKind::Duplicating);
    simulator.spawn_runner(RunnerKind::Live);
    simulator.wait_for_pollers(2).await;
    let (dispatch, _) = offer(&simulator).await;
    simulator.wait_for_counters(|counters| counters.starts_refused == 30).await;
    simulator.wait_for_pollers(2).await;
    let counters = simulator.counters();
    assert_eq!((counters.starts_granted, counters.starts_refused, counters.double_starts), (1, 30, 0));
    assert_eq!(simulator.record_of(&dispatch.run_id).unwrap().executions, 1);
}

#[tokio::test]
async fn every_runner_that_announces_itself_is_a_line_for_each_listener() {
    let simulator = with_runner(RunnerKind::Live).await;
    let url = |path| format!("{}{path}", simulator.base_url());
    let http = Client::without_credentials().unwrap();
    let mut lines = http.get(url("/simulator/connected")).send().await.unwrap();
    let (warm, _) = offer(&simulator).await;
    simulator.wait_for_record(&warm.run_id, |record| record.executions == 1).await;
    let cold = dispatched(&simulator).await;
    let env = json!({ "TRIGGER_RUN_ID": cold.run_id, "TRIGGER_SNAPSHOT_ID": cold.snapshot_id });
    let body = json!({ "name": "runner-a", "image": "registry.example/image:1", "env": env });
    assert_eq!(answer(http.post(url("/api/instances")).json(&body)).await.0, 201);

    let mut heard = String::new();
    while heard.matches('\n').count() < 2 {
        heard += std::str::from_utf8(&lines.chunk().await.unwrap().unwrap()).unwrap();
    }
    let heard: Vec<Value> = heard.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let line = |dispatch: &Dispatch| json!({ "run": dispatch.run_id, "snapshot": dispatch.snapshot_id });
    assert_eq!(heard, [line(&warm), line(&cold)], "also one that was created for its run");
}

#[tokio::test]
async fn a_runner_that_dies_after_its_announcement_never_starts() {
    let simulator = with_runner(RunnerKind::DiesConnected).await;
    let mut connected = simulator.connected();
    let (dispatch, warm) = offer(&simulator).await;
    assert!(warm);
    assert_eq!(connected.recv().await.unwrap().run, dispatch.run_id);
    assert!(simulator.record_of(&dispatch.run_id).unwrap().dispatches[0].silently_lost);
    assert_eq!(simulator.counters().starts_granted, 0);
}

#[tokio::test]
async fn a_runner_repeats_a_poll_that_timed_out() {
    let options = SimulatorOptions { connection_timeout: MS, ..quick() };
    let simulator = simulator(options).await;
    simulator.spawn_runner(RunnerKind::Live);
    simulator.wait_for_pollers(1).await;
    simulator.core.changes.until(|| (simulator.core.broker.waiting() == 0).then_some(())).await;
    simulator.wait_for_pollers(1).await;
}

#[tokio::test]
async fn a_message_that_crosses_the_timeout_of_its_poll_is_silently_lost() {
    let simulator = simulator(quick()).await;
    let broker = &simulator.core.broker;
    let open = broker.open();
    let mut poll = std::pin::pin!(broker.poll(Some(open.key), Some(RunnerKind::Live)));
    assert!(poll.as_mut().now_or_never().is_none());
    let (dispatch, warm) = offer(&simulator).await;
    assert!(warm);
    let truth = || simulator.record_of(&dispatch.run_id).unwrap().dispatches[0].silently_lost;
    assert!(!truth(), "it is still on its way");
    assert!(poll.now_or_never().flatten().is_some(), "the broker has written its answer");
    drop(open);
    assert!(truth(), "and the runner had left");
    assert_eq!((simulator.counters().hits, simulator.counters().silently_lost), (1, 1));
}

#[tokio::test]
async fn a_message_for_a_runner_that_left_before_its_connection_ended_is_silently_lost() {
    let simulator = simulator(quick()).await;
    let broker = &simulator.core.broker;
    let left = broker.open().key;
    for key in [Some(left), None] {
        let (dispatch, warm) = {
            let mut poll = Box::pin(broker.poll(key, None));
            assert!(poll.as_mut().now_or_never().is_none());
            offer(&simulator).await
        };
        assert!(warm);
        assert!(simulator.record_of(&dispatch.run_id).unwrap().dispatches[0].silently_lost, "{key:?}");
    }
    assert_eq!(simulator.counters().silently_lost, 2);
}

#[tokio::test]
async fn a_duplicate_is_lost_with_its_last_copy() {
    let simulator = simulator(quick()).await;
    let broker = &simulator.core.broker;
    let (first, second) = (broker.open(), broker.open());
    let mut poll = std::pin::pin!(broker.poll(Some(first.key), Some(RunnerKind::Duplicating)));
    assert!(poll.as_mut().now_or_never().is_none());
    let (dispatch, _) = offer(&simulator).await;
    assert!(broker.poll(Some(second.key), None).now_or_never().flatten().is_some(), "it gets the spare copy");
    let truth = || simulator.record_of(&dispatch.run_id).unwrap().dispatches[0].silently_lost;
    drop(first);
    assert!(!truth());
    drop(second);
    assert!(truth());
    assert_eq!((simulator.counters().duplicate_deliveries, simulator.counters().silently_lost), (1, 1));
}

#[tokio::test]
async fn with_polls_that_time_out_all_the_time_every_hit_is_executed_or_known_to_be_lost() {
    let options = SimulatorOptions { connection_timeout: MS, runners: 4, ..quick() };
    let simulator = simulator(options).await;
    for _ in 0..200 {
        offer(&simulator).await;
    }
    let settled = |counters: &Counters| counters.warm_starts + counters.silently_lost == counters.hits;
    let counters = simulator.wait_for_counters(settled).await;
    assert_eq!((counters.hits + counters.misses, counters.double_starts), (200, 0));
}

#[tokio::test]
async fn the_poll_is_answered_with_the_message_itself() {
    let simulator = simulator(quick()).await;
    let poll = Client::without_credentials().unwrap().get(format!("{}/warm-start", simulator.base_url()));
    let ((status, message), dispatch) = tokio::join!(answer(poll), async {
        simulator.wait_for_pollers(1).await;
        offer(&simulator).await.0
    });
    assert_eq!(status, 200);
    assert_eq!(message, serde_json::from_str::<Value>(dispatch.message.get()).unwrap());
}

#[tokio::test]
async fn a_second_execution_of_a_dispatch_is_counted_without_the_guard() {
    let simulator = simulator(quick()).await;
    let dispatch = dispatched(&simulator).await;
    let began = || {
        simulator.core.ledger.execution_began(&dispatch.run_id, &dispatch.snapshot_id, StartKind::Warm);
        simulator.counters().double_starts
    };
    assert_eq!(began(), 0);
    assert_eq!(began(), 1);
    assert_eq!(simulator.record_of(&dispatch.run_id).unwrap().dispatches[0].executions, 2);
}

#[tokio::test]
async fn a_pool_with_shares_loses_its_share_and_keeps_its_size() {
    let shares = Shares { silently_dead: 0.5, ..Shares::default() };
    let options = SimulatorOptions { runners: 4, shares, seed: 7, ..quick() };
    let simulator = simulator(options).await;
    for _ in 0..40 {
        simulator.wait_for_pollers(4).await;
        assert!(offer(&simulator).await.1);
    }
    let counters =
        simulator.wait_for_counters(|counters| counters.warm_starts + counters.silently_lost == 40).await;
    assert!((8..=32).contains(&counters.silently_lost), "{counters:?}");
    assert_eq!(counters.double_starts, 0);
    let report = simulator.report();
    assert_eq!(report.runs.len(), 40);
    let url = format!("{}/simulator/report", simulator.base_url());
    let (_, body) = answer(Client::without_credentials().unwrap().get(url)).await;
    assert_eq!(body["runs"].as_array().unwrap().len(), 40);
}
