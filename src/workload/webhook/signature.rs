//! Signs calls as Standard Webhooks requires.

use std::fmt;
use std::sync::Arc;

use reqwest::header::{HeaderName, HeaderValue};
use secrecy::ExposeSecret;
use standardwebhooks::{HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP};

use super::message::Message;
use crate::config::webhook::WebhookConfig;
use crate::workload::{BuildError, CreateError};

/// The current key, and the previous one while receivers switch.
#[derive(Clone)]
pub(super) struct Keys(Arc<[standardwebhooks::Webhook]>);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("count", &self.0.len()).finish_non_exhaustive()
    }
}

impl Keys {
    pub(super) fn new(config: &WebhookConfig) -> Result<Self, BuildError> {
        let secrets = [Some(&config.secret), config.secret_previous.as_ref()];
        let keys = secrets.into_iter().flatten().map(|secret| {
            standardwebhooks::Webhook::new(secret.expose_secret()).map_err(|_| BuildError::Key)
        });
        Ok(Self(keys.collect::<Result<_, _>>()?))
    }

    /// The three headers, with a signature for each key, so that a receiver with either key accepts the call.
    pub(super) fn sign(&self, message: &Message) -> Result<[(HeaderName, HeaderValue); 3], CreateError> {
        let unsigned = |error: &dyn fmt::Display| CreateError::Permanent {
            reason: format!("could not sign the webhook: {error}"),
        };
        let signatures =
            self.0.iter().map(|key| key.sign(&message.id, message.timestamp, message.body.as_bytes()));
        let signatures: Vec<String> =
            signatures.collect::<Result<_, _>>().map_err(|error| unsigned(&error))?;
        let header = |name, value: &str| {
            let value = HeaderValue::from_str(value).map_err(|error| unsigned(&error))?;
            Ok((HeaderName::from_static(name), value))
        };
        Ok([
            header(HEADER_WEBHOOK_ID, &message.id)?,
            header(HEADER_WEBHOOK_TIMESTAMP, &message.timestamp.to_string())?,
            header(HEADER_WEBHOOK_SIGNATURE, &signatures.join(" "))?,
        ])
    }
}
