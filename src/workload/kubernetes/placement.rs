//! Which nodes a pod may run on, and which it prefers.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinity,
    PodAffinityTerm, PreferredSchedulingTerm, Toleration, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use crate::config::kubernetes::KubernetesConfig;
use crate::config::kubernetes::placement::{self, PlacementConfig, PoolAffinity};
use crate::domain::dispatch::ColdStartRequest;

/// Labels that a node must have: node type, placement tags, the organization's override. Later ones win.
pub(super) fn node_selector(
    config: &KubernetesConfig,
    request: &ColdStartRequest,
) -> BTreeMap<String, String> {
    let nodetype = config.nodetype.iter().map(|label| ("nodetype".to_owned(), label.clone()));
    let prefix = config.placement.tags_prefix.iter();
    let tags = prefix.flat_map(|prefix| {
        request.placement_tags.iter().map(move |tag| {
            let value = tag.values.first().cloned().unwrap_or_default();
            (format!("{prefix}/{}", tag.key), value)
        })
    });
    let organization = config.placement.organizations.get(&request.organization.id);
    let own = organization.iter().flat_map(|placement| placement.node_selector.clone());
    nodetype.chain(tags).chain(own).collect()
}

/// Taints the pod tolerates: those of all pods, of scheduled runs and of its organization.
pub(super) fn tolerations(config: &PlacementConfig, request: &ColdStartRequest) -> Vec<Toleration> {
    let scheduled = config.scheduled_tolerations.iter().filter(|_| is_scheduled(request));
    let organization = config.organizations.get(&request.organization.id);
    let own = organization.into_iter().flat_map(|placement| &placement.tolerations);
    config.tolerations.iter().chain(scheduled).chain(own).map(toleration).collect()
}

/// Which nodes it prefers.
pub(super) fn affinity(config: &PlacementConfig, request: &ColdStartRequest) -> Option<Affinity> {
    let node_affinity = node_affinity(config, request);
    let pod_affinity = pod_affinity(config, request);
    let any = node_affinity.is_some() || pod_affinity.is_some();
    any.then_some(Affinity { node_affinity, pod_affinity, pod_anti_affinity: None })
}

fn node_affinity(config: &PlacementConfig, request: &ColdStartRequest) -> Option<NodeAffinity> {
    let is_large = request.run.machine.name.starts_with("large-");
    let mut preferred = Vec::new();
    let mut required = Vec::new();
    match &config.large_machines {
        // A preference, so that a large run still finds a node when its node pool is full.
        Some(pool) if is_large => preferred.push(prefers(pool, "In", pool.weight)),
        // A requirement, so that small runs do not fill that node pool.
        Some(pool) => required.push(NodeSelectorTerm {
            match_expressions: Some(vec![label(pool, "NotIn")]),
            match_fields: None,
        }),
        None => {}
    }
    if let Some(pool) = &config.scheduled_runs {
        preferred.push(if is_scheduled(request) {
            prefers(pool, "In", pool.weight)
        } else {
            prefers(pool, "NotIn", config.unscheduled_weight)
        });
    }
    if preferred.is_empty() && required.is_empty() {
        return None;
    }
    let required = (!required.is_empty()).then_some(NodeSelector { node_selector_terms: required });
    Some(NodeAffinity {
        preferred_during_scheduling_ignored_during_execution: (!preferred.is_empty()).then_some(preferred),
        required_during_scheduling_ignored_during_execution: required,
    })
}

fn pod_affinity(config: &PlacementConfig, request: &ColdStartRequest) -> Option<PodAffinity> {
    let project = config.project.as_ref()?;
    let same_project = LabelSelectorRequirement {
        key: "project".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![request.project.id.clone()]),
    };
    let selector = LabelSelector { match_expressions: Some(vec![same_project]), match_labels: None };
    let term = PodAffinityTerm {
        label_selector: Some(selector),
        topology_key: project.topology_key.clone(),
        ..PodAffinityTerm::default()
    };
    let weighted = WeightedPodAffinityTerm { weight: project.weight, pod_affinity_term: term };
    Some(PodAffinity {
        preferred_during_scheduling_ignored_during_execution: Some(vec![weighted]),
        ..PodAffinity::default()
    })
}

fn prefers(pool: &PoolAffinity, operator: &str, weight: i32) -> PreferredSchedulingTerm {
    let preference =
        NodeSelectorTerm { match_expressions: Some(vec![label(pool, operator)]), match_fields: None };
    PreferredSchedulingTerm { weight, preference }
}

fn label(pool: &PoolAffinity, operator: &str) -> NodeSelectorRequirement {
    NodeSelectorRequirement {
        key: pool.key.clone(),
        operator: operator.to_owned(),
        values: Some(vec![pool.value.clone()]),
    }
}

fn toleration(configured: &placement::Toleration) -> Toleration {
    Toleration {
        key: Some(configured.key.clone()),
        operator: Some(if configured.value.is_some() { "Equal" } else { "Exists" }.to_owned()),
        value: configured.value.clone(),
        effect: Some(configured.effect.clone()),
        toleration_seconds: None,
    }
}

/// Whether the run descends from a schedule.
pub(super) fn is_scheduled(request: &ColdStartRequest) -> bool {
    let source =
        request.run.annotations.as_ref().and_then(|annotations| annotations.get("rootTriggerSource"));
    source.and_then(serde_json::Value::as_str) == Some("schedule")
}
