//! The admin page in a real browser, against the running demo: what moves, what counts down, what is refused.
//!
//! `make test-page` installs the browser and runs this. Screenshots of every page are left in
//! `target/page-screenshots`.

#![allow(missing_docs, unreachable_pub, reason = "a test binary has no outside")]
#![allow(clippy::disallowed_methods, reason = "tests read clocks from outside")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails at once")]
#![allow(clippy::print_stdout, reason = "a test prints how far it has come")]

mod browser;
mod demo;
mod screenshots;

use browser::Browser;
use demo::Demo;
use warmproof_testkit::wait::until;

/// One test with many steps, because a browser and a demo take seconds to start.
#[tokio::test]
async fn the_page_shows_what_happens_and_does_what_an_operator_says() {
    let demo = Demo::start().await;
    let browser = Browser::start(&demo.url).await;
    numbers_move(&browser).await;
    let run = a_row_counts_down_and_turns_into_an_outcome(&browser).await;
    a_search_finds_the_run_and_its_timeline(&browser, &run).await;
    the_keyboard_gets_to_the_content(&browser).await;
    refreshing_pauses(&browser).await;
    browser.assert_quiet().await;

    browser.sign_in(&demo.read_token).await;
    a_read_token_cannot_operate(&browser).await;
    browser.sign_in(demo::OPERATOR).await;
    a_forged_form_is_refused(&browser).await;
    // The browser's console reports the refusals, as it should.
    let _refusals = browser.complaints().await;
    let cancelled = a_cancel_is_previewed_and_then_audited(&browser).await;
    screenshots::take(&browser, &[&run, &cancelled]).await;
    browser.assert_quiet().await;
    browser.assert_stayed_here().await;
    browser.stop().await;
}

async fn numbers_move(browser: &Browser) {
    browser.go("/").await;
    let scheduled = "return document.querySelector('#tile-conservation .aside').textContent";
    let before = browser.text(scheduled).await;
    until("the overview's numbers move by themselves", async || {
        (browser.text(scheduled).await != before).then_some(())
    })
    .await;
    until("the chart is drawn and holds outcomes", async || {
        let drawn = "const total = document.querySelector('[data-series=\"0\"]').dataset.total; \
                     return String(Boolean(document.querySelector('.u-wrap canvas')) && total !== '0')";
        (browser.text(drawn).await == "true").then_some(())
    })
    .await;
    let unaccounted =
        browser.text("return document.querySelector('[data-value=conservation]').textContent").await;
    assert_eq!(unaccounted, "0");
    println!("page: the overview moves");
}

/// A row with time left, so that the next step is still in time.
async fn waiting_row(browser: &Browser) -> String {
    browser.go("/pending").await;
    until("a verification waits with time left", async || {
        let row = "const wait = [...document.querySelectorAll('tbody tr')].find((row) => \
                     Number(row.querySelector('time')?.textContent.match(/^in (\\d+)/)?.[1]) >= 5); \
                   return wait ? wait.querySelector('a.id').textContent : ''";
        Some(browser.text(row).await).filter(|run| !run.is_empty())
    })
    .await
}

async fn a_row_counts_down_and_turns_into_an_outcome(browser: &Browser) -> String {
    // A row whose runner connects meanwhile has an outcome, too, but with fewer details.
    loop {
        let run = waiting_row(browser).await;
        browser.go(&format!("/runs/{run}")).await;
        let left = "const time = document.querySelector('time[data-due]'); \
                    return time && time.textContent.startsWith('in ') ? time.textContent : ''";
        let first = browser.text(left).await;
        if first.is_empty() {
            continue;
        }
        until("the row counts down", async || {
            let now = browser.text(left).await;
            (now.is_empty() || seconds(&now) < seconds(&first)).then_some(())
        })
        .await;
        let outcome = until("the page turns to the outcome by itself", async || {
            let reported = "const badge = document.querySelector('[data-outcome]'); \
                        return !badge || document.querySelector('time[data-due]') ? '' : badge.dataset.outcome";
            Some(browser.text(reported).await).filter(|reported| !reported.is_empty())
        })
        .await;
        println!("page: {run} counted down and ended as `{outcome}`");
        if outcome.starts_with("fallback") {
            return run;
        }
    }
}

fn seconds(reported: &str) -> f64 {
    reported.trim_start_matches("in ").trim_end_matches(" s").parse().unwrap_or(f64::MAX)
}

async fn a_search_finds_the_run_and_its_timeline(browser: &Browser, run: &str) {
    browser.go("/losses").await;
    browser.fill("#search", run).await;
    browser.click(".search button").await;
    browser.arrives(&format!("/runs/{run}")).await;
    let timeline = browser.text("return document.querySelector('.timeline').textContent").await;
    for reported in
        ["Dequeued", "Warm-start hit scheduled", "Due", "Claimed by", "Probed", "Verdict: lost", "Fallback: "]
    {
        assert!(timeline.contains(reported), "`{reported}` is missing: {timeline}");
    }
    println!("page: the search finds it, and its timeline is whole");
}

async fn the_keyboard_gets_to_the_content(browser: &Browser) {
    browser.go("/workers").await;
    browser.press("\u{e004}").await;
    assert_eq!(browser.text("return document.activeElement.textContent").await, "Skip to the content");
    browser.press("\u{e007}").await;
    assert_eq!(browser.text("return location.hash").await, "#main");
    browser.press("/").await;
    assert_eq!(browser.text("return document.activeElement.id").await, "search");
}

async fn refreshing_pauses(browser: &Browser) {
    let reported = "return document.querySelector('[data-refresh]').textContent";
    assert_eq!(browser.text(reported).await, "Live");
    browser.click("[data-refresh]").await;
    assert_eq!(browser.text(reported).await, "Paused");
    browser.go("/").await;
    assert_eq!(browser.text(reported).await, "Paused", "it stays so on the next page");
    browser.click("[data-refresh]").await;
    assert_eq!(browser.text(reported).await, "Live");
}

/// Sends a form from within the page, as a hostile or outdated one might, and answers its status.
async fn post(browser: &Browser, path: &str, fields: &str) -> String {
    let script = format!(
        "const answer = await fetch('{path}', {{method: 'POST', body: new URLSearchParams({fields}), redirect: 'manual'}}); \
         return String(answer.status)"
    );
    browser.text(&script).await
}

async fn a_read_token_cannot_operate(browser: &Browser) {
    browser.go("/pools").await;
    let offered = "return String(document.querySelectorAll('form[action$=\"/change\"], form[action$=\"/cancel\"]').length)";
    assert_eq!(browser.text(offered).await, "0", "the page offers no action");
    let token = browser.text("return document.querySelector('input[name=form_token]').value").await;
    let fields = format!("{{form_token: '{token}', pool: 'default', paused: 'yes'}}");
    assert_eq!(post(browser, "/pools/change", &fields).await, "403");
    println!("page: a read token cannot operate");
}

async fn a_forged_form_is_refused(browser: &Browser) {
    browser.go("/pools").await;
    let own = browser.text("return document.querySelector('input[name=form_token]').value").await;
    let forged = own.chars().rev().collect::<String>();
    for token in ["", &forged] {
        let fields = format!("{{form_token: '{token}', pool: 'default', paused: 'yes'}}");
        assert_eq!(post(browser, "/pools/change", &fields).await, "403");
    }
    browser.go("/pools").await;
    let badges =
        "return [...document.querySelectorAll('main .badge')].map(badge => badge.textContent).join(' ')";
    let badges = browser.text(badges).await;
    assert!(badges.contains("active") && !badges.contains("paused"), "{badges}");
    println!("page: a forged form is refused");
}

async fn a_cancel_is_previewed_and_then_audited(browser: &Browser) -> String {
    loop {
        let run = waiting_row(browser).await;
        // In one step: a refresh may replace the row, and its runner may connect, at any moment.
        let tick = format!(
            "const tick = document.getElementById('tick-{run}'); tick?.click(); return String(Boolean(tick?.checked))"
        );
        if browser.text(&tick).await != "true" {
            continue;
        }
        browser.click("button[name=by][value=rows]").await;
        browser.arrives("/pending/cancel").await;
        let preview = browser.text("return document.querySelector('main').textContent").await;
        if preview.contains("Choose at least one row") {
            // Its runner connected before the click. The browser notes that the page refused.
            let _refusal = browser.complaints().await;
            continue;
        }
        assert!(preview.contains("Cancel 1 verification?"), "{preview}");
        if !preview.contains(&run) {
            continue; // its runner has connected meanwhile
        }
        browser.click("form[action$=confirmed] button").await;
        browser.arrives("/pending").await;
        let notice = browser.text("return document.querySelector('.notice').textContent").await;
        if !notice.starts_with("1 of 1 cancelled") {
            continue;
        }
        browser.go("/audit").await;
        let entry = browser.text("return document.querySelector('tbody tr').textContent").await;
        assert!(entry.contains("environment") && entry.contains("cancel") && entry.contains(&run), "{entry}");
        browser.go(&format!("/runs/{run}")).await;
        let timeline = browser.text("return document.querySelector('.timeline').textContent").await;
        assert!(timeline.contains("Cancelled by an operator"), "{timeline}");
        println!("page: {run} was cancelled after its preview, and the audit has it");
        return run;
    }
}
