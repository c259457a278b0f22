//! Made-up lives over two weeks: written as rows, and kept in memory to compute the results that reports must show.

#![allow(clippy::cast_precision_loss, reason = "a few hundred lives over a few days")]

use chrono::{DateTime, TimeDelta, Utc};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use uuid::Uuid;

use super::db::Db;

#[derive(Debug, Clone)]
pub struct Life {
    pub run_id: String,
    pub pool: &'static str,
    pub supervisor: Option<&'static str>,
    pub version: Option<&'static str>,
    pub intent: &'static str,
    pub scheduled_at: DateTime<Utc>,
    pub due_at: DateTime<Utc>,
    pub settled_at: DateTime<Utc>,
    pub lost_at: Option<DateTime<Utc>>,
    pub outcome: &'static str,
    pub reason: Option<&'static str>,
    pub result: Option<&'static str>,
    pub late: bool,
    pub creates: i32,
}

impl Life {
    /// Fallbacks and deliveries by the redrive, unless late.
    pub fn is_lost(&self) -> bool {
        !self.late && (self.outcome == "fallback" || self.reason == Some("requeued"))
    }

    pub fn is_overtaken(&self) -> bool {
        !self.late && self.result == Some("overtaken")
    }

    pub fn is_delivered(&self) -> bool {
        !self.late && self.outcome == "delivered" && self.reason != Some("requeued")
    }

    pub fn is_connected(&self) -> bool {
        self.reason == Some("connected")
    }

    pub fn is_observed(&self) -> bool {
        self.is_lost() || self.is_delivered() || self.is_connected()
    }

    /// What the platform's own verifier would call a fallback, of how many.
    pub fn is_fallback(&self) -> bool {
        !self.late && self.outcome == "fallback"
    }

    pub fn is_probed(&self) -> bool {
        !self.late && matches!(self.outcome, "fallback" | "delivered")
    }

    /// Which latency it has, and how long that was in milliseconds.
    pub fn latency(&self) -> Option<(&'static str, f64)> {
        latency(self.outcome, self.reason, self.lost_at, self.settled_at, self.scheduled_at, self.due_at)
    }
}

pub fn latency(
    outcome: &str,
    reason: Option<&str>,
    lost_at: Option<DateTime<Utc>>,
    settled_at: DateTime<Utc>,
    scheduled_at: DateTime<Utc>,
    due_at: DateTime<Utc>,
) -> Option<(&'static str, f64)> {
    let ms = |span: TimeDelta| span.num_microseconds().expect("a span of days at most") as f64 / 1000.0;
    match (outcome, reason) {
        ("cancelled", Some("connected")) => Some(("connect", ms(settled_at - scheduled_at))),
        ("fallback", _) => Some(("verdict", ms(lost_at.expect("a fallback was lost") - due_at))),
        ("delivered" | "probe_error", _) => Some(("verdict", ms(settled_at - due_at))),
        _ => None,
    }
}

/// The first of 1, 2^(1/4), 2^(2/4) … milliseconds that is not shorter, counted from 0.
pub fn bucket(ms: f64) -> i16 {
    let mut bucket = 0;
    while 2f64.powf(f64::from(bucket) / 4.0) * (1.0 + 1e-9) < ms {
        bucket += 1;
    }
    bucket
}

/// The upper edge of the bucket in which the share `q` of the durations is complete.
pub fn quantile(ms: &[f64], q: f64) -> f64 {
    let mut buckets: Vec<i16> = ms.iter().copied().map(bucket).collect();
    buckets.sort_unstable();
    let needed = (1..=buckets.len()).find(|n| *n as f64 >= q * buckets.len() as f64).expect("not empty");
    2f64.powf(f64::from(buckets[needed - 1]) / 4.0)
}

/// The 95 % Wilson interval in its textbook form: centre and half-width, not one fraction.
pub fn wilson(k: usize, n: usize) -> (f64, f64) {
    let (k, n, z) = (k as f64, n as f64, 1.959_963_984_540_054);
    let p = k / n;
    let middle = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    (middle - half, middle + half)
}

/// So many lives that ended in the last two weeks, many of them today and some this minute.
pub fn lives(seed: u64, count: usize, now: DateTime<Utc>) -> Vec<Life> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..count)
        .map(|n| {
            let ago = match n % 4 {
                0 => rng.random_range(1..900),
                1 => rng.random_range(1..86_400),
                _ => rng.random_range(1..13 * 86_400),
            };
            life(&mut rng, n, now - TimeDelta::seconds(ago) - TimeDelta::milliseconds(7))
        })
        .collect()
}

fn life(rng: &mut StdRng, n: usize, settled_at: DateTime<Utc>) -> Life {
    let (outcome, reason, result) = match rng.random_range(0..20) {
        0..=7 => ("cancelled", Some("connected"), None),
        8 => ("cancelled", Some("miss"), None),
        9 => ("cancelled", Some("operator"), None),
        10 => ("superseded", None, None),
        11 => ("probe_error", None, None),
        12..=13 => ("delivered", Some("started"), None),
        14 => ("delivered", Some("finished"), None),
        15 => ("delivered", Some("requeued"), None),
        16 => ("fallback", None, Some("created")),
        17 => ("fallback", None, Some("overtaken")),
        18 => ("fallback", None, Some("suppressed")),
        _ => ("fallback", None, Some("cancelled")),
    };
    let took = TimeDelta::microseconds(rng.random_range(500..9_000_000));
    let due_at = match (outcome, reason) {
        ("cancelled", _) => settled_at - took + TimeDelta::seconds(10),
        _ => settled_at - TimeDelta::seconds(3) - took,
    };
    let settle = matches!(outcome, "delivered" | "probe_error") || result == Some("created");
    Life {
        run_id: format!("run_{n:04}"),
        pool: ["default", "batch"][usize::from(rng.random_bool(0.3))],
        supervisor: [None, Some("supervisor-1"), Some("supervisor-2")][rng.random_range(0..3)],
        version: [None, Some("20260821.3"), Some("20260822.1")][rng.random_range(0..3)],
        intent: ["hit", "dispatch"][usize::from(reason == Some("miss"))],
        scheduled_at: due_at - TimeDelta::seconds(10),
        due_at,
        settled_at,
        lost_at: (outcome == "fallback").then(|| due_at + took / 7),
        outcome,
        reason,
        result,
        late: settle && rng.random_bool(0.1),
        creates: i32::from(result == Some("created") || rng.random_bool(0.5) && outcome == "fallback"),
    }
}

/// Writes their outcomes, and the deltas that the statements would have written.
pub async fn write(db: &Db, lives: &[Life]) {
    db.run("insert into pool (name) values ('batch') on conflict do nothing").await;
    db.run(
        "do $$ declare day date; begin
           for day in select ((now() at time zone 'utc')::date - n) from generate_series(0, 15) as n loop
             if to_regclass('outcome_' || to_char(day, 'YYYYMMDD')) is null then
               execute format('create table %I partition of outcome for values from (%L) to (%L)',
                 'outcome_' || to_char(day, 'YYYYMMDD'), day || ' 00:00:00+00', day + 1 || ' 00:00:00+00');
             end if;
           end loop;
         end $$",
    )
    .await;
    for life in lives {
        write_one(db, life).await;
    }
}

async fn write_one(db: &Db, life: &Life) {
    // Only a settle has a fence.
    let fence = (matches!(life.outcome, "delivered" | "probe_error")).then_some(1_i64);
    sqlx::query(
        "with ended as (
           insert into outcome (settled_at, id, run_id, snapshot_id, pool, supervisor, deployment_version, intent,
             dequeued_at, scheduled_at, due_at, outcome, reason, fallback_result, late, fence, worker, claim_count,
             probe_count, create_count, lost_at, create_permitted_at, error)
           values ($1, $2, $3, 'snapshot_1', $4, $5, $6, $7, $8, $8, $9, $10, $11, $12, $13, $14,
             case when $14 is not null then 'worker-1' end, 1, 1, $15, $16, case when $15 > 0 then $16 end,
             case when $10 = 'probe_error' then 'timeout' end)
         )
         insert into outcome_count (minute, pool, supervisor, deployment_version, intent, outcome, reason,
           fallback_result, late, n, latencies)
         values (date_trunc('minute', $8), $4, $5, $6, $7, 'scheduled', null, null, false, 1, null),
           (date_trunc('minute', $1), $4, $5, $6, $7, $10, $11, $12, $13, 1, $17)",
    )
    .bind(life.settled_at)
    .bind(Uuid::now_v7())
    .bind(&life.run_id)
    .bind(life.pool)
    .bind(life.supervisor)
    .bind(life.version)
    .bind(life.intent)
    .bind(life.scheduled_at)
    .bind(life.due_at)
    .bind(life.outcome)
    .bind(life.reason)
    .bind(life.result)
    .bind(life.late)
    .bind(fence)
    .bind(life.creates)
    .bind(life.lost_at)
    .bind(life.latency().map(|(_, ms)| vec![bucket(ms)]))
    .execute(db.pool())
    .await
    .unwrap_or_else(|error| panic!("{life:?}: {error}"));
}
