//! The gateway's instances: which names are taken.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The taken names, each with the token that ends its instance.
#[derive(Default)]
pub(super) struct Instances {
    names: Mutex<HashMap<String, CancellationToken>>,
}

impl Instances {
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.lock().keys().cloned().collect();
        names.sort();
        names
    }

    /// `None` if the name is taken.
    pub(super) fn register(&self, name: &str, stop: &CancellationToken) -> Option<CancellationToken> {
        let mut names = self.lock();
        if names.contains_key(name) {
            return None;
        }
        let token = stop.child_token();
        names.insert(name.to_owned(), token.clone());
        Some(token)
    }

    pub(super) fn remove(&self, name: &str) -> bool {
        self.lock().remove(name).map(|token| token.cancel()).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, CancellationToken>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
