use super::*;

const FRESH: &str = include_str!("../../../tests/fixtures/dequeued-message.fresh.json");
const RETRY: &str = include_str!("../../../tests/fixtures/dequeued-message.retry-scheduled.json");

fn parse(json: &str) -> Result<Dispatch, MessageError> {
    Dispatch::parse(RawValue::from_string(json.to_owned()).expect("the test's JSON"), None)
}

fn changed(pointer: &str, value: serde_json::Value) -> Result<Dispatch, MessageError> {
    let mut message: serde_json::Value = serde_json::from_str(FRESH).expect("the fixture");
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    let parent = message.pointer_mut(parent).and_then(serde_json::Value::as_object_mut).expect("an object");
    if value.is_null() {
        parent.remove(key);
    } else {
        parent.insert(key.to_owned(), value);
    }
    parse(&message.to_string())
}

#[test]
fn a_dispatch_keeps_the_message_byte_for_byte() {
    let dispatch = parse(FRESH).expect("the fixture");
    assert_eq!(dispatch.run_id.as_str(), "run_06n8r0j5c2p5ve1k3m7qfa9he1");
    assert_eq!(dispatch.snapshot_id.as_str(), "snapshot_cmelv0q2h000408l2dyx4b7nk");
    assert_eq!(dispatch.dequeued_at.to_rfc3339(), "2026-08-21T18:27:52.114+00:00");
    assert_eq!(dispatch.deployment_version.as_deref(), Some("20260821.3"));
    assert_eq!(dispatch.message.get(), FRESH.trim());
}

#[test]
fn a_fault_is_named_by_its_field() {
    let cases = [
        ("/snapshot/friendlyId", serde_json::Value::Null, "snapshot"),
        ("/snapshot/friendlyId", "snapshot_a-b".into(), "snapshot.friendlyId"),
        ("/run/friendlyId", "run_a_b".into(), "run.friendlyId"),
        ("/run/friendlyId", "run_a\0b".into(), "run.friendlyId"),
        ("/dequeuedAt", "yesterday".into(), "dequeuedAt"),
        ("/backgroundWorker/version", "1\0".into(), "backgroundWorker.version"),
        ("/version", "2".into(), "version"),
    ];
    for (pointer, value, field) in cases {
        let error = changed(pointer, value).expect_err(pointer);
        assert_eq!(error.field, field, "{error}");
        assert!(!error.problem.contains("line"), "{error}");
    }
}

#[test]
fn a_missing_field_is_named_in_the_problem() {
    let error = changed("/snapshot/friendlyId", serde_json::Value::Null).expect_err("no snapshot id");
    assert_eq!(error.to_string(), "`snapshot`: missing field `friendlyId`");
}

#[test]
fn a_trace_context_that_is_not_w3c_is_left_out() {
    let dispatch =
        changed("/run/traceContext", serde_json::json!({"traceparent": 7})).expect("still a dispatch");
    assert_eq!(dispatch.traceparent, None);
    assert_eq!(
        trace_id("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        Some("0af7651916cd43dd8448eb211c80319c")
    );
    assert_eq!(trace_id("00-00000000000000000000000000000000-b7ad6b7169203331-01"), None);
    assert_eq!(trace_id("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), None);
}

#[test]
fn a_workload_is_named_from_its_dispatch() {
    let fresh = ColdStartRequest::parse(FRESH).expect("the fixture");
    assert_eq!(fresh.workload_name(), "runner-06n8r0j5c2p5ve1k3m7qfa9he1-dyx4b7nk");
    let retry = ColdStartRequest::parse(RETRY).expect("the fixture");
    assert_eq!(retry.workload_name(), "runner-cmelv0a1u000108l25y7f9kme-attempt-3-p7qk3h5s");
    assert!(retry.checkpoint.is_some());
}
