//! The ten queries of docs/sql.md, run as they are written there, against made-up lives whose results this file
//! computes by itself.

#![allow(clippy::cast_precision_loss, reason = "a few hundred lives over a few days")]

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, DurationRound, NaiveDate, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgConnection};

use warmproof_testkit::db::{db, keep_up, upkeep_terms};
use warmproof_testkit::dispatch::{fresh, schedule};
use warmproof_testkit::lives::{Life, lives, quantile, wilson, write};

const DOCUMENT: &str = include_str!("../../docs/sql.md");

/// The queries below headings that begin with a number.
fn queries() -> Vec<&'static str> {
    let sections = DOCUMENT.split("\n### ").filter(|section| section.starts_with(char::is_numeric));
    sections
        .map(|section| {
            let code = section.split_once("```sql\n").expect("a query below each heading").1;
            code.split_once(";\n```").expect("the query's end").0
        })
        .collect()
}

/// The rows of a query, each a list of its values in the order of the columns.
async fn rows(connection: &mut PgConnection, query: &str) -> Vec<Vec<Value>> {
    let text =
        format!("select to_json(array(select value from json_each(row_to_json(q)))) from ({query}) as q");
    let rows: Vec<Value> = sqlx::query_scalar(AssertSqlSafe(text))
        .fetch_all(connection)
        .await
        .unwrap_or_else(|error| panic!("{query}: {error}"));
    rows.into_iter().map(|row| row.as_array().expect("a list").clone()).collect()
}

/// Compares as text, as instants or as numbers up to the last bits.
fn same(left: &Value, right: &Value) -> bool {
    let instant = |value: &Value| value.as_str().and_then(|text| text.parse::<DateTime<Utc>>().ok());
    match (left.as_f64(), right.as_f64()) {
        (Some(left), Some(right)) => (left - right).abs() <= 1e-9 * right.abs().max(1.0),
        _ => left == right || instant(left).is_some_and(|left| Some(left) == instant(right)),
    }
}

fn expect(number: usize, found: &[Vec<Value>], expected: &[Vec<Value>]) {
    let agree = found.len() == expected.len()
        && found.iter().zip(expected).all(|(left, right)| {
            left.len() == right.len() && left.iter().zip(right).all(|(l, r)| same(l, r))
        });
    assert!(agree, "query {number}:\nfound    {found:?}\nexpected {expected:?}");
}

fn count(lives: &[&Life], which: impl Fn(&Life) -> bool) -> usize {
    lives.iter().filter(|life| which(life)).count()
}

fn share(k: usize, n: usize) -> Value {
    if n == 0 { Value::Null } else { json!(k as f64 / n as f64) }
}

fn grouped<'a, K: Ord>(lives: &[&'a Life], key: impl Fn(&Life) -> K) -> BTreeMap<K, Vec<&'a Life>> {
    let mut groups: BTreeMap<K, Vec<&Life>> = BTreeMap::new();
    for life in lives {
        groups.entry(key(life)).or_default().push(life);
    }
    groups
}

fn hour(at: DateTime<Utc>) -> DateTime<Utc> {
    at.duration_trunc(TimeDelta::hours(1)).unwrap()
}

fn minute(at: DateTime<Utc>) -> DateTime<Utc> {
    at.duration_trunc(TimeDelta::minutes(1)).unwrap()
}

/// How many were lost, of how many observed.
fn losses(lives: &[&Life]) -> (usize, usize) {
    (count(lives, Life::is_lost), count(lives, Life::is_observed))
}

fn by_pool(all: &[&Life], now: DateTime<Utc>) -> Vec<Vec<Value>> {
    let recent: Vec<&Life> =
        all.iter().copied().filter(|l| hour(l.settled_at) > now - TimeDelta::hours(24)).collect();
    let groups = grouped(&recent, |life| life.pool);
    let lines = groups.into_iter().map(|(pool, lives)| {
        let (k, n) = losses(&lives);
        let (low, high) = wilson(k, n);
        vec![json!(pool), json!(k), json!(n), share(k, n), json!(low), json!(high)]
    });
    lines.collect()
}

fn by_version(all: &[&Life], now: DateTime<Utc>) -> Vec<Vec<Value>> {
    let first = now.date_naive() - TimeDelta::days(6);
    let recent: Vec<&Life> =
        all.iter().copied().filter(|life| life.settled_at.date_naive() >= first).collect();
    let mut lines: Vec<_> = grouped(&recent, |life| life.version)
        .into_iter()
        .map(|(version, lives)| (version, losses(&lives)))
        .map(|(version, (k, n))| (version, k, n, wilson(k, n)))
        .collect();
    lines.sort_by(|left, right| right.3.0.total_cmp(&left.3.0));
    lines
        .into_iter()
        .map(|(version, k, n, (low, high))| vec![json!(version), json!(k), json!(n), json!(low), json!(high)])
        .collect()
}

fn right_now(all: &[&Life], begun: &[DateTime<Utc>], now: DateTime<Utc>) -> Vec<Vec<Value>> {
    let within = |at: &DateTime<Utc>| *at > now - TimeDelta::minutes(15);
    let minutes: BTreeSet<_> = begun
        .iter()
        .map(|at| minute(*at))
        .chain(all.iter().map(|life| minute(life.settled_at)))
        .filter(within)
        .collect();
    let lines = minutes.into_iter().map(|at| {
        let ended: Vec<&Life> = all.iter().copied().filter(|life| minute(life.settled_at) == at).collect();
        vec![
            json!(at),
            json!(begun.iter().filter(|begun| minute(**begun) == at).count()),
            json!(count(&ended, Life::is_connected)),
            json!(count(&ended, Life::is_delivered)),
            json!(count(&ended, Life::is_lost)),
            json!(count(&ended, |life| life.outcome == "probe_error")),
        ]
    });
    lines.collect()
}

fn by_day(all: &[&Life], begun: &[DateTime<Utc>], now: DateTime<Utc>) -> Vec<Vec<Value>> {
    let within = |day: &NaiveDate| *day > now.date_naive() - TimeDelta::days(14);
    let days: BTreeSet<_> = begun
        .iter()
        .map(DateTime::date_naive)
        .chain(all.iter().map(|life| life.settled_at.date_naive()))
        .filter(within)
        .collect();
    let lines = days.into_iter().map(|day| {
        let ended: Vec<&Life> =
            all.iter().copied().filter(|life| life.settled_at.date_naive() == day).collect();
        let (k, n) = losses(&ended);
        let overtaken = count(&ended, Life::is_overtaken);
        vec![
            json!(day),
            share(k, n),
            share(k - overtaken, n - overtaken),
            share(count(&ended, Life::is_fallback), count(&ended, Life::is_probed)),
        ]
    });
    lines.collect()
}

/// The latencies of one kind, by hour and pool.
fn latencies(
    all: &[&Life],
    kind: &str,
    now: DateTime<Utc>,
) -> BTreeMap<(DateTime<Utc>, &'static str), Vec<f64>> {
    let mut groups: BTreeMap<_, Vec<f64>> = BTreeMap::new();
    for life in all.iter().filter(|life| hour(life.settled_at) > now - TimeDelta::hours(24)) {
        if let Some((of, ms)) = life.latency().filter(|(of, _)| *of == kind) {
            assert_eq!(of, kind);
            groups.entry((hour(life.settled_at), life.pool)).or_default().push(ms);
        }
    }
    groups
}

fn due_lag(all: &[&Life], now: DateTime<Utc>) -> Vec<Vec<Value>> {
    let groups = latencies(all, "verdict", now);
    let lines = groups.iter().map(|((hour, pool), ms)| {
        let [p50, p99, most] = [0.5, 0.99, 1.0].map(|q| json!(quantile(ms, q)));
        vec![json!(hour), json!(pool), json!(ms.len()), p50, p99, most]
    });
    lines.collect()
}

fn connects(all: &[&Life], now: DateTime<Utc>) -> Vec<Vec<Value>> {
    let mut pools: BTreeMap<&str, (usize, f64, f64)> = BTreeMap::new();
    for ((_, pool), ms) in latencies(all, "connect", now) {
        let line = pools.entry(pool).or_default();
        *line = (line.0 + ms.len(), line.1.max(quantile(&ms, 0.99)), line.2.max(quantile(&ms, 0.999)));
    }
    pools.iter().map(|(pool, line)| vec![json!(pool), json!(line.0), json!(line.1), json!(line.2)]).collect()
}

fn in_vain(all: &[&Life], now: DateTime<Utc>) -> Vec<Vec<Value>> {
    let overtaken =
        |life: &&Life| life.result == Some("overtaken") && life.settled_at > now - TimeDelta::hours(24);
    let recent: Vec<&Life> = all.iter().copied().filter(overtaken).collect();
    let lines = grouped(&recent, |life| life.pool).into_iter().map(|(pool, lives)| {
        let micros = lives.iter().map(|l| (l.settled_at - l.due_at).num_microseconds().unwrap()).max();
        let slowest = json!(micros.unwrap() as f64 / 1e6);
        vec![json!(pool), json!(lives.len()), json!(count(&lives, |life| life.creates > 0)), slowest]
    });
    lines.collect()
}

#[tokio::test]
async fn the_ten_documented_queries_match_results_computed_by_hand() {
    let db = db().await;
    // The queries use `now()`, which does not change within a transaction.
    let mut tx = db.pool().begin().await.unwrap();
    let now: DateTime<Utc> = sqlx::query_scalar("select now()").fetch_one(&mut *tx).await.unwrap();
    let made = lives(18, 700, now);
    let all: Vec<&Life> = made.iter().collect();
    // Some counts are folded, some of the same minutes are not.
    write(&db, &made[..450]).await;
    let folded = keep_up(&db.store, upkeep_terms(14)).await;
    assert!(folded.counts_folded >= 450 && folded.analyzed, "{folded:?}");
    write(&db, &made[450..]).await;
    let waiting = schedule(&db.store, fresh("run_waiting", "snapshot_1")).await;
    db.run("update pending set scheduled_at = scheduled_at - interval '1 minute', due_at = due_at - interval '1 minute',
        probe_at = probe_at - interval '1 minute'")
        .await;
    let queries = queries();
    assert_eq!(queries.len(), 10);
    let due_at = waiting.due_at - TimeDelta::minutes(1);
    // Its schedule was counted when it was made, ten seconds before its first due time.
    let begun: Vec<DateTime<Utc>> =
        made.iter().map(|l| l.scheduled_at).chain([waiting.due_at - TimeDelta::seconds(10)]).collect();
    let ended = &made[8];
    let by = ended.reason.or(ended.result);
    let expected = [
        vec![vec![json!(made.len() + 1), json!(1), json!(made.len()), json!(0)]],
        by_pool(&all, now),
        by_version(&all, now),
        right_now(&all, &begun, now),
        by_day(&all, &begun, now),
        due_lag(&all, now),
        connects(&all, now),
        in_vain(&all, now),
        vec![vec![json!("default"), json!(false), json!(1), json!(0), json!(0), json!(1), json!(due_at)]],
        vec![vec![
            json!(ended.settled_at),
            json!("snapshot_1"),
            json!(ended.outcome),
            json!(by),
            json!(1),
            json!(ended.creates),
            Value::Null,
        ]],
    ];
    for (number, (query, expected)) in (1..).zip(queries.iter().zip(&expected)) {
        assert!(
            expected.iter().all(|row| !row.is_empty()) && !expected.is_empty(),
            "query {number} shows nothing"
        );
        expect(number, &rows(&mut tx, query).await, expected);
    }
    db.assert_conserved().await;
}
