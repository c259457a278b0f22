//! Cancel: a run was seen alive elsewhere, missed, or given up by an operator.
//!
//! One plain statement cancels the rows of a batch that may still be cancelled. The database
//! function `cancel_many` judges the others: it waits for writers that hold a row and knows
//! what is too late. This file decides how a batch commits: only a batch of connects may
//! commit asynchronously, because losing one costs only a probe (design.md §3, cancel).

use uuid::Uuid;

use tokio::time::Instant;

use super::connect::{Commit, LockWait, Terms};
use super::error::{again_on_deadlock, patiently};
use super::held::HELD_MAX;
use super::{Store, StoreError, waves};
use crate::domain::ids::{SnapshotId, VerificationId};
use crate::domain::verification::{CancelReason, Cancellation, Cancelled};

const DOING: &str = "cancel verifications";

struct Answer {
    ordinal: i32,
    result: String,
    id: Option<Uuid>,
}

/// One array per column of some cancellations.
struct Columns<'a> {
    run_ids: Vec<&'a str>,
    snapshot_ids: Vec<Option<&'a str>>,
    reasons: Vec<&'a str>,
    commit: Commit,
}

impl<'a> Columns<'a> {
    fn of(batch: &'a [Cancellation], positions: &[usize]) -> Self {
        let members = || positions.iter().map(|&position| &batch[position]);
        Self {
            run_ids: members().map(|member| member.run_id.as_str()).collect(),
            snapshot_ids: members()
                .map(|member| member.snapshot_id.as_ref().map(SnapshotId::as_str))
                .collect(),
            reasons: members().map(|member| member.reason.as_str()).collect(),
            commit: if members().all(|member| member.reason == CancelReason::Connected) {
                Commit::Relaxed
            } else {
                Commit::Durable
            },
        }
    }
}

impl Columns<'_> {
    fn terms(&self, lock_wait: LockWait) -> Terms {
        Terms { commit: self.commit, ..Terms::DURABLE.waiting(lock_wait) }
    }
}

impl Store {
    /// Cancels a batch; the answers come in its order. An element whose row another transaction holds for two seconds
    /// is answered as busy.
    ///
    /// # Errors
    /// The database could not be reached or refused. Some of the batch may be cancelled then.
    pub async fn cancel(&self, batch: &[Cancellation]) -> Result<Vec<Cancelled>, StoreError> {
        let deadline = Instant::now() + HELD_MAX;
        let runs = runs_of(batch);
        let pending = self.around_held(&runs, deadline, |positions| {
            let part: Vec<Cancellation> = positions.into_iter().map(|at| batch[at].clone()).collect();
            async move { self.cancel_pending(&part, LockWait::Short).await }
        });
        // What is answered here has ended, also if the rest fails.
        let pending = pending.await?;
        let left: Vec<usize> = (0..batch.len()).filter(|&at| matches!(pending[at], Some(None))).collect();
        let rest: Vec<Cancellation> = left.iter().map(|&at| batch[at].clone()).collect();
        let rest = &rest;
        let runs = runs_of(rest);
        let judged = self.around_held(&runs, deadline, |positions| {
            let part: Vec<Cancellation> = positions.into_iter().map(|at| rest[at].clone()).collect();
            async move { self.cancel_rest(&part, LockWait::Short).await }
        });
        let mut answers: Vec<Option<Cancelled>> = pending.into_iter().map(Option::flatten).collect();
        for (at, answer) in left.into_iter().zip(judged.await?) {
            answers[at] = answer;
        }
        Ok(answers.into_iter().map(|answer| answer.unwrap_or(Cancelled::Busy)).collect())
    }

    /// The same, with a limit on the wait for a row that another open transaction holds.
    pub(super) async fn cancel_waiting(
        &self,
        batch: &[Cancellation],
        lock_wait: LockWait,
    ) -> Result<Vec<Cancelled>, StoreError> {
        let answers = self.cancel_pending(batch, lock_wait).await?;
        let rest = batch.iter().zip(&answers).filter(|(_, answer)| answer.is_none());
        let rest: Vec<Cancellation> = rest.map(|(cancellation, _)| cancellation.clone()).collect();
        let mut rest = self.cancel_rest(&rest, lock_wait).await?.into_iter();
        Ok(answers
            .into_iter()
            .map(|answer| answer.or_else(|| rest.next()).unwrap_or(Cancelled::NotFound))
            .collect())
    }

    /// Cancels the rows that may still be cancelled, all or none of them; the others have no answer yet.
    pub(super) async fn cancel_pending(
        &self,
        batch: &[Cancellation],
        lock_wait: LockWait,
    ) -> Result<Vec<Option<Cancelled>>, StoreError> {
        let mut answers = vec![None; batch.len()];
        let Some(wave) =
            waves(batch.iter().map(|cancellation| cancellation.run_id.as_str())).into_iter().next()
        else {
            return Ok(answers);
        };
        let columns = Columns::of(batch, &wave);
        let columns = &columns;
        let delete = |lock_wait| async move {
            sqlx::query_file!(
                "src/store/cancel.sql",
                &columns.run_ids as &[&str],
                &columns.snapshot_ids as &[Option<&str>],
                &columns.reasons as &[&str],
            )
            .fetch_all(self.db().on(columns.terms(lock_wait)))
            .await
            .map_err(StoreError::doing(DOING))
        };
        let gone = patiently(lock_wait, |lock_wait| again_on_deadlock(move || delete(lock_wait))).await?;
        for row in gone {
            let position = position(&wave, row.ordinal)?;
            answers[position] = Some(Cancelled::Cancelled { id: VerificationId(row.id) });
        }
        Ok(answers)
    }

    /// Judges those that [`Store::cancel_pending`] left without an answer.
    pub(super) async fn cancel_rest(
        &self,
        batch: &[Cancellation],
        lock_wait: LockWait,
    ) -> Result<Vec<Cancelled>, StoreError> {
        let mut answers = vec![Cancelled::NotFound; batch.len()];
        for wave in waves(batch.iter().map(|cancellation| cancellation.run_id.as_str())) {
            let columns = Columns::of(batch, &wave);
            let judge = |lock_wait| self.cancel_wave(&columns, lock_wait);
            for row in patiently(lock_wait, |lock_wait| again_on_deadlock(move || judge(lock_wait))).await? {
                answers[position(&wave, row.ordinal)?] = answer(&row)?;
            }
        }
        Ok(answers)
    }

    async fn cancel_wave(
        &self,
        columns: &Columns<'_>,
        lock_wait: LockWait,
    ) -> Result<Vec<Answer>, StoreError> {
        sqlx::query_as!(
            Answer,
            r#"select c.ordinal as "ordinal!", c.result as "result!", c.id from cancel_many($1, $2, $3) as c"#,
            &columns.run_ids as &[&str],
            &columns.snapshot_ids as &[Option<&str>],
            &columns.reasons as &[&str],
        )
        .fetch_all(self.db().on(columns.terms(lock_wait)))
        .await
        .map_err(StoreError::doing(DOING))
    }
}

fn runs_of(batch: &[Cancellation]) -> Vec<&str> {
    batch.iter().map(|one| one.run_id.as_str()).collect()
}

/// The position in the batch of the answer with this ordinal, counted from 1.
fn position(wave: &[usize], ordinal: i32) -> Result<usize, StoreError> {
    let index = usize::try_from(ordinal).ok().and_then(|ordinal| ordinal.checked_sub(1));
    index.and_then(|index| wave.get(index)).copied().ok_or_else(|| StoreError::Corrupt {
        doing: DOING,
        column: "ordinal",
        problem: format!("nothing was asked under {ordinal}"),
    })
}

fn answer(row: &Answer) -> Result<Cancelled, StoreError> {
    let unreadable =
        |column, problem: &str| StoreError::Corrupt { doing: DOING, column, problem: problem.to_owned() };
    let id = || row.id.map(VerificationId).ok_or_else(|| unreadable("id", "it is null"));
    match row.result.as_str() {
        "cancelled" => Ok(Cancelled::Cancelled { id: id()? }),
        "noted" => Ok(Cancelled::Noted { id: id()? }),
        "too_late" => Ok(Cancelled::TooLate { id: id()? }),
        "not_found" => Ok(Cancelled::NotFound),
        other => Err(unreadable("result", other)),
    }
}
