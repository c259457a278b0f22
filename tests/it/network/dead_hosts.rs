//! Several hosts of which some accept and never answer: the one that does is found, however long the others take.

use std::time::Duration;

use warmproof::config::database::DatabaseConfig;
use warmproof::store::Store;
use warmproof::store::connect::Role;

use warmproof_testkit::db::{database_config, db, server};
use warmproof_testkit::dispatch::{DELAY, fresh};
use warmproof_testkit::proxy::Proxy;
use warmproof_testkit::wait::until;

/// A host that accepts and never answers.
fn dead() -> Proxy {
    let mut proxy = Proxy::closed(server().tcp_addr().expect("the server listens on loopback"));
    proxy.half_open_new(true);
    proxy.open();
    proxy
}

#[tokio::test]
async fn a_host_that_answers_is_found_behind_others_that_do_not() {
    let db = db().await;
    let (one, other, alive) = (dead(), dead(), server().tcp_addr().unwrap());
    let hosts = format!("{},{},{alive}", one.address, other.address);
    let url = format!("postgres://postgres@{hosts}/{}?sslmode=disable", db.name);
    // Less than one host may take, and far less than all of them.
    let config =
        DatabaseConfig { acquire_timeout: Duration::from_secs(1), pooler: false, ..database_config(&url) };
    let store = Store::connect_lazy(&config, Role::Callers);
    let first = store.schedule(&[fresh("run_a", "snapshot_1")], DELAY).await.unwrap_err().to_string();
    let expected = format!("could not connect to {}: no answer within", one.address);
    assert!(first.contains(&expected), "{first}");
    until("the third host is found", async || {
        store.schedule(&[fresh("run_a", "snapshot_1")], DELAY).await.ok()
    })
    .await;
}
