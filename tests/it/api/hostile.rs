//! Every request is answered with a 2xx or a 4xx: a caller cannot make the API fail.

use proptest::prelude::*;
use serde_json::{Value, json};

use warmproof_testkit::api::{api, hit};

/// A value in the place of another one.
fn odd_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!(null)),
        Just(json!({})),
        Just(json!([])),
        any::<bool>().prop_map(|b| json!(b)),
        any::<i64>().prop_map(|n| json!(n)),
        any::<u64>().prop_map(|n| json!(n)),
        any::<f64>().prop_map(|n| json!(n)),
        ".{0,12}".prop_map(|text| json!(text)),
        Just(json!("\u{0}")),
        Just(json!("run_a\u{0}b")),
        Just(json!("run_zzz")),
        Just(json!("snapshot_zzz")),
        Just(json!("+012345-01-01T00:00:00Z")),
        Just(json!("0000-01-01T00:00:00Z")),
        Just(json!("9999-12-31T23:59:60.999999999+23:59")),
        Just(json!("0001-01-01T00:00:00+23:59")),
        Just(json!(i64::MIN)),
        Just(json!(1e308)),
        Just(json!("x".repeat(300))),
        Just(json!("default")),
        Just(json!("\u{feff}\u{10ffff}")),
    ]
}

#[derive(Debug, Clone)]
enum Mutation {
    /// Put a value in some place.
    Replace { place: usize, value: Value },
    /// Leave some place out.
    Remove { place: usize },
    /// Add a key to some object.
    Add { place: usize, key: String, value: Value },
    /// Cut the text.
    Cut { at: usize },
    /// Change one byte.
    Flip { at: usize, byte: u8 },
    /// Put it into an array with itself.
    Twice,
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let place = 0usize..200;
    prop_oneof![
        6 => (place.clone(), odd_value()).prop_map(|(place, value)| Mutation::Replace { place, value }),
        3 => place.clone().prop_map(|place| Mutation::Remove { place }),
        2 => (place, "[a-z_.\\[\\]/~]{0,8}", odd_value())
            .prop_map(|(place, key, value)| Mutation::Add { place, key, value }),
        1 => (0usize..2000).prop_map(|at| Mutation::Cut { at }),
        2 => (0usize..2000, any::<u8>()).prop_map(|(at, byte)| Mutation::Flip { at, byte }),
        1 => Just(Mutation::Twice),
    ]
}

/// Pointers to everything inside a value.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                let key = key.replace('~', "~0").replace('/', "~1");
                places(inner, &format!("{at}/{key}"), found);
            }
        }
        Value::Array(list) => {
            for (index, inner) in list.iter().enumerate() {
                places(inner, &format!("{at}/{index}"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn mutate(mut body: Value, mutations: &[Mutation]) -> Vec<u8> {
    let mut cuts: Vec<&Mutation> = Vec::new();
    for mutation in mutations {
        let mut found = Vec::new();
        places(&body, "", &mut found);
        let at = |place: &usize| found[place % found.len()].clone();
        match mutation {
            Mutation::Replace { place, value } => {
                *body.pointer_mut(&at(place)).expect("a place") = value.clone();
            }
            Mutation::Remove { place } => {
                let at = at(place);
                if let Some((parent, key)) = at.rsplit_once('/')
                    && let Some(map) = body.pointer_mut(parent).and_then(Value::as_object_mut)
                {
                    map.remove(key);
                }
            }
            Mutation::Add { place, key, value } => {
                if let Some(map) = body.pointer_mut(&at(place)).and_then(Value::as_object_mut) {
                    map.insert(key.clone(), value.clone());
                }
            }
            Mutation::Twice => body = json!([body.clone(), body]),
            Mutation::Cut { .. } | Mutation::Flip { .. } => cuts.push(mutation),
        }
    }
    let mut bytes = body.to_string().into_bytes();
    for cut in cuts {
        match cut {
            Mutation::Cut { at } => bytes.truncate(*at),
            Mutation::Flip { at, byte } => {
                let length = bytes.len().max(1);
                if let Some(place) = bytes.get_mut(at % length) {
                    *place = *byte;
                }
            }
            Mutation::Replace { .. } | Mutation::Remove { .. } | Mutation::Add { .. } | Mutation::Twice => {}
        }
    }
    bytes
}

fn requests() -> impl Strategy<Value = Vec<(bool, Vec<Mutation>)>> {
    prop::collection::vec((any::<bool>(), prop::collection::vec(mutation(), 1..4)), 60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn no_request_makes_the_api_fail(requests in requests()) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let api = api().await;
            for (schedules, mutations) in requests {
                let (path, valid) = if schedules {
                    let mut body = hit("run_a", "snapshot_a");
                    for (key, value) in [("delay_ms", json!(1000)), ("pool", json!("default"))] {
                        body[key] = value;
                    }
                    body["timings"] = json!({"a": 1});
                    body["supervisor"] = json!("s");
                    body["region"] = json!("r");
                    ("/v1/verifications", body)
                } else {
                    let body = json!({"run_id": "run_a", "snapshot_id": "snapshot_a", "reason": "miss"});
                    ("/v1/cancellations", body)
                };
                let body = mutate(valid, &mutations);
                let answer = api.post(path, body.clone()).await;
                let sent = String::from_utf8_lossy(&body);
                assert!(
                    answer.status.is_success() || answer.status.is_client_error(),
                    "{} for {sent}", answer.status
                );
                if answer.status.is_client_error() {
                    let _ = answer.problem();
                }
            }
            api.db.assert_conserved().await;
            api.db.store.close().await;
        });
    }
}
