//! What a supervisor calls: schedule after a hit, cancel when the runner connects.
//!
//! ```no_run
//! # async fn supervise(message: Box<serde_json::value::RawValue>) -> Result<(), Box<dyn std::error::Error>> {
//! use warmproof::config::{SchedulerSettings, environment::Environment};
//! use warmproof::domain::dispatch::Dispatch;
//! use warmproof::scheduler::{Hit, Scheduler};
//!
//! let settings = SchedulerSettings::from_environment(&Environment::from_process())?;
//! let scheduler = Scheduler::connect(&settings).await?;
//! // The broker answered `didWarmStart: true`:
//! scheduler.schedule(Hit::new(Dispatch::parse(message, None)?)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! With `TRIGGER_WARM_START_VERIFY_ENABLED` unset or false every call answers `None`:
//! no connection is opened, no task started, no row written.

use std::time::Duration;

use sqlx::PgConnection;

use crate::config::SchedulerSettings;
use crate::config::verify::Switch;
use crate::domain::dispatch::Dispatch;
use crate::domain::ids::{IdError, PoolName, parse_name};
use crate::domain::verification::{
    Cancellation, Cancelled, DELAY_MAX, DELAY_MIN, Intent, NewVerification, ScheduleRefusal, Scheduled,
};
use crate::store::coalesce::{Coalescer, SharedError};
use crate::store::connect::Role;
use crate::store::{self, Store, StoreError};
use crate::telemetry::metrics;

/// Schedules and cancels verifications, or does nothing when verification is off.
#[derive(Debug, Clone)]
pub struct Scheduler {
    active: Option<Active>,
}

#[derive(Debug, Clone)]
struct Active {
    coalescer: Coalescer,
    schema: String,
    default_delay: Duration,
    /// Whether statements may be prepared by name.
    named: bool,
}

/// Why a schedule call was not carried out. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// The database could not be reached or failed; the call may be repeated as it is.
    #[error(transparent)]
    Store(#[from] SharedError),
    /// The database knows no such pool.
    #[error(transparent)]
    Refused(#[from] ScheduleRefusal),
    /// The delay is outside 1 s to 60 s.
    #[error("`delay`: must be from {} to {} ms", DELAY_MIN.as_millis(), DELAY_MAX.as_millis())]
    Delay,
    /// A name is empty, too long or holds control characters.
    #[error("`{field}`: {problem}")]
    Name {
        /// Which one.
        field: &'static str,
        /// What is wrong.
        problem: IdError,
    },
}

/// A hit to be verified; start with [`Hit::new`] and change what differs.
#[derive(Debug, Clone)]
pub struct Hit(NewVerification);

impl Hit {
    /// A hit in the `default` pool with the configured delay.
    #[must_use]
    pub fn new(dispatch: Dispatch) -> Self {
        Self(NewVerification {
            dispatch,
            pool: PoolName::default_pool(),
            supervisor: None,
            region: None,
            intent: Intent::Hit,
            delay: None,
        })
    }

    /// Whose backend would cold-start the run.
    #[must_use]
    pub fn pool(mut self, pool: PoolName) -> Self {
        self.0.pool = pool;
        self
    }

    /// Which supervisor dispatched it, for reports.
    #[must_use]
    pub fn supervisor(mut self, supervisor: impl Into<String>) -> Self {
        self.0.supervisor = Some(supervisor.into());
        self
    }

    /// Where that supervisor runs, for reports.
    #[must_use]
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.0.region = Some(region.into());
        self
    }

    /// Scheduled before the broker is asked; cancel as [`Miss`] when it says no.
    ///
    /// [`Miss`]: crate::domain::verification::CancelReason::Miss
    #[must_use]
    pub fn before_dispatch(mut self) -> Self {
        self.0.intent = Intent::Dispatch;
        self
    }

    /// From schedule to the first look, 1 s to 60 s.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.0.delay = Some(delay);
        self
    }
}

impl Scheduler {
    /// Connects, unless verification is off: then nothing is opened and it is said once at debug.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn connect(settings: &Switch<SchedulerSettings>) -> Result<Self, StoreError> {
        match settings {
            Switch::Disabled { reason } => {
                tracing::debug!(%reason, "warm-start verification is off: nothing is opened, started or written");
                Ok(Self { active: None })
            }
            Switch::Enabled(settings) => {
                let store = Store::connect(&settings.database, Role::Callers).await?;
                Ok(Self::new(&store, settings.database.schema.clone(), settings.verify.delay))
            }
        }
    }

    /// A scheduler on a store that is connected already.
    ///
    /// Must be called within a runtime, which the lanes of coalesced calls run on.
    #[must_use]
    pub fn new(store: &Store, schema: impl Into<String>, default_delay: Duration) -> Self {
        let coalescer = Coalescer::start(store, default_delay);
        let named = !store.db().is_behind_a_pooler();
        Self { active: Some(Active { coalescer, schema: schema.into(), default_delay, named }) }
    }

    /// Promises that somebody looks at this dispatch. Returned means durable; `None` means off.
    ///
    /// # Errors
    /// See [`ScheduleError`]; on any of them nothing was promised.
    pub async fn schedule(&self, hit: Hit) -> Result<Option<Scheduled>, ScheduleError> {
        let Some(active) = &self.active else { return Ok(None) };
        check(&hit.0)?;
        let pool = hit.0.pool.clone();
        let scheduled = active.coalescer.schedule(hit.0).await??;
        metrics::scheduled(&pool, scheduled.result);
        Ok(Some(scheduled))
    }

    /// The same inside the caller's own transaction: the promise holds when it commits.
    ///
    /// # Errors
    /// See [`ScheduleError`]; on [`ScheduleError::Store`] roll the transaction back.
    pub async fn schedule_in(
        &self,
        transaction: &mut PgConnection,
        hit: Hit,
    ) -> Result<Option<Scheduled>, ScheduleError> {
        let Some(active) = &self.active else { return Ok(None) };
        check(&hit.0)?;
        let answer = store::schedule::schedule_in(
            transaction,
            &active.schema,
            &hit.0,
            active.default_delay,
            active.named,
        )
        .await;
        let answer = answer.map_err(SharedError::new)?;
        Ok(Some(answer?))
    }

    /// Takes a promise back; `None` means off.
    ///
    /// # Errors
    /// The database could not be reached; the call may be repeated as it is.
    pub async fn cancel(&self, cancellation: Cancellation) -> Result<Option<Cancelled>, SharedError> {
        let Some(active) = &self.active else { return Ok(None) };
        let reason = cancellation.reason;
        let cancelled = active.coalescer.cancel(cancellation).await?;
        metrics::cancelled(reason, &cancelled);
        Ok(Some(cancelled))
    }
}

fn check(new: &NewVerification) -> Result<(), ScheduleError> {
    if new.delay.is_some_and(|delay| !(DELAY_MIN..=DELAY_MAX).contains(&delay)) {
        return Err(ScheduleError::Delay);
    }
    for (field, name) in [("supervisor", &new.supervisor), ("region", &new.region)] {
        if let Some(name) = name {
            parse_name(name).map_err(|problem| ScheduleError::Name { field, problem })?;
        }
    }
    Ok(())
}
