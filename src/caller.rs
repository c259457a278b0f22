//! Callers: which token a caller presented, and what it allows. Tokens are hashed before they are compared,
//! so that neither length nor content leaks.
//!
//! One token may come from the environment and allows everything; the others are in the database. The process
//! reads those at intervals, so a revoked token is good for a few seconds more, and no call costs a query.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use crate::store::audit::Actor;
use crate::store::shared_read::SharedRead;
use crate::store::token::{Scope, StoredToken, hash};
use crate::store::{SharedError, Store, StoreError};

/// How long the list is trusted; a revoked token may stay good for this long.
const TRUSTED_FOR: Duration = Duration::from_secs(5);
/// How soon an unknown token causes the list to be read again, so that a new token works at once.
const READ_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// What the environment's token is called in the audit.
const ENVIRONMENT_NAME: &str = "environment";

/// The caller, and what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The token's name.
    pub name: String,
    scopes: Vec<Scope>,
}

impl Caller {
    /// Whether the token has this scope.
    #[must_use]
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// For the audit.
    #[must_use]
    pub fn actor(&self) -> Actor {
        Actor(self.name.clone())
    }
}

/// The tokens that are good.
#[derive(Debug)]
pub struct Tokens {
    environment: Option<[u8; 32]>,
    stored: SharedRead<Vec<StoredToken>>,
}

impl Tokens {
    /// The environment's token, if there is one, and every token in the database.
    #[must_use]
    pub fn new(environment: Option<&SecretString>) -> Self {
        let environment = environment.map(|token| hash(token.expose_secret()));
        Self { environment, stored: SharedRead::default() }
    }

    /// The caller with this token; `None` if no good token matches.
    ///
    /// # Errors
    /// The list had to be read and the database could not be reached.
    pub async fn recognise(&self, store: &Store, token: &str) -> Result<Option<Caller>, SharedError> {
        let presented = hash(token);
        self.recognise_by(store, |known| bool::from(known.ct_eq(&presented))).await
    }

    /// The caller whose token has a matching hash; `None` if none matches. `is_it` compares in constant time.
    ///
    /// # Errors
    /// The list had to be read and the database could not be reached.
    pub async fn recognise_by(
        &self,
        store: &Store,
        is_it: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<Caller>, SharedError> {
        // First, so that it works while the database is away.
        if self.environment.is_some_and(|known| is_it(&known)) {
            return Ok(Some(Caller { name: ENVIRONMENT_NAME.to_owned(), scopes: Scope::ALL.to_vec() }));
        }
        for trusted_for in [TRUSTED_FOR, READ_AGAIN_AFTER] {
            let stored = match self.stored.latest(trusted_for) {
                Some(stored) => stored,
                None => self.stored.read(|| read(store.clone())).await?,
            };
            if let Some(caller) = find(&stored, &is_it) {
                return Ok(Some(caller));
            }
        }
        Ok(None)
    }
}

async fn read(store: Store) -> Result<Vec<StoredToken>, StoreError> {
    store.tokens().await
}

fn find(stored: &[StoredToken], is_it: impl Fn(&[u8]) -> bool) -> Option<Caller> {
    let known = stored.iter().find(|token| token.revoked_at.is_none() && is_it(&token.hash))?;
    let scopes = known.scopes.iter().filter_map(|word| Scope::parse(word)).collect();
    Some(Caller { name: known.name.clone(), scopes })
}
