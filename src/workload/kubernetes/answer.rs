//! Judges the API server's answers: what was made, which pod holds a name, what the next request may do.
//!
//! Pure, so that a test can cover each status with one row. Matches codes and reasons; message texts only where the API
//! has nothing else.

use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;

use crate::workload::CreateError;
use crate::workload::answer::presentable;

use super::connection::{Failure, Reply};
use super::pod::SNAPSHOT_VARIABLE;

/// The result of one create.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Posted {
    /// The pod is ours.
    Created,
    /// The name is taken; the next request must look up the holder.
    Taken,
    /// It may have been made; if a lookup does not find it, this is the error.
    Unclear(CreateError),
    /// It was not made.
    Refused(CreateError),
}

/// The holder of a pod's name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// A pod of the same snapshot that has not finished.
    Ours,
    /// A pod of the same snapshot that has succeeded or failed, though the run still waits.
    Finished {
        /// The pod's own id, so that a delete cannot hit another pod.
        uid: String,
    },
    /// A pod that is being deleted.
    Ending,
    /// A pod of another snapshot.
    Other {
        /// That snapshot, safe to print.
        snapshot_id: String,
    },
    /// The name is free.
    Absent,
    /// The lookup failed.
    Unknown {
        /// Why.
        reason: String,
    },
}

/// The API's error object; any other body comes from a proxy.
#[derive(Deserialize)]
struct Status {
    kind: Kind,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
enum Kind {
    Status,
}

/// What an answer to a create of `name` means.
pub(super) fn posted(reply: &Result<Reply, Failure>, name: &str, secrets: &[&str]) -> Posted {
    let transient = |reason: String| CreateError::Transient { reason, name_may_be_taken: false };
    let reply = match reply {
        Ok(reply) => reply,
        Err(Failure::NotSent { reason }) => return Posted::Refused(transient(presentable(reason, secrets))),
        Err(Failure::Unanswered { reason }) => {
            return Posted::Unclear(CreateError::Uncertain { reason: presentable(reason, secrets) });
        }
    };
    let status = reply.api_status();
    let reason = reply.reason(secrets);
    match reply.status.as_u16() {
        200..=299 => {
            let pod = reply.read::<Pod>();
            if pod.is_some_and(|pod| pod.metadata.name.as_deref() == Some(name)) {
                return Posted::Created;
            }
            Posted::Unclear(CreateError::Uncertain { reason: format!("{reason} without the pod") })
        }
        409 if status.as_ref().is_some_and(|status| status.reason == "AlreadyExists") => Posted::Taken,
        // Another object changed at the same time, such as a quota; or the server is overloaded.
        409 | 429 => Posted::Refused(transient(reason)),
        // Pods end, and then the quota has room. The API marks this 403 by its words alone.
        403 if status.as_ref().is_some_and(|status| status.message.contains("exceeded quota")) => {
            Posted::Refused(transient(reason))
        }
        // A proxy's: the API server behind it is away.
        404 if status.is_none() => Posted::Refused(transient(reason)),
        // The API server reports that it failed, perhaps after it wrote. The next request has the same name
        // and finds what it wrote.
        500..=599 if reply.api_status().is_some() => Posted::Unclear(transient(reason)),
        // A proxy gave up waiting; the API server behind it may still complete the create.
        408 | 500..=599 => Posted::Unclear(CreateError::Uncertain { reason }),
        _ => Posted::Refused(CreateError::Permanent { reason }),
    }
}

/// Which holder an answer to a lookup shows.
pub(super) fn holder(reply: &Result<Reply, Failure>, snapshot_id: &str, secrets: &[&str]) -> Holder {
    let unknown = |reason: &str| Holder::Unknown {
        reason: presentable(&format!("could not look up the pod: {reason}"), secrets),
    };
    let reply = match reply {
        Ok(reply) => reply,
        Err(Failure::NotSent { reason } | Failure::Unanswered { reason }) => return unknown(reason),
    };
    match reply.status.as_u16() {
        200 => reply
            .read::<Pod>()
            .map_or_else(|| unknown("the answer is no pod"), |pod| held_by(&pod, snapshot_id, secrets)),
        // A 404 from a proxy means nothing about pods.
        404 if reply.api_status().is_some() => Holder::Absent,
        _ => unknown(&reply.reason(secrets)),
    }
}

fn held_by(pod: &Pod, snapshot_id: &str, secrets: &[&str]) -> Holder {
    if pod.metadata.deletion_timestamp.is_some() {
        return Holder::Ending;
    }
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut variables = containers.flat_map(|container| container.env.iter().flatten());
    let theirs = variables.find(|variable| variable.name == SNAPSHOT_VARIABLE);
    let theirs = theirs.and_then(|variable| variable.value.as_deref());
    if theirs != Some(snapshot_id) {
        let snapshot_id = theirs.map_or_else(|| "none is named".to_owned(), |id| presentable(id, secrets));
        return Holder::Other { snapshot_id };
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    match (phase, &pod.metadata.uid) {
        (Some("Succeeded" | "Failed"), Some(uid)) => Holder::Finished { uid: uid.clone() },
        _ => Holder::Ours,
    }
}

/// Whether a finished pod is gone; if not, the cluster or a clean-up job may still remove it.
pub(super) fn removed(reply: &Result<Reply, Failure>, secrets: &[&str]) -> Result<(), CreateError> {
    let reason = match reply {
        // Already gone, or replaced by a faster worker's pod: the next create decides.
        Ok(reply) if reply.status.is_success() || matches!(reply.status.as_u16(), 404 | 409) => return Ok(()),
        Ok(reply) => reply.reason(secrets),
        Err(Failure::NotSent { reason } | Failure::Unanswered { reason }) => reason.clone(),
    };
    let reason = presentable(&format!("could not delete the finished pod of this name: {reason}"), secrets);
    Err(CreateError::Transient { reason, name_may_be_taken: false })
}

/// The result of an access review.
pub(super) fn allowed(reply: &Result<Reply, Failure>) -> Result<bool, String> {
    done(reply)?;
    let review = reply.as_ref().ok().and_then(Reply::read::<SelfSubjectAccessReview>);
    let status = review.and_then(|review| review.status);
    status.map(|status| status.allowed).ok_or_else(|| "the answer is no access review".to_owned())
}

/// Whether a request succeeded; if not, why, as text for people.
pub(super) fn done(reply: &Result<Reply, Failure>) -> Result<(), String> {
    match reply {
        Ok(reply) if reply.status.is_success() => Ok(()),
        Ok(reply) => Err(reply.reason(&[])),
        Err(Failure::NotSent { reason } | Failure::Unanswered { reason }) => Err(presentable(reason, &[])),
    }
}

impl Reply {
    fn read<T: for<'de> Deserialize<'de>>(&self) -> Option<T> {
        serde_json::from_slice(self.body.as_ref()?).ok()
    }

    fn api_status(&self) -> Option<Status> {
        self.read::<Status>().filter(|Status { kind: Kind::Status, .. }| true)
    }

    /// The code, and the API's own words if there are any.
    fn reason(&self, secrets: &[&str]) -> String {
        let code = self.status.as_u16();
        match self.api_status() {
            Some(Status { reason, message, .. }) if !message.is_empty() => {
                let words = presentable(&format!("{reason}: {message}"), secrets);
                format!("the Kubernetes API answered {code} {words}")
            }
            Some(_) | None => format!("the Kubernetes API answered {code}"),
        }
    }
}

#[cfg(test)]
mod tests;
