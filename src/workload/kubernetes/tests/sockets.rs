//! Faults of real connections, and the sources of the client's credentials.

use axum::http::{HeaderMap, StatusCode};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::*;

/// A kubeconfig that points to this address without encryption.
fn kubeconfig(directory: &TempDir, address: &str) -> String {
    let path = directory.path().join("kubeconfig");
    let text = json!({
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {
            "server": format!("http://{address}"),
            // Nothing listens there: a client that uses the proxy fails.
            "proxy-url": "http://127.0.0.1:1",
        }}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "users": [{"name": "test", "user": {"token": SECRET}}],
    });
    std::fs::write(&path, text.to_string()).expect("a file");
    path.to_str().expect("a path").to_owned()
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_request_is_uncertain() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let _begun = stream.read(&mut [0; 1024]).await;
        }
    });
    let directory = tempfile::tempdir().expect("a directory");
    let config = config(&[("WARMPROOF_KUBECONFIG", &kubeconfig(&directory, &address))]);
    let result = Workload::new(&config).expect("a workload").create(fresh()).await;
    assert!(matches!(result, Err(CreateError::Uncertain { .. })), "{result:?}");
}

#[tokio::test]
async fn a_cluster_that_cannot_be_reached_is_an_error_and_no_panic() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let closed = listener.local_addr().expect("an address").to_string();
    drop(listener);
    let directory = tempfile::tempdir().expect("a directory");
    for path in [kubeconfig(&directory, &closed), "/nowhere/kubeconfig".to_owned()] {
        let workload = Workload::new(&config(&[("WARMPROOF_KUBECONFIG", &path)])).expect("a workload");
        let error = workload.create(fresh()).await.expect_err("no cluster");
        assert!(matches!(error, CreateError::Transient { name_may_be_taken: false, .. }), "{error:?}");
        let unusable = workload.check().await.expect_err("no cluster").to_string();
        assert!(unusable.contains("Kubernetes") && !unusable.contains(SECRET), "{unusable}");
        assert!(!format!("{workload:?}").contains(SECRET));
    }
}

#[tokio::test]
async fn a_busy_server_is_asked_once() {
    let asked = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let app = axum::Router::new().fallback(move || {
        count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async { (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")], "busy") }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let directory = tempfile::tempdir().expect("a directory");
    let config = config(&[("WARMPROOF_KUBECONFIG", &kubeconfig(&directory, &address))]);
    let result = Workload::new(&config).expect("a workload").create(fresh()).await;
    assert!(matches!(result, Err(CreateError::Transient { name_may_be_taken: false, .. })), "{result:?}");
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 1, "the client must not ask again by itself");
}

#[tokio::test]
async fn after_a_401_the_credentials_are_read_again() {
    let app = axum::Router::new().fallback(async |headers: HeaderMap| {
        let known = headers["authorization"] == "Bearer renewed";
        (if known { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::UNAUTHORIZED }, "")
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let directory = tempfile::tempdir().expect("a directory");
    let path = kubeconfig(&directory, &address);
    let workload = Workload::new(&config(&[("WARMPROOF_KUBECONFIG", &path)])).expect("a workload");
    let answered = async || workload.create(fresh()).await.expect_err("a refusal").to_string();
    assert_eq!(answered().await, "the Kubernetes API answered 401");
    let renewed = std::fs::read_to_string(&path).expect("a file").replace(SECRET, "renewed");
    std::fs::write(&path, renewed).expect("a file");
    assert_eq!(answered().await, "the Kubernetes API answered 422");
}
