//! What a container consists of, and what the holder of a name means. Pure.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum as Status, HostConfig,
};
use chrono::{DateTime, Utc};

use crate::config::docker::DockerConfig;
use crate::domain::ids::SnapshotId;
use crate::workload::{CreateError, CreateRequest};

/// Labels that identify a container; the platform's supervisor sets none.
const RUN_LABEL: &str = "warmproof.run-id";
/// The label that ties a container to us and to its dispatch.
pub(super) const SNAPSHOT_LABEL: &str = "warmproof.snapshot-id";
const VERIFICATION_LABEL: &str = "warmproof.verification-id";

/// The holder of a container's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Holder {
    /// The name is free.
    Free,
    /// A container that does not belong to this dispatch.
    Foreign,
    /// Ours; made and never started.
    NeverStarted { id: String },
    /// Ours; it lives.
    Alive,
    /// Ours; it ended, at this instant of the engine's clock if known.
    Ended { id: String, at: Option<DateTime<Utc>> },
    /// Ours; it is ending or being removed.
    Leaving,
}

/// Checks that a name may be part of a path of the engine's API.
pub(super) fn name(name: &str) -> Result<&str, CreateError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.bytes().all(fits) {
        return Ok(name);
    }
    Err(CreateError::Permanent { reason: "the workload's name is not valid for a container".to_owned() })
}

/// The body of a create: that of the platform's supervisor, and our labels.
pub(super) fn body(
    config: &DockerConfig,
    create: &CreateRequest,
    image: String,
    env: Vec<(String, String)>,
) -> ContainerCreateBody {
    let machine = Some(&create.request.run.machine).filter(|_| config.enforce_machine_presets);
    ContainerCreateBody {
        hostname: Some(create.name.clone()),
        image: Some(image),
        env: Some(env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()),
        attach_stdin: Some(false),
        attach_stdout: Some(false),
        attach_stderr: Some(false),
        labels: Some(labels(create)),
        host_config: Some(HostConfig {
            auto_remove: Some(config.autoremove),
            network_mode: config.networks.first().cloned(),
            nano_cpus: machine.map(|machine| whole(machine.cpu * 1e9)),
            memory: machine.map(|machine| whole(machine.memory * f64::from(1 << 30))),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

fn labels(create: &CreateRequest) -> HashMap<String, String> {
    let request = &create.request;
    let verification = create.verification_id.map(|id| (VERIFICATION_LABEL, id.to_string()));
    [
        (RUN_LABEL, request.run.friendly_id.as_str().to_owned()),
        (SNAPSHOT_LABEL, request.snapshot.friendly_id.as_str().to_owned()),
    ]
    .into_iter()
    .chain(verification)
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// A number of the machine preset in the engine's unit.
#[expect(clippy::cast_possible_truncation, reason = "a cast saturates, and the engine refuses absurd values")]
fn whole(number: f64) -> i64 {
    number.round() as i64
}

/// How the container under a name relates to a dispatch.
pub(super) fn holder(inspected: ContainerInspectResponse, snapshot: &SnapshotId) -> Holder {
    let labels = inspected.config.and_then(|config| config.labels).unwrap_or_default();
    if labels.get(SNAPSHOT_LABEL).map(String::as_str) != Some(snapshot.as_str()) {
        return Holder::Foreign;
    }
    let (Some(id), Some(state)) = (inspected.id, inspected.state) else { return Holder::Leaving };
    match state.status {
        Some(Status::CREATED) => Holder::NeverStarted { id },
        Some(Status::RUNNING | Status::PAUSED | Status::RESTARTING) => Holder::Alive,
        Some(Status::EXITED | Status::DEAD) => {
            Holder::Ended { id, at: state.finished_at.as_deref().and_then(instant) }
        }
        Some(Status::REMOVING | Status::STOPPING | Status::EMPTY) | None => Holder::Leaving,
    }
}

/// Parses an instant as the engine writes it.
pub(super) fn instant(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|at| at.to_utc())
}
