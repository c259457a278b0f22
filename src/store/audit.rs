//! The audit: what operators did, written in the transaction that did it.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{Executor, Postgres};
use utoipa::ToSchema;

use super::{Store, StoreError};

/// The operator that acts: a token's name, or `cli:` and an account. An operator's cancel by SQL is noted as `sql:`
/// and a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor(pub String);

/// One thing that an operator did.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Audited {
    /// Its number; later ones are larger.
    pub id: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// The actor.
    pub actor: String,
    /// `pool.change`, `pool.stop`, `cancel`, `cancel.filter`, `probe_now`, `token.create`, `token.revoke`, `sign_in`,
    /// `sign_out` or `message.show`.
    pub action: String,
    /// The pool, run or token.
    pub target: Option<String>,
    /// The details.
    pub detail: serde_json::Value,
}

/// Notes what is done, most often in the transaction that does it.
pub(super) async fn note<'c>(
    executor: impl Executor<'c, Database = Postgres>,
    actor: &Actor,
    action: &str,
    target: Option<&str>,
    detail: &serde_json::Value,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into audit (actor, action, target, detail) values ($1, $2, $3, $4)",
        actor.0,
        action,
        target,
        detail
    )
    .execute(executor)
    .await
    .map_err(StoreError::doing("audit"))?;
    Ok(())
}

impl Store {
    /// At most `limit` entries older than `before`, newest first.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn audit(&self, before: Option<i64>, limit: u32) -> Result<Vec<Audited>, StoreError> {
        sqlx::query_as!(
            Audited,
            "select id, at, actor, action, target, detail from audit
             where id < coalesce($1, 9223372036854775807) order by id desc limit $2",
            before,
            i64::from(limit)
        )
        .fetch_all(self.patient())
        .await
        .map_err(StoreError::doing("read the audit"))
    }
}
