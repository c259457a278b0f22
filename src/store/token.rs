//! Tokens of the API: made once, stored as a hash, revoked by name.

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::audit::{self, Actor};
use super::connect::Terms;
use super::{Store, StoreError};

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Schedule and cancel.
    Schedule,
    /// Read everything but messages.
    Read,
    /// Change pools, cancel as operator, probe now, see messages.
    Operate,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Schedule, Self::Read, Self::Operate];

    /// The word in SQL, API and CLI.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::Read => "read",
            Self::Operate => "operate",
        }
    }

    /// The scope of this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == word)
    }
}

/// A token as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StoredToken {
    /// Its id.
    pub id: Uuid,
    /// Its name; the actor of what is done with it.
    pub name: String,
    /// SHA-256 of the token.
    #[serde(skip)]
    pub hash: Vec<u8>,
    /// What it allows.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// The operator that made it.
    pub created_by: String,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// The hash under which a token is stored and compared.
#[must_use]
pub fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

impl Store {
    /// Makes a token of 256 random bits; `false` if the name is taken.
    ///
    /// # Errors
    /// The database could not be reached or refused.
    pub async fn create_token(
        &self,
        name: &str,
        scopes: &[Scope],
        token: &SecretString,
        actor: &Actor,
    ) -> Result<bool, StoreError> {
        let doing = "create a token";
        let scopes: Vec<&'static str> = scopes.iter().map(|scope| scope.as_str()).collect();
        let hash = hash(token.expose_secret());
        let (name, actor) = (name.to_owned(), actor.clone());
        self.db()
            .transaction(doing, Terms::PATIENT, move |tx| {
                Box::pin(async move {
                    let made = sqlx::query!(
                        "insert into token (id, name, hash, scopes, created_by) values ($1, $2, $3, $4, $5)
                     on conflict (name) do nothing",
                        Uuid::now_v7(),
                        name,
                        hash.as_slice(),
                        &scopes as &[&str],
                        actor.0,
                    )
                    .execute(&mut *tx)
                    .await
                    .map_err(StoreError::doing(doing))?
                    .rows_affected();
                    if made > 0 {
                        let detail = json!({ "scopes": scopes });
                        audit::note(tx, &actor, "token.create", Some(&name), &detail).await?;
                    }
                    Ok(made > 0)
                })
            })
            .await
    }

    /// Revokes a token; `false` if no good token has this name.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn revoke_token(&self, name: &str, actor: &Actor) -> Result<bool, StoreError> {
        let doing = "revoke a token";
        let (name, actor) = (name.to_owned(), actor.clone());
        self.db()
            .transaction(doing, Terms::PATIENT, move |tx| {
                Box::pin(async move {
                    let revoked = sqlx::query!(
                    "update token set revoked_at = statement_timestamp() where name = $1 and revoked_at is null",
                    name
                )
                .execute(&mut *tx)
                .await
                .map_err(StoreError::doing(doing))?
                .rows_affected();
                    if revoked > 0 {
                        audit::note(tx, &actor, "token.revoke", Some(&name), &json!({})).await?;
                    }
                    Ok(revoked > 0)
                })
            })
            .await
    }

    /// All tokens, revoked ones too, by name.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn tokens(&self) -> Result<Vec<StoredToken>, StoreError> {
        sqlx::query_as!(
            StoredToken,
            "select id, name, hash, scopes, created_at, created_by, revoked_at from token order by name"
        )
        .fetch_all(self.patient())
        .await
        .map_err(StoreError::doing("list tokens"))
    }
}
