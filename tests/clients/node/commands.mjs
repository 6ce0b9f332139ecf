// Coding agents on the command line, each run as its users run it in scripts, with only base URL and key changed. They work in
// an empty folder and home of their own, and may read there and no more.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { FOUR, KEY, SIGNATURE, TARGETS, URL_, WRONG_KEY, heard, inside, same } from "./bench.mjs";

// Where tests/clients/run installed them.
const tools = process.env.PORTCULLIS_COMMANDS ?? "";

// Runs `body` with a home of its own, then takes it away.
async function inHome(body) {
  const home = await mkdtemp(join(tmpdir(), "portcullis-agent-"));
  const work = join(home, "work");
  await mkdir(work);
  try {
    return await body(home, work);
  } finally {
    await rm(home, { recursive: true, force: true });
  }
}

// The command's exit code, and its lines on standard output as JSON.
function command(program, args, { home, work, env }) {
  return new Promise((done, fail) => {
    const child = spawn(program, args, {
      cwd: work,
      env: { PATH: process.env.PATH, HOME: home, NO_PROXY: "127.0.0.1", ...env },
      stdio: ["ignore", "pipe", "pipe"],
      timeout: 60_000,
    });
    let [out, err] = ["", ""];
    child.stdout.on("data", (data) => (out += data));
    child.stderr.on("data", (data) => (err += data));
    child.on("error", fail);
    child.on("close", (code) => {
      const lines = out.split("\n").filter((line) => line.startsWith("{")).map((line) => JSON.parse(line));
      done({ code, lines, err });
    });
  });
}

const claude = (prompt, { key = KEY, model = "mock", args = [] }) =>
  inHome((home, work) =>
    command(process.execPath, [
      join(tools, "node_modules/@anthropic-ai/claude-code/cli-wrapper.cjs"), "-p", prompt, "--model", model,
      "--output-format", "stream-json", "--verbose", "--include-partial-messages", ...args,
    ], {
      home, work,
      env: {
        ANTHROPIC_BASE_URL: URL_, ANTHROPIC_API_KEY: key, CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1", DISABLE_AUTOUPDATER: "1",
        CLAUDE_CODE_MAX_RETRIES: "0",
      },
    }));

const blocks = (lines, type) => lines.filter((l) => l.type === type).flatMap((l) => l.message.content);

export const claudeTable = [
  ["prints_an_answer", FOUR, async (target) => {
    const mark = `command line ${target}`;
    const { code, lines } = await claude(mark, { model: TARGETS[target], args: ["--tools", ""] });
    same(code, 0);
    const result = lines.find((l) => l.type === "result");
    same([result.subtype, result.is_error, result.stop_reason], ["success", false, "end_turn"]);
    inside(mark, result.result);
    assert.ok(result.usage.input_tokens > 0 && result.usage.output_tokens > 0, JSON.stringify(result.usage));
    const deltas = lines.filter((l) => l.type === "stream_event" && l.event.delta?.type === "text_delta");
    assert.ok(deltas.length > 2, "one lump is no stream");
  }],

  ["calls_a_tool_and_reads_its_result", FOUR, async (target) => {
    const mark = `look with Read for ${target}`;
    const { code, lines } = await claude(mark, { model: TARGETS[target], args: ["--tools", "Read,Grep"] });
    same(code, 0);
    const [use] = blocks(lines, "assistant").filter((b) => b.type === "tool_use");
    same([use.name, use.input.file_path], ["Read", "mock"]);
    const [result] = blocks(lines, "user").filter((b) => b.type === "tool_result");
    same(result.tool_use_id, use.id);
    inside("read the tool's answer", lines.find((l) => l.type === "result").result);
    if (target === "mock") return;
    const body = await heard(mark);
    // Its system prompt, its tools, and the thinking of the first turn, all in the words of the upstream.
    inside("Claude", body.system ?? body.systemInstruction ?? body.messages[0]);
    const names = { openai: () => body.tools.map((t) => t.function.name), anthropic: () => body.tools.map((t) => t.name),
      gemini: () => body.tools[0].functionDeclarations.map((t) => t.name) }[target]();
    assert.ok(names.includes("Read"), names.join());
    if (target !== "openai") inside(SIGNATURE, body);
    if (target === "anthropic") inside('"cache_control"', body);
  }],

  ["errors", null, async () => {
    for (const [status, code, asked] of [[401, "invalid_api_key", { key: WRONG_KEY }], [404, "model_not_found", { model: "nothing-here" }]]) {
      const told = await claude("x", asked);
      assert.notEqual(told.code, 0);
      const result = told.lines.find((l) => l.type === "result");
      same([result.is_error, result.api_error_status, result.api_error_code], [true, status, code]);
    }
  }],
];

// With its own defaults, tools that run at its maker's among them.
const configuration = (model) => `
model = "${model}"
model_provider = "portcullis"
[model_providers.portcullis]
name = "portcullis"
base_url = "${URL_}/v1"
env_key = "PORTCULLIS_KEY"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
`;

const codex = (prompt, { key = KEY, model = "mock" }) =>
  inHome(async (home, work) => {
    await mkdir(join(home, ".codex"));
    await writeFile(join(home, ".codex/config.toml"), configuration(model));
    const args = [join(tools, "node_modules/@openai/codex/bin/codex.js"), "exec", "--json", "--skip-git-repo-check"];
    return command(process.execPath, [...args, "--sandbox", "read-only", prompt], { home, work, env: { PORTCULLIS_KEY: key } });
  });

const items = (lines, type) => lines.filter((l) => l.type === "item.completed" && l.item.type === type).map((l) => l.item);

export const codexTable = [
  ["prints_an_answer", FOUR, async (target) => {
    const mark = `codex line ${target}`;
    const { code, lines, err } = await codex(mark, { model: TARGETS[target] });
    same([code, code && err], [0, 0]);
    inside(mark, items(lines, "agent_message").at(-1).text);
    const { usage } = lines.find((l) => l.type === "turn.completed");
    assert.ok(usage.input_tokens > 0 && usage.output_tokens > 0, JSON.stringify(usage));
  }],

  ["calls_a_tool_and_reads_its_result", FOUR, async (target) => {
    const mark = `look with get_goal for ${target}`;
    const { code, lines, err } = await codex(mark, { model: TARGETS[target] });
    same([code, code && err], [0, 0]);
    inside("read the tool's answer", items(lines, "agent_message").at(-1).text);
    if (target === "mock") return;
    const body = await heard(mark);
    inside("coding agent", body);
    inside("exec_command", body.tools);
  }],

  ["errors", null, async () => {
    for (const [status, asked] of [["401", { key: WRONG_KEY }], ["nothing-here", { model: "nothing-here" }]]) {
      const told = await codex("x", asked);
      assert.notEqual(told.code, 0);
      inside(status, told.lines.filter((l) => l.type === "turn.failed" || l.type === "error"));
    }
  }],
];
