//! The server that was started for this run: a namespace, users, and workloads that speak to it.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;
use warmproof::config::environment::Environment;
use warmproof::config::reader;
use warmproof::config::workload::WorkloadConfig;
use warmproof::domain::dispatch::ColdStartRequest;
use warmproof::domain::ids::VerificationId;
use warmproof::workload::{CreateRequest, Workload};

/// May do what docs/operating.md says.
pub(crate) const WORKER: &str = "worker-token";
/// Known to the server, and without any right.
pub(crate) const STRANGER: &str = "stranger-token";
/// Unknown to the server.
pub(crate) const UNKNOWN: &str = "no-token-of-this-server";

/// The role that docs/operating.md recommends, so that the tests prove it suffices.
const OPERATING: &str = include_str!("../../docs/operating.md");
const FRESH: &str = include_str!("../fixtures/dequeued-message.fresh.json");

/// A namespace of its own on the server that the environment names.
pub(crate) struct Cluster {
    pub(crate) namespace: String,
    admin: Client,
    kubeconfig: Kubeconfig,
    directory: TempDir,
}

impl Cluster {
    pub(crate) async fn new() -> Self {
        // Tests of one process may take the process's default; the first one sets it.
        let _if_first = rustls::crypto::ring::default_provider().install_default();
        let kubeconfig = Kubeconfig::read_from(server()).expect("a kubeconfig");
        let options = KubeConfigOptions::default();
        let config =
            Config::from_custom_kubeconfig(kubeconfig.clone(), &options).await.expect("a configuration");
        let admin = Client::try_from(config).expect("a client");
        let namespace = format!("test-{}", Uuid::now_v7().simple());
        let directory = tempfile::tempdir().expect("a directory");
        let cluster = Self { namespace, admin, kubeconfig, directory };
        cluster.prepare().await;
        cluster
    }

    async fn prepare(&self) {
        let name = json!({"metadata": {"name": self.namespace}});
        made(Api::<Namespace>::all(self.admin.clone()), &name).await;
        let verbs = OPERATING.split_once("--verb=").and_then(|(_, rest)| rest.split(' ').next());
        let verbs: Vec<&str> = verbs.expect("a role in docs/operating.md").split(',').collect();
        let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}]);
        let role = json!({"metadata": {"name": "warmproof"}, "rules": rules});
        made(Api::<Role>::namespaced(self.admin.clone(), &self.namespace), &role).await;
        let binding = json!({
            "metadata": {"name": "warmproof"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "warmproof"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "warmproof-worker"}],
        });
        made(Api::<RoleBinding>::namespaced(self.admin.clone(), &self.namespace), &binding).await;
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.admin.clone(), &self.namespace)
    }

    pub(crate) fn admin(&self) -> Client {
        self.admin.clone()
    }

    pub(crate) async fn selected(&self, selector: &str) -> Vec<String> {
        let list = self.pods().list(&ListParams::default().labels(selector)).await.expect("a list");
        list.items.into_iter().filter_map(|pod| pod.metadata.name).collect()
    }

    /// Acts as the kubelet: sets the pod's phase.
    pub(crate) async fn set_phase(&self, name: &str, phase: &str) {
        let status = Patch::Merge(json!({"status": {"phase": phase}}));
        self.pods().patch_status(name, &PatchParams::default(), &status).await.expect("a patched status");
    }

    /// The server, asked with this token.
    pub(crate) async fn client(&self, token: &str) -> Client {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig_of(token)).expect("a kubeconfig");
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        Client::try_from(config.expect("a configuration")).expect("a client")
    }

    /// A kubeconfig that leads to the server with this token.
    fn kubeconfig_of(&self, token: &str) -> PathBuf {
        let server = self.kubeconfig.clusters[0].cluster.as_ref().expect("a cluster");
        let authority = &server.certificate_authority;
        self.write(&json!({"server": server.server, "certificate-authority": authority}), token)
    }

    /// A kubeconfig that leads to a proxy in front of the server.
    pub(crate) fn kubeconfig_at(&self, url: &str, token: &str) -> PathBuf {
        self.write(&json!({ "server": url }), token)
    }

    fn write(&self, server: &Value, token: &str) -> PathBuf {
        // A file each: it is read at the first request, perhaps while the next one is written.
        let path = self.directory.path().join(Uuid::now_v7().simple().to_string());
        let kubeconfig = json!({
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": server}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "users": [{"name": "test", "user": {"token": token}}],
        });
        std::fs::write(&path, kubeconfig.to_string()).expect("a file");
        path
    }

    /// A worker's backend, which brings this token.
    pub(crate) fn workload(&self, token: &str, extra: &[(&str, &str)]) -> Workload {
        let path = self.kubeconfig_of(token);
        let fixed = [
            ("WARMPROOF_BACKEND", "kubernetes"),
            ("WARMPROOF_KUBECONFIG", path.to_str().expect("a path")),
            ("KUBERNETES_NAMESPACE", self.namespace.as_str()),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://otel.example"),
        ];
        // Later pairs win, so that a test may name another namespace.
        let environment = Environment::from_pairs(fixed.into_iter().chain(extra.iter().copied()));
        let config = reader::read_all(&environment, WorkloadConfig::read).expect("a configuration");
        Workload::new(&config).expect("a workload")
    }
}

/// The dispatch of the recorded message, with some of its fields changed.
pub(crate) fn dispatch(changes: &[(&str, &str)]) -> CreateRequest {
    let mut message: Value = serde_json::from_str(FRESH).expect("a fixture");
    for (pointer, value) in changes {
        let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
        *message.pointer_mut(pointer).expect("a field of the message") = value;
    }
    let request = ColdStartRequest::parse(&message.to_string()).expect("a message");
    CreateRequest {
        name: request.workload_name(),
        verification_id: Some(VerificationId::fresh()),
        request,
        message: message.to_string(),
        timings: None,
        pod_scheduled_at_ms: 1_787_336_882_500,
        request_id: None,
        traceparent: None,
    }
}

/// The script that starts the server says so where it is.
fn server() -> String {
    std::env::var("WARMPROOF_TEST_KUBECONFIG")
        .expect("no API server: run `make test-kubernetes`, which starts one")
}

async fn made<K>(api: Api<K>, object: &Value)
where
    K: Clone + DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    let object = serde_json::from_value(object.clone()).expect("an object");
    api.create(&PostParams::default(), &object).await.expect("an object on the server");
}
