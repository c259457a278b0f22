//! Bad requests: each gets a 4xx that names the field, and writes nothing.

use serde_json::{Value, json};

use warmproof_testkit::api::{Api, api, hit};

/// Sends a bad element alone, and as the fourth of five: both are refused, and nothing is written for the other four.
async fn assert_refused(api: &Api, bad: &Value, field: &str) {
    let before = api.rows().await;
    let answer = api.schedule(bad).await;
    assert_eq!(answer.fields(), [field], "{bad}");
    let good: Vec<Value> = (0..4).map(|n| hit(&format!("run_good{n}"), "snapshot_g")).collect();
    let batch = json!([good[0], good[1], good[2], bad, good[3]]);
    assert_eq!(api.schedule(&batch).await.fields(), [format!("/3{field}")], "{bad}");
    assert_eq!(api.rows().await, before, "something was written for {bad}");
}

fn with(pointer: &str, value: Value) -> Value {
    let mut body = hit("run_a", "snapshot_a");
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    body.pointer_mut(parent).expect("a parent")[key] = value;
    body
}

fn without(pointer: &str) -> Value {
    let mut body = hit("run_a", "snapshot_a");
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    let removed = body.pointer_mut(parent).and_then(Value::as_object_mut).and_then(|map| map.remove(key));
    assert!(removed.is_some(), "{pointer}");
    body
}

#[tokio::test]
async fn a_message_without_what_a_verification_needs_is_refused() {
    let api = api().await;
    for needed in [
        "/dequeued_message",
        "/dequeued_message/version",
        "/dequeued_message/snapshot",
        "/dequeued_message/snapshot/friendlyId",
        "/dequeued_message/run",
        "/dequeued_message/run/friendlyId",
        "/dequeued_message/dequeuedAt",
    ] {
        assert_refused(&api, &without(needed), needed).await;
        assert_refused(&api, &with(needed, json!(7.5)), needed).await;
    }
    assert_refused(&api, &with("/dequeued_message/version", json!("2")), "/dequeued_message/version").await;
    for bad in [json!("text"), json!([]), json!(["1", {}, {}, 0, null])] {
        assert_refused(&api, &with("/dequeued_message", bad), "/dequeued_message").await;
    }
}

#[tokio::test]
async fn ids_that_the_platform_cannot_handle_are_refused() {
    let api = api().await;
    let run = "/dequeued_message/run/friendlyId";
    let long = format!("run_{}", "x".repeat(200));
    for bad in ["", "run_", "run_a-b", "run_a_b", "snapshot_a", "RUN_a", "run_ä", "run_a\0", "run_a ", &long]
    {
        assert_refused(&api, &with(run, json!(bad)), run).await;
    }
    let snapshot = "/dequeued_message/snapshot/friendlyId";
    for bad in ["run_a", "snapshot_a-b", "snapshot_a_b", "snapshot_\0"] {
        assert_refused(&api, &with(snapshot, json!(bad)), snapshot).await;
    }
}

#[tokio::test]
async fn a_delay_is_a_whole_number_of_milliseconds_from_one_to_sixty_seconds() {
    let api = api().await;
    let bad = [json!(999), json!(60_001), json!(0), json!(-1), json!(1.5), json!(2000.0), json!(1e4)];
    let worse = [json!("10s"), json!("10000"), json!(true), json!([]), json!(u64::MAX), json!(1e300)];
    for bad in bad.into_iter().chain(worse) {
        assert_refused(&api, &with("/delay_ms", bad), "/delay_ms").await;
    }
    for (n, good) in [1000, 60_000].into_iter().enumerate() {
        let mut body = hit(&format!("run_{n}"), "snapshot_a");
        body["delay_ms"] = json!(good);
        assert_eq!(api.schedule(&body).await.status, 201);
    }
}

#[tokio::test]
async fn names_are_bounded_and_hold_no_control_characters() {
    let api = api().await;
    for field in ["/pool", "/supervisor", "/region"] {
        for bad in [json!("a\0b"), json!("line\nbreak"), json!(""), json!("x".repeat(201)), json!(1)] {
            assert_refused(&api, &with(field, bad), field).await;
        }
    }
    assert_refused(&api, &with("/pool", json!("no-such-pool")), "/pool").await;
    let version = "/dequeued_message/backgroundWorker/version";
    assert_refused(&api, &with(version, json!("1\0")), version).await;
    assert_refused(&api, &with("/intent", json!("guess")), "/intent").await;
}

#[tokio::test]
async fn an_instant_that_no_calendar_holds_is_refused() {
    let api = api().await;
    let field = "/dequeued_message/dequeuedAt";
    // A library, JavaScript or PostgreSQL would accept each of these as an instant.
    for bad in [
        json!("yesterday"),
        json!("2026-08-21"),
        json!("2026-13-01T00:00:00Z"),
        json!(-999_999_999_999_999_i64),
        json!(8_640_000_000_000_000_i64),
        json!(8_000_000_000_000_000_i64),
        json!(253_402_300_800_000_i64),
        json!(1.5),
        json!(null),
    ] {
        assert_refused(&api, &with(field, bad), field).await;
    }
    let early = json!("0001-01-01T00:00:00Z");
    assert_eq!(api.schedule(&with(field, early)).await.status, 201);
}

#[tokio::test]
async fn a_misspelt_field_is_refused_instead_of_ignored() {
    let api = api().await;
    assert_refused(&api, &with("/delay", json!(1000)), "/delay").await;
    assert_refused(&api, &with("/delayMs", json!(1000)), "/delayMs").await;
    assert_refused(&api, &with("/a~1b.c[0]", json!(1)), "/a~01b.c[0]").await;
}

#[tokio::test]
async fn several_faults_are_reported_at_once() {
    let api = api().await;
    let mut body = with("/delay_ms", json!(5));
    body["region"] = json!("");
    let fields = api.schedule(&json!([body, hit("run_b", "snapshot_b"), {"x": 1}])).await.fields();
    assert_eq!(fields, ["/0/delay_ms", "/0/region", "/2/x"]);
}

#[tokio::test]
async fn a_body_of_another_kind_is_a_422_for_the_whole_body() {
    let api = api().await;
    let before = api.rows().await;
    for body in ["\"text\"", "7", "null", "true"] {
        let answer = api.post("/v1/verifications", body).await;
        assert_eq!(answer.fields(), [""], "{body}");
        let detail = answer.problem()["detail"].as_str().unwrap().to_owned();
        assert!(detail.starts_with("the body: "), "{detail}");
        assert!(!detail.contains("struct"), "{detail}");
    }
    let by_position = json!([1, [hit("run_a", "snapshot_a")["dequeued_message"], null, 1000]]);
    assert_eq!(api.schedule(&by_position).await.fields(), ["/0", "/1"]);
    assert_eq!(api.cancel(&json!([["run_a", null, "miss"]])).await.fields(), ["/0"]);
    assert_eq!(api.rows().await, before);
}

#[tokio::test]
async fn what_is_no_json_is_a_400() {
    let api = api().await;
    let before = api.rows().await;
    let good = hit("run_a", "snapshot_a").to_string();
    let bodies: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"{".to_vec(),
        b"{}}".to_vec(),
        b"[{},]".to_vec(),
        b"not json".to_vec(),
        b"\xff\xfe".to_vec(),
        [b"\xef\xbb\xbf".as_slice(), good.as_bytes()].concat(),
        good.replace("run_a", "run_a\u{0}").into_bytes(),
        [good.as_bytes(), b"\xc3\x28"].concat(),
        good.replace("small-1x", "small\u{1}x").into_bytes(),
        good.as_bytes()[..good.len() - 1].to_vec(),
        "[".repeat(100_000).into_bytes(),
    ];
    for body in bodies {
        let shown = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
        let answer = api.post("/v1/verifications", body).await;
        assert_eq!(answer.status, 400, "{shown}");
        assert_eq!(answer.problem()["type"], "urn:warmproof:malformed-json");
    }
    // Bytes that are no UTF-8 inside a string of the message.
    let mut torn = good.into_bytes();
    let at = torn.windows(5).position(|window| window == b"small").expect("the machine");
    torn[at] = 0xff;
    assert_eq!(api.post("/v1/verifications", torn).await.status, 400);
    assert_eq!(api.rows().await, before);
}

#[tokio::test]
async fn a_duplicate_key_is_refused_where_it_matters() {
    let api = api().await;
    let before = api.rows().await;
    let good = hit("run_a", "snapshot_a").to_string();
    let message = &good["{\"dequeued_message\":".len()..good.len() - 1];
    let twice = format!("{{\"dequeued_message\":{message},\"dequeued_message\":{message}}}");
    assert_eq!(api.post("/v1/verifications", twice).await.fields(), ["/dequeued_message"]);
    let inside =
        good.replacen("\"friendlyId\":\"run_a\"", "\"friendlyId\":\"run_b\",\"friendlyId\":\"run_a\"", 1);
    assert_ne!(inside, good);
    let fields = api.post("/v1/verifications", inside).await.fields();
    assert_eq!(fields, ["/dequeued_message/run/friendlyId"]);
    assert_eq!(api.rows().await, before);
}

#[tokio::test]
async fn deep_nesting_is_kept_as_bytes_and_never_parsed() {
    let api = api().await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let good = hit("run_a", "snapshot_a").to_string();
    let body =
        good.replacen("{\"dequeued_message\":{", &format!("{{\"dequeued_message\":{{\"deep\":{deep},"), 1);
    assert_ne!(body, good);
    assert_eq!(api.post("/v1/verifications", body).await.status, 201);
    // The trace context is parsed, so its depth is bounded.
    let context = good.replacen("\"traceContext\":{", &format!("\"traceContext\":{{\"deep\":{deep},"), 1);
    assert_ne!(context, good);
    let answer = api.post("/v1/verifications", context).await;
    assert_eq!(answer.status, 422, "{}", &answer.text[..200]);
    assert!(answer.text.len() < 2000, "the answer is bounded: {}", answer.text.len());
}

#[tokio::test]
async fn a_long_wrong_value_is_not_sent_back_whole() {
    let api = api().await;
    let answer = api.schedule(&with("/delay_ms", json!("x".repeat(1 << 20)))).await;
    assert_eq!(answer.fields(), ["/delay_ms"]);
    assert!(answer.text.len() < 2000, "{}", answer.text.len());
    let mut misspelt = hit("run_a", "snapshot_a");
    misspelt["y".repeat(1 << 20)] = json!(1);
    let answer = api.schedule(&misspelt).await;
    assert_eq!(answer.status, 422);
    assert!(answer.text.len() < 2000, "{}", answer.text.len());
}
