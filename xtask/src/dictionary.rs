//! Trains the zstd dictionary that messages are compressed with: `src/store/message.zdict`.
//!
//! The samples follow the platform's contract (platform.md §2): every field, optional ones in some samples,
//! with random values in the platform's formats. No message of a customer or of the benchmark is used.
//!
//! A dictionary in use is never changed, because stored messages name the one they were written with.
//! To train another, give it the next [`NUMBER`] here, and keep the old file in `codec.rs` as well.
//! The committed dictionary 1 is of an earlier trainer, with such samples of another generator: this one
//! makes other bytes, and therefore refuses to replace a dictionary that has its number.

mod json;
mod random;
mod samples;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;

use crate::root;
use samples::samples;

/// The number that frames name the dictionary by.
const NUMBER: u32 = 1;
const SEED: u64 = 20_261_123;
const SAMPLES: usize = 6000;
const BYTES: usize = 6144;

/// Where the codec embeds it from.
const OUTPUT: &str = "src/store/message.zdict";

/// Where to write.
#[derive(Debug, Args)]
pub(crate) struct DictionaryArgs {
    /// The file to write, by default the repository's src/store/message.zdict
    #[arg(long, value_name = "PATH")]
    output: Option<PathBuf>,
}

/// Trains the dictionary and writes it. Answers a line for people.
pub(crate) fn dictionary(args: &DictionaryArgs) -> anyhow::Result<String> {
    let path = args.output.clone().unwrap_or_else(|| root().join(OUTPUT));
    let messages: Vec<String> = samples(SEED).take(SAMPLES).collect();
    let dictionary = train(&messages)?;
    refuse_to_replace(&path, &dictionary)?;
    fs::write(&path, &dictionary).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(format!("{}: dictionary {NUMBER}, {} bytes", path.display(), dictionary.len()))
}

fn train(messages: &[String]) -> anyhow::Result<Vec<u8>> {
    let mut dictionary = zstd::dict::from_samples(messages, BYTES).context("the training failed")?;
    // zstd derives a number from the content; the four bytes after the magic are all that names it.
    let number = dictionary.get_mut(4..8).context("the dictionary is too short")?;
    number.copy_from_slice(&NUMBER.to_le_bytes());
    Ok(dictionary)
}

/// Fails if the file is another dictionary with the same number: frames of one would be read with the other.
fn refuse_to_replace(path: &Path, dictionary: &[u8]) -> anyhow::Result<()> {
    let present = match fs::read(path) {
        Ok(present) => present,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    if present != dictionary && present.get(4..8) == Some(&NUMBER.to_le_bytes()) {
        bail!(
            "{} is already a dictionary {NUMBER}, and stored messages may need it: give the new one the next \
             number, or write it elsewhere with --output",
            path.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use zstd::bulk::{Compressor, Decompressor};
    use zstd::zstd_safe::get_dict_id_from_frame;

    use super::*;

    #[test]
    fn a_trained_dictionary_has_its_number_and_shortens_a_message_of_another_seed() {
        let messages: Vec<String> = samples(SEED).take(1000).collect();
        let dictionary = train(&messages).unwrap();
        assert!(dictionary.len() <= BYTES);

        let message = samples(SEED + 1).next().unwrap();
        let frame =
            Compressor::with_dictionary(3, &dictionary).unwrap().compress(message.as_bytes()).unwrap();
        assert_eq!(get_dict_id_from_frame(&frame).map(std::num::NonZeroU32::get), Some(NUMBER));
        let plain = zstd::bulk::compress(message.as_bytes(), 3).unwrap();
        assert!(frame.len() * 4 < plain.len() * 3, "{} bytes with, {} without", frame.len(), plain.len());
        let mut decompressor = Decompressor::with_dictionary(&dictionary).unwrap();
        assert_eq!(decompressor.decompress(&frame, message.len()).unwrap(), message.as_bytes());
    }

    #[test]
    fn a_dictionary_is_never_replaced_by_another_of_its_number() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("message.zdict");
        let dictionary = |number: u32, rest| [&[0; 4], &number.to_le_bytes()[..], rest].concat();
        assert!(refuse_to_replace(&path, &dictionary(NUMBER, b"new")).is_ok(), "no file is there");
        fs::write(&path, dictionary(NUMBER, b"old")).unwrap();
        assert!(refuse_to_replace(&path, &dictionary(NUMBER, b"old")).is_ok(), "nothing would change");
        assert!(refuse_to_replace(&path, &dictionary(NUMBER, b"new")).is_err());
        fs::write(&path, dictionary(NUMBER + 1, b"old")).unwrap();
        assert!(refuse_to_replace(&path, &dictionary(NUMBER, b"new")).is_ok(), "another number");
    }
}
