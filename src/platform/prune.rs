//! Prune: reads a JSON document as it streams and keeps only what a probe is judged by.
//!
//! The latest snapshot may come with the outputs of hundreds of waitpoints: tens of megabytes that no code
//! here reads. So the pruner skips the value of every key that is not needed, byte by byte, without keeping
//! it, and puts `null` in its place. In such a value it follows only brackets and strings, so that nothing
//! inside it (a number that is too large, a lone surrogate, deep nesting) can make a good answer unreadable.

/// The members of the document that are kept; of [`ROOT`] only [`KEPT`] are.
const ROOT: &[u8] = b"execution";
/// The members of [`ROOT`] that are kept.
const KEPT: [&[u8]; 3] = [b"version", b"snapshot", b"run"];
/// Longest key that is compared; no key that is kept is longer.
const KEY_BYTES_MAX: usize = 16;

/// A document that streams through. Push all of it, then call [`Pruner::finish`].
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a bit of where in the document we are")]
pub(super) struct Pruner {
    kept: Vec<u8>,
    /// Open brackets before the next byte.
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// Whether a string that begins now is a key, at the depths where keys matter.
    key_wanted: bool,
    /// The key that is being read, or was read last.
    key: Vec<u8>,
    reading_key: bool,
    /// The depth of the member whose value is skipped.
    passing_over: Option<usize>,
    unbalanced: bool,
}

impl Pruner {
    /// Takes the next part of the document.
    pub(super) fn push(&mut self, chunk: &[u8]) {
        for &byte in chunk {
            self.step(byte);
        }
    }

    /// How much is kept so far, in bytes.
    pub(super) fn kept_bytes(&self) -> usize {
        self.kept.len()
    }

    /// What was kept; `None` if the document broke off.
    pub(super) fn finish(self) -> Option<Vec<u8>> {
        let whole = self.depth == 0 && !self.in_string && self.passing_over.is_none() && !self.unbalanced;
        whole.then_some(self.kept)
    }

    fn step(&mut self, byte: u8) {
        if self.in_string {
            self.step_in_string(byte);
            return;
        }
        if self.passing_over == Some(self.depth) && matches!(byte, b',' | b'}' | b']') {
            self.passing_over = None;
        }
        match byte {
            b'"' => {
                self.in_string = true;
                self.reading_key = self.key_wanted && self.passing_over.is_none();
                if self.reading_key {
                    self.key.clear();
                }
            }
            b'{' | b'[' => {
                self.depth += 1;
                self.key_wanted = byte == b'{' && self.depth <= 2;
            }
            b'}' | b']' => {
                self.unbalanced |= self.depth == 0;
                self.depth = self.depth.saturating_sub(1);
                self.key_wanted = false;
            }
            b',' => self.key_wanted = self.depth <= 2,
            b':' if self.key_wanted && self.passing_over.is_none() => {
                self.key_wanted = false;
                if !self.is_kept() {
                    self.kept.extend_from_slice(b":null");
                    self.passing_over = Some(self.depth);
                    return;
                }
            }
            _ => {}
        }
        self.keep(byte);
    }

    fn step_in_string(&mut self, byte: u8) {
        let ends = byte == b'"' && !self.escaped;
        self.escaped = byte == b'\\' && !self.escaped;
        self.in_string = !ends;
        if self.reading_key && !ends && self.key.len() <= KEY_BYTES_MAX {
            self.key.push(byte);
        }
        self.reading_key &= !ends;
        self.keep(byte);
    }

    fn keep(&mut self, byte: u8) {
        if self.passing_over.is_none() {
            self.kept.push(byte);
        }
    }

    fn is_kept(&self) -> bool {
        match self.depth {
            1 => self.key == ROOT,
            2 => KEPT.contains(&self.key.as_slice()),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn pruned(chunks: &[&[u8]]) -> Option<Value> {
        let mut pruner = Pruner::default();
        for chunk in chunks {
            pruner.push(chunk);
        }
        serde_json::from_slice(&pruner.finish()?).ok()
    }

    fn text(text: &str) -> Option<Value> {
        pruned(&[text.as_bytes()])
    }

    #[test]
    fn only_what_is_judged_is_kept() {
        let answer = r#"{"other": {"a": [1]}, "execution": {"completedWaitpoints": [{"output": "x"}, 2],
            "version": "1", "snapshot": {"id": "s", "batch": {"deep": [1]}}, "batch": null, "run": {"a": "}"}}}"#;
        let expected = json!({"other": null, "execution": {"completedWaitpoints": null, "version": "1",
            "snapshot": {"id": "s", "batch": {"deep": [1]}}, "batch": null, "run": {"a": "}"}}});
        assert_eq!(text(answer), Some(expected));
    }

    #[test]
    fn nothing_inside_a_value_that_is_passed_over_can_spoil_the_rest() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        for value in [r#""\ud800""#, "1e999", r#""a \" } ] , : \\""#, "tru", &deep, r#"{"run": {"a": 2}}"#] {
            let answer = format!(r#"{{"execution": {{"completedWaitpoints": {value}, "run": 1}}}}"#);
            let expected = json!({"execution": {"completedWaitpoints": null, "run": 1}});
            assert_eq!(text(&answer), Some(expected), "{value:.60}");
        }
    }

    #[test]
    fn a_document_that_breaks_off_is_none() {
        let whole = r#"{"execution": {"x": {"y": "z"}, "run": {"a": 1}}}"#;
        for end in 0..whole.len() {
            assert_eq!(text(&whole[..end]), None, "{}", &whole[..end]);
        }
        assert!(text(whole).is_some());
        for broken in ["}", "{}}", "[]]", r#"{"execution": {"x": [1}"#] {
            assert_eq!(text(broken), None, "{broken}");
        }
    }

    #[test]
    fn what_is_passed_over_is_not_kept() {
        let mut pruner = Pruner::default();
        pruner.push(br#"{"execution": {"completedWaitpoints": [""#);
        let before = pruner.kept_bytes();
        for _ in 0..1000 {
            pruner.push(&[b'x'; 4096]);
        }
        assert_eq!(pruner.kept_bytes(), before);
    }

    proptest! {
        #[test]
        fn chunks_may_end_anywhere(
            cut in 0_usize..130,
            output in "\\PC{0,20}",
        ) {
            let answer = json!({"execution": {"version": "1", "completedWaitpoints": [{"output": output}],
                "run": {"friendlyId": "run_a", "status": output}}});
            let answer = serde_json::to_vec(&answer).unwrap();
            let (one, other) = answer.split_at(cut.min(answer.len()));
            prop_assert_eq!(pruned(&[one, other]), pruned(&[&answer]));
            prop_assert_eq!(&pruned(&[&answer]).unwrap()["execution"]["run"]["status"], &json!(output));
        }
    }
}
