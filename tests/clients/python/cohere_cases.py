"""The Python SDK `cohere` on chat, embeddings and rankings, over all upstream formats."""

import json

import cohere

from bench import CLOCK, FOUR, KEY, PNG, TARGETS, THINKERS, URL, WEATHER, WRONG_KEY, SMALL_KEY, case, fresh, heard, inside, raises, said, same


def connect(key):
    return cohere.ClientV2(api_key=key, base_url=URL)


client = connect(KEY)
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "the weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "get_clock", "description": "the time", "parameters": CLOCK}},
]
DOCUMENTS = ["the gate is open", "bread and butter", "the gate is shut"]
ONCE = {"request_options": {"max_retries": 0}}


def user(content):
    return {"role": "user", "content": content}


def ask(target, *messages, models=TARGETS, **knobs):
    messages = [user(m) if isinstance(m, str) else m for m in messages]
    return client.chat(model=models[target], messages=messages, **ONCE, **knobs)


def events_of(model, text, **knobs):
    return list(client.chat_stream(model=model, messages=[user(text)], **ONCE, **knobs))


def texts(message):
    return [part.text for part in message.content if part.type == "text"]


@case(on=TARGETS)
def chat(target):
    answer = ask(target, "hello cohere", temperature=0, max_tokens=200)
    same((answer.message.role, texts(answer.message)), ("assistant", [said(target, "hello cohere")]))
    same(answer.finish_reason, "COMPLETE")
    assert answer.id and answer.usage.tokens.input_tokens > 0 and answer.usage.tokens.output_tokens > 0, answer


@case(on=TARGETS)
def chat_stream(target):
    events = events_of(TARGETS[target], "hello stream")
    same((events[0].type, events[-1].type), ("message-start", "message-end"))
    pieces = [e.delta.message.content.text for e in events if e.type == "content-delta"]
    same("".join(pieces), said(target, "hello stream"))
    assert len(pieces) > 2, "one lump is no stream"
    same(events[-1].delta.finish_reason, "COMPLETE")
    assert events[-1].delta.usage.tokens.output_tokens > 0, events[-1]


@case(on=FOUR)
def system_and_bounds(target):
    mark = f"cohere gate before {target}"
    answer = ask(target, {"role": "system", "content": mark}, "one two three four", max_tokens=3)
    same(answer.finish_reason, "MAX_TOKENS")
    if target != "mock":
        inside(mark, json.dumps(heard(mark)))


@case(on=TARGETS)
def tools_and_results(target):
    mark = f"cohere {target} result"
    first = ask(target, "both get_weather and get_clock", tools=TOOLS)
    same(first.finish_reason, "TOOL_CALL")
    calls = first.message.tool_calls
    same([c.function.name for c in calls], ["get_weather", "get_clock"])
    same([set(json.loads(c.function.arguments)) for c in calls], [{"city", "days"}, {"zone"}])
    same(len({c.id for c in calls}), 2)
    results = [{"role": "tool", "tool_call_id": c.id, "content": f"{mark} of {c.function.name}"} for c in calls]
    text = "".join(texts(ask(target, "both get_weather and get_clock", first.message, *results, tools=TOOLS).message))
    inside(f"{mark} of get_weather", text)
    inside(f"{mark} of get_clock", text)


@case(on=TARGETS)
def tools_streamed(target):
    calls, ends = {}, 0
    events = events_of(TARGETS[target], "both get_weather and get_clock", tools=TOOLS)
    for event in events:
        if event.type == "tool-call-start":
            call = event.delta.message.tool_calls
            calls[event.index] = [call.id, call.function.name, call.function.arguments or ""]
        if event.type == "tool-call-delta":
            calls[event.index][2] += event.delta.message.tool_calls.function.arguments
        ends += event.type == "tool-call-end"
    made = [calls[at] for at in sorted(calls)]
    same(([name for _, name, _ in made], ends), (["get_weather", "get_clock"], 2))
    same([set(json.loads(arguments)) for _, _, arguments in made], [{"city", "days"}, {"zone"}])
    same(events[-1].delta.finish_reason, "TOOL_CALL")


@case(on=TARGETS)
def forced_tool(target):
    answer = ask(target, "say nothing", tools=TOOLS, tool_choice="REQUIRED")
    same(len(answer.message.tool_calls), 1)


@case(on=TARGETS)
def structured_output(target):
    schema = {"type": "object", "properties": {"title": {"type": "string"}, "score": {"type": "integer"}},
              "required": ["title", "score"], "additionalProperties": False}
    answer = ask(target, "judge cohere", response_format={"type": "json_object", "json_schema": schema})
    same(list(json.loads("".join(texts(answer.message)))), ["title", "score"])


@case(on=["openai", "anthropic", "gemini"])
def picture_and_document(target):
    mark = f"cohere {target} media"
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    ask(target, user([{"type": "text", "text": mark}, picture]), documents=[{"data": {"title": "t", "text": "words of a document"}}])
    told = json.dumps(heard(mark))
    inside(PNG, told)
    # As text where a format reads it so, else as base64.
    assert "words of a document" in told or "d29yZHMgb2YgYSBkb2N1bWVudA" in told, told


@case(on=FOUR)
def thinking(target):
    answer = ask(target, "think cohere", models=THINKERS, thinking={"type": "enabled", "token_budget": 1024})
    thoughts = [part.thinking for part in answer.message.content if part.type == "thinking"]
    inside("A mock repeats", "".join(thoughts))


@case(on=["mock", "openai", "gemini"])
def embed(target):
    model = {"mock": "mock", "openai": "text-embedding-3-small", "gemini": "gemini/gemini-embedding-001"}[target]
    answer = client.embed(model=model, texts=["one", "two"], input_type="search_document", embedding_types=["float"], **ONCE)
    same(len(answer.embeddings.float_), 2)
    assert len(answer.embeddings.float_[0]) > 8, answer


@case(on=["mock"])
def rerank(target):
    answer = client.rerank(model=target, query="is the gate open?", documents=DOCUMENTS, top_n=2)
    same(len(answer.results), 2)
    assert all(0 <= r.index < 3 and r.relevance_score >= 0 for r in answer.results), answer
    same([r.relevance_score for r in answer.results], sorted((r.relevance_score for r in answer.results), reverse=True))


@case()
def refusals():
    asks = [
        lambda c, model: c.chat(model=model, messages=[user("x")], **ONCE),
        lambda c, model: c.embed(model=model, texts=["x"], input_type="search_query", embedding_types=["float"], **ONCE),
        lambda c, model: c.rerank(model=model, query="x", documents=DOCUMENTS, **ONCE),
    ]
    for make in asks:
        error = raises(cohere.UnauthorizedError, lambda: make(connect(WRONG_KEY), "mock"))
        assert WRONG_KEY not in str(error), error
        raises(cohere.ForbiddenError, lambda: make(connect(SMALL_KEY), "gpt-4.1"))
        inside("nothing-here", str(raises(cohere.NotFoundError, lambda: make(client, "nothing-here"))))
    raises(cohere.BadRequestError, lambda: client.chat(model="mock", messages=[], **ONCE))


@case(on=FOUR)
def upstream_errors(target):
    limited = [user("[mock: status=429, retry_after=17]")]
    raises(cohere.TooManyRequestsError, lambda: client.chat(model=fresh(target), messages=limited, **ONCE))


@case(on=FOUR)
def stream_that_dies(target):
    got = []

    def read():
        got.extend(events_of(fresh(target), "one two three four [mock: cut=5]"))

    try:
        read()
    except Exception:
        return
    assert not any(e.type == "message-end" and e.delta.finish_reason == "COMPLETE" for e in got), got
