//! Random values in the platform's formats.

use std::iter::repeat_n;
use std::ops::RangeInclusive;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::json::Object;

pub(super) const HEXADECIMAL: &str = "0123456789abcdef";
pub(super) const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz";
pub(super) const ALPHANUMERIC: &str = "0123456789abcdefghijklmnopqrstuvwxyz";

/// A source of values; the same seed gives the same ones.
#[derive(Debug)]
pub(super) struct Random(StdRng);

impl Random {
    /// Starts the sequence of a seed.
    pub(super) fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// True in this share of the cases.
    pub(super) fn chance(&mut self, share: f64) -> bool {
        self.0.random_bool(share)
    }

    /// A number of the range.
    pub(super) fn number(&mut self, range: RangeInclusive<u32>) -> u32 {
        self.0.random_range(range)
    }

    /// One of some values, all equally likely.
    pub(super) fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.0.random_range(0..values.len())]
    }

    /// One of some values, each as likely as its weight.
    pub(super) fn weighted<T: Copy>(&mut self, values: &[(usize, T)]) -> T {
        let each: Vec<T> = values.iter().flat_map(|(weight, value)| repeat_n(*value, *weight)).collect();
        self.one_of(&each)
    }

    /// Characters of an ASCII alphabet.
    pub(super) fn text(&mut self, length: u32, alphabet: &str) -> String {
        (0..length).map(|_| char::from(self.one_of(alphabet.as_bytes()))).collect()
    }

    /// An id as the platform's database makes it.
    pub(super) fn identifier(&mut self) -> String {
        format!("c{}", self.text(24, ALPHANUMERIC))
    }

    /// The start of an object that has an id for programs and one for people.
    pub(super) fn named(&mut self, kind: &str) -> Object {
        let id = self.identifier();
        Object::default().text("id", &id).text("friendlyId", &format!("{kind}_{id}"))
    }

    /// A date as JavaScript writes it.
    pub(super) fn moment(&mut self) -> String {
        let (year, month, day) = self.day();
        let (hour, minute, second) = (self.number(0..=23), self.number(0..=59), self.number(0..=59));
        let millis = self.number(0..=999);
        format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }

    /// The version of a deployment: its day and a number.
    pub(super) fn release(&mut self) -> String {
        let (year, month, day) = self.day();
        format!("{year}{month:02}{day:02}.{}", self.number(1..=9))
    }

    fn day(&mut self) -> (u32, u32, u32) {
        (self.number(2025..=2029), self.number(1..=12), self.number(1..=28))
    }
}
