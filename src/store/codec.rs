//! How a message is stored: compressed by us, with the codec on the row.
//!
//! The server never parses a message; parsing 3 KB as `jsonb` costs more than the rest of
//! a row's life. Every codec that was ever written stays readable, so the choice may change
//! from one process to the next.

use std::borrow::Cow;

use crate::config::database::{Codec, CompressionConfig};

/// As it came.
const RAW: i16 = 0;
/// An LZ4 block behind its length.
const LZ4: i16 = 1;
/// A zstd frame.
const ZSTD: i16 = 2;

/// Longest message that is decompressed; nothing longer is ever accepted.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Encodes a message; what compression does not shorten stays as it came.
pub fn encode<'m>(message: &'m [u8], config: &CompressionConfig) -> (i16, Cow<'m, [u8]>) {
    if message.len() < config.above_bytes {
        return (RAW, Cow::Borrowed(message));
    }
    let encoded = match config.codec {
        Codec::Raw => None,
        Codec::Lz4 => Some((LZ4, lz4_flex::compress_prepend_size(message))),
        Codec::Zstd => zstd::bulk::compress(message, config.level).ok().map(|bytes| (ZSTD, bytes)),
    };
    match encoded {
        Some((codec, bytes)) if bytes.len() < message.len() => (codec, Cow::Owned(bytes)),
        Some(_) | None => (RAW, Cow::Borrowed(message)),
    }
}

/// Decodes a stored message, or says what is wrong with it.
pub(super) fn decode(codec: i16, bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    match codec {
        RAW => Ok(bytes),
        LZ4 => {
            let (length, block) =
                lz4_flex::block::uncompressed_size(&bytes).map_err(|error| error.to_string())?;
            if length > MESSAGE_BYTES_MAX {
                return Err(format!("it says to be {length} bytes long"));
            }
            lz4_flex::decompress(block, length).map_err(|error| error.to_string())
        }
        ZSTD => {
            zstd::bulk::decompress(&bytes, decompressed_bytes(&bytes)?).map_err(|error| error.to_string())
        }
        newer => Err(format!("codec {newer} is newer than this version")),
    }
}

fn decompressed_bytes(frame: &[u8]) -> Result<usize, String> {
    let length = zstd::zstd_safe::get_frame_content_size(frame).ok().flatten();
    match length.and_then(|length| usize::try_from(length).ok()) {
        Some(length) if length <= MESSAGE_BYTES_MAX => Ok(length),
        Some(length) => Err(format!("it says to be {length} bytes long")),
        None => Err("it is no zstd frame".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &str = include_str!("../../tests/fixtures/dequeued-message.fresh.json");

    #[test]
    fn every_codec_gives_back_what_went_in() {
        for codec in [Codec::Raw, Codec::Lz4, Codec::Zstd] {
            let config = CompressionConfig { codec, level: 1, above_bytes: 0 };
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
        for codec in [LZ4, ZSTD, 3, -1] {
            for bytes in [vec![], vec![0xff; 3], vec![0xff; 40]] {
                assert!(decode(codec, bytes).is_err());
            }
        }
    }

    #[test]
    fn a_short_message_stays_as_it_came() {
        let config = CompressionConfig { codec: Codec::Zstd, level: 1, above_bytes: 10_000 };
        assert_eq!(encode(MESSAGE.as_bytes(), &config).0, RAW);
    }
}
