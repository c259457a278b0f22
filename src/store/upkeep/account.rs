//! The account: a full count of what is pending, so that readers need none.

use std::time::Duration;

use super::{DOING, Store, StoreError, begins};
use crate::store::connect::Terms;

/// How often what is pending is counted.
const EVERY: Duration = Duration::from_mins(3);
/// Millions of rows may be pending.
const TERMS: Terms = Terms::PATIENT.within(Duration::from_mins(1));

impl Store {
    /// Counts what is pending, if that was not done lately, and records it; `None` if another process is at work. In
    /// turn with the folding of counts, whose running totals are corrected here: a program of before folds without
    /// them.
    pub(super) async fn take_account(&self) -> Result<Option<()>, StoreError> {
        self.in_turn(TERMS, |tx| {
            Box::pin(async move {
                // In the same transaction: a count that fails is tried again in the next round.
                if !begins(&mut *tx, "account", EVERY).await? {
                    return Ok(());
                }
                let failed = StoreError::doing(DOING);
                sqlx::query!(
                    "insert into account as a (checked_at, scheduled, pending, ended)
                     select statement_timestamp(), c.scheduled, c.pending, c.ended from conservation c
                     on conflict (is_last) do update set checked_at = excluded.checked_at,
                       scheduled = excluded.scheduled, pending = excluded.pending, ended = excluded.ended"
                )
                .execute(&mut *tx)
                .await
                .map_err(&failed)?;
                sqlx::query!("select count_pool_totals()::text as counted")
                    .fetch_one(&mut *tx)
                    .await
                    .map_err(&failed)?;
                Ok(())
            })
        })
        .await
    }
}
