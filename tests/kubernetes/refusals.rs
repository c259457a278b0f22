//! What the server refuses, and what a check reports before the first create.

use warmproof::workload::CreateError;

use crate::cluster::{Cluster, STRANGER, UNKNOWN, WORKER, dispatch};

fn permanent(error: CreateError) -> String {
    match error {
        CreateError::Permanent { reason } => reason,
        CreateError::Transient { .. } | CreateError::Uncertain { .. } => panic!("not for good: {error:?}"),
    }
}

#[tokio::test]
async fn a_wrong_token_and_a_missing_right_have_different_errors() {
    let cluster = Cluster::new().await;
    for (token, expected) in
        [(UNKNOWN, "answered 401 Unauthorized"), (STRANGER, "answered 403 Forbidden: pods is forbidden")]
    {
        let error = cluster.workload(token, &[]).create(dispatch(&[])).await.expect_err(token);
        let reason = permanent(error);
        assert!(reason.contains(expected), "{reason}");
        assert!(!reason.contains(token), "{reason}");
    }
    assert!(cluster.selected("").await.is_empty());
}

#[tokio::test]
async fn a_namespace_that_is_not_there_is_named() {
    let cluster = Cluster::new().await;
    let workload = cluster.workload("admin-token", &[("KUBERNETES_NAMESPACE", "nowhere")]);
    let reason = permanent(workload.create(dispatch(&[])).await.expect_err("no namespace"));
    assert_eq!(reason, r#"the Kubernetes API answered 404 NotFound: namespaces "nowhere" not found"#);
}

#[tokio::test]
async fn a_pod_the_server_finds_invalid_is_refused_with_its_words_and_without_secrets() {
    let cluster = Cluster::new().await;
    let workload = cluster
        .workload(WORKER, &[("RUNNER_ADDITIONAL_ENV_VARS", "planted-secret-name=planted-secret-value")]);
    let create = dispatch(&[("/project/id", "not a label")]);
    let reason = permanent(workload.create(create).await.expect_err("an invalid label"));
    assert!(reason.starts_with("the Kubernetes API answered 422 Invalid: Pod \"runner-"), "{reason}");
    assert!(reason.contains("is invalid: metadata.labels: Invalid value: \"not a label\""), "{reason}");
    assert!(!reason.contains("planted-secret-value") && !reason.contains('\n'), "{reason}");
}

#[tokio::test]
async fn a_check_says_what_is_missing() {
    let cluster = Cluster::new().await;
    assert_eq!(cluster.workload(WORKER, &[]).check().await, Ok(()));
    let text = cluster.workload(STRANGER, &[]).check().await.expect_err("no right").to_string();
    let expected = format!(
        "the Kubernetes API does not let us `create`, `get`, `delete` pods in the namespace `{}`",
        cluster.namespace
    );
    assert_eq!(text, expected);
    let text = cluster.workload(UNKNOWN, &[]).check().await.expect_err("an unknown token").to_string();
    assert_eq!(text, "the Kubernetes API answered 401 Unauthorized: Unauthorized");
    assert_eq!(cluster.workload(WORKER, &[]).backend(), "kubernetes");
}
