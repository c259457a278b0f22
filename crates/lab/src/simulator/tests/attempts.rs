//! The bodies of two routes that change a run: complete and run heartbeat.

use tokio::time::Instant;

use super::*;

#[tokio::test]
async fn a_completion_without_the_field_it_needs_is_a_body_error() {
    let simulator = simulator(quick()).await;
    let dispatch = dispatched(&simulator).await;
    let run = &dispatch.run_id;
    let started = client(&simulator).start_attempt(run, &dispatch.snapshot_id, false).await.unwrap();
    let path = format!("/runs/{run}/snapshots/{}/attempts/complete", started.snapshot.friendly_id);
    let complete = |completion: Value| {
        let body = json!({ "completion": completion }).to_string();
        answer(request(&simulator, "POST", &path, "").body(body))
    };
    for (completion, field) in [
        (json!({ "ok": true, "id": run }), "outputType"),
        (json!({ "ok": true, "id": run, "outputType": null }), "outputType"),
        (json!({ "ok": false, "id": run }), "error"),
        (json!({ "ok": false, "id": run, "outputType": "text/plain", "error": null }), "error"),
    ] {
        let (status, body) = complete(completion).await;
        assert_eq!((status, body["error"].as_str()), (400, Some("Body Error")), "{field}");
        assert_eq!(body["details"][0]["path"], json!(["completion", field]));
    }
    let latest = simulator.latest_of(run).await.unwrap();
    assert_eq!(latest.snapshot.friendly_id, started.snapshot.friendly_id, "nothing came of them");
    assert_eq!(complete(json!({ "ok": true, "id": run, "outputType": "text/plain" })).await.0, 200);
}

#[tokio::test]
async fn a_run_heartbeat_moves_the_redrive_of_the_latest_snapshot_only() {
    let simulator = simulator(SimulatorOptions { redrive: Duration::from_secs(1), ..quick() }).await;
    let dispatch = dispatched(&simulator).await;
    let (run, snapshot) = (&dispatch.run_id, dispatch.snapshot_id.as_str());
    let beat = |snapshot: &str| {
        let path = format!("/runs/{run}/snapshots/{snapshot}/heartbeat");
        answer(request(&simulator, "POST", &path, "").body("{\"cpu\":0.5}"))
    };
    let cell = simulator.core.engine.cell(run).unwrap();
    let armed = cell.lock().await.heartbeat_ends_at;

    assert_eq!(beat("snapshot_stale").await, (200, json!({ "ok": true })));
    assert_eq!(cell.lock().await.heartbeat_ends_at, armed, "a stale one is no error and moves nothing");
    assert_eq!(beat(snapshot).await, (200, json!({ "ok": true })));
    let moved = cell.lock().await.heartbeat_ends_at;
    assert!(moved > armed, "in any status");
    simulator.wait_for_record(run, |record| record.redrives == 1).await;
    assert!(Instant::now() >= moved, "the redrive waited for it");

    assert_eq!(beat(snapshot).await, (200, json!({ "ok": true })), "stale by now");
    let unknown = request(&simulator, "POST", "/runs/run_x/snapshots/snapshot_x/heartbeat", "").body("{}");
    assert_eq!(answer(unknown).await, (500, json!({ "error": "Internal Server Error" })));
}
