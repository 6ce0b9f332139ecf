// Runs the cases of every Node SDK. Exit code 1 when one failed.

import { readFileSync } from "node:fs";

import { tables } from "./ai.mjs";
import { table as anthropic } from "./anthropic.mjs";
import { run } from "./bench.mjs";
import { table as openai } from "./openai.mjs";

const pins = JSON.parse(readFileSync(new URL("package.json", import.meta.url), "utf8")).dependencies;
globalThis.AI_SDK_LOG_WARNINGS = false;

let failed = await run(`node openai ${pins.openai}`, openai);
failed += await run(`node @anthropic-ai/sdk ${pins["@anthropic-ai/sdk"]}`, anthropic);
for (const [kind, table] of Object.entries(tables)) {
  failed += await run(`node ai ${pins.ai} @ai-sdk/${kind}`, table);
}
process.exit(failed ? 1 : 0);
