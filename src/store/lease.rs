//! Renew and release: keep a lease while work is in flight, give it back when it is not.

use std::borrow::Cow;
use std::collections::HashSet;
use std::time::Duration;

use uuid::Uuid;

use super::connect::Terms;
use super::text::storable;
use super::{Store, StoreError};
use crate::domain::claim::ClaimKey;
use crate::domain::status::HoldReason;

/// One claim that is given back.
#[derive(Debug, Clone)]
pub struct Release {
    /// Row and fence.
    pub key: ClaimKey,
    /// When to probe next, from now by the database's clock; `None` leaves `probe_at` as it is.
    pub probe_again_in: Option<Duration>,
    /// Probes made under this claim that the row does not count yet.
    pub probes: u32,
    /// How many of them failed.
    pub failures: u32,
    /// The last error, if there was one.
    pub error: Option<String>,
    /// The name the next create is to ask for, if it changes.
    pub workload: Option<String>,
    /// How often a create could not be prepared under this claim.
    pub prepare_failures: u32,
    /// What defers the cold start of a loss that has its permit; `None`: nothing.
    pub hold_reason: Option<HoldReason>,
}

impl Release {
    /// A claim given back untouched, so that another worker can take it at once.
    #[must_use]
    pub fn untouched(key: ClaimKey) -> Self {
        Self {
            key,
            probe_again_in: None,
            probes: 0,
            failures: 0,
            error: None,
            workload: None,
            prepare_failures: 0,
            hold_reason: None,
        }
    }
}

/// The columns that name claimed rows and prove the right to write them.
pub(super) struct Keys<'a> {
    pub(super) run_ids: Vec<&'a str>,
    pub(super) ids: Vec<Uuid>,
    pub(super) fences: Vec<i64>,
}

impl<'a> Keys<'a> {
    pub(super) fn of(keys: impl Iterator<Item = &'a ClaimKey> + Clone) -> Self {
        Self {
            run_ids: keys.clone().map(|key| key.run_id.as_str()).collect(),
            ids: keys.clone().map(|key| key.id.0).collect(),
            fences: keys.map(|key| key.fence.get()).collect(),
        }
    }
}

/// The answer to a renewal. A claim that is in neither set is stale: its work is to be dropped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Renewal {
    /// Claims that hold for another lease.
    pub renewed: HashSet<ClaimKey>,
    /// Claims that are still ours, but whose row another transaction has locked: their leases run on.
    pub busy: HashSet<ClaimKey>,
}

impl Store {
    /// Extends leases to `lease` from now, all but those of rows that a statement or a caller's
    /// open transaction has locked: waiting for one row would let the leases of all others end.
    ///
    /// Commits asynchronously: a renewal that a crash loses leaves its holder stale.
    ///
    /// # Errors
    /// The database could not be reached; the leases run on.
    pub async fn renew(&self, keys: &[ClaimKey], lease: Duration) -> Result<Renewal, StoreError> {
        let columns = Keys::of(keys.iter());
        let renewed = sqlx::query!(
            r#"with free as materialized (
                 select p.ctid
                 from unnest($1::text[], $2::uuid[], $3::bigint[]) as h (run_id, id, fence)
                 join pending p on p.run_id = h.run_id and p.id = h.id and p.fence = h.fence
                 for update of p skip locked
               )
               -- Locked above, so no row moves. An array of places is found at once; a join would compare every pair, because its
               -- size is not known.
               update pending p
               set lease_expires_at = statement_timestamp() + $4::int * interval '1 millisecond'
               where p.ctid = any (array(select free.ctid from free))
               returning p.id, p.fence as "fence!""#,
            &columns.run_ids as &[&str],
            &columns.ids,
            &columns.fences,
            super::millis(lease),
        )
        .fetch_all(self.db().on(Terms::LEASES))
        .await
        .map_err(StoreError::doing("renew leases"))?;
        // Matched with the fence: an old claim of a row may be in flight beside the new one.
        let renewed: HashSet<(Uuid, i64)> = renewed.into_iter().map(|row| (row.id, row.fence)).collect();
        let is_renewed = |key: &&ClaimKey| renewed.contains(&(key.id.0, key.fence.get()));
        let (renewed, others): (Vec<&ClaimKey>, Vec<&ClaimKey>) = keys.iter().partition(is_renewed);
        let busy = if others.is_empty() { HashSet::new() } else { self.still_ours(&others).await? };
        Ok(Renewal { renewed: renewed.into_iter().cloned().collect(), busy })
    }

    /// Those whose rows still have our fence.
    async fn still_ours(&self, keys: &[&ClaimKey]) -> Result<HashSet<ClaimKey>, StoreError> {
        let columns = Keys::of(keys.iter().copied());
        let rows = sqlx::query!(
            r#"select p.id, p.fence as "fence!"
               from unnest($1::text[], $2::uuid[], $3::bigint[]) as h (run_id, id, fence)
               join pending p on p.run_id = h.run_id and p.id = h.id and p.fence = h.fence"#,
            &columns.run_ids as &[&str],
            &columns.ids,
            &columns.fences,
        )
        .fetch_all(self.db().on(Terms::LEASES))
        .await
        .map_err(StoreError::doing("renew leases"))?;
        let rows: HashSet<(Uuid, i64)> = rows.into_iter().map(|row| (row.id, row.fence)).collect();
        Ok(keys
            .iter()
            .filter(|key| rows.contains(&(key.id.0, key.fence.get())))
            .map(|key| (*key).clone())
            .collect())
    }

    /// Gives claims back and answers how many were still ours. The others are stale, or another open
    /// transaction holds them: the leases of those run out.
    ///
    /// # Errors
    /// The database could not be reached; the leases run out.
    pub async fn release(&self, releases: &[Release]) -> Result<usize, StoreError> {
        match self.release_all(releases).await {
            Err(error) if error.is_lock_timeout() && releases.len() > 1 => {
                let mut given_back = 0;
                for release in releases {
                    match self.release_all(std::slice::from_ref(release)).await {
                        Ok(one) => given_back += one,
                        Err(error) if error.is_lock_timeout() => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(given_back)
            }
            answer => answer,
        }
    }

    async fn release_all(&self, releases: &[Release]) -> Result<usize, StoreError> {
        let columns = Keys::of(releases.iter().map(|release| &release.key));
        let waits: Vec<Option<i32>> =
            releases.iter().map(|release| release.probe_again_in.map(super::millis)).collect();
        let probes: Vec<i32> = releases.iter().map(|release| super::count(release.probes)).collect();
        let failures: Vec<i32> = releases.iter().map(|release| super::count(release.failures)).collect();
        let errors: Vec<Option<Cow<'_, str>>> =
            releases.iter().map(|release| release.error.as_deref().map(storable)).collect();
        let errors: Vec<Option<&str>> = errors.iter().map(Option::as_deref).collect();
        let workloads: Vec<Option<&str>> =
            releases.iter().map(|release| release.workload.as_deref()).collect();
        let unprepared: Vec<i32> =
            releases.iter().map(|release| super::count(release.prepare_failures)).collect();
        let holds: Vec<Option<&str>> =
            releases.iter().map(|release| release.hold_reason.map(HoldReason::as_str)).collect();
        let given_back = sqlx::query_scalar!(
            r#"update pending p
               set
                 probe_at = case when given.wait_ms is null then p.probe_at
                   else statement_timestamp() + given.wait_ms * interval '1 millisecond' end,
                 probe_count = p.probe_count + given.probes,
                 probe_failures = p.probe_failures + given.failures,
                 last_error = coalesce(given.error, p.last_error),
                 workload = coalesce(given.workload, p.workload),
                 prepare_failures = p.prepare_failures + given.unprepared,
                 -- Untouched, or probed in vain: what deferred its cold start still does.
                 hold_reason = case when given.wait_ms is null or given.failures > 0 then p.hold_reason
                   else given.hold_reason end,
                 lease_expires_at = null,
                 fence = null,
                 worker = null
               from unnest($1::text[], $2::uuid[], $3::bigint[], $4::int[], $5::int[], $6::int[], $7::text[],
                   $8::text[], $9::int[], $10::text[])
                 as given (run_id, id, fence, wait_ms, probes, failures, error, workload, unprepared, hold_reason)
               where p.run_id = given.run_id and p.id = given.id and p.fence = given.fence
               returning p.id"#,
            &columns.run_ids as &[&str],
            &columns.ids,
            &columns.fences,
            &waits as &[Option<i32>],
            &probes,
            &failures,
            &errors as &[Option<&str>],
            &workloads as &[Option<&str>],
            &unprepared,
            &holds as &[Option<&str>],
        )
        .fetch_all(self.durable())
        .await
        .map_err(StoreError::doing("release claims"))?;
        Ok(given_back.len())
    }
}
