//! How to reach our own PostgreSQL.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::reader::Reader;

pub mod address;

use address::{Address, AddressError};

/// Longest name of a schema; PostgreSQL silently cuts longer names.
const SCHEMA_BYTES_MAX: usize = 63;

/// Default of how many statements of coalesced calls run at a time.
pub const COALESCE_LANES_DEFAULT: u32 = 2;

/// One database, one schema in it, and the connections one process may hold.
#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    /// `WARMPROOF_DATABASE_URL`: `postgres://…`, with its password; may be `file://<path>`.
    pub url: SecretString,
    /// The parsed URL.
    pub address: Address,
    /// The file that holds the URL, read again for each new connection: a rotated password needs no restart.
    pub url_file: Option<PathBuf>,
    /// `WARMPROOF_SCHEMA`: where our tables live, `warmproof` by default.
    pub schema: String,
    /// `WARMPROOF_DATABASE_CONNECTIONS_MAX`: connections this process may open, 6 by default, 4 to 500. A
    /// third of them is for statements that do not wait for the disk.
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
    /// `WARMPROOF_DATABASE_POOLER`: connections go through a transaction pooler, false by default.
    ///
    /// Then each statement runs in a transaction that begins with all its settings, and none is prepared by
    /// name. False behind such a pooler fails with unknown prepared statements; true without one costs speed.
    pub pooler: bool,
    /// `WARMPROOF_DATABASE_PLAN_CACHE_MODE`: `force_generic_plan` by default, or `auto`, `force_custom_plan`.
    ///
    /// By default each connection plans a statement once. An engine that shards plans each statement every
    /// time.
    pub plan_cache_mode: PlanCacheMode,
    /// `WARMPROOF_DATABASE_SYNCHRONOUS_STANDBYS_MIN`: synchronous standbys that must be there, 0 by default.
    ///
    /// `doctor` warns when there are fewer. Too low and a failover may lose verifications unnoticed.
    pub synchronous_standbys_min: u32,
    /// `WARMPROOF_COALESCE_LANES`: statements of single calls that run at a time, 2 by default, 1 to 64.
    ///
    /// Too low and all callers wait for one commit to reach the disk; too high and fewer calls share a
    /// commit.
    pub coalesce_lanes: u32,
    /// How messages are stored.
    pub compression: CompressionConfig,
}

/// How the server plans our statements, PostgreSQL's `plan_cache_mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PlanCacheMode {
    /// The server decides.
    Auto,
    /// Once for each statement and connection.
    #[default]
    ForceGenericPlan,
    /// At each call.
    ForceCustomPlan,
}

impl PlanCacheMode {
    const WORDS: [&str; 3] = ["force_generic_plan", "auto", "force_custom_plan"];

    /// PostgreSQL's own word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::ForceGenericPlan => "force_generic_plan",
            Self::ForceCustomPlan => "force_custom_plan",
        }
    }

    fn read(reader: &mut Reader<'_>) -> Self {
        match reader.one_of("WARMPROOF_DATABASE_PLAN_CACHE_MODE", Self::WORDS[0], &Self::WORDS) {
            "auto" => Self::Auto,
            "force_custom_plan" => Self::ForceCustomPlan,
            _ => Self::ForceGenericPlan,
        }
    }
}

/// How messages are stored. Any process reads what any other wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompressionConfig {
    /// `WARMPROOF_MESSAGE_CODEC`: `zstd` by default, or `raw`.
    pub codec: Codec,
    /// `WARMPROOF_MESSAGE_COMPRESS_ABOVE_BYTES`: shorter messages stay as they are, 512 by default.
    pub above_bytes: usize,
}

/// A way of storing a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// As it came.
    Raw,
    /// zstd: to about a third.
    Zstd,
}

impl Default for CompressionConfig {
    fn default() -> Self {
        Self { codec: Codec::Zstd, above_bytes: 512 }
    }
}

impl CompressionConfig {
    fn read(reader: &mut Reader<'_>) -> Self {
        let codec = match reader.text_or("WARMPROOF_MESSAGE_CODEC", "zstd").as_str() {
            "raw" => Codec::Raw,
            "zstd" => Codec::Zstd,
            _ => {
                reader.fault("WARMPROOF_MESSAGE_CODEC", "is not a codec", "use `zstd` or `raw`");
                Codec::Zstd
            }
        };
        let above_bytes = reader.count("WARMPROOF_MESSAGE_COMPRESS_ABOVE_BYTES", 512, 0..=1 << 20);
        Self { codec, above_bytes: above_bytes as usize }
    }
}

impl DatabaseConfig {
    /// Reads this concern; faults stay with the reader.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let url = read_url(reader);
        let schema = read_schema(reader);
        refuse_driver_variables(reader);
        let rest = |reader: &mut Reader<'_>, (url, address, url_file)| Self {
            connections_max: reader.count("WARMPROOF_DATABASE_CONNECTIONS_MAX", 6, 4..=500),
            acquire_timeout: reader.millis("WARMPROOF_DATABASE_ACQUIRE_TIMEOUT_MS", 5000, 100..=60_000),
            statement_timeout: reader.millis(
                "WARMPROOF_DATABASE_STATEMENT_TIMEOUT_MS",
                10_000,
                100..=600_000,
            ),
            pooler: reader.flag("WARMPROOF_DATABASE_POOLER", false),
            plan_cache_mode: PlanCacheMode::read(reader),
            synchronous_standbys_min: reader.count("WARMPROOF_DATABASE_SYNCHRONOUS_STANDBYS_MIN", 0, 0..=100),
            coalesce_lanes: reader.count("WARMPROOF_COALESCE_LANES", COALESCE_LANES_DEFAULT, 1..=64),
            compression: CompressionConfig::read(reader),
            schema,
            url,
            address,
            url_file,
        };
        if let Some(url) = url {
            return Some(rest(reader, url));
        }
        // Reads the other variables all the same, so that one start reports every fault.
        let nowhere = Address::parse("postgres://none@localhost").ok()?;
        rest(reader, (SecretString::from(""), nowhere, None));
        None
    }

    /// The address as it is now: the file that holds it may have changed.
    ///
    /// # Errors
    /// The file cannot be read any more, or holds no address.
    pub fn current_address(&self) -> Result<Address, AddressError> {
        let Some(path) = &self.url_file else { return Ok(self.address.clone()) };
        let content = std::fs::read_to_string(path).map_err(|error| AddressError {
            problem: format!("names a file that could not be read: {}", error.kind()),
            remedy: "check the path behind `file://` and the file's permissions".to_owned(),
        })?;
        Address::parse(content.trim())
    }
}

fn read_url(reader: &mut Reader<'_>) -> Option<(SecretString, Address, Option<PathBuf>)> {
    let variable = "WARMPROOF_DATABASE_URL";
    let hint = "set it to `postgres://user:password@host:5432/database`, or to `file://<path>`";
    let file = reader.file_of(variable);
    let url = reader.secret(variable, hint)?;
    match Address::parse(url.expose_secret()) {
        Ok(address) => Some((url, address, file)),
        Err(AddressError { problem, remedy }) => {
            reader.fault(variable, problem, remedy);
            None
        }
    }
}

/// The driver always reads these variables. All other variables of libpq have no effect.
const DRIVER_VARIABLES: [&str; 4] = ["PGOPTIONS", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY"];

fn refuse_driver_variables(reader: &mut Reader<'_>) {
    for variable in DRIVER_VARIABLES {
        if reader.is_set(variable) {
            let hint = "unset it; only WARMPROOF_DATABASE_URL defines the connection (docs/operating.md)";
            reader.fault(variable, "is set, and would change the connection to the database", hint);
        }
    }
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
