// What this plugin is for, in a sentence.
//
// Names are those of wit/deps/portcullis/portcullis.wit in camel case; a variant is { tag: "name", val: … }, a u64 a BigInt.
// An exported object a phase: list each here, in `phases` below, and in wit/plugin.wit.

import { value } from "portcullis:plugin/config@1.0.0";

export const describe = {
  describe() {
    return {
      name: "example-name",
      version: "0.1.0",
      phases: [{ tag: "request" }],
      needs: [{ tag: "last-user-text" }],
      streamMode: undefined,
      window: undefined,
      // Nothing of one request is kept for another, so the operator may say isolation = "pooled".
      reusable: true,
    };
  },
};

export const request = {
  onRequest(request) {
    // [[stages]] config = { word = "please" }
    const word = value("word") ?? "please";
    if (request.lastUserText.includes(word)) return { tag: "continue" };
    return { tag: "reject", val: { status: 400, message: `say ${word}` } };
  },
};
