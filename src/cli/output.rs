//! The output of commands: tables for people, JSON for programs, and no control characters for the terminal.

use std::io::{ErrorKind, Write};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{ContentArrangement, Table};
use nix::unistd::{Uid, User};
use serde::Serialize;

use crate::config::DatabaseSettings;
use crate::config::environment::Environment;
use crate::store::Store;
use crate::store::audit::Actor;
use crate::store::connect::Role;

/// How long a command may take to reach its database.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Writes a line to stdout. A closed pipe is not an error.
pub(super) fn line(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// Writes an answer as one JSON document.
pub(super) fn json(answer: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(answer)?)
}

/// Writes rows under a header. Writes nothing if there are no rows.
pub(super) fn table(header: &[&str], rows: Vec<Vec<String>>) -> anyhow::Result<()> {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header);
    for row in rows {
        table.add_row(row.into_iter().map(|cell| plain(&cell)));
    }
    line(&table.to_string())
}

/// The error of a command whose pool does not exist.
pub(super) async fn unknown_pool(store: &Store, name: &str) -> anyhow::Result<anyhow::Error> {
    let known: Vec<String> = store.pool_settings().await?.into_iter().map(|pool| pool.name).collect();
    Ok(anyhow::anyhow!("unknown pool `{}`; known pools: {}", plain(name), known.join(", ")))
}

/// Fails if the named pool does not exist: its name is misspelt, and an empty answer would hide that.
pub(super) async fn require_pool(store: &Store, name: Option<&str>) -> anyhow::Result<()> {
    let Some(name) = name else { return Ok(()) };
    if store.pool_settings().await?.iter().any(|pool| pool.name == name) {
        return Ok(());
    }
    Err(unknown_pool(store, name).await?)
}

/// A text without characters that control the terminal or the direction of writing.
pub(super) fn plain(text: &str) -> String {
    let obeyed = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if obeyed(c) { '\u{fffd}' } else { c }).collect()
}

/// A text or a dash.
pub(super) fn or_dash(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}

/// An instant for people.
pub(super) fn instant(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S%.3fZ").to_string()
}

/// A span in the unit that fits: `12.3 s`, `4 min 5 s`, `3 h 2 min`. A past one has a minus.
pub(super) fn span(span: TimeDelta) -> String {
    let sign = if span < TimeDelta::zero() { "-" } else { "" };
    let seconds = span.num_seconds().abs();
    match seconds {
        0..60 => format!("{sign}{}.{} s", seconds, (span.num_milliseconds().abs() % 1000) / 100),
        60..3600 => format!("{sign}{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{sign}{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Connects to the configured database, whether verification is on or off.
pub(super) async fn connect() -> anyhow::Result<Store> {
    let settings = DatabaseSettings::from_environment(&Environment::from_process())?;
    let connecting = Store::connect(&settings.database, Role::People);
    Ok(tokio::time::timeout(CONNECT_MAX, connecting)
        .await
        .map_err(|_| anyhow::anyhow!("the database did not answer within {} s", CONNECT_MAX.as_secs()))??)
}

/// The account that runs this command, for the audit.
pub(super) fn actor() -> Actor {
    let uid = Uid::effective();
    let name = User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
    Actor(format!("cli:{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_shown_in_the_unit_that_fits() {
        let reported = |millis| span(TimeDelta::milliseconds(millis));
        assert_eq!(reported(0), "0.0 s");
        assert_eq!(reported(12_345), "12.3 s");
        assert_eq!(reported(-500), "-0.5 s");
        assert_eq!(reported(245_000), "4 min 5 s");
        assert_eq!(reported(10_920_000), "3 h 2 min");
    }

    #[test]
    fn a_terminal_gets_no_control_characters() {
        assert_eq!(plain("a\u{1b}[31mb\u{202e}c\n"), "a\u{fffd}[31mb\u{fffd}c\u{fffd}");
        assert_eq!(plain("run_ä <script>"), "run_ä <script>");
    }
}
