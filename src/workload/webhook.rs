//! The webhook: one signed call to the program that starts runs, such as the supervisor itself.
//!
//! A call holds the whole dispatch, so its receiver needs nothing else from us. It may arrive more than
//! once, always with the same id: when an answer is lost, a probe decides whether to call again.
//! It goes only to the one configured address: no redirect, no proxy, and no address that
//! `config::webhook::address` refuses, even if the name resolves to it.

use std::error::Error;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};

use crate::config::webhook::address::Refusal;
use crate::config::webhook::{Target, WebhookConfig};
use crate::transport;

use super::{BuildError, CreateError, CreateRequest, Created, correlation};
use message::Message;
use resolver::GuardedResolver;
use signature::Keys;

mod message;
mod resolver;
mod signature;

/// Most bytes read of an answer. We need none of them; a body read to its end frees the connection for reuse.
const BODY_BYTES_MAX: usize = 16 << 10;

/// Longest wait for the rest of an answer whose status is known.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);

/// A configured receiver.
#[derive(Debug, Clone)]
pub(super) struct Webhook {
    client: reqwest::Client,
    target: Target,
    keys: Keys,
    timeout: Duration,
}

impl Webhook {
    pub(super) fn new(config: &WebhookConfig) -> Result<Self, BuildError> {
        let client = transport::builder(config.target.0.scheme())?
            // A proxy would resolve names itself and bypass the guard.
            .dns_resolver(GuardedResolver::new(config.listing))
            // Less than the whole timeout, so that an absent receiver and a silent one give different errors.
            .connect_timeout(config.timeout / 2);
        let client = transport::build(client)?;
        let keys = Keys::new(config)?;
        Ok(Self { client, target: config.target.clone(), keys, timeout: config.timeout })
    }

    pub(super) async fn create(&self, create: &CreateRequest) -> Result<Created, CreateError> {
        let message = Message::new(create)?;
        let request = self
            .client
            .post(self.target.0.clone())
            .timeout(self.timeout)
            .headers(self.headers(create, &message)?)
            .body(message.body);
        let response = request.send().await.map_err(|error| unanswered(error, self.timeout))?;
        let status = response.status();
        // The status decides; a body that breaks off or does not end changes nothing.
        let _body = tokio::time::timeout(BODY_TIMEOUT, transport::read_body(response, BODY_BYTES_MAX)).await;
        judge(status, &create.name)
    }

    fn headers(&self, create: &CreateRequest, message: &Message) -> Result<HeaderMap, CreateError> {
        let mut headers = correlation::headers(create);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.extend(self.keys.sign(message)?);
        Ok(headers)
    }
}

/// What an answer's status means. A receiver that may have acted is uncertain: a probe decides.
fn judge(status: StatusCode, workload: &str) -> Result<Created, CreateError> {
    let code = status.as_u16();
    let reason = format!("the webhook's receiver answered {code}");
    match code {
        200..=299 => Ok(Created::Created { workload: workload.to_owned() }),
        // An ingress answers 404 while the receiver behind it restarts.
        404 | 408 | 425 | 429 => Err(CreateError::Transient { reason, name_may_be_taken: false }),
        300..=399 => {
            let hint = "redirects are not followed, set `WARMPROOF_WEBHOOK_URL` to the final address";
            Err(CreateError::Permanent { reason: format!("{reason}: {hint}") })
        }
        400..=499 => Err(CreateError::Permanent { reason }),
        _ => Err(CreateError::Uncertain { reason }),
    }
}

/// The call failed before any answer.
fn unanswered(error: reqwest::Error, timeout: Duration) -> CreateError {
    if let Some(refusal) = refusal(&error) {
        let reason = format!("`WARMPROOF_WEBHOOK_URL` has a host that resolves to {refusal}");
        return CreateError::Permanent { reason };
    }
    if error.is_connect() {
        let reason = format!("could not reach the webhook's receiver: {}", transport::describe(error));
        return CreateError::Transient { reason, name_may_be_taken: false };
    }
    let reason = if error.is_timeout() {
        format!("the webhook's receiver did not answer within {} ms", timeout.as_millis())
    } else {
        format!("the connection to the webhook's receiver broke: {}", transport::describe(error))
    };
    CreateError::Uncertain { reason }
}

/// The guard's refusal, among the causes of the client's error.
fn refusal(error: &reqwest::Error) -> Option<Refusal> {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(refusal) = inner.downcast_ref::<Refusal>() {
            return Some(*refusal);
        }
        cause = inner.source();
    }
    None
}

#[cfg(test)]
mod tests;
