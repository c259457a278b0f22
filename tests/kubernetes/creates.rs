//! Pods that a create makes, pods that it finds, and the labels to find them by.

use std::collections::BTreeSet;

use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use warmproof::workload::{CreateError, CreateRequest, Created};

use crate::cluster::{Cluster, WORKER, dispatch};

fn name_of(create: &CreateRequest) -> String {
    create.name.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_concurrent_creates_for_one_name_make_one_pod() {
    let cluster = Cluster::new().await;
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            // A client each, as workers in other processes have.
            let (workload, create) = (cluster.workload(WORKER, &[]), dispatch(&[]));
            tokio::spawn(async move { workload.create(create).await })
        })
        .collect();
    let (mut created, mut existed) = (0, 0);
    for task in tasks {
        match task.await.expect("no panic") {
            Ok(Created::Created { .. }) => created += 1,
            Ok(Created::Existed { .. }) => existed += 1,
            Err(error) => panic!("a create failed: {error}"),
        }
    }
    assert_eq!((created, existed), (1, 7));
    assert_eq!(cluster.selected("").await.len(), 1);
}

#[tokio::test]
async fn labels_find_every_workload_by_run_snapshot_and_verification() {
    let cluster = Cluster::new().await;
    let workload = cluster.workload(WORKER, &[]);
    let mut creates = Vec::new();
    for (run, snapshot) in [("a", "aaaaaaaa1"), ("a", "aaaaaaaa2"), ("b", "bbbbbbbb1")] {
        let (run, snapshot) = (format!("run_{run}"), format!("snapshot_{snapshot}"));
        let create = dispatch(&[("/run/friendlyId", &run), ("/snapshot/friendlyId", &snapshot)]);
        assert!(matches!(workload.create(create.clone()).await, Ok(Created::Created { .. })));
        creates.push(create);
    }
    for create in &creates {
        let id = create.verification_id.expect("an id");
        assert_eq!(cluster.selected(&format!("warmproof/verification-id={id}")).await, [name_of(create)]);
        let snapshot = &create.request.snapshot.friendly_id;
        assert_eq!(cluster.selected(&format!("warmproof/snapshot-id={snapshot}")).await, [name_of(create)]);
    }
    let of_run_a: BTreeSet<String> = cluster.selected("warmproof/run-id=run_a").await.into_iter().collect();
    assert_eq!(of_run_a, creates[..2].iter().map(name_of).collect());
    assert_eq!(cluster.selected("app=task-run").await.len(), 3, "the platform's own cleaner finds them too");
}

#[tokio::test]
async fn the_stored_pod_is_the_one_that_was_asked_for() {
    let cluster = Cluster::new().await;
    let create = dispatch(&[]);
    let created = cluster.workload(WORKER, &[]).create(create.clone()).await.expect("a pod");
    assert_eq!(created, Created::Created { workload: create.name.clone() });
    let pod = cluster.pods().get(&create.name).await.expect("the pod");
    let spec = pod.spec.expect("a spec");
    assert_eq!(spec.restart_policy.as_deref(), Some("Never"));
    assert_eq!(spec.automount_service_account_token, Some(false));
    assert_eq!(spec.termination_grace_period_seconds, Some(3600));
    let container = &spec.containers[0];
    let env = container.env.as_ref().expect("variables");
    let snapshot = env.iter().find(|variable| variable.name == "TRIGGER_SNAPSHOT_ID").expect("a snapshot");
    assert_eq!(snapshot.value.as_deref(), Some("snapshot_cmelv0q2h000408l2dyx4b7nk"));
    let requests = container.resources.as_ref().and_then(|it| it.requests.as_ref()).expect("requests");
    assert_eq!(requests["cpu"].0, "375m", "the server reads the amounts as they were meant");
    assert_eq!(requests["memory"].0, "500M");
}

#[tokio::test]
async fn a_pod_that_runs_is_met_and_one_that_has_finished_is_replaced() {
    let cluster = Cluster::new().await;
    let (workload, create) = (cluster.workload(WORKER, &[]), dispatch(&[]));
    let existed = Ok(Created::Existed { workload: create.name.clone() });
    let created = Ok(Created::Created { workload: create.name.clone() });
    assert_eq!(workload.create(create.clone()).await, created);
    cluster.set_phase(&create.name, "Running").await;
    assert_eq!(workload.create(create.clone()).await, existed);
    for phase in ["Failed", "Succeeded"] {
        let before = cluster.pods().get(&create.name).await.expect("the pod").metadata.uid;
        cluster.set_phase(&create.name, phase).await;
        assert_eq!(workload.create(create.clone()).await, created, "{phase}");
        let after = cluster.pods().get(&create.name).await.expect("the pod").metadata.uid;
        assert_ne!(before, after, "a fresh pod");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_pod_is_replaced_by_one_pod_however_many_ask() {
    let cluster = Cluster::new().await;
    let create = dispatch(&[]);
    cluster.workload(WORKER, &[]).create(create.clone()).await.expect("a pod");
    cluster.set_phase(&create.name, "Failed").await;
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (workload, create) = (cluster.workload(WORKER, &[]), create.clone());
            tokio::spawn(async move { workload.create(create).await })
        })
        .collect();
    let mut created = 0;
    for task in tasks {
        match task.await.expect("no panic") {
            Ok(Created::Created { .. }) => created += 1,
            // The server marks a pod as being deleted for a moment before it is gone.
            Ok(Created::Existed { .. }) | Err(CreateError::Transient { .. }) => {}
            Err(error) => panic!("a create failed: {error:?}"),
        }
    }
    assert_eq!(created, 1, "a fresh pod is never taken for the finished one");
    let pod = cluster.pods().get(&create.name).await.expect("the pod");
    assert_eq!(pod.status.and_then(|status| status.phase).as_deref(), Some("Pending"));
}

#[tokio::test]
async fn a_pod_that_is_being_deleted_holds_its_name_for_now() {
    let cluster = Cluster::new().await;
    let (workload, create) = (cluster.workload(WORKER, &[]), dispatch(&[]));
    workload.create(create.clone()).await.expect("a pod");
    let hold = Patch::Merge(json!({"metadata": {"finalizers": ["warmproof.test/hold"]}}));
    cluster.pods().patch(&create.name, &PatchParams::default(), &hold).await.expect("a finalizer");
    cluster.pods().delete(&create.name, &DeleteParams::default()).await.expect("a delete under way");
    let error = workload.create(create.clone()).await.expect_err("the name is taken");
    assert!(matches!(error, CreateError::Transient { name_may_be_taken: false, .. }), "{error:?}");
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    cluster.pods().patch(&create.name, &PatchParams::default(), &release).await.expect("no finalizer");
    // What a kubelet does once the runner is gone.
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    cluster.pods().delete(&create.name, &now).await.ok();
    assert_eq!(workload.create(create.clone()).await, Ok(Created::Created { workload: create.name }));
}

#[tokio::test]
async fn a_pod_of_another_snapshot_is_never_taken_for_ours() {
    let cluster = Cluster::new().await;
    let workload = cluster.workload(WORKER, &[]);
    let first = dispatch(&[("/snapshot/friendlyId", "snapshot_firstabcdefgh")]);
    // The same last eight characters, so the same name. This is very unlikely, but it must never cost a run.
    let second = dispatch(&[("/snapshot/friendlyId", "snapshot_otherabcdefgh")]);
    assert_eq!(first.name, second.name);
    workload.create(first).await.expect("a pod");
    let error = workload.create(second).await.expect_err("the name is taken");
    let reason = "the pod of this name was made for another snapshot: snapshot_firstabcdefgh".to_owned();
    assert_eq!(error, CreateError::Permanent { reason });
}
