//! One test's database, platform and workers, and the checks at its end.

use std::collections::BTreeMap;

use secrecy::ExposeSecret;
use serde_json::Value;
use sqlx::AssertSqlSafe;
use warmproof::domain::ids::RunId;
use warmproof::domain::outcome::Outcome;
use warmproof::store::lookup::Pending;
use warmproof_lab::simulator::SimulatorOptions;

use super::db::{Db, db};
use super::platform::{Dispatched, Platform, options};
use super::pooler::{PoolMode, mode};
use super::process::{Process, Program};
use super::wait::until;

pub const API_TOKEN: &str = "token-of-the-test-0123";

pub struct Stage {
    pub db: Db,
    pub platform: Platform,
}

impl Stage {
    pub async fn set() -> Self {
        Self::set_with(options()).await
    }

    pub async fn set_with(options: SimulatorOptions) -> Self {
        let stage = Self { db: db().await, platform: Platform::start(options).await };
        stage.db.audit.workers_end();
        stage
    }

    /// A worker of this name, with the shortest leases allowed.
    pub fn worker(&self, name: &str) -> Program {
        let url = self.platform.simulator.base_url();
        Program::new("worker", self.environment())
            .env("TRIGGER_API_URL", url)
            .env("TRIGGER_WORKER_TOKEN", SimulatorOptions::default().worker_token.expose_secret())
            .env("MANAGED_WORKER_SECRET", SimulatorOptions::default().managed_secret.expose_secret())
            .env("TRIGGER_WORKER_INSTANCE_NAME", name)
            .env("TRIGGER_WORKLOAD_API_DOMAIN", "supervisor.example")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://telemetry.example:4318")
            .env("COMPUTE_GATEWAY_URL", url)
            .env("WARMPROOF_WORKER_NAME", name)
            .env("WARMPROOF_LEASE_MS", 2000)
            .env("WARMPROOF_LOG", "warmproof=debug")
    }

    /// An API on a free port.
    pub fn api(&self) -> Program {
        Program::new("api", self.environment())
            .env("WARMPROOF_API_LISTEN", "127.0.0.1:0")
            .env("WARMPROOF_API_TOKEN", API_TOKEN)
    }

    fn environment(&self) -> BTreeMap<String, String> {
        [
            ("TRIGGER_WARM_START_VERIFY_ENABLED", "true"),
            ("TRIGGER_WARM_START_URL", "http://broker.example"),
            ("TRIGGER_WARM_START_VERIFY_DELAY_MS", "1000"),
            ("METRICS_PORT", "0"),
            ("WARMPROOF_DATABASE_URL", &self.db.url()),
            ("WARMPROOF_DATABASE_POOLER", &(mode() == Some(PoolMode::Transaction)).to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    pub async fn hit(&self) -> Dispatched {
        self.platform.hit(&self.db).await
    }

    pub async fn pending(&self, run: &RunId) -> Option<Pending> {
        self.db.store.pending_of(run).await.expect("a read of a row")
    }

    /// Waits until the run's row is as wanted.
    pub async fn row(&self, what: &str, run: &RunId, wanted: impl Fn(&Pending) -> bool) -> Pending {
        until(&format!("{run} {what}"), async || self.pending(run).await.filter(|row| wanted(row))).await
    }

    /// Waits until the run is claimed by this worker.
    pub async fn claimed_by(&self, worker: &str, run: &RunId) -> Pending {
        let what = format!("is claimed by {worker}");
        self.row(&what, run, |row| row.worker.as_deref() == Some(worker)).await
    }

    /// Waits for the run's outcome.
    pub async fn outcome(&self, run: &RunId) -> Outcome {
        let read = async || self.db.store.outcomes_of(run, 9).await.expect("outcomes").pop();
        until(&format!("{run} has an outcome"), read).await
    }

    /// Waits until a statement of a worker that holds this text is blocked by a lock, and returns
    /// the server process that runs it.
    pub async fn blocked(&self, statement: &str) -> i32 {
        let sql = format!(
            "select pid from pg_stat_activity where datname = current_database()
             and wait_event_type = 'Lock' and application_name = 'warmproof' and query like '%{statement}%'"
        );
        let read = async || {
            let found = sqlx::query_scalar::<_, i32>(AssertSqlSafe(sql.clone()));
            found.fetch_optional(self.db.pool()).await.expect("a read of the activity")
        };
        until(&format!("`{statement}` is blocked"), read).await
    }

    /// Makes the recording of each outcome take two seconds.
    pub async fn slow_outcomes(&self) {
        self.db
            .run(
                "create function slow() returns trigger language plpgsql as
                 $$ begin perform pg_sleep(2); return new; end $$",
            )
            .await;
        self.db
            .run("create trigger slow before insert on outcome for each row execute function slow()")
            .await;
    }

    /// Waits until a worker's slow settle records, and returns the server process that runs it.
    pub async fn recording(&self) -> i32 {
        let sql =
            "select pid from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'";
        let read = async || {
            sqlx::query_scalar::<_, i32>(sql)
                .fetch_optional(self.db.pool())
                .await
                .expect("a read of the activity")
        };
        until("a settle records", read).await
    }

    /// Ends all workers, then checks their work: each run has one outcome, reported in one
    /// event; nothing is unaccounted; no run was executed twice.
    pub async fn audit(&self, runs: &[Dispatched], workers: Vec<Process>) {
        let events = self.end(workers).await;
        let mut reported = BTreeMap::<String, Vec<Value>>::new();
        for event in events {
            let run = event["meta.run_id"].as_str().expect("a run").to_owned();
            reported.entry(run).or_default().push(event);
        }
        assert_eq!(reported.len(), runs.len(), "events of other runs: {:?}", reported.keys());
        for Dispatched { run, .. } in runs {
            let outcomes = self.db.store.outcomes_of(run, 9).await.expect("outcomes");
            assert_eq!(outcomes.len(), 1, "{outcomes:#?}");
            let events = &reported[run.as_str()];
            assert_eq!(events.len(), 1, "{events:#?}");
            assert_eq!(events[0]["outcome"], outcomes[0].outcome.as_str(), "event and row agree");
            assert_eq!(self.pending(run).await, None);
        }
        self.assert_sound().await;
    }

    /// Ends all workers and returns all events they reported.
    pub async fn end(&self, workers: Vec<Process>) -> Vec<Value> {
        let mut events = Vec::new();
        for mut worker in workers {
            if worker.is_running() {
                assert_eq!(worker.terminate().await, Some(0), "a worker ends well");
            }
            events.extend(worker.events());
        }
        events
    }

    pub async fn assert_sound(&self) {
        self.db.assert_conserved().await;
        let counters = self.platform.simulator.counters();
        assert_eq!(counters.double_starts, 0, "{counters:?}");
    }
}
