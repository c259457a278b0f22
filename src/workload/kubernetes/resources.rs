//! What a pod requests, and its limits.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::config::kubernetes::resources::ResourcesConfig;
use crate::domain::dispatch::Machine;

/// Requests a share of the preset; the limit is the whole preset.
pub(super) fn of(config: &ResourcesConfig, machine: &Machine) -> ResourceRequirements {
    let requests = quantities(
        config.cpu.of(&machine.name, machine.cpu),
        config.memory.of(&machine.name, machine.memory),
        &config.storage_request,
    );
    let limits = quantities(machine.cpu, machine.memory + config.memory_overhead_gb, &config.storage_limit);
    ResourceRequirements { requests: Some(requests), limits: Some(limits), claims: None }
}

/// Cores and GB as JavaScript writes numbers, with the decimal `G` of the platform's supervisor.
fn quantities(cpu: f64, memory_gb: f64, storage: &str) -> BTreeMap<String, Quantity> {
    BTreeMap::from([
        ("cpu".to_owned(), Quantity(cpu.to_string())),
        ("memory".to_owned(), Quantity(format!("{memory_gb}G"))),
        ("ephemeral-storage".to_owned(), Quantity(storage.to_owned())),
    ])
}
