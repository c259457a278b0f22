//! Early: a probe that an operator asks for before it is due, and what it saw.

use serde_json::json;

use super::audit::{self, Actor};
use super::connect::Terms;
use super::text::storable;
use super::{Store, StoreError};
use crate::domain::claim::{ClaimKey, EarlyProbe};
use crate::domain::ids::RunId;

/// What became of the wish that a run be probed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "there may be nothing to probe"]
pub enum ProbeNow {
    /// Nothing of the run is pending, or a worker has it in flight.
    Nothing,
    /// It was due already, or is marked lost: a worker probes and judges as usual.
    Due,
    /// It is not due yet: a worker probes so.
    Early(EarlyProbe),
}

impl Store {
    /// Moves a run's next probe to now. If it is not due yet, the probe observes and changes nothing, or acts if the
    /// operator says so.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn probe_now(
        &self,
        run_id: &RunId,
        early: EarlyProbe,
        actor: &Actor,
    ) -> Result<ProbeNow, StoreError> {
        let doing = "probe now";
        let (run_id, actor) = (run_id.clone(), actor.clone());
        self.db()
            .transaction(doing, Terms::PATIENT, move |tx| {
                Box::pin(async move {
                    let moved = sqlx::query_scalar!(
                        r#"update pending
                           set probe_at = least(probe_at, statement_timestamp()),
                             early = case when due_at > statement_timestamp() and lost_at is null then $2 else early end
                           where run_id = $1
                             and (lease_expires_at is null or lease_expires_at <= statement_timestamp())
                           returning due_at > statement_timestamp() and lost_at is null as "is_early!""#,
                        run_id.as_str(),
                        early.as_str()
                    )
                    .fetch_optional(&mut *tx)
                    .await
                    .map_err(StoreError::doing(doing))?;
                    let Some(is_early) = moved else { return Ok(ProbeNow::Nothing) };
                    let detail = if is_early { json!({ "early": early }) } else { json!({}) };
                    audit::note(tx, &actor, "probe_now", Some(run_id.as_str()), &detail).await?;
                    Ok(if is_early { ProbeNow::Early(early) } else { ProbeNow::Due })
                })
            })
            .await
    }

    /// Records what a probe saw that is to change nothing, and gives the claim back until it is due. Answers whether
    /// it was still ours.
    ///
    /// # Errors
    /// The database could not be reached; the lease runs out.
    pub async fn record_observation(&self, key: &ClaimKey, observation: &str) -> Result<bool, StoreError> {
        let recorded = sqlx::query!(
            "update pending
             set probe_at = greatest(due_at, statement_timestamp()), early = null, observation = $4, observed_at = statement_timestamp(),
               probe_count = probe_count + 1, lease_expires_at = null, fence = null, worker = null
             where run_id = $1 and id = $2 and fence = $3",
            key.run_id.as_str(),
            key.id.0,
            key.fence.get(),
            &*storable(observation)
        )
        .execute(self.patient())
        .await
        .map_err(StoreError::doing("record an observation"))?;
        Ok(recorded.rows_affected() > 0)
    }
}
