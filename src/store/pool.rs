//! Pools as operators see and change them. Each worker's next statement follows a change.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::audit::{self, Actor};
use super::connect::{Terms, Tx};
use super::{Store, StoreError};
use crate::domain::pool::{CAP, CAP_WINDOW_MS, COOL_DOWN_MS, DELAY_MS, FOLLOW_UP_AFTER_MS, OnConnect};

/// A pool with its settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// No row is claimed while true.
    pub paused: bool,
    /// Losses are recorded and nothing is created while true.
    pub shadow: bool,
    /// Milliseconds from schedule to probe when a call brings none; `None`: the caller's default.
    pub delay_ms: Option<i32>,
    /// Most fallbacks in one window over all workers; `None`: no cap.
    pub cap: Option<i32>,
    /// The window of the cap in milliseconds.
    pub cap_window_ms: i32,
    /// What a connect means.
    pub on_connect: OnConnect,
    /// Milliseconds for which losses are held after a brown-out.
    pub cool_down_ms: i32,
    /// Milliseconds from a created fallback to its follow-up; `None`: none.
    pub follow_up_after_ms: Option<i32>,
}

impl Pool {
    /// The settings that decide when a loss over the cap is probed; a change of one moves all waiting losses.
    fn line(&self) -> (Option<i32>, i32, bool, i32) {
        (self.cap, self.cap_window_ms, self.shadow, self.cool_down_ms)
    }
}

/// What to change; `None` leaves a setting as it is.
///
/// In JSON, an absent setting stays as it is and `null` removes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolChange {
    /// Claim nothing, or claim again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// Create nothing, or create again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<bool>,
    /// 1000 to 60000 ms, or none of its own.
    #[serde(default, with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i32>, minimum = 1000, maximum = 60000)]
    pub delay_ms: Option<Option<i32>>,
    /// 0 to 1000000, or none.
    #[serde(default, with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i32>, minimum = 0, maximum = 1_000_000)]
    pub cap: Option<Option<i32>>,
    /// 100 to 3600000 ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 100, maximum = 3_600_000)]
    pub cap_window_ms: Option<i32>,
    /// What a connect means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_connect: Option<OnConnect>,
    /// 0 to 600000 ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 600_000)]
    pub cool_down_ms: Option<i32>,
    /// 1000 to 600000 ms, or no follow-up.
    #[serde(default, with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i32>, minimum = 1000, maximum = 600_000)]
    pub follow_up_after_ms: Option<Option<i32>>,
}

/// A pool whose cold starts were stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stopped {
    /// The pool.
    pub pool: String,
    /// Its cap before.
    pub cap: Option<i32>,
}

/// A setting that is out of range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}`: must be {expected}")]
pub struct OutOfRange {
    /// The setting.
    pub field: &'static str,
    /// The values it may have.
    pub expected: String,
}

impl PoolChange {
    /// Checks the range of every setting.
    ///
    /// # Errors
    /// Every setting that is out of range.
    pub fn check(&self) -> Result<(), Vec<OutOfRange>> {
        let fields = [
            ("delay_ms", self.delay_ms.flatten(), DELAY_MS, ", or null"),
            ("cap", self.cap.flatten(), CAP, ", or null"),
            ("cap_window_ms", self.cap_window_ms, CAP_WINDOW_MS, ""),
            ("cool_down_ms", self.cool_down_ms, COOL_DOWN_MS, ""),
            ("follow_up_after_ms", self.follow_up_after_ms.flatten(), FOLLOW_UP_AFTER_MS, ", or null"),
        ];
        let fits = |value: i32, range: &RangeInclusive<u32>| {
            u32::try_from(value).is_ok_and(|value| range.contains(&value))
        };
        let faults: Vec<_> = fields
            .into_iter()
            .filter(|(_, value, range, _)| value.is_some_and(|value| !fits(value, range)))
            .map(|(field, _, range, or_none)| OutOfRange {
                field,
                expected: format!("from {} to {}{or_none}", range.start(), range.end()),
            })
            .collect();
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

/// Distinguishes an absent field from one that is `null`.
mod present {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::option_option, reason = "absent, null and a value are three things")]
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<i32>>, D::Error> {
        Option::deserialize(deserializer).map(Some)
    }

    #[expect(
        clippy::option_option,
        clippy::ref_option,
        clippy::trivially_copy_pass_by_ref,
        reason = "serde's signature; three things, as above"
    )]
    pub(super) fn serialize<S: Serializer>(
        value: &Option<Option<i32>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.flatten().serialize(serializer)
    }
}

impl Store {
    /// All pools with their settings, by name.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn pool_settings(&self) -> Result<Vec<Pool>, StoreError> {
        sqlx::query_as!(
            Pool,
            r#"select name, paused, shadow, delay_ms, cap, cap_window_ms, on_connect as "on_connect: OnConnect",
               cool_down_ms, follow_up_after_ms
             from pool order by name"#
        )
        .fetch_all(self.patient())
        .await
        .map_err(StoreError::doing("list pools"))
    }

    /// Changes a pool and answers its settings; `None` if there is no such pool. Check the change first.
    ///
    /// # Errors
    /// The database could not be reached or refused.
    pub async fn change_pool(
        &self,
        name: &str,
        change: &PoolChange,
        actor: &Actor,
    ) -> Result<Option<Pool>, StoreError> {
        let doing = "change a pool";
        let (name, change, actor) = (name.to_owned(), change.clone(), actor.clone());
        self.db()
            .transaction(doing, Terms::PATIENT, move |tx| Box::pin(change_noted(tx, name, change, actor)))
            .await
    }
}

impl Store {
    /// Stops the cold starts of a pool, or of all, in one statement: their caps become 0, which every worker asks
    /// for right before it sends a request. Answers those that had another cap.
    ///
    /// # Errors
    /// The database could not be reached or refused.
    pub async fn stop_cold_starts(
        &self,
        pool: Option<&str>,
        actor: &Actor,
    ) -> Result<Vec<Stopped>, StoreError> {
        let doing = "stop cold starts";
        let (pool, actor) = (pool.map(str::to_owned), actor.clone());
        self.db().transaction(doing, Terms::PATIENT, move |tx| Box::pin(stop_noted(tx, pool, actor))).await
    }
}

async fn stop_noted(tx: &mut Tx, pool: Option<String>, actor: Actor) -> Result<Vec<Stopped>, StoreError> {
    let doing = "stop cold starts";
    let stopped = sqlx::query_as!(
        Stopped,
        r#"with before as materialized (
             select name, cap from pool
             where name = coalesce($1, name) and cap is distinct from 0
             order by name
             for update
           )
           update pool set cap = 0 from before where pool.name = before.name
           returning pool.name as pool, before.cap"#,
        pool,
    )
    .fetch_all(&mut *tx)
    .await
    .map_err(StoreError::doing(doing))?;
    for Stopped { pool, cap } in &stopped {
        sqlx::query!("select line_up_again($1)", pool)
            .execute(&mut *tx)
            .await
            .map_err(StoreError::doing(doing))?;
        audit::note(&mut *tx, &actor, "pool.stop", Some(pool), &json!({ "cap_before": cap })).await?;
    }
    Ok(stopped)
}

async fn change_noted(
    tx: &mut Tx,
    name: String,
    change: PoolChange,
    actor: Actor,
) -> Result<Option<Pool>, StoreError> {
    let doing = "change a pool";
    let before = sqlx::query_as!(
        Pool,
        r#"select name, paused, shadow, delay_ms, cap, cap_window_ms, on_connect as "on_connect: OnConnect",
           cool_down_ms, follow_up_after_ms
         from pool where name = $1 for update"#,
        name,
    )
    .fetch_optional(&mut *tx)
    .await
    .map_err(StoreError::doing(doing))?;
    let Some(before) = before else { return Ok(None) };
    let changed = sqlx::query_as!(
        Pool,
        r#"update pool set
               paused = coalesce($2, paused),
               shadow = coalesce($3, shadow),
               delay_ms = case when $4 then $5 else delay_ms end,
               cap = case when $6 then $7 else cap end,
               cap_window_ms = coalesce($8, cap_window_ms),
               on_connect = coalesce($9, on_connect),
               cool_down_ms = coalesce($10, cool_down_ms),
               follow_up_after_ms = case when $11 then $12 else follow_up_after_ms end
             where name = $1
             returning name, paused, shadow, delay_ms, cap, cap_window_ms, on_connect as "on_connect: OnConnect",
               cool_down_ms, follow_up_after_ms"#,
        name,
        change.paused,
        change.shadow,
        change.delay_ms.is_some(),
        change.delay_ms.flatten(),
        change.cap.is_some(),
        change.cap.flatten(),
        change.cap_window_ms,
        change.on_connect.map(OnConnect::as_str),
        change.cool_down_ms,
        change.follow_up_after_ms.is_some(),
        change.follow_up_after_ms.flatten(),
    )
    .fetch_one(&mut *tx)
    .await
    .map_err(StoreError::doing(doing))?;
    if before.line() != changed.line() {
        sqlx::query!("select line_up_again($1)", name)
            .execute(&mut *tx)
            .await
            .map_err(StoreError::doing(doing))?;
    }
    let detail = serde_json::to_value(&change).unwrap_or_default();
    audit::note(tx, &actor, "pool.change", Some(&name), &detail).await?;
    Ok(Some(changed))
}
