//! What an engine's refusal means for the next request, and how it is reported.

use crate::workload::CreateError;
use crate::workload::answer::presentable;

use super::engine::EngineError;

/// Turns a failure into a permanent, transient or uncertain error, by the request and the answer.
pub(super) fn judge(what: &str, error: &EngineError, permanent: &[u16], secrets: &[&str]) -> CreateError {
    let reason = presentable(&format!("could not {what}: {error}"), secrets);
    match error {
        EngineError::Refused { status, .. } if permanent.contains(status) => {
            CreateError::Permanent { reason }
        }
        EngineError::Unreached { .. } | EngineError::Refused { .. } => transient(reason),
        EngineError::Unanswered { .. } => CreateError::Uncertain { reason },
    }
}

/// Nothing was made. The name stays: the engine frees it with the container.
pub(super) fn transient(reason: String) -> CreateError {
    CreateError::Transient { reason, name_may_be_taken: false }
}

/// The same reason, where we could not check whether something was made after all.
pub(super) fn uncertain(error: CreateError) -> CreateError {
    match error {
        CreateError::Permanent { reason }
        | CreateError::Transient { reason, .. }
        | CreateError::Uncertain { reason } => CreateError::Uncertain { reason },
    }
}
