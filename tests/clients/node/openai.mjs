// The Node SDK `openai` on chat completions, embeddings and models, over all upstream formats.

import assert from "node:assert/strict";

import OpenAI from "openai";

import {
  ALL, CLOCK, FOUR, KEY, PNG, SEEING, SIGNATURE, SMALL_KEY, TARGETS, THINKERS, URL_, VERDICT, WEATHER, WRONG_KEY, collect, fresh, heard, inside,
  raises, said, same,
} from "./bench.mjs";

const connect = (apiKey, baseURL = `${URL_}/v1`) => new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const client = connect(KEY);
const user = (content) => [{ role: "user", content }];
const tools = [
  { type: "function", function: { name: "get_weather", description: "the weather", parameters: WEATHER } },
  { type: "function", function: { name: "get_clock", description: "the time", parameters: CLOCK } },
];

const ask = (target, messages, knobs = {}, models = TARGETS) =>
  client.chat.completions.create({
    model: models[target],
    messages: typeof messages === "string" ? user(messages) : messages,
    ...knobs,
  });

const fault = (target, text, knobs) => ask(target, text, knobs, { [target]: fresh(target) });

export const table = [
  ["plain_chat", ALL, async (target) => {
    const answer = await ask(target, "hello node openai");
    same(answer.choices[0].message.content, said(target, "hello node openai"));
    same(answer.choices[0].finish_reason, "stop");
    same(answer.model, TARGETS[target]);
    assert.ok(answer.usage.prompt_tokens > 0 && answer.usage.completion_tokens > 0);
    assert.ok(answer._request_id);
  }],

  ["stream_with_usage", ALL, async (target) => {
    const chunks = await collect(await ask(target, "stream it", { stream: true, stream_options: { include_usage: true } }));
    same(chunks.map((c) => c.choices[0]?.delta.content ?? "").join(""), said(target, "stream it"));
    same(chunks.flatMap((c) => c.choices[0]?.finish_reason ?? []), ["stop"]);
    same(chunks.filter((c) => c.usage).length, 1);
    assert.ok(chunks.at(-1).usage.completion_tokens > 0);
    assert.ok(chunks.length > 4);
  }],

  ["held_stream", FOUR, async (target) => {
    const asked = { model: `${fresh(target)}-held`, messages: user("one two three four [mock: pace=60ms]"), stream: true };
    const raw = await (await client.chat.completions.create(asked).asResponse()).text();
    assert.ok(raw.startsWith(": keep-alive\n\n: keep-alive\n\n"), raw.slice(0, 200));
    const text = (await collect(await client.chat.completions.create(asked))).map((c) => c.choices[0]?.delta.content ?? "").join("");
    inside("heard: one two three four", text);
    assert.ok(text.endsWith(" (held)"), text);
  }],

  ["stream_helper", FOUR, async (target) => {
    const events = client.chat.completions.stream({ model: TARGETS[target], messages: user("with help") });
    same(await events.finalContent(), said(target, "with help"));
  }],

  ["tool_call_and_result", ALL, async (target) => {
    const first = await ask(target, "call get_weather now", { tools });
    same(first.choices[0].finish_reason, "tool_calls");
    const [call] = first.choices[0].message.tool_calls;
    same(call.function.name, "get_weather");
    same(Object.keys(JSON.parse(call.function.arguments)), ["city", "days"]);
    const mark = `node openai ${target}: 21 degrees`;
    const turns = [
      ...user("call get_weather now"),
      first.choices[0].message,
      { role: "tool", tool_call_id: call.id, content: mark },
    ];
    inside(mark, (await ask(target, turns, { tools })).choices[0].message.content);
    if (target === "gemini") inside('"functionResponse"', await heard(mark));
    if (target === "openai" || target === "anthropic") inside(call.id, await heard(mark));
  }],

  ["run_tools", ALL, async (target) => {
    let asked = 0;
    const runner = client.chat.completions.runTools({
      model: TARGETS[target],
      messages: user("call get_weather by itself"),
      tools: [{
        type: "function",
        function: { name: "get_weather", description: "the weather", parameters: WEATHER, parse: JSON.parse, function: () => { asked += 1; return "dry"; } },
      }],
    });
    inside("dry", await runner.finalContent());
    same(asked, 1);
  }],

  ["parallel_tools_streamed", ALL, async (target) => {
    const events = client.chat.completions.stream({
      model: TARGETS[target], messages: user("both get_weather and get_clock"), tools,
    });
    const { choices: [{ message, finish_reason }] } = await events.finalChatCompletion();
    same(message.tool_calls.map((c) => c.function.name), ["get_weather", "get_clock"]);
    same(message.tool_calls.map((c) => Object.keys(JSON.parse(c.function.arguments)).length), [2, 1]);
    assert.notEqual(message.tool_calls[0].id, message.tool_calls[1].id);
    same(finish_reason, "tool_calls");
  }],

  ["structured_output", ALL, async (target) => {
    const answer = await client.chat.completions.parse({
      model: TARGETS[target],
      messages: user("judge it"),
      response_format: { type: "json_schema", json_schema: { name: "verdict", strict: true, schema: VERDICT } },
    });
    same(Object.keys(JSON.parse(answer.choices[0].message.content)), ["title", "score", "tags"]);
  }],

  ["image_in", ALL, async (target) => {
    const mark = `node openai's picture ${target}`;
    const picture = { type: "image_url", image_url: { url: `data:image/png;base64,${PNG}` } };
    const answer = await ask(target, user([{ type: "text", text: mark }, picture]), {}, SEEING);
    same(answer.choices[0].message.content, said(target, mark, SEEING));
    if (target !== "mock") inside(PNG, await heard(mark));
  }],

  ["reasoning_round_trip", FOUR, async (target) => {
    const mark = `node openai goes on ${target}`;
    const first = await ask(target, "think", { reasoning_effort: "low" }, THINKERS);
    inside("A mock repeats", first.choices[0].message.reasoning_content);
    const turns = [...user("think"), first.choices[0].message, ...user(mark)];
    await ask(target, turns, { reasoning_effort: "low" }, THINKERS);
    if (target === "anthropic" || target === "gemini") inside(SIGNATURE, await heard(mark));
  }],

  ["embeddings", ["mock", "openai", "gemini"], async (target) => {
    const model = { mock: "mock", openai: "text-embedding-3-small", gemini: "gemini/gemini-embedding-001" }[target];
    const answer = await client.embeddings.create({ model, input: ["one", "two"], dimensions: 16 });
    same(answer.data.map((d) => d.embedding.length), [16, 16]);
    const length = answer.data[0].embedding.reduce((sum, x) => sum + x * x, 0);
    assert.ok(Math.abs(length - 1) < 1e-3, `length ${length}`);
  }],

  ["models", null, async () => {
    const names = (await collect(client.models.list())).map((m) => m.id);
    assert.ok(names.includes("mock") && names.includes("smart"), names.join());
    same((await client.models.retrieve("mock")).id, "mock");
  }],

  ["errors", null, async () => {
    const create = (key, model) => () => connect(key).chat.completions.create({ model, messages: user("x") });
    const wrong = await raises(OpenAI.AuthenticationError, create(WRONG_KEY, "mock"));
    same(wrong.status, 401);
    await raises(OpenAI.PermissionDeniedError, create(SMALL_KEY, "gpt-4.1"));
    same((await raises(OpenAI.NotFoundError, create(KEY, "nothing-here"))).code, "model_not_found");
    inside("temperature", (await raises(OpenAI.BadRequestError, () => ask("mock", "x", { temperature: "hot" }))).message);
  }],

  ["upstream_errors", FOUR, async (target) => {
    const limited = await raises(OpenAI.RateLimitError, () => fault(target, "[mock: status=429, retry_after=17]"));
    same(limited.headers.get("retry-after"), "17");
    await raises(OpenAI.InternalServerError, () => fault(target, "[mock: status=500]"));
  }],

  ["stream_that_dies", FOUR, async (target) => {
    const got = [];
    await raises(Error, async () => {
      for await (const chunk of await fault(target, "one two three four [mock: cut=5]", { stream: true })) got.push(chunk);
    });
    assert.ok(got.length > 0 && !got.some((c) => c.choices[0]?.finish_reason));
  }],
];
