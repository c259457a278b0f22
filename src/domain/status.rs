//! What a pending verification is doing, and what defers the cold start of one that is lost.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a pending verification is doing. Each has one status: the first of this list that fits, as the function
/// `pending_status` of the schema judges it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Status {
    /// A worker holds it, and its lease is not over.
    Claimed,
    /// No worker has claimed it two seconds after its probe was due.
    Overdue,
    /// It is marked lost and its cold start is deferred; see [`HoldReason`].
    Held,
    /// It is marked lost, and its next probe is not due yet.
    Lost,
    /// Its next probe is not due yet.
    Waiting,
}

impl Status {
    /// All of them, in the order in which they are judged.
    pub const ALL: [Self; 5] = [Self::Claimed, Self::Overdue, Self::Held, Self::Lost, Self::Waiting];

    /// The word in SQL, API, CLI and page.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Overdue => "overdue",
            Self::Held => "held",
            Self::Lost => "lost",
            Self::Waiting => "waiting",
        }
    }
}

/// What defers the cold start of a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum HoldReason {
    /// The pool's cap is spent for now.
    Cap,
    /// Too many probes of the pool fail, or did until a moment ago.
    BrownOut,
    /// An operator paused the pool.
    Paused,
    /// The loss has its permit, and its worker had no room for another cold start.
    NoPlace,
}

impl HoldReason {
    /// The word in SQL, API, CLI, page and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cap => "cap",
            Self::BrownOut => "brown_out",
            Self::Paused => "paused",
            Self::NoPlace => "no_place",
        }
    }
}
