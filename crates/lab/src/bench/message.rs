//! Messages for measurements: with the platform's shape and order of fields, about 3 KB, all different.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::LazyLock;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::value::RawValue;

use warmproof::domain::dispatch::Dispatch;
use warmproof::domain::ids::{PoolName, RegionName, SupervisorName};
use warmproof::domain::verification::{Intent, NewVerification};

/// `message.json` as the platform sends it, without line breaks.
static TEMPLATE: LazyLock<String> =
    LazyLock::new(|| include_str!("message.json").lines().map(str::trim).collect());

/// Makes dispatches from `message.json`: `$new` is new each time, other names are the same within a message.
#[derive(Debug)]
pub struct Dispatches {
    rng: StdRng,
    next: u64,
}

impl Dispatches {
    /// The same seed makes the same messages; runs are numbered from `first`.
    #[must_use]
    pub fn new(seed: u64, first: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), next: first }
    }

    fn id(&mut self) -> String {
        const ALPHABET: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
        (0..25).map(|_| char::from(ALPHABET[self.rng.random_range(0..ALPHABET.len())])).collect()
    }

    /// The next dispatch, dequeued at `now`.
    ///
    /// # Panics
    /// Never: the text is JSON of the right shape.
    #[must_use]
    pub fn next(&mut self, now: DateTime<Utc>) -> Dispatch {
        let random = self.id();
        let run = format!("{:06}{}", self.next, &random[..19]);
        self.next += 1;
        let mut named = HashMap::from([("run", run), ("now", stamp(now))]);
        let mut parts = TEMPLATE.split('$');
        let mut message = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let end = part.find(|letter: char| !letter.is_ascii_lowercase()).unwrap_or(part.len());
            let (name, text) = part.split_at(end);
            match name {
                "new" => message.push_str(&self.id()),
                "number" => message.push_str(&self.rng.random_range(0..1_000_000).to_string()),
                "hex" => write!(message, "{:032x}", self.rng.random::<u128>()).expect("room"),
                "half" => write!(message, "{:016x}", self.rng.random::<u64>()).expect("room"),
                _ => message.push_str(named.entry(name).or_insert_with(|| self.id())),
            }
            message.push_str(text);
        }
        let raw = RawValue::from_string(message).expect("JSON");
        Dispatch::parse(raw, None).expect("a dispatch")
    }

    /// The next hit, in the default pool.
    #[must_use]
    pub fn hit(&mut self, now: DateTime<Utc>, delay: Option<Duration>) -> NewVerification {
        NewVerification {
            dispatch: self.next(now),
            pool: PoolName::default_pool(),
            supervisor: SupervisorName::parse("supervisor-1").ok(),
            region: RegionName::parse("eu-central-1").ok(),
            intent: Intent::Hit,
            delay,
        }
    }
}

/// A text made beforehand. Its dispatches are dated when it is sent, because old ones take a slower path.
#[derive(Debug, Clone)]
pub struct Undated {
    text: String,
    stamp: String,
}

impl Undated {
    /// A text with dispatches dequeued at `now`.
    #[must_use]
    pub fn new(text: String, now: DateTime<Utc>) -> Self {
        Self { text, stamp: stamp(now) }
    }

    /// The text with its dispatches dequeued at another time.
    #[must_use]
    pub fn dated(&self, dequeued_at: DateTime<Utc>) -> String {
        self.text.replace(&self.stamp, &stamp(dequeued_at))
    }
}

fn stamp(moment: DateTime<Utc>) -> String {
    moment.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn messages_differ_have_the_right_size_and_can_be_dated() {
        let now = DateTime::from_timestamp_millis(1_795_467_600_123).expect("an instant");
        let mut dispatches = Dispatches::new(1, 0);
        let (one, other) = (dispatches.next(now), dispatches.next(now));
        assert_ne!(one.run_id, other.run_id);
        assert!((2_800..3_200).contains(&one.message.get().len()), "{}", one.message.get().len());
        let undated = Undated::new(one.message.get().to_owned(), now);
        let later = RawValue::from_string(undated.dated(now + TimeDelta::seconds(5))).expect("JSON");
        let later = Dispatch::parse(later, None).expect("a dispatch");
        assert_eq!((later.run_id, later.dequeued_at), (one.run_id, now + TimeDelta::seconds(5)));
    }
}
