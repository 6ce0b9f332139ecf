// The Node SDK `openai` on responses and legacy completions, over all upstream formats.

import assert from "node:assert/strict";

import OpenAI from "openai";

import {
  ALL, CLOCK, FOUR, KEY, PNG, SIGNATURE, TARGETS, THINKERS, URL_, VERDICT, WEATHER, WRONG_KEY, collect, fresh, heard, inside, raises, said,
  same,
} from "./bench.mjs";

const connect = (apiKey) => new OpenAI({ baseURL: `${URL_}/v1`, apiKey, maxRetries: 0 });
const client = connect(KEY);
const tools = [
  { type: "function", name: "get_weather", description: "the weather", parameters: WEATHER, strict: false },
  { type: "function", name: "get_clock", description: "the time", parameters: CLOCK, strict: false },
];

const ask = (target, input, knobs = {}, models = TARGETS) => client.responses.create({ model: models[target], input, ...knobs });
const stream = async (...all) => collect(await ask(all[0], all[1], { ...all[2], stream: true }, all[3]));
const fault = (target, text, knobs) => ask(target, text, knobs, { [target]: fresh(target) });

export const table = [
  ["plain_response", ALL, async (target) => {
    const answer = await ask(target, "hello node responses");
    same([answer.status, answer.output_text], ["completed", said(target, "hello node responses")]);
    assert.ok(answer.usage.input_tokens > 0 && answer.usage.output_tokens > 0);
    assert.ok(answer._request_id);
  }],

  ["stream", ALL, async (target) => {
    const events = await stream(target, "stream it");
    same([events[0].type, events.at(-1).type], ["response.created", "response.completed"]);
    const pieces = events.filter((e) => e.type === "response.output_text.delta").map((e) => e.delta);
    same(pieces.join(""), said(target, "stream it"));
    assert.ok(pieces.length > 2 && events.at(-1).response.usage.output_tokens > 0);
  }],

  ["stream_helper", FOUR, async (target) => {
    const final = await client.responses.stream({ model: TARGETS[target], input: "with help" }).finalResponse();
    same(final.output_text, said(target, "with help"));
  }],

  ["function_calls_and_outputs", ALL, async (target) => {
    for (const streaming of [false, true]) {
      const mark = `node responses ${target} ${streaming} result`;
      const asked = "both get_weather and get_clock";
      const first = streaming ? (await stream(target, asked, { tools })).at(-1).response : await ask(target, asked, { tools });
      same(first.output.map((c) => [c.type, c.name]), [["function_call", "get_weather"], ["function_call", "get_clock"]]);
      same(first.output.map((c) => Object.keys(JSON.parse(c.arguments)).length), [2, 1]);
      const outputs = first.output.map((c) => ({ type: "function_call_output", call_id: c.call_id, output: `${mark} ${c.name}` }));
      const { output_text } = await ask(target, [{ role: "user", content: asked }, ...first.output, ...outputs], { tools });
      inside(`${mark} get_weather`, output_text);
      inside(`${mark} get_clock`, output_text);
      // The same by what the gateway remembers.
      inside(`${mark} get_clock`, (await ask(target, outputs, { tools, previous_response_id: first.id })).output_text);
    }
  }],

  ["structured_output", ALL, async (target) => {
    const text = { format: { type: "json_schema", name: "verdict", strict: true, schema: VERDICT } };
    const answer = await client.responses.parse({ model: TARGETS[target], input: "judge it", text });
    same(Object.keys(answer.output_parsed), ["title", "score", "tags"]);
  }],

  ["image_in", FOUR, async (target) => {
    const mark = `node responses picture ${target}`;
    const content = [{ type: "input_text", text: mark }, { type: "input_image", image_url: `data:image/png;base64,${PNG}`, detail: "auto" }];
    same((await ask(target, [{ role: "user", content }])).output_text, said(target, mark));
    if (target !== "mock") inside(PNG, await heard(mark));
  }],

  ["reasoning_round_trip", FOUR, async (target) => {
    const mark = `node responses goes on ${target}`;
    const knobs = { store: false, include: ["reasoning.encrypted_content"], reasoning: { effort: "low", summary: "auto" } };
    const first = await ask(target, "think", knobs, THINKERS);
    same(first.output.map((i) => i.type), ["reasoning", "message"]);
    await ask(target, [{ role: "user", content: "think" }, ...first.output, { role: "user", content: mark }], knobs, THINKERS);
    if (target === "anthropic" || target === "gemini") inside(SIGNATURE, await heard(mark));
  }],

  ["kept_and_forgotten", FOUR, async (target) => {
    const made = await ask(target, `node keeps ${target}`);
    same((await client.responses.retrieve(made.id)).output_text, made.output_text);
    same((await collect(client.responses.inputItems.list(made.id))).map((i) => i.content[0].text), [`node keeps ${target}`]);
    await client.responses.delete(made.id);
    await raises(OpenAI.NotFoundError, () => client.responses.retrieve(made.id));
  }],

  ["conversation_by_its_id", FOUR, async (target) => {
    const mark = `node conversation ${target}`;
    // Where turns alternate, two of one speaker in a row would become one.
    const said_before = [["user", `${mark} first`], ["assistant", "noted"]];
    const kept = await client.conversations.create({ items: said_before.map(([role, content]) => ({ type: "message", role, content })) });
    await ask(target, `${mark} second`, { conversation: kept.id });
    same((await ask(target, `${mark} third`, { conversation: { id: kept.id } })).output_text, said(target, `${mark} third`));
    const items = await collect(client.conversations.items.list(kept.id, { order: "asc", limit: 2 }));
    const texts = items.filter((item) => item.type === "message").map((item) => item.content[0].text);
    same(texts, [`${mark} first`, "noted", `${mark} second`, said(target, `${mark} second`), `${mark} third`, said(target, `${mark} third`)]);
    same((await client.conversations.delete(kept.id)).deleted, true);
    await raises(OpenAI.NotFoundError, () => ask(target, "x", { conversation: kept.id }));
  }],

  ["errors", null, async () => {
    await raises(OpenAI.AuthenticationError, () => connect(WRONG_KEY).responses.create({ model: "mock", input: "x" }));
    same((await raises(OpenAI.NotFoundError, () => client.responses.create({ model: "nothing-here", input: "x" }))).code, "model_not_found");
    inside("temperature", (await raises(OpenAI.BadRequestError, () => ask("mock", "x", { temperature: "hot" }))).message);
  }],

  ["upstream_errors", FOUR, async (target) => {
    const limited = await raises(OpenAI.RateLimitError, () => fault(target, "[mock: status=429, retry_after=17]"));
    same(limited.headers.get("retry-after"), "17");
    await raises(OpenAI.InternalServerError, () => fault(target, "[mock: status=500]"));
  }],

  ["stream_that_dies", FOUR, async (target) => {
    const got = [];
    await raises(OpenAI.APIError, async () => {
      for await (const event of await fault(target, "one two three four [mock: cut=7]", { stream: true })) got.push(event.type);
    });
    assert.ok(got.length > 0 && !got.includes("response.completed"), got.join());
  }],

  ["legacy_completion", FOUR, async (target) => {
    const asked = { model: TARGETS[target], prompt: "node legacy", max_tokens: 100 };
    same((await client.completions.create(asked)).choices[0].text, said(target, "node legacy"));
    const chunks = await collect(await client.completions.create({ ...asked, stream: true }));
    same(chunks.map((c) => c.choices[0]?.text ?? "").join(""), said(target, "node legacy"));
  }],
];
