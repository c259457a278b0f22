//! Kubernetes: one pod per cold start, whose name is the lock (platform.md §5.5 and §5.7).
//!
//! ```text
//! POST ─ 201 ─▶ created
//!   ├─ 409 ─────────────────▶ GET the pod ─ ours, alive ─▶ existed (created, if the reply was lost)
//!   ├─ no reply, 5xx ───────▶      ├─ ours, finished ─▶ DELETE that very pod, POST once more
//!   └─ another refusal ─▶ error    ├─ being deleted, gone, unreadable ─▶ error
//!                                  └─ of another snapshot ─▶ permanent error
//! ```
//!
//! It never waits for a pod to run: the platform reports whether a run has started.

use std::sync::Arc;

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::Pod;
use kube::Resource;
use kube::api::{DeleteParams, GetParams, ListParams, PostParams, Preconditions};
use kube::core::Request;
use secrecy::ExposeSecret;

use crate::config::kubernetes::KubernetesConfig;
use crate::config::runner::RunnerEnvConfig;

use super::runner_env::Runner;
use super::{BackendError, CreateError, Created, Order};

mod answer;
mod connection;
mod placement;
mod pod;
mod resources;

use answer::{Holder, Posted};
use connection::{Connection, Failure, Purpose, Reply};

/// Most creates of one call: the first, and one after a finished pod was removed.
const POSTS_MAX: u32 = 2;

/// The rights that a create may need; people need `list`.
const VERBS: [&str; 3] = ["create", "get", "delete"];

/// A configured namespace of a cluster.
#[derive(Debug, Clone)]
pub(super) struct Kubernetes {
    config: Arc<KubernetesConfig>,
    connection: Connection,
}

/// One pod to create.
struct Wanted<'a> {
    name: &'a str,
    snapshot_id: &'a str,
    body: Vec<u8>,
    /// Secrets that the API may repeat; no error text may hold them.
    secrets: Vec<&'a str>,
}

impl Kubernetes {
    /// Does not connect; the first create reports a cluster that cannot be reached.
    pub(super) fn new(config: &KubernetesConfig) -> Self {
        let connection = Connection::new(config.access.clone());
        Self { config: Arc::new(config.clone()), connection }
    }

    pub(super) async fn create(
        &self,
        order: &Order<'_>,
        runner: &Runner<'_>,
        env: &RunnerEnvConfig,
    ) -> Result<Created, CreateError> {
        let pod = pod::pod(&self.config, order, runner, env)?;
        let body = serde_json::to_vec(&pod).map_err(|error| CreateError::Permanent {
            reason: format!("could not serialize the pod: {error}"),
        })?;
        let additional = env.additional.iter().map(|(_, value)| value);
        let token = [runner.deployment_id].into_iter().filter(|id| id.expose_secret() != runner.deployment);
        let wanted = Wanted {
            name: &runner.create.name,
            snapshot_id: runner.create.request.snapshot.friendly_id.as_str(),
            body,
            secrets: additional.chain(token).map(ExposeSecret::expose_secret).collect(),
        };
        for _ in 0..POSTS_MAX {
            if let Some(created) = self.create_once(&wanted).await? {
                return Ok(created);
            }
        }
        let reason = "the pod's name was freed and taken again".to_owned();
        Err(CreateError::Transient { reason, name_may_be_taken: false })
    }

    /// One create; `None` if the name was taken and is now free.
    async fn create_once(&self, wanted: &Wanted<'_>) -> Result<Option<Created>, CreateError> {
        let workload = wanted.name.to_owned();
        let unclear = match answer::posted(&self.post(wanted).await, wanted.name, &wanted.secrets) {
            Posted::Created => return Ok(Some(Created::Created { workload })),
            Posted::Refused(error) => return Err(error),
            Posted::Taken => None,
            Posted::Unclear(error) => Some(error),
        };
        match (self.holder(wanted).await, unclear) {
            (Holder::Ours, None) => Ok(Some(Created::Existed { workload })),
            (Holder::Ours, Some(_)) => Ok(Some(Created::Created { workload })),
            (Holder::Absent, None) => Ok(None),
            (Holder::Absent, Some(error)) => Err(error),
            (Holder::Finished { uid }, None) => self.remove(wanted, uid).await.map(|()| None),
            // This very request may have made it, and the run may be done by now: a probe decides.
            (Holder::Finished { .. }, Some(error)) => {
                Err(CreateError::Uncertain { reason: format!("{error}; the pod has finished") })
            }
            (Holder::Ending, _) => {
                let reason = "an earlier pod of this name is being deleted".to_owned();
                Err(CreateError::Transient { reason, name_may_be_taken: false })
            }
            (Holder::Other { snapshot_id }, _) => Err(CreateError::Permanent {
                reason: format!("the pod of this name was made for another snapshot: {snapshot_id}"),
            }),
            (Holder::Unknown { reason }, None) => {
                Err(CreateError::Uncertain { reason: format!("the pod's name is taken; {reason}") })
            }
            (Holder::Unknown { reason }, Some(error)) => {
                Err(CreateError::Uncertain { reason: format!("{error}; {reason}") })
            }
        }
    }

    /// Checks that the cluster answers and grants the rights that a create needs.
    pub(super) async fn check(&self) -> Result<(), BackendError> {
        let mut missing = Vec::new();
        for verb in VERBS {
            let reply = self.review(verb).await;
            match answer::allowed(&reply) {
                Ok(true) => {}
                Ok(false) => missing.push(verb),
                // Some clusters allow no access reviews; then a list must be enough.
                Err(_) if is_forbidden(&reply) => return self.check_by_list().await,
                Err(reason) => return Err(BackendError(reason)),
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let (verbs, namespace) = (missing.join("`, `"), &self.config.namespace);
        Err(BackendError(format!(
            "the Kubernetes API does not let us `{verbs}` pods in the namespace `{namespace}`"
        )))
    }

    async fn check_by_list(&self) -> Result<(), BackendError> {
        let list = self.pods().list(&ListParams::default().limit(1));
        answer::done(&self.connection.ask(list, Purpose::Read).await).map_err(BackendError)
    }

    async fn post(&self, wanted: &Wanted<'_>) -> Result<Reply, Failure> {
        let create = self.pods().create(&PostParams::default(), wanted.body.clone());
        self.connection.ask(create, Purpose::Write).await
    }

    async fn holder(&self, wanted: &Wanted<'_>) -> Holder {
        let get = self.pods().get(wanted.name, &GetParams::default());
        let reply = self.connection.ask(get, Purpose::Read).await;
        answer::holder(&reply, wanted.snapshot_id, &wanted.secrets)
    }

    /// Deletes the finished pod and no other: a pod that has replaced it has another uid.
    async fn remove(&self, wanted: &Wanted<'_>, uid: String) -> Result<(), CreateError> {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(uid), resource_version: None }),
            ..DeleteParams::default()
        };
        let delete = self.pods().delete(wanted.name, &params);
        answer::removed(&self.connection.ask(delete, Purpose::Write).await, &wanted.secrets)
    }

    async fn review(&self, verb: &str) -> Result<Reply, Failure> {
        let attributes = ResourceAttributes {
            verb: Some(verb.to_owned()),
            resource: Some("pods".to_owned()),
            namespace: Some(self.config.namespace.clone()),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..<_>::default() };
        let review = SelfSubjectAccessReview { spec, ..<_>::default() };
        let body = serde_json::to_vec(&review).unwrap_or_default();
        let reviews = Request::new(SelfSubjectAccessReview::url_path(&(), None));
        self.connection.ask(reviews.create(&PostParams::default(), body), Purpose::Read).await
    }

    fn pods(&self) -> Request {
        Request::new(Pod::url_path(&(), Some(&self.config.namespace)))
    }
}

fn is_forbidden(reply: &Result<Reply, Failure>) -> bool {
    reply.as_ref().is_ok_and(|reply| reply.status.as_u16() == 403)
}

#[cfg(test)]
mod tests;
