use std::time::Duration;

use secrecy::ExposeSecret;

use super::*;
use crate::config::docker::{ApiVersion, DockerHost, RegistryConfig};
use crate::config::verify::DisabledReason;
use crate::config::webhook::WebhookConfig;
use crate::config::workload::BackendConfig;

const DOCUMENTATION: &str = include_str!("../../docs/configuration.md");

/// A complete environment of every concern, with tokens signed.
const COMPLETE: [(&str, &str); 14] = [
    ("TRIGGER_WARM_START_VERIFY_ENABLED", "true"),
    ("TRIGGER_WARM_START_URL", "http://firestarter.example"),
    ("TRIGGER_API_URL", "https://platform.example/base/"),
    ("TRIGGER_WORKER_TOKEN", "tr_wgt_hidden"),
    ("MANAGED_WORKER_SECRET", "managed-hidden"),
    ("TRIGGER_WORKER_INSTANCE_NAME", "node-a"),
    ("WARMPROOF_DATABASE_URL", "postgres://warmproof:hidden@db.example/warmproof"),
    ("WARMPROOF_API_TOKEN", "hidden-hidden-hidden"),
    ("COMPUTE_GATEWAY_URL", "https://gateway.example/"),
    ("COMPUTE_GATEWAY_AUTH_TOKEN", "gateway-hidden"),
    ("TRIGGER_WORKLOAD_API_DOMAIN", "supervisor.example"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://otel.example"),
    ("WORKLOAD_TOKEN_ENFORCEMENT", "enforce"),
    ("WORKLOAD_TOKEN_SECRET", "signing-hidden"),
];

/// The complete environment with some variables replaced; `None` takes one away.
fn complete_but(changes: &[(&'static str, Option<&str>)]) -> Environment {
    let kept = COMPLETE.into_iter().filter(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
    let added = changes.iter().filter_map(|(name, value)| Some((*name, (*value)?)));
    Environment::from_pairs(kept.chain(added))
}

fn worker(changes: &[(&'static str, Option<&str>)]) -> Result<WorkerSettings, ConfigErrors> {
    match WorkerSettings::from_environment(&complete_but(changes))? {
        Switch::Enabled(settings) => Ok(settings),
        Switch::Disabled { reason } => panic!("disabled: {reason}"),
    }
}

#[test]
fn a_complete_environment_gives_every_default() {
    let settings = worker(&[]).expect("a complete environment");
    assert_eq!(settings.verify.delay, Duration::from_secs(10));
    let pool = &settings.pools[0];
    assert_eq!(pool.platform.api_url.as_str(), "https://platform.example/base");
    assert_eq!(pool.platform.probe_timeout, Duration::from_secs(2));
    assert_eq!(settings.database.schema, "warmproof");
    assert_eq!(settings.worker.lease, Duration::from_secs(5));
    assert_eq!(settings.worker.expire_after, Duration::from_mins(15));
    assert!(settings.worker.wide_events, "events are on unless switched off");
    assert_eq!(settings.worker.node_id, "node-a");
    assert!(settings.worker.name.as_str().starts_with("node-a-"));
    let BackendConfig::Gateway(gateway) = &pool.workload.backend else { panic!("another backend") };
    assert_eq!(gateway.url, "https://gateway.example/", "the base stays as it was written");
    let api = ApiSettings::from_environment(&complete_but(&[])).expect("a complete environment");
    let Switch::Enabled(api) = api else { panic!("disabled") };
    assert_eq!((api.api.listen.to_string().as_str(), api.api.body_bytes_max), ("127.0.0.1:8030", 4_194_304));
}

#[test]
fn while_off_nothing_else_is_read() {
    let cases = [
        (vec![], DisabledReason::NotEnabled),
        (vec![("TRIGGER_WARM_START_VERIFY_ENABLED", "yes")], DisabledReason::NotEnabled),
        (vec![("TRIGGER_WARM_START_VERIFY_ENABLED", "1")], DisabledReason::NoWarmStartUrl),
        (
            vec![("TRIGGER_WARM_START_VERIFY_ENABLED", "1"), ("TRIGGER_WARM_START_URL", "")],
            DisabledReason::NoWarmStartUrl,
        ),
    ];
    for (pairs, expected) in cases {
        let faulty = [("TRIGGER_WARM_START_VERIFY_DELAY_MS", "never"), ("WARMPROOF_LEASE_MS", "long")];
        let environment = Environment::from_pairs(pairs.into_iter().chain(faulty));
        let scheduler = SchedulerSettings::from_environment(&environment).expect("no fault");
        assert!(matches!(scheduler, Switch::Disabled { reason } if reason == expected), "{expected:?}");
        assert!(matches!(ApiSettings::from_environment(&environment), Ok(Switch::Disabled { .. })));
        assert!(matches!(WorkerSettings::from_environment(&environment), Ok(Switch::Disabled { .. })));
    }
}

#[test]
fn a_scheduler_needs_only_the_switch_and_the_database() {
    let wanted = ["TRIGGER_WARM_START_VERIFY_ENABLED", "TRIGGER_WARM_START_URL", "WARMPROOF_DATABASE_URL"];
    let environment = Environment::from_pairs(COMPLETE.into_iter().filter(|(name, _)| wanted.contains(name)));
    assert!(matches!(SchedulerSettings::from_environment(&environment), Ok(Switch::Enabled(_))));
}

#[test]
fn all_faults_of_all_concerns_come_at_once() {
    let environment = Environment::from_pairs([
        ("TRIGGER_WARM_START_VERIFY_ENABLED", "true"),
        ("TRIGGER_WARM_START_URL", "firestarter"),
        ("TRIGGER_WARM_START_VERIFY_DELAY_MS", "60001"),
        ("WARMPROOF_SCHEMA", "pg_temp"),
        ("TRIGGER_WORKER_TOKEN", "file:///nowhere"),
        ("WARMPROOF_POOLS", " , "),
        ("COMPUTE_GATEWAY_URL", "https://gateway.example"),
        ("COMPUTE_SNAPSHOTS_ENABLED", "true"),
        ("WORKLOAD_TOKEN_ENFORCEMENT", "maybe"),
        ("WORKLOAD_TOKEN_EXP", "soon"),
    ]);
    let errors = WorkerSettings::from_environment(&environment).expect_err("many faults");
    assert_eq!(
        errors.variables(),
        [
            "TRIGGER_WARM_START_VERIFY_DELAY_MS",
            "WARMPROOF_DATABASE_URL",
            "WARMPROOF_SCHEMA",
            "WARMPROOF_POOLS",
            "TRIGGER_API_URL",
            "TRIGGER_WORKER_TOKEN",
            "MANAGED_WORKER_SECRET",
            "WORKLOAD_TOKEN_ENFORCEMENT",
            "WORKLOAD_TOKEN_SECRET",
            "WORKLOAD_TOKEN_EXP",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "TRIGGER_WARM_START_URL",
        ]
    );
}

#[test]
fn values_that_make_no_sense_together_are_refused() {
    let cases: [(&'static str, &str, &str); 8] = [
        ("WARMPROOF_TICK_MS", "600", "WARMPROOF_TICK_MS"),
        ("WARMPROOF_CLAIM_AHEAD_MS", "5000", "WARMPROOF_CLAIM_AHEAD_MS"),
        ("WARMPROOF_CLAIMS_IN_FLIGHT_MAX", "9", "WARMPROOF_CLAIMS_IN_FLIGHT_MAX"),
        ("WARMPROOF_PROBE_BACKOFF_MAX_MS", "999", "WARMPROOF_PROBE_BACKOFF_MAX_MS"),
        ("WARMPROOF_CREATE_BACKOFF_BASE_MS", "10001", "WARMPROOF_CREATE_BACKOFF_MAX_MS"),
        ("TRIGGER_WORKLOAD_API_DOMAIN", "", "TRIGGER_WORKLOAD_API_DOMAIN"),
        ("COMPUTE_SNAPSHOTS_ENABLED", "1", "TRIGGER_METADATA_URL"),
        ("WARMPROOF_BACKEND", "pigeon", "WARMPROOF_BACKEND"),
    ];
    for (variable, value, at_fault) in cases {
        let errors = worker(&[(variable, Some(value))]).expect_err(variable);
        assert_eq!(errors.variables(), [at_fault], "{variable}");
    }
}

#[test]
fn a_full_worker_waits_for_a_quarter_of_its_room_but_no_probe_waits_for_a_claim() {
    let room = |claims, probes| {
        let changes =
            [("WARMPROOF_CLAIMS_IN_FLIGHT_MAX", Some(claims)), ("WARMPROOF_PROBE_CONCURRENCY", Some(probes))];
        worker(&changes).unwrap().worker.room_while_full()
    };
    assert_eq!([room("2000", "10"), room("50", "40"), room("10", "10"), room("1", "1")], [500, 10, 1, 1]);
}

#[test]
fn a_value_that_does_not_fit_its_place_is_refused_without_being_repeated() {
    let cases: [(&'static str, &str); 9] = [
        ("TRIGGER_WORKER_TOKEN", "hidden\nhidden"),
        ("MANAGED_WORKER_SECRET", "hiddenä"),
        ("COMPUTE_GATEWAY_AUTH_TOKEN", "hidden\r"),
        ("WARMPROOF_DATABASE_URL", "mysql://hidden"),
        ("WARMPROOF_SCHEMA", "Hidden"),
        ("COMPUTE_GATEWAY_URL", "https://hidden:hidden@gateway.example"),
        ("WORKLOAD_TOKEN_EXP", "hidden"),
        ("WARMPROOF_WORKER_NAME", "hidden\0"),
        ("TRIGGER_WORKER_INSTANCE_NAME", "hidden\u{7f}"),
    ];
    for (variable, value) in cases {
        let errors = worker(&[(variable, Some(value))]).expect_err(variable);
        assert_eq!(errors.variables(), [variable]);
        assert!(!errors.to_string().contains("idden"), "{errors}");
    }
    for short in ["hidden", "hidden hidden hidden"] {
        let environment = complete_but(&[("WARMPROOF_API_TOKEN", Some(short))]);
        let errors = ApiSettings::from_environment(&environment).expect_err("a bad token");
        assert_eq!(errors.variables(), ["WARMPROOF_API_TOKEN"]);
    }
}

fn docker_of(changes: &[(&'static str, Option<&str>)]) -> Result<docker::DockerConfig, ConfigErrors> {
    let changes: Vec<_> = changes.iter().copied().chain([("COMPUTE_GATEWAY_URL", None)]).collect();
    let BackendConfig::Docker(docker) = worker(&changes)?.pools.remove(0).workload.backend else {
        panic!("no docker")
    };
    Ok(docker)
}

#[test]
fn where_nothing_else_is_chosen_docker_is() {
    let docker = docker_of(&[]).expect("docker needs nothing");
    assert_eq!(docker.host, DockerHost::Unix("/var/run/docker.sock".to_owned()));
    assert_eq!((docker.api_version, docker.platform, docker.networks), (None, None, vec!["host".to_owned()]));
    assert!(docker.strip_image_digest && docker.enforce_machine_presets && docker.autoremove);
    assert!(matches!(docker.registry, RegistryConfig::Anonymous));
    let errors = worker(&[("WARMPROOF_BACKEND", Some("gateway")), ("COMPUTE_GATEWAY_URL", None)]);
    assert_eq!(errors.expect_err("no address").variables(), ["COMPUTE_GATEWAY_URL"]);
}

#[test]
fn an_engines_address_is_a_socket_or_plain_tcp() {
    for (text, expected) in [
        ("unix:///a/b.sock", DockerHost::Unix("/a/b.sock".to_owned())),
        ("tcp://engine.example", DockerHost::Tcp("engine.example:2375".to_owned())),
        ("http://[::1]:4243/", DockerHost::Tcp("[::1]:4243".to_owned())),
    ] {
        assert_eq!(docker_of(&[("DOCKER_HOST", Some(text))]).expect(text).host, expected);
    }
    let version = docker_of(&[("DOCKER_API_VERSION", Some("1.41"))]).expect("a version").api_version;
    assert_eq!(version, Some(ApiVersion { major: 1, minor: 41 }));
    let wrong = [
        ("DOCKER_HOST", "ssh://engine.example"),
        ("DOCKER_HOST", "unix://relative.sock"),
        ("DOCKER_HOST", "tcp://hidden:hidden@engine.example"),
        ("DOCKER_HOST", "tcp://engine.example/path"),
        ("DOCKER_TLS_VERIFY", "1"),
        ("DOCKER_API_VERSION", "v1"),
        ("DOCKER_RUNNER_NETWORKS", "blue, green"),
        ("DOCKER_RUNNER_NETWORKS", "host,blue"),
        ("DOCKER_RUNNER_NETWORKS", ","),
    ];
    for (variable, value) in wrong {
        let errors = docker_of(&[(variable, Some(value))]).expect_err(value);
        assert_eq!(errors.variables(), [variable], "{value}");
        assert!(!errors.to_string().contains("hidden"), "{errors}");
    }
}

#[test]
fn a_registry_is_given_by_three_variables_or_by_amazons() {
    let of = |set: &[&'static str]| {
        let changes: Vec<_> = set.iter().map(|name| (*name, Some("hidden"))).collect();
        docker_of(&changes).map(|docker| docker.registry)
    };
    let all = ["DOCKER_REGISTRY_USERNAME", "DOCKER_REGISTRY_PASSWORD", "DOCKER_REGISTRY_URL"];
    assert!(matches!(of(&all), Ok(RegistryConfig::Static { .. })));
    assert_eq!(of(&all[..2]).expect_err("one is missing").variables(), ["DOCKER_REGISTRY_URL"]);
    for one in ["AWS_PROFILE", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"] {
        assert!(matches!(of(&[one]), Ok(RegistryConfig::Ecr)), "{one}");
    }
    let keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
    assert!(matches!(of(&keys), Ok(RegistryConfig::Ecr)));
    assert!(matches!(of(&keys[..1]), Ok(RegistryConfig::Anonymous)), "half a key is none");
}

#[test]
fn settings_can_be_printed_without_giving_secrets_away() {
    let settings = worker(&[("RUNNER_ADDITIONAL_ENV_VARS", Some("TOKEN=hidden"))]).expect("settings");
    let api = ApiSettings::from_environment(&complete_but(&[])).expect("settings");
    let registry = [
        ("DOCKER_REGISTRY_USERNAME", Some("puller")),
        ("DOCKER_REGISTRY_PASSWORD", Some("hidden")),
        ("DOCKER_REGISTRY_URL", Some("registry.example")),
    ];
    let docker = docker_of(&registry).expect("settings");
    let printed = format!("{settings:?}{api:?}{docker:?}");
    assert!(printed.contains("puller"), "{printed}");
    assert!(!printed.contains("hidden"), "{printed}");
}

#[test]
fn additional_variables_are_split_as_the_supervisor_splits_them() {
    let text = " A = 1 ,B=2=lost,C=,=4,D,A=5,, E=a b";
    let settings = worker(&[("RUNNER_ADDITIONAL_ENV_VARS", Some(text))]).expect("settings");
    let additional: Vec<(&str, &str)> = settings.pools[0]
        .workload
        .runner
        .additional
        .iter()
        .map(|(name, value)| (name.as_str(), value.expose_secret()))
        .collect();
    assert_eq!(additional, [("B", "2"), ("A", "5"), ("E", "a b")]);
}

#[test]
fn the_instance_name_is_one_per_process() {
    let settings = worker(&[("TRIGGER_WORKER_INSTANCE_NAME", None)]).expect("settings");
    let pool = &settings.pools[0];
    assert_eq!(pool.platform.instance_name, settings.worker.node_id);
    assert_eq!(pool.platform.instance_name, pool.workload.runner.instance_name);
    let long = "n".repeat(300);
    let settings = worker(&[("TRIGGER_WORKER_INSTANCE_NAME", Some(&long))]).expect("a cut worker name");
    assert!(settings.worker.name.as_str().len() <= 200);
}

#[test]
fn a_webhook_needs_no_setting_of_runners() {
    let changes = [
        ("WARMPROOF_BACKEND", Some("webhook")),
        ("WARMPROOF_WEBHOOK_URL", Some("https://supervisor.example/cold")),
        ("WARMPROOF_WEBHOOK_SECRET", Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", None),
        ("WORKLOAD_TOKEN_SECRET", None),
    ];
    let settings = worker(&changes).expect("settings");
    assert!(
        matches!(settings.pools[0].workload.backend, BackendConfig::Webhook(_)),
        "though a gateway is set"
    );
}

#[test]
fn pools_are_trimmed_and_named_once() {
    let settings = worker(&[("WARMPROOF_POOLS", Some("blue, green,,blue"))]).expect("settings");
    let pools: Vec<&str> = settings.pools.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!(pools, ["blue", "green"]);
}

#[test]
fn the_documentation_has_every_variable_with_its_default_and_bounds() {
    let environment = complete_but(&[]);
    let mut reader = Reader::new(&environment);
    let _ = VerifyConfig::read(&mut reader);
    let _ = WorkerSettings::read(VerifyConfig { delay: Duration::ZERO }, &mut reader);
    let _ = (ApiConfig::read(&mut reader), AdminConfig::read(&mut reader));
    let _ = kubernetes::KubernetesConfig::read(&mut reader);
    let _ = (MetricsConfig::read(&mut reader), TracesConfig::read(&mut reader));
    let _ = verify::read_broker(&mut reader);
    let _ = docker::DockerConfig::read(&mut reader);
    let _ = WebhookConfig::read(&mut reader);
    for (variable, asked) in reader.asked() {
        let row = DOCUMENTATION
            .lines()
            .find(|line| line.starts_with(&format!("| `{variable}` |")))
            .unwrap_or_else(|| panic!("docs/configuration.md has no row for {variable}"));
        let cells: Vec<&str> = row.split(" | ").collect();
        let default = match asked.default.as_str() {
            "required" => Some("required".to_owned()),
            "none" => None,
            text => Some(format!("`{text}`")),
        };
        assert!(default.is_none_or(|default| cells[1] == default), "{variable}: {cells:?}, {asked:?}");
        let bounds = asked.bounds.as_deref().unwrap_or_default();
        assert!(cells[2].contains(bounds), "{variable}: {cells:?}, {asked:?}");
    }
    for row in DOCUMENTATION.lines().filter_map(|line| line.strip_prefix("| `")) {
        let variable = row.split('`').next().expect("a name");
        if variable.starts_with(|first: char| first.is_ascii_lowercase()) {
            // A key of the pools' file.
            continue;
        }
        assert!(reader.asked().contains_key(variable), "nothing reads {variable}");
    }
}

#[test]
fn every_secret_may_be_a_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("secret");
    std::fs::write(&path, "of-the-file-0123456\n").expect("a file");
    let (there, nowhere) = (format!("file://{}", path.display()), "file:///nowhere/hidden");
    let registry =
        [("DOCKER_REGISTRY_USERNAME", Some("puller")), ("DOCKER_REGISTRY_URL", Some("registry.example"))];

    for variable in [
        "TRIGGER_WORKER_TOKEN",
        "MANAGED_WORKER_SECRET",
        "WORKLOAD_TOKEN_SECRET",
        "COMPUTE_GATEWAY_AUTH_TOKEN",
    ] {
        worker(&[(variable, Some(&there))]).expect(variable);
        let errors = worker(&[(variable, Some(nowhere))]).expect_err(variable).to_string();
        assert!(errors.contains(&format!("`{variable}` names a file that could not be read")), "{errors}");
    }
    let password = |file: &str| {
        let changes = [registry[0], registry[1], ("DOCKER_REGISTRY_PASSWORD", Some(file))];
        docker_of(&changes).map(|docker| docker.registry)
    };
    match password(&there) {
        Ok(RegistryConfig::Static { password, .. }) => {
            assert_eq!(password.expose_secret(), "of-the-file-0123456");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(password(nowhere).expect_err("no file").variables(), ["DOCKER_REGISTRY_PASSWORD"]);
    let api = complete_but(&[("WARMPROOF_API_TOKEN", Some(nowhere))]);
    let errors = ApiSettings::from_environment(&api).expect_err("no file").to_string();
    assert!(errors.contains("`WARMPROOF_API_TOKEN` names a file that could not be read"), "{errors}");
}
