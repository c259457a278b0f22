//! `warmproof api`

use anyhow::Context;
use tokio::net::TcpListener;

use super::Lifetime;
use crate::config::ApiSettings;
use crate::config::environment::Environment;
use crate::config::verify::Switch;
use crate::store::Store;
use crate::store::connect::Role;
use crate::telemetry::metrics;

/// Serves the API until SIGTERM or SIGINT. Once it listens, it prints its address on stdout.
pub(super) async fn api(lifetime: &Lifetime) -> anyhow::Result<()> {
    let stop = lifetime.stop()?;
    super::warn_of_proxies();
    let settings = match ApiSettings::from_environment(&Environment::from_process())? {
        Switch::Enabled(settings) => settings,
        Switch::Disabled { reason } => {
            tracing::warn!(%reason, "warm-start verification is off: nothing is opened, served or written");
            stop.cancelled().await;
            return Ok(());
        }
    };
    // Lazy: an API that starts before its database reports that in `/readyz` and recovers by itself.
    let store = Store::connect_lazy(&settings.database, Role::Callers);
    if settings.metrics.enabled {
        metrics::install();
    }
    let listen = settings.api.listen;
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("could not listen on {listen} (WARMPROOF_API_LISTEN)"))?;
    say_ready(&listener)?;
    let (token, answer_max) = (settings.api.token.clone(), settings.api.request_timeout);
    // Where no worker runs, the API makes partitions and folds counts. It prunes nothing: only workers have
    // the retention setting.
    let upkeep = tokio::spawn(crate::store::upkeep::keep(store.clone(), None, stop.clone()));
    let mut router = crate::api::router(store.clone(), settings.api, settings.verify.delay);
    let mut people = None;
    if let Some(admin) = settings.admin {
        let store = people.insert(Store::connect_for_people(&settings.database, admin.statement_timeout));
        router = crate::admin::router(store.clone(), admin, token.as_ref(), router);
    }
    crate::api::serve_router(listener, router, answer_max, stop).await?;
    upkeep.abort();
    store.close().await;
    if let Some(people) = people {
        people.close().await;
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the one line a script waits for")]
fn say_ready(listener: &TcpListener) -> std::io::Result<()> {
    println!("api ready on http://{}", listener.local_addr()?);
    Ok(())
}
