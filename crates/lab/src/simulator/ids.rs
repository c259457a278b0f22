//! Mints ids of the platform's shapes (platform.md §0).
//!
//! Ids are unique across simulators, even with the same seed: two simulations against
//! one database must not share a run. The seed decides only behaviour.

use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, Utc};
use rand::Rng;

use warmproof::domain::ids::{RunId, SnapshotId};

const BASE36: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// A source of ids.
#[derive(Debug, Default)]
pub(super) struct Mint {
    counter: AtomicU64,
}

impl Mint {
    /// A run id: 26 lower-case characters, the last a `1`.
    pub(super) fn run(&self, now: DateTime<Utc>) -> RunId {
        let text = format!("run_{}{}1", self.ordered(now), random(12));
        RunId::parse(text).expect("letters and digits only")
    }

    /// A snapshot's internal id, shaped like a cuid, and its friendly id.
    pub(super) fn snapshot(&self, now: DateTime<Utc>) -> (String, SnapshotId) {
        let id = self.cuid(now);
        let friendly = SnapshotId::parse(format!("snapshot_{id}")).expect("letters and digits only");
        (id, friendly)
    }

    /// 25 characters that start with `c`.
    fn cuid(&self, now: DateTime<Utc>) -> String {
        format!("c{}{}", self.ordered(now), random(11))
    }

    /// 13 characters, in ascending order: runners compare snapshot ids as strings.
    fn ordered(&self, now: DateTime<Utc>) -> String {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        let ms = u64::try_from(now.timestamp_millis()).unwrap_or(0);
        format!("{}{}", base36(ms, 8), base36(counter, 5))
    }
}

fn base36(mut value: u64, length: usize) -> String {
    let mut digits = vec![b'0'; length];
    for digit in digits.iter_mut().rev() {
        // Below 36, so no digit is cut off.
        *digit = BASE36[usize::try_from(value % 36).unwrap_or(0)];
        value /= 36;
    }
    digits.into_iter().map(char::from).collect()
}

fn random(length: usize) -> String {
    let mut rng = rand::rng();
    (0..length).map(|_| char::from(BASE36[rng.random_range(0..36)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_platforms_shape_and_grow() {
        let (mint, now) = (Mint::default(), DateTime::UNIX_EPOCH);
        let run = mint.run(now);
        assert_eq!(run.internal().len(), 26);
        assert!(run.internal().ends_with('1'));
        let (id, friendly) = mint.snapshot(now);
        assert_eq!(id.len(), 25);
        assert!(id.starts_with('c'));
        assert_eq!(friendly.as_str(), format!("snapshot_{id}"));
        assert!(mint.snapshot(now).1 > friendly);
    }
}
