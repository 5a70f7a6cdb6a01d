// BullMQ on Node: `node bullmq.js worker URL` works; `node bullmq.js producer URL` adds the flows that its input names,
// one a line, such as ["fan", 100], and says a line when each has been added. NODE_PATH says where the packages are.

"use strict";

const { createInterface } = require("node:readline");
const { setTimeout: sleep } = require("node:timers/promises");
const { FlowProducer, Worker } = require("bullmq");
const { Redis } = require("ioredis");

const QUEUE = "bench";
const NONE_BEFORE = 0;
const [role, url] = process.argv.slice(2);
const connection = new Redis(url, { maxRetriesPerRequest: null });

// Of the same clock as Python's time.monotonic(), in seconds.
const now = () => Number(process.hrtime.bigint()) / 1e9;
const sum = (values) => values.reduce((total, value) => total + value, 0);
const answer = (value) => connection.rpush("bench:answer", value);

async function note(began, ended) {
  if (ended !== NONE_BEFORE) await connection.rpush("bench:gaps", began - ended);
}

// Each gets its value, the results of the jobs that it has waited for, and the moment at which it began.
const jobs = {
  job: async (value) => value,
  text: async (value) => "x".repeat(value),
  moment: async () => now(),
  step: async (value, before) => (before.length ? before[0] : value) + 1,
  total: async (value, before) => sum(before),
  report: async (value, before) => answer(sum(before)),
  last: async (value, before) => answer(before[0] + 1),
  length: async (value, before) => answer(sum(before.map((text) => text.length))),
  follow: async (value, before, began) => {
    await note(began, before.length ? before[0] : NONE_BEFORE);
    if (value) await sleep(value * 1000);
    return now();
  },
  first: async (value, before, began) => {
    await note(began, value);
    await answer(await connection.llen("bench:gaps"));
  },
  end: async (value, before, began) => {
    await note(began, Math.max(...before));
    await answer(await connection.llen("bench:gaps"));
  },
};

// These follow none, so there is nothing that they would ask for.
const LEAVES = new Set(["job", "text", "moment", "first"]);

async function work(job) {
  const began = now();
  const before = LEAVES.has(job.name) ? [] : Object.values(await job.getChildrenValues());
  return jobs[job.name](job.data.value, before, began);
}

const node = (name, value = null, children = []) => ({ name, queueName: QUEUE, data: { value }, children });
const times = (count, make) => Array.from({ length: count }, (_, number) => make(number));
const chain = (nodes) => nodes.reduce((before, following) => ({ ...following, children: [before] }));
const fanOf = (count, callback) => node(callback, null, times(count, (number) => node("job", number)));

const flows = {
  fan: (count) => [fanOf(count, "report")],
  series: (beside, length) =>
    times(beside, () => chain([node("step", 0), ...times(length - 2, () => node("step")), node("last")])),
  nested: (outer, inner) => [node("report", null, times(outer, () => fanOf(inner, "total")))],
  results: (count, size) => [node("length", null, times(count, () => node("text", size)))],
  handover: (hops, seconds) => [chain([...times(hops, () => node("follow", seconds)), node("end")])],
  first: (asked) => [node("first", asked)],
  wide: (members) => [node("end", null, times(members, () => node("moment")))],
};

async function produce() {
  const producer = new FlowProducer({ connection });
  for await (const line of createInterface({ input: process.stdin })) {
    const [shape, ...sizes] = JSON.parse(line);
    for (const flow of flows[shape](...sizes)) await producer.add(flow);
    console.log("added");
  }
  await producer.close();
  connection.disconnect();
}

if (role === "worker") new Worker(QUEUE, work, { connection, concurrency: 8 }).on("error", console.error);
else produce();
