//! What the demo runs against: a database, the simulated platform and a supervisor.

use std::time::Duration;

use anyhow::{Context, anyhow};
use rand::SeedableRng;
use rand::distr::{Alphanumeric, SampleString};
use rand::rngs::StdRng;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::{DemoArgs, say};
use crate::postgres::discovery::Discovery;
use crate::postgres::{Home, Options, PrivatePostgres};
use crate::simulator::{RunConnected, Shares, Simulator, SimulatorOptions};
use crate::supervisor::settings::SuperviseSettings;
use crate::supervisor::{Connected, Supervisor};
use warmproof::config::environment::{Environment, Value};
use warmproof::config::verify::Switch;
use warmproof::platform;
use warmproof::scheduler::Scheduler;
use warmproof::store::connect::Role;
use warmproof::store::lookup::Conservation;
use warmproof::store::{Store, migrate};
use warmproof::workload::Workload;

/// The schema of a demo in a database of the user's, apart from anything real.
const SCHEMA: &str = "warmproof_demo";

pub(super) struct Stage {
    postgres: Option<PrivatePostgres>,
    environment: Vec<(String, String)>,
    database_url: String,
    made_token: Option<String>,
    pub(super) store: Store,
    pub(super) simulator: Simulator,
    /// What the database had counted before the demo began.
    pub(super) before: Conservation,
    queued: u64,
    supervisor: JoinHandle<()>,
    stop: CancellationToken,
}

impl Stage {
    pub(super) async fn set(args: &DemoArgs) -> anyhow::Result<Self> {
        let process = Environment::from_process();
        let (postgres, database_url) = match process.get("WARMPROOF_DATABASE_URL") {
            Value::Text(url) => (None, url.to_owned()),
            Value::NotUnicode => return Err(anyhow!("WARMPROOF_DATABASE_URL is not Unicode")),
            Value::Unset => {
                let postgres = start_postgres().await?;
                let url = postgres.url();
                (Some(postgres), url)
            }
        };
        let brought = match process.get("WARMPROOF_API_TOKEN") {
            Value::Text(token) => Some(token.to_owned()),
            Value::Unset | Value::NotUnicode => None,
        };
        let made_token = brought.is_none();
        let secrets = Secrets::fresh(brought);
        let made_token = made_token.then(|| secrets.api_token.clone());
        let queued = (args.runs_per_second * args.producing().as_secs_f64()).ceil();
        let simulator = simulate(args, &secrets, queued).await?;
        let environment = environment(args, &secrets, &simulator, &database_url);
        let settings = SuperviseSettings::from_environment(&Environment::from_pairs(environment.clone()))
            .map_err(anyhow::Error::new)?;
        let Switch::Enabled(scheduling) = &settings.scheduler else {
            return Err(anyhow!("the demo's own environment switches verification off"));
        };
        let database = &scheduling.database;
        let migrated = migrate::migrate(database, &database.schema).await?;
        say(&format!("schema   `{}` at version {}", database.schema, migrated.version))?;
        let store = Store::connect(database, Role::People).await?;
        let before = store.conservation().await?;
        let stop = CancellationToken::new();
        let supervisor = tokio::spawn(supervise(&settings, &simulator, stop.clone()).await?);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small whole number")]
        let queued = queued as u64;
        Ok(Self {
            postgres,
            environment,
            database_url,
            made_token,
            store,
            simulator,
            before,
            queued,
            supervisor,
            stop,
        })
    }

    /// The environment of the demo's processes.
    pub(super) fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    /// Where the database is; a password is not shown.
    pub(super) fn database_url(&self) -> String {
        match (&self.postgres, url::Url::parse(&self.database_url)) {
            (None, Ok(mut url)) => {
                // Fails only for URLs that have no user part, and those hold no password.
                let _ = url.set_password(None);
                url.to_string()
            }
            _ => self.database_url.clone(),
        }
    }

    /// The token of the API and the page, if it was made here.
    pub(super) fn reported_token(&self) -> &str {
        self.made_token.as_deref().unwrap_or("the one in WARMPROOF_API_TOKEN")
    }

    /// Whether every run is over and every verification settled.
    pub(super) async fn is_over(&self) -> anyhow::Result<bool> {
        let counters = self.simulator.counters();
        let runs_over = counters.finished + counters.cancelled >= self.queued;
        Ok(runs_over && self.store.conservation().await?.pending == self.before.pending)
    }

    /// Stops everything, in an order that loses nothing.
    pub(super) async fn strike(self) {
        self.stop.cancel();
        // It stops by itself; a panic in it has been printed.
        let _ = self.supervisor.await;
        self.simulator.shutdown().await;
        self.store.close().await;
        if let Some(postgres) = self.postgres {
            // Blocks for a moment; nothing else runs any more.
            let _ = spawn_blocking(move || postgres.stop()).await;
        }
    }
}

async fn start_postgres() -> anyhow::Result<PrivatePostgres> {
    let options = Options::new(Home::Temporary, Discovery::from_environment());
    let postgres = spawn_blocking(move || PrivatePostgres::start(&options))
        .await
        .context("could not start a private PostgreSQL")??;
    say(&format!("postgres private PostgreSQL {}, durable, deleted when the demo ends", postgres.major()))?;
    Ok(postgres)
}

struct Secrets {
    worker_token: String,
    managed_secret: String,
    gateway_token: String,
    api_token: String,
}

impl Secrets {
    /// The user may set the API's token, for scripts that sign in.
    fn fresh(api_token: Option<String>) -> Self {
        let mut rng = StdRng::from_os_rng();
        let mut text = || Alphanumeric.sample_string(&mut rng, 40);
        Self {
            worker_token: format!("tr_wgt_{}", text()),
            managed_secret: text(),
            gateway_token: text(),
            api_token: api_token.unwrap_or_else(&mut text),
        }
    }
}

async fn simulate(args: &DemoArgs, secrets: &Secrets, queued: f64) -> anyhow::Result<Simulator> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("could not listen on loopback")?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small whole number")]
    let queued_runs = queued as usize;
    let options = SimulatorOptions {
        worker_token: SecretString::from(secrets.worker_token.clone()),
        managed_secret: SecretString::from(secrets.managed_secret.clone()),
        gateway_token: Some(SecretString::from(secrets.gateway_token.clone())),
        queued_runs,
        runs_per_second: Some(args.runs_per_second),
        runners: 40,
        shares: Shares {
            silently_dead: args.dead_share,
            abort_crossing: args.dead_share / 5.0,
            slow: args.dead_share / 5.0,
            ..Shares::default()
        },
        // Slower than the probe: these runners find that a fallback has started their run.
        slow_delay: args.delay() + Duration::from_millis(300),
        execute: Duration::from_millis(200),
        boot: Duration::from_millis(300),
        dequeue_block: Duration::from_secs(1),
        seed: args.seed,
        ..SimulatorOptions::default()
    };
    let simulator = Simulator::start(listener, options).context("could not start the simulator")?;
    say(&format!("platform simulated on {}", simulator.base_url()))?;
    Ok(simulator)
}

fn environment(
    args: &DemoArgs,
    secrets: &Secrets,
    simulator: &Simulator,
    database_url: &str,
) -> Vec<(String, String)> {
    let base = simulator.base_url();
    let delay_ms = args.delay().as_millis().to_string();
    [
        ("TRIGGER_WARM_START_VERIFY_ENABLED", "true"),
        ("TRIGGER_WARM_START_VERIFY_DELAY_MS", &delay_ms),
        ("TRIGGER_WARM_START_URL", base),
        ("TRIGGER_API_URL", base),
        ("TRIGGER_WORKER_TOKEN", &secrets.worker_token),
        ("MANAGED_WORKER_SECRET", &secrets.managed_secret),
        ("TRIGGER_WORKER_INSTANCE_NAME", "demo"),
        ("TRIGGER_WORKLOAD_API_DOMAIN", "localhost"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", base),
        ("COMPUTE_GATEWAY_URL", base),
        ("COMPUTE_GATEWAY_AUTH_TOKEN", &secrets.gateway_token),
        ("WARMPROOF_DATABASE_URL", database_url),
        ("WARMPROOF_SCHEMA", SCHEMA),
        ("WARMPROOF_API_LISTEN", "127.0.0.1:0"),
        ("WARMPROOF_API_TOKEN", &secrets.api_token),
        // Nothing real is shown, and the API listens only on loopback.
        ("WARMPROOF_ADMIN_READ_WITHOUT_TOKEN", "true"),
        ("WARMPROOF_LOG", "error"),
        // Several workers, one host.
        ("METRICS_PORT", "0"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

async fn supervise(
    settings: &SuperviseSettings,
    simulator: &Simulator,
    stop: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let supervisor = Supervisor {
        name: "demo-supervisor".parse()?,
        platform: platform::Client::new(&settings.platform)?,
        broker: settings.broker.clone(),
        http: platform::Client::without_credentials()?,
        scheduler: Scheduler::connect(&settings.scheduler).await?,
        workload: Workload::new(&settings.workload)?,
        dequeue_interval: Duration::from_millis(5),
    };
    let (sender, connected) = mpsc::channel(1024);
    let mut announced = simulator.connected();
    let hear = async move {
        while let Ok(RunConnected { run, snapshot }) = announced.recv().await {
            if sender.send(Connected { run, snapshot }).await.is_err() {
                return;
            }
        }
    };
    Ok(async move {
        tokio::select! {
            () = supervisor.run(connected, stop) => {}
            () = hear => {}
        }
    })
}
