// BullMQ, in Node: the same arguments, items and answers as the scripts in Python (driver.py).
//
// A queue fails at once where its server is away, and a worker goes on trying, as its guide "Going
// to production" has it. Jobs that are done are removed, or kept for as long as results are.

import { writeSync } from "node:fs";
import { performance } from "node:perf_hooks";
import { parseArgs } from "node:util";

import { Queue, Worker } from "bullmq";
import { Redis } from "ioredis";

const CONCURRENCY = 32;
const BATCH = 500;
const KEEP = 300;

const { values: asked, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    backend: { type: "string" },
    way: { type: "string" },
    results: { type: "boolean", default: false },
    concurrency: { type: "string", default: String(CONCURRENCY) },
    lease: { type: "string" },
    items: { type: "string", default: "0" },
    first: { type: "string", default: "0" },
    pace: { type: "string", default: "0" },
    tenant: { type: "string" },
    "work-for": { type: "string", default: "0" },
  },
});
const [url, mode] = positionals;
const items = Number(asked.items);
const first = Number(asked.first);
const pace = Number(asked.pace);
const workFor = Number(asked["work-for"]);

const now = () => (performance.timeOrigin + performance.now()) / 1000;
const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

function value(id) {
  const made = { id, to: "ada@example.org", kind: "welcome" };
  return mode === "put" ? { ...made, at: now() } : made;
}

// Stretches of time: what client and server did in them

const server = new Redis(url);
const measured = {};

async function counts() {
  const info = await server.info("all");
  const of = (name) => Number(new RegExp(`^${name}:(.*)$`, "m").exec(info)[1]);
  return [of("total_reads_processed"), of("used_cpu_user") + of("used_cpu_sys")];
}

async function stretch() {
  const before = await counts();
  const own = process.cpuUsage();
  const start = performance.now();
  return async (items) => {
    const seconds = (performance.now() - start) / 1000;
    const used = process.cpuUsage(own);
    const after = await counts();
    return {
      rate: items / seconds,
      trips: (after[0] - before[0] - 1) / items,
      server: (after[1] - before[1]) / items,
      client: (used.user + used.system) / 1e6 / items,
    };
  };
}

// The queue

const queue = new Queue("jobs", {
  connection: new Redis(url, { enableOfflineQueue: false, maxRetriesPerRequest: 1 }),
  defaultJobOptions: {
    attempts: 3,
    removeOnComplete: asked.results ? { age: KEEP } : true,
    removeOnFail: { age: 3600 },
  },
});
queue.on("error", () => {});
await queue.waitUntilReady();

const put = (id) => queue.add("job", value(id));

async function atOnce(numbers) {
  const left = numbers.values();
  const putSome = async () => {
    for (const number of left) await put(number);
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, putSome));
}

async function inBulk(numbers) {
  for (let start = 0; start < numbers.length; start += BATCH) {
    const some = numbers.slice(start, start + BATCH);
    await queue.addBulk(some.map((id) => ({ name: "job", data: value(id) })));
  }
}

const range = (from, to) => Array.from({ length: to - from }, (_, index) => from + index);

async function putAll() {
  const one = Math.floor(items / 10);
  const many = Math.floor(items / 2);
  const ways = {
    one: [
      range(0, one),
      async (numbers) => {
        for (const number of numbers) await put(number);
      },
    ],
    many: [range(one, many), atOnce],
    bulk: [range(many, items), inBulk],
  };
  for (const [how, [numbers, way]] of Object.entries(ways)) {
    const end = await stretch();
    await way(numbers);
    measured[how] = await end(numbers.length);
  }
}

async function produce() {
  if (!pace) {
    await inBulk(range(first, first + items));
  } else {
    const start = now();
    for (let count = 0; count < items; count++) {
      await sleep(Math.max(0, start + count * pace - now()));
      try {
        await put(first + count);
        writeSync(1, `put ${first + count} ${now()}\n`);
      } catch {
        writeSync(1, `refused ${first + count} ${now()}\n`);
      }
    }
  }
  writeSync(1, "all put\n");
  process.exit(0);
}

// The worker

let handled = 0;
let end;

async function drained() {
  handled += 1;
  const first = Math.floor(items / 10); // the first tenth warms up
  if (handled === first) {
    end = stretch();
  } else if (handled === items) {
    measured.drain = await (await end)(items - first);
    console.log(JSON.stringify(measured));
    process.exit(0);
  }
}

function work() {
  const lease = asked.lease ? Number(asked.lease) * 1000 : undefined;
  const worker = new Worker(
    "jobs",
    async ({ data }) => {
      if (mode === "work") writeSync(1, `start ${data.id} ${data.at} ${now()}\n`);
      if (workFor) await sleep(workFor);
      if (mode === "work") writeSync(1, `end ${data.id} ${data.at} ${now()}\n`);
      else drained();
      return asked.results ? { done: data.id } : undefined;
    },
    {
      connection: new Redis(url, { maxRetriesPerRequest: null }),
      concurrency: Number(asked.concurrency),
      ...(lease && { lockDuration: lease, stalledInterval: lease }),
    },
  );
  worker.on("error", () => {});
}

if (mode === "put") await produce();
if (mode === "speed") await putAll();
work();
