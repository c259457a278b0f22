//! Cancel: a run was seen alive elsewhere, missed, or given up by an operator.
//!
//! The rules stand in the database function `cancel_many`. Here is decided how a
//! batch commits: only a batch of connects may commit asynchronously, because
//! losing one costs a probe and no more (design §3, cancel).

use uuid::Uuid;

use super::error::again_on_deadlock;
use super::{LockWait, Store, StoreError, waves};
use crate::domain::ids::{SnapshotId, VerificationId};
use crate::domain::verification::{CancelReason, Cancellation, Cancelled};

const DOING: &str = "cancel verifications";

struct Answer {
    ordinal: i32,
    result: String,
    id: Option<Uuid>,
}

impl Store {
    /// Cancels a batch; the answers stand in its order.
    ///
    /// # Errors
    /// The database could not be reached or refused. The call may be repeated as it is.
    pub async fn cancel(&self, batch: &[Cancellation]) -> Result<Vec<Cancelled>, StoreError> {
        self.cancel_waiting(batch, LockWait::Usual).await
    }

    /// The same, with a bound on how long a row of somebody else's open transaction is waited for.
    pub(super) async fn cancel_waiting(
        &self,
        batch: &[Cancellation],
        lock_wait: LockWait,
    ) -> Result<Vec<Cancelled>, StoreError> {
        let mut answers = vec![Cancelled::NotFound; batch.len()];
        for wave in waves(batch.iter().map(|cancellation| cancellation.run_id.as_str())) {
            let rows = again_on_deadlock(|| self.cancel_wave(batch, &wave, lock_wait)).await?;
            for row in rows {
                let position = wave[usize::try_from(row.ordinal).unwrap_or(0).saturating_sub(1)];
                answers[position] = answer(&row)?;
            }
        }
        Ok(answers)
    }

    async fn cancel_wave(
        &self,
        batch: &[Cancellation],
        wave: &[usize],
        lock_wait: LockWait,
    ) -> Result<Vec<Answer>, StoreError> {
        let members = || wave.iter().map(|&position| &batch[position]);
        let run_ids: Vec<&str> = members().map(|member| member.run_id.as_str()).collect();
        let snapshot_ids: Vec<Option<&str>> =
            members().map(|member| member.snapshot_id.as_ref().map(SnapshotId::as_str)).collect();
        let reasons: Vec<&str> = members().map(|member| member.reason.as_str()).collect();
        let asynchronous = members().all(|member| member.reason == CancelReason::Connected);
        sqlx::query_as!(
            Answer,
            r#"with setting as materialized (
                 select case when $4 then set_config('synchronous_commit', 'off', true) end as mode,
                   set_config('lock_timeout', coalesce($5, current_setting('lock_timeout')), true) as wait
               )
               select c.ordinal as "ordinal!", c.result as "result!", c.id
               from setting
               -- The settings come first because the call depends on them.
               cross join lateral cancel_many(case when setting.wait is not null then $1::text[] end, $2, $3) as c"#,
            &run_ids as &[&str],
            &snapshot_ids as &[Option<&str>],
            &reasons as &[&str],
            asynchronous,
            lock_wait.setting(),
        )
        .fetch_all(self.db())
        .await
        .map_err(StoreError::doing(DOING))
    }
}

fn answer(row: &Answer) -> Result<Cancelled, StoreError> {
    let unreadable =
        |column, problem: &str| StoreError::Corrupt { doing: DOING, column, problem: problem.to_owned() };
    let id = || row.id.map(VerificationId).ok_or_else(|| unreadable("id", "it is null"));
    match row.result.as_str() {
        "cancelled" => Ok(Cancelled::Cancelled { id: id()? }),
        "too_late" => Ok(Cancelled::TooLate { id: id()? }),
        "not_found" => Ok(Cancelled::NotFound),
        other => Err(unreadable("result", other)),
    }
}
