use bytes::Bytes;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::*;

const NAME: &str = "runner-a";
const SNAPSHOT: &str = "snapshot_a";

#[expect(clippy::unnecessary_wraps, reason = "the functions under test take a `Result`")]
fn reply(code: u16, body: &str) -> Result<Reply, Failure> {
    let status = StatusCode::from_u16(code).expect("a status");
    Ok(Reply { status, body: Some(Bytes::copy_from_slice(body.as_bytes())) })
}

fn status(code: u16, reason: &str, message: &str) -> Result<Reply, Failure> {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message});
    reply(code, &body.to_string())
}

fn posted_of(reply: &Result<Reply, Failure>) -> Posted {
    posted(reply, NAME, &["sesame-sesame"])
}

fn pod(change: impl FnOnce(&mut Value)) -> Result<Reply, Failure> {
    let mut pod = json!({
        "metadata": {"name": NAME, "uid": "u-1"},
        "spec": {"containers": [{"name": "run-controller", "env": [
            {"name": "OTHER", "value": "x"}, {"name": "TRIGGER_SNAPSHOT_ID", "value": SNAPSHOT}]}]},
        "status": {"phase": "Pending"},
    });
    change(&mut pod);
    reply(200, &pod.to_string())
}

fn holder_of(reply: &Result<Reply, Failure>) -> Holder {
    holder(reply, SNAPSHOT, &["sesame-sesame"])
}

#[test]
fn a_pod_in_the_answer_is_created_and_anything_else_is_unclear() {
    assert_eq!(posted_of(&reply(201, r#"{"metadata": {"name": "runner-a"}}"#)), Posted::Created);
    for (code, body) in [(200, "<html>"), (201, ""), (201, r#"{"metadata": {"name": "other"}}"#), (204, "")] {
        let unclear = posted_of(&reply(code, body));
        assert!(matches!(unclear, Posted::Unclear(CreateError::Uncertain { .. })), "{code} {body}");
    }
    let cut = Ok(Reply { status: StatusCode::CREATED, body: None });
    assert!(matches!(posted_of(&cut), Posted::Unclear(CreateError::Uncertain { .. })));
}

#[test]
fn each_refusal_says_what_the_next_request_may_do() {
    assert_eq!(posted_of(&status(409, "AlreadyExists", "pods \"runner-a\" already exists")), Posted::Taken);
    for (code, reason) in [
        (400, "BadRequest"),
        (401, "Unauthorized"),
        (403, "Forbidden"),
        (404, "NotFound"),
        (405, "MethodNotAllowed"),
        (415, "UnsupportedMediaType"),
        (422, "Invalid"),
    ] {
        let Posted::Refused(CreateError::Permanent { reason: text }) = posted_of(&status(code, reason, "no"))
        else {
            panic!("{code} is permanent");
        };
        assert_eq!(text, format!("the Kubernetes API answered {code} {reason}: no"));
    }
    for (code, reason) in [(409, "Conflict"), (429, "TooManyRequests")] {
        let refused = posted_of(&status(code, reason, "later"));
        let Posted::Refused(CreateError::Transient { name_may_be_taken, .. }) = refused else {
            panic!("{code} passes: {refused:?}");
        };
        assert!(!name_may_be_taken);
    }
    for proxys in [reply(429, "slow down"), reply(404, "default backend - 404")] {
        let refused = posted_of(&proxys);
        assert!(matches!(refused, Posted::Refused(CreateError::Transient { .. })), "{refused:?}");
    }
    let full = "pods \"runner-a\" is forbidden: exceeded quota: pods, requested: pods=1, used: pods=9, limited: pods=9";
    let refused = posted_of(&status(403, "Forbidden", full));
    assert!(matches!(refused, Posted::Refused(CreateError::Transient { .. })), "{refused:?}");
    assert!(matches!(posted_of(&reply(302, "")), Posted::Refused(CreateError::Permanent { .. })));
}

#[test]
fn a_failed_server_causes_a_lookup_and_a_failed_proxy_is_trusted_less() {
    for code in [500, 503, 504] {
        let unclear = posted_of(&status(code, "Timeout", "etcdserver: request timed out"));
        assert!(matches!(unclear, Posted::Unclear(CreateError::Transient { .. })), "{code}: {unclear:?}");
    }
    for code in [408, 500, 502, 504] {
        let unclear = posted_of(&reply(code, "<html>bad gateway</html>"));
        assert!(matches!(unclear, Posted::Unclear(CreateError::Uncertain { .. })), "{code}: {unclear:?}");
    }
    let lost = Err(Failure::Unanswered { reason: "reset".to_owned() });
    assert!(matches!(posted_of(&lost), Posted::Unclear(CreateError::Uncertain { .. })));
    let unsent = Err(Failure::NotSent { reason: "refused".to_owned() });
    assert!(matches!(posted_of(&unsent), Posted::Refused(CreateError::Transient { .. })));
}

#[test]
fn a_reason_is_one_short_line_without_secrets() {
    let long = format!("env value \"sesame-sesame\"\nis bad {}", "x".repeat(300));
    let Posted::Refused(error) = posted_of(&status(422, "Invalid", &long)) else { panic!("a refusal") };
    let text = error.to_string();
    assert!(
        text.starts_with("the Kubernetes API answered 422 Invalid: env value \"[hidden]\" is bad x"),
        "{text}"
    );
    assert!(text.len() < 250 && !text.contains("sesame"), "{text}");
    let Posted::Refused(error) = posted_of(&reply(403, "<html>sesame-sesame</html>")) else {
        panic!("a refusal")
    };
    assert_eq!(error.to_string(), "the Kubernetes API answered 403");
}

#[test]
fn the_snapshot_in_a_pods_environment_shows_its_dispatch() {
    assert_eq!(holder_of(&pod(|_| {})), Holder::Ours);
    assert_eq!(holder_of(&pod(|pod| pod["status"]["phase"] = json!("Running"))), Holder::Ours);
    assert_eq!(holder_of(&pod(|pod| pod["status"] = json!({}))), Holder::Ours);
    for phase in ["Succeeded", "Failed"] {
        let finished = holder_of(&pod(|pod| pod["status"]["phase"] = json!(phase)));
        assert_eq!(finished, Holder::Finished { uid: "u-1".to_owned() });
    }
    let theirs =
        |snapshot: Value| holder_of(&pod(|pod| pod["spec"]["containers"][0]["env"][1]["value"] = snapshot));
    assert_eq!(theirs(json!("snapshot_b")), Holder::Other { snapshot_id: "snapshot_b".to_owned() });
    assert_eq!(theirs(Value::Null), Holder::Other { snapshot_id: "none is named".to_owned() });
    let deleted = |pod: &mut Value| pod["metadata"]["deletionTimestamp"] = json!("2026-08-21T18:27:52Z");
    assert_eq!(holder_of(&pod(deleted)), Holder::Ending);
}

#[test]
fn only_the_api_servers_own_404_means_that_the_name_is_free() {
    assert_eq!(holder_of(&status(404, "NotFound", "pods \"runner-a\" not found")), Holder::Absent);
    let lost = || Err(Failure::Unanswered { reason: "reset".to_owned() });
    for unseen in
        [reply(404, "<html>"), status(403, "Forbidden", "no"), status(500, "x", "y"), reply(200, "{"), lost()]
    {
        let holder = holder_of(&unseen);
        assert!(matches!(holder, Holder::Unknown { .. }), "{holder:?}");
    }
}

#[test]
fn a_finished_pod_is_gone_unless_the_delete_was_refused() {
    for gone in
        [reply(200, "{}"), reply(202, "{}"), status(404, "NotFound", ""), status(409, "Conflict", "uid")]
    {
        assert_eq!(removed(&gone, &[]), Ok(()));
    }
    for refused in [status(403, "Forbidden", "no"), status(500, "x", "y")] {
        assert!(matches!(removed(&refused, &[]), Err(CreateError::Transient { .. })));
    }
}
