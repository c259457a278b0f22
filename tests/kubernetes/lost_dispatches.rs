//! Fifty lost dispatches, and workers killed in the middle of what they ask the API server for.
//!
//! `SEED` chooses the points again that a failed run printed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use axum::http::Method;
use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use warmproof::domain::ids::RunId;
use warmproof::domain::outcome::FallbackResult;

use crate::cluster::{Cluster, WORKER};
use crate::support::trap::{Point, Trap};
use warmproof_testkit::platform::{Dispatched, options};
use warmproof_testkit::process::Program;
use warmproof_testkit::receiver::start_cold;
use warmproof_testkit::stage::Stage;
use warmproof_testkit::wait::{until, within};

const DISPATCHES: usize = 50;

/// Names of all pods that were ever made, once for each time.
type Births = Arc<Mutex<Vec<String>>>;

/// A worker that asks the API server through the trap.
fn worker(stage: &Stage, cluster: &Cluster, trap: &Trap, name: &str) -> Program {
    stage
        .worker(name)
        .env("WARMPROOF_BACKEND", "kubernetes")
        .env("WARMPROOF_KUBECONFIG", cluster.kubeconfig_at(&trap.url, WORKER).display())
        .env("KUBERNETES_NAMESPACE", &cluster.namespace)
        // Each kill spends an attempt of all that are under way.
        .env("WARMPROOF_CREATE_ATTEMPTS", 10)
        .env("WARMPROOF_FALLBACK_CONCURRENCY", 4)
}

/// Notes every pod that is made from now on.
async fn watch(pods: Api<Pod>) -> Births {
    let births = Births::default();
    let now = pods.list(&ListParams::default()).await.expect("a list").metadata.resource_version;
    let notes = Arc::clone(&births);
    tokio::spawn(async move {
        let from = now.expect("a version");
        let events = pods.watch(&WatchParams::default(), &from).await.expect("a watch");
        let mut events = events.boxed();
        while let Some(event) = events.try_next().await.expect("an event") {
            if let WatchEvent::Added(pod) = event {
                notes.lock().expect("no panic").push(pod.metadata.name.expect("a name"));
            }
        }
    });
    births
}

/// Acts as kubelet and runner: starts the run of every pending pod on the platform.
async fn act_as_kubelet(cluster: &Cluster, stage: &Stage, lost: &BTreeMap<RunId, Dispatched>) {
    let pods = cluster.pods().list(&ListParams::default()).await.expect("a list").items;
    let started = pods.into_iter().map(|pod| async move {
        let name = pod.metadata.name.expect("a name");
        let container = &pod.spec.expect("a spec").containers[0];
        let run = container.env.iter().flatten().find(|variable| variable.name == "TRIGGER_RUN_ID");
        let run = run.and_then(|run| run.value.clone()).expect("a run");
        cluster.set_phase(&name, "Running").await;
        start_cold(&stage.platform, &lost[&RunId::parse(run).expect("an id")], &name).await;
        cluster.set_phase(&name, "Succeeded").await;
    });
    stream::iter(started).buffer_unordered(8).collect::<Vec<_>>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_lost_dispatch_gets_one_pod_and_one_execution_however_workers_die() {
    let seed = std::env::var("SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (cluster, stage) = (Cluster::new().await, Stage::set_with(options()).await);
    let births = watch(cluster.pods()).await;
    let trap = Trap::before(cluster.client(WORKER).await).await;
    let mut lost = BTreeMap::new();
    for _ in 0..DISPATCHES {
        let hit = stage.hit().await;
        lost.insert(hit.run.clone(), hit);
    }

    let points = [Point::Before, Point::Sent, Point::Answered];
    let mut kills: Vec<_> = points.into_iter().cycle().take(9).map(|point| (Method::POST, point)).collect();
    kills.shuffle(&mut random);
    // A later worker finds the pods of the killed ones and reads them.
    kills.extend(points.map(|point| (Method::GET, point)));
    for (nth, (method, point)) in kills.into_iter().enumerate() {
        let caught = trap.arm(method.clone(), point, random.random_range(1..=3));
        let mut killed = worker(&stage, &cluster, &trap, &format!("killed-{nth}")).start();
        within(&format!("{point:?} of {method} is reached"), caught).await.expect("a trap");
        killed.kill().await;
    }
    let survivor = worker(&stage, &cluster, &trap, "survivor").start();

    let mut ends = BTreeSet::new();
    for dispatched in lost.values() {
        let outcome = stage.outcome(&dispatched.run).await;
        let result = outcome.fallback_result.map_or("", FallbackResult::as_str);
        assert!(matches!(result, "created" | "existed"), "seed {seed}: {outcome:#?}");
        let name = outcome.workload.expect("a name");
        for selector in [
            format!("warmproof/run-id={}", dispatched.run),
            format!("warmproof/verification-id={}", outcome.id),
        ] {
            assert_eq!(cluster.selected(&selector).await, [name.as_str()], "seed {seed}: {selector}");
        }
        ends.insert(result);
    }
    assert_eq!(ends.len(), 2, "seed {seed}: some pods of killed workers were found: {ends:?}");
    // No pod ran before this: each later worker found the run still lost, and had to recognize the pod.
    act_as_kubelet(&cluster, &stage, &lost).await;

    for dispatched in lost.values() {
        let record = stage.platform.simulator.record_of(&dispatched.run).expect("a record");
        assert_eq!(record.executions, 1, "seed {seed}: {}", dispatched.run);
    }
    let names: BTreeSet<String> = cluster.selected("").await.into_iter().collect();
    assert_eq!(names.len(), DISPATCHES);
    let made = until("every pod was noted", async || {
        let made = births.lock().expect("no panic").clone();
        (made.len() >= DISPATCHES).then_some(made)
    })
    .await;
    assert_eq!(made.len(), DISPATCHES, "seed {seed}: one pod a dispatch, and none made twice: {made:?}");
    assert_eq!(made.into_iter().collect::<BTreeSet<_>>(), names);
    stage.end(vec![survivor]).await;
    stage.assert_sound().await;
}
