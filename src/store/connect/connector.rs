//! Connector: opens a session at the first suitable server of the address, and applies our settings.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use secrecy::ExposeSecret;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout};

use super::fault::{Fault, Refusal};
#[cfg(target_os = "linux")]
use super::keepalive;
use super::{Commit, Role, Settings, tls};
use crate::config::database::DatabaseConfig;
use crate::config::database::address::{Address, Host, Target};
use crate::domain::backoff::Backoff;

/// How long one server may take to accept a login, where the address sets no limit.
const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(3);
/// How long it may take to find out whether a session is our own.
const ASKING_MAX: Duration = Duration::from_secs(15);
/// Connections that would take over a session that is not our own.
const OTHERS: usize = 3;
/// How long to wait before trying again when no server accepted the login.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(20), max: Duration::from_secs(1) };

/// Opens sessions. Clones share what they learned about the servers.
#[derive(Debug, Clone)]
pub struct Connector {
    source: Source,
    settings: Arc<Settings>,
    learned: Arc<Learned>,
}

#[derive(Debug, Clone)]
enum Source {
    Config(Arc<DatabaseConfig>),
    Options(Box<PgConnectOptions>),
}

/// A server that is being asked for a login. Dropped before it has answered, it counts as one that did not.
struct Attempt<'a> {
    learned: &'a Learned,
    server: &'a str,
    at: Instant,
    answered: bool,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.answered {
            let refusal = Refusal::Slow(self.at.elapsed());
            let fault =
                Fault::Connect { problems: vec![refusal.reported(self.server)], hint: None, passing: true };
            *self.learned.fault.lock().unwrap_or_else(PoisonError::into_inner) =
                Some((Instant::now(), fault));
        }
    }
}

/// A server's name for people, and how to reach it.
type Server = (String, PgConnectOptions);

#[derive(Debug, Default)]
struct Learned {
    /// The server that accepted the last login; it is tried first.
    good: AtomicUsize,
    /// Sessions of an earlier generation are not trusted any more.
    generation: AtomicU64,
    /// Why no server accepted a login at the last try, and when that was.
    fault: Mutex<Option<(Instant, Fault)>>,
    /// Whether sessions were found to be our own; checked before the first relaxed one.
    own: OnceCell<()>,
}

/// For one server and the usual settings in the schema that its sessions find.
impl From<&PgConnectOptions> for Connector {
    fn from(options: &PgConnectOptions) -> Self {
        Self::from_options(options.clone(), Settings::in_schema("warmproof"))
    }
}

impl From<&DatabaseConfig> for Connector {
    fn from(config: &DatabaseConfig) -> Self {
        Self::new(config, Settings::of(config, Role::Worker))
    }
}

impl Connector {
    /// For a configured database.
    #[must_use]
    pub fn new(config: &DatabaseConfig, settings: Settings) -> Self {
        Self {
            source: Source::Config(Arc::new(config.clone())),
            settings: Arc::new(settings),
            learned: Arc::default(),
        }
    }

    /// For one server, by options as the driver has them.
    #[must_use]
    pub fn from_options(options: PgConnectOptions, settings: Settings) -> Self {
        Self {
            source: Source::Options(Box::new(options)),
            settings: Arc::new(settings),
            learned: Arc::default(),
        }
    }

    /// What sessions and transactions start with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Sessions made from now on; those of an earlier generation are dropped when they are next used.
    pub(super) fn generation(&self) -> u64 {
        self.learned.generation.load(Ordering::Relaxed)
    }

    /// The network or the server failed under a session: the others probably lead to the same place.
    pub(super) fn distrust(&self, generation: u64) {
        let next = generation + 1;
        let _ =
            self.learned.generation.compare_exchange(generation, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Why a caller that has waited since then got no session, if no server accepted a login meanwhile.
    pub(super) fn fault_since(&self, began: Instant) -> Option<Fault> {
        let fault = self.learned.fault.lock().unwrap_or_else(PoisonError::into_inner).clone();
        fault.filter(|(at, _)| *at >= began).map(|(_, fault)| fault)
    }

    /// Opens a session, and tries again while refusals are temporary. It has no time limit of its own.
    pub(super) async fn connect(&self, commit: Commit) -> Result<PgConnection, Fault> {
        let mut failures = 0;
        loop {
            let connected = async {
                if commit == Commit::Relaxed {
                    self.learned.own.get_or_try_init(|| self.require_own_sessions()).await?;
                }
                self.connect_once(Some(commit)).await
            };
            match connected.await {
                Err(fault) if fault.is_passing() => {
                    failures += 1;
                    sleep(BACKOFF.delay(failures, rand::random())).await;
                }
                done => return done,
            }
        }
    }

    /// A connection without our settings, for code that makes or changes the schema.
    ///
    /// # Errors
    /// No server accepted the login.
    pub async fn connect_bare(&self) -> Result<PgConnection, Fault> {
        self.connect_once(None).await
    }

    /// Behind a pooler, a relaxed session would relax other clients' commits, and they could change ours.
    async fn require_own_sessions(&self) -> Result<(), Fault> {
        if self.settings.pooler() || matches!(self.source, Source::Options(_)) {
            return Ok(());
        }
        match self.own_session().await? {
            Some(_session) => Ok(()),
            None => Err(Fault::Connect {
                problems: vec!["connections are assigned per transaction".to_owned()],
                hint: Some("the address leads to a pooler: set WARMPROOF_DATABASE_POOLER=true".to_owned()),
                passing: false,
            }),
        }
    }

    /// A connection without our settings whose session is its own; `None` if a pooler assigns sessions per
    /// transaction.
    ///
    /// Tests the effect: other connections get the session that the first has just used, and the first finds
    /// itself in another one, or waits for one without success. Several others, because there may be several
    /// poolers.
    ///
    /// # Errors
    /// No server accepted the login, or it did not answer.
    pub async fn own_session(&self) -> Result<Option<PgConnection>, Fault> {
        timeout(ASKING_MAX, self.ask_for_own_session())
            .await
            .unwrap_or(Err(Fault::NoAnswer { after: ASKING_MAX }))
    }

    async fn ask_for_own_session(&self) -> Result<Option<PgConnection>, Fault> {
        let broken = |error| Fault::Connect {
            problems: vec![format!("the connection broke: {}", Refusal::Error(error).cause())],
            hint: None,
            passing: true,
        };
        let mut first = self.connect_once(None).await?;
        let before = pid_in_transaction(&mut first).await.map_err(broken)?;
        end_transaction(&mut first).await.map_err(broken)?;
        let mut others = Vec::new();
        for _ in 0..OTHERS {
            // The role may open no more connections, so the first session is its own as far as this can show.
            let Ok(mut other) = self.connect_once(None).await else { break };
            // A pooler with few sessions makes this one wait: then it has taken the first one's session.
            match timeout(CONNECT_TIMEOUT_DEFAULT, pid_in_transaction(&mut other)).await {
                Ok(taken) if taken.as_ref().is_ok_and(|pid| *pid == before) => return Ok(None),
                Ok(taken) => others.push((taken.map_err(broken)?, other)),
                Err(_elapsed) => return Ok(None),
            }
        }
        let after = match timeout(CONNECT_TIMEOUT_DEFAULT, pid_in_transaction(&mut first)).await {
            Ok(after) => after.map_err(broken)?,
            Err(_elapsed) => return Ok(None),
        };
        end_transaction(&mut first).await.map_err(broken)?;
        Ok((after == before).then_some(first))
    }

    /// Tries each server once.
    pub(super) async fn connect_once(&self, commit: Option<Commit>) -> Result<PgConnection, Fault> {
        let connected = self.try_servers(commit).await;
        let fault = connected.as_ref().err().map(|fault| (Instant::now(), fault.clone()));
        *self.learned.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
        connected
    }

    async fn try_servers(&self, commit: Option<Commit>) -> Result<PgConnection, Fault> {
        let (servers, address) = self.servers()?;
        let first = self.learned.good.load(Ordering::Relaxed) % servers.len();
        let (mut problems, mut hint, mut passing) = (Vec::new(), None, false);
        for position in (first..servers.len()).chain(0..first) {
            let (name, options) = &servers[position];
            // The next try begins after this server, even if a caller that leaves ends it here.
            self.learned.good.store(position + 1, Ordering::Relaxed);
            let mut asked =
                Attempt { learned: &self.learned, server: name, at: Instant::now(), answered: false };
            let tried = self.try_server(options, address.as_ref(), commit).await;
            asked.answered = true;
            match tried {
                Ok(connection) => {
                    self.learned.good.store(position, Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(refusal) => {
                    // The next try reads the file again, which may hold the newer password then.
                    passing |= refusal.is_passing() || (refusal.is_wrong_password() && self.may_change());
                    hint = hint.or_else(|| refusal.hint(address.as_ref()));
                    problems.push(refusal.reported(name));
                }
            }
        }
        Err(Fault::Connect { problems, hint, passing })
    }

    async fn try_server(
        &self,
        options: &PgConnectOptions,
        address: Option<&Address>,
        commit: Option<Commit>,
    ) -> Result<PgConnection, Refusal> {
        let limit = address
            .and_then(|address| address.connect_timeout_seconds)
            .map_or(CONNECT_TIMEOUT_DEFAULT, |seconds| Duration::from_secs(seconds.into()));
        if let Some((named, kind)) = address.and_then(|address| tls::unreadable(&address.tls)) {
            return Err(Refusal::File { named, kind });
        }
        let opening = async {
            let mut connection = options.connect().await.map_err(Refusal::Error)?;
            keep_alive(options).await;
            if address.is_some_and(|address| address.target == Target::ReadWrite)
                && !takes_writes(&mut connection).await.map_err(Refusal::Error)?
            {
                return Err(Refusal::ReadOnly);
            }
            if let Some(settings) = commit.and_then(|commit| self.settings.of_session(commit)) {
                let set = sqlx::raw_sql(AssertSqlSafe(settings));
                set.execute(&mut connection).await.map_err(Refusal::Error)?;
            }
            Ok(connection)
        };
        timeout(limit, opening).await.unwrap_or(Err(Refusal::Slow(limit)))
    }

    fn may_change(&self) -> bool {
        matches!(&self.source, Source::Config(config) if config.url_file.is_some())
    }

    /// The servers as they are configured now, with the options for each.
    fn servers(&self) -> Result<(Vec<Server>, Option<Address>), Fault> {
        match &self.source {
            Source::Options(options) => {
                let host = match options.get_socket() {
                    Some(directory) => {
                        let directory = directory.display().to_string();
                        Host::Socket { directory, port: options.get_port() }
                    }
                    None => Host::Tcp { host: options.get_host().to_owned(), port: options.get_port() },
                };
                Ok((
                    vec![(host.to_string(), said_to_server((**options).clone(), self.settings.pooler()))],
                    None,
                ))
            }
            Source::Config(config) => {
                let address = config.current_address().map_err(|error| Fault::of_address(&error))?;
                let servers = address
                    .hosts
                    .iter()
                    .map(|host| {
                        let options = options_for(&address, host);
                        (host.to_string(), said_to_server(options, self.settings.pooler()))
                    })
                    .collect();
                Ok((servers, Some(address)))
            }
        }
    }
}

/// Asks the kernel to notice when the server is gone. Every statement has a deadline of ours anyway, so
/// a kernel that cannot do this is only worth a log line.
async fn keep_alive(options: &PgConnectOptions) {
    if options.get_socket().is_some() {
        return;
    }
    #[cfg(target_os = "linux")]
    {
        let port = options.get_port();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || keepalive::set_for_port(port)).await {
            tracing::debug!(error = %error, "could not set TCP keepalive on a connection to the database");
        }
    }
}

/// Whether a session may write: a standby cannot, nor can one that a role or database makes read-only.
async fn takes_writes(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let asked = "select current_setting('transaction_read_only') = 'off'";
    // By the simple protocol, which leaves no prepared statement in a pooler's server session.
    let row = sqlx::Executor::fetch_one(connection, sqlx::raw_sql(asked)).await?;
    Ok(row.try_get_unchecked::<String, _>(0)? == "t")
}

/// The server's process, in a transaction that stays open.
async fn pid_in_transaction(connection: &mut PgConnection) -> Result<String, sqlx::Error> {
    let asked = sqlx::raw_sql(
        "begin; set local idle_in_transaction_session_timeout = 60000; select pg_backend_pid()::text",
    );
    sqlx::Executor::fetch_one(connection, asked).await?.try_get_unchecked(0)
}

async fn end_transaction(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql("commit").execute(connection).await.map(drop)
}

/// Options for one host of an address; they override the driver's own reading of the environment.
fn options_for(address: &Address, host: &Host) -> PgConnectOptions {
    let options = PgConnectOptions::new_without_pgpass()
        .username(&address.user)
        .password(address.password.as_ref().map_or("", |password| password.expose_secret()))
        .database(&address.database)
        .application_name(&address.application_name);
    let options = tls::with(options, &address.tls);
    match host {
        Host::Tcp { host, port } => options.host(host).port(*port),
        Host::Socket { directory, port } => options.socket(directory).port(*port),
    }
}

/// The start-up packet that any pooler takes: user, database, a name, and no option.
fn said_to_server(options: PgConnectOptions, pooler: bool) -> PgConnectOptions {
    // The driver would log the text of a slow statement; `db` names it instead.
    let options = options.extra_float_digits(None).disable_statement_logging();
    if pooler { options.statement_cache_capacity(0) } else { options }
}
