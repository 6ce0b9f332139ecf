// The Node SDK `@google/genai` on generateContent, embeddings, token counts and models, over all upstream formats.

import assert from "node:assert/strict";

import { ApiError, GoogleGenAI } from "@google/genai";

import {
  ALL, CLOCK, FOUR, KEY, PNG, SIGNATURE, SMALL_KEY, TARGETS, THINKERS, URL_, VERDICT, WEATHER, WRONG_KEY, collect, fresh, heard, inside,
  raises, said, same,
} from "./bench.mjs";

const connect = (apiKey, baseUrl = URL_) => new GoogleGenAI({ apiKey, httpOptions: { baseUrl, retryOptions: { attempts: 1 } } });
const client = connect(KEY);
const user = (text) => ({ role: "user", parts: [{ text }] });
const tools = [{
  functionDeclarations: [
    { name: "get_weather", description: "the weather", parametersJsonSchema: WEATHER },
    { name: "get_clock", description: "the time", parametersJsonSchema: CLOCK },
  ],
}];
const thinkingConfig = { includeThoughts: true, thinkingBudget: 1024 };

const ask = (target, contents, config = {}, models = TARGETS) =>
  client.models.generateContent({ model: models[target], contents, config });
const stream = async (target, contents, config = {}, models = TARGETS) =>
  collect(await client.models.generateContentStream({ model: models[target], contents, config }));
const fault = (target, text) => client.models.generateContent({ model: fresh(target), contents: text });

async function fails(status, call) {
  const error = await raises(ApiError, call);
  same(error.status, status);
  return error;
}

export const table = [
  ["plain_content", ALL, async (target) => {
    const answer = await ask(target, "hello node google", { temperature: 0 });
    same(answer.text, said(target, "hello node google"));
    same(answer.candidates[0].finishReason, "STOP");
    same(answer.modelVersion, TARGETS[target]);
    assert.ok(answer.usageMetadata.promptTokenCount > 0 && answer.usageMetadata.candidatesTokenCount > 0);
  }],

  ["stream", ALL, async (target) => {
    const chunks = await stream(target, "stream it");
    same(chunks.map((c) => c.text ?? "").join(""), said(target, "stream it"));
    same(chunks.flatMap((c) => c.candidates?.[0]?.finishReason ?? []), ["STOP"]);
    assert.ok(chunks.length > 2 && chunks.at(-1).usageMetadata.candidatesTokenCount > 0);
  }],

  ["system_and_bounds", FOUR, async (target) => {
    const mark = `node google's gate before ${target}`;
    const answer = await ask(target, "one two three four", { systemInstruction: mark, maxOutputTokens: 3 });
    same(answer.candidates[0].finishReason, "MAX_TOKENS");
    if (target !== "mock") inside(mark, await heard(mark));
  }],

  ["function_call_and_response", ALL, async (target) => {
    const mark = `node google ${target}: 21 degrees`;
    const first = await ask(target, "both get_weather and get_clock", { tools });
    same(first.functionCalls.map((c) => c.name), ["get_weather", "get_clock"]);
    same(first.functionCalls.map((c) => Object.keys(c.args).length), [2, 1]);
    const parts = first.functionCalls.map(({ id, name }) => ({ functionResponse: { id, name, response: { result: `${mark} ${name}` } } }));
    const turns = [user("both get_weather and get_clock"), first.candidates[0].content, { role: "user", parts }];
    const { text } = await ask(target, turns, { tools });
    inside(`${mark} get_weather`, text);
    inside(`${mark} get_clock`, text);
    if (target === "openai") {
      const { messages } = await heard(mark);
      same(messages.filter((m) => m.role === "tool").map((m) => m.tool_call_id), messages.flatMap((m) => m.tool_calls ?? []).map((c) => c.id));
    }
  }],

  ["parallel_functions_streamed", ALL, async (target) => {
    const calls = (await stream(target, "both get_weather and get_clock", { tools })).flatMap((c) => c.functionCalls ?? []);
    same(calls.map((c) => c.name), ["get_weather", "get_clock"]);
    same(calls.map((c) => Object.keys(c.args).length), [2, 1]);
  }],

  ["forced_function", ALL, async (target) => {
    const only = { functionCallingConfig: { mode: "ANY", allowedFunctionNames: ["get_clock"] } };
    same((await ask(target, "say nothing", { tools, toolConfig: only })).functionCalls.map((c) => c.name), ["get_clock"]);
  }],

  ["structured_output", ALL, async (target) => {
    const mark = `judge node google ${target}`;
    const answer = await ask(target, mark, { responseMimeType: "application/json", responseJsonSchema: VERDICT });
    same(Object.keys(JSON.parse(answer.text)), ["title", "score", "tags"]);
    if (target !== "mock") inside("score", await heard(mark));
  }],

  ["image_in", FOUR, async (target) => {
    const mark = `node google's picture ${target}`;
    const parts = [{ text: mark }, { inlineData: { mimeType: "image/png", data: PNG } }];
    same((await ask(target, [{ role: "user", parts }])).text, said(target, mark));
    if (target !== "mock") inside(PNG, await heard(mark));
  }],

  ["thoughts_round_trip", FOUR, async (target) => {
    const mark = `node google goes on ${target}`;
    const parts = (await stream(target, "think", { thinkingConfig }, THINKERS)).flatMap((c) => c.candidates?.[0]?.content?.parts ?? []);
    same(parts.filter((p) => p.thought).map((p) => p.text ?? "").join("").split("A mock repeats").length, 2);
    await ask(target, [user("think"), { role: "model", parts }, user(mark)], { thinkingConfig }, THINKERS);
    if (target === "anthropic" || target === "gemini") inside(SIGNATURE, await heard(mark));
  }],

  ["chat_session", FOUR, async (target) => {
    const chat = client.chats.create({ model: TARGETS[target] });
    same((await chat.sendMessage({ message: "first turn" })).text, said(target, "first turn"));
    const pieces = await collect(await chat.sendMessageStream({ message: "second turn" }));
    same(pieces.map((c) => c.text ?? "").join(""), said(target, "second turn"));
    same(chat.getHistory().filter((c) => c.role === "user").length, 2);
  }],

  ["count_tokens", FOUR, async (target) => {
    assert.ok((await client.models.countTokens({ model: TARGETS[target], contents: "how long?" })).totalTokens > 0);
  }],

  ["embeddings", ["mock", "openai", "gemini"], async (target) => {
    const model = { mock: "mock", openai: "text-embedding-3-small", gemini: "gemini-embedding-001" }[target];
    const answer = await client.models.embedContent({ model, contents: ["one", "two"], config: { outputDimensionality: 16 } });
    same(answer.embeddings.map((e) => e.values.length), [16, 16]);
  }],

  ["models", null, async () => {
    const names = (await collect(await client.models.list())).map((m) => m.name);
    assert.ok(names.includes("models/mock") && names.includes("models/smart"), names.join());
    same((await client.models.get({ model: "mock" })).name, "models/mock");
  }],

  ["errors", null, async () => {
    const create = (key, model) => () => connect(key).models.generateContent({ model, contents: "x" });
    inside("UNAUTHENTICATED", (await fails(401, create(WRONG_KEY, "mock"))).message);
    inside("PERMISSION_DENIED", (await fails(403, create(SMALL_KEY, "gpt-4.1"))).message);
    inside("nothing-here", (await fails(404, create(KEY, "nothing-here"))).message);
    inside("temperature", (await fails(400, () => ask("mock", "x", { temperature: "hot" }))).message);
  }],

  ["upstream_errors", FOUR, async (target) => {
    inside("RESOURCE_EXHAUSTED", (await fails(429, () => fault(target, "[mock: status=429, retry_after=17]"))).message);
    assert.ok((await raises(ApiError, () => fault(target, "[mock: status=500]"))).status >= 500);
  }],

  ["stream_that_dies", FOUR, async (target) => {
    const got = [];
    await raises(Error, async () => {
      const chunks = await client.models.generateContentStream({ model: fresh(target), contents: "one two three four [mock: cut=5]" });
      for await (const chunk of chunks) got.push(chunk);
    });
    assert.ok(got.length > 0 && !got.some((c) => c.candidates?.[0]?.finishReason));
  }],

  ["as_vertex", FOUR, async (target) => {
    const vertex = new GoogleGenAI({ vertexai: true, apiKey: KEY, httpOptions: { baseUrl: URL_ } });
    same((await vertex.models.generateContent({ model: TARGETS[target], contents: "vertex" })).text, said(target, "vertex"));
  }],

  ["under_a_prefix", null, async () => {
    const answer = await connect(KEY, `${URL_}/gemini`).models.generateContent({ model: "mock", contents: "prefix" });
    same(answer.text, said("mock", "prefix"));
  }],
];
