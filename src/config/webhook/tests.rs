use super::*;
use crate::config::environment::Environment;
use crate::config::error::ConfigErrors;
use crate::config::reader;

const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn read(pairs: &[(&str, &str)]) -> Result<WebhookConfig, ConfigErrors> {
    let fixed = [("WARMPROOF_WEBHOOK_SECRET", KEY)];
    let kept = fixed.into_iter().filter(|(name, _)| pairs.iter().all(|(given, _)| given != name));
    let environment = Environment::from_pairs(kept.chain(pairs.iter().copied()));
    reader::read_all(&environment, WebhookConfig::read)
}

/// The one fault of an environment.
fn fault(pairs: &[(&str, &str)]) -> String {
    let errors = read(pairs).expect_err("a fault");
    assert_eq!(errors.0.len(), 1, "{errors}");
    errors.0[0].to_string()
}

#[test]
fn a_public_https_address_and_a_key_are_enough() {
    let config = read(&[("WARMPROOF_WEBHOOK_URL", "https://supervisor.example/cold?token=hidden")]);
    let config = config.expect("a configuration");
    assert_eq!(config.listing, Listing::Unlisted);
    assert_eq!((config.timeout, config.secret_previous.is_none()), (Duration::from_secs(10), true));
    let printed = format!("{config:?}");
    assert!(printed.contains("https://supervisor.example"), "{printed}");
    assert!(!printed.contains("hidden") && !printed.contains(&KEY[6..]), "{printed}");
}

#[test]
fn plain_http_is_called_only_when_it_is_listed() {
    let url = ("WARMPROOF_WEBHOOK_URL", "http://supervisor.example/cold");
    assert!(fault(&[url]).contains("has a scheme that is not allowed"));
    assert!(read(&[url, ("WARMPROOF_WEBHOOK_SCHEMES", "https, HTTP")]).is_ok());
    let https = ("WARMPROOF_WEBHOOK_URL", "https://supervisor.example/cold");
    assert!(fault(&[https, ("WARMPROOF_WEBHOOK_SCHEMES", "http")]).contains("WARMPROOF_WEBHOOK_URL"));
    for schemes in ["https,ftp", ","] {
        assert!(fault(&[https, ("WARMPROOF_WEBHOOK_SCHEMES", schemes)]).contains("SCHEMES"), "{schemes}");
    }
}

#[test]
fn where_hosts_are_listed_no_other_is_called() {
    let listing = |url: &str, hosts: &str| {
        read(&[("WARMPROOF_WEBHOOK_URL", url), ("WARMPROOF_WEBHOOK_HOSTS", hosts)])
            .map(|config| config.listing)
            .map_err(|errors| errors.variables())
    };
    for (url, hosts) in [
        ("https://supervisor.example/", "other.example, Supervisor.EXAMPLE"),
        ("https://supervisor.example./", "supervisor.example"),
        ("https://a.b.example:8443/", "*.example"),
        ("https://10.0.0.7/", "10.0.0.7"),
        ("https://[::1]/", "::1"),
        ("https://[::1]/", "[::1]"),
    ] {
        assert_eq!(listing(url, hosts), Ok(Listing::Listed), "{url} {hosts}");
    }
    for (url, hosts) in [
        ("https://supervisor.example/", "other.example"),
        ("https://evil-supervisor.example/", "supervisor.example,*.supervisor.example"),
        ("https://example/", "*.example"),
        ("https://10.0.0.70/", "10.0.0.7"),
    ] {
        assert_eq!(listing(url, hosts), Err(vec!["WARMPROOF_WEBHOOK_URL"]), "{url} {hosts}");
    }
    for hosts in [",", "*", "a.example:443", "https://a.example", "*.10.0.0.7", "a b", "*.*.example"] {
        let variables = listing("https://a.example/", hosts).expect_err(hosts);
        assert!(variables.contains(&"WARMPROOF_WEBHOOK_HOSTS"), "{hosts}: {variables:?}");
    }
}

#[test]
fn a_literal_address_is_judged_at_start_however_it_is_written() {
    for url in ["https://169.254.169.254/latest", "https://[::ffff:169.254.169.254]/", "https://0xa9fea9fe/"]
    {
        let fault = fault(&[("WARMPROOF_WEBHOOK_URL", url)]);
        assert!(fault.contains("points to a link-local address, which is never called"), "{fault}");
    }
    for url in ["https://127.0.0.1/", "https://127.1/", "https://2130706433/", "https://[::1]/"] {
        let fault = fault(&[("WARMPROOF_WEBHOOK_URL", url)]);
        assert!(fault.contains("points to a loopback address"), "{fault}");
        assert!(fault.contains("hint: add its host to `WARMPROOF_WEBHOOK_HOSTS`"), "{fault}");
    }
}

#[test]
fn a_key_has_the_form_that_receivers_expect() {
    let url = ("WARMPROOF_WEBHOOK_URL", "https://supervisor.example/cold");
    let short = "whsec_c2hvcnQ=";
    for key in ["", "hidden", &KEY[6..], short, "whsec_hidden hidden hidden hidden hid"] {
        let fault = fault(&[url, ("WARMPROOF_WEBHOOK_SECRET", key)]);
        assert!(fault.contains("`WARMPROOF_WEBHOOK_SECRET`") && !fault.contains("hidden"), "{fault}");
    }
    assert!(fault(&[url, ("WARMPROOF_WEBHOOK_SECRET_PREVIOUS", short)]).contains("_SECRET_PREVIOUS`"));
    let both = read(&[url, ("WARMPROOF_WEBHOOK_SECRET_PREVIOUS", KEY)]).expect("two keys");
    assert!(both.secret_previous.is_some());
}

#[test]
fn keys_may_come_from_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("key");
    std::fs::write(&path, format!("{KEY}\n")).expect("a file");
    let file = format!("file://{}", path.display());
    let config = read(&[
        ("WARMPROOF_WEBHOOK_URL", "https://supervisor.example/cold"),
        ("WARMPROOF_WEBHOOK_SECRET", &file),
        ("WARMPROOF_WEBHOOK_SECRET_PREVIOUS", &file),
    ]);
    let config = config.expect("a configuration");
    assert_eq!(config.secret.expose_secret(), KEY);
    assert_eq!(config.secret_previous.expect("a key").expose_secret(), KEY);
}
