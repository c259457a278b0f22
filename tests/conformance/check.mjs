// Drives a simulator with the clients that the platform publishes: the supervisor's HTTP client
// and the runner's warm-start client. Their schemas judge every answer, and their own retry
// rules are measured, so that an error that docs/platform.md and the simulator share is found.
//
// Usage: node check.mjs <warmproof-lab binary>

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

import { SupervisorHttpClient } from "@trigger.dev/core/v3/runEngineWorker";
import { WarmStartClient } from "@trigger.dev/core/v3/workers";

const TOKEN = "tr_wgt_conformance0conformance0conformance00";
const SECRET = "conformance-secret";
// 500, 1000, 2000 and 4000 ms between five attempts.
const RETRIES_MS = 7500;

let passed = 0;
let failed = 0;

async function check(name, body) {
  try {
    await body();
    passed += 1;
    console.log(`ok      ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}\n${String(error.stack ?? error).replace(/^/gm, "        ")}`);
  }
}

// The clients' own requests and the answers to them, before any schema has touched them.
const exchanges = [];
const send = globalThis.fetch;
globalThis.fetch = async (input, init) => {
  const { url, method, headers } = new Request(input, init);
  const exchange = { url, method, headers: Object.fromEntries(headers), status: 0, text: "" };
  exchanges.push(exchange);
  const response = await send(input, init);
  exchange.status = response.status;
  exchange.text = await response.clone().text();
  return response;
};

// A success whose schema neither refused nor dropped anything.
function whole(result) {
  assert.equal(result.success, true, result.error);
  const { text } = exchanges.at(-1);
  assert.deepEqual(JSON.parse(JSON.stringify(result.data)), JSON.parse(text));
  return result.data;
}

function refused(result, statusCode, error) {
  assert.deepEqual({ ...result }, { success: false, statusCode, error });
}

async function took(work) {
  const begin = performance.now();
  const result = await work();
  return [result, performance.now() - begin];
}

async function start(binary) {
  const args = ["simulate", "--worker-token", TOKEN, "--managed-secret", SECRET];
  const simulator = spawn(binary, [...args, "--no-runners", "--dequeue-block-ms", "50"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  simulator.once("error", (error) => {
    console.error(`could not start \`${binary}\`: ${error.message}`);
    process.exit(1);
  });
  for await (const line of createInterface({ input: simulator.stdout })) {
    const ready = /^simulator ready on (\S+)$/.exec(line);
    if (ready) return [simulator, ready[1]];
  }
  throw new Error("the simulator ended before it was ready");
}

const [simulator, base] = await start(process.argv[2]);
const options = { apiUrl: base, workerToken: TOKEN, instanceName: "conformance", managedWorkerSecret: SECRET };
const client = new SupervisorHttpClient(options);

async function control(path, method = "GET", body) {
  const headers = body && { "content-type": "application/json" };
  const response = await send(`${base}/simulator${path}`, { method, headers, body: body && JSON.stringify(body) });
  return response.status === 204 ? null : response.json();
}

async function dequeued() {
  await control("/runs", "POST", { count: 1 });
  const [message] = whole(await client.dequeue({ maxRunCount: 1 }));
  return [message, message.run.friendlyId, message.snapshot.friendlyId];
}

const completed = (id) => ({ completion: { ok: true, id, outputType: "application/json", output: "{}" } });

try {
  await check("connect tells the worker group", async () => {
    const data = whole(await client.connect({ metadata: { workerVersion: "4.5.12" } }));
    assert.equal(data.workerGroup.type, "MANAGED");
  });

  await check("a worker heartbeat is acknowledged", async () => {
    const half = { used: 0.5, available: 0.5 };
    whole(await client.heartbeatWorker({ cpu: half, memory: half, tasks: [] }));
  });

  await check("wrong credentials are refused at once", async () => {
    for (const wrong of [{ workerToken: `${TOKEN}x` }, { workerToken: "x" }, { managedWorkerSecret: "x" }]) {
      const [result, ms] = await took(() => new SupervisorHttpClient({ ...options, ...wrong }).dequeue({}));
      refused(result, 401, "Invalid or missing worker token");
      assert.ok(ms < 500, `${ms} ms`);
    }
  });

  await check("a dequeue of an empty queue blocks and gives nothing", async () => {
    const [result, ms] = await took(() => client.dequeue({ maxRunCount: 1, queueClass: "scheduled" }));
    assert.deepEqual(whole(result), []);
    assert.ok(ms >= 49, `${ms} ms`);
  });

  await check("a dequeue gives one whole message", async () => {
    await control("/runs", "POST", { count: 2 });
    const messages = whole(await client.dequeue({ maxRunCount: 10, maxResources: { cpu: 4, memory: 8 } }));
    assert.equal(messages.length, 1);
    const [message] = messages;
    assert.equal(message.snapshot.executionStatus, "PENDING_EXECUTING");
    assert.equal(message.snapshot.description, "Run was dequeued for execution");
    assert.ok(message.dequeuedAt instanceof Date && message.image && message.deployment.friendlyId);
    assert.equal(whole(await client.dequeue({})).length, 1, "the other one");
  });

  await check("the latest snapshot of a dispatched run is the dispatched one, pending", async () => {
    const [, run, snapshot] = await dequeued();
    const { execution } = whole(await client.getLatestSnapshot(run));
    assert.equal(execution.snapshot.friendlyId, snapshot);
    assert.equal(execution.run.status, "PENDING");
    assert.equal(execution.run.attemptNumber, undefined);
    const probe = exchanges.at(-1).headers;
    assert.equal(probe["x-trigger-worker-instance-name"], "conformance");
    assert.equal(probe["x-trigger-worker-managed-secret"], SECRET);
  });

  await check("a run heartbeat is acknowledged, also a stale one", async () => {
    const [, run, snapshot] = await dequeued();
    whole(await client.heartbeatRun(run, snapshot, { cpu: 0.1, memory: 0.1 }));
    whole(await client.heartbeatRun(run, "snapshot_stale", {}));
  });

  await check("an attempt is started from a text/plain body and completed", async () => {
    const [, run, snapshot] = await dequeued();
    const started = whole(await client.startRunAttempt(run, snapshot, { isWarmStart: true }));
    assert.match(exchanges.at(-1).headers["content-type"], /^text\/plain/);
    assert.equal(started.snapshot.executionStatus, "EXECUTING");
    assert.equal(started.snapshot.description, "Attempt created, starting execution (warm start)");
    assert.equal(started.run.attemptNumber, 1);
    assert.equal(started.execution.attempt.number, 1);
    assert.equal(started.envVars.TRIGGER_RUN_ID, run.replace("run_", ""));

    const latest = whole(await client.getLatestSnapshot(run)).execution;
    assert.deepEqual(latest.snapshot, started.snapshot);
    const { snapshots } = whole(await client.getSnapshotsSince(run, snapshot));
    assert.deepEqual(snapshots.map((one) => one.snapshot.friendlyId), [started.snapshot.friendlyId]);

    const { result } = whole(await client.completeRunAttempt(run, started.snapshot.friendlyId, completed(run)));
    assert.match(exchanges.at(-1).headers["content-type"], /^text\/plain/);
    assert.equal(result.attemptStatus, "RUN_FINISHED");
    assert.equal(result.run.status, "COMPLETED_SUCCESSFULLY");
    const again = await client.completeRunAttempt(run, result.snapshot.friendlyId, completed(run));
    refused(again, 400, "Run is already finished");
    const late = await client.startRunAttempt(run, result.snapshot.friendlyId, {});
    refused(late, 400, "Task run is already finished");
  });

  await check("a failed attempt with a retry is queued and dequeued again", async () => {
    const [, run, snapshot] = await dequeued();
    const started = whole(await client.startRunAttempt(run, snapshot, {}));
    const error = { type: "STRING_ERROR", raw: "failed on purpose" };
    const completion = { ok: false, id: run, error, retry: { timestamp: Date.now(), delay: 0 } };
    const { result } = whole(await client.completeRunAttempt(run, started.snapshot.friendlyId, { completion }));
    assert.equal(result.attemptStatus, "RETRY_QUEUED");
    let messages = [];
    while (messages.length === 0) messages = whole(await client.dequeue({ maxRunCount: 1 }));
    assert.equal(messages[0].run.friendlyId, run);
    assert.equal(messages[0].run.attemptNumber, 2);
  });

  await check("a completion on a stale snapshot or without its fields is a 400", async () => {
    const [, run, snapshot] = await dequeued();
    const started = whole(await client.startRunAttempt(run, snapshot, {}));
    const stale = await client.completeRunAttempt(run, snapshot, completed(run));
    refused(stale, 400, "Snapshot ID doesn't match the latest snapshot");
    for (const completion of [{ ok: true, id: run }, { ok: false, id: run }]) {
      const result = await client.completeRunAttempt(run, started.snapshot.friendlyId, { completion });
      refused(result, 400, "Body Error");
    }
  });

  await check("a cancelled run reads PENDING_CANCEL and cannot start", async () => {
    const [, run] = await dequeued();
    assert.deepEqual(await control(`/runs/${run}/cancel`, "POST"), { cancelled: true });
    const { execution } = whole(await client.getLatestSnapshot(run));
    assert.equal(execution.snapshot.executionStatus, "PENDING_CANCEL");
    assert.equal(execution.run.status, "CANCELED");
    const result = await client.startRunAttempt(run, execution.snapshot.friendlyId, {});
    refused(result, 400, "Task run is already finished");
  });

  await check("a 200 of another shape or without JSON is not asked for again", async () => {
    const [, run] = await dequeued();
    for (const kind of ["wrong_schema", "invalid_json"]) {
      await control("/faults/probe", "POST", { fault: { kind }, run, times: 1 });
      const result = await client.getLatestSnapshot(run);
      assert.equal(result.success, false);
      assert.equal(result.statusCode, 200);
      assert.match(result.error, /^200 Validation error:/);
    }
    const { probes } = await control(`/probes?run=${run}`);
    assert.equal(probes.length, 2);
  });

  await check("a reset connection is asked for again with the same key", async () => {
    const [, run, snapshot] = await dequeued();
    await control("/faults/probe", "POST", { fault: { kind: "reset" }, run, times: 1 });
    const { execution } = whole(await client.getLatestSnapshot(run));
    assert.equal(execution.snapshot.friendlyId, snapshot);
    const { probes } = await control(`/probes?run=${run}`);
    assert.deepEqual(probes.map((probe) => probe.state), ["abandoned", { answered: 200 }]);
    assert.equal(probes[0].idempotency_key, probes[1].idempotency_key);
  });

  await check("a 429 is waited for as long as it says", async () => {
    const [, run] = await dequeued();
    const fault = { kind: "rate_limited", reset_after_ms: 1500 };
    await control("/faults/probe", "POST", { fault, run, times: 1 });
    const [result, ms] = await took(() => client.getLatestSnapshot(run));
    whole(result);
    assert.ok(ms >= 1400 && ms < 4000, `${ms} ms`);
  });

  await check("the runner's client gets the message that the broker was given", async () => {
    const runner = new WarmStartClient({
      apiUrl: new URL(base),
      controllerId: "controller_conformance",
      deploymentId: "deployment_conformance",
      deploymentVersion: "1",
      machineCpu: "0.5",
      machineMemory: "0.5",
    });
    const terms = await runner.connect();
    assert.equal(terms.success, true, terms.error);
    assert.equal(terms.data.connectionTimeoutMs, 30_000);
    const [message, run] = await dequeued();
    const body = JSON.stringify({ dequeuedMessage: message });
    const offer = async () => {
      const headers = { "content-type": "application/json" };
      return (await send(`${base}/warm-start`, { method: "POST", headers, body })).json();
    };
    assert.deepEqual(await offer(), { didWarmStart: false }, "no runner polls");
    const { connectionTimeoutMs } = terms.data;
    const poll = runner.warmStart({ workerInstanceName: "conformance", connectionTimeoutMs, keepaliveMs: 60_000 });
    await control("/pollers?at_least=1&wait_ms=10000");
    assert.deepEqual(await offer(), { didWarmStart: true });
    assert.deepEqual(await poll, message);
    assert.equal((await control("/report")).runs.find((one) => one.run_id === run).dispatches.length, 1);
  });

  // Each of these takes the client's whole retry schedule, so they run together.
  const [, run, snapshot] = await dequeued();
  whole(await client.startRunAttempt(run, snapshot, {}));
  const before = await control("/counters");
  const slow = await Promise.all([
    took(() => client.startRunAttempt(run, snapshot, { isWarmStart: true })),
    took(() => client.getLatestSnapshot("run_unknown")),
  ]);

  await check("a stale start is a 409, asked five times over", async () => {
    const [result, ms] = slow[0];
    refused(result, 409, "Snapshot changed inside startRunAttempt");
    assert.ok(ms >= RETRIES_MS && ms < RETRIES_MS + 3000, `${ms} ms`);
    const counters = await control("/counters");
    assert.equal(counters.starts_refused - before.starts_refused, 5);
    assert.equal(counters.double_starts, 0);
  });

  await check("an unknown run is a 500, asked five times over with one key", async () => {
    const [result, ms] = slow[1];
    refused(result, 500, "Internal Server Error");
    assert.ok(ms >= RETRIES_MS && ms < RETRIES_MS + 3000, `${ms} ms`);
    const { probes } = await control("/probes?run=run_unknown");
    assert.equal(probes.length, 5);
    assert.equal(new Set(probes.map((probe) => probe.idempotency_key)).size, 1);
  });
} catch (error) {
  failed += 1;
  console.log(`FAILED  between the checks\n${error.stack ?? error}`);
} finally {
  simulator.kill("SIGTERM");
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 && passed > 0 ? 0 : 1;
