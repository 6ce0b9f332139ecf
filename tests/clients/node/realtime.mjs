// The Node SDK `openai` on the realtime WebSocket, with its class on the platform's own `WebSocket`: its key travels among
// the subprotocols.

import assert from "node:assert/strict";

import OpenAI from "openai";
import { OpenAIRealtimeWebSocket } from "openai/realtime/websocket";

import { KEY, URL_, WRONG_KEY, inside, same } from "./bench.mjs";

// This class insists on TLS, which ends before a gateway on the loopback.
const { WebSocket } = globalThis;
globalThis.WebSocket = class extends WebSocket {
  constructor(url, protocols) {
    super(String(url).replace(/^wss:/, "ws:"), protocols);
  }
};

const connect = (model, apiKey = KEY) =>
  new OpenAIRealtimeWebSocket({ model }, new OpenAI({ baseURL: `${URL_}/v1`, apiKey, maxRetries: 0 }));

// Everything that is told until the answer is done.
const talk = (socket, text) =>
  new Promise((resolve, reject) => {
    const told = [];
    const late = setTimeout(() => reject(new Error(`no answer: ${JSON.stringify(told)}`)), 10000);
    socket.on("error", (error) => (clearTimeout(late), reject(error)));
    socket.on("event", (event) => {
      told.push(event);
      if (event.type === "session.created") {
        socket.send({ type: "session.update", session: { type: "realtime", output_modalities: ["text"] } });
        const content = [{ type: "input_text", text }];
        socket.send({ type: "conversation.item.create", item: { type: "message", role: "user", content } });
        socket.send({ type: "response.create" });
      }
      if (event.type === "response.done") {
        clearTimeout(late);
        resolve(told);
      }
    });
  });

export const table = [
  ["text_over_a_socket", ["mock", "openai"], async (target) => {
    const socket = connect({ mock: "mock", openai: "gpt-realtime" }[target]);
    const told = await talk(socket, "hello node realtime");
    socket.close();
    inside("mock heard", told.filter((e) => e.type === "response.output_text.delta").map((e) => e.delta).join(""));
    const { response } = told.at(-1);
    same(response.status, "completed");
    assert.ok(response.usage.input_tokens > 0 && response.usage.output_tokens > 0, JSON.stringify(response.usage));
  }],

  ["refusals", null, async () => {
    for (const [model, key] of [["mock", WRONG_KEY], ["nothing-here", KEY]]) {
      const socket = connect(model, key);
      await assert.rejects(talk(socket, "x"));
    }
  }],
];
