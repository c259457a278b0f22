//! Every message has what the contract requires, and some have what it allows.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;

/// The fields that every message has, in the notation of JSON pointers.
const REQUIRED: [&str; 26] = [
    "/version",
    "/dequeuedAt",
    "/snapshot/id",
    "/snapshot/friendlyId",
    "/snapshot/executionStatus",
    "/snapshot/description",
    "/snapshot/createdAt",
    "/completedWaitpoints",
    "/backgroundWorker/id",
    "/backgroundWorker/friendlyId",
    "/backgroundWorker/version",
    "/deployment",
    "/run/id",
    "/run/friendlyId",
    "/run/isTest",
    "/run/isReplay",
    "/run/machine/name",
    "/run/machine/cpu",
    "/run/machine/memory",
    "/run/machine/centsPerMs",
    "/run/attemptNumber",
    "/run/masterQueue",
    "/run/traceContext/traceparent",
    "/environment/type",
    "/organization/id",
    "/project/id",
];

/// The optional fields of a message.
const OPTIONAL: [&str; 11] = [
    "/workerQueueLength",
    "/backgroundWorker/runtime",
    "/deployment/imagePlatform",
    "/run/traceContext/tracestate",
    "/run/annotations",
    "/run/annotations/rootScheduleId",
    "/run/annotations/taskKind",
    "/run/annotations/externalDeploymentId",
    "/organization/hasPrivateLink",
    "/placementTags",
    "/completedWaitpoints/0",
];

#[test]
fn the_same_seed_makes_the_same_samples_and_another_seed_makes_others() {
    let some = |seed| samples(seed).take(20).collect::<Vec<_>>();
    assert_eq!(some(1), some(1));
    assert_ne!(some(1), some(2));
}

#[test]
fn every_sample_is_json_with_the_required_fields() {
    for sample in samples(1).take(500) {
        let message: Value = serde_json::from_str(&sample).expect("JSON");
        for field in REQUIRED {
            assert!(message.pointer(field).is_some_and(|value| !value.is_null()), "{field}: {sample}");
        }
        for waitpoint in message["completedWaitpoints"].as_array().expect("an array") {
            for field in ["id", "friendlyId", "type", "completedAt", "outputIsError"] {
                assert!(waitpoint.get(field).is_some(), "{field}: {sample}");
            }
            let output = waitpoint.get("output").and_then(Value::as_str).unwrap_or("{}");
            assert!(serde_json::from_str::<Value>(output).is_ok(), "{output}");
        }
    }
}

#[test]
fn an_optional_field_is_in_some_samples_and_absent_from_others() {
    let messages: Vec<Value> =
        samples(1).take(200).map(|sample| serde_json::from_str(&sample).expect("JSON")).collect();
    for field in OPTIONAL {
        let with = messages.iter().filter(|message| message.pointer(field).is_some()).count();
        assert!(with > 0 && with < messages.len(), "{field} is in {with}");
    }
    let firsts = messages.iter().filter_map(|message| message["completedWaitpoints"][0].as_object());
    let of_waitpoints: BTreeSet<&String> = firsts.flat_map(serde_json::Map::keys).collect();
    assert_eq!(of_waitpoints.len(), 12, "{of_waitpoints:?}");
}

#[test]
fn fields_come_in_the_platforms_order() {
    let sample = samples(1).next().expect("a sample");
    let order = ["version", "dequeuedAt", "snapshot", "image", "backgroundWorker", "run", "environment"];
    let places = order.map(|name| sample.find(&format!("\"{name}\":")).expect("the field"));
    assert!(places.is_sorted(), "{sample}");
}
