//! Screenshots of every page, wide and narrow, light and dark; no page is wider than its screen.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::browser::Browser;

/// Screens, in pixels.
const SCREENS: [(u32, u32); 2] = [(1280, 800), (390, 844)];
/// The longest picture.
const HEIGHT_MAX: u64 = 4000;

/// Takes them all, of these runs too.
pub async fn take(browser: &Browser, runs: &[&str]) {
    let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("page-screenshots");
    std::fs::create_dir_all(&place).expect("a directory");
    let mut pages: Vec<(String, String)> = [
        ("overview", "/"),
        ("pending", "/pending"),
        ("search", "/runs"),
        ("losses", "/losses?by=supervisor"),
        ("workers", "/workers"),
        ("pools", "/pools"),
        ("audit", "/audit"),
        ("sign-in", "/sign-in"),
    ]
    .map(|(name, path)| (name.to_owned(), path.to_owned()))
    .to_vec();
    pages.extend(runs.iter().enumerate().map(|(n, run)| (format!("run-{n}"), format!("/runs/{run}"))));
    for scheme in ["light", "dark"] {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        browser.devtools("Emulation.setEmulatedMedia", features).await;
        for (width, height) in SCREENS {
            let screen =
                json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500});
            browser.devtools("Emulation.setDeviceMetricsOverride", screen).await;
            for (name, path) in &pages {
                browser.go(path).await;
                let wide = browser.text("return String(document.documentElement.scrollWidth)").await;
                assert!(wide.parse::<u32>().expect("a number") <= width, "{name} is {wide} wide on {width}");
                let tall = browser.text("return String(document.documentElement.scrollHeight)").await;
                let tall = tall.parse::<u64>().expect("a number").min(HEIGHT_MAX);
                let clip = json!({"x": 0, "y": 0, "width": width, "height": tall, "scale": 1});
                let asked = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
                let taken = browser.devtools("Page.captureScreenshot", asked).await;
                let png = STANDARD.decode(taken["data"].as_str().expect("a picture")).expect("base64");
                std::fs::write(place.join(format!("{name}-{width}-{scheme}.png")), png).expect("a file");
            }
        }
    }
    println!("page: screenshots are in {}", place.display());
}
