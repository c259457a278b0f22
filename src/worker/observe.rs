//! Observe: a probe that an operator asked for before it was due. It reports what it saw and changes nothing: the run
//! of a runner that is not dead may not have started yet.

use super::Shared;
use super::in_flight::InFlight;
use super::probe::Next;
use super::repeat::repeat;
use crate::domain::verdict::Verdict;

/// Records what was seen; the claim is given back until the verification is due.
pub(super) async fn observe(shared: &Shared, in_flight: &InFlight, verdict: &Verdict, seed: u64) -> Next {
    let observation = match verdict {
        Verdict::Lost => "not_started".to_owned(),
        Verdict::Acted { acted, .. } => acted.as_str().to_owned(),
        Verdict::Unknown(failure) => format!("failed: {failure}"),
    };
    // Where it cannot be recorded, the lease ends, and another worker observes again.
    let _ =
        repeat(in_flight, seed, || shared.store.record_observation(&in_flight.claim.key, &observation)).await;
    Next::Drop
}
