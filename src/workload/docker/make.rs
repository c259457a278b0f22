//! Makes one dispatch's container, also when several workers try at the same time.
//!
//! ```text
//! create ── made ──────────────▶ connect ─ start ─ Created
//!    │                              ▲        │
//!    └ refused ─ holder of the name?│        └ failed, never started: remove it, report why
//!         ├ ours, never started ────┘ (Existed)
//!         ├ ours, alive ─ Existed
//!         ├ ours, ended ─ before the observation: remove it, again; since then: a probe decides
//!         ├ not ours ─ permanent error
//!         └ free, or being removed ─ again, a few times
//! ```

use std::time::Duration;

use bollard::models::{ContainerCreateBody, NetworkConnectRequest};
use bollard::query_parameters::{CreateContainerOptionsBuilder, StartContainerOptions};
use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

use crate::domain::ids::SnapshotId;
use crate::domain::verdict::OBSERVATION_AGE_MAX;
use crate::workload::{CreateError, Created};

use super::container::Holder;
use super::engine::{DockerEngine, EngineError};
use super::remove_unless_running;
use super::wording::{judge, transient, uncertain};

/// How often a name is tried while its holder is being removed.
const ROUNDS_MAX: u32 = 5;
/// Pause between them; the engine frees a name within a fraction of a second.
const ROUND_PAUSE: Duration = Duration::from_millis(200);
/// How far the engine's clock may be from ours.
const CLOCK_MARGIN: Duration = Duration::from_secs(1);

/// Statuses of a create that will not change: its body is wrong.
const CREATE_PERMANENT: [u16; 3] = [400, 401, 403];
/// Statuses of a connect or start that will not change: the program or a network is missing.
const BEGIN_PERMANENT: [u16; 4] = [400, 401, 403, 404];

/// One container to make.
pub(super) struct Making<'a> {
    pub(super) engine: &'a DockerEngine,
    pub(super) name: &'a str,
    pub(super) snapshot_id: &'a SnapshotId,
    pub(super) platform: Option<&'a str>,
    pub(super) body: ContainerCreateBody,
    /// The networks besides the first.
    pub(super) networks: &'a [String],
    /// What must not appear in an error text.
    pub(super) secrets: &'a [&'a str],
    /// When it was requested.
    pub(super) began: Instant,
}

/// The result of a round.
enum Round {
    Over(Result<Created, CreateError>),
    /// No container exists now; this is the error if no later round makes one.
    Again(CreateError),
}

impl Making<'_> {
    pub(super) async fn make(self) -> Result<Created, CreateError> {
        let mut round = 1;
        loop {
            match self.round().await {
                Round::Over(result) => return result,
                Round::Again(error) if round >= ROUNDS_MAX => return Err(error),
                Round::Again(_) => round += 1,
            }
            tokio::time::sleep(ROUND_PAUSE).await;
        }
    }

    async fn round(&self) -> Round {
        let options = CreateContainerOptionsBuilder::default()
            .name(self.name)
            .platform(self.platform.unwrap_or_default())
            .build();
        let body = self.body.clone();
        let create =
            |docker: bollard::Docker| async move { docker.create_container(Some(options), body).await };
        match self.engine.call(create).await {
            Ok(made) => self.begin(&made.id, Created::Created { workload: self.name.to_owned() }).await,
            Err(error) => self.refused(error).await,
        }
    }

    /// The create failed. The holder of the name decides what that means.
    async fn refused(&self, refusal: EngineError) -> Round {
        let refused = judge("create the container", &refusal, &CREATE_PERMANENT, self.secrets);
        let existed = Created::Existed { workload: self.name.to_owned() };
        let holder = match self.engine.holder_of(self.name, self.snapshot_id).await {
            Ok(holder) => holder,
            // No request was sent, so nothing new can exist.
            Err(_) if matches!(refusal, EngineError::Unreached { .. }) => return Round::Over(Err(refused)),
            Err(_) => return Round::Over(Err(uncertain(refused))),
        };
        match holder {
            Holder::Alive => Round::Over(Ok(existed)),
            Holder::NeverStarted { id } => self.begin(&id, existed).await,
            Holder::Ended { id, at } => self.replace(&id, at).await,
            Holder::Foreign => {
                let reason = format!("the name `{}` is taken by a container of something else", self.name);
                Round::Over(Err(CreateError::Permanent { reason }))
            }
            Holder::Free if matches!(refusal, EngineError::Refused { status: 409, .. }) => {
                Round::Again(refused)
            }
            Holder::Free => Round::Over(Err(refused)),
            Holder::Leaving => {
                let reason = format!("the name `{}` is held by a container that is being removed", self.name);
                Round::Again(transient(reason))
            }
        }
    }

    /// A container of this dispatch has ended. If it ended after the last observation, the run may be done.
    async fn replace(&self, id: &str, at: Option<DateTime<Utc>>) -> Round {
        let now = match self.engine.now().await {
            Ok(now) => now,
            Err(error) => return Round::Over(Err(judge("ask for the time", &error, &[], self.secrets))),
        };
        let since_observation =
            TimeDelta::from_std(OBSERVATION_AGE_MAX + CLOCK_MARGIN + self.began.elapsed())
                .unwrap_or(TimeDelta::MAX);
        if at.is_some_and(|at| now - at < since_observation) {
            let reason = format!("`{}` ended after the last probe and may have done its work", self.name);
            return Round::Over(Err(transient(reason)));
        }
        let ended = transient(format!("`{}` has ended, and its name is not free yet", self.name));
        match remove_unless_running(self.engine, id).await {
            Ok(_) => Round::Again(ended),
            Err(error) => {
                let what = "remove the container that has ended";
                Round::Over(Err(judge(what, &error, &[], self.secrets)))
            }
        }
    }

    /// Connects and starts a container. Both may be done twice, so concurrent workers do no harm.
    async fn begin(&self, id: &str, done: Created) -> Round {
        for network in self.networks {
            if let Err(error) = self.connect(network, id).await {
                let what = format!("connect the container to `{network}`");
                return self.not_begun(id, done, &what, error).await;
            }
        }
        let start = |docker: bollard::Docker| async move {
            docker.start_container(id, None::<StartContainerOptions>).await
        };
        match self.engine.call(start).await {
            Ok(()) => Round::Over(Ok(done)),
            Err(error) => self.not_begun(id, done, "start the container", error).await,
        }
    }

    async fn connect(&self, network: &str, id: &str) -> Result<(), EngineError> {
        let request = NetworkConnectRequest { container: id.to_owned(), endpoint_config: None };
        let connect = |docker: bollard::Docker| async move { docker.connect_network(network, request).await };
        let Err(error) = self.engine.call(connect).await else { return Ok(()) };
        // The engine answers "is connected already" and "must not be connected" alike: inspect the container.
        if self.engine.is_connected(id, network).await? { Ok(()) } else { Err(error) }
    }

    /// A failed start must not leave a container that holds the name and never runs.
    async fn not_begun(&self, id: &str, done: Created, what: &str, error: EngineError) -> Round {
        let failed = judge(what, &error, &BEGIN_PERMANENT, self.secrets);
        match self.engine.holder_of(id, self.snapshot_id).await {
            // Another worker started it, or this start arrived after all.
            Ok(Holder::Alive | Holder::Ended { .. }) => Round::Over(Ok(done)),
            // A start without an answer may still happen.
            Ok(Holder::NeverStarted { .. }) if matches!(error, EngineError::Unanswered { .. }) => {
                Round::Over(Err(failed))
            }
            Ok(Holder::NeverStarted { .. }) => {
                if let Err(error) = remove_unless_running(self.engine, id).await {
                    tracing::warn!(%error, container = self.name, "could not remove an unstarted container");
                }
                Round::Over(Err(failed))
            }
            // The start found no container, or another program removed it meanwhile.
            Ok(Holder::Free | Holder::Leaving | Holder::Foreign)
                if matches!(error, EngineError::Refused { status: 404 | 409, .. }) =>
            {
                Round::Again(failed)
            }
            // The engine removed it after the failure, as automatic removal does with exited containers.
            Ok(Holder::Free | Holder::Leaving | Holder::Foreign) => Round::Over(Err(failed)),
            Err(_) => Round::Over(Err(uncertain(failed))),
        }
    }
}
