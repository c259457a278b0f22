//! Traces: what a collector gets of a verification, and what a create carries on.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use tokio::net::TcpListener;
use warmproof::domain::dispatch::trace_id;
use warmproof::domain::outcome::FallbackResult;

use warmproof_testkit::receiver::{Receiver, start_cold};
use warmproof_testkit::stage::Stage;

type Bodies = Arc<Mutex<Vec<Bytes>>>;

/// Takes what exporters send.
async fn collector() -> (String, Bodies) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    let bodies = Bodies::default();
    let take = async |State(bodies): State<Bodies>, headers: HeaderMap, body: Bytes| {
        assert_eq!(headers["content-type"], "application/x-protobuf");
        bodies.lock().unwrap().push(body);
    };
    let app = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&bodies));
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, bodies)
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn times(all: &[u8], part: &[u8]) -> usize {
    all.windows(part.len()).filter(|window| *window == part).count()
}

#[tokio::test]
async fn a_verification_is_a_span_of_its_runs_own_trace_and_its_create_hangs_below_it() {
    let stage = Stage::set().await;
    let (url, bodies) = collector().await;
    let mut gateway = Receiver::start().await;
    let mut worker = stage
        .worker("traced")
        .env("COMPUTE_GATEWAY_URL", &gateway.base_url)
        .env("WARMPROOF_OTLP_TRACES_ENDPOINT", url)
        .start();
    let lost = stage.hit().await;
    let call = gateway.call().await;
    let name = call.json()["name"].as_str().unwrap().to_owned();
    let carried = call.headers["traceparent"].to_str().unwrap().to_owned();
    start_cold(&stage.platform, &lost, &name).await;
    call.answer(201);
    let outcome = stage.outcome(&lost.run).await;
    assert_eq!(outcome.fallback_result.map(FallbackResult::as_str), Some("created"));
    // What is left is sent when it stops.
    assert_eq!(worker.terminate().await, Some(0));

    let traceparent = outcome.traceparent.unwrap();
    let trace = trace_id(&traceparent).unwrap();
    assert_eq!(trace_id(&carried), Some(trace), "the create carries the run's trace");
    assert_ne!(carried, traceparent, "below a span of ours");

    let sent = bodies.lock().unwrap().concat();
    assert_eq!(times(&sent, &bytes(trace)), 3, "verify, probe and create, all in the run's trace");
    let parts = traceparent.split('-').nth(2).unwrap();
    assert_eq!(times(&sent, &bytes(parts)), 1, "verify hangs below the message's own span");
    let create = carried.split('-').nth(2).unwrap();
    assert_eq!(times(&sent, &bytes(create)), 1, "the span that the create carries is sent");
    let words =
        ["verify", "probe", "create", "run.id", lost.run.as_str(), "verification.id", "pool", "fallback"];
    for word in words {
        assert!(times(&sent, word.as_bytes()) > 0, "{word}");
    }
    assert!(!worker.stderr().iter().any(|line| line.contains("verify{")), "spans stay out of logs");
}

#[tokio::test]
async fn the_runners_otlp_endpoint_enables_no_traces_and_an_unreachable_collector_costs_nothing() {
    let stage = Stage::set().await;
    let (url, bodies) = collector().await;
    let base = url.trim_end_matches("/v1/traces");
    let quiet = stage.worker("quiet").env("OTEL_EXPORTER_OTLP_ENDPOINT", base).start();
    let lost = stage.hit().await;
    stage.outcome(&lost.run).await;
    stage.audit(&[lost], vec![quiet]).await;
    assert!(bodies.lock().unwrap().is_empty());

    let unreachable = "http://127.0.0.1:9/v1/traces";
    let alone = stage.worker("alone").env("WARMPROOF_OTLP_TRACES_ENDPOINT", unreachable).start();
    let lost = stage.hit().await;
    stage.outcome(&lost.run).await;
    stage.audit(&[lost], vec![alone]).await;
}
