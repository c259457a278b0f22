//! Times the claim statement on a live pool, with the watermark that a worker would have.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::figures::millis;
use super::rows;
use crate::bench::context::Bed;
use warmproof::domain::claim::{Claim, Fence, REDRIVE_DEFAULT};
use warmproof::domain::ids::{PoolName, WorkerName};
use warmproof::domain::outcome::{Ending, Settlement};
use warmproof::domain::verdict::Acted;
use warmproof::store::claim::{ClaimTerms, Wanted};

/// How often it claims: as often as all workers of a busy pool together.
const EVERY: Duration = Duration::from_millis(5);
/// How far the watermark lags: as far as a worker's.
const MARGIN: TimeDelta = TimeDelta::milliseconds(500);
const LEASE: Duration = Duration::from_secs(5);
const QUOTA: u32 = 100;

/// How long each claim took, in milliseconds, and how many rows they took together.
#[derive(Debug, Default)]
pub struct Claims {
    /// One for each statement.
    pub took_ms: Vec<f64>,
    /// Rows claimed and settled.
    pub rows: usize,
}

/// Claims from the default pool for this long, and settles what it claims.
///
/// # Errors
/// The server refused.
pub async fn claim_for(store: &Bed, span: Duration) -> anyhow::Result<Claims> {
    let worker = WorkerName::parse("bench-claimer")?;
    let mut rng = StdRng::from_os_rng();
    let mut claims = Claims::default();
    let began = Instant::now();
    let clock: DateTime<Utc> = rows::clock(store.db()).await?;
    let mut ticks = tokio::time::interval(EVERY);
    while began.elapsed() < span {
        ticks.tick().await;
        let low = clock + TimeDelta::from_std(began.elapsed())? - MARGIN;
        let wanted = [Wanted {
            pool: PoolName::default_pool(),
            low: Some(low),
            high: None,
            quota: QUOTA,
            redrive: REDRIVE_DEFAULT,
        }];
        let fence = Fence::fresh(&mut rng);
        let terms = ClaimTerms { fence, worker: &worker, lease: LEASE, horizon: Duration::ZERO };
        let asked = Instant::now();
        let got = store.claim(&wanted, terms).await?;
        claims.took_ms.push(millis(asked.elapsed()));
        claims.rows += got.len();
        settle(store, got).await?;
    }
    Ok(claims)
}

async fn settle(store: &Bed, claims: Vec<Claim>) -> anyhow::Result<()> {
    if claims.is_empty() {
        return Ok(());
    }
    let batch: Vec<Settlement> = claims
        .into_iter()
        .map(|claim| Settlement {
            key: claim.key,
            ending: Ending::Delivered { acted: Acted::Started, warm_start: true },
            probes: 1,
            probe_ms: Some(0),
            late: false,
            workload: None,
        })
        .collect();
    for answer in store.settle(&batch).await? {
        // Stale is a valid answer: another claimer may work in the same pool.
        let _ = answer?;
    }
    Ok(())
}
