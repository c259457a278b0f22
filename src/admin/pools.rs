//! Pools: their state, and a form to change their settings.

use askama::Template;
use axum::extract::State;
use axum::response::Response;

use super::Admin;
use super::badge::{self, Badge};
use super::error::{PageError, redirect};
use super::form::{Fields, Operating};
use super::page::{self, Chrome, Tab};
use super::shown;
use super::visitor::Reading;
use crate::domain::pool::OnConnect;
use crate::store::fleet::PoolService;
use crate::store::gauges::PoolGauges;
use crate::store::pool::{Pool, PoolChange};

/// One pool.
struct Reported {
    settings: Pool,
    badges: Vec<Badge>,
    facts: Vec<(&'static str, String)>,
    problems: Vec<String>,
    keeps_watching: bool,
    /// For the form: empty if not set.
    delay_ms: String,
    cap: String,
    follow_up_after_ms: String,
}

#[derive(Template)]
#[template(path = "pools.html")]
struct PoolsPage {
    chrome: Chrome,
    pools: Vec<Reported>,
}

/// The page.
pub(super) async fn page(
    State(admin): State<Admin>,
    Reading(visitor): Reading,
    fields: Fields,
) -> Result<Response, PageError> {
    let chrome = Chrome::live(&admin, &visitor, Tab::Pools).await?;
    let store = &admin.store;
    let (settings, gauges, served) =
        tokio::try_join!(store.pool_settings(), store.pool_gauges(), store.pools_served())?;
    let reported = |pool: Pool| {
        let gauges = gauges.iter().find(|one| one.pool == pool.name);
        let served = served.iter().find(|one| one.pool == pool.name);
        reported(pool, gauges, served)
    };
    let notice = match (fields.get("changed"), fields.get("stopped")) {
        (Some(_), _) => Some("Changed. Workers apply it from their next statement on.".to_owned()),
        (None, Some(stopped)) => Some(stopped_notice(stopped)),
        (None, None) => None,
    };
    page::write(&PoolsPage {
        pools: settings.into_iter().map(reported).collect(),
        chrome: chrome.with_notice(notice),
    })
}

fn reported(pool: Pool, gauges: Option<&PoolGauges>, served: Option<&PoolService>) -> Reported {
    let count = |of: fn(&PoolGauges) -> i64| shown::number(gauges.map_or(0, of));
    let ms = |ms: Option<i32>, none: &str| ms.map_or(none.to_owned(), |ms| shown::millis(ms.into()));
    let text = |value: Option<i32>| value.map(|value| value.to_string()).unwrap_or_default();
    let backends = served.map(|served| served.backends.join(", ")).filter(|backends| !backends.is_empty());
    let keeps_watching = pool.on_connect == OnConnect::KeepWatching;
    let cap = pool.cap.map_or("none".to_owned(), |cap| {
        format!("{} in {}", shown::number(cap.into()), shown::millis(pool.cap_window_ms.into()))
    });
    Reported {
        badges: gauges.map(|gauges| badge::of_pool(gauges, Some(&pool))).unwrap_or_default(),
        facts: vec![
            ("Pending", count(|pool| pool.pending)),
            ("Claimed", count(|pool| pool.claimed)),
            ("Lost, held", format!("{}, {}", count(|pool| pool.lost), count(|pool| pool.held))),
            ("Overdue", count(|pool| pool.overdue)),
            ("Workers", count(|pool| pool.workers)),
            ("Backend", shown::or_dash(backends.as_deref())),
            ("Delay", ms(pool.delay_ms, "set by the caller")),
            ("Cap", cap),
            ("On connect", if keeps_watching { "keep watching" } else { "confirm" }.to_owned()),
            ("Cool-down", ms(Some(pool.cool_down_ms), "")),
            ("Follow-up", ms(pool.follow_up_after_ms, "none")),
        ],
        problems: served.map(|served| served.problems.clone()).unwrap_or_default(),
        keeps_watching,
        delay_ms: text(pool.delay_ms),
        cap: text(pool.cap),
        follow_up_after_ms: text(pool.follow_up_after_ms),
        settings: pool,
    }
}

/// Changes one pool.
pub(super) async fn change(State(admin): State<Admin>, operating: Operating) -> Result<Response, PageError> {
    let fields = &operating.fields;
    let invalid = |problem: String| PageError::Invalid(vec![problem]);
    let name = fields.get("pool").ok_or_else(|| invalid("The form names no pool.".to_owned()))?;
    let change = read(fields)?;
    if change == PoolChange::default() {
        return Err(invalid("The form changes nothing.".to_owned()));
    }
    change.check().map_err(|faults| PageError::Invalid(faults.iter().map(ToString::to_string).collect()))?;
    let changed = match crate::domain::ids::parse_name(name) {
        Ok(()) => admin.store.change_pool(name, &change, &operating.actor).await?,
        Err(_) => None,
    };
    if changed.is_none() {
        return Err(invalid("There is no such pool. A worker that serves it registers it.".to_owned()));
    }
    Ok(redirect(&format!("{}/pools?changed=1", admin.config.address.base)))
}

/// Stops the cold starts of one pool, or of all in one statement.
pub(super) async fn stop(State(admin): State<Admin>, operating: Operating) -> Result<Response, PageError> {
    let invalid = |problem: &str| PageError::Invalid(vec![problem.to_owned()]);
    let fields = &operating.fields;
    let pool = match (fields.get("pool"), fields.get("all")) {
        (Some(name), None) => Some(name),
        (None, Some("yes")) => None,
        _ => return Err(invalid("The form must name one pool, or all.")),
    };
    if let Some(name) = pool {
        let known = crate::domain::ids::parse_name(name).is_ok()
            && admin.store.pool_settings().await?.iter().any(|known| known.name == name);
        if !known {
            return Err(invalid("There is no such pool. A worker that serves it registers it."));
        }
    }
    let stopped = admin.store.stop_cold_starts(pool, &operating.actor).await?;
    Ok(redirect(&format!("{}/pools?stopped={}", admin.config.address.base, stopped.len())))
}

fn stopped_notice(stopped: &str) -> String {
    let cap = "To allow them again, set the cap; the audit has the old one.";
    match stopped.parse::<u32>() {
        Ok(0) => "Cold starts were stopped already.".to_owned(),
        Ok(1) => format!("Cold starts of 1 pool are stopped: its cap is 0. {cap}"),
        Ok(count) => format!(
            "Cold starts of {} pools are stopped: their caps are 0. {cap}",
            shown::number(count.into())
        ),
        Err(_) => "Cold starts are stopped.".to_owned(),
    }
}

/// What a form changes: one switch, or all settings together.
fn read(fields: &Fields) -> Result<PoolChange, PageError> {
    let mut change = PoolChange {
        paused: fields.get("paused").map(|word| word == "yes"),
        shadow: fields.get("shadow").map(|word| word == "yes"),
        ..PoolChange::default()
    };
    if fields.get("settings").is_some() {
        let mut problems = Vec::new();
        let mut number = |name: &str| {
            let text = fields.get(name)?.trim();
            let number = text.parse::<i32>();
            if number.is_err() {
                problems.push(format!("`{name}` must be a whole number"));
            }
            number.ok()
        };
        change.delay_ms = Some(number("delay_ms"));
        change.cap = Some(number("cap"));
        change.cap_window_ms = number("cap_window_ms");
        change.cool_down_ms = number("cool_down_ms");
        change.follow_up_after_ms = Some(number("follow_up_after_ms"));
        change.on_connect = match fields.get("on_connect") {
            Some("confirm") => Some(OnConnect::Confirm),
            Some("keep_watching") => Some(OnConnect::KeepWatching),
            Some(_) => {
                problems.push("`on_connect` must be confirm or keep_watching".to_owned());
                None
            }
            None => None,
        };
        if !problems.is_empty() {
            return Err(PageError::Invalid(problems));
        }
    }
    Ok(change)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(form: &str) -> Result<PoolChange, PageError> {
        read(&Fields::parse(form.as_bytes()))
    }

    #[test]
    fn a_switch_changes_nothing_else() {
        let paused = change("pool=a&paused=yes").expect("a change");
        assert_eq!(paused, PoolChange { paused: Some(true), ..PoolChange::default() });
        assert_eq!(change("pool=a&shadow=no").expect("a change").shadow, Some(false));
    }

    #[test]
    fn an_empty_setting_is_removed_and_a_wrong_one_refused() {
        let form = "settings=1&delay_ms=&cap=0&cap_window_ms=1000&cool_down_ms=0&follow_up_after_ms=&on_connect=keep_watching";
        let all = change(form).expect("a change");
        assert_eq!((all.delay_ms, all.cap), (Some(None), Some(Some(0))));
        assert_eq!(all.on_connect, Some(OnConnect::KeepWatching));
        let bad = change("settings=1&delay_ms=x&cap=1e3&on_connect=maybe");
        assert!(matches!(bad, Err(PageError::Invalid(problems)) if problems.len() == 3));
    }
}
