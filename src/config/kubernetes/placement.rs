//! On which nodes pods run: affinities, tolerations, placement tags, overrides by organization.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::config::reader::Reader;

use super::names;

/// The platform's pools of nodes are labelled by the cluster API.
const POOL_LABEL_KEY: &str = "node.cluster.x-k8s.io/machinepool";

/// Where pods go. By default no rule is set, and pods go where they fit.
#[derive(Debug, Clone)]
pub struct PlacementConfig {
    /// `KUBERNETES_LARGE_MACHINE_AFFINITY_*`: large presets prefer these nodes, all others are kept off them.
    pub large_machines: Option<PoolAffinity>,
    /// `KUBERNETES_SCHEDULED_RUN_AFFINITY_*`: runs of schedules prefer these nodes.
    pub scheduled_runs: Option<PoolAffinity>,
    /// `KUBERNETES_SCHEDULED_RUN_ANTI_AFFINITY_WEIGHT`: how much all other runs avoid the nodes of
    /// [`Self::scheduled_runs`], 1 to 100; 20 by default.
    pub unscheduled_weight: i32,
    /// `KUBERNETES_PROJECT_AFFINITY_*`: runs of one project prefer nodes where the project already runs.
    pub project: Option<ProjectAffinity>,
    /// `KUBERNETES_RUNNER_TOLERATIONS`: taints that every pod tolerates.
    pub tolerations: Vec<Toleration>,
    /// `KUBERNETES_SCHEDULED_RUN_TOLERATIONS`: taints that runs of schedules tolerate besides.
    pub scheduled_tolerations: Vec<Toleration>,
    /// `KUBERNETES_ORG_PLACEMENT_OVERRIDES`: what differs for some organizations, by internal id.
    pub organizations: BTreeMap<String, OrganizationPlacement>,
    /// `PLACEMENT_TAGS_PREFIX`, if `PLACEMENT_TAGS_ENABLED`: a run's placement tags select nodes by labels
    /// with this prefix; `node.cluster.x-k8s.io` by default.
    pub tags_prefix: Option<String>,
}

/// A preference for the nodes with one label.
#[derive(Debug, Clone)]
pub struct PoolAffinity {
    /// `…_POOL_LABEL_KEY`: the label.
    pub key: String,
    /// `…_POOL_LABEL_VALUE`: its value.
    pub value: String,
    /// `…_WEIGHT`: how much it counts, 1 to 100.
    pub weight: i32,
}

/// A preference for nodes that run the same project.
#[derive(Debug, Clone)]
pub struct ProjectAffinity {
    /// `KUBERNETES_PROJECT_AFFINITY_WEIGHT`: how much it counts, 1 to 100; 50 by default.
    pub weight: i32,
    /// `KUBERNETES_PROJECT_AFFINITY_TOPOLOGY_KEY`: what is near, `kubernetes.io/hostname` (the node) by
    /// default.
    pub topology_key: String,
}

/// A taint that a pod tolerates.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Toleration {
    /// The taint's key.
    pub key: String,
    /// Its value; without one, every value.
    pub value: Option<String>,
    /// `NoSchedule`, `NoExecute` or `PreferNoSchedule`.
    pub effect: String,
}

/// What differs for one organization's pods.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OrganizationPlacement {
    /// Labels a node must have; they win over the pod's own of the same key.
    pub node_selector: BTreeMap<String, String>,
    /// Taints tolerated besides, each as `key=value:Effect` or `key:Effect`.
    #[serde(deserialize_with = "tolerations")]
    pub tolerations: Vec<Toleration>,
}

impl PlacementConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let tags_enabled = reader.flag("PLACEMENT_TAGS_ENABLED", false);
        let tags_prefix = reader.text_or("PLACEMENT_TAGS_PREFIX", "node.cluster.x-k8s.io");
        if !names::is_object_name(&tags_prefix) {
            let hint = "set it to a domain such as `node.cluster.x-k8s.io`";
            reader.fault("PLACEMENT_TAGS_PREFIX", "is not a label's prefix", hint);
        }
        Self {
            large_machines: PoolAffinity::read_large(reader),
            scheduled_runs: PoolAffinity::read_scheduled(reader),
            unscheduled_weight: read_weight(reader, "KUBERNETES_SCHEDULED_RUN_ANTI_AFFINITY_WEIGHT", 20),
            project: ProjectAffinity::read(reader),
            tolerations: read_tolerations(reader, "KUBERNETES_RUNNER_TOLERATIONS"),
            scheduled_tolerations: read_tolerations(reader, "KUBERNETES_SCHEDULED_RUN_TOLERATIONS"),
            organizations: read_organizations(reader),
            tags_prefix: tags_enabled.then_some(tags_prefix),
        }
    }
}

// Settings that are switched off are read and checked all the same, as in the platform's supervisor.
impl PoolAffinity {
    fn read_large(reader: &mut Reader<'_>) -> Option<Self> {
        let enabled = reader.flag("KUBERNETES_LARGE_MACHINE_AFFINITY_ENABLED", false);
        let affinity = Self {
            key: read_label_key(reader, "KUBERNETES_LARGE_MACHINE_AFFINITY_POOL_LABEL_KEY", POOL_LABEL_KEY),
            value: read_label_value(
                reader,
                "KUBERNETES_LARGE_MACHINE_AFFINITY_POOL_LABEL_VALUE",
                "large-machines",
            ),
            weight: read_weight(reader, "KUBERNETES_LARGE_MACHINE_AFFINITY_WEIGHT", 100),
        };
        enabled.then_some(affinity)
    }

    fn read_scheduled(reader: &mut Reader<'_>) -> Option<Self> {
        let enabled = reader.flag("KUBERNETES_SCHEDULED_RUN_AFFINITY_ENABLED", false);
        let affinity = Self {
            key: read_label_key(reader, "KUBERNETES_SCHEDULED_RUN_AFFINITY_POOL_LABEL_KEY", POOL_LABEL_KEY),
            value: read_label_value(
                reader,
                "KUBERNETES_SCHEDULED_RUN_AFFINITY_POOL_LABEL_VALUE",
                "scheduled-runs",
            ),
            weight: read_weight(reader, "KUBERNETES_SCHEDULED_RUN_AFFINITY_WEIGHT", 80),
        };
        enabled.then_some(affinity)
    }
}

impl ProjectAffinity {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let enabled = reader.flag("KUBERNETES_PROJECT_AFFINITY_ENABLED", false);
        let weight = read_weight(reader, "KUBERNETES_PROJECT_AFFINITY_WEIGHT", 50);
        let variable = "KUBERNETES_PROJECT_AFFINITY_TOPOLOGY_KEY";
        let topology_key = read_label_key(reader, variable, "kubernetes.io/hostname");
        enabled.then_some(Self { weight, topology_key })
    }
}

impl TryFrom<String> for Toleration {
    type Error = String;

    /// Reads `key=value:Effect` or `key:Effect`.
    fn try_from(text: String) -> Result<Self, String> {
        let problem = |problem: &str| format!("holds `{text}`, {problem}");
        let (taint, effect) = text.rsplit_once(':').ok_or_else(|| problem("which names no effect"))?;
        if !["NoSchedule", "NoExecute", "PreferNoSchedule"].contains(&effect) {
            return Err(problem("whose effect is none of `NoSchedule`, `NoExecute` and `PreferNoSchedule`"));
        }
        let (key, value) = match taint.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (taint, None),
        };
        if !names::is_label_key(key) {
            return Err(problem("whose key is not a label's key"));
        }
        if !value.is_none_or(names::is_label_value) {
            return Err(problem("whose value is not a label's value"));
        }
        Ok(Self { key: key.to_owned(), value: value.map(str::to_owned), effect: effect.to_owned() })
    }
}

/// One text with commas, as in the other variables, or a list.
fn tolerations<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Toleration>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Text(String),
        List(Vec<String>),
    }
    let parsed: Result<Vec<_>, _> = match Written::deserialize(deserializer)? {
        Written::Text(text) => entries(&text).map(|entry| Toleration::try_from(entry.to_owned())).collect(),
        Written::List(list) => list.into_iter().map(Toleration::try_from).collect(),
    };
    parsed.map_err(serde::de::Error::custom)
}

/// The entries between commas, spaces around them and empty ones left out.
pub(super) fn entries(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|entry| !entry.is_empty())
}

fn read_tolerations(reader: &mut Reader<'_>, variable: &'static str) -> Vec<Toleration> {
    let text = reader.optional_text(variable).unwrap_or_default();
    let parsed: Result<Vec<_>, _> =
        entries(&text).map(|entry| Toleration::try_from(entry.to_owned())).collect();
    parsed.unwrap_or_else(|problem| {
        let hint = "set it to `key=value:Effect` or `key:Effect`, separated by commas";
        reader.fault(variable, problem, hint);
        Vec::new()
    })
}

fn read_organizations(reader: &mut Reader<'_>) -> BTreeMap<String, OrganizationPlacement> {
    let variable = "KUBERNETES_ORG_PLACEMENT_OVERRIDES";
    let Some(text) = reader.optional_text(variable) else { return BTreeMap::new() };
    let parsed = serde_json::from_str::<BTreeMap<String, OrganizationPlacement>>(&text);
    let problem = match &parsed {
        Err(error) => Some(format!("is not valid: {error}")),
        Ok(overrides) => overrides.iter().find_map(|(organization, placement)| {
            let is_wrong = |(key, value): &(&String, &String)| {
                !names::is_label_key(key) || !names::is_label_value(value)
            };
            let (key, _) = placement.node_selector.iter().find(is_wrong)?;
            Some(format!("selects nodes for `{organization}` by `{key}`, which is not a label"))
        }),
    };
    if let Some(problem) = problem {
        let hint = r#"set it to `{"<organization id>": {"nodeSelector": {…}, "tolerations": "…"}}`"#;
        reader.fault(variable, problem, hint);
    }
    parsed.unwrap_or_default()
}

fn read_weight(reader: &mut Reader<'_>, variable: &'static str, default: u32) -> i32 {
    i32::try_from(reader.count(variable, default, 1..=100)).unwrap_or(1)
}

fn read_label_key(reader: &mut Reader<'_>, variable: &'static str, default: &str) -> String {
    let text = reader.text_or(variable, default).trim().to_owned();
    if !names::is_label_key(&text) {
        reader.fault(variable, "is not a label's key", format!("set it to a key such as `{default}`"));
    }
    text
}

fn read_label_value(reader: &mut Reader<'_>, variable: &'static str, default: &str) -> String {
    let text = reader.text_or(variable, default).trim().to_owned();
    if text.is_empty() || !names::is_label_value(&text) {
        reader.fault(variable, "is not a label's value", format!("set it to a value such as `{default}`"));
    }
    text
}
