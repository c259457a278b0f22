//! Random messages as the platform sends them, to train from.

#[cfg(test)]
mod tests;

use super::json::{Object, array};
use super::random::{ALPHANUMERIC, HEXADECIMAL, LETTERS, Random};

/// A share, then name, vCPU and GB as JSON has them.
const PRESETS: [(usize, (&str, &str, &str)); 7] = [
    (2, ("micro", "0.25", "0.25")),
    (8, ("small-1x", "0.5", "0.5")),
    (3, ("small-2x", "1", "1")),
    (3, ("medium-1x", "1", "2")),
    (2, ("medium-2x", "2", "4")),
    (1, ("large-1x", "4", "8")),
    (1, ("large-2x", "8", "16")),
];
const CENTS_PER_MS: [&str; 7] =
    ["0.00001691", "0.00003382", "0.0000675", "0.000085", "0.00017", "0.00034", "0.00068"];
const REGISTRIES: [&str; 4] = [
    "registry.internal.example/deployments",
    "registry.example/tasks",
    "123456789012.dkr.ecr.us-east-1.amazonaws.com/tasks",
    "localhost:5000/tasks",
];

/// Messages without end; the same seed makes the same ones.
pub(super) fn samples(seed: u64) -> impl Iterator<Item = String> {
    let mut random = Random::new(seed);
    std::iter::repeat_with(move || message(&mut random).to_string())
}

fn message(random: &mut Random) -> Object {
    let waitpoints = random.weighted(&[(5, 0), (2, 1), (2, 2), (1, 3), (1, 5)]);
    Object::default()
        .text("version", "1")
        .text("dequeuedAt", &random.moment())
        .maybe_raw("workerQueueLength", random.chance(0.7).then(|| random.number(0..=500)))
        .raw("snapshot", snapshot(random))
        .text("image", &image(random))
        .raw("completedWaitpoints", array((0..waitpoints).map(|index| waitpoint(random, index))))
        .raw("backgroundWorker", background_worker(random))
        .raw("deployment", deployment(random))
        .raw("run", run(random))
        .raw("environment", environment(random))
        .raw("organization", organization(random))
        .raw("project", Object::default().text("id", &random.identifier()))
        .maybe_raw("placementTags", random.chance(0.8).then(|| placement_tags(random)))
}

fn snapshot(random: &mut Random) -> Object {
    random
        .named("snapshot")
        .text("executionStatus", "PENDING_EXECUTING")
        .text("description", "Run was dequeued for execution")
        .text("createdAt", &random.moment())
}

fn image(random: &mut Random) -> String {
    let registry = random.one_of(&REGISTRIES);
    let project = random.text(20, LETTERS);
    let release = random.release();
    let stage = random.one_of(&["prod", "stg", "prev"]);
    let digest =
        if random.chance(0.8) { format!("@sha256:{}", random.text(64, HEXADECIMAL)) } else { String::new() };
    format!("{registry}/proj_{project}:{release}.{stage}{digest}")
}

fn waitpoint(random: &mut Random, index: u32) -> Object {
    let kind = random.weighted(&[(6, "RUN"), (2, "DATETIME"), (1, "MANUAL"), (1, "BATCH")]);
    let id = random.identifier();
    let has_output = ["RUN", "MANUAL"].contains(&kind) && random.chance(0.8);
    Object::default()
        .text("id", &id)
        .maybe_raw("index", random.chance(0.7).then_some(index))
        .text("friendlyId", &format!("waitpoint_{id}"))
        .text("type", kind)
        .text("completedAt", &random.moment())
        .maybe_text("idempotencyKey", random.chance(0.5).then(|| idempotency_key(random)))
        .maybe_raw("completedByTaskRun", (kind == "RUN").then(|| completing_run(random)))
        .maybe_text("completedAfter", (kind == "DATETIME").then(|| random.moment()))
        .maybe_raw("completedByBatch", (kind == "BATCH").then(|| random.named("batch")))
        .maybe_text("output", has_output.then(|| output(random)))
        .maybe_text("outputType", has_output.then(|| "application/json".to_owned()))
        .raw("outputIsError", random.chance(0.05))
}

fn idempotency_key(random: &mut Random) -> String {
    if random.chance(0.5) { random.identifier() } else { format!("child-{}", random.number(0..=99)) }
}

fn completing_run(random: &mut Random) -> Object {
    random.named("run").maybe_raw("batch", random.chance(0.3).then(|| random.named("batch")))
}

/// What a task returned, as JSON.
fn output(random: &mut Random) -> String {
    let kind = random.weighted(&[(4, "ok"), (3, "count"), (3, "any")]);
    let output = match kind {
        "ok" => Object::default().raw("ok", true),
        "count" => {
            Object::default().text("id", &random.identifier()).raw("count", random.number(0..=1_000_000))
        }
        _ => (0..random.number(1..=5)).fold(Object::default(), |object, _| {
            let (key, value) = (random.number(3..=9), random.number(5..=60));
            object.text(&random.text(key, ALPHANUMERIC), &random.text(value, ALPHANUMERIC))
        }),
    };
    output.to_string()
}

fn background_worker(random: &mut Random) -> Object {
    let runtimes = ["node", "node-22", "node-24", "bun"];
    random
        .named("worker")
        .text("version", &random.release())
        .maybe_text("runtime", random.chance(0.9).then(|| random.one_of(&runtimes).to_owned()))
}

fn deployment(random: &mut Random) -> Object {
    let platforms = ["linux/amd64", "linux/amd64", "linux/arm64"];
    Object::default()
        .text("id", &random.identifier())
        .text("friendlyId", &format!("deployment_{}", random.text(16, ALPHANUMERIC)))
        .maybe_text("imagePlatform", random.chance(0.8).then(|| random.one_of(&platforms).to_owned()))
}

fn run(random: &mut Random) -> Object {
    let id = if random.chance(0.3) { random.text(26, ALPHANUMERIC) } else { random.identifier() };
    let queues = ["us-east-1", "eu-central-1", "eu-central-1:scheduled"];
    Object::default()
        .text("id", &id)
        .text("friendlyId", &format!("run_{id}"))
        .raw("isTest", random.chance(0.05))
        .raw("isReplay", random.chance(0.05))
        .raw("machine", machine(random))
        .raw("attemptNumber", random.weighted(&[(8, 1), (1, 2), (1, 3)]))
        .text("masterQueue", random.one_of(&queues))
        .raw("traceContext", trace_context(random))
        .maybe_raw("annotations", random.chance(0.9).then(|| annotations(random)))
}

fn machine(random: &mut Random) -> Object {
    let (name, cpu, memory) = random.weighted(&PRESETS);
    Object::default()
        .text("name", name)
        .raw("cpu", cpu)
        .raw("memory", memory)
        .raw("centsPerMs", random.one_of(&CENTS_PER_MS))
}

fn trace_context(random: &mut Random) -> Object {
    let (trace, span) = (random.text(32, HEXADECIMAL), random.text(16, HEXADECIMAL));
    Object::default()
        .text("traceparent", &format!("00-{trace}-{span}-0{}", random.number(0..=1)))
        .maybe_text("tracestate", random.chance(0.1).then(|| "vendor=opaque".to_owned()))
}

fn annotations(random: &mut Random) -> Object {
    let source = random.one_of(&["sdk", "sdk", "api", "dashboard", "cli", "mcp", "schedule"]);
    let kinds = ["STANDARD", "STANDARD", "SCHEDULED", "AGENT"];
    Object::default()
        .text("triggerSource", source)
        .text("triggerAction", random.one_of(&["trigger", "trigger", "replay", "test"]))
        .text("rootTriggerSource", source)
        .maybe_text(
            "rootScheduleId",
            random.chance(0.1).then(|| format!("sched_{}", random.text(10, ALPHANUMERIC))),
        )
        .maybe_text("taskKind", random.chance(0.9).then(|| random.one_of(&kinds).to_owned()))
        .maybe_text("externalDeploymentId", random.chance(0.1).then(|| format!("ext-{}", random.release())))
}

fn environment(random: &mut Random) -> Object {
    let kinds = [(6, "PRODUCTION"), (2, "STAGING"), (1, "DEVELOPMENT"), (1, "PREVIEW")];
    Object::default().text("id", &random.identifier()).text("type", random.weighted(&kinds))
}

fn organization(random: &mut Random) -> Object {
    Object::default()
        .text("id", &random.identifier())
        .maybe_raw("hasPrivateLink", random.chance(0.8).then(|| random.chance(0.1)))
}

fn placement_tags(random: &mut Random) -> String {
    let paid = random.one_of(&["\"true\"", "\"false\""]);
    array([Object::default().text("key", "paid").raw("values", array([paid]))])
}
