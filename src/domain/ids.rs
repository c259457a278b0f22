//! Identifiers, parsed once at the edge and trusted afterwards.
//!
//! Platform ids are opaque (platform.md §0): only their prefix, their one `_` and
//! their alphabet are checked, because the platform splits on `_` and answers
//! 500 to anything else.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Longest identifier or name accepted, in bytes.
pub const NAME_BYTES_MAX: usize = 200;

/// Why a text is not an identifier or a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text does not start with the prefix of its kind.
    #[error("must start with `{prefix}_`")]
    Prefix {
        /// The prefix that was expected, without its `_`.
        prefix: &'static str,
    },
    /// A platform id holds something else than ASCII letters and digits behind its prefix.
    #[error("must be `{prefix}_` and then only ASCII letters and digits")]
    Alphabet {
        /// The prefix that was expected, without its `_`.
        prefix: &'static str,
    },
    /// The audit uses it for another kind of actor.
    #[error(
        "must not be `environment` or `system`, nor begin with `cli:` or `sql:`: the audit shows other actors so"
    )]
    Reserved,
    /// Nothing is there.
    #[error("must not be empty")]
    Empty,
    /// The text is longer than [`NAME_BYTES_MAX`].
    #[error("must be at most {NAME_BYTES_MAX} bytes long")]
    TooLong,
    /// A name holds a control character, NUL among them.
    #[error("must not hold control characters")]
    Control,
}

fn parse_platform_id(prefix: &'static str, text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(IdError::TooLong);
    }
    let Some(rest) = text.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('_')) else {
        return Err(IdError::Prefix { prefix });
    };
    if rest.is_empty() || !rest.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(IdError::Alphabet { prefix });
    }
    Ok(())
}

/// Checks a free text that is stored as it is: not empty, bounded, no control characters.
///
/// # Errors
/// [`IdError::Empty`], [`IdError::TooLong`] or [`IdError::Control`].
pub fn parse_name(text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(IdError::TooLong);
    }
    if text.chars().any(char::is_control) {
        return Err(IdError::Control);
    }
    Ok(())
}

/// Checks a token's name: a name whose entries in the audit cannot be taken for those of another kind of actor.
///
/// # Errors
/// As [`parse_name`], and [`IdError::Reserved`].
pub fn parse_token_name(text: &str) -> Result<(), IdError> {
    parse_name(text)?;
    let is_of_another_kind = ["cli:", "sql:"].iter().any(|prefix| text.starts_with(prefix));
    if is_of_another_kind || ["environment", "system"].contains(&text) {
        return Err(IdError::Reserved);
    }
    Ok(())
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
        #[serde(transparent)]
        $(#[$doc])*
        pub struct $name(String);

        impl $name {
            /// Parses a text; see [`IdError`] for what is refused.
            ///
            /// # Errors
            /// Says what is wrong with the text, without repeating it.
            pub fn parse(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                $check(&text)?;
                Ok(Self(text))
            }

            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(text).map_err(serde::de::Error::custom)
            }
        }
    };
}

text_id!(
    /// A run's friendly id, `run_…` (platform.md §0).
    #[schema(pattern = "^run_[0-9A-Za-z]+$", max_length = 200, example = "run_mwtp8ui300000bj9lc3fwlbwr1")]
    RunId,
    |text: &str| parse_platform_id("run", text)
);
text_id!(
    /// A snapshot's friendly id, `snapshot_…`; compared only for equality (platform.md §0).
    #[schema(pattern = "^snapshot_[0-9A-Za-z]+$", max_length = 200, example = "snapshot_cmwtp9rtf0000dh5amclokb91")]
    SnapshotId,
    |text: &str| parse_platform_id("snapshot", text)
);
text_id!(
    /// A named group of runners with one backend for cold starts.
    #[schema(min_length = 1, max_length = 200, example = "default")]
    PoolName,
    parse_name
);
text_id!(
    /// The worker that holds a claim, for human readers; only the fence gives rights.
    #[schema(min_length = 1, max_length = 200)]
    WorkerName,
    parse_name
);

text_id!(
    /// The supervisor that dispatched a run, for reports.
    #[derive(sqlx::Type)]
    #[sqlx(transparent)]
    #[schema(min_length = 1, max_length = 200)]
    SupervisorName,
    parse_name
);
text_id!(
    /// Where that supervisor runs, for reports.
    #[derive(sqlx::Type)]
    #[sqlx(transparent)]
    #[schema(min_length = 1, max_length = 200)]
    RegionName,
    parse_name
);

impl PoolName {
    /// The pool that the environment configures: `default`.
    #[must_use]
    pub fn default_pool() -> Self {
        Self("default".to_owned())
    }
}

impl RunId {
    /// The internal id: the friendly id without its prefix.
    #[must_use]
    pub fn internal(&self) -> &str {
        self.0.strip_prefix("run_").unwrap_or(&self.0)
    }
}

/// Our own id of one verification: a time-ordered UUID (version 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct VerificationId(pub Uuid);

impl VerificationId {
    /// A new id, ordered by the moment of this call.
    #[must_use]
    pub fn fresh() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for VerificationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_id_is_its_prefix_and_letters_and_digits() {
        assert!(RunId::parse("run_06n8r0j5c2p5ve1k3m7qfa9he1").is_ok());
        for bad in ["", "run_", "06n8r0j5", "snapshot_a", "run_a-b", "run_a_b", "run_ä", "run_a\0"] {
            assert!(RunId::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_name_may_be_anything_printable() {
        assert!(PoolName::parse("eu-central-1 / blue").is_ok());
        assert_eq!(PoolName::parse("a\0b"), Err(IdError::Control));
        assert_eq!(PoolName::parse(""), Err(IdError::Empty));
        assert_eq!(PoolName::parse("x".repeat(201)), Err(IdError::TooLong));
    }
}
