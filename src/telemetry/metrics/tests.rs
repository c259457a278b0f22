use std::collections::BTreeSet;

use super::names::{ALL, Kind};

const DOCUMENTATION: &str = include_str!("../../../docs/metrics.md");
const RULES: &str = include_str!("../../../deploy/prometheus/rules.yml");
const RULES_TEST: &str = include_str!("../../../deploy/prometheus/rules_test.yml");
const OPERATING: &str = include_str!("../../../docs/operating.md");
const DASHBOARD: &str = include_str!("../../../deploy/grafana/warmproof.json");

/// Every name of ours in a text, without what Prometheus adds to a histogram's.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| word.starts_with("warmproof_"));
    ours.map(|word| {
        let histogram = |suffix| {
            let name = word.strip_suffix(suffix)?;
            let known = ALL.iter().find(|metric| metric.name == name)?;
            matches!(known.kind, Kind::Histogram(_)).then_some(name)
        };
        ["_bucket", "_sum", "_count"].into_iter().find_map(histogram).unwrap_or(word)
    })
    .collect()
}

fn known() -> BTreeSet<&'static str> {
    ALL.iter().map(|metric| metric.name).collect()
}

#[test]
fn alerts_and_dashboard_name_only_metrics_that_exist() {
    for (file, text) in [("rules", RULES), ("dashboard", DASHBOARD)] {
        let unknown: Vec<_> = named(text).difference(&known()).copied().collect();
        assert_eq!(unknown, [""; 0], "{file}");
    }
}

#[test]
fn the_dashboard_shows_every_metric() {
    let shown = named(DASHBOARD);
    let missing: Vec<_> = known().difference(&shown).copied().collect();
    assert_eq!(missing, [""; 0]);
}

#[test]
fn the_documentation_has_a_row_for_each_metric_and_no_other() {
    let rows: Vec<&str> = DOCUMENTATION.lines().filter(|line| line.starts_with("| `warmproof_")).collect();
    let expected: Vec<String> = ALL
        .iter()
        .map(|metric| {
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let kind = metric.kind.as_str();
            format!("| `{}` | {kind} | {} | {} |", metric.name, labels.join(", "), metric.help)
        })
        .collect();
    assert_eq!(rows, expected);
}

#[test]
fn each_alert_has_a_runbook_and_a_test() {
    let anchor = |heading: &str| heading.to_lowercase().replace(':', "").replace(' ', "-");
    let anchors: Vec<String> =
        OPERATING.lines().filter_map(|line| line.strip_prefix("### ")).map(anchor).collect();
    let runbooks: Vec<&str> = RULES.lines().filter_map(|line| line.split("operating.md#").nth(1)).collect();
    let alerts: Vec<&str> = RULES.lines().filter_map(|line| line.split("- alert: ").nth(1)).collect();
    assert_eq!(runbooks.len(), alerts.len());
    for runbook in runbooks {
        assert!(anchors.iter().any(|anchor| anchor == runbook), "{runbook} leads nowhere");
    }
    for alert in alerts {
        let fires = format!("alertname: {alert}\n        exp_alerts:\n");
        let rests = format!("alertname: {alert}, exp_alerts: []");
        assert!(RULES_TEST.contains(&fires) && RULES_TEST.contains(&rests), "{alert} is not tested");
    }
}

#[test]
fn names_end_in_their_unit_and_counters_in_total() {
    for metric in ALL {
        assert!(metric.name.starts_with("warmproof_"), "{}", metric.name);
        let total = metric.name.ends_with("_total");
        assert_eq!(total, metric.kind == Kind::Counter, "{}", metric.name);
        if matches!(metric.kind, Kind::Histogram(_)) {
            assert!(metric.name.ends_with("_seconds") || metric.name.ends_with("_rows"), "{}", metric.name);
        }
    }
    assert_eq!(known().len(), ALL.len(), "each is listed once");
}
