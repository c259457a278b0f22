//! A headless Chromium, driven through `WebDriver`: the few commands that these tests need.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use warmproof_testkit::wait::{until, within};

/// The key under which `WebDriver` returns an element's id.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

pub struct Browser {
    site: String,
    session: String,
    http: reqwest::Client,
    pid: Option<Pid>,
    _driver: Child,
    _profile: TempDir,
}

/// A port that is free on both loopback addresses, below those that the kernel gives away by itself. With
/// `--port=0` chromedriver takes one that is free for IPv6, and ends when another process has it for IPv4.
fn free_port() -> u16 {
    let is_free = |ip: IpAddr, port: u16| match TcpListener::bind((ip, port)) {
        Err(error) => error.kind() != ErrorKind::AddrInUse,
        Ok(_) => true,
    };
    let first = 20_000 + u16::try_from(std::process::id() % 10_000).expect("a small number");
    let mut ports = first..32_000;
    ports
        .find(|port| is_free(Ipv4Addr::LOCALHOST.into(), *port) && is_free(Ipv6Addr::LOCALHOST.into(), *port))
        .expect("a free port")
}

impl Browser {
    pub async fn start(site: &str) -> Self {
        let mut driver = Command::new("chromedriver")
            .arg(format!("--port={}", free_port()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("chromedriver; scripts/test-page installs it");
        let mut lines = BufReader::new(driver.stdout.take().expect("a pipe")).lines();
        let port = within("chromedriver listens", async {
            loop {
                let line = lines.next_line().await.expect("text").expect("a line before its end");
                if let Some((_, port)) = line.split_once("started successfully on port ") {
                    return port.trim_end_matches('.').to_owned();
                }
            }
        })
        .await;
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });

        let profile = tempfile::tempdir().expect("a directory");
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-extensions",
            "--hide-scrollbars",
            "--force-color-profile=srgb",
            "--window-size=1280,800",
        ];
        let profile_argument = format!("--user-data-dir={}", profile.path().display());
        let arguments: Vec<&str> = arguments.into_iter().chain([profile_argument.as_str()]).collect();
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }}});
        let http = warmproof::platform::Client::without_credentials().expect("a client");
        let driver_url = format!("http://127.0.0.1:{port}/session");
        let made = command(&http, Method::POST, &driver_url, Some(wanted)).await;
        let pid = made["capabilities"]["goog:processID"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        let session = format!("{driver_url}/{}", made["sessionId"].as_str().expect("a session"));
        let pid = pid.map(Pid::from_raw);
        Self { site: site.to_owned(), session, http, pid, _driver: driver, _profile: profile }
    }

    async fn call(&self, path: &str, body: Value) -> Value {
        command(&self.http, Method::POST, &format!("{}{path}", self.session), Some(body)).await
    }

    pub async fn go(&self, path: &str) {
        self.call("/url", json!({"url": format!("{}{path}", self.site)})).await;
    }

    /// Runs a function's body in the page and returns its text.
    pub async fn text(&self, script: &str) -> String {
        let script = format!(
            "const done = arguments[arguments.length - 1]; \
             (async () => {{ {script} }})().then(done, (error) => done('failed: ' + error))"
        );
        let reported = self.call("/execute/async", json!({"script": script, "args": []})).await;
        let reported = reported.as_str().unwrap_or_default();
        assert!(!reported.starts_with("failed: "), "{script}: {reported}");
        reported.to_owned()
    }

    async fn element(&self, selector: &str) -> String {
        let found = self.call("/element", json!({"using": "css selector", "value": selector})).await;
        found[ELEMENT].as_str().unwrap_or_else(|| panic!("no `{selector}`: {found}")).to_owned()
    }

    pub async fn click(&self, selector: &str) {
        let element = self.element(selector).await;
        self.call(&format!("/element/{element}/click"), json!({})).await;
    }

    pub async fn fill(&self, selector: &str, text: &str) {
        let element = self.element(selector).await;
        self.call(&format!("/element/{element}/clear"), json!({})).await;
        self.call(&format!("/element/{element}/value"), json!({"text": text})).await;
    }

    /// Presses one key, wherever the focus is.
    pub async fn press(&self, key: &str) {
        let actions = [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})];
        self.call("/actions", json!({"actions": [{"type": "key", "id": "keys", "actions": actions}]})).await;
    }

    /// Waits until a page has come whose path is this, and is complete.
    pub async fn arrives(&self, path: &str) {
        // The driver is asked, not the page: a script in a page that is being left never answers, and Chromium
        // reports that as `script timeout`.
        let url = format!("{}/url", self.session);
        until(&format!("the browser is at {path}"), async || {
            let at = command(&self.http, Method::GET, &url, None).await;
            let at = reqwest::Url::parse(at.as_str()?).ok()?;
            (at.path() == path).then_some(())
        })
        .await;
        until(&format!("{path} is complete"), async || {
            (self.text("return document.readyState").await == "complete").then_some(())
        })
        .await;
    }

    pub async fn sign_in(&self, token: &str) {
        self.go("/sign-in?next=/pools").await;
        self.fill("#token", token).await;
        self.click("main form button").await;
        self.arrives("/pools").await;
    }

    /// A command of the browser's own protocol.
    pub async fn devtools(&self, name: &str, params: Value) -> Value {
        self.call("/goog/cdp/execute", json!({"cmd": name, "params": params})).await
    }

    async fn log(&self, kind: &str) -> Vec<Value> {
        let entries = self.call("/se/log", json!({"type": kind})).await;
        entries.as_array().cloned().unwrap_or_default()
    }

    /// What the console has complained of since it was asked last.
    pub async fn complaints(&self) -> Vec<String> {
        let entries = self.log("browser").await;
        let bad =
            entries.iter().filter(|entry| matches!(entry["level"].as_str(), Some("SEVERE" | "WARNING")));
        bad.map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Fails if the console has complained of anything, such as a script or a style that the policy forbids.
    pub async fn assert_quiet(&self) {
        assert_eq!(self.complaints().await, [""; 0], "the console complains");
    }

    /// Fails if anything was asked of another host.
    pub async fn assert_stayed_here(&self) {
        let mut asked = 0;
        for entry in self.log("performance").await {
            let message: Value =
                serde_json::from_str(entry["message"].as_str().expect("a text")).expect("JSON");
            let message = &message["message"];
            if message["method"] != "Network.requestWillBeSent" {
                continue;
            }
            let url = message["params"]["request"]["url"].as_str().expect("a URL");
            // Only these leave the browser: it has pages and pictures of its own under other schemes.
            if !["http:", "https:", "ws:", "wss:"].iter().any(|scheme| url.starts_with(scheme)) {
                continue;
            }
            asked += 1;
            assert!(url.starts_with(&format!("{}/", self.site)), "the page asked {url}");
        }
        assert!(asked > 50, "the log of requests is not complete: {asked}");
    }

    pub async fn stop(mut self) {
        command(&self.http, Method::DELETE, &self.session, None).await;
        self.pid = None;
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // A test that fails leaves no browser behind; chromedriver alone would.
        if let Some(pid) = self.pid {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

async fn command(http: &reqwest::Client, method: Method, url: &str, body: Option<Value>) -> Value {
    let mut request = http.request(method, url);
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = within("chromedriver answers", request.send()).await.expect("an answer");
    let status = answer.status();
    let mut reported: Value = answer.json().await.expect("JSON");
    assert!(status.is_success(), "{url}: {}", reported["value"]["message"]);
    reported["value"].take()
}
