//! Sessions of the admin page: a random cookie, known here by its hash.
//!
//! A row holds only a proof of the token that opened the session: from the cookie and the token's hash
//! together, the server can check that they belong together. So the server reads what a session allows from
//! its token each time, the session ends with the token, and a reader of the table can guess neither of them.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::audit::{self, Actor};
use super::connect::Terms;
use super::token::hash;
use super::{Store, StoreError};

/// What ties a session to its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenProof(Vec<u8>);

impl TokenProof {
    /// The proof for a cookie and the hash of a token.
    #[must_use]
    pub fn of(cookie: &SecretString, token_hash: &[u8]) -> Self {
        let mut digest = Sha256::new();
        digest.update(cookie.expose_secret().as_bytes());
        digest.update(token_hash);
        Self(digest.finalize().to_vec())
    }

    /// Whether the session of this cookie was opened with the token of this hash.
    #[must_use]
    pub fn is_of(&self, cookie: &SecretString, token_hash: &[u8]) -> bool {
        bool::from(self.0.as_slice().ct_eq(&Self::of(cookie, token_hash).0))
    }
}

impl Store {
    /// Opens a session, records the actor, and deletes sessions that have expired.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn open_session(
        &self,
        cookie: &SecretString,
        token: &SecretString,
        lifetime: Duration,
        actor: &Actor,
    ) -> Result<(), StoreError> {
        let doing = "open a session";
        let (known_by, proof) =
            (hash(cookie.expose_secret()), TokenProof::of(cookie, &hash(token.expose_secret())));
        let actor = actor.clone();
        self.db()
            .transaction(doing, Terms::PATIENT, move |tx| {
                Box::pin(async move {
                    let failed = StoreError::doing(doing);
                    sqlx::query!("delete from session where expires_at <= statement_timestamp()")
                        .execute(&mut *tx)
                        .await
                        .map_err(&failed)?;
                    sqlx::query!(
                        "insert into session (hash, token_proof, expires_at)
                     values ($1, $2, statement_timestamp() + $3 * interval '1 second')",
                        known_by.as_slice(),
                        proof.0,
                        lifetime.as_secs_f64(),
                    )
                    .execute(&mut *tx)
                    .await
                    .map_err(&failed)?;
                    audit::note(tx, &actor, "sign_in", None, &json!({})).await
                })
            })
            .await
    }

    /// The proof of a cookie's session; `None` if there is none or it has expired.
    ///
    /// # Errors
    /// The database could not be reached.
    pub async fn session(&self, cookie: &SecretString) -> Result<Option<TokenProof>, StoreError> {
        let known_by = hash(cookie.expose_secret());
        let proof = sqlx::query_scalar!(
            "select token_proof from session where hash = $1 and expires_at > statement_timestamp()",
            known_by.as_slice(),
        )
        .fetch_optional(self.patient())
        .await
        .map_err(StoreError::doing("look up a session"))?;
        Ok(proof.map(TokenProof))
    }

    /// Ends a cookie's session and records the actor. A session that ended before is no error.
    ///
    /// # Errors
    /// The database could not be reached; the session is still good.
    pub async fn close_session(&self, cookie: &SecretString, actor: &Actor) -> Result<(), StoreError> {
        let doing = "close a session";
        let (known_by, actor) = (hash(cookie.expose_secret()), actor.clone());
        self.db()
            .transaction(doing, Terms::PATIENT, move |tx| {
                Box::pin(async move {
                    let closed = sqlx::query!("delete from session where hash = $1", known_by.as_slice())
                        .execute(&mut *tx)
                        .await
                        .map_err(StoreError::doing(doing))?
                        .rows_affected();
                    if closed > 0 {
                        audit::note(tx, &actor, "sign_out", None, &json!({})).await?;
                    }
                    Ok(())
                })
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_its_own_cookie_and_token_alone() {
        let (cookie, other) = (SecretString::from("cookie"), SecretString::from("other"));
        let proof = TokenProof::of(&cookie, &hash("token"));
        assert!(proof.is_of(&cookie, &hash("token")));
        assert!(!proof.is_of(&cookie, &hash("token2")));
        assert!(!proof.is_of(&other, &hash("token")));
    }
}
