//! What a statement takes of a batch: each message encoded beforehand, and one array per column.

use std::borrow::Cow;
use std::collections::HashMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::skew::Skews;
use crate::config::database::CompressionConfig;
use crate::domain::ids::{RegionName, SupervisorName, VerificationId};
use crate::domain::verification::NewVerification;
use crate::store::{codec, millis};

/// A verification that only has to be written: its message is encoded, which is a third of a caller's work.
#[derive(Debug)]
pub(in crate::store) struct Prepared<'a> {
    /// What is asked for.
    pub(in crate::store) new: Cow<'a, NewVerification>,
    codec: i16,
    message: Cow<'a, [u8]>,
}

impl<'a> Prepared<'a> {
    pub(in crate::store) fn of(new: &'a NewVerification, compression: &CompressionConfig) -> Self {
        let (codec, message) = codec::encode(new.dispatch.message.get().as_bytes(), compression);
        Self { new: Cow::Borrowed(new), codec, message }
    }

    /// The same for a batch that is gathered from many callers.
    pub(in crate::store) fn owned(
        new: NewVerification,
        compression: &CompressionConfig,
    ) -> Prepared<'static> {
        let (codec, message) = codec::encode(new.dispatch.message.get().as_bytes(), compression);
        let message = Cow::Owned(message.into_owned());
        Prepared { new: Cow::Owned(new), codec, message }
    }

    pub(in crate::store) fn run_id(&self) -> &str {
        self.new.dispatch.run_id.as_str()
    }
}

/// One array per column of a batch, in the order of the function's parameters.
#[derive(Default)]
pub(super) struct Columns<'a> {
    pub(super) ids: Vec<Uuid>,
    pub(super) run_ids: Vec<&'a str>,
    pub(super) snapshot_ids: Vec<&'a str>,
    pub(super) pools: Vec<&'a str>,
    pub(super) supervisors: Vec<Option<&'a str>>,
    pub(super) regions: Vec<Option<&'a str>>,
    pub(super) deployment_versions: Vec<Option<&'a str>>,
    pub(super) intents: Vec<&'a str>,
    pub(super) dequeued_ats: Vec<DateTime<Utc>>,
    /// The same by the database's clock, as far as is known.
    pub(super) left_queue_ats: Vec<DateTime<Utc>>,
    pub(super) delays_ms: Vec<Option<i32>>,
    pub(super) traceparents: Vec<Option<&'a str>>,
    pub(super) timings: Vec<Option<&'a str>>,
    pub(super) codecs: Vec<i16>,
    pub(super) messages: Vec<&'a [u8]>,
}

impl<'a> Columns<'a> {
    pub(super) fn push(&mut self, prepared: &'a Prepared<'_>, skews: &Skews) {
        let new: &NewVerification = &prepared.new;
        let dispatch = &new.dispatch;
        self.ids.push(VerificationId::fresh().0);
        self.run_ids.push(dispatch.run_id.as_str());
        self.snapshot_ids.push(dispatch.snapshot_id.as_str());
        self.pools.push(new.pool.as_str());
        self.supervisors.push(new.supervisor.as_ref().map(SupervisorName::as_str));
        self.regions.push(new.region.as_ref().map(RegionName::as_str));
        self.deployment_versions.push(dispatch.deployment_version.as_deref());
        self.intents.push(new.intent.as_str());
        self.dequeued_ats.push(dispatch.dequeued_at);
        self.left_queue_ats.push(skews.by_our_clock(new.pool.as_str(), dispatch.dequeued_at));
        self.delays_ms.push(new.delay.map(millis));
        self.traceparents.push(dispatch.traceparent.as_deref());
        self.timings.push(dispatch.timings.as_ref().map(|timings| timings.get()));
        self.codecs.push(prepared.codec);
        self.messages.push(&prepared.message);
    }

    /// The position in the batch of each id's element.
    pub(super) fn positions(&self, wave: Vec<usize>) -> HashMap<Uuid, usize> {
        self.ids.iter().copied().zip(wave).collect()
    }

    pub(super) fn distinct_pools(&self) -> Vec<&'a str> {
        let mut pools = self.pools.clone();
        pools.sort_unstable();
        pools.dedup();
        pools
    }
}
