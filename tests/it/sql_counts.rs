//! Counts and histograms: each end writes them, a fold loses none, and they stay when outcomes are dropped.

#![allow(clippy::cast_precision_loss, reason = "a few hundred lives over a few days")]

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use warmproof::domain::outcome::{Ending, FallbackResult};
use warmproof::domain::verification::CancelReason;
use warmproof::store::report::{Latency, LossBy, Step};
use warmproof::store::upkeep::UpkeepTerms;

use warmproof_testkit::db::{Db, db, keep_up, upkeep_terms};
use warmproof_testkit::dispatch::{
    cancellation, claim, everything, fresh, hit, schedule, settlement, started,
};
use warmproof_testkit::lives::{Life, bucket, latency, lives, quantile, wilson, write};

type Histogram = BTreeMap<(String, i16), i64>;

/// The histograms of the views, over all hours and pools.
async fn histogram(db: &Db) -> Histogram {
    let text = "select kind, bucket, sum(n)::bigint from latency_hourly group by 1, 2";
    let rows: Vec<(String, i16, i64)> = sqlx::query_as(text).fetch_all(db.pool()).await.unwrap();
    rows.into_iter().map(|(kind, bucket, n)| ((kind, bucket), n)).collect()
}

/// The same, computed here from the recorded rows.
async fn histogram_of_rows(db: &Db) -> Histogram {
    type Row = (String, Option<String>, Option<DateTime<Utc>>, DateTime<Utc>, DateTime<Utc>, DateTime<Utc>);
    let text = "select outcome, reason, lost_at, settled_at, scheduled_at, due_at from outcome";
    let rows: Vec<Row> = sqlx::query_as(text).fetch_all(db.pool()).await.unwrap();
    let mut histogram = Histogram::new();
    for (outcome, reason, lost_at, settled_at, scheduled_at, due_at) in rows {
        if let Some((kind, ms)) =
            latency(&outcome, reason.as_deref(), lost_at, settled_at, scheduled_at, due_at)
        {
            *histogram.entry((kind.to_owned(), bucket(ms))).or_default() += 1;
        }
    }
    histogram
}

/// Ends sixty lives with every outcome, after random times.
async fn end_lives(db: &Db) {
    let mut rng = StdRng::seed_from_u64(5);
    for n in 0..60 {
        let _ = schedule(&db.store, fresh(&format!("run_{n}"), "snapshot_1")).await;
        let ago = 10f64.powf(rng.random_range(0.0..6.0)).round();
        let shift = format!(
            "update pending set scheduled_at = scheduled_at - interval '{ago} ms',
               due_at = due_at - interval '{ago} ms' where run_id = 'run_{n}'"
        );
        db.run(&shift).await;
    }
    let cancel = |n: usize, reason| cancellation(&format!("run_{n}"), None, reason);
    let connects: Vec<_> = (0..20).map(|n| cancel(n, CancelReason::Connected)).collect();
    let _ = db.store.cancel(&connects).await.unwrap();
    let _ =
        db.store.cancel(&[cancel(20, CancelReason::Miss), cancel(21, CancelReason::Operator)]).await.unwrap();
    db.run("select cancel('run_22')").await;
    let _ = schedule(&db.store, hit("run_23", "snapshot_2", TimeDelta::seconds(-1))).await;
    let claims = claim(&db.store, everything("default", 100)).await;
    let settlements: Vec<_> = claims
        .iter()
        .map(|claim| {
            let n: usize = claim.key.run_id.internal().parse().unwrap();
            let ending = match n % 3 {
                0 => started(),
                1 => Ending::ProbeError { error: "timeout".to_owned() },
                _ => Ending::Fallback { result: FallbackResult::Failed, error: None },
            };
            settlement(claim, ending)
        })
        .collect();
    for settlement in settlements.iter().filter(|one| matches!(one.ending, Ending::Fallback { .. })) {
        let _ = db.store.mark_lost(&settlement.key, 1).await.unwrap();
    }
    // Two rows that are marked lost end early: one by a connect, one by a newer dispatch.
    let mut lost = settlements.iter().filter(|one| matches!(one.ending, Ending::Fallback { .. }));
    let (one, other) = (lost.next().unwrap(), lost.next().unwrap());
    let _ = db
        .store
        .cancel(&[cancellation(one.key.run_id.as_str(), None, CancelReason::Connected)])
        .await
        .unwrap();
    let _ = schedule(&db.store, hit(other.key.run_id.as_str(), "snapshot_3", TimeDelta::seconds(-2))).await;
    for answer in db.store.settle(&settlements).await.unwrap() {
        assert!(answer.is_ok(), "{answer:?}");
    }
}

#[tokio::test]
async fn each_end_leaves_its_latency_in_the_histogram_before_and_after_it_is_folded() {
    let db = db().await;
    end_lives(&db).await;
    let expected = histogram_of_rows(&db).await;
    assert!(expected.len() > 12 && expected.keys().any(|(kind, _)| kind == "connect"), "{expected:?}");
    assert_eq!(histogram(&db).await, expected);
    let done = keep_up(&db.store, upkeep_terms(14)).await;
    assert!(done.counts_folded > 20);
    assert_eq!(db.value::<i64>("select count(*) from outcome_count").await, 0);
    assert_eq!(histogram(&db).await, expected);
    // A second round of lives adds to rows that exist already.
    db.run("update pending set run_id = 'run_1000' || substr(run_id, 5)").await;
    end_lives(&db).await;
    let _ = keep_up(&db.store, upkeep_terms(14)).await;
    assert_eq!(histogram(&db).await, histogram_of_rows(&db).await);
    db.assert_conserved().await;
}

#[tokio::test]
async fn every_fold_keeps_every_sum_in_every_snapshot() {
    let db = db().await;
    let now: DateTime<Utc> = db.value("select now()").await;
    write(&db, &lives(7, 300, now)).await;
    let sums = "select md5(string_agg(c::text, ',' order by c::text)) from (
      select hour, pool, supervisor, deployment_version, intent, outcome, reason, fallback_result, late, sum(n)
      from count_hourly group by 1, 2, 3, 4, 5, 6, 7, 8, 9) as c";
    let before: String = db.value(sums).await;
    let (begun, first_probe) = tokio::sync::oneshot::channel();
    let watcher = db.pool().clone();
    let observer = tokio::spawn(async move {
        let (mut seen, mut begun) = (0, Some(begun));
        loop {
            let text = "select unaccounted, scheduled from conservation";
            let (unaccounted, scheduled): (i64, i64) =
                sqlx::query_as(text).fetch_one(&watcher).await.unwrap();
            assert_eq!((unaccounted, scheduled), (0, 300));
            seen += 1;
            let left: i64 =
                sqlx::query_scalar("select count(*) from outcome_count").fetch_one(&watcher).await.unwrap();
            if let Some(begun) = begun.take() {
                begun.send(()).expect("the test waits");
            }
            if left == 0 {
                return seen;
            }
        }
    });
    first_probe.await.unwrap();
    // In small steps, so that snapshots fall in between.
    let fold = include_str!("../../src/store/fold_counts.sql");
    while sqlx::query_scalar::<_, i64>(fold).bind(7_i64).bind(1000_i64).fetch_one(db.pool()).await.unwrap()
        > 0
    {}
    assert!(observer.await.unwrap() > 1);
    assert_eq!(db.value::<String>(sums).await, before);
    let detail = "select (select sum(n) from outcome_minute) = (select sum(n) from outcome_hour)
      and (select sum(n) from outcome_hour) = (select sum(n) from outcome_total)";
    assert!(db.value::<bool>(detail).await);
    db.assert_conserved().await;
}

#[tokio::test]
async fn two_concurrent_rounds_of_upkeep_fold_each_delta_once() {
    let db = db().await;
    let now: DateTime<Utc> = db.value("select now()").await;
    write(&db, &lives(9, 200, now)).await;
    let rounds = (0..6).map(|_| {
        let store = db.store.clone();
        tokio::spawn(async move { store.upkeep(upkeep_terms(14)).await })
    });
    let mut folded = 0;
    for round in rounds.collect::<Vec<_>>() {
        folded += round.await.unwrap().counts_folded;
    }
    let _ = keep_up(&db.store, upkeep_terms(14)).await;
    assert!(folded <= 400, "{folded}");
    assert_eq!(db.value::<i64>("select sum(n)::bigint from outcome_total").await, 400);
    db.assert_conserved().await;
}

#[tokio::test]
async fn upkeep_drops_days_older_than_the_retention_and_keeps_their_counts() {
    let db = db().await;
    let now: DateTime<Utc> = db.value("select now()").await;
    let made = lives(3, 120, now);
    write(&db, &made).await;
    let _ = schedule(&db.store, fresh("run_pending", "snapshot_1")).await;
    db.run("update pending set scheduled_at = scheduled_at - interval '9 days', due_at = due_at - interval '9 days'").await;
    let counted: i64 = db.value("select ended from conservation").await;
    let terms = UpkeepTerms { days_ahead: 14, retention_days: Some(4) };

    // While a session reads for long, upkeep drops nothing and does not wait.
    let mut reader = db.pool().begin().await.unwrap();
    sqlx::query("select count(*) from outcome").execute(&mut *reader).await.unwrap();
    assert_eq!(keep_up(&db.store, terms).await.partitions_dropped, [""; 0]);
    reader.rollback().await.unwrap();

    let mut dropped = Vec::new();
    loop {
        let round = keep_up(&db.store, terms).await;
        if round.partitions_dropped.is_empty() {
            break;
        }
        dropped.extend(round.partitions_dropped);
    }
    let first_kept = now.date_naive() - TimeDelta::days(4);
    let last_dropped = (first_kept - TimeDelta::days(1)).format("outcome_%Y%m%d").to_string();
    assert_eq!(dropped.last(), Some(&last_dropped));
    assert!(dropped.is_sorted() && dropped.len() == 11, "{dropped:?}");
    let kept = made.iter().filter(|life| life.settled_at.date_naive() >= first_kept).count();
    assert_eq!(db.value::<i64>("select count(*) from outcome").await, i64::try_from(kept).unwrap());
    let conservation = db.store.conservation().await.unwrap();
    assert_eq!((conservation.ended, conservation.unaccounted, conservation.pending), (counted, 0, 1));
    let refused = sqlx::query("select drop_old_outcomes(0)").execute(db.pool()).await;
    assert!(refused.unwrap_err().to_string().contains("at least 1"));
}

#[tokio::test]
async fn the_typed_reports_match_results_computed_by_hand() {
    let db = db().await;
    let now: DateTime<Utc> = db.value("select now()").await;
    let made = lives(11, 400, now);
    write(&db, &made[..200]).await;
    let _ = keep_up(&db.store, upkeep_terms(14)).await;
    write(&db, &made[200..]).await;

    let since = now - TimeDelta::days(20);
    let count = |which: &dyn Fn(&Life) -> bool| made.iter().filter(|life| which(life)).count();
    let whole = db.store.losses(since, Step::Whole, LossBy::Nothing).await.unwrap();
    let [all] = whole.as_slice() else { panic!("{whole:?}") };
    let (lost, observed) = (count(&Life::is_lost), count(&Life::is_observed));
    let overtaken = count(&Life::is_overtaken);
    assert_eq!((all.lost, all.observed), (i64::try_from(lost).unwrap(), i64::try_from(observed).unwrap()));
    assert_eq!((all.scheduled, all.key.as_deref()), (400, None));
    let near =
        |left: Option<f64>, right: f64| assert!((left.unwrap() - right).abs() < 1e-12, "{left:?} {right}");
    near(all.loss_rate, lost as f64 / observed as f64);
    near(all.loss_rate_low, wilson(lost, observed).0);
    near(all.loss_rate_high, wilson(lost, observed).1);
    near(all.loss_rate_without_overtaken_low, wilson(lost - overtaken, observed - overtaken).0);
    near(all.fallback_rate_high, wilson(count(&Life::is_fallback), count(&Life::is_probed)).1);
    assert_eq!(usize::try_from(all.late).unwrap(), count(&|life| life.late));

    for (step, by) in [
        (Step::Day, LossBy::Pool),
        (Step::Hour, LossBy::DeploymentVersion),
        (Step::Day, LossBy::Supervisor),
        (Step::Hour, LossBy::Region),
        (Step::Day, LossBy::Intent),
    ] {
        let lines = db.store.losses(since, step, by).await.unwrap();
        assert_eq!(lines.iter().map(|line| line.lost).sum::<i64>(), all.lost, "{step:?} {by:?}");
        assert_eq!(lines.iter().map(|line| line.scheduled).sum::<i64>(), 400, "{step:?} {by:?}");
    }
    let pools = db.store.losses(since, Step::Whole, LossBy::Pool).await.unwrap();
    let keys: Vec<_> = pools.iter().map(|line| line.key.as_deref()).collect();
    assert_eq!(keys, [Some("batch"), Some("default")]);
    let minutes = db.store.losses(now - TimeDelta::minutes(5), Step::Minute, LossBy::Nothing).await.unwrap();
    assert!(minutes.len() >= 4 && minutes.iter().all(|line| line.at > now - TimeDelta::minutes(6)));

    for (latency, kind) in [(Latency::Verdict, "verdict"), (Latency::Connect, "connect")] {
        let lines = db.store.latencies(latency, since).await.unwrap();
        assert_eq!(lines.len(), 2);
        for line in lines {
            let of_pool = made.iter().filter(|life| life.pool == line.pool).filter_map(Life::latency);
            let ms: Vec<f64> = of_pool.filter(|(of, _)| *of == kind).map(|(_, ms)| ms).collect();
            assert_eq!(usize::try_from(line.n).unwrap(), ms.len());
            near(Some(line.p50_ms / quantile(&ms, 0.5)), 1.0);
            near(Some(line.p99_ms / quantile(&ms, 0.99)), 1.0);
            near(Some(line.max_ms / quantile(&ms, 1.0)), 1.0);
        }
    }
    let vain = db.store.false_positives(since, 1000).await.unwrap();
    assert_eq!(vain.len(), count(&|life| life.result == Some("overtaken")));
    assert!(vain.is_sorted_by(|left, right| left.settled_at >= right.settled_at));
    assert_eq!(db.store.false_positives(since, 2).await.unwrap(), vain[..2]);
    let pools: String =
        db.value("select string_agg(name || ' ' || pending, ', ' order by name) from pools").await;
    assert_eq!(pools, "batch 0, default 0");
}

#[tokio::test]
async fn every_object_in_the_schema_has_a_comment() {
    let db = db().await;
    let silent = "select coalesce(string_agg(thing, ', '), '') from (
      select c.relname || coalesce('.' || a.attname, '') as thing
      from pg_class c left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
      where c.relnamespace = 'warmproof'::regnamespace and c.relkind in ('r', 'p', 'v') and not c.relispartition
        and (obj_description(c.oid, 'pg_class') is null or col_description(c.oid, a.attnum) is null)
      union all
      select p.proname || '()' from pg_proc p
      where p.pronamespace = 'warmproof'::regnamespace and obj_description(p.oid, 'pg_proc') is null
    ) as things";
    assert_eq!(db.value::<String>(silent).await, "");
    db.run("create table warmproof.mute (word text)").await;
    assert_eq!(db.value::<String>(silent).await, "mute.word");
}

/// Deltas of this hour, with names made of a number.
async fn named(db: &Db, kind: &str, from: u32, to: u32) {
    let deltas = format!(
        "insert into outcome_count (minute, pool, {kind}, intent, outcome, n)
         select date_trunc('minute', now()), 'default', 'name-' || lpad(n::text, 5, '0'), 'hit', 'scheduled', 2
         from generate_series({from}, {to}) as n"
    );
    db.run(&deltas).await;
}

#[tokio::test]
async fn names_that_callers_make_up_are_counted_together_as_other() {
    let db = db().await;
    db.audit.rows_are_made_up();
    let one = async |sql: &str| db.value::<i64>(sql).await;
    for kind in ["supervisor", "region", "deployment_version"] {
        named(&db, kind, 1, 990).await;
        let _ = keep_up(&db.store, upkeep_terms(1)).await;
        // Some are known, ten find room, and the rest does not.
        named(&db, kind, 900, 1500).await;
        let _ = keep_up(&db.store, upkeep_terms(1)).await;
        for table in ["outcome_hour", "outcome_minute"] {
            let names = format!("select count(distinct {kind}) from {table}");
            assert_eq!(one(&names).await, 1001, "{kind} in {table}");
            let other = format!("select sum(n)::bigint from {table} where {kind} = 'other'");
            assert_eq!(one(&other).await, 1000, "{kind} in {table}");
            let known = format!("select sum(n)::bigint from {table} where {kind} = 'name-00950'");
            assert_eq!(one(&known).await, 4, "{kind} in {table}");
            let all = format!("select sum(n)::bigint from {table} where {kind} is not null");
            assert_eq!(one(&all).await, 2 * (990 + 601), "{kind} in {table}");
        }
    }
    // Very many at once are no more work than as many rows.
    named(&db, "region", 10_000, 59_999).await;
    let _ = keep_up(&db.store, upkeep_terms(1)).await;
    assert_eq!(one("select count(*) from outcome_count").await, 0);
    // A name that was not seen for as long as outcomes are kept makes room.
    db.run("update counted_name set seen_on = seen_on - 31 where name <> 'name-00950'").await;
    let _ = keep_up(&db.store, upkeep_terms(1)).await;
    named(&db, "region", 5000, 5010).await;
    let _ = keep_up(&db.store, upkeep_terms(1)).await;
    assert_eq!(one("select sum(n)::bigint from outcome_hour where region = 'name-05000'").await, 2);
}

#[tokio::test]
async fn hours_as_old_as_outcomes_are_kept_fold_to_their_pool() {
    let db = db().await;
    db.audit.rows_are_made_up();
    db.run(
        "insert into outcome_hour (hour, pool, supervisor, region, deployment_version, intent, outcome, reason, late, n)
         select date_trunc('hour', now(), 'UTC') - (29 + d) * interval '1 day', 'default',
           case when n % 2 = 0 then 'supervisor-' || n end, 'region-' || n, 'version-' || n, 'hit', 'delivered',
           case when n % 5 = 0 then 'finished' else 'started' end, false, n
         from generate_series(1, 20) as n, generate_series(0, 3) as d",
    )
    .await;
    let sums = "select array_agg(text order by text) from (
      select concat_ws(' ', hour, pool, intent, outcome, reason, late, sum(n)) as text
      from outcome_hour group by hour, pool, intent, outcome, reason, late) as t";
    let before: Vec<String> = db.value(sums).await;
    let _ = keep_up(&db.store, upkeep_terms(1)).await;
    let _ = keep_up(&db.store, upkeep_terms(1)).await;
    assert_eq!(db.value::<Vec<String>>(sums).await, before, "no count is lost");
    let lines: Vec<i64> = db
        .value("select array_agg(n order by hour) from (select hour, count(*) as n from outcome_hour group by hour) as t")
        .await;
    assert_eq!(lines, [2, 2, 2, 20], "the older three of four days have two lines each");
    let named: i64 = db
        .value(
            "select count(*) from outcome_hour where hour < now() - interval '30 days'
                  and num_nonnulls(supervisor, region, deployment_version) > 0",
        )
        .await;
    assert_eq!(named, 0);
}
