//! What a supervisor calls: schedule after a hit, cancel when the runner connects.
//!
//! ```no_run
//! use warmproof::config::{SchedulerSettings, environment::Environment};
//! use warmproof::domain::dispatch::Dispatch;
//! use warmproof::domain::verification::{CancelReason, Cancellation};
//! use warmproof::scheduler::{Hit, Scheduler};
//!
//! # use sqlx::Connection as _;
//! # async fn supervise(
//! #     message: Box<serde_json::value::RawValue>, another: Dispatch, own: &mut sqlx::PgConnection,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! // Reads TRIGGER_WARM_START_VERIFY_ENABLED, WARMPROOF_DATABASE_URL and the like; names each that is wrong.
//! let settings = SchedulerSettings::from_environment(&Environment::from_process())?;
//! let scheduler = Scheduler::connect(&settings).await?;
//!
//! // The broker answered `didWarmStart: true` for this dequeued message.
//! let dispatch = Dispatch::parse(message, None)?;
//! let (run_id, snapshot_id) = (dispatch.run_id.clone(), dispatch.snapshot_id.clone());
//! scheduler.schedule(Hit::new(dispatch).supervisor("node-7".parse()?)).await?;
//!
//! // Or inside a transaction of the supervisor's own: the promise commits with it, or not at all.
//! let mut transaction = own.begin().await?;
//! scheduler.schedule_in(&mut transaction, Hit::new(another)).await?;
//! transaction.commit().await?;
//!
//! // The runner connected.
//! let reason = CancelReason::Connected;
//! scheduler.cancel(Cancellation { run_id, snapshot_id: Some(snapshot_id), reason }).await?;
//!
//! // On shutdown, after the last call.
//! scheduler.close().await;
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
use crate::domain::ids::{PoolName, RegionName, SupervisorName};
use crate::domain::verification::{
    Cancellation, Cancelled, DELAY_MAX, DELAY_MIN, Intent, NewVerification, ScheduleRefusal, Scheduled,
};
use crate::store::SharedError;
use crate::store::connect::Role;
use crate::store::{Store, StoreError};

mod calls;

pub use calls::Calls;

/// Schedules and cancels verifications, or does nothing when verification is off.
#[derive(Debug, Clone)]
pub struct Scheduler {
    active: Option<Calls>,
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

    /// The pool whose backend would cold-start the run.
    #[must_use]
    pub fn pool(mut self, pool: PoolName) -> Self {
        self.0.pool = pool;
        self
    }

    /// The supervisor that dispatched it, for reports.
    #[must_use]
    pub fn supervisor(mut self, supervisor: SupervisorName) -> Self {
        self.0.supervisor = Some(supervisor);
        self
    }

    /// Where that supervisor runs, for reports.
    #[must_use]
    pub fn region(mut self, region: RegionName) -> Self {
        self.0.region = Some(region);
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

    /// From schedule to the first probe, 1 s to 60 s.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.0.delay = Some(delay);
        self
    }
}

impl Scheduler {
    /// Connects, unless verification is off: then it opens nothing and says so once at debug level.
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
                Ok(Self::new(&store, settings.verify.delay))
            }
        }
    }

    /// A scheduler on a store that is connected already.
    ///
    /// Call it within a runtime, which the lanes of coalesced calls run on.
    #[must_use]
    pub fn new(store: &Store, default_delay: Duration) -> Self {
        Self { active: Some(Calls::start(store, default_delay)) }
    }

    /// Schedules one dispatch. Returned means durable; `None` means off.
    ///
    /// # Errors
    /// See [`ScheduleError`]; on any of them nothing was promised.
    pub async fn schedule(&self, hit: Hit) -> Result<Option<Scheduled>, ScheduleError> {
        let Some(calls) = &self.active else { return Ok(None) };
        check(&hit.0)?;
        Ok(Some(calls.schedule(hit.0).await??))
    }

    /// The same inside the caller's own transaction: the promise holds once that commits.
    ///
    /// # Errors
    /// See [`ScheduleError`]; on [`ScheduleError::Store`] roll the transaction back.
    pub async fn schedule_in(
        &self,
        transaction: &mut PgConnection,
        hit: Hit,
    ) -> Result<Option<Scheduled>, ScheduleError> {
        let Some(calls) = &self.active else { return Ok(None) };
        check(&hit.0)?;
        Ok(Some(calls.schedule_in(transaction, &hit.0).await??))
    }

    /// Takes a promise back; `None` means off.
    ///
    /// # Errors
    /// The database could not be reached; the call may be repeated as it is.
    pub async fn cancel(&self, cancellation: Cancellation) -> Result<Option<Cancelled>, SharedError> {
        let Some(calls) = &self.active else { return Ok(None) };
        Ok(Some(calls.cancel(cancellation).await?))
    }

    /// Closes the connections to the database. What was answered stays; calls that are under way end first.
    pub async fn close(self) {
        if let Some(calls) = self.active {
            calls.close().await;
        }
    }
}

fn check(new: &NewVerification) -> Result<(), ScheduleError> {
    if new.delay.is_some_and(|delay| !(DELAY_MIN..=DELAY_MAX).contains(&delay)) {
        return Err(ScheduleError::Delay);
    }
    Ok(())
}
