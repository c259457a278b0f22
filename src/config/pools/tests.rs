use std::io::Write as _;

use secrecy::ExposeSecret;
use tempfile::NamedTempFile;

use super::*;
use crate::config::error::ConfigErrors;
use crate::config::reader::read_all;
use crate::config::workload::BackendConfig;

const SHARED: [(&str, &str); 6] = [
    ("TRIGGER_API_URL", "https://platform.example"),
    ("TRIGGER_WORKER_TOKEN", "tr_wgt_hidden"),
    ("MANAGED_WORKER_SECRET", "managed-hidden"),
    ("COMPUTE_GATEWAY_URL", "https://gateway.example"),
    ("TRIGGER_WORKLOAD_API_DOMAIN", "supervisor.example"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://otel.example"),
];

fn of(file: Option<&str>, extra: &[(&str, &str)]) -> Result<Vec<PoolConfig>, ConfigErrors> {
    let mut pairs: Vec<(String, String)> =
        SHARED.iter().chain(extra).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let written = file.map(|text| {
        let mut file = NamedTempFile::new().expect("a file");
        file.write_all(text.as_bytes()).expect("a text");
        file
    });
    if let Some(file) = &written {
        pairs.push((FILE.to_owned(), file.path().to_str().expect("a path").to_owned()));
    }
    read_all(&Environment::from_pairs(pairs), read)
}

fn names(pools: &[PoolConfig]) -> Vec<&str> {
    pools.iter().map(|pool| pool.name.as_str()).collect()
}

#[test]
fn without_a_file_every_pool_shares_the_environment() {
    let pools = of(None, &[(NAMES, "blue, green,,blue")]).expect("pools");
    assert_eq!(names(&pools), ["blue", "green"]);
    assert!(pools.iter().all(|pool| !pool.own && pool.initial == PoolSettings::default()));
    assert_eq!(names(&of(None, &[]).expect("pools")), ["default"]);
}

#[test]
fn a_pool_of_the_file_may_have_a_platform_a_backend_and_settings_of_its_own() {
    let file = r#"
        [pools.default]
        [pools.gpu]
        backend = "gateway"
        delay_ms = 8000
        cap = 100
        cap_window_ms = 2000
        shadow = true
        on_connect = "keep_watching"
        follow_up_after_ms = 0
        [pools.gpu.env]
        TRIGGER_API_URL = "https://gpu.example"
        TRIGGER_WORKER_TOKEN = "tr_wgt_gpu"
        COMPUTE_GATEWAY_TIMEOUT_MS = 5000
        COMPUTE_SNAPSHOTS_ENABLED = false
    "#;
    let pools = of(Some(file), &[]).expect("pools");
    assert_eq!(names(&pools), ["default", "gpu"], "all of the file");
    let gpu = &pools[1];
    assert_eq!(gpu.platform.api_url.as_str(), "https://gpu.example/");
    assert_eq!(gpu.platform.worker_token.expose_secret(), "tr_wgt_gpu");
    assert_eq!(
        gpu.platform.managed_secret.expose_secret(),
        "managed-hidden",
        "what is not replaced is shared"
    );
    assert_eq!(pools[0].platform.api_url.as_str(), "https://platform.example/");
    let BackendConfig::Gateway(gateway) = &gpu.workload.backend else { panic!("another backend") };
    assert_eq!(gateway.timeout.as_secs(), 5);
    let expected = PoolSettings {
        delay_ms: Some(8000),
        cap: Some(100),
        cap_window_ms: 2000,
        shadow: true,
        on_connect: OnConnect::KeepWatching,
        follow_up_after_ms: None,
        ..PoolSettings::default()
    };
    assert_eq!(gpu.initial, expected);
    assert_eq!(names(&of(Some(file), &[(NAMES, "gpu")]).expect("pools")), ["gpu"], "a worker may serve some");
}

#[test]
fn a_fault_of_a_pool_names_it_and_repeats_no_value() {
    let cases = [
        ("[pools.a]\nbackend = \"lambda\"", "pool `a`: `WARMPROOF_BACKEND` is not one of the allowed words"),
        ("[pools.a.env]\nTRIGGER_API_URL = \"hidden\"", "pool `a`: `TRIGGER_API_URL` is not a URL"),
        (
            "[pools.a.env]\nTRIGGER_WORKER_TOKEN = \"file:///hidden\"",
            "pool `a`: `TRIGGER_WORKER_TOKEN` names a file",
        ),
        (
            "[pools.a.env]\nTRIGGER_WORKER_TOKEN = [\"hidden\"]",
            "pool `a`: `env.TRIGGER_WORKER_TOKEN` must be a text",
        ),
        ("[pools.a]\ncap_window_ms = 99", "pool `a`: `cap_window_ms` is out of range"),
        ("[pools.a]\ncolour = \"hidden\"", "line 2: unknown field `colour`"),
        ("[pools.a.env]\nTRIGGER_WORKER_TOKEN = \"hidden", "line 2: "),
        ("", "names no pool"),
    ];
    for (file, expected) in cases {
        let errors = of(Some(file), &[]).expect_err(file).to_string();
        assert!(errors.contains(expected), "{file}\n{errors}");
        assert!(!errors.contains("hidden"), "{errors}");
    }
    let errors = of(Some("[pools.a]"), &[(NAMES, "b")]).expect_err("an unknown pool").to_string();
    assert!(errors.contains("`WARMPROOF_POOLS` names `b`, which is not in the file"), "{errors}");
    let errors = of(None, &[(FILE, "/nowhere/pools.toml")]).expect_err("no file").to_string();
    assert!(errors.contains("`WARMPROOF_POOLS_FILE` names a file that could not be read"), "{errors}");
}
