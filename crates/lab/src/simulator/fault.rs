//! Fault switches, set at run time through the library or over HTTP.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use warmproof::domain::ids::RunId;

/// What happens to a latest-snapshot probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ProbeFault {
    /// Answered after a delay.
    Delay {
        /// Milliseconds.
        delay_ms: u64,
    },
    /// Not answered until [`Faults::release`].
    Hang,
    /// Answered with this status and an error body.
    Status {
        /// The HTTP status.
        status: u16,
    },
    /// Answered with 429.
    RateLimited {
        /// How far `x-ratelimit-reset` is in the future; if unset, the header is missing.
        #[serde(default)]
        reset_after_ms: Option<u64>,
    },
    /// The connection is reset before any answer.
    Reset,
    /// The connection is reset within the body.
    ResetMidBody,
    /// 200 and a body that is not JSON.
    InvalidJson,
    /// 200 and JSON of another shape.
    WrongSchema,
}

/// What happens to a call of `attempts/start`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum StartFault {
    /// The attempt is committed and the answer dropped.
    LoseAnswer,
    /// Nothing is committed; status 500, as after a lock timeout.
    ServerError,
    /// Handled after a delay, so that another starter may win.
    Delay {
        /// Milliseconds.
        delay_ms: u64,
    },
    /// Not handled until [`Faults::release`].
    Hang,
}

/// What a faulty create does before it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GatewayEffect {
    /// Nothing is created.
    #[default]
    None,
    /// The instance exists and runs.
    Created,
    /// No instance runs, but its name stays taken: the next create of it answers 409.
    NameOnly,
}

/// How a faulty create is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum GatewayAnswer {
    /// No answer until [`Faults::release`]. The effect comes first.
    Hang,
    /// With this status: 500, 502, 503 or 504, or 202 without a body.
    Status {
        /// The HTTP status.
        status: u16,
    },
    /// The connection is reset.
    Reset,
}

/// What happens to a create.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayFault {
    /// What it does.
    #[serde(default)]
    pub effect: GatewayEffect,
    /// What it answers.
    pub answer: GatewayAnswer,
}

/// A fault and its conditions. It strikes when all conditions are met; without any it always strikes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rule<F> {
    /// What happens.
    pub fault: F,
    /// Only for this run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// Only this many more times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// Only for this share of the calls, 0 to 1, by the simulation's seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
}

impl<F> Rule<F> {
    /// Strikes every time.
    pub const fn always(fault: F) -> Self {
        Self { fault, run: None, times: None, share: None }
    }

    /// Strikes this run only.
    #[must_use]
    pub fn of(mut self, run: &RunId) -> Self {
        self.run = Some(run.clone());
        self
    }

    /// Strikes this many times and no more.
    #[must_use]
    pub const fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// Strikes this share of the calls.
    #[must_use]
    pub const fn share(mut self, share: f64) -> Self {
        self.share = Some(share);
        self
    }
}

/// The rules for one kind of call. The first that applies strikes.
#[derive(Debug)]
pub struct Switches<F> {
    state: Mutex<(Vec<Rule<F>>, StdRng)>,
}

impl<F: Clone> Switches<F> {
    fn seeded(seed: u64) -> Self {
        Self { state: Mutex::new((Vec::new(), StdRng::seed_from_u64(seed))) }
    }

    /// Adds a rule after the others.
    pub fn add(&self, rule: Rule<F>) {
        self.with(|rules, _| rules.push(rule));
    }

    /// Removes all rules. Hanging calls keep hanging; see [`Faults::release`].
    pub fn clear(&self) {
        self.with(|rules, _| rules.clear());
    }

    /// The rules that can still strike.
    pub fn rules(&self) -> Vec<Rule<F>> {
        self.with(|rules, _| rules.clone())
    }

    pub(super) fn strike(&self, run: &str) -> Option<F> {
        self.with(|rules, rng| {
            let index = rules.iter().position(|rule| {
                rule.run.as_ref().is_none_or(|only| only.as_str() == run)
                    && rule.share.is_none_or(|share| rng.random::<f64>() < share)
            })?;
            let fault = rules[index].fault.clone();
            match &mut rules[index].times {
                Some(times) if *times > 1 => *times -= 1,
                Some(_) => drop(rules.remove(index)),
                None => {}
            }
            Some(fault)
        })
    }

    fn with<T>(&self, f: impl FnOnce(&mut Vec<Rule<F>>, &mut StdRng) -> T) -> T {
        let (rules, rng) = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        f(rules, rng)
    }
}

/// All switches of a simulation.
#[derive(Debug)]
pub struct Faults {
    /// For latest-snapshot probes.
    pub probe: Switches<ProbeFault>,
    /// For `attempts/start`.
    pub start: Switches<StartFault>,
    /// For the gateway's creates.
    pub gateway: Switches<GatewayFault>,
    releases: watch::Sender<u64>,
}

impl Faults {
    pub(super) fn seeded(seed: u64) -> Self {
        Self {
            probe: Switches::seeded(seed ^ 1),
            start: Switches::seeded(seed ^ 2),
            gateway: Switches::seeded(seed ^ 3),
            releases: watch::Sender::new(0),
        }
    }

    /// Releases all calls that hang now; the simulator then answers them as usual.
    pub fn release(&self) {
        self.releases.send_modify(|releases| *releases += 1);
    }

    /// Registers a hanging call. It registers before a test can see the call hang, so it misses no release.
    pub(super) fn hang(&self) -> impl Future<Output = ()> + use<> {
        let mut releases = self.releases.subscribe();
        async move {
            // An error means that the simulation has ended, which also ends the hanging.
            let _ = releases.changed().await;
        }
    }

    pub(super) async fn delay(delay_ms: u64) {
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
    }
}
