//! How numbers, instants and spans are shown.

use chrono::{DateTime, TimeDelta, Utc};

use crate::domain::wilson::Share;

/// Shown for an empty value.
pub(super) const NOTHING: &str = "–";

/// A text or a dash.
pub(super) fn or_dash(text: Option<&str>) -> String {
    text.unwrap_or(NOTHING).to_owned()
}

/// A name inside a sentence of ours. Characters that change the direction of text are replaced.
///
/// A name outside of a sentence is isolated by its own element instead.
pub(super) fn plain(text: &str) -> String {
    let turns = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if turns(c) { '\u{fffd}' } else { c }).collect()
}

/// `12 345`, with narrow spaces that do not break.
pub(super) fn number(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut reported = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            reported.push('\u{202f}');
        }
        reported.push(digit);
    }
    if value < 0 { format!("−{reported}") } else { reported }
}

/// `1 claim`, `2 claims`.
pub(super) fn times(n: i64, what: &str) -> String {
    format!("{} {what}{}", number(n), if n == 1 { "" } else { "s" })
}

/// A share as per cent, with enough places to differ from 0.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let places = match percent {
        p if p == 0.0 || p >= 10.0 => 1,
        p if p >= 0.1 => 2,
        _ => 3,
    };
    format!("{percent:.places$}\u{202f}%")
}

/// The interval of a share: `0.35 % – 1.2 %`.
pub(super) fn interval(share: &Share) -> String {
    format!("{} – {}", percent(share.low), percent(share.high))
}

/// An instant for people.
pub(super) fn instant(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S%.3f").to_string()
}

/// An instant for programs, such as the page's script.
pub(super) fn machine(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// A span in the unit that fits, without its sign.
pub(super) fn span(span: TimeDelta) -> String {
    let ms = span.num_milliseconds().abs();
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds}.{} s", ms % 1000 / 100),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// `in 3.2 s`, `4 min 05 s ago`.
pub(super) fn relative(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    if at >= now { format!("in {}", span(at - now)) } else { format!("{} ago", span(now - at)) }
}

/// Milliseconds in the unit that fits.
pub(super) fn millis(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms if ms < 60_000.0 => {
            let seconds = format!("{:.2}", ms / 1000.0);
            format!("{} s", seconds.trim_end_matches('0').trim_end_matches('.'))
        }
        ms => format!("{:.1} min", ms / 60_000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_in_groups() {
        let reported = |value| number(value).replace('\u{202f}', " ");
        assert_eq!((reported(0), reported(999), reported(1000)), ("0".into(), "999".into(), "1 000".into()));
        assert_eq!((times(1, "claim"), times(0, "claim")), ("1 claim".into(), "0 claims".into()));
        assert_eq!((reported(1_234_567), reported(-1_000)), ("1 234 567".into(), "−1 000".into()));
    }

    #[test]
    fn a_name_cannot_change_the_direction_of_our_words() {
        assert_eq!(plain("a\u{202e}b\u{2067}c\nä"), "a\u{fffd}b\u{fffd}c\u{fffd}ä");
    }

    #[test]
    fn a_small_share_differs_from_none() {
        let reported = |share| percent(share).replace('\u{202f}', " ");
        assert_eq!(
            (reported(0.0), reported(0.1234), reported(0.0123)),
            ("0.0 %".into(), "12.3 %".into(), "1.23 %".into())
        );
        assert_eq!((reported(0.000_04), reported(1.0)), ("0.004 %".into(), "100.0 %".into()));
    }

    #[test]
    fn spans_and_latencies_have_the_unit_that_fits() {
        let reported = |seconds| span(TimeDelta::seconds(seconds));
        assert_eq!((reported(7), reported(125)), ("7.0 s".into(), "2 min 05 s".into()));
        assert_eq!((reported(-3720), reported(90_000)), ("1 h 02 min".into(), "1 d 1 h".into()));
        assert_eq!((millis(4.26), millis(430.2)), ("4.3 ms".into(), "430 ms".into()));
        assert_eq!((millis(30_000.0), millis(1500.0)), ("30 s".into(), "1.5 s".into()));
        assert_eq!((millis(2048.0), millis(90_000.0)), ("2.05 s".into(), "1.5 min".into()));
    }
}
