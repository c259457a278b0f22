//! How to reach our own PostgreSQL.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::reader::Reader;

/// Longest name of a schema; PostgreSQL cuts longer ones without a word.
const SCHEMA_BYTES_MAX: usize = 63;

/// Statements of coalesced calls under way at a time, unless told otherwise.
pub const COALESCE_LANES_DEFAULT: u32 = 2;

/// One database, one schema in it, and the connections one process may hold.
#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    /// `WARMPROOF_DATABASE_URL`: `postgres://…`, with its password; may be `file://<path>`.
    pub url: SecretString,
    /// `WARMPROOF_SCHEMA`: where our tables live, `warmproof` by default.
    pub schema: String,
    /// `WARMPROOF_DATABASE_CONNECTIONS_MAX`: connections this process may open, 6 by default, 2 to 500.
    ///
    /// Too low and claims wait behind settles; too high and many workers exhaust the server's slots.
    pub connections_max: u32,
    /// `WARMPROOF_DATABASE_ACQUIRE_TIMEOUT_MS`: longest wait for a free connection, 5 s by default.
    ///
    /// Too low and a burst becomes errors; too high and a caller hangs while the database is away.
    pub acquire_timeout: Duration,
    /// `WARMPROOF_DATABASE_STATEMENT_TIMEOUT_MS`: longest a statement may run, 10 s by default.
    ///
    /// Too low and a busy server cancels good work; too high and a stuck statement holds its connection.
    pub statement_timeout: Duration,
    /// `WARMPROOF_DATABASE_POOLER`: a transaction pooler stands in between, false by default.
    ///
    /// Then no startup options are sent and no prepared statement is named, as both outlive a transaction.
    /// False behind such a pooler fails with unknown prepared statements; true without one costs some speed.
    pub pooler: bool,
    /// `WARMPROOF_COALESCE_LANES`: statements of single calls under way at a time, 2 by default, 1 to 64.
    ///
    /// Too low and a commit's wait for the disk is everybody's; too high and fewer calls share a commit.
    pub coalesce_lanes: u32,
    /// How messages are stored.
    pub compression: CompressionConfig,
}

/// How messages are stored. Any process reads what any other wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompressionConfig {
    /// `WARMPROOF_MESSAGE_CODEC`: `zstd` by default, `lz4` or `raw`.
    pub codec: Codec,
    /// `WARMPROOF_MESSAGE_ZSTD_LEVEL`: 1 by default, 1 to 19.
    ///
    /// Too high and compressing costs callers more than it saves the database.
    pub level: i32,
    /// `WARMPROOF_MESSAGE_COMPRESS_ABOVE_BYTES`: shorter messages stay as they are, 512 by default.
    pub above_bytes: usize,
}

/// A way of storing a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// As it came.
    Raw,
    /// LZ4: fast, to about half.
    Lz4,
    /// zstd: to about a third.
    Zstd,
}

impl Default for CompressionConfig {
    fn default() -> Self {
        Self { codec: Codec::Zstd, level: 1, above_bytes: 512 }
    }
}

impl CompressionConfig {
    fn read(reader: &mut Reader<'_>) -> Self {
        let codec = match reader.text_or("WARMPROOF_MESSAGE_CODEC", "zstd").as_str() {
            "raw" => Codec::Raw,
            "lz4" => Codec::Lz4,
            "zstd" => Codec::Zstd,
            _ => {
                reader.fault("WARMPROOF_MESSAGE_CODEC", "is no codec", "use `zstd`, `lz4` or `raw`");
                Codec::Zstd
            }
        };
        let level = reader.count("WARMPROOF_MESSAGE_ZSTD_LEVEL", 1, 1..=19);
        let above_bytes = reader.count("WARMPROOF_MESSAGE_COMPRESS_ABOVE_BYTES", 512, 0..=1 << 20);
        Self { codec, level: level.cast_signed(), above_bytes: above_bytes as usize }
    }
}

impl DatabaseConfig {
    /// Reads this concern; faults stay with the reader.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let url = read_url(reader);
        let schema = read_schema(reader);
        Some(Self {
            schema,
            connections_max: reader.count("WARMPROOF_DATABASE_CONNECTIONS_MAX", 6, 2..=500),
            acquire_timeout: reader.millis("WARMPROOF_DATABASE_ACQUIRE_TIMEOUT_MS", 5000, 100..=60_000),
            statement_timeout: reader.millis(
                "WARMPROOF_DATABASE_STATEMENT_TIMEOUT_MS",
                10_000,
                100..=600_000,
            ),
            pooler: reader.flag("WARMPROOF_DATABASE_POOLER", false),
            coalesce_lanes: reader.count("WARMPROOF_COALESCE_LANES", COALESCE_LANES_DEFAULT, 1..=64),
            compression: CompressionConfig::read(reader),
            url: url?,
        })
    }
}

fn read_url(reader: &mut Reader<'_>) -> Option<SecretString> {
    let variable = "WARMPROOF_DATABASE_URL";
    let hint = "set it to `postgres://user:password@host:5432/database`, or to `file://<path>`";
    let url = reader.secret_or_file(variable, hint)?;
    let postgres =
        Url::parse(url.expose_secret()).is_ok_and(|url| matches!(url.scheme(), "postgres" | "postgresql"));
    if !postgres {
        reader.fault(variable, "is not a `postgres://` URL", hint);
    }
    postgres.then_some(url)
}

fn read_schema(reader: &mut Reader<'_>) -> String {
    let schema = reader.text_or("WARMPROOF_SCHEMA", "warmproof");
    let starts_well = schema.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let alphabet = schema.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    if !starts_well || !alphabet || schema.len() > SCHEMA_BYTES_MAX || schema.starts_with("pg_") {
        let hint = "use up to 63 of a-z, 0-9 and _, not starting with a digit or `pg_`";
        reader.fault("WARMPROOF_SCHEMA", "is not a name for a schema", hint);
    }
    schema
}
