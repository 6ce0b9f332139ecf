// Vercel's `ai` with its OpenAI (chat and responses), Anthropic, Google and Bedrock providers, each over all upstream formats.

import assert from "node:assert/strict";

import { createAmazonBedrock } from "@ai-sdk/amazon-bedrock";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createGoogleGenerativeAI } from "@ai-sdk/google";
import { createOpenAI } from "@ai-sdk/openai";
import { APICallError, Output, embedMany, generateText, isStepCount, streamText, tool } from "ai";
import { z } from "zod";

import { ALL, FOUR, KEY, PNG, SIGNATURE, TARGETS, THINKERS, URL_, WRONG_KEY, fresh, heard, inside, raises, said, same } from "./bench.mjs";

// Their base URLs have the version segment in them.
const makers = {
  openai: (apiKey) => createOpenAI({ baseURL: `${URL_}/v1`, apiKey }).chat,
  responses: (apiKey) => createOpenAI({ baseURL: `${URL_}/v1`, apiKey }).responses,
  bedrock: (apiKey) => createAmazonBedrock({ baseURL: URL_, apiKey, region: "us-east-1" }),
  anthropic: (apiKey) => createAnthropic({ baseURL: `${URL_}/v1`, apiKey }),
  google: (apiKey) => createGoogleGenerativeAI({ baseURL: `${URL_}/v1beta`, apiKey }),
};

const tools = (answers) => ({
  get_weather: tool({
    description: "the weather",
    inputSchema: z.object({ city: z.string(), days: z.number().int() }),
    execute: async () => (answers.push("weather"), "dry as dust"),
  }),
  get_clock: tool({
    description: "the time",
    inputSchema: z.object({ zone: z.string() }),
    execute: async () => (answers.push("clock"), "noon sharp"),
  }),
});

// Each provider brings its own copy of this class.
async function refused(call) {
  const error = await raises(Error, call);
  assert.ok(APICallError.isInstance(error), error);
  return error;
}

function cases(kind) {
  const make = makers[kind](KEY);
  const model = (target) => make(TARGETS[target]);
  // This provider puts `models/` only before names without a slash.
  const named = (target, end = "") => make(fresh(target).replace(/^mock\//, kind === "google" ? "models/mock/" : "mock/") + end);
  const once = { maxRetries: 0 };

  return [
    ["generate_text", ALL, async (target) => {
      const answer = await generateText({ model: model(target), prompt: `hello ai ${kind}`, ...once });
      same(answer.text, said(target, `hello ai ${kind}`));
      same(answer.finishReason, "stop");
      assert.ok(answer.usage.inputTokens > 0 && answer.usage.outputTokens > 0, JSON.stringify(answer.usage));
    }],

    ["stream_text", ALL, async (target) => {
      const result = streamText({ model: model(target), prompt: "stream it", ...once });
      const pieces = [];
      for await (const piece of result.textStream) pieces.push(piece);
      same(pieces.join(""), said(target, "stream it"));
      assert.ok(pieces.length > 2);
      same(await result.finishReason, "stop");
      assert.ok((await result.usage).outputTokens > 0);
    }],

    ["held_stream", FOUR, async (target) => {
      const result = streamText({ model: named(target, "-held"), prompt: "one two three four [mock: pace=60ms]", ...once });
      inside("heard: one two three four", await result.text);
      assert.ok((await result.text).endsWith(" (held)"), await result.text);
    }],

    ["tools_in_two_steps", ALL, async (target) => {
      for (const streaming of [false, true]) {
        const answers = [];
        const all = { model: model(target), prompt: "both get_weather and get_clock", tools: tools(answers), stopWhen: isStepCount(3), ...once };
        const result = streaming ? streamText(all) : await generateText(all);
        const text = await result.text;
        same(answers, ["weather", "clock"]);
        inside("dry as dust", text);
        inside("noon sharp", text);
        same((await result.steps).map((s) => s.finishReason), ["tool-calls", "stop"]);
      }
    }],

    // For its own format this one asks in a field that the mock does not know.
    ["structured_output", ALL.filter((target) => kind !== "bedrock" || target !== kind), async (target) => {
      const schema = z.object({ title: z.string(), score: z.number().int(), tags: z.array(z.string()) });
      const answer = await generateText({ model: model(target), prompt: "judge it", output: Output.object({ schema }), ...once });
      same(Object.keys(answer.output).sort(), ["score", "tags", "title"]);
    }],

    ["image_in", FOUR, async (target) => {
      const mark = `ai ${kind} picture ${target}`;
      const content = [{ type: "text", text: mark }, { type: "file", mediaType: "image/png", data: Buffer.from(PNG, "base64") }];
      const answer = await generateText({ model: model(target), messages: [{ role: "user", content }], ...once });
      same(answer.text, said(target, mark));
      if (target !== "mock") inside(PNG, await heard(mark));
    }],

    ["errors", null, async () => {
      const call = (key, name) => () => generateText({ model: makers[kind](key)(name), prompt: "x", ...once });
      same((await refused(call(WRONG_KEY, "mock"))).statusCode, 401);
      const missing = await refused(call(KEY, "nothing-here"));
      same([missing.statusCode, missing.isRetryable], [404, false]);
      inside("nothing-here", missing.message);
    }],

    ["rate_limited", FOUR, async (target) => {
      const error = await refused(() =>
        generateText({ model: named(target), prompt: "[mock: status=429, retry_after=17]", ...once }));
      same([error.statusCode, error.isRetryable, error.responseHeaders["retry-after"]], [429, true, "17"]);
    }],

    ["stream_that_dies", FOUR, async (target) => {
      const errors = [];
      const result = streamText({
        model: named(target), prompt: "one two three four [mock: cut=5]", onError: ({ error }) => errors.push(error), ...once,
      });
      let finished;
      try {
        for await (const part of result.fullStream) {
          if (part.type === "error") errors.push(part.error);
          if (part.type === "finish") finished = part.finishReason;
        }
      } catch (error) {
        errors.push(error);
      }
      assert.ok(errors.length > 0, "no error was told");
      assert.notEqual(finished, "stop");
    }],
  ];
}

// Thinking that must come back with its proof on the next turn.
const thinking = {
  anthropic: { anthropic: { thinking: { type: "enabled", budgetTokens: 1024 } } },
  google: { google: { thinkingConfig: { includeThoughts: true, thinkingBudget: 1024 } } },
  // The first keeps nothing here: what must come back travels in the answer. It takes models it does not know for ones
  // that do not think.
  responses: { openai: { store: false, reasoningEffort: "low", reasoningSummary: "auto", include: ["reasoning.encrypted_content"], forceReasoning: true } },
  bedrock: { bedrock: { reasoningConfig: { type: "enabled", budgetTokens: 1024 } } },
};

const reasoning = (kind, on = ["anthropic", "gemini"]) => ["reasoning_round_trip", on, async (target) => {
  const mark = `ai ${kind} goes on ${target}`;
  // The Bedrock provider asks models with this word in their names to think.
  const name = kind === "bedrock" ? `anthropic/${THINKERS[target]}` : THINKERS[target];
  const all = { model: makers[kind](KEY)(name), providerOptions: thinking[kind], maxRetries: 0 };
  const first = await generateText({ ...all, prompt: "think" });
  inside("A mock repeats", first.reasoningText);
  const messages = [{ role: "user", content: "think" }, ...first.response.messages, { role: "user", content: mark }];
  await generateText({ ...all, messages });
  inside(SIGNATURE, await heard(mark));
}];

const vectors = ["embed_many", ["mock", "openai", "gemini"], async (target) => {
  const name = { mock: "mock", openai: "text-embedding-3-small", gemini: "gemini/gemini-embedding-001" }[target];
  const model = createOpenAI({ baseURL: `${URL_}/v1`, apiKey: KEY }).embeddingModel(name);
  const answer = await embedMany({ model, values: ["one", "two"], maxRetries: 0 });
  same(answer.embeddings.length, 2);
  assert.ok(answer.embeddings[0].length > 8 && answer.usage.tokens > 0);
}];

export const tables = {
  openai: [...cases("openai"), vectors],
  anthropic: [...cases("anthropic"), reasoning("anthropic")],
  google: [...cases("google"), reasoning("google")],
  responses: [...cases("responses"), reasoning("responses")],
  bedrock: [...cases("bedrock"), reasoning("bedrock", ["anthropic"])],
};
