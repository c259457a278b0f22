//! The admin page beside the API on a loopback port, and a very simple browser to read it.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, COOKIE, SET_COOKIE};
use secrecy::SecretString;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use url::form_urlencoded::Serializer;
use warmproof::config::admin::{Address, AdminConfig};
use warmproof::store::Store;
use warmproof::store::audit::Actor;
use warmproof::store::token::Scope;

use super::api::{Answer, config, send};
use super::db::{Db, db};
use super::dispatch::DELAY;

pub const OPERATOR: &str = "wp_operator-0123456789abcdef";
pub const READER: &str = "wp_reader-0123456789abcdef";

pub struct Page {
    pub db: Db,
    pub url: String,
    _stop: DropGuard,
}

pub fn page_config() -> AdminConfig {
    AdminConfig {
        address: Address::default(),
        read_without_token: false,
        session: Duration::from_hours(1),
        statement_timeout: Duration::from_secs(2),
    }
}

/// The page with an operator's and a reader's token.
pub async fn page() -> Page {
    let db = db().await;
    let store = db.store.clone();
    serve_page(db, store, page_config()).await
}

/// Serves on a store that may differ from the one of `db`.
pub async fn serve_page(db: Db, store: Store, admin: AdminConfig) -> Page {
    token(&db, "operator", OPERATOR, &[Scope::Operate]).await;
    token(&db, "reader", READER, &[Scope::Read]).await;
    let (api, stop) = (config(), CancellationToken::new());
    let token = api.token.clone();
    let rest = warmproof::api::router(db.store.clone(), api, DELAY);
    let router = warmproof::admin::router(store, admin, token.as_ref(), rest);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(warmproof::api::serve_router(listener, router, Duration::from_secs(30), stop.clone()));
    Page { db, url, _stop: stop.drop_guard() }
}

pub async fn token(db: &Db, name: &str, token: &str, scopes: &[Scope]) {
    let secret = SecretString::from(token);
    assert!(db.store.create_token(name, scopes, &secret, &Actor("test".to_owned())).await.expect("a token"));
}

impl Page {
    /// A browser without a session.
    pub fn browser(&self) -> Browser {
        let http = warmproof::platform::Client::without_credentials().expect("a client");
        Browser {
            url: self.url.clone(),
            base: String::new(),
            http,
            cookies: BTreeMap::new(),
            headers: Vec::new(),
        }
    }

    /// A browser that has signed in with this token.
    pub async fn signed_in(&self, token: &str) -> Browser {
        let mut browser = self.browser();
        let answer = browser.sign_in(token).await;
        assert_eq!(answer.status, 303, "{answer:?}");
        browser
    }

    /// The entries of the audit, newest first: actor, action, target and detail.
    pub async fn audited(&self) -> Vec<(String, String, Option<String>, Value)> {
        let entries = self.db.store.audit(None, 100).await.expect("the audit");
        entries.into_iter().map(|entry| (entry.actor, entry.action, entry.target, entry.detail)).collect()
    }
}

/// Keeps cookies, repeats the hidden fields of forms, and follows no redirect.
#[derive(Clone)]
pub struct Browser {
    url: String,
    pub base: String,
    http: reqwest::Client,
    pub cookies: BTreeMap<String, String>,
    pub headers: Vec<(&'static str, String)>,
}

impl Browser {
    async fn send(&mut self, request: reqwest::RequestBuilder) -> Answer {
        let line: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut request = request.header(ACCEPT, "text/html").header(COOKIE, line.join("; "));
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let answer = send(request).await;
        for line in answer.headers.get_all(SET_COOKIE) {
            let line = line.to_str().expect("ASCII");
            let (name, value) = line.split(';').next().and_then(|pair| pair.split_once('=')).expect("a pair");
            if line.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        answer
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        let request = self.http.request(Method::GET, format!("{}{}{path}", self.url, self.base));
        self.send(request).await
    }

    /// Sends a form as it is given.
    pub async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let body = Serializer::new(String::new()).extend_pairs(fields).finish();
        let request = self
            .http
            .request(Method::POST, format!("{}{}{path}", self.url, self.base))
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(body);
        self.send(request).await
    }

    /// Gets a page and sends a form with that page's token.
    pub async fn submit(&mut self, on: &str, path: &str, fields: &[(&str, &str)]) -> Answer {
        let shown = self.get(on).await;
        let token = form_token(&shown.text);
        let all: Vec<(&str, &str)> =
            [("form_token", token.as_str())].into_iter().chain(fields.iter().copied()).collect();
        self.post(path, &all).await
    }

    pub async fn sign_in(&mut self, token: &str) -> Answer {
        self.submit("/sign-in", "/sign-in", &[("token", token), ("next", "/pending")]).await
    }
}

/// The token of a page's last form; the form before it may be the one to sign out.
pub fn form_token(html: &str) -> String {
    let place = html.rfind("name=\"form_token\" value=\"").unwrap_or_else(|| panic!("no form in {html}"));
    let rest = &html[place + "name=\"form_token\" value=\"".len()..];
    rest.split('"').next().expect("a value").to_owned()
}
