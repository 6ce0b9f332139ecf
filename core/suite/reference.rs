//! The format of `*.test.toml`, told from the tables that read it: the last part of `scripts/README.md`.

use std::fmt::Write;

use super::{
    case::{CASE, CONTEXT},
    expect::{EXPECT, MATCH},
    told::{ANSWER, TARGET},
};

/// In Markdown.
pub fn reference() -> String {
    let mut out = String::from(HEAD);
    table(&mut out, "a case", CASE, CASES);
    out.push_str(CONTEXTS);
    table(&mut out, "context", CONTEXT, CONTEXT_TEXTS);
    out.push_str(ANSWERS);
    table(&mut out, "an answer", ANSWER, ANSWER_TEXTS);
    out.push_str(TARGETS);
    table(&mut out, "a target", TARGET, TARGET_TEXTS);
    out.push_str(EXPECTS);
    let keys: Vec<&str> = EXPECT.iter().map(|(key, _)| *key).collect();
    table(&mut out, "expect", &keys, EXPECT);
    out.push_str(&TAIL.replace("{ways}", &MATCH.join("`, `")));
    out
}

/// A row for every key; a key without words shows as such, and a test finds it.
fn table(out: &mut String, what: &str, keys: &[&str], texts: &[(&str, &str)]) {
    // Writing to a String does not fail.
    let _ = writeln!(out, "\n| {what} | what it says |\n|---|---|");
    for key in keys {
        let text = texts.iter().find(|(name, _)| name == key).map_or(UNTOLD, |(_, text)| *text);
        let _ = writeln!(out, "| `{key}` | {text} |");
    }
}

/// Stands where words are missing.
pub const UNTOLD: &str = "(not described)";

const HEAD: &str = "
## Cases

`name.test.toml` beside `name.rhai` (or `name.wasm`) holds cases. `portcullis test` runs them, several at a time, and a
change of the script that breaks one does not go live. Each case is a request that goes through the real gateway, with the
one stage that it is about (or with all, `stages = \"all\"`): limits, routing, attempts, retries, failover, streams and
accounting are what they are in production. Nothing is sent: upstreams answer as the case says, in the format of their
provider. No time passes: waits, timeouts and latencies are virtual. No key of yours is used, `kv` is empty at the start of
each case, `http` and metrics do nothing. The same case gives the same result every time.

```toml
[[case]]
name = \"essays go to the house's large model\"
request = { model = \"smart\", messages = [{ role = \"user\", content = \"draft an essay on tides\" }] }
context = { team = \"marketing\", now = \"2026-01-01T00:00:00Z\", seed = 7 }
expect = { target = \"house/large\" }

[[case]]
name = \"a short answer tries the next target\"
targets = [{ name = \"a/small\" }, { name = \"b/large\" }]
answers = { \"a/small\" = { text = \"ok\" }, \"b/large\" = { text = \"a long and useful answer\", latency = \"3s\" } }
expect = { attempts = [\"a/small\", \"b/large\"], verdict = \"next\", text = { contains = \"useful\" } }

[[case]]
name = \"a target that is down stands last, and an overloaded one is left\"
targets = [{ name = \"a/x\", breaker = \"open\" }, { name = \"b/y\" }, { name = \"c/z\" }]
answers = { \"b/y\" = { status = 503, retry_after = 1 } }
expect = { targets = [\"b/y\", \"c/z\", \"a/x\"], attempts = [\"b/y\", \"c/z\"], answered = \"c/z\" }

[[case]]
name = \"the number is hidden wherever the stream is cut\"
request = { stream = true }
answers = [{ events = [{ text = \"call +49 30 1234\" }, { text = \"56 now\" }] }]
splits = \"every\"
expect = { text = \"call [phone] now\" }
```

Unknown keys are errors, with the line and the nearest known one.
";

const CASES: &[(&str, &str)] = &[
    ("name", "stands in the report; needed"),
    ("request", "the body; what its format needs and is not given is filled in (`model = \"auto\"`, one user message)"),
    (
        "format",
        "the client's wire format: `openai_chat` (the default), `anthropic_messages`, `openai_responses`, `gemini`, `bedrock_converse`, cohere or ollama; where the path has `model` and `stream`, they still stand in `request`",
    ),
    ("operation", "`chat` (the default), `embeddings` or `count_tokens`"),
    ("context", "who asks, and when; see below"),
    ("targets", "targets that stand for whatever is asked for without a provider's name, in this order; see below"),
    ("live", "figures of targets that the configuration names: `{ \"provider/model\" = { … } }`"),
    ("spent", "US dollars that were spent of budgets, by team or by scope: `{ research = 49.5, \"model:smart\" = 3 }`"),
    ("answers", "what upstreams say; see below"),
    (
        "splits",
        "`none` (the default); `characters`: the same must come out when each character is an event, each part is one, and each byte comes alone; `every`: and for each text cut in two at every place",
    ),
    ("stages", "`alone` (the default): this file's stage; `all`: the whole pipeline as configured"),
    ("config", "the stage's `config`, in place of the one in gateway.toml"),
    ("configs", "with `stages = \"all\"`: the same of other stages, `{ \"scripts/a.rhai\" = { … } }`"),
    ("expect", "see below; needed"),
];

const CONTEXTS: &str = "
`context` says who asks. A team that gateway.toml knows has its models, limits, defaults and budget.
";

const CONTEXT_TEXTS: &[(&str, &str)] = &[
    ("team", "of the key"),
    ("key", "the key's name; `test` by default"),
    ("user", "of the key"),
    ("roles", "an array of strings"),
    ("models", "the key's own list of models: `[\"smart\", \"house/*\"]`"),
    ("tags", "a table of strings, as `x-portcullis-tags` would give them"),
    ("headers", "a table of strings: the caller's headers"),
    ("priority", "`low`, `normal` or `high`"),
    ("now", "`context.now`, and the time of limits and budgets: `2026-01-01T00:00:00Z` by default"),
    ("seed", "for `choose`, weighted targets and the waits between retries; 0 by default"),
];

const ANSWERS: &str = "
`answers` is an array, one an attempt in the order in which they are made, or a table by target: `{ \"house/large\" = { … },
\"*\" = { … } }`, where a target may have an array (one after another, the last again and again) and `*` stands for all others.
A string is an answer of that text. Who is told nothing says a few words. Usage is 10 tokens in and 5 out unless it is told.
What a script asks with `ask` and `embed_similarity` is answered by the same table, and is no attempt: an array of answers does
not count it. An embeddings model that is told nothing makes its vectors of a text's words, so that texts which share some are
near each other.
";

const ANSWER_TEXTS: &[(&str, &str)] = &[
    ("text", "of the answer"),
    ("reasoning", "before it"),
    ("tool_calls", "tables `{ name, arguments, id }`; `arguments` as a table, or as the string that the model wrote"),
    (
        "events",
        "in place of the three: an array of `{ text }`, `{ reasoning }`, `{ tool, id, arguments }`, and `{ arguments }` for more of the call before it; each is one event of a stream",
    ),
    ("finish", "`stop`, `length`, `tool_calls` or `content_filter`"),
    ("usage", "`{ input, output, cached, cache_write, reasoning }` in tokens"),
    ("model", "as the upstream names it"),
    ("status", "400 to 599: a refusal in the shape of the upstream's format"),
    ("message", "of a refusal"),
    ("retry_after", "of a refusal: seconds, or a duration"),
    ("headers", "of the answer"),
    ("latency", "the wait before its head: `\"2s\"`"),
    ("pace", "the wait before each event"),
    ("timeout", "`true`: nothing ever comes"),
    ("refused", "`true`: no connection"),
    ("cut", "the connection dies after so many pieces of text"),
    ("stall", "silence after so many pieces of text"),
    ("body", "these bytes instead, whatever they are"),
    (
        "vectors",
        "of an embeddings model: `{ word = [1, 0], other = [0, 1] }`, what a text that holds the word becomes (the first that fits; zeros when none does)",
    ),
];

const TARGETS: &str = "
`targets` and `live` give targets their figures, as scripts see them and as routing counts them.
";

const TARGET_TEXTS: &[(&str, &str)] = &[
    ("name", "`provider/model`; in `live` it is the key"),
    ("healthy", "`false` is `breaker = \"open\"`"),
    ("breaker", "`closed`, `open` (for a minute) or `half_open` (one probe may go)"),
    ("resting", "`true`: every key of its provider rests"),
    ("latency_ms", "smoothed time to the first event"),
    ("in_flight", "requests under way"),
    ("price_input", "USD per million tokens, in place of the configured or known price"),
    ("price_output", "the same"),
    ("quota_left", "requests that are left"),
    ("quota_resets_in", "seconds until it is full again"),
    ("context_window", "tokens"),
];

const EXPECTS: &str = "
`expect` is compared with what came. Tables need only the keys that matter, arrays all their places.
";

const TAIL: &str = "
A text is compared whole, or by a table of `{ways}` (a pattern). `request` and `sent` take canonical names
(`temperature`, `top_p`, `top_k`, `max_tokens`, `stop`, `seed`, `metadata`, `messages` as texts), keys of the body, dotted
paths (`\"messages.0.content\"`, `\"messages.-1.content\"`) and whole pieces of a body.

A failing case names its file and line, what was expected, what came, and what went wrong on the way:

```text
FAILED scripts/route.test.toml:9 \"essays go to the house's large model\"
       expected target \"house/large\", got \"mock/mock\"
```

`portcullis test` ends with 1 when a case fails. `--filter WORD` runs some, `--coverage-min 80` asks for a share of a script's
lines, `--junit FILE` writes a report for CI, `--json` prints one object.
";
