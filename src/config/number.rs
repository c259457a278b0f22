//! Numbers as JavaScript's `Number()` reads them (platform.md §6).
//!
//! A supervisor and this program may share one environment. If one of them reads a text
//! as 10 000, the other must not refuse it or read it differently.

/// The number of a text, or `None` where JavaScript gives `NaN`.
pub(super) fn parse(text: &str) -> Option<f64> {
    // JavaScript trims the byte order mark too, which Rust does not call whitespace.
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    if text.is_empty() {
        return Some(0.0);
    }
    if let Some((radix, digits)) = radix_literal(text) {
        return whole_in_radix(digits, radix);
    }
    let (negative, magnitude) = match text.as_bytes()[0] {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let value = if magnitude == "Infinity" { f64::INFINITY } else { decimal(magnitude)? };
    Some(if negative { -value } else { value })
}

/// `0x`, `0o` and `0b` literals; JavaScript allows no sign before them.
fn radix_literal(text: &str) -> Option<(u32, &str)> {
    let rest = text.strip_prefix('0')?;
    let radix = match rest.as_bytes().first()? {
        b'x' | b'X' => 16,
        b'o' | b'O' => 8,
        b'b' | b'B' => 2,
        _ => return None,
    };
    Some((radix, &rest[1..]))
}

fn whole_in_radix(digits: &str, radix: u32) -> Option<f64> {
    if digits.is_empty() {
        return None;
    }
    digits
        .chars()
        .try_fold(0.0, |value, digit| Some(value * f64::from(radix) + f64::from(digit.to_digit(radix)?)))
}

/// Digits with at most one point and one exponent. Rust also reads `inf` and `nan`, so letters are barred.
fn decimal(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'));
    let starts_well = text.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    if plain && starts_well { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn numbers_read_as_in_javascript() {
        let cases: [(&str, f64); 14] = [
            ("", 0.0),
            (" \t\n", 0.0),
            ("\u{feff}7 ", 7.0),
            ("10000", 10_000.0),
            ("+5", 5.0),
            ("-5", -5.0),
            ("1e4", 10_000.0),
            ("1.5E+1", 15.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("0x2710", 10_000.0),
            ("0B101", 5.0),
            ("0o17", 15.0),
            ("-Infinity", f64::NEG_INFINITY),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), Some(expected), "{text:?}");
        }
    }

    #[test]
    fn what_javascript_calls_nan_is_no_number() {
        for text in [
            "ten", "1_000", "1,000", "10s", "1 2", "0x", "-0x10", "0xg", "inf", "nan", "NaN", "e5", ".",
            "+-1", "1e",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
