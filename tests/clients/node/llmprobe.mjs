// `llmprobe`, a conformance suite for servers of models, on the gateway's `mock`: each surface that exists passes all that
// it must. What it thinks of the mock as a model is no concern of ours.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { KEY, URL_ } from "./bench.mjs";

const program = fileURLToPath(new URL("node_modules/.bin/llmprobe", import.meta.url));

// The surfaces that must be found, in its words. What is not found is "unsupported" to it, and no failure.
const SURFACES = ["models", "chat", "messages", "count-tokens", "embeddings", "responses", "completions", "images", "audio-speech"];

// What it asks of itself: it hands Node's form to a fetch of its own, which sends the words "[object FormData]". And what
// a mock has not: a cache of prompts.
const NOT_OURS = ["images-edit", "audio-transcriptions", "responses-prompt-caching", "responses-prompt-cache-prefix"];

async function probe() {
  const home = await mkdtemp(join(tmpdir(), "llmprobe-"));
  const report = join(home, "report.json");
  const args = [program, `${URL_}/v1`, "-k", KEY, "-m", "mock", "--full", "--no-bench", "--no-save", "--no-color", "--save", report];
  // Its exit code tells of models too.
  await new Promise((done) => execFile(process.execPath, args, { env: { ...process.env, HOME: home }, timeout: 240_000 }, done));
  const found = JSON.parse(await readFile(report, "utf8"));
  await rm(home, { recursive: true, force: true });
  return found;
}

export const table = [
  ["all_that_a_surface_must", null, async () => {
    const { coverage, conformance } = await probe();
    const supported = coverage.entries.filter((e) => e.kind === "surface" && e.supported).map((e) => e.id);
    for (const surface of SURFACES) assert.ok(supported.includes(surface), `${surface} was not found: ${supported}`);
    const failed = conformance.results.filter((r) => !NOT_OURS.includes(r.surface) && !NOT_OURS.includes(r.id)).flatMap((r) =>
      r.failures.filter((f) => f.severity === "MUST").map((f) => `${r.name}: ${f.message}`));
    assert.deepEqual(failed, []);
    assert.ok(conformance.passed > 150, `${conformance.passed}/${conformance.total}`);
  }],
];
