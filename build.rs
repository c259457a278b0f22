//! Unpacks `sqlx-data.json` for the checked queries, so that they build without a database.
//!
//! sqlx reads one file per query, but the repository keeps one file that people can review. This script
//! sets both variables of sqlx, so that neither a `DATABASE_URL` nor an `.env` in a parent directory can
//! connect a build to a live database.

#![expect(clippy::disallowed_methods, reason = "a build script gets all its input from the environment")]

use std::collections::BTreeMap;
use std::path::Path;
use std::{env, fs};

use serde_json::{Value, json};

const DATA: &str = "sqlx-data.json";

fn main() {
    // New migrations are embedded, but cargo does not watch their directory by itself.
    println!("cargo::rerun-if-changed=migrations");
    println!("cargo::rerun-if-changed={DATA}");
    println!("cargo::rerun-if-env-changed=SQLX_OFFLINE");
    println!("cargo::rerun-if-env-changed=SQLX_OFFLINE_DIR");
    if env::var("SQLX_OFFLINE").is_ok_and(|value| value == "false" || value == "0") {
        return; // `make prepare` uses a live database
    }
    let out = Path::new(&env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("sqlx");
    unpack(&out);
    println!("cargo::rustc-env=SQLX_OFFLINE=true");
    println!("cargo::rustc-env=SQLX_OFFLINE_DIR={}", out.display());
}

/// Writes one file per query, as the macros expect.
fn unpack(out: &Path) {
    if out.exists() {
        fs::remove_dir_all(out).expect("queries of an earlier build can be removed");
    }
    fs::create_dir_all(out).expect("a directory for the queries can be made");
    let text = fs::read_to_string(DATA).unwrap_or_else(|error| panic!("could not read {DATA}: {error}"));
    let mut data: BTreeMap<String, Value> = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("could not parse {DATA}: {error}\nhint: run `make prepare`"));
    let db = data.remove("db").unwrap_or_else(|| panic!("{DATA} names no `db`"));
    for (hash, entry) in data {
        let query = json!({
            "db_name": db,
            "query": entry["query"],
            "describe": entry["describe"],
            "hash": hash,
        });
        let path = out.join(format!("query-{hash}.json"));
        fs::write(&path, query.to_string()).expect("a query can be written");
    }
}
