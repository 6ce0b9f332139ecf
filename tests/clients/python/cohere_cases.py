"""Cohere's SDK, chat and embeddings of version 2, over all upstream formats."""

import json

import cohere

from bench import CLOCK, KEY, PNG, TARGETS, URL, WEATHER, WRONG_KEY, case, fresh, heard, inside, raises, said, same

client = cohere.ClientV2(api_key=KEY, base_url=URL)
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "the weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "get_clock", "description": "the time", "parameters": CLOCK}},
]
ONCE = {"max_retries": 0}


def user(content):
    return [{"role": "user", "content": content}]


def ask(model, messages, **knobs):
    messages = user(messages) if isinstance(messages, str) else messages
    return client.chat(model=model, messages=messages, request_options=ONCE, **knobs)


@case(on=TARGETS)
def chat(target):
    answer = ask(TARGETS[target], "hello cohere", temperature=0, p=0.5, max_tokens=200, stop_sequences=["END"])
    same(answer.message.content[0].text, said(target, "hello cohere"))
    same(answer.finish_reason, "COMPLETE")
    assert answer.usage.billed_units.input_tokens > 0 and answer.usage.billed_units.output_tokens > 0, answer.usage


@case(on=TARGETS)
def stream(target):
    events = list(client.chat_stream(model=TARGETS[target], messages=user("hello stream")))
    same((events[0].type, events[-1].type), ("message-start", "message-end"))
    pieces = [e.delta.message.content.text for e in events if e.type == "content-delta"]
    same("".join(pieces), said(target, "hello stream"))
    assert len(pieces) > 2, "one lump is no stream"
    same(events[-1].delta.finish_reason, "COMPLETE")


@case(on=TARGETS)
def tools_and_results(target):
    mark = f"cohere {target} result"
    question = user("both get_weather and get_clock")
    first = ask(TARGETS[target], question, tools=TOOLS)
    same(first.finish_reason, "TOOL_CALL")
    calls = first.message.tool_calls
    same([call.function.name for call in calls], ["get_weather", "get_clock"])
    same(sorted(json.loads(calls[0].function.arguments)), ["city", "days"])
    results = [{"role": "tool", "tool_call_id": c.id, "content": f"{mark} of {c.function.name}"} for c in calls]
    answer = ask(TARGETS[target], question + [first.message, *results], tools=TOOLS)
    inside(f"{mark} of get_weather", answer.message.content[0].text)
    inside(f"{mark} of get_clock", answer.message.content[0].text)


@case(on=TARGETS)
def streamed_tools(target):
    events = list(client.chat_stream(model=TARGETS[target], messages=user("both get_weather and get_clock"), tools=TOOLS))
    names = [e.delta.message.tool_calls.function.name for e in events if e.type == "tool-call-start"]
    same(names, ["get_weather", "get_clock"])
    pieces = "".join(e.delta.message.tool_calls.function.arguments for e in events if e.type == "tool-call-delta")
    inside("city", pieces)
    same(events[-1].delta.finish_reason, "TOOL_CALL")


@case(on=TARGETS)
def any_tool(target):
    answer = ask(TARGETS[target], "say nothing", tools=TOOLS, tool_choice="REQUIRED")
    same(len(answer.message.tool_calls), 1)


@case(on=TARGETS)
def structured_output(target):
    schema = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}
    answer = ask(TARGETS[target], "judge cohere", response_format={"type": "json_object", "json_schema": schema})
    same(sorted(json.loads(answer.message.content[0].text)), ["title"])


@case(on=["openai", "anthropic", "gemini"])
def picture_and_document(target):
    mark = f"cohere {target} media"
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    ask(TARGETS[target], user([{"type": "text", "text": mark}, picture]), documents=[{"data": {"title": "t", "text": "words of a document"}}])
    said_upstream = json.dumps(heard(mark))
    inside(PNG, said_upstream)
    # As text where a format reads it so, else as base64.
    assert "words of a document" in said_upstream or "d29yZHMgb2YgYSBkb2N1bWVudA" in said_upstream, said_upstream


@case(on=["mock", "openai", "gemini"])
def embed(target):
    models = {"mock": "mock", "openai": "text-embedding-3-small", "gemini": "gemini-embedding-001"}
    answer = client.embed(model=models[target], texts=["a", "b"], input_type="search_query", embedding_types=["float"])
    same(len(answer.embeddings.float_), 2)
    assert len(answer.embeddings.float_[0]) > 8 and answer.meta.billed_units.input_tokens > 0, answer.meta


@case()
def refusals():
    other = cohere.ClientV2(api_key=WRONG_KEY, base_url=URL)
    error = raises(cohere.UnauthorizedError, lambda: other.chat(model="mock", messages=user("x"), request_options=ONCE))
    assert WRONG_KEY not in str(error), error
    inside("nothing-here", str(raises(cohere.NotFoundError, lambda: ask("nothing-here", "x"))))
    inside("messages", str(raises(cohere.BadRequestError, lambda: ask("mock", []))))


@case(on=TARGETS)
def upstream_errors(target):
    raises(cohere.TooManyRequestsError, lambda: ask(fresh(target), "[mock: status=429]"))
