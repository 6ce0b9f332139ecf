// What the cases stand on: the table, the targets, and what the upstream heard. Knows no SDK. (python/bench.py's sister.)

import assert from "node:assert/strict";

export const URL_ = process.env.PORTCULLIS_URL;
export const KEY = process.env.PORTCULLIS_KEY;
// May use the model `mock` and nothing else.
export const SMALL_KEY = process.env.PORTCULLIS_SMALL_KEY;
export const WRONG_KEY = "sk-pc-" + "A".repeat(43);

export const TARGETS = {
  mock: "mock", openai: "gpt-4.1", anthropic: "claude-sonnet-4-6", gemini: "gemini-2.5-flash",
  bedrock: "us.anthropic.claude-sonnet-4-6", cohere: "command-a-03-2025", ollama: "qwen3",
};
// Those that take pictures; one that does takes no tools.
export const SEEING = { ...TARGETS, cohere: "command-a-vision-07-2025" };
export const THINKERS = { ...TARGETS, openai: "gpt-5" };
export const ALL = Object.keys(TARGETS);
// For what does not differ by upstream so much that it is worth asking them all.
export const FOUR = ["mock", "openai", "anthropic", "gemini"];
export const UPSTREAMS = ["openai", "anthropic", "gemini"];
export const SIGNATURE = "bW9jayBzaWduYXR1cmU=";

// A model that no fault has met: the gateway rests what fails, and the next case must not find it so.
let count = 0;
export function fresh(target) {
  const name = `${TARGETS[target]}-${process.pid}-${(count += 1)}`;
  return target === "mock" ? `mock/${name}` : name;
}

// One pixel.
export const PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
export const WEATHER = {
  type: "object",
  properties: { city: { type: "string", description: "where" }, days: { type: "integer" } },
  required: ["city", "days"],
  additionalProperties: false,
};
export const CLOCK = {
  type: "object",
  properties: { zone: { type: "string" } },
  required: ["zone"],
  additionalProperties: false,
};
export const VERDICT = {
  type: "object",
  properties: { title: { type: "string" }, score: { type: "integer" }, tags: { type: "array", items: { type: "string" } } },
  required: ["title", "score", "tags"],
  additionalProperties: false,
};

// Runs a table of [name, targets or null, function]: one line a case. The number of those that failed.
export async function run(sdk, table) {
  let failed = 0;
  for (const [name, targets, body] of table) {
    for (const target of targets ?? [null]) {
      const line = `${sdk.padEnd(28)} ${name.padEnd(34)} ${target ?? ""}`.trimEnd();
      try {
        await body(target);
        console.log(`ok      ${line}`);
      } catch (error) {
        failed += 1;
        console.log(`FAILED  ${line}`);
        console.error(error);
      }
    }
  }
  return failed;
}

// The upstream's side of the latest request with `mark` in it: its JSON body.
export async function heard(mark) {
  const answer = await fetch(`${process.env.PORTCULLIS_HEARD}/?${new URLSearchParams({ mark })}`);
  assert.equal(answer.status, 200, `the upstream heard nothing with ${mark}`);
  const { path, headers, body } = await answer.json();
  assert.ok(!JSON.stringify([path, headers]).includes(KEY), "a virtual key reached the upstream");
  return JSON.parse(body);
}

export const said = (target, text, models = TARGETS) => `mock/${models[target]} heard: ${text}`;
export const same = (got, wanted) => assert.deepEqual(got, wanted);

export function inside(part, whole) {
  const text = typeof whole === "string" ? whole : JSON.stringify(whole);
  assert.ok(text.includes(part), `${part} is not in ${text}`);
}

export async function raises(kind, call) {
  try {
    await call();
  } catch (error) {
    assert.ok(error instanceof kind, `${error?.constructor?.name} instead of ${kind.name}: ${error}`);
    return error;
  }
  assert.fail(`no ${kind.name} was raised`);
}

export async function collect(events) {
  const all = [];
  for await (const event of events) all.push(event);
  return all;
}
