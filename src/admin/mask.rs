//! Masks everything in a message that may be a secret before a person sees it.
//!
//! The platform makes the messages, so Warmproof does not know every field. Each value whose name suggests a
//! secret, or that looks like one, is replaced. Every value below an `env`-like name is replaced too, because
//! the user chose the names there. It is better to mask too much: the database still has the message.

use serde_json::Value;

/// What replaces a masked value.
const MASKED: &str = "••••••";

/// Parts of names that secrets have, in lower case without `_` and `-`.
const NAMES: [&str; 13] = [
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "credential",
    "authorization",
    "apikey",
    "privatekey",
    "accesskey",
    "signature",
    "cookie",
    "dsn",
];

/// Names below which everything is the user's own.
const OWN: [&str; 5] = ["env", "envvars", "environmentvariables", "headers", "payload"];

/// How known kinds of secrets begin.
const BEGINNINGS: [&str; 16] = [
    "tr_dev_",
    "tr_prod_",
    "tr_stg_",
    "tr_pat_",
    "tr_wgt_",
    "wp_",
    "whsec_",
    "sk_",
    "pk_",
    "ghp_",
    "gho_",
    "ghs_",
    "github_pat_",
    "xox",
    "AKIA",
    "Bearer ",
];

/// The message, for people. A message that is not JSON is not shown, because no rule could mask it.
pub(super) fn masked(message: &str) -> String {
    match serde_json::from_str::<Value>(message) {
        Ok(mut value) => {
            mask(&mut value, false);
            serde_json::to_string_pretty(&value).unwrap_or_default()
        }
        Err(_) => format!("({} bytes that are not JSON)", message.len()),
    }
}

fn mask(value: &mut Value, is_own: bool) {
    match value {
        Value::Object(map) => {
            // A pair of a name and a value is a variable, no matter what the list is called.
            let named = map
                .get("name")
                .or_else(|| map.get("key"))
                .and_then(Value::as_str)
                .is_some_and(is_secret_name);
            for (name, inner) in map.iter_mut() {
                let plain = plain(name);
                if is_secret_name(name) || named && plain == "value" {
                    hide(inner);
                } else {
                    mask(inner, is_own || OWN.contains(&plain.as_str()));
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|inner| mask(inner, is_own)),
        Value::String(text) if is_own || is_secret(text) => MASKED.clone_into(text),
        Value::Number(_) if is_own => *value = Value::from(MASKED),
        Value::String(_) | Value::Number(_) | Value::Bool(_) | Value::Null => {}
    }
}

/// Masks a value below a secret's name. Null and booleans stay: they cannot be secrets.
fn hide(value: &mut Value) {
    match value {
        Value::Null | Value::Bool(_) => {}
        Value::Object(_) | Value::Array(_) | Value::String(_) | Value::Number(_) => {
            *value = Value::from(MASKED);
        }
    }
}

fn is_secret_name(name: &str) -> bool {
    let plain = plain(name);
    NAMES.iter().any(|part| plain.contains(part))
}

fn plain(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '_' | '-' | '.' | ' ')).flat_map(char::to_lowercase).collect()
}

fn is_secret(text: &str) -> bool {
    let begins = BEGINNINGS.iter().any(|beginning| text.starts_with(beginning));
    // A JSON Web Token, a key in PEM, and an address with a password.
    let is_jwt = text.starts_with("eyJ") && text.matches('.').count() >= 2;
    let has_password = text.split_once("://").is_some_and(|(_, rest)| {
        rest.split('/')
            .next()
            .and_then(|host| host.rsplit_once('@'))
            .is_some_and(|(user, _)| user.contains(':'))
    });
    begins || is_jwt || has_password || text.contains("-----BEGIN ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_named_or_reads_like_a_secret_is_masked() {
        let message = r#"{
            "run": {"id": "run_a", "publicAccessToken": "abc", "client_secret": {"a": 1}, "isTest": false},
            "dsn": "postgres://u:p@db/x", "url": "postgres://u:p4ss@db/x", "plain": "https://a.example/x@y:z",
            "jwt": "eyJhbGciOi.eyJzdWIi.c2ln", "key": "tr_prod_a1b2", "auth": "Bearer abc",
            "env": {"DATABASE": "p4ss", "N": 7, "deep": ["p4ss"]},
            "variables": [{"name": "API_TOKEN", "value": "p4ss"}, {"name": "COLOUR", "value": "red"}],
            "placementTags": [{"key": "paid", "values": ["true"]}]
        }"#;
        let shown = masked(message);
        for secret in ["abc", "p4ss", "tr_prod", "eyJ", "7", "u:p@"] {
            assert!(!shown.contains(secret), "{secret} in {shown}");
        }
        for kept in ["run_a", "\"isTest\": false", "https://a.example/x@y:z", "red", "\"paid\"", "\"true\""] {
            assert!(shown.contains(kept), "{kept} missing in {shown}");
        }
    }

    #[test]
    fn a_real_message_stays_readable() {
        let message = include_str!("../../tests/fixtures/dequeued-message.fresh.json");
        let shown = masked(message);
        assert!(!shown.contains(MASKED), "{shown}");
        assert!(shown.contains("snapshot_cmelv0q2h000408l2dyx4b7nk"), "{shown}");
        assert_eq!(masked("p4ss"), "(4 bytes that are not JSON)");
    }
}
