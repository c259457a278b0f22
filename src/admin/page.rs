//! What all pages share: navigation, the signed-in visitor, the clock, and the notice of what was just done.

use askama::Template;
use axum::response::{Html, IntoResponse, Response};
use chrono::{DateTime, Utc};

use super::Admin;
use super::asset::Assets;
use super::error::PageError;
use super::form::FORM_TOKEN;
use super::shown;
use super::visitor::Visitor;

/// Which of the pages is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    None,
    Overview,
    Pending,
    Runs,
    Losses,
    Workers,
    Pools,
    Audit,
}

/// One entry of the navigation.
pub(super) struct Link {
    pub(super) text: &'static str,
    pub(super) path: &'static str,
    pub(super) is_here: bool,
}

/// The frame around a page.
pub(super) struct Chrome {
    pub(super) base: String,
    pub(super) assets: Assets,
    pub(super) tab: Tab,
    /// The name of the token, if the visitor is signed in.
    pub(super) name: Option<String>,
    pub(super) may_operate: bool,
    pub(super) form_token: String,
    /// The database's clock, for countdowns; `None` on pages that do not refresh.
    pub(super) now: Option<DateTime<Utc>>,
    /// What was just done.
    pub(super) notice: Option<String>,
    /// The id that the visitor searched for.
    pub(super) sought: String,
}

impl Chrome {
    /// A page that refreshes while it is open.
    pub(super) async fn live(admin: &Admin, visitor: &Visitor, tab: Tab) -> Result<Self, PageError> {
        let now = admin.store.clock().await?;
        Ok(Self { now: Some(now), ..Self::still(admin, visitor, tab) })
    }

    /// A page that does not refresh.
    pub(super) fn still(admin: &Admin, visitor: &Visitor, tab: Tab) -> Self {
        Self {
            base: admin.config.address.base.clone(),
            assets: admin.assets.clone(),
            tab,
            name: visitor.name().map(str::to_owned),
            may_operate: visitor.may_operate(),
            form_token: visitor.form_token(),
            now: None,
            notice: None,
            sought: String::new(),
        }
    }

    pub(super) fn with_notice(self, notice: Option<String>) -> Self {
        Self { notice, ..self }
    }

    pub(super) fn links(&self) -> Vec<Link> {
        let all = [
            (Tab::Overview, "Overview", "/"),
            (Tab::Pending, "Pending", "/pending"),
            (Tab::Runs, "Runs", "/runs"),
            (Tab::Losses, "Losses", "/losses"),
            (Tab::Workers, "Workers", "/workers"),
            (Tab::Pools, "Pools", "/pools"),
            (Tab::Audit, "Audit", "/audit"),
        ];
        all.into_iter().map(|(tab, text, path)| Link { text, path, is_here: tab == self.tab }).collect()
    }

    /// The database's clock in milliseconds since 1970.
    pub(super) fn now_ms(&self) -> i64 {
        self.now.map_or(0, |now| now.timestamp_millis())
    }

    /// The clock, for a page that has one.
    pub(super) fn clock(&self) -> DateTime<Utc> {
        self.now.unwrap_or(DateTime::UNIX_EPOCH)
    }

    /// The clock for people.
    pub(super) fn clock_shown(&self) -> String {
        shown::instant(self.clock())
    }

    /// The program's version.
    #[expect(clippy::unused_self, reason = "templates call it where they call everything else")]
    pub(super) fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    /// The name of the field that every form repeats.
    #[expect(clippy::unused_self, reason = "templates call it where they call everything else")]
    pub(super) fn token_field(&self) -> &'static str {
        FORM_TOKEN
    }
}

/// A page as HTML.
pub(super) fn write(page: &impl Template) -> Result<Response, PageError> {
    Ok(Html(page.render()?).into_response())
}
