"""The Python SDK `openai` on chat completions, embeddings and models, over all upstream formats."""

import asyncio
import json
import math

import openai
from pydantic import BaseModel

from bench import (
    CLOCK, FOUR, KEY, PDF, PNG, SEEING, SMALL_KEY, TARGETS, THINKERS, UPSTREAMS, URL, WEATHER, WRONG_KEY, case, fresh, heard, heard_whole,
    inside, raises, said, same,
)

client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "the weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "get_clock", "description": "the time", "parameters": CLOCK}},
]


def fault(target, text, **knobs):
    return client.chat.completions.create(model=fresh(target), messages=user(text), **knobs)


def user(text):
    return [{"role": "user", "content": text}]


def ask(target, messages, models=TARGETS, **knobs):
    messages = user(messages) if isinstance(messages, str) else messages
    return client.chat.completions.create(model=models[target], messages=messages, **knobs)


@case(on=TARGETS)
def plain_chat(target):
    answer = ask(target, "hello openai plain")
    same(answer.object, "chat.completion")
    same(answer.choices[0].message.role, "assistant")
    same(answer.choices[0].message.content, said(target, "hello openai plain"))
    same(answer.choices[0].finish_reason, "stop")
    same(answer.model, TARGETS[target])
    assert answer.id and answer.created > 0, answer
    assert answer.usage.prompt_tokens > 0 and answer.usage.completion_tokens > 0, answer.usage
    same(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)


@case(on=FOUR)
def answer_headers(target):
    raw = client.chat.completions.with_raw_response.create(model=TARGETS[target], messages=user("headers"))
    assert raw.request_id, dict(raw.headers)
    inside(TARGETS[target], raw.headers["x-portcullis-target"])
    same(raw.headers["x-portcullis-model"], TARGETS[target])
    same(raw.parse().choices[0].message.content, said(target, "headers"))


@case(on=UPSTREAMS)
def upstream_gets_its_own_key(target):
    ask(target, "whose key is it")
    headers = heard_whole("whose key is it")["headers"]
    name = {"openai": "authorization", "anthropic": "x-api-key", "gemini": "x-goog-api-key"}[target]
    inside("upstream-key-4711", headers[name])


@case(on=TARGETS)
def stream(target):
    chunks = list(ask(target, "hello stream", stream=True))
    same("".join(c.choices[0].delta.content or "" for c in chunks if c.choices), said(target, "hello stream"))
    same([c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason], ["stop"])
    same(chunks[0].choices[0].delta.role, "assistant")
    same(len({c.id for c in chunks}), 1)
    assert all(c.usage is None for c in chunks), "usage that nobody asked for"
    assert sum(bool(c.choices and c.choices[0].delta.content) for c in chunks) > 2, "one lump is no stream"


@case(on=FOUR)
def held_stream(target):
    asked = dict(
        model=f"{fresh(target)}-held", messages=user("one two three four [mock: pace=60ms]"), stream=True
    )
    with client.chat.completions.with_streaming_response.create(**asked) as answer:
        assert sum(line == ": keep-alive" for line in answer.iter_lines()) > 1, "no keep-alive while it is held back"
    chunks = list(client.chat.completions.create(**asked))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    inside("heard: one two three four", text)
    assert text.endswith(" (held)"), text


@case(on=TARGETS)
def stream_with_usage(target):
    chunks = list(ask(target, "count me", stream=True, stream_options={"include_usage": True}))
    counted = [c for c in chunks if c.usage is not None]
    same(len(counted), 1)
    same(counted[0], chunks[-1])
    same(counted[0].choices, [])
    whole = ask(target, "count me").usage
    same((counted[0].usage.prompt_tokens, counted[0].usage.completion_tokens), (whole.prompt_tokens, whole.completion_tokens))


@case(on=TARGETS)
def stream_helper(target):
    with client.chat.completions.stream(model=TARGETS[target], messages=user("with help")) as events:
        kinds = {event.type for event in events}
        final = events.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds, kinds
    same(final.choices[0].message.content, said(target, "with help"))


@case(on=FOUR)
def system_prompt_and_knobs(target):
    messages = [
        {"role": "system", "content": "Be a gate."},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "knobs one two three four"},
    ]
    answer = ask(target, messages, temperature=0, top_p=0.5, max_tokens=3, stop=["four"])
    same(answer.choices[0].finish_reason, "length")
    if target == "mock":
        return
    body = heard("Be a gate.")
    got = body["generationConfig"] if target == "gemini" else body
    same(got["temperature"], 0)
    bound = {"openai": "max_tokens", "anthropic": "max_tokens", "gemini": "maxOutputTokens"}[target]
    same(got[bound], 3)
    stop = {"openai": "stop", "anthropic": "stop_sequences", "gemini": "stopSequences"}[target]
    same(got[stop], ["four"])
    if target == "openai":
        inside(body["messages"][0]["role"], ["system", "developer"])
    if target == "anthropic":
        inside("Be a gate.", json.dumps(body["system"]))
        same([m["role"] for m in body["messages"]], ["user", "assistant", "user"])
    if target == "gemini":
        inside("Be a gate.", json.dumps(body["systemInstruction"]))
        same([m["role"] for m in body["contents"]], ["user", "model", "user"])


@case(on=FOUR)
def stop_sequence(target):
    answer = ask(target, "alpha beta gamma", stop="beta")
    same(answer.choices[0].finish_reason, "stop")
    same(answer.choices[0].message.content, said(target, "alpha "))


@case(on=TARGETS)
def tool_call_and_result(target):
    first = ask(target, "call get_weather now", tools=TOOLS)
    same(first.choices[0].finish_reason, "tool_calls")
    calls = first.choices[0].message.tool_calls
    same([c.function.name for c in calls], ["get_weather"])
    arguments = json.loads(calls[0].function.arguments)
    assert isinstance(arguments["city"], str) and isinstance(arguments["days"], int), arguments
    turns = user("call get_weather now") + [
        first.choices[0].message,
        {"role": "tool", "tool_call_id": calls[0].id, "content": "21 degrees and dry"},
    ]
    second = ask(target, turns, tools=TOOLS)
    inside("read the tool's answer: 21 degrees and dry", second.choices[0].message.content.replace('"', ""))
    same(second.choices[0].finish_reason, "stop")
    if target == "mock":
        return
    body = json.dumps(heard("21 degrees and dry"))
    inside("the weather", body)
    inside({"gemini": '"functionResponse"', "ollama": '"tool"'}.get(target, calls[0].id), body)
    if target == "gemini":
        result = [p for c in heard("21 degrees and dry")["contents"] for p in c["parts"] if "functionResponse" in p]
        same(result[0]["functionResponse"]["name"], "get_weather")


@case(on=TARGETS)
def parallel_tools(target):
    first = ask(target, "both get_weather and get_clock", tools=TOOLS)
    calls = first.choices[0].message.tool_calls
    same([c.function.name for c in calls], ["get_weather", "get_clock"])
    same(len({c.id for c in calls}), 2)
    turns = user("both get_weather and get_clock") + [
        first.choices[0].message,
        *({"role": "tool", "tool_call_id": c.id, "content": f"result of {c.function.name}"} for c in calls),
    ]
    text = ask(target, turns, tools=TOOLS).choices[0].message.content
    inside("result of get_weather", text)
    inside("result of get_clock", text)
    one = ask(target, "both get_weather and get_clock", tools=TOOLS, parallel_tool_calls=False)
    same(len(one.choices[0].message.tool_calls), 1 if target in ("mock", "openai", "anthropic") else 2)


@case(on=TARGETS)
def parallel_tools_streamed(target):
    calls = {}
    reasons = []
    for chunk in ask(target, "both get_weather and get_clock", tools=TOOLS, stream=True):
        for choice in chunk.choices:
            reasons += [choice.finish_reason] if choice.finish_reason else []
            for piece in choice.delta.tool_calls or []:
                call = calls.setdefault(piece.index, {"id": "", "name": "", "arguments": ""})
                call["id"] += piece.id or ""
                call["name"] += piece.function.name or ""
                call["arguments"] += piece.function.arguments or ""
    same(sorted(calls), [0, 1])
    same([calls[i]["name"] for i in (0, 1)], ["get_weather", "get_clock"])
    assert calls[0]["id"] != calls[1]["id"]
    same(set(json.loads(calls[0]["arguments"])), {"city", "days"})
    same(set(json.loads(calls[1]["arguments"])), {"zone"})
    same(reasons, ["tool_calls"])


@case(on=TARGETS)
def forced_tool(target):
    answer = ask(target, "say nothing", tools=TOOLS, tool_choice={"type": "function", "function": {"name": "get_clock"}})
    same([c.function.name for c in answer.choices[0].message.tool_calls], ["get_clock"])
    none = ask(target, "get_clock please", tools=TOOLS, tool_choice="none")
    same(none.choices[0].message.tool_calls, None)


class Verdict(BaseModel):
    title: str
    score: int
    tags: list[str]


@case(on=TARGETS)
def structured_output(target):
    answer = client.chat.completions.parse(model=TARGETS[target], messages=user("judge openai"), response_format=Verdict)
    parsed = answer.choices[0].message.parsed
    assert isinstance(parsed, Verdict), answer
    if target != "mock":
        body = json.dumps(heard("judge openai"))
        words = {"openai": '"json_schema"', "anthropic": '"output_config"', "gemini": "esponse", "bedrock": '"textFormat"',
                 "cohere": '"json_object"', "ollama": '"format"'}
        inside(words[target], body)
        inside("score", body)


@case(on=FOUR)
def json_mode(target):
    if target == "anthropic":
        return
    answer = ask(target, "json object please", response_format={"type": "json_object"})
    same(json.loads(answer.choices[0].message.content)["heard"], "json object please")


@case(on=TARGETS)
def image_in(target):
    content = [
        {"type": "text", "text": "what is on openai's picture"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
    ]
    answer = ask(target, [{"role": "user", "content": content}], models=SEEING)
    same(answer.choices[0].message.content, f"mock/{SEEING[target]} heard: what is on openai's picture")
    if target == "mock":
        return
    body = heard("openai's picture")
    if target == "openai":
        same(body["messages"][0]["content"], content)
    if target == "anthropic":
        same(body["messages"][0]["content"][1]["source"], {"type": "base64", "media_type": "image/png", "data": PNG})
    if target == "gemini":
        same(body["contents"][0]["parts"][1]["inlineData"], {"mimeType": "image/png", "data": PNG})


@case(on=FOUR)
def pdf_in(target):
    file = {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}
    content = [{"type": "file", "file": file}, {"type": "text", "text": "read openai's file"}]
    ask(target, [{"role": "user", "content": content}])
    if target == "mock":
        return
    body = json.dumps(heard("openai's file"))
    inside(PDF, body)
    inside({"openai": '"file"', "anthropic": '"document"', "gemini": '"inlineData"'}[target], body)
    assert target == "openai" or "data:application" not in body, "a data URL where plain base64 belongs"


@case(on=FOUR)
def reasoning_round_trip(target):
    first = ask(target, "think openai", models=THINKERS, reasoning_effort="low")
    message = first.choices[0].message
    same(message.content, said(target, "think openai", thinker=True))
    if target != "anthropic":
        assert first.usage.completion_tokens_details.reasoning_tokens > 0, first.usage
    inside("A mock repeats", message.reasoning_content)
    turns = user("think openai") + [message] + user("go on openai")
    ask(target, turns, models=THINKERS, reasoning_effort="low")
    if target in ("anthropic", "gemini"):
        body = json.dumps(heard("go on openai"))
        inside("bW9jayBzaWduYXR1cmU=", body)
    if target == "anthropic":
        inside("A mock repeats", body)


@case(on=FOUR)
def reasoning_streamed(target):
    chunks = list(ask(target, "think aloud", models=THINKERS, reasoning_effort="low", stream=True))
    thought = "".join(getattr(c.choices[0].delta, "reasoning_content", None) or "" for c in chunks if c.choices)
    same(thought.count("A mock repeats"), 1)
    same("".join(c.choices[0].delta.content or "" for c in chunks if c.choices), said(target, "think aloud", thinker=True))


@case(on=FOUR)
def several_answers(target):
    call = lambda: ask(target, "twice", n=2)
    if target == "anthropic":
        error = raises(openai.BadRequestError, call)
        inside("n", error.message)
        return
    same([c.index for c in call().choices], [0, 1])


@case()
def cached_tokens():
    answer = ask("anthropic", "cached [mock: usage=100/20/40]")
    same(answer.usage.prompt_tokens_details.cached_tokens, 40)
    same(answer.usage.completion_tokens, 20)


@case()
def wrong_key():
    for key in (WRONG_KEY, "sk-other"):
        error = raises(openai.AuthenticationError, lambda: client.with_options(api_key=key).models.list())
        same(error.status_code, 401)
        assert error.code and key not in str(error), error


@case()
def unknown_model():
    for model in ("nothing-here", "openai-no/such", "nobody/gpt-4.1"):
        error = raises(openai.NotFoundError, lambda: client.chat.completions.create(model=model, messages=user("x")))
        inside(model, error.message)
        assert error.code == "model_not_found", error.body


@case()
def model_not_allowed():
    small = client.with_options(api_key=SMALL_KEY)
    same(small.chat.completions.create(model="mock", messages=user("may I")).choices[0].finish_reason, "stop")
    for model in ("gpt-4.1", "smart", "anthropic/claude-sonnet-4-6", "mock/other"):
        error = raises(openai.PermissionDeniedError, lambda: small.chat.completions.create(model=model, messages=user("x")))
        same(error.status_code, 403)


@case(on=FOUR)
def bad_request(target):
    error = raises(openai.BadRequestError, lambda: ask(target, "x", temperature="hot"))
    inside("temperature", error.message)
    same(error.type, "invalid_request_error")
    error = raises(openai.BadRequestError, lambda: client.post("/chat/completions", body={"model": TARGETS[target]}, cast_to=object))
    inside("messages", error.message)


@case(on=TARGETS)
def rate_limited(target):
    error = raises(openai.RateLimitError, lambda: fault(target, "[mock: status=429, retry_after=17]"))
    same(error.status_code, 429)
    same(error.response.headers["retry-after"], "17")


@case(on=FOUR)
def upstream_broken(target):
    error = raises(openai.InternalServerError, lambda: fault(target, "[mock: status=500]"))
    assert error.status_code >= 500, error.status_code
    same(error.response.headers.get("x-should-retry"), "false")


@case()
def upstream_refuses_our_key():
    refused = "refused/gpt-4.1"
    call = lambda: client.chat.completions.create(model=refused, messages=user("[mock: status=401]"))
    error = raises(openai.APIStatusError, call)
    assert error.status_code in (502, 503), "a key that is not the caller's is not the caller's 401"


@case(on=TARGETS)
def stream_that_dies(target):
    got = []

    def read():
        for chunk in fault(target, "one two three four [mock: cut=5]", stream=True):
            got.append(chunk)

    error = raises(openai.APIError, read)
    assert str(error), error
    assert got and not any(c.choices and c.choices[0].finish_reason for c in got), got


@case(on=FOUR)
def dies_before_its_first_word(target):
    error = raises(openai.InternalServerError, lambda: list(fault(target, "x [mock: cut=0]", stream=True)))
    same(error.status_code, 502)


@case(on=["mock", "openai", "gemini"])
def embeddings(target):
    model = {"mock": "mock", "openai": "text-embedding-3-small", "gemini": "gemini/gemini-embedding-001"}[target]
    answer = client.embeddings.create(model=model, input=["one", "two"], dimensions=16)
    same([e.index for e in answer.data], [0, 1])
    for row in answer.data:
        same(len(row.embedding), 16)
        assert abs(math.fsum(x * x for x in row.embedding) - 1) < 1e-3, row.embedding
    assert answer.data[0].embedding != answer.data[1].embedding
    plain = client.embeddings.create(model=model, input="one", dimensions=16, encoding_format="float")
    assert all(abs(a - b) < 1e-6 for a, b in zip(plain.data[0].embedding, answer.data[0].embedding))


@case()
def embeddings_where_there_are_none():
    raises(openai.BadRequestError, lambda: client.embeddings.create(model="claude-sonnet-4-6", input="one"))


@case()
def models():
    names = [m.id for m in client.models.list()]
    inside("mock", names)
    inside("smart", names)
    same(client.models.retrieve("mock").id, "mock")
    small = client.with_options(api_key=SMALL_KEY)
    same([m.id for m in small.models.list()], ["mock"])
    raises(openai.NotFoundError, lambda: client.models.retrieve("nothing-here"))


@case()
def alias_and_full_name():
    for model in ("smart", "anthropic/claude-sonnet-4-6"):
        answer = client.chat.completions.create(model=model, messages=user("by name"))
        same(answer.choices[0].message.content, said("anthropic", "by name"))


@case()
def many_at_once():
    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0) as many:
            async def one(n):
                target = list(TARGETS)[n % 4]
                events = await many.chat.completions.create(
                    model=TARGETS[target], messages=user(f"caller {n} [mock: pace=2ms]"), stream=True
                )
                text = "".join([c.choices[0].delta.content or "" async for c in events if c.choices])
                same(text, said(target, f"caller {n}"))

            await asyncio.gather(*(one(n) for n in range(40)))

    asyncio.run(all_of_them())


@case()
def a_client_that_leaves():
    events = ask("openai", "leave [mock: tokens=400, pace=20ms]", stream=True)
    next(iter(events))
    events.close()
    same(ask("openai", "still there").choices[0].finish_reason, "stop")


@case()
def under_a_prefix():
    prefixed = openai.OpenAI(base_url=f"{URL}/openai/v1", api_key=KEY, max_retries=0)
    answer = prefixed.chat.completions.create(model="mock", messages=user("prefix"))
    same(answer.choices[0].message.content, said("mock", "prefix"))
