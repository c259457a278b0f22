use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use bollard::models::{ContainerConfig, ContainerInspectResponse, ContainerState, ContainerStateStatusEnum};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use uuid::Uuid;

use super::container::holder;
use super::*;
use crate::config::environment::Environment;
use crate::config::reader;
use crate::config::workload::{BackendConfig, WorkloadConfig};
use crate::domain::dispatch::ColdStartRequest;
use crate::domain::ids::VerificationId;
use crate::workload::{CreateRequest, Workload};

const FRESH: &str = include_str!("../../../tests/fixtures/dequeued-message.fresh.json");
const NAME: &str = "runner-06n8r0j5c2p5ve1k3m7qfa9he1-dyx4b7nk";

/// The answers of a fake engine to a create, to an inspection of the name and to a start.
#[derive(Clone, Copy)]
struct Paper {
    create: (u16, &'static str),
    inspect: (u16, &'static str),
    start: u16,
}

const HANGS: u16 = 0;

/// An engine that gives these answers and records the requests.
async fn paper_engine(paper: Paper) -> (String, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&seen);
    let app = Router::new().fallback(move |method: Method, uri: Uri| {
        let path = uri.path().to_owned();
        notes.lock().expect("no panic").push(format!("{method} {path}"));
        async move {
            let (status, body) = match path.rsplit('/').next().unwrap_or_default() {
                "_ping" => (200, "OK"),
                "version" => (200, r#"{"ApiVersion":"1.30"}"#),
                "create" => paper.create,
                "start" => (paper.start, r#"{"message":"no start"}"#),
                _ => paper.inspect,
            };
            if status == HANGS {
                std::future::pending::<()>().await;
            }
            (StatusCode::from_u16(status).expect("a status"), body)
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, app).await });
    (format!("tcp://{address}"), seen)
}

fn config(host: &str, extra: &[(&str, &str)]) -> WorkloadConfig {
    let fixed = [
        ("DOCKER_HOST", host),
        ("TRIGGER_WORKER_INSTANCE_NAME", "node-a"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://otel.example"),
        ("WARMPROOF_DOCKER_TIMEOUT_MS", "1000"),
        ("RUNNER_ADDITIONAL_ENV_VARS", "TOKEN=sesame-sesame"),
    ];
    let fixed = fixed.into_iter().filter(|(name, _)| extra.iter().all(|(other, _)| name != other));
    let environment = Environment::from_pairs(fixed.chain(extra.iter().copied()));
    reader::read_all(&environment, WorkloadConfig::read).expect("a configuration")
}

fn docker_config(extra: &[(&str, &str)]) -> DockerConfig {
    let BackendConfig::Docker(docker) = config("unix:///nowhere.sock", extra).backend else {
        panic!("no docker")
    };
    docker
}

fn fresh() -> CreateRequest {
    let request = ColdStartRequest::parse(FRESH).expect("a message");
    CreateRequest {
        name: request.workload_name(),
        verification_id: Some(VerificationId(Uuid::nil())),
        request,
        message: FRESH.to_owned(),
        timings: None,
        pod_scheduled_at_ms: 1_787_336_882_500,
        request_id: None,
        traceparent: None,
    }
}

async fn outcome(paper: Paper) -> Result<Created, CreateError> {
    let (host, _) = paper_engine(paper).await;
    Workload::new(&config(&host, &[])).expect("a workload").create(fresh()).await
}

#[test]
fn a_container_is_requested_as_the_platform_does_and_labelled() {
    let env = vec![("A".to_owned(), "1=2".to_owned())];
    let body = container::body(&docker_config(&[]), &fresh(), "repo:tag".to_owned(), env.clone());
    let labels = json!({
        "warmproof.run-id": "run_06n8r0j5c2p5ve1k3m7qfa9he1",
        "warmproof.snapshot-id": "snapshot_cmelv0q2h000408l2dyx4b7nk",
        "warmproof.verification-id": "00000000-0000-0000-0000-000000000000",
    });
    let expected = json!({
        "Hostname": NAME,
        "Image": "repo:tag",
        "Env": ["A=1=2"],
        "AttachStdin": false,
        "AttachStdout": false,
        "AttachStderr": false,
        "Labels": labels,
        "HostConfig": {
            "AutoRemove": true,
            "NetworkMode": "host",
            "NanoCpus": 500_000_000,
            "Memory": 536_870_912,
        },
    });
    assert_eq!(serde_json::to_value(&body).unwrap(), expected);
    let config = docker_config(&[
        ("DOCKER_ENFORCE_MACHINE_PRESETS", "false"),
        ("DOCKER_AUTOREMOVE_EXITED_CONTAINERS", "0"),
        ("DOCKER_RUNNER_NETWORKS", "blue,green"),
    ]);
    let body = container::body(&config, &fresh(), "repo:tag".to_owned(), env);
    let host: Value = serde_json::to_value(body.host_config).unwrap();
    assert_eq!(host, json!({ "AutoRemove": false, "NetworkMode": "blue" }));
}

#[test]
fn a_holder_is_judged_by_its_label_and_state() {
    let of = |label: &str, status| {
        let labels = [("warmproof.snapshot-id".to_owned(), label.to_owned())].into();
        holder(
            ContainerInspectResponse {
                id: Some("c1".to_owned()),
                config: Some(ContainerConfig { labels: Some(labels), ..ContainerConfig::default() }),
                state: Some(ContainerState {
                    status: Some(status),
                    finished_at: Some("2026-08-21T18:27:52.113Z".to_owned()),
                    ..ContainerState::default()
                }),
                ..ContainerInspectResponse::default()
            },
            &SnapshotId::parse("snapshot_a").unwrap(),
        )
    };
    let ended = Holder::Ended { id: "c1".to_owned(), at: container::instant("2026-08-21T18:27:52.113Z") };
    for (status, expected) in [
        (ContainerStateStatusEnum::CREATED, Holder::NeverStarted { id: "c1".to_owned() }),
        (ContainerStateStatusEnum::RUNNING, Holder::Alive),
        (ContainerStateStatusEnum::PAUSED, Holder::Alive),
        (ContainerStateStatusEnum::RESTARTING, Holder::Alive),
        (ContainerStateStatusEnum::EXITED, ended.clone()),
        (ContainerStateStatusEnum::DEAD, ended),
        (ContainerStateStatusEnum::REMOVING, Holder::Leaving),
        (ContainerStateStatusEnum::STOPPING, Holder::Leaving),
    ] {
        assert_eq!(of("snapshot_a", status), expected, "{status}");
        assert_eq!(of("snapshot_b", status), Holder::Foreign, "{status}");
    }
    let unlabelled = ContainerInspectResponse::default();
    assert_eq!(holder(unlabelled, &SnapshotId::parse("snapshot_a").unwrap()), Holder::Foreign);
}

#[tokio::test]
async fn the_version_is_asked_for_once_and_is_in_every_path() {
    let paper = Paper { create: (201, r#"{"Id":"c1","Warnings":[]}"#), inspect: (404, "{}"), start: 204 };
    let (host, seen) = paper_engine(paper).await;
    let workload = Workload::new(&config(&host, &[])).expect("a workload");
    workload.check().await.expect("a ping");
    assert_eq!(workload.create(fresh()).await, Ok(Created::Created { workload: NAME.to_owned() }));
    let expected = [
        "GET /version",
        "GET /v1.30/_ping",
        "POST /v1.30/containers/create",
        "POST /v1.30/containers/c1/start",
    ];
    assert_eq!(*seen.lock().unwrap(), expected);

    let (host, seen) = paper_engine(paper).await;
    let workload = Workload::new(&config(&host, &[("DOCKER_API_VERSION", "1.25")])).expect("a workload");
    workload.check().await.expect("a ping");
    assert_eq!(*seen.lock().unwrap(), ["GET /v1.25/_ping"]);
}

#[tokio::test]
async fn a_create_that_is_not_answered_is_uncertain_and_one_that_is_refused_is_judged() {
    let gone = (404, r#"{"message":"No such container"}"#);
    let of = async |create, inspect| outcome(Paper { create, inspect, start: 204 }).await;
    assert!(matches!(of((HANGS, ""), gone).await, Err(CreateError::Uncertain { .. })));
    assert!(matches!(of((500, ""), (HANGS, "")).await, Err(CreateError::Uncertain { .. })));
    assert!(matches!(of((500, ""), (500, "")).await, Err(CreateError::Uncertain { .. })));
    assert!(matches!(of((201, "{"), gone).await, Err(CreateError::Uncertain { .. })));
    assert!(matches!(
        of((500, ""), gone).await,
        Err(CreateError::Transient { name_may_be_taken: false, .. })
    ));
    assert!(matches!(
        of((409, ""), gone).await,
        Err(CreateError::Transient { name_may_be_taken: false, .. })
    ));
    assert!(
        matches!(of((404, ""), gone).await, Err(CreateError::Transient { .. })),
        "pulled again next time"
    );
    assert!(matches!(of((400, ""), gone).await, Err(CreateError::Permanent { .. })));
    let foreign = (200, r#"{"Id":"c1","State":{"Status":"running"},"Config":{"Labels":{}}}"#);
    let error = of((409, ""), foreign).await.expect_err("taken");
    let reason = format!("the name `{NAME}` is taken by a container of something else");
    assert_eq!(error, CreateError::Permanent { reason });
}

#[tokio::test]
async fn an_absent_engine_is_asked_again_later() {
    for host in ["unix:///nowhere/docker.sock", "tcp://127.0.0.1:1"] {
        let workload = Workload::new(&config(host, &[])).expect("a workload");
        let error = workload.create(fresh()).await.expect_err("no engine");
        assert!(matches!(error, CreateError::Transient { name_may_be_taken: false, .. }), "{error:?}");
        assert!(matches!(workload.prepare(&fresh()).await, Err(CreateError::Transient { .. })));
        assert!(workload.check().await.is_err());
        assert!(workload.reap().await.is_err());
    }
}

#[tokio::test]
async fn an_error_hides_the_runners_secrets() {
    let echo = r#"{"message":"invalid environment variable:\nTOKEN=sesame-sesame"}"#;
    let inspect = (404, r#"{"message":"No such container"}"#);
    let error = outcome(Paper { create: (400, echo), inspect, start: 204 }).await.expect_err("refused");
    let text = "could not create the container: the engine answered 400: \
                invalid environment variable: TOKEN=[hidden]";
    assert_eq!(error.to_string(), text);
}

#[test]
fn a_backend_is_printed_without_the_registrys_password() {
    let registry = [
        ("DOCKER_REGISTRY_USERNAME", "puller"),
        ("DOCKER_REGISTRY_PASSWORD", "sesame-registry"),
        ("DOCKER_REGISTRY_URL", "registry.example"),
    ];
    let workload = Workload::new(&config("unix:///nowhere.sock", &registry)).expect("a workload");
    let printed = format!("{workload:?}");
    assert!(printed.contains("puller") && !printed.contains("sesame"), "{printed}");
}

#[tokio::test]
async fn a_name_or_an_image_that_would_lead_elsewhere_is_refused() {
    let paper = Paper { create: (201, "{}"), inspect: (404, "{}"), start: 204 };
    let (host, seen) = paper_engine(paper).await;
    let workload = Workload::new(&config(&host, &[])).expect("a workload");
    let mut create = fresh();
    create.name = "../x".to_owned();
    assert!(matches!(workload.create(create).await, Err(CreateError::Permanent { .. })));
    let mut create = fresh();
    create.request.image = Some("../../containers/x?a=b".to_owned());
    assert!(matches!(workload.prepare(&create).await, Err(CreateError::Permanent { .. })));
    assert!(matches!(workload.create(create).await, Err(CreateError::Permanent { .. })));
    assert_eq!(*seen.lock().unwrap(), [""; 0]);
}

#[tokio::test]
async fn an_engine_that_hangs_costs_no_more_than_the_limit() {
    let (host, _) = paper_engine(Paper { create: (201, ""), inspect: (HANGS, ""), start: 204 }).await;
    let workload = Workload::new(&config(&host, &[])).expect("a workload");
    let prepared = tokio::time::timeout(Duration::from_secs(20), workload.prepare(&fresh())).await;
    assert!(matches!(prepared.expect("an end"), Err(CreateError::Transient { .. })));
}

#[tokio::test]
async fn only_what_is_old_by_the_engines_own_clock_is_reaped() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&seen);
    // The engine's clock says 2001. One is a little over five minutes older, one a little under, one is gone.
    let list = json!([
        { "Id": "old", "Created": 1_000_000_000 - 301 },
        { "Id": "young", "Created": 1_000_000_000 - 299 },
        { "Id": "taken", "Created": 1_000_000_000 - 999 },
    ]);
    let app = Router::new().fallback(move |method: Method, uri: Uri| {
        let path = uri.path().replace("/v1.41", "");
        let (status, body) = match (method.as_str(), path.as_str()) {
            ("GET", "/containers/json") => (200, list.to_string()),
            ("GET", "/info") => (200, json!({ "SystemTime": "2001-09-09T01:46:40Z" }).to_string()),
            ("DELETE", "/containers/taken") => (404, "{}".to_owned()),
            _ => (204, String::new()),
        };
        notes.lock().expect("no panic").push(format!("{method} {path} {}", uri.query().unwrap_or_default()));
        async move { (StatusCode::from_u16(status).expect("a status"), body) }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let host = format!("tcp://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let workload = Workload::new(&config(&host, &[("DOCKER_API_VERSION", "1.41")])).expect("a workload");
    assert_eq!(workload.reap().await, Ok(1));
    let seen = seen.lock().expect("no panic").clone();
    assert!(seen[0].contains("created") && seen[0].contains("warmproof.snapshot-id"), "{seen:?}");
    let removed: Vec<_> = seen.iter().filter(|line| line.starts_with("DELETE")).collect();
    let query = "force=false&link=false&v=true".split('&').collect::<BTreeSet<_>>();
    assert_eq!(removed.len(), 2, "{seen:?}");
    for (line, id) in removed.into_iter().zip(["old", "taken"]) {
        let (path, asked) = line.rsplit_once(' ').expect("a query");
        assert_eq!(path, format!("DELETE /containers/{id}"));
        assert_eq!(asked.split('&').collect::<BTreeSet<_>>(), query, "never by force");
    }
}
