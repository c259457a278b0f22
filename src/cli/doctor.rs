//! `warmproof doctor`: checks everything that Warmproof needs, and says how to fix what is wrong.
//!
//! Exits with 0 when all is well, 1 on warnings, 2 on errors.

use std::process::ExitCode;

use chrono::{TimeDelta, Utc};
use clap::Args;
use serde::Serialize;

use super::output;
use crate::config::environment::Environment;
use crate::config::verify::Switch;
use crate::config::{DatabaseSettings, WorkerSettings};
use crate::platform;
use crate::store::connect::{Connector, Role};
use crate::store::doctor::DatabaseFacts;
use crate::store::fleet::PoolService;
use crate::store::pool::Pool;
use crate::store::{Store, migrate};
use crate::worker::Served;

mod server;

/// A larger difference between the clocks is reported. Warmproof does not depend on it, but readers of logs
/// do.
const SKEW_MAX: TimeDelta = TimeDelta::seconds(2);
/// An open transaction older than this keeps dead rows from being removed.
const TRANSACTION_SECONDS_MAX: f64 = 60.0;
/// With more dead rows than this, and more than twice the live ones, vacuum does not keep up.
const DEAD_ROWS_MAX: i64 = 50_000;
/// Partitions should reach this far ahead.
const DAYS_AHEAD_MIN: i64 = 3;

/// Options of `doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Severity {
    Ok,
    Warning,
    Error,
}

/// The result of one check.
#[derive(Debug, Serialize)]
struct Finding {
    check: String,
    severity: Severity,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Finding {
    fn well(check: &str, message: impl Into<String>) -> Self {
        Self { check: check.to_owned(), severity: Severity::Ok, message: message.into(), hint: None }
    }

    fn ill(check: &str, severity: Severity, message: impl Into<String>, hint: &str) -> Self {
        Self { check: check.to_owned(), severity, message: message.into(), hint: Some(hint.to_owned()) }
    }

    /// Well or not by a condition, with the same message.
    fn judged(check: &str, well: bool, severity: Severity, message: String, hint: &str) -> Self {
        if well { Self::well(check, message) } else { Self::ill(check, severity, message, hint) }
    }
}

/// Runs all checks and prints the findings.
pub(super) async fn doctor(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let environment = Environment::from_process();
    let mut findings = database(&environment).await?;
    findings.extend(backends(&environment).await);
    let worst = findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok);
    if args.json {
        output::json(&serde_json::json!({ "worst": worst, "findings": findings }))?;
    } else {
        for finding in &findings {
            let sign = match finding.severity {
                Severity::Ok => "ok     ",
                Severity::Warning => "WARNING",
                Severity::Error => "ERROR  ",
            };
            output::line(&format!("{sign}  {:<18} {}", finding.check, output::plain(&finding.message)))?;
            if let Some(hint) = &finding.hint {
                output::line(&format!("{:29}hint: {}", "", output::plain(hint)))?;
            }
        }
    }
    Ok(match worst {
        Severity::Ok => ExitCode::SUCCESS,
        Severity::Warning => ExitCode::from(1),
        Severity::Error => ExitCode::from(2),
    })
}

async fn database(environment: &Environment) -> anyhow::Result<Vec<Finding>> {
    let settings = DatabaseSettings::from_environment(environment)?.database;
    let connector = Connector::from(&settings);
    if !settings.pooler {
        match connector.own_session().await {
            Ok(Some(_session)) => {}
            Ok(None) => {
                let message = "connections go through a pooler that assigns them per transaction";
                let hint =
                    "set WARMPROOF_DATABASE_POOLER=true for workers, apis and commands other than `migrate`";
                return Ok(vec![Finding::ill("pooler", Severity::Error, message, hint)]);
            }
            Err(fault) => {
                let hint = "check WARMPROOF_DATABASE_URL";
                return Ok(vec![Finding::ill("connection", Severity::Error, fault.to_string(), hint)]);
            }
        }
    }
    let store = match Store::connect(&settings, Role::People).await {
        Ok(store) => store,
        Err(error) => {
            let hint = "check WARMPROOF_DATABASE_URL";
            return Ok(vec![Finding::ill("connection", Severity::Error, error.to_string(), hint)]);
        }
    };
    let server = store.server_facts().await?;
    let mut findings = server::of_server(&server, &settings);
    findings.push(match migrate::check(connector, &settings.schema).await {
        Ok(plan) if plan.ahead > 0 => {
            Finding::well("schema", format!("version {}, {} ahead of this program", plan.version, plan.ahead))
        }
        Ok(plan) => Finding::well("schema", format!("version {}", plan.version)),
        Err(error) => {
            let hint = match server.schemas.as_slice() {
                [] => "run `warmproof migrate`".to_owned(),
                there => format!(
                    "this database has Warmproof in `{}`: set WARMPROOF_SCHEMA, or run `warmproof migrate`",
                    there.join("`, `")
                ),
            };
            findings.push(Finding::ill("schema", Severity::Error, error.to_string(), &hint));
            return Ok(findings);
        }
    });
    findings.push(of_clock(&store).await?);
    findings.extend(of_facts(&store.facts().await?));
    let conservation = store.conservation().await?;
    let message = format!("{} unaccounted of {} scheduled", conservation.unaccounted, conservation.scheduled);
    let hint =
        "a verification was added or removed without being counted: keep the database's log and report this";
    findings.push(Finding::judged(
        "conservation",
        conservation.unaccounted == 0,
        Severity::Error,
        message,
        hint,
    ));
    findings.extend(store.pools_served().await?.iter().map(of_pool));
    let counts = store.pending_counts().await?;
    for pool in store.pool_settings().await? {
        let held = counts.iter().find(|counts| counts.pool == pool.name).map_or(0, |counts| counts.held);
        findings.push(of_cold_starts(&pool, held));
    }
    Ok(findings)
}

/// Whether losses of a pool are cold-started. An operator may have stopped that and forgotten it.
fn of_cold_starts(pool: &Pool, held: i64) -> Finding {
    let check = format!("cold starts {}", pool.name);
    let warn = |message: String, hint: &str| Finding::ill(&check, Severity::Warning, message, hint);
    match (pool.shadow, pool.cap, held) {
        (true, _, _) => warn(
            "shadow: losses are recorded and nothing is created".to_owned(),
            "`warmproof pools shadow POOL off` ends the shadow",
        ),
        (false, Some(0), _) => warn(
            format!("cap 0: no cold start is permitted, and {held} losses are held"),
            "`warmproof pools cap POOL none` removes the cap",
        ),
        (false, _, 1..) => warn(
            format!("{held} losses are held"),
            "`warmproof pending --status held` shows why: cap, brown-out, pause or no room at a worker",
        ),
        (false, _, _) => Finding::well(&check, "no loss is held"),
    }
}

/// Compares the database's clock with ours. The database read its clock between our request and its answer,
/// so only a time outside of that span is a difference.
#[expect(clippy::disallowed_methods, reason = "the one place that compares clocks, for people")]
async fn of_clock(store: &Store) -> anyhow::Result<Finding> {
    let asked = Utc::now();
    let theirs = store.clock().await?;
    let answered = Utc::now();
    let skew = theirs.clamp(asked.min(answered), answered.max(asked)) - theirs;
    Ok(Finding::judged(
        "clock",
        skew.abs() <= SKEW_MAX,
        Severity::Warning,
        format!("the clocks of this machine and the database differ by {} ms", skew.num_milliseconds()),
        "Warmproof does not depend on it, but times in logs will not match: check time synchronisation",
    ))
}

fn of_facts(facts: &DatabaseFacts) -> Vec<Finding> {
    let days_ahead = facts.partitions_until.map_or(-1, |until| (until - facts.now.date_naive()).num_days());
    let DatabaseFacts { leases_stuck, overdue, live_rows, dead_rows, oldest_transaction_seconds, .. } = facts;
    vec![
        Finding::judged(
            "server",
            facts.server_version >= 150_000,
            Severity::Error,
            format!("PostgreSQL {}.{}", facts.server_version / 10_000, facts.server_version % 10_000),
            "Warmproof needs PostgreSQL 15 or newer",
        ),
        Finding::judged(
            "durability",
            facts.synchronous_commit != "off",
            Severity::Error,
            format!("synchronous_commit = {}", facts.synchronous_commit),
            "a crash would lose scheduled verifications: set it to `on` for this role and database",
        ),
        Finding::judged(
            "overdue",
            *overdue == 0,
            Severity::Error,
            format!("{overdue} verifications are overdue by more than a minute"),
            "start workers that serve their pools; `warmproof pending --status overdue` shows them",
        ),
        Finding::judged(
            "leases",
            *leases_stuck == 0,
            Severity::Warning,
            format!("{leases_stuck} leases ended over a minute ago and no worker took them over"),
            "no worker serves their pool any more; `warmproof pools` shows the workers of each pool",
        ),
        Finding::judged(
            "transactions",
            *oldest_transaction_seconds <= TRANSACTION_SECONDS_MAX,
            Severity::Warning,
            format!("the oldest open transaction is {oldest_transaction_seconds:.0} s old"),
            "it keeps dead rows from being removed; docs/operating.md shows how to find it",
        ),
        Finding::judged(
            "dead rows",
            *dead_rows <= DEAD_ROWS_MAX.max(2 * live_rows),
            Severity::Warning,
            format!("`pending` has {dead_rows} dead and {live_rows} live rows"),
            "vacuum does not keep up: check for an open transaction, and check autovacuum_naptime",
        ),
        Finding::judged(
            "partitions",
            days_ahead >= DAYS_AHEAD_MIN,
            Severity::Error,
            format!("partitions for outcomes exist for the next {days_ahead} days"),
            "every running worker makes partitions; check the workers' logs",
        ),
    ]
}

fn of_pool(served: &PoolService) -> Finding {
    let check = format!("pool {}", served.pool);
    if let Some(problem) = served.problems.first() {
        return Finding::ill(
            &check,
            Severity::Error,
            problem.clone(),
            "losses of this pool cannot be cold-started there",
        );
    }
    let message = format!("{} workers, backend {}", served.workers, served.backends.join(", "));
    match (served.workers, served.backends.len(), served.paused) {
        (0, _, _) => {
            let severity = if served.has_pending { Severity::Error } else { Severity::Warning };
            let hint = "start `warmproof worker` with it in WARMPROOF_POOLS, or delete the pool";
            Finding::ill(&check, severity, "no running worker serves it", hint)
        }
        (_, 2.., _) => {
            Finding::ill(&check, Severity::Error, message, "its workers must agree on the backend")
        }
        (_, _, true) => {
            Finding::ill(&check, Severity::Warning, "it is paused", "`warmproof pools resume` ends the pause")
        }
        (_, _, false) => Finding::well(&check, message),
    }
}

/// Checks the platforms and backends, if this is a worker's environment.
async fn backends(environment: &Environment) -> Vec<Finding> {
    let Ok(Switch::Enabled(settings)) = WorkerSettings::from_environment(environment) else {
        let message = "not checked: this environment is not complete for a worker";
        return vec![Finding::well("platform", message)];
    };
    let mut findings = Vec::new();
    for pool in &settings.pools {
        let check = format!("platform {}", pool.name);
        let connected = match platform::Client::new(&pool.platform) {
            Ok(client) => client.connect().await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        findings.push(match connected {
            Ok(group) => Finding::well(&check, format!("it knows this worker group as {}", group.name)),
            Err(error) => {
                let hint = "check TRIGGER_API_URL, TRIGGER_WORKER_TOKEN and MANAGED_WORKER_SECRET";
                Finding::ill(&check, Severity::Error, error, hint)
            }
        });
    }
    match Served::set_up(&settings.pools) {
        Ok(served) => {
            for (pool, one) in served {
                let (check, backend) = (format!("backend {pool}"), one.workload.backend());
                findings.push(match one.workload.check().await {
                    Ok(()) => {
                        Finding::well(&check, format!("{backend} answers, as far as it can be checked"))
                    }
                    Err(error) => {
                        let hint = "losses of this pool could not be cold-started from here";
                        Finding::ill(&check, Severity::Error, format!("{backend}: {error}"), hint)
                    }
                });
            }
        }
        Err(error) => {
            findings.push(Finding::ill(
                "backend",
                Severity::Error,
                error.to_string(),
                "correct the configuration",
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::pool::OnConnect;

    #[test]
    fn stopped_cold_starts_are_a_warning() {
        let active = Pool {
            name: "default".to_owned(),
            paused: false,
            shadow: false,
            delay_ms: None,
            cap: None,
            cap_window_ms: 1000,
            on_connect: OnConnect::Confirm,
            cool_down_ms: 30_000,
            follow_up_after_ms: None,
        };
        assert_eq!(of_cold_starts(&active, 0).severity, Severity::Ok);
        assert!(of_cold_starts(&active, 3).message.contains("3 losses are held"));
        let stopped = of_cold_starts(&Pool { cap: Some(0), ..active.clone() }, 9);
        assert_eq!(stopped.severity, Severity::Warning);
        assert!(stopped.message.contains("9 losses are held"), "{}", stopped.message);
        assert_eq!(of_cold_starts(&Pool { shadow: true, ..active }, 0).severity, Severity::Warning);
    }
}
