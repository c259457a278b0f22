//! What a loss writes before anything is created: mark, permit, count.
//!
//! Three fenced, synchronous statements, in this order. Each may be repeated after
//! a lost reply: the mark keeps its first instant, a permit is granted again without
//! a second unit of the cap, and a create is counted before it is requested, so a
//! repeated count only spends an attempt.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;

use super::audit::{self, Actor};
use super::connect::Terms;
use super::lease::Keys;
use super::{Store, StoreError, codec};
use crate::domain::claim::ClaimKey;
use crate::domain::ids::RunId;
use crate::domain::status::HoldReason;

/// The answer to a fenced step of a fallback.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a stale step changed nothing, and its work is to be dropped"]
pub enum Fenced<T> {
    /// The row is ours and was written.
    Ours(T),
    /// The fence moved on.
    Stale,
}

/// Whether a cold start may be requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Permit {
    /// It may, by this claim or a later one.
    Granted,
    /// The pool is in shadow mode: settle, create nothing.
    Suppressed,
    /// Not now. The row was given back and is probed again.
    Deferred {
        /// Why.
        reason: HoldReason,
    },
}

/// Whether the request for a cold start may be sent now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Count {
    /// It may; the number of this create.
    Counted(u32),
    /// The pool has been put in shadow mode since the permit: settle, create nothing.
    Suppressed {
        /// Creates that were requested before.
        earlier: u32,
    },
    /// Not now: the pool is paused, in a brown-out or capped at 0. The row was given back and is probed again.
    Deferred {
        /// Why.
        reason: HoldReason,
    },
}

/// The stored message of a claimed row.
#[derive(Debug, Clone)]
pub struct StoredMessage {
    /// The dequeued message, as it came.
    pub message: String,
    /// The supervisor's timings, as they came.
    pub timings: Option<String>,
}

impl Store {
    /// Marks a claimed row as lost, counts the probe that saw it, and answers since when it is lost.
    /// From now on its outcome is `fallback`, even if the run moves on later.
    ///
    /// # Errors
    /// The database could not be reached; repeat it.
    pub async fn mark_lost(&self, key: &ClaimKey, probes: u32) -> Result<Fenced<DateTime<Utc>>, StoreError> {
        let lost_at = sqlx::query_scalar!(
            r#"update pending
               set lost_at = coalesce(lost_at, statement_timestamp()), probe_count = probe_count + $4, probe_failures = 0
               where run_id = $1 and id = $2 and fence = $3
               returning lost_at as "lost_at!""#,
            key.run_id.as_str(),
            key.id.0,
            key.fence.get(),
            super::count(probes),
        )
        .fetch_optional(self.durable())
        .await
        .map_err(StoreError::doing("mark a loss"))?;
        Ok(lost_at.map_or(Fenced::Stale, Fenced::Ours))
    }

    /// Asks for permission to cold-start rows marked lost, in one commit; an answer for each, in their order. A
    /// deferred one is given back and probed again after `hold`.
    ///
    /// # Errors
    /// The database could not be reached; repeat it. Inside: the row is held by another transaction.
    pub async fn permit_creates(
        &self,
        keys: &[ClaimKey],
        hold: Duration,
    ) -> Result<Vec<Result<Fenced<Permit>, StoreError>>, StoreError> {
        let doing = "permit creates";
        let columns = Keys::of(keys.iter());
        let rows = sqlx::query!(
            r#"select p.ordinal as "ordinal!", p.answer as "answer!", p.hold_reason as "hold_reason: HoldReason"
               from permit_creates($1, $2, $3, $4) as p"#,
            &columns.run_ids as &[&str],
            &columns.ids,
            &columns.fences,
            super::millis(hold),
        )
        .fetch_all(self.durable())
        .await
        .map_err(StoreError::doing(doing))?;
        let mut answers: Vec<_> = keys.iter().map(|_| Err(StoreError::Held { doing })).collect();
        for row in rows {
            let answer = match (row.answer.as_str(), row.hold_reason) {
                ("granted", _) => Ok(Fenced::Ours(Permit::Granted)),
                ("suppressed", _) => Ok(Fenced::Ours(Permit::Suppressed)),
                ("deferred", Some(reason)) => Ok(Fenced::Ours(Permit::Deferred { reason })),
                ("stale", _) => Ok(Fenced::Stale),
                ("held", _) => Err(StoreError::Held { doing }),
                (other, _) => Err(StoreError::Corrupt { doing, column: "answer", problem: other.to_owned() }),
            };
            let at = usize::try_from(row.ordinal - 1).ok();
            if let Some(place) = at.and_then(|at| answers.get_mut(at)) {
                *place = answer;
            }
        }
        Ok(answers)
    }

    /// The same for one row.
    ///
    /// # Errors
    /// As [`Store::permit_creates`].
    pub async fn permit_create(&self, key: &ClaimKey, hold: Duration) -> Result<Fenced<Permit>, StoreError> {
        let mut answers = self.permit_creates(std::slice::from_ref(key), hold).await?;
        answers.pop().unwrap_or(Ok(Fenced::Stale))
    }

    /// Counts a create right before it is requested, and records its name: the last step that an operator can stop.
    /// It commits to disk, so that the claim itself is durable before anything is created. A deferred row is given
    /// back and probed again after `hold`.
    ///
    /// # Errors
    /// The database could not be reached; request nothing.
    pub async fn count_create(
        &self,
        key: &ClaimKey,
        workload: &str,
        hold: Duration,
    ) -> Result<Fenced<Count>, StoreError> {
        let doing = "count a create";
        let row = sqlx::query!(
            r#"select c.answer as "answer!", c.hold_reason as "hold_reason: HoldReason", c.counted
               from count_create($1, $2, $3, $4, $5) as c"#,
            key.run_id.as_str(),
            key.id.0,
            key.fence.get(),
            workload,
            super::millis(hold),
        )
        .fetch_one(self.durable())
        .await
        .map_err(StoreError::doing(doing))?;
        let creates = row.counted.unwrap_or(0).unsigned_abs();
        match (row.answer.as_str(), row.hold_reason) {
            ("counted", _) => Ok(Fenced::Ours(Count::Counted(creates))),
            ("suppressed", _) => Ok(Fenced::Ours(Count::Suppressed { earlier: creates })),
            ("deferred", Some(reason)) => Ok(Fenced::Ours(Count::Deferred { reason })),
            ("stale", _) => Ok(Fenced::Stale),
            (other, _) => Err(StoreError::Corrupt { doing, column: "answer", problem: other.to_owned() }),
        }
    }

    /// Reads the message of a claimed row, which only a fallback needs.
    ///
    /// # Errors
    /// The database could not be reached, or the message is stored in a way this version does not know.
    pub async fn message(&self, key: &ClaimKey) -> Result<Fenced<StoredMessage>, StoreError> {
        let doing = "read a message";
        let row = sqlx::query!(
            "select codec, message, timings from pending where run_id = $1 and id = $2 and fence = $3",
            key.run_id.as_str(),
            key.id.0,
            key.fence.get(),
        )
        .fetch_optional(self.durable())
        .await
        .map_err(StoreError::doing(doing))?;
        let Some(row) = row else { return Ok(Fenced::Stale) };
        let message = read_message(doing, row.codec, row.message)?;
        Ok(Fenced::Ours(StoredMessage { message, timings: row.timings }))
    }

    /// Reads the message of a run's pending verification for an operator, and records the operator; `None` if
    /// nothing is pending.
    ///
    /// # Errors
    /// The database could not be reached, or the message is stored in a way this version does not know.
    pub async fn show_message(
        &self,
        run_id: &RunId,
        actor: &Actor,
    ) -> Result<Option<StoredMessage>, StoreError> {
        let doing = "show a message";
        let (run_id, actor) = (run_id.clone(), actor.clone());
        let Some((codec, message, timings)) = self
            .db()
            .transaction(doing, Terms::PATIENT, move |tx| {
                Box::pin(async move {
                    let row = sqlx::query!(
                        "select codec, message, timings from pending where run_id = $1",
                        run_id.as_str()
                    )
                    .fetch_optional(&mut *tx)
                    .await
                    .map_err(StoreError::doing(doing))?;
                    let Some(row) = row else { return Ok(None) };
                    audit::note(tx, &actor, "message.show", Some(run_id.as_str()), &json!({})).await?;
                    Ok(Some((row.codec, row.message, row.timings)))
                })
            })
            .await?
        else {
            return Ok(None);
        };
        Ok(Some(StoredMessage { message: read_message(doing, codec, message)?, timings }))
    }
}

fn read_message(doing: &'static str, codec: i16, message: Vec<u8>) -> Result<String, StoreError> {
    let corrupt = |problem| StoreError::Corrupt { doing, column: "message", problem };
    let message = codec::decode(codec, message).map_err(corrupt)?;
    String::from_utf8(message).map_err(|error| corrupt(error.to_string()))
}
