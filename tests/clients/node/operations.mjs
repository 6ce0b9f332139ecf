// The Node SDK `openai` on moderations, images, sound, files and batches.

import assert from "node:assert/strict";

import OpenAI, { toFile } from "openai";

import { KEY, PNG, SMALL_KEY, URL_, WRONG_KEY, collect, fresh, raises, same } from "./bench.mjs";

const connect = (apiKey) => new OpenAI({ baseURL: `${URL_}/v1`, apiKey, maxRetries: 0 });
const client = connect(KEY);
const ON = ["mock", "openai"];
const named = (target, openais) => (target === "mock" ? "mock" : openais);
const picture = () => toFile(Buffer.from(PNG, "base64"), "gate.png", { type: "image/png" });
const sound = () => toFile(Buffer.from("RIFF....WAVEfmt "), "words.wav", { type: "audio/wav" });
const shown = ({ data }) => assert.ok(data[0].b64_json || data[0].url, JSON.stringify(data));

export const table = [
  ["moderation", ON, async (target) => {
    const answer = await client.moderations.create({ model: named(target, "omni-moderation-latest"), input: "kind words" });
    same(answer.results[0].flagged, false);
  }],

  ["images", ON, async (target) => {
    shown(await client.images.generate({ model: named(target, "gpt-image-1"), prompt: "a gate" }));
    shown(await client.images.edit({ model: named(target, "gpt-image-1"), image: await picture(), prompt: "red" }));
    shown(await client.images.edit({ model: named(target, "gpt-image-1"), image: [await picture(), await picture()], prompt: "both" }));
    shown(await client.images.createVariation({ model: named(target, "dall-e-2"), image: await picture() }));
  }],

  ["sound", ON, async (target) => {
    const spoken = await client.audio.speech.create({ model: named(target, "tts-1"), voice: "alloy", input: "open the gate" });
    assert.ok((await spoken.arrayBuffer()).byteLength > 0);
    assert.ok((await client.audio.transcriptions.create({ model: named(target, "whisper-1"), file: await sound() })).text);
    assert.ok((await client.audio.translations.create({ model: named(target, "whisper-1"), file: await sound() })).text);
  }],

  ["streamed", ON, async (target) => {
    const model = named(target, "gpt-image-1");
    const made = await collect(await client.images.generate({ model, prompt: "a gate", stream: true, partial_images: 1 }));
    same(made.map((event) => event.type), ["image_generation.partial_image", "image_generation.completed"]);
    const heard = await collect(await client.audio.transcriptions.create({ model: named(target, "gpt-4o-transcribe"), file: await sound(), stream: true }));
    same(heard.map((event) => event.type), ["transcript.text.delta", "transcript.text.done"]);
    same(heard[0].delta, heard[1].text);
  }],

  ["files_and_batches", ON, async (target) => {
    const content = '{"custom_id": "one"}\n';
    const headers = { "x-portcullis-provider": target };
    const file = await client.files.create({ file: await toFile(Buffer.from(content), "lines.jsonl"), purpose: "batch" }, { headers });
    same([file.object, file.bytes], ["file", content.length]);
    assert.ok((await (await client.files.content(file.id)).text()).includes("custom_id"));
    assert.ok((await collect(client.files.list())).some((f) => f.id === file.id));
    const batch = await client.batches.create({ input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h" });
    same([batch.input_file_id, (await client.batches.retrieve(batch.id)).id], [file.id, batch.id]);
    await raises(OpenAI.NotFoundError, () => connect(SMALL_KEY).files.retrieve(file.id));
    await raises(OpenAI.NotFoundError, () => connect(SMALL_KEY).batches.retrieve(batch.id));
    same((await client.files.delete(file.id)).deleted, true);
  }],

  ["errors", null, async () => {
    const make = (key, model) => () => connect(key).images.generate({ model, prompt: "x" });
    await raises(OpenAI.AuthenticationError, make(WRONG_KEY, "mock"));
    same((await raises(OpenAI.NotFoundError, make(KEY, "nothing-here"))).code, "model_not_found");
    await raises(OpenAI.PermissionDeniedError, make(SMALL_KEY, "gpt-image-1"));
    const limited = await raises(OpenAI.RateLimitError, () => client.images.generate({ model: fresh("openai"), prompt: "[mock: status=429, retry_after=17]" }));
    same(limited.headers.get("retry-after"), "17");
  }],
];
