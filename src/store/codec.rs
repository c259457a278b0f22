//! How a message is stored: compressed by us, with the codec on the row.
//!
//! The server never parses a message; parsing 3 KB as `jsonb` costs more than the rest of
//! a row's life. Every codec that was ever written stays readable, so the choice may change
//! from one process to the next.
//!
//! Messages are short and similar, so a zstd dictionary helps. Ours, which `cargo xtask dictionary` trains
//! from the platform's messages (platform.md §2), nearly halves what is stored and takes a fifth of the time
//! (docs/performance.md). A frame names the dictionary that it needs.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io;

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{get_dict_id_from_frame, get_frame_content_size};

use crate::config::database::{Codec, CompressionConfig};

/// As it came.
const RAW: i16 = 0;
/// A zstd frame.
const ZSTD: i16 = 1;

/// The fastest level: a higher one costs callers more than it saves the database (docs/performance.md).
const LEVEL: i32 = 1;
/// Never edited: stored messages name it by its number.
const DICTIONARY: &[u8] = include_bytes!("message.zdict");
/// The number in [`DICTIONARY`].
const DICTIONARY_NUMBER: u32 = 1;

thread_local! {
    // Making a compressor takes longer than compressing a message, so each thread keeps the last.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
}

/// Longest message that is decompressed; nothing longer is ever accepted.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Encodes a message; a message that compression does not shorten stays as it came.
pub fn encode<'m>(message: &'m [u8], config: &CompressionConfig) -> (i16, Cow<'m, [u8]>) {
    if message.len() < config.above_bytes {
        return (RAW, Cow::Borrowed(message));
    }
    let encoded = match config.codec {
        Codec::Raw => None,
        Codec::Zstd => compress(message).ok().map(|bytes| (ZSTD, bytes)),
    };
    match encoded {
        Some((codec, bytes)) if bytes.len() < message.len() => (codec, Cow::Owned(bytes)),
        Some(_) | None => (RAW, Cow::Borrowed(message)),
    }
}

fn compress(message: &[u8]) -> io::Result<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|kept| {
        let compressor = match kept {
            Some(compressor) => compressor,
            None => kept.insert(Compressor::with_dictionary(LEVEL, DICTIONARY)?),
        };
        compressor.compress(message)
    })
}

/// Decodes a stored message, or answers what is wrong with it.
pub(super) fn decode(codec: i16, bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    match codec {
        RAW => Ok(bytes),
        ZSTD => {
            let length = decompressed_bytes(&bytes)?;
            decompressor(&bytes)?.decompress(&bytes, length).map_err(|error| error.to_string())
        }
        newer => Err(format!("codec {newer} is newer than this version")),
    }
}

fn decompressor(frame: &[u8]) -> Result<Decompressor<'static>, String> {
    match get_dict_id_from_frame(frame).map(std::num::NonZeroU32::get) {
        None => Decompressor::new().map_err(|error| error.to_string()),
        Some(DICTIONARY_NUMBER) => {
            Decompressor::with_dictionary(DICTIONARY).map_err(|error| error.to_string())
        }
        Some(newer) => Err(format!("dictionary {newer} is newer than this version")),
    }
}

fn decompressed_bytes(frame: &[u8]) -> Result<usize, String> {
    let length = get_frame_content_size(frame).ok().flatten();
    match length.and_then(|length| usize::try_from(length).ok()) {
        Some(length) if length <= MESSAGE_BYTES_MAX => Ok(length),
        Some(length) => Err(format!("it claims to be {length} bytes long")),
        None => Err("it is no zstd frame".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &str = include_str!("../../tests/fixtures/dequeued-message.fresh.json");

    #[test]
    fn every_codec_gives_back_what_went_in() {
        for codec in [Codec::Raw, Codec::Zstd] {
            let config = CompressionConfig { codec, above_bytes: 0 };
            for message in [MESSAGE, "", "x", "\u{0}\u{ffff}"] {
                let (code, bytes) = encode(message.as_bytes(), &config);
                assert!(bytes.len() <= message.len());
                assert_eq!(decode(code, bytes.into_owned()).expect("readable"), message.as_bytes());
            }
            let (_, bytes) = encode(MESSAGE.as_bytes(), &config);
            assert_eq!(bytes.len() < MESSAGE.len(), codec != Codec::Raw);
        }
    }

    #[test]
    fn a_damaged_or_newer_message_is_an_error_and_no_panic() {
        for codec in [ZSTD, 2, -1] {
            for bytes in [vec![], vec![0xff; 3], vec![0xff; 40]] {
                assert!(decode(codec, bytes).is_err());
            }
        }
    }

    #[test]
    fn a_frame_without_our_dictionary_is_read_and_one_with_a_newer_is_refused() {
        let plain = zstd::bulk::compress(MESSAGE.as_bytes(), 1).expect("a frame");
        assert_eq!(decode(ZSTD, plain).expect("readable"), MESSAGE.as_bytes());

        let mut ours = compress(MESSAGE.as_bytes()).expect("a frame");
        assert_eq!(get_dict_id_from_frame(&ours).map(std::num::NonZeroU32::get), Some(DICTIONARY_NUMBER));
        // The number follows the magic and the descriptor, in one byte because it is small.
        ours[5] = 2;
        let error = decode(ZSTD, ours).expect_err("there is no dictionary 2");
        assert!(error.contains("dictionary 2 is newer"), "{error}");
    }

    #[test]
    fn the_dictionary_shortens_a_message_it_was_not_made_from() {
        let with = compress(MESSAGE.as_bytes()).expect("a frame").len();
        let without = zstd::bulk::compress(MESSAGE.as_bytes(), 1).expect("a frame").len();
        assert!(with * 4 < without * 3, "{with} bytes with, {without} without");
    }

    #[test]
    fn a_short_message_stays_as_it_came() {
        let config = CompressionConfig { codec: Codec::Zstd, above_bytes: 10_000 };
        assert_eq!(encode(MESSAGE.as_bytes(), &config).0, RAW);
    }
}
