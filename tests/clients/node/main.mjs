// Runs the cases of every Node SDK, or of those whose names are given; with `commands`, of command lines. Exit code 1 when
// one failed.

import { readFileSync } from "node:fs";

import { tables } from "./ai.mjs";
import { table as anthropic } from "./anthropic.mjs";
import { run } from "./bench.mjs";
import { claudeTable, codexTable } from "./commands.mjs";
import { table as google } from "./google.mjs";
import { table as llmprobe } from "./llmprobe.mjs";
import { table as openai } from "./openai.mjs";
import { table as operations } from "./operations.mjs";
import { table as realtime } from "./realtime.mjs";
import { table as responses } from "./responses.mjs";

const read = (file) => JSON.parse(readFileSync(file, "utf8")).dependencies;
const pins = read(new URL("package.json", import.meta.url));
globalThis.AI_SDK_LOG_WARNINGS = false;

const sdks = [
  ["openai", openai], ["openai", responses], ["openai", operations], ["openai", realtime], ["@anthropic-ai/sdk", anthropic], ["@google/genai", google],
  ["llmprobe", llmprobe],
]
  .map(([name, table]) => [`node ${name} ${pins[name]}`, table])
  .concat(Object.entries(tables).map(([kind, table]) => [`node ai ${pins.ai} @ai-sdk/${kind}`, table]));

// `main.mjs commands` has another lane: they are no packages of this folder.
function commands() {
  const pins = read(`${process.env.PORTCULLIS_COMMANDS}/package.json`);
  return [[`claude ${pins["@anthropic-ai/claude-code"]}`, claudeTable], [`codex ${pins["@openai/codex"]}`, codexTable]];
}

const chosen = process.argv.slice(2);
let failed = 0;
for (const [sdk, table] of chosen.includes("commands") ? commands() : sdks) {
  if (chosen.every((part) => part === "commands") || chosen.some((part) => sdk.includes(part))) failed += await run(sdk, table);
}
process.exit(failed ? 1 : 0);
