//! Schedule: hits become pending rows, durable when the call returns.
//!
//! One plain statement inserts the fresh dispatches of a batch whose runs are not pending. The
//! others go through the database function `schedule_many`, which has every rule; SQL callers use
//! it, too. This file turns a batch into arrays and the answers back.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, PgConnection, Row};
use tokio::time::Instant;
use uuid::Uuid;

use super::connect::{LockWait, Terms};
use super::error::{again_on_deadlock, patiently};
use super::held::HELD_MAX;
use super::{Store, StoreError, millis, waves};
use crate::domain::ids::VerificationId;
use crate::domain::verification::{NewVerification, ScheduleRefusal, ScheduleResult, Scheduled};

mod prepared;
mod skew;

use prepared::Columns;
pub(super) use prepared::Prepared;
pub(super) use skew::Skews;

const DOING: &str = "schedule verifications";

/// The answer to one element of a batch.
pub type ScheduleAnswer = Result<Scheduled, ScheduleRefusal>;

/// What the statements for fresh dispatches answer.
struct Created {
    id: Uuid,
    scheduled_at: DateTime<Utc>,
    due_at: DateTime<Utc>,
}

struct Answer {
    given_id: Uuid,
    result: String,
    id: Option<Uuid>,
    due_at: Option<DateTime<Utc>>,
    answered_at: DateTime<Utc>,
}

impl Store {
    /// Schedules a batch; the answers come in its order. `default_delay` applies where
    /// neither the element nor its pool sets one. An element whose row another transaction holds for two seconds
    /// is refused as busy.
    ///
    /// # Errors
    /// The database could not be reached or refused. Some of the batch may be scheduled then; repeated
    /// as it is, the call answers `duplicate` for those.
    pub async fn schedule(
        &self,
        batch: &[NewVerification],
        default_delay: Duration,
    ) -> Result<Vec<ScheduleAnswer>, StoreError> {
        let prepared: Vec<_> = batch.iter().map(|new| self.prepared(new)).collect();
        let deadline = Instant::now() + HELD_MAX;
        let all: Vec<&Prepared<'_>> = prepared.iter().collect();
        let runs = runs_of(&all);
        let fresh = self.around_held(&runs, deadline, |positions| {
            let part: Vec<&Prepared<'_>> = positions.into_iter().map(|at| all[at]).collect();
            async move { self.schedule_fresh(&part, default_delay, LockWait::Short).await }
        });
        // What is answered here is on disk, also if the rest fails.
        let fresh = fresh.await?;
        let left: Vec<usize> = (0..all.len()).filter(|&at| matches!(fresh[at], Some(None))).collect();
        let rest: Vec<&Prepared<'_>> = left.iter().map(|&at| all[at]).collect();
        let runs = runs_of(&rest);
        let judged = self.around_held(&runs, deadline, |positions| {
            let part: Vec<&Prepared<'_>> = positions.into_iter().map(|at| rest[at]).collect();
            async move { self.schedule_rest(&part, default_delay, LockWait::Short).await }
        });
        let mut answers: Vec<Option<ScheduleAnswer>> = fresh.into_iter().map(Option::flatten).collect();
        for (at, answer) in left.into_iter().zip(judged.await?) {
            answers[at] = answer;
        }
        let busy = |new: &NewVerification| Err(ScheduleRefusal::Busy(new.dispatch.run_id.clone()));
        Ok(answers.into_iter().zip(batch).map(|(answer, new)| answer.unwrap_or_else(|| busy(new))).collect())
    }

    /// The same, with a limit on the wait for a row that another open transaction holds.
    pub(super) async fn schedule_waiting(
        &self,
        batch: &[&Prepared<'_>],
        default_delay: Duration,
        lock_wait: LockWait,
    ) -> Result<Vec<ScheduleAnswer>, StoreError> {
        let answers = self.schedule_fresh(batch, default_delay, lock_wait).await?;
        let rest = batch.iter().zip(&answers).filter(|(_, answer)| answer.is_none());
        let rest: Vec<&Prepared<'_>> = rest.map(|(prepared, _)| *prepared).collect();
        let mut rest = self.schedule_rest(&rest, default_delay, lock_wait).await?.into_iter();
        answers.into_iter().map(|answer| answer.or_else(|| rest.next()).ok_or_else(missing)).collect()
    }

    /// Schedules those that are fresh and whose run is not pending, all or none of them; the others have
    /// no answer yet.
    pub(super) async fn schedule_fresh(
        &self,
        batch: &[&Prepared<'_>],
        default_delay: Duration,
        lock_wait: LockWait,
    ) -> Result<Vec<Option<ScheduleAnswer>>, StoreError> {
        let mut answers = vec![None; batch.len()];
        let Some(mut wave) = waves_of(batch).into_iter().next() else {
            return Ok(answers);
        };
        // One order of locks for every batch, so that batches hardly ever deadlock.
        wave.sort_unstable_by_key(|&position| batch[position].run_id());
        let columns = self.columns(batch, &wave);
        let (single, columns) = (wave.len() == 1, &columns);
        let insert = |lock_wait| async move {
            if single {
                self.insert_single(columns, default_delay, lock_wait).await
            } else {
                self.insert_batch(columns, default_delay, lock_wait).await
            }
            .map_err(StoreError::doing(DOING))
        };
        let created = patiently(lock_wait, |lock_wait| again_on_deadlock(move || insert(lock_wait))).await;
        let created = match created {
            // Another call was faster with one of the runs. Nothing is written; `schedule_many` goes on.
            Err(error) if error.is_duplicate_key() => return Ok(answers),
            created => created?,
        };
        let positions = columns.positions(wave);
        for row in created {
            let position = *positions.get(&row.id).ok_or_else(missing)?;
            let (id, due_at) = (VerificationId(row.id), row.due_at);
            self.learn_skew(batch[position], row.scheduled_at);
            answers[position] = Some(Ok(Scheduled { result: ScheduleResult::Created, id, due_at }));
        }
        Ok(answers)
    }

    async fn insert_single(
        &self,
        columns: &Columns<'_>,
        default_delay: Duration,
        lock_wait: LockWait,
    ) -> sqlx::Result<Vec<Created>> {
        sqlx::query_file_as!(
            Created,
            "src/store/schedule_single.sql",
            columns.ids[0],
            columns.run_ids[0],
            columns.snapshot_ids[0],
            columns.pools[0],
            columns.supervisors[0],
            columns.regions[0],
            columns.deployment_versions[0],
            columns.intents[0],
            columns.dequeued_ats[0],
            columns.delays_ms[0],
            columns.traceparents[0],
            columns.timings[0],
            columns.codecs[0],
            columns.messages[0],
            millis(default_delay),
            columns.left_queue_ats[0],
        )
        .fetch_all(self.db().on(Terms::DURABLE.waiting(lock_wait)))
        .await
    }

    async fn insert_batch(
        &self,
        columns: &Columns<'_>,
        default_delay: Duration,
        lock_wait: LockWait,
    ) -> sqlx::Result<Vec<Created>> {
        sqlx::query_file_as!(
            Created,
            "src/store/schedule.sql",
            &columns.ids,
            &columns.run_ids as &[&str],
            &columns.snapshot_ids as &[&str],
            &columns.pools as &[&str],
            &columns.supervisors as &[Option<&str>],
            &columns.regions as &[Option<&str>],
            &columns.deployment_versions as &[Option<&str>],
            &columns.intents as &[&str],
            &columns.dequeued_ats,
            &columns.delays_ms as &[Option<i32>],
            &columns.traceparents as &[Option<&str>],
            &columns.timings as &[Option<&str>],
            &columns.codecs,
            &columns.messages as &[&[u8]],
            millis(default_delay),
            &columns.distinct_pools() as &[&str],
            &columns.left_queue_ats,
        )
        .fetch_all(self.db().on(Terms::DURABLE.waiting(lock_wait)))
        .await
    }

    /// Judges those that [`Store::schedule_fresh`] left without an answer.
    pub(super) async fn schedule_rest(
        &self,
        batch: &[&Prepared<'_>],
        default_delay: Duration,
        lock_wait: LockWait,
    ) -> Result<Vec<ScheduleAnswer>, StoreError> {
        let mut answers = vec![None; batch.len()];
        for wave in waves_of(batch) {
            let columns = self.columns(batch, &wave);
            let write = |lock_wait| self.schedule_wave(&columns, default_delay, lock_wait);
            let rows = patiently(lock_wait, |lock_wait| again_on_deadlock(move || write(lock_wait))).await?;
            let positions = columns.positions(wave);
            for row in rows {
                let position = *positions.get(&row.given_id).ok_or_else(missing)?;
                let answer = answer(&row, &batch[position].new)?;
                if matches!(&answer, Ok(scheduled) if scheduled.result == ScheduleResult::Created) {
                    self.learn_skew(batch[position], row.answered_at);
                }
                answers[position] = Some(answer);
            }
        }
        answers.into_iter().map(|answer| answer.ok_or_else(missing)).collect()
    }

    /// Tests what a schedule needs, and changes no row: the table, the right, a server that takes writes, and
    /// a commit that waits for disk and standbys.
    pub(super) async fn prove_schedule(&self) -> Result<(), StoreError> {
        sqlx::query!(
            "with locked as materialized (select run_id from pending where false for update)
             select (select count(*) from locked) as locked,
               pg_logical_emit_message(true, 'warmproof', 'ready')::text as written"
        )
        .fetch_all(self.durable())
        .await
        .map(drop)
        .map_err(StoreError::doing(DOING))
    }

    fn columns<'a>(&self, batch: &[&'a Prepared<'_>], wave: &[usize]) -> Columns<'a> {
        let mut columns = Columns::default();
        for &position in wave {
            columns.push(batch[position], &self.skews);
        }
        columns
    }

    fn learn_skew(&self, prepared: &Prepared<'_>, scheduled_at: DateTime<Utc>) {
        let new = &prepared.new;
        self.skews.learn(new.pool.as_str(), new.dispatch.dequeued_at, scheduled_at);
    }

    fn prepared<'a>(&self, new: &'a NewVerification) -> Prepared<'a> {
        Prepared::of(new, &self.compression)
    }

    /// Ready to be written, for a batch that collects many callers.
    pub(super) fn prepared_owned(&self, new: NewVerification) -> Prepared<'static> {
        Prepared::owned(new, &self.compression)
    }

    async fn schedule_wave(
        &self,
        columns: &Columns<'_>,
        default_delay: Duration,
        lock_wait: LockWait,
    ) -> Result<Vec<Answer>, StoreError> {
        sqlx::query_as!(
            Answer,
            r#"select s.given_id as "given_id!", s.result as "result!", s.id, s.due_at, clock_timestamp() as "answered_at!"
               from schedule_many($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) as s"#,
            &columns.ids,
            &columns.run_ids as &[&str],
            &columns.snapshot_ids as &[&str],
            &columns.pools as &[&str],
            &columns.supervisors as &[Option<&str>],
            &columns.regions as &[Option<&str>],
            &columns.deployment_versions as &[Option<&str>],
            &columns.intents as &[&str],
            &columns.dequeued_ats,
            &columns.delays_ms as &[Option<i32>],
            &columns.traceparents as &[Option<&str>],
            &columns.timings as &[Option<&str>],
            &columns.codecs,
            &columns.messages as &[&[u8]],
            millis(default_delay),
        )
        .fetch_all(self.db().on(Terms::DURABLE.waiting(lock_wait)))
        .await
        .map_err(StoreError::doing(DOING))
    }
}

impl Store {
    /// Schedules one dispatch inside the caller's own transaction.
    ///
    /// The promise holds when, and only when, that transaction commits. Keep it short: it
    /// holds the run's row, and with it every cancel and settle of that run.
    ///
    /// # Errors
    /// As [`Store::schedule`]; the caller's transaction is then to be rolled back.
    pub async fn schedule_in(
        &self,
        connection: &mut PgConnection,
        new: &NewVerification,
        default_delay: Duration,
    ) -> Result<ScheduleAnswer, StoreError> {
        let mut columns = Columns::default();
        let prepared = self.prepared(new);
        columns.push(&prepared, &self.skews);
        let schema = self.db().schema().replace('"', "\"\"");
        // The caller's search_path is not ours, so the function is named in full; the rest is bound.
        let text = format!(
            r#"select result, id, due_at, clock_timestamp() as answered_at
           from "{schema}".schedule_one($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)"#
        );
        #[expect(clippy::disallowed_methods, reason = "the schema's name is known only at run time")]
        let row = sqlx::query(AssertSqlSafe(text))
            .bind(columns.ids[0])
            .bind(columns.run_ids[0])
            .bind(columns.snapshot_ids[0])
            .bind(columns.pools[0])
            .bind(columns.supervisors[0])
            .bind(columns.regions[0])
            .bind(columns.deployment_versions[0])
            .bind(columns.intents[0])
            .bind(columns.dequeued_ats[0])
            .bind(columns.delays_ms[0])
            .bind(columns.traceparents[0])
            .bind(columns.timings[0])
            .bind(columns.codecs[0])
            .bind(columns.messages[0])
            .bind(millis(default_delay))
            .persistent(!self.db().is_behind_a_pooler())
            .fetch_one(connection)
            .await
            .map_err(StoreError::doing(DOING))?;
        let read = StoreError::doing(DOING);
        answer(
            &Answer {
                given_id: columns.ids[0],
                result: row.try_get("result").map_err(&read)?,
                id: row.try_get("id").map_err(&read)?,
                due_at: row.try_get("due_at").map_err(&read)?,
                answered_at: row.try_get("answered_at").map_err(&read)?,
            },
            new,
        )
    }
}

fn answer(row: &Answer, new: &NewVerification) -> Result<ScheduleAnswer, StoreError> {
    let result = match row.result.as_str() {
        "created" => ScheduleResult::Created,
        "superseded" => ScheduleResult::Superseded,
        "duplicate" => ScheduleResult::Duplicate,
        "outdated" => ScheduleResult::Outdated,
        "unknown_pool" => return Ok(Err(ScheduleRefusal::UnknownPool(new.pool.clone()))),
        "from_the_future" => return Ok(Err(ScheduleRefusal::FromTheFuture)),
        other => return Err(unreadable("result", other)),
    };
    match (row.id, row.due_at) {
        (Some(id), Some(due_at)) => Ok(Ok(Scheduled { result, id: VerificationId(id), due_at })),
        _ => Err(unreadable("id", "it is null")),
    }
}

fn runs_of<'a>(batch: &[&'a Prepared<'_>]) -> Vec<&'a str> {
    batch.iter().map(|prepared| prepared.run_id()).collect()
}

fn waves_of(batch: &[&Prepared<'_>]) -> Vec<Vec<usize>> {
    waves(batch.iter().map(|prepared| prepared.run_id()))
}

fn missing() -> StoreError {
    unreadable("given_id", "the answers do not fit what was given")
}

fn unreadable(column: &'static str, problem: &str) -> StoreError {
    StoreError::Corrupt { doing: DOING, column, problem: problem.to_owned() }
}
