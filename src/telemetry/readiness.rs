//! Readiness: whether a process can do its work now, and if not, why.

use serde::Serialize;
use utoipa::ToSchema;

/// The answer of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(example = json!({
    "ready": true,
    "checks": [
        {"name": "database", "ok": true, "required": true},
        {"name": "pool default", "ok": false, "required": false, "reason": "no running worker serves it"}
    ]
}))]
pub struct Readiness {
    /// Whether all required checks pass.
    pub ready: bool,
    /// All checks.
    pub checks: Vec<Check>,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Check {
    /// What is checked.
    pub name: String,
    /// Whether the check passes.
    pub ok: bool,
    /// Whether the process is not ready if the check fails.
    pub required: bool,
    /// Why the check fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reason: Option<String>,
}

impl Check {
    /// A check without which the process is not ready.
    #[must_use]
    pub fn required(name: &str, reason: Option<String>) -> Self {
        Self { name: name.to_owned(), ok: reason.is_none(), required: true, reason }
    }

    /// A check of one pool. Other pools work without it, so it is not required.
    #[must_use]
    pub fn of_pool(pool: &str, reason: Option<String>) -> Self {
        Self { name: format!("pool {pool}"), ok: reason.is_none(), required: false, reason }
    }
}

impl From<Vec<Check>> for Readiness {
    fn from(checks: Vec<Check>) -> Self {
        Self { ready: checks.iter().all(|check| check.ok || !check.required), checks }
    }
}
