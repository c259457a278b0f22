//! Signs the deployment token that a workload presents to its supervisor (platform.md §5.2).
//!
//! The same deployment always gets the same bytes. The token leaves out an issue
//! time on purpose, because the warm-start service matches runners by this value.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use sha2::Sha256;

use crate::config::token::{SigningConfig, TokenConfig};
use crate::domain::dispatch::ColdStartRequest;

/// The header of the platform's supervisor: it has no `typ`, and the bytes must be the same.
const HEADER: &str = r#"{"alg":"HS256"}"#;

/// Decides what a workload gets as `TRIGGER_DEPLOYMENT_ID`.
#[derive(Debug, Clone)]
pub(super) enum DeploymentId {
    /// The deployment's friendly id.
    Plain,
    /// A token signed with this key.
    Signed { key: Hmac<Sha256>, expires_at: i64 },
}

/// The order of these fields is the order of the claims, and so part of the bytes.
#[derive(Serialize)]
struct Claims<'a> {
    ver: u32,
    deployment: &'a str,
    deployment_version: &'a str,
    environment_id: &'a str,
    environment_type: &'a str,
    org_id: &'a str,
    project_id: &'a str,
    iss: &'static str,
    aud: &'static str,
    exp: i64,
}

impl DeploymentId {
    pub(super) fn new(config: &TokenConfig) -> Self {
        match config {
            TokenConfig::Disabled => Self::Plain,
            TokenConfig::Signed(SigningConfig { enforcement: _, secret, expires_at }) => {
                let key = Hmac::new_from_slice(secret.expose_secret().as_bytes())
                    .expect("HMAC takes keys of any length");
                Self::Signed { key, expires_at: expires_at.timestamp() }
            }
        }
    }

    /// The value for one dispatch, whose deployment's friendly id is `deployment`.
    pub(super) fn value(
        &self,
        request: &ColdStartRequest,
        deployment: &str,
    ) -> serde_json::Result<SecretString> {
        match self {
            Self::Plain => Ok(SecretString::from(deployment)),
            Self::Signed { key, expires_at } => {
                let claims = Claims {
                    ver: 1,
                    deployment,
                    deployment_version: &request.background_worker.version,
                    environment_id: &request.environment.id,
                    environment_type: &request.environment.kind,
                    org_id: &request.organization.id,
                    project_id: &request.project.id,
                    iss: "https://id.trigger.dev",
                    aud: "https://api.trigger.dev",
                    exp: *expires_at,
                };
                let part = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
                let signed = format!("{}.{}", part(HEADER.as_bytes()), part(&serde_json::to_vec(&claims)?));
                let signature = key.clone().chain_update(&signed).finalize().into_bytes();
                Ok(SecretString::from(format!("{signed}.{}", part(&signature))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::{TimeZone, Utc};

    use super::*;
    use crate::config::token::Enforcement;

    const FRESH: &str = include_str!("../../tests/fixtures/dequeued-message.fresh.json");

    /// What the platform's own code signs for the fixture (platform.md §5.2).
    const VECTOR: &str = concat!(
        "eyJhbGciOiJIUzI1NiJ9.",
        "eyJ2ZXIiOjEsImRlcGxveW1lbnQiOiJkZXBsb3ltZW50X3I4azJtZnE3dzN6c2JkNW4iLCJkZXBsb3ltZW50X3ZlcnNpb24i",
        "OiIyMDI2MDgyMS4zIiwiZW52aXJvbm1lbnRfaWQiOiJjbHgzcTl2MmEwMDAzbWwwOGYxdDZoMnl6IiwiZW52aXJvbm1lbnRf",
        "dHlwZSI6IlBST0RVQ1RJT04iLCJvcmdfaWQiOiJjbHgzcTl0cXMwMDAxbWwwOGQ0a2s5Yzd3IiwicHJvamVjdF9pZCI6ImNs",
        "eDNxOXVoNDAwMDJtbDA4YTlyM2c1amIiLCJpc3MiOiJodHRwczovL2lkLnRyaWdnZXIuZGV2IiwiYXVkIjoiaHR0cHM6Ly9h",
        "cGkudHJpZ2dlci5kZXYiLCJleHAiOjE5NTY1MjgwMDB9.",
        "0tZm4fsc3PjZ4LF3VFeVJ-UgWZqA9hwzPPB53Sn-QVs",
    );

    #[test]
    fn a_token_equals_the_supervisors_byte_for_byte() {
        let config = TokenConfig::Signed(SigningConfig {
            enforcement: Enforcement::Log,
            secret: SecretString::from("test-secret"),
            expires_at: Utc.with_ymd_and_hms(2032, 1, 1, 0, 0, 0).single().expect("an instant"),
        });
        let request = ColdStartRequest::parse(FRESH).expect("the fixture");
        let signer = DeploymentId::new(&config);
        let token = signer.value(&request, "deployment_r8k2mfq7w3zsbd5n").expect("a token");
        assert_eq!(token.expose_secret(), VECTOR);
        assert!(!format!("{signer:?}").contains("test-secret"));
    }

    #[test]
    fn without_signing_the_friendly_id_is_the_value() {
        let request = ColdStartRequest::parse(FRESH).expect("the fixture");
        let value =
            DeploymentId::new(&TokenConfig::Disabled).value(&request, "deployment_x").expect("a value");
        assert_eq!(value.expose_secret(), "deployment_x");
    }
}
