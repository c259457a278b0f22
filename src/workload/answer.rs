//! Judges a gateway's answer: what was made, and what the next request may do.
//!
//! Pure, so that a test can cover each status with one row (platform.md §5.6).

use reqwest::StatusCode;
use serde::Deserialize;

use super::{CreateError, Created};

/// Longest part of the gateway's error text that our own error text repeats, in bytes.
const ERROR_BYTES_MAX: usize = 200;

/// Shortest secret worth hiding in an error text, in bytes: shorter ones are words such as `1` or `true`.
const SECRET_BYTES_MIN: usize = 6;

/// The part of an answer that arrived.
pub(super) struct Answer<'a> {
    pub(super) status: StatusCode,
    /// `None` if the body broke off or was too long.
    pub(super) body: Option<&'a [u8]>,
    /// Secrets that the gateway may repeat; no error text may hold them.
    pub(super) secrets: &'a [&'a str],
}

#[derive(Deserialize)]
struct Instance {
    /// Present in every valid answer. We identify the workload by our own name.
    #[serde(rename = "id")]
    _id: String,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

/// What an answer to a create of `workload` means.
pub(super) fn judge(answer: &Answer<'_>, workload: &str) -> Result<Created, CreateError> {
    let status = answer.status;
    if status.is_success() {
        let instance = answer.body.filter(|_| !matches!(status.as_u16(), 202 | 204));
        let instance = instance.and_then(|body| serde_json::from_slice::<Instance>(body).ok());
        return match instance {
            Some(Instance { _id }) => Ok(Created::Created { workload: workload.to_owned() }),
            None => Err(CreateError::Uncertain {
                reason: format!("the gateway answered {} without an instance", status.as_u16()),
            }),
        };
    }
    let reason = answer.reason();
    match status.as_u16() {
        // The name contains the snapshot, so no other dispatch uses it: an earlier request of this dispatch
        // made the holder, and its answer was lost or its worker died.
        409 => Ok(Created::Existed { workload: workload.to_owned() }),
        429 => Err(CreateError::Transient { reason, name_may_be_taken: false }),
        // The gateway may have registered the name before it failed, and never frees it.
        500 | 503 => Err(CreateError::Transient { reason, name_may_be_taken: true }),
        // A proxy gave up waiting; the gateway behind it may still complete the create.
        408 => Err(CreateError::Uncertain { reason }),
        // Not the gateway's own answer: an ingress says so while the gateway behind it restarts.
        404 if answer.refusal().is_none() => Err(CreateError::Transient { reason, name_may_be_taken: false }),
        300..=499 => Err(CreateError::Permanent { reason }),
        // 502, 504 and other statuses of a proxy: the create may have happened.
        _ => Err(CreateError::Uncertain { reason }),
    }
}

impl Answer<'_> {
    /// The gateway's own refusal; any other body comes from a proxy.
    fn refusal(&self) -> Option<Refusal> {
        self.body.and_then(|body| serde_json::from_slice(body).ok())
    }

    /// The status, and the gateway's own `error` if there is one.
    fn reason(&self) -> String {
        let status = self.status.as_u16();
        match self.refusal() {
            Some(Refusal { error }) => {
                format!("the gateway answered {status}: {}", presentable(&error, self.secrets))
            }
            None => format!("the gateway answered {status}"),
        }
    }
}

/// Another program's text on one line, without our secrets, cut to [`ERROR_BYTES_MAX`].
///
/// Hides secrets before it cuts: half a secret would no longer match.
pub(super) fn presentable(text: &str, secrets: &[&str]) -> String {
    let hidden = secrets
        .iter()
        .filter(|secret| secret.len() >= SECRET_BYTES_MIN)
        .fold(text.to_owned(), |text, secret| text.replace(secret, "[hidden]"));
    let one_line: String = hidden.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    one_line[..one_line.floor_char_boundary(ERROR_BYTES_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, body: &str) -> Result<Created, CreateError> {
        let status = StatusCode::from_u16(status).expect("a status");
        judge(&Answer { status, body: Some(body.as_bytes()), secrets: &["sesame-sesame", "1"] }, "runner-a")
    }

    #[test]
    fn a_new_and_an_old_workload_both_count_as_existing() {
        let workload = "runner-a".to_owned();
        assert_eq!(
            of(201, r#"{"id":"i-1","_timing":{}}"#),
            Ok(Created::Created { workload: workload.clone() })
        );
        assert_eq!(of(409, "taken"), Ok(Created::Existed { workload }));
    }

    #[test]
    fn a_success_without_an_instance_is_uncertain() {
        for (status, body) in
            [(202, r#"{"id":"i-1"}"#), (204, ""), (201, ""), (201, "{"), (201, r#"{"id":7}"#), (201, "[]")]
        {
            assert!(matches!(of(status, body), Err(CreateError::Uncertain { .. })), "{status} {body}");
        }
        let cut = Answer { status: StatusCode::CREATED, body: None, secrets: &[] };
        assert!(matches!(judge(&cut, "runner-a"), Err(CreateError::Uncertain { .. })));
    }

    #[test]
    fn each_refusal_says_what_the_next_request_may_do() {
        for status in [301, 307, 400, 401, 403, 422] {
            assert!(matches!(of(status, ""), Err(CreateError::Permanent { .. })), "{status}");
        }
        let own = of(404, r#"{"error":"no such project"}"#);
        assert!(matches!(own, Err(CreateError::Permanent { .. })), "{own:?}");
        for body in ["", "default backend - 404", "<html>"] {
            let proxys = of(404, body);
            assert!(matches!(proxys, Err(CreateError::Transient { name_may_be_taken: false, .. })), "{body}");
        }
        for status in [408, 501, 502, 504, 524] {
            assert!(matches!(of(status, ""), Err(CreateError::Uncertain { .. })), "{status}");
        }
        for (status, taken) in [(429, false), (500, true), (503, true)] {
            let error = of(status, "").expect_err("a refusal");
            assert!(
                matches!(error, CreateError::Transient { name_may_be_taken, .. } if name_may_be_taken == taken),
                "{status}"
            );
        }
    }

    #[test]
    fn a_reason_repeats_only_the_gateways_own_short_words() {
        let of = |body: &str| of(400, body).expect_err("a refusal").to_string();
        assert_eq!(of("<html>proxy</html>"), "the gateway answered 400");
        assert_eq!(of(r#"{"error":"no such\nimage"}"#), "the gateway answered 400: no such image");
        assert_eq!(of(r#"{"error":"1 bad sesame-sesame"}"#), "the gateway answered 400: 1 bad [hidden]");
        let long = format!(r#"{{"error":"{}"}}"#, "ä".repeat(300));
        assert_eq!(of(&long).len(), "the gateway answered 400: ".len() + ERROR_BYTES_MAX);
    }

    #[test]
    fn a_secret_on_the_cut_is_not_half_shown() {
        let body = format!(r#"{{"error":"{}sesame-sesame"}}"#, "x".repeat(195));
        assert!(!of(500, &body).expect_err("a refusal").to_string().contains("sesam"));
    }
}
