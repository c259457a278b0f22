//! The overview: the current state, and what needs attention.

mod warnings;

use std::collections::HashMap;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use chrono::TimeDelta;

use super::Admin;
use super::badge::{self, Badge};
use super::chart::{self, Chart};
use super::error::PageError;
use super::page::{self, Chrome, Tab};
use super::shown;
use super::visitor::Reading;
use crate::store::fleet::{PoolService, WorkerSeen};
use crate::store::gauges::{Account, PoolGauges};
use crate::store::lookup::Conservation;
use crate::store::pool::Pool;
use crate::store::report::{Latency, LatencyOfAll, LossBy, LossRates, Quantiles, Step, totals};

use warnings::Warning;

/// One figure at the top.
struct Tile {
    id: &'static str,
    label: &'static str,
    value: String,
    reported: String,
    level: &'static str,
    path: &'static str,
    gauge: Option<String>,
}

/// One pool.
struct Row {
    name: String,
    badges: Vec<Badge>,
    pending: String,
    claimed: String,
    lost: String,
    held: String,
    overdue: String,
    is_overdue: bool,
    workers: String,
    is_unserved: bool,
    lag_p50: String,
    lag_p99: String,
    connect_p99: String,
}

#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewPage {
    chrome: Chrome,
    warnings: Vec<Warning>,
    tiles: Vec<Tile>,
    chart: Chart,
    pools: Vec<Row>,
}

/// The readings for the page. None of them slows down as history grows.
struct Readings {
    gauges: Vec<PoolGauges>,
    account: Account,
    minutes: Vec<LossRates>,
    lag: Option<LatencyOfAll>,
    lags: Vec<Quantiles>,
    connects: Vec<Quantiles>,
    workers: Vec<WorkerSeen>,
    served: Vec<PoolService>,
    settings: Vec<Pool>,
}

/// The page.
pub(super) async fn page(
    State(admin): State<Admin>,
    Reading(visitor): Reading,
) -> Result<Response, PageError> {
    let chrome = Chrome::live(&admin, &visitor, Tab::Overview).await?;
    let now = chrome.clock();
    let (store, hour_ago) = (&admin.store, now - TimeDelta::hours(1));
    let (gauges, account, minutes, lag, lags, connects, workers, served, settings) = tokio::try_join!(
        store.pool_gauges(),
        store.account_soon(),
        store.losses(chart::begin(now), Step::Minute, LossBy::Nothing),
        store.latency_of_all(Latency::Verdict, hour_ago),
        store.latencies(Latency::Verdict, hour_ago),
        store.latencies(Latency::Connect, hour_ago),
        store.workers(),
        store.pools_served(),
        store.pool_settings(),
    )?;
    let facts = Readings { gauges, account, minutes, lag, lags, connects, workers, served, settings };
    page::write(&OverviewPage {
        warnings: warnings::of(&facts),
        tiles: tiles(&facts),
        chart: chart::outcomes(&facts.minutes, now),
        pools: rows(&facts),
        chrome,
    })
}

fn tiles(facts: &Readings) -> Vec<Tile> {
    vec![pending(facts), loss(facts), lag(facts), probe_errors(facts), workers(facts), conservation(facts)]
}

fn pending(facts: &Readings) -> Tile {
    let sum = |count: fn(&PoolGauges) -> i64| facts.gauges.iter().map(count).sum::<i64>();
    let overdue = sum(|pool| pool.overdue);
    let late = if overdue > 0 { format!(" · {} overdue", shown::number(overdue)) } else { String::new() };
    Tile {
        id: "pending",
        label: "Pending now",
        value: shown::number(sum(|pool| pool.pending)),
        reported: format!(
            "{} claimed · {} lost{late}",
            shown::number(sum(|pool| pool.claimed)),
            shown::number(sum(|pool| pool.lost))
        ),
        level: if overdue > 0 { "bad" } else { "" },
        path: "/pending",
        gauge: None,
    }
}

fn loss(facts: &Readings) -> Tile {
    let total = totals(&facts.minutes).into_iter().next().unwrap_or_default();
    let share = total.share();
    Tile {
        id: "loss",
        label: "Silent-loss rate, last hour",
        value: share.map_or(shown::NOTHING.to_owned(), |share| shown::percent(share.rate)),
        reported: share.map_or("no observations".to_owned(), |share| {
            format!(
                "95 %: {} · {} of {}",
                shown::interval(&share),
                shown::number(total.lost),
                shown::number(total.observed)
            )
        }),
        level: "",
        path: "/losses",
        gauge: share.map(|share| chart::gauge(&share, share.high * 1.25)),
    }
}

fn lag(facts: &Readings) -> Tile {
    Tile {
        id: "lag",
        label: "Due to verdict, p99",
        value: facts.lag.map_or(shown::NOTHING.to_owned(), |lag| shown::millis(lag.p99_ms)),
        reported: facts.lag.map_or("no verdict in this hour or the last".to_owned(), |lag| {
            let (p50, n) = (shown::millis(lag.p50_ms), shown::number(lag.n));
            format!("p50 {p50} · {n} verdicts, this hour and the last")
        }),
        level: "",
        path: "/losses",
        gauge: None,
    }
}

fn probe_errors(facts: &Readings) -> Tile {
    let failed: i64 = facts.minutes.iter().map(|line| line.probe_error).sum();
    let browned_out: Vec<&str> =
        facts.gauges.iter().filter(|pool| pool.brown_out).map(|pool| pool.pool.as_str()).collect();
    Tile {
        id: "probe-errors",
        label: "Probe errors, last hour",
        value: shown::number(failed),
        reported: match browned_out.as_slice() {
            [] => "no pool in a brown-out".to_owned(),
            [one] => format!("{} is in a brown-out", shown::plain(one)),
            more => format!("{} pools are in a brown-out", more.len()),
        },
        level: if browned_out.is_empty() { "" } else { "warn" },
        path: "/losses",
        gauge: None,
    }
}

fn workers(facts: &Readings) -> Tile {
    let running = facts.workers.iter().filter(|worker| worker.running);
    let (alive, in_flight) =
        running.fold((0_i64, 0_i64), |(n, claims), worker| (n + 1, claims + i64::from(worker.in_flight)));
    let unserved: i64 = facts.gauges.iter().map(|pool| i64::from(pool.workers == 0)).sum();
    let silent =
        if unserved > 0 { format!(" · {} unserved", shown::times(unserved, "pool")) } else { String::new() };
    Tile {
        id: "workers",
        label: "Workers alive",
        value: shown::number(alive),
        reported: format!("{} in flight{silent}", shown::times(in_flight, "claim")),
        level: match (alive, unserved) {
            (0, _) => "bad",
            (_, 0) => "",
            _ => "warn",
        },
        path: "/workers",
        gauge: None,
    }
}

fn conservation(facts: &Readings) -> Tile {
    let Conservation { scheduled, pending, ended, unaccounted } = facts.account.conservation;
    let numbers = [scheduled, pending, ended].map(shown::number);
    let [scheduled, pending, ended] = numbers;
    Tile {
        id: "conservation",
        label: "Unaccounted for",
        value: shown::number(unaccounted),
        reported: format!(
            "{scheduled} scheduled − {pending} pending − {ended} ended, counted at {}",
            shown::instant(facts.account.checked_at)
        ),
        level: if unaccounted == 0 { "" } else { "bad" },
        path: "/losses",
        gauge: None,
    }
}

fn rows(facts: &Readings) -> Vec<Row> {
    let of = |quantiles: &[Quantiles], pool: &str| {
        let found = quantiles.iter().find(|one| one.pool == pool);
        found.map(|one| (shown::millis(one.p50_ms), shown::millis(one.p99_ms)))
    };
    let settings: HashMap<&str, &Pool> =
        facts.settings.iter().map(|pool| (pool.name.as_str(), pool)).collect();
    let nothing = || (shown::NOTHING.to_owned(), shown::NOTHING.to_owned());
    let row = |pool: &PoolGauges| {
        let (lag_p50, lag_p99) = of(&facts.lags, &pool.pool).unwrap_or_else(nothing);
        let (_, connect_p99) = of(&facts.connects, &pool.pool).unwrap_or_else(nothing);
        Row {
            name: pool.pool.clone(),
            badges: badge::of_pool(pool, settings.get(pool.pool.as_str()).copied()),
            pending: shown::number(pool.pending),
            claimed: shown::number(pool.claimed),
            lost: shown::number(pool.lost),
            held: shown::number(pool.held),
            overdue: shown::number(pool.overdue),
            is_overdue: pool.overdue > 0,
            workers: shown::number(pool.workers),
            is_unserved: pool.workers == 0,
            lag_p50,
            lag_p99,
            connect_p99,
        }
    };
    facts.gauges.iter().map(row).collect()
}
