//! Texts of errors as a row can hold them: bounded, and without the character that the server refuses.
//!
//! Such a text comes from a platform, a backend or a library, so anything may be in it.

use std::borrow::Cow;

/// Longest text, in bytes. A longer one is a whole answer of a backend and helps no reader.
const BYTES_MAX: usize = 2000;

/// The text, cut at a character, with NUL replaced.
pub(super) fn storable(text: &str) -> Cow<'_, str> {
    let cut = &text[..text.floor_char_boundary(BYTES_MAX)];
    if !cut.contains('\0') {
        return Cow::Borrowed(cut);
    }
    // The replacement is longer than what it replaces.
    let mut clean = cut.replace('\0', "\u{fffd}");
    clean.truncate(clean.floor_char_boundary(BYTES_MAX));
    Cow::Owned(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_keeps_all_that_a_row_can_hold() {
        assert_eq!(storable("the gateway answered 502"), "the gateway answered 502");
        assert_eq!(storable("a\0b"), "a\u{fffd}b");
        assert_eq!(storable(&"ä".repeat(1500)).len(), BYTES_MAX);
        assert!(storable(&"\0".repeat(1500)).len() <= BYTES_MAX);
    }
}
