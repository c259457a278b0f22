//! How much of a machine preset a pod asks the scheduler for.

use crate::config::reader::Reader;

use super::names;

/// Machine presets, and the variables that set their share of processor and memory.
const PRESETS: [(&str, &str, &str); 7] = [
    ("micro", "KUBERNETES_CPU_REQUEST_RATIO_MICRO", "KUBERNETES_MEMORY_REQUEST_RATIO_MICRO"),
    ("small-1x", "KUBERNETES_CPU_REQUEST_RATIO_SMALL_1X", "KUBERNETES_MEMORY_REQUEST_RATIO_SMALL_1X"),
    ("small-2x", "KUBERNETES_CPU_REQUEST_RATIO_SMALL_2X", "KUBERNETES_MEMORY_REQUEST_RATIO_SMALL_2X"),
    ("medium-1x", "KUBERNETES_CPU_REQUEST_RATIO_MEDIUM_1X", "KUBERNETES_MEMORY_REQUEST_RATIO_MEDIUM_1X"),
    ("medium-2x", "KUBERNETES_CPU_REQUEST_RATIO_MEDIUM_2X", "KUBERNETES_MEMORY_REQUEST_RATIO_MEDIUM_2X"),
    ("large-1x", "KUBERNETES_CPU_REQUEST_RATIO_LARGE_1X", "KUBERNETES_MEMORY_REQUEST_RATIO_LARGE_1X"),
    ("large-2x", "KUBERNETES_CPU_REQUEST_RATIO_LARGE_2X", "KUBERNETES_MEMORY_REQUEST_RATIO_LARGE_2X"),
];

/// What pods request and where they are limited. Limits are the preset; requests a share of it.
#[derive(Debug, Clone)]
pub struct ResourcesConfig {
    /// Processor, in cores. Too low a share and busy pods crowd a node; too high and nodes are idle.
    pub cpu: RequestConfig,
    /// Memory, in GB of 10⁹ bytes. A share below 1 risks pods that are killed when their node runs full.
    pub memory: RequestConfig,
    /// `KUBERNETES_MEMORY_OVERHEAD_GB`: added to the memory limit, for what the runner itself needs; none by
    /// default.
    pub memory_overhead_gb: f64,
    /// `KUBERNETES_EPHEMERAL_STORAGE_SIZE_REQUEST`: disk a pod asks for, `2Gi` by default.
    pub storage_request: String,
    /// `KUBERNETES_EPHEMERAL_STORAGE_SIZE_LIMIT`: disk a pod may fill before it is evicted, `10Gi` by
    /// default.
    pub storage_limit: String,
}

/// The share of one resource.
#[derive(Debug, Clone)]
pub struct RequestConfig {
    /// `KUBERNETES_CPU_REQUEST_MIN_CORES`, `KUBERNETES_MEMORY_REQUEST_MIN_GB`: the least that is asked for,
    /// up to the preset itself; 0 by default.
    pub min: f64,
    /// `KUBERNETES_CPU_REQUEST_RATIO` (0.75), `KUBERNETES_MEMORY_REQUEST_RATIO` (1): the share of every
    /// preset.
    pub ratio: f64,
    /// The same with a preset's suffix, such as `_SMALL_1X`: the share of that preset alone.
    pub preset_ratios: Vec<(&'static str, f64)>,
}

impl RequestConfig {
    /// How much a machine of this preset asks for, in the preset's own unit.
    #[must_use]
    pub fn of(&self, preset: &str, amount: f64) -> f64 {
        let own = self.preset_ratios.iter().find(|(name, _)| *name == preset);
        let ratio = own.map_or(self.ratio, |(_, ratio)| *ratio);
        (amount * ratio).max(self.min).min(amount)
    }
}

impl ResourcesConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let ratios = |reader: &mut Reader<'_>, pick: fn(&(&'static str, _, _)) -> &'static str| {
            let read = |preset: &(&'static str, &'static str, &'static str)| {
                Some((preset.0, reader.optional_number_in(pick(preset), 0.0..=1.0)?))
            };
            PRESETS.iter().filter_map(read).collect()
        };
        Self {
            cpu: RequestConfig {
                min: reader.number("KUBERNETES_CPU_REQUEST_MIN_CORES", 0.0, 0.0..=f64::INFINITY),
                ratio: reader.number("KUBERNETES_CPU_REQUEST_RATIO", 0.75, 0.0..=1.0),
                preset_ratios: ratios(reader, |preset| preset.1),
            },
            memory: RequestConfig {
                min: reader.number("KUBERNETES_MEMORY_REQUEST_MIN_GB", 0.0, 0.0..=f64::INFINITY),
                ratio: reader.number("KUBERNETES_MEMORY_REQUEST_RATIO", 1.0, 0.0..=1.0),
                preset_ratios: ratios(reader, |preset| preset.2),
            },
            memory_overhead_gb: reader.optional_number("KUBERNETES_MEMORY_OVERHEAD_GB").unwrap_or(0.0),
            storage_request: read_quantity(reader, "KUBERNETES_EPHEMERAL_STORAGE_SIZE_REQUEST", "2Gi"),
            storage_limit: read_quantity(reader, "KUBERNETES_EPHEMERAL_STORAGE_SIZE_LIMIT", "10Gi"),
        }
    }
}

fn read_quantity(reader: &mut Reader<'_>, variable: &'static str, default: &str) -> String {
    let text = reader.text_or(variable, default);
    if !names::is_quantity(&text) {
        reader.fault(variable, "is not an amount", format!("set it to an amount such as `{default}`"));
    }
    text
}
