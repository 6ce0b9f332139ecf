// The Node SDK `@anthropic-ai/sdk` on messages, token counts and models, over all upstream formats.

import assert from "node:assert/strict";

import Anthropic from "@anthropic-ai/sdk";

import {
  ALL, CLOCK, FOUR, KEY, PNG, SIGNATURE, SMALL_KEY, TARGETS, THINKERS, URL_, VERDICT, WEATHER, WRONG_KEY, collect, fresh, heard, inside,
  raises, said, same,
} from "./bench.mjs";

const connect = (apiKey) => new Anthropic({ baseURL: URL_, apiKey, maxRetries: 0 });
const client = connect(KEY);
const user = (content) => [{ role: "user", content }];
const tools = [
  { name: "get_weather", description: "the weather", input_schema: WEATHER },
  { name: "get_clock", description: "the time", input_schema: CLOCK },
];
const thinking = { type: "enabled", budget_tokens: 1024 };

const request = (target, messages, knobs = {}, models = TARGETS) => ({
  model: models[target],
  max_tokens: 2000,
  messages: typeof messages === "string" ? user(messages) : messages,
  ...knobs,
});
const ask = (...all) => client.messages.create(request(...all));
const stream = (...all) => client.messages.stream(request(...all));

const fault = (target, text, knobs) => ask(target, text, knobs, { [target]: fresh(target) });

export const table = [
  ["plain_message", ALL, async (target) => {
    const answer = await ask(target, "hello node anthropic");
    same(answer.content.map((b) => b.text), [said(target, "hello node anthropic")]);
    same(answer.stop_reason, "end_turn");
    assert.ok(answer.usage.input_tokens > 0 && answer.usage.output_tokens > 0);
    assert.ok(answer._request_id);
  }],

  ["held_stream", FOUR, async (target) => {
    const final = await stream(target, "one two three four [mock: pace=60ms]", {}, { [target]: `${fresh(target)}-held` }).finalMessage();
    inside("heard: one two three four", final.content[0].text);
    assert.ok(final.content[0].text.endsWith(" (held)"), final.content[0].text);
  }],

  ["stream", ALL, async (target) => {
    const events = stream(target, "stream it");
    const pieces = [];
    events.on("text", (text) => pieces.push(text));
    const final = await events.finalMessage();
    same(pieces.join(""), said(target, "stream it"));
    same(final.content[0].text, pieces.join(""));
    same(final.stop_reason, "end_turn");
    assert.ok(pieces.length > 2 && final.usage.output_tokens > 0);
  }],

  ["tool_use_and_result", ALL, async (target) => {
    const first = await ask(target, "call get_weather now", { tools });
    same(first.stop_reason, "tool_use");
    const use = first.content.find((b) => b.type === "tool_use");
    same(Object.keys(use.input), ["city", "days"]);
    const mark = `node anthropic ${target}: 21 degrees`;
    const turns = [
      ...user("call get_weather now"),
      { role: "assistant", content: first.content },
      ...user([{ type: "tool_result", tool_use_id: use.id, content: [{ type: "text", text: mark }] }]),
    ];
    inside(mark, (await ask(target, turns, { tools })).content[0].text);
    if (target === "gemini") inside('"functionResponse"', await heard(mark));
  }],

  ["parallel_tools_streamed", ALL, async (target) => {
    const final = await stream(target, "both get_weather and get_clock", { tools }).finalMessage();
    same(final.content.map((b) => b.name), ["get_weather", "get_clock"]);
    same(final.content.map((b) => Object.keys(b.input).length), [2, 1]);
    same(final.stop_reason, "tool_use");
  }],

  ["structured_output", ALL, async (target) => {
    const output_config = { format: { type: "json_schema", schema: VERDICT } };
    const answer = await client.messages.parse(request(target, "judge it", { output_config }));
    same(Object.keys(JSON.parse(answer.content[0].text)), ["title", "score", "tags"]);
  }],

  ["image_in", FOUR, async (target) => {
    const mark = `node anthropic's picture ${target}`;
    const source = { type: "base64", media_type: "image/png", data: PNG };
    const answer = await ask(target, user([{ type: "text", text: mark }, { type: "image", source }]));
    same(answer.content[0].text, said(target, mark));
    if (target !== "mock") inside(PNG, await heard(mark));
  }],

  ["thinking_round_trip", FOUR, async (target) => {
    const mark = `node anthropic goes on ${target}`;
    const first = await stream(target, "think", { thinking }, THINKERS).finalMessage();
    same(first.content.map((b) => b.type), ["thinking", "text"]);
    same(first.content[0].thinking.split("A mock repeats").length, 2);
    const turns = [...user("think"), { role: "assistant", content: first.content }, ...user(mark)];
    await ask(target, turns, { thinking }, THINKERS);
    if (target === "anthropic" || target === "gemini") inside(SIGNATURE, await heard(mark));
  }],

  ["count_tokens", FOUR, async (target) => {
    const counted = await client.messages.countTokens({ model: TARGETS[target], messages: user("how long?") });
    assert.ok(counted.input_tokens > 0);
  }],

  ["models", null, async () => {
    const names = (await collect(client.models.list())).map((m) => m.id);
    assert.ok(names.includes("mock") && names.includes("smart"), names.join());
    same((await client.models.retrieve("mock")).type, "model");
  }],

  ["errors", null, async () => {
    const create = (key, model) => () => connect(key).messages.create({ model, max_tokens: 5, messages: user("x") });
    same((await raises(Anthropic.AuthenticationError, create(WRONG_KEY, "mock"))).error.error.type, "authentication_error");
    await raises(Anthropic.PermissionDeniedError, create(SMALL_KEY, "gpt-4.1"));
    await raises(Anthropic.NotFoundError, create(KEY, "nothing-here"));
    inside("max_tokens", (await raises(Anthropic.BadRequestError, () => ask("mock", "x", { max_tokens: "many" }))).message);
  }],

  ["upstream_errors", FOUR, async (target) => {
    const limited = await raises(Anthropic.RateLimitError, () => fault(target, "[mock: status=429, retry_after=17]"));
    same(limited.headers.get("retry-after"), "17");
    await raises(Anthropic.InternalServerError, () => fault(target, "[mock: status=500]"));
  }],

  ["stream_that_dies", FOUR, async (target) => {
    const got = [];
    await raises(Anthropic.AnthropicError, async () => {
      const events = await fault(target, "one two three four [mock: cut=5]", { stream: true });
      for await (const event of events) got.push(event.type);
    });
    assert.ok(got.length > 0 && !got.includes("message_stop"), got.join());
  }],
];
