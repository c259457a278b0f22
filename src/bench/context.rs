//! What every phase of a benchmark works with.

use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::value::RawValue;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::domain::dispatch::Dispatch;
use crate::domain::ids::PoolName;
use crate::domain::verification::{Intent, NewVerification};
use crate::store::{Store, migrate};

/// The schema of a benchmark; dropped and made anew for each phase that wants a fresh one.
pub const SCHEMA: &str = "warmproof_bench";

/// How much work a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Under two minutes in all.
    Quick,
    /// As long as the figures need.
    Full,
}

/// One cluster and the size of the run.
#[derive(Debug, Clone)]
pub struct Context {
    /// How to reach the server, without our `search_path`.
    pub options: PgConnectOptions,
    /// The same as a URL, for worker processes.
    pub url: String,
    /// How much work to do.
    pub scale: Scale,
    /// How often variants that are compared are measured, in turns.
    pub rounds: usize,
}

impl Context {
    /// One number for a quick run and another for a full one.
    #[must_use]
    pub fn pick<T>(&self, quick: T, full: T) -> T {
        match self.scale {
            Scale::Quick => quick,
            Scale::Full => full,
        }
    }

    /// Connection options with our schema first in the path.
    #[must_use]
    pub fn schema_options(&self) -> PgConnectOptions {
        self.options.clone().options([("search_path", SCHEMA)])
    }

    /// A store on an empty, freshly migrated schema, with at most so many connections.
    ///
    /// # Errors
    /// The server refused.
    pub async fn fresh_store(&self, connections: u32) -> anyhow::Result<Store> {
        let admin = PgPoolOptions::new().max_connections(1).connect_with(self.options.clone()).await?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("drop schema if exists {SCHEMA} cascade")))
            .execute(&admin)
            .await
            .context("could not drop the schema of an earlier phase")?;
        admin.close().await;
        let _ = migrate::migrate(&self.options, SCHEMA).await?;
        self.store(connections).await
    }

    /// A store on the schema as it is.
    ///
    /// # Errors
    /// The server refused.
    pub async fn store(&self, connections: u32) -> anyhow::Result<Store> {
        let db = PgPoolOptions::new()
            .max_connections(connections)
            .min_connections(connections)
            .acquire_timeout(Duration::from_secs(30))
            .connect_with(self.schema_options())
            .await?;
        Ok(Store::new(db))
    }
}

/// Makes dispatches that look like the platform's, about 3 KB each, all different.
#[derive(Debug)]
pub struct Dispatches {
    rng: StdRng,
    next: u64,
}

impl Dispatches {
    /// The same seed makes the same messages; runs are numbered from `first`.
    #[must_use]
    pub fn new(seed: u64, first: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), next: first }
    }

    fn id(&mut self) -> String {
        const ALPHABET: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
        (0..25).map(|_| char::from(ALPHABET[self.rng.random_range(0..ALPHABET.len())])).collect()
    }

    /// The next dispatch, dequeued at `now`.
    ///
    /// # Panics
    /// Never: the text is JSON of the right shape.
    #[must_use]
    pub fn next(&mut self, now: DateTime<Utc>) -> Dispatch {
        let random = self.id();
        let run = format!("{:06}{}", self.next, &random[..19]);
        self.next += 1;
        let waitpoints: Vec<serde_json::Value> = (0..3)
            .map(|index| {
                let id = self.id();
                serde_json::json!({
                    "id": id, "index": index, "friendlyId": format!("waitpoint_{id}"), "type": "RUN",
                    "completedAt": now, "idempotencyKey": self.id(),
                    "completedByTaskRun": {"id": self.id(), "friendlyId": format!("run_{}", self.id())},
                    "output": format!("{{\"orderId\":{},\"token\":\"{}{}\"}}", self.rng.random::<u32>(), self.id(), self.id()),
                    "outputType": "application/json", "outputIsError": false,
                })
            })
            .collect();
        let snapshot = self.id();
        let deployment = self.id();
        let message = serde_json::json!({
            "version": "1", "dequeuedAt": now, "workerQueueLength": self.rng.random_range(0..500),
            "snapshot": {"id": snapshot, "friendlyId": format!("snapshot_{snapshot}"),
                "executionStatus": "PENDING_EXECUTING", "description": "Run was dequeued for execution", "createdAt": now},
            "image": format!("registry.internal.example/deployments/proj_{}:20260821.3.prod@sha256:{:064x}",
                &deployment[..20], self.rng.random::<u128>()),
            "completedWaitpoints": waitpoints,
            "backgroundWorker": {"id": self.id(), "friendlyId": format!("worker_{}", self.id()),
                "version": "20260821.3", "runtime": "node-22"},
            "deployment": {"id": self.id(), "friendlyId": format!("deployment_{}", &deployment[..16]),
                "imagePlatform": "linux/amd64"},
            "run": {"id": run, "friendlyId": format!("run_{run}"), "isTest": false, "isReplay": false,
                "machine": {"name": "small-1x", "cpu": 0.5, "memory": 0.5, "centsPerMs": 0.000_033_82},
                "attemptNumber": 1, "masterQueue": "us-east-1",
                "traceContext": {
                    "traceparent": format!("00-{:032x}-{:016x}-01", self.rng.random::<u128>(), self.rng.random::<u64>()),
                    "baggage": format!("tenant={},session={}", self.id(), self.id())},
                "annotations": {"triggerSource": "sdk", "triggerAction": "trigger", "rootTriggerSource": "sdk",
                    "taskKind": "STANDARD", "externalDeploymentId": self.id()}},
            "environment": {"id": self.id(), "type": "PRODUCTION"},
            "organization": {"id": self.id(), "hasPrivateLink": false},
            "project": {"id": self.id()},
            "placementTags": [{"key": "paid", "values": ["true"]}],
        });
        let raw = RawValue::from_string(message.to_string()).expect("JSON");
        Dispatch::parse(raw, None).expect("a dispatch")
    }

    /// The next hit, in the default pool.
    #[must_use]
    pub fn hit(&mut self, now: DateTime<Utc>, delay: Option<Duration>) -> NewVerification {
        NewVerification {
            dispatch: self.next(now),
            pool: PoolName::default_pool(),
            supervisor: Some("supervisor-1".to_owned()),
            region: Some("eu-central-1".to_owned()),
            intent: Intent::Hit,
            delay,
        }
    }
}
