//! The schema that the migrations make, and the servers that can hold it.

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use warmproof::store::migrate;

use warmproof_testkit::db::{SCHEMA, db, empty};
use warmproof_testkit::sql::{body, commands};

const CATALOGUE: &str = include_str!("schema/catalogue.sql");

/// A session whose path is that of a migration, in a database with nothing in it.
async fn fresh_session() -> PgConnection {
    let mut session = PgConnection::connect(&empty().await).await.unwrap();
    let begin = format!("create schema {SCHEMA}; set search_path to {SCHEMA}, pg_temp");
    session.execute(AssertSqlSafe(begin)).await.unwrap();
    session
}

async fn catalogue(session: &mut PgConnection) -> Vec<String> {
    session.execute(AssertSqlSafe(format!("set search_path to {SCHEMA}"))).await.unwrap();
    let mut lines: Vec<String> = sqlx::query_scalar(CATALOGUE).fetch_all(session).await.unwrap();
    // The history is refinery's, and only there where refinery was.
    lines.retain(|line| !line.contains("refinery_schema_history"));
    lines.sort();
    assert!(lines.len() > 500, "{} lines", lines.len());
    lines
}

/// The catalogue of a migrated database.
async fn migrated() -> Vec<String> {
    let db = db().await;
    let mut session = PgConnection::connect(&db.direct_url()).await.unwrap();
    catalogue(&mut session).await
}

/// A driver, or an engine that spreads schemas over nodes, may send a file's commands one at a time.
#[tokio::test]
async fn every_command_of_a_migration_runs_by_itself() {
    let mut session = fresh_session().await;
    for (name, text) in migrate::sql() {
        for command in commands(&text) {
            let sent = sqlx::query(AssertSqlSafe(command.clone())).execute(&mut session).await;
            sent.unwrap_or_else(|error| panic!("{name}: {error}: {command}"));
        }
    }
    assert_eq!(catalogue(&mut session).await, migrated().await);
}

/// The texts that an engine which shards by schema refuses in a statement that changes rows (tried with Citus 13.2).
const VOLATILE: [&str; 7] =
    ["clock_timestamp(", "random(", "set_config(", "gen_random_uuid(", "nextval(", "timeofday(", "fresh_id("];

#[test]
fn a_sharded_schema_can_hold_all_of_our_sql() {
    let mut all: Vec<(String, String)> = migrate::sql();
    all.extend(migrate::roles_sql().map(|text| ("roles".to_owned(), text.to_owned())));
    let prepared: Value = serde_json::from_str(include_str!("../../sqlx-data.json")).unwrap();
    let queries = prepared.as_object().unwrap().values().filter_map(|entry| entry["query"].as_str());
    all.extend(queries.map(|query| ("sqlx-data.json".to_owned(), query.to_owned())));
    assert!(all.len() > 70, "{} texts", all.len());

    let faults: Vec<String> = all
        .iter()
        .flat_map(|(name, text)| commands(text).into_iter().map(move |command| (name, command)))
        .flat_map(|(name, command)| {
            refused(&command).into_iter().map(move |fault| format!("{name}: {fault}"))
        })
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn what_a_sharded_schema_refuses_is_found() {
    for (refused_one, problem) in [
        ("update pending set probe_at = clock_timestamp()", "volatile"),
        ("with now as (select clock_timestamp() as n) insert into a select n from now", "volatile"),
        ("insert into a values (1) on conflict (n) do update set n = random()", "volatile"),
        ("select 1 where exists (select from a)", "exists"),
        ("select 1 where not exists (\n  select\n  from a)", "exists"),
        ("alter table a add column b int, add column c int", "one subcommand"),
        ("create trigger t after insert on a execute function f()", "trigger"),
        (
            "create function f() returns void language sql as $$ delete from a where b < random() $$",
            "volatile",
        ),
    ] {
        let found = refused(refused_one);
        assert!(found.iter().any(|fault| fault.contains(problem)), "{refused_one}: {found:?}");
    }
    for taken in [
        "insert into a values (clock_timestamp())",
        "select clock_timestamp()",
        "alter table a add constraint b check (c in (1, 2))",
        "create function f() returns void language plpgsql as $$ begin x := random(); update a set b = x; end $$",
    ] {
        assert_eq!(refused(taken), Vec::<String>::new(), "{taken}");
    }
}

fn refused(command: &str) -> Vec<String> {
    if let Some(body) = body(command) {
        return commands(body).iter().flat_map(|statement| refused(statement)).collect();
    }
    let text = command.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
    let mut faults = Vec::new();
    let has_word = |word: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == word);
    let writes = ["insert", "update", "delete"].iter().any(|word| has_word(word)) && !text.contains("grant");
    let changes_rows = writes
        && (text.contains("update ") && !text.ends_with("for update")
            || has_word("delete")
            || has_word("with"));
    if changes_rows && let Some(name) = VOLATILE.iter().find(|name| text.contains(**name)) {
        faults.push(format!("volatile `{name})` in a statement that changes rows: {text}"));
    }
    if text.contains("exists ( select from") || text.contains("exists (select from") {
        faults.push(format!("`exists (select from …)` without a 1: {text}"));
    }
    if text.starts_with("alter table") && text.split('(').next().is_some_and(|head| head.contains(',')) {
        faults.push(format!("more than one subcommand: {text}"));
    }
    if text.starts_with("create trigger") || text.starts_with("create constraint trigger") {
        faults.push(format!("a trigger: {text}"));
    }
    faults
}
