"""The Python SDK `google-genai` on generateContent, embeddings, token counts and models, over all upstream formats."""

import asyncio
import base64
import json
import math

import google.oauth2.credentials
from google import genai
from google.genai import errors, types
from pydantic import BaseModel

from bench import (
    CLOCK, FOUR, KEY, PDF, PNG, SMALL_KEY, TARGETS, THINKERS, UPSTREAMS, URL, WEATHER, WRONG_KEY, case, fresh, heard, inside, raises,
    said, same,
)


def connect(key):
    return genai.Client(api_key=key, http_options=types.HttpOptions(base_url=URL))


client = connect(KEY)
TOOLS = [
    types.Tool(function_declarations=[
        types.FunctionDeclaration(name="get_weather", description="the weather", parameters_json_schema=WEATHER),
        types.FunctionDeclaration(name="get_clock", description="the time", parameters_json_schema=CLOCK),
    ])
]
PICTURE = base64.b64decode(PNG)


def ask(target, contents, models=TARGETS, **config):
    return client.models.generate_content(
        model=models[target], contents=contents, config=types.GenerateContentConfig(**config)
    )


def streamed(target, contents, models=TARGETS, **config):
    return client.models.generate_content_stream(
        model=models[target], contents=contents, config=types.GenerateContentConfig(**config)
    )


def fault(target, text):
    return client.models.generate_content(model=fresh(target), contents=text)


def fault_streamed(target, text):
    return client.models.generate_content_stream(model=fresh(target), contents=text)


def user(text):
    return types.Content(role="user", parts=[types.Part(text=text)])


@case(on=TARGETS)
def plain_content(target):
    answer = ask(target, "hello google")
    same(answer.text, said(target, "hello google"))
    same(answer.candidates[0].finish_reason, types.FinishReason.STOP)
    same(answer.candidates[0].content.role, "model")
    same(answer.model_version, TARGETS[target])
    usage = answer.usage_metadata
    assert usage.prompt_token_count > 0 and usage.candidates_token_count > 0, usage
    same(usage.total_token_count, usage.prompt_token_count + usage.candidates_token_count)


@case(on=FOUR)
def held_stream(target):
    """Keep-alives of this family are empty lines: the chunks alone arrive."""
    model = f"{fresh(target)}-held"
    chunks = list(client.models.generate_content_stream(model=model, contents="one two three four [mock: pace=60ms]"))
    text = "".join(c.text or "" for c in chunks)
    inside("heard: one two three four", text)
    assert text.endswith(" (held)"), text


@case(on=TARGETS)
def stream(target):
    chunks = list(streamed(target, "hello stream"))
    same("".join(c.text or "" for c in chunks), said(target, "hello stream"))
    reasons = [c.candidates[0].finish_reason for c in chunks if c.candidates and c.candidates[0].finish_reason]
    same(reasons, [types.FinishReason.STOP])
    assert sum(bool(c.text) for c in chunks) > 2, "one lump is no stream"
    last = chunks[-1].usage_metadata
    whole = ask(target, "hello stream").usage_metadata
    same(
        (last.prompt_token_count, last.candidates_token_count), (whole.prompt_token_count, whole.candidates_token_count)
    )


@case(on=FOUR)
def system_and_bounds(target):
    answer = ask(
        target, "one two three four five", system_instruction="Be google's gate.", max_output_tokens=3, temperature=0
    )
    same(answer.candidates[0].finish_reason, types.FinishReason.MAX_TOKENS)
    if target == "mock":
        return
    body = heard("Be google's gate.")
    if target == "openai":
        inside(body["messages"][0]["role"], ["system", "developer"])
        same((body["max_completion_tokens"], body["temperature"]), (3, 0))
    if target == "anthropic":
        inside("Be google's gate.", json.dumps(body["system"]))
        same((body["max_tokens"], body["temperature"]), (3, 0))


@case(on=FOUR)
def stop_sequence(target):
    answer = ask(target, "alpha beta gamma", stop_sequences=["beta"])
    same(answer.text, said(target, "alpha "))
    same(answer.candidates[0].finish_reason, types.FinishReason.STOP)


@case(on=TARGETS)
def function_call_and_response(target):
    first = ask(target, "call get_weather now", tools=TOOLS)
    same([c.name for c in first.function_calls], ["get_weather"])
    arguments = first.function_calls[0].args
    assert isinstance(arguments["city"], str) and arguments["days"] == int(arguments["days"]), arguments
    same(first.candidates[0].finish_reason, types.FinishReason.STOP)
    result = types.Part(
        function_response=types.FunctionResponse(
            id=first.function_calls[0].id, name="get_weather", response={"result": "google: 21 degrees"}
        )
    )
    turns = [user("call get_weather now"), first.candidates[0].content, types.Content(role="user", parts=[result])]
    second = ask(target, turns, tools=TOOLS)
    inside("google: 21 degrees", second.text)
    if target == "openai":
        messages = heard("google: 21 degrees")["messages"]
        calls = [c["id"] for m in messages for c in m.get("tool_calls", [])]
        same([m["tool_call_id"] for m in messages if m["role"] == "tool"], calls)
    if target == "anthropic":
        blocks = [b for m in heard("google: 21 degrees")["messages"] for b in m["content"] if isinstance(b, dict)]
        uses = [b["id"] for b in blocks if b["type"] == "tool_use"]
        same([b["tool_use_id"] for b in blocks if b["type"] == "tool_result"], uses)


@case(on=FOUR)
def automatic_functions(target):
    asked = []

    def get_weather(city: str) -> str:
        """The weather.

        Args:
            city: where
        """
        asked.append(city)
        return f"dry in {city}"

    answer = ask(target, "call get_weather by itself", tools=[get_weather])
    same(len(asked), 1)
    inside("dry in", answer.text)


@case(on=TARGETS)
def parallel_functions(target):
    for answer in (
        [ask(target, "both get_weather and get_clock", tools=TOOLS)],
        list(streamed(target, "both get_weather and get_clock", tools=TOOLS)),
    ):
        calls = [c for chunk in answer for c in chunk.function_calls or []]
        same([c.name for c in calls], ["get_weather", "get_clock"])
        same([set(c.args) for c in calls], [{"city", "days"}, {"zone"}])
    parts = [
        types.Part(function_response=types.FunctionResponse(id=c.id, name=c.name, response={"result": f"{c.name} done"}))
        for c in calls
    ]
    turns = [
        user("both get_weather and get_clock"),
        types.Content(role="model", parts=[types.Part(function_call=c) for c in calls]),
        types.Content(role="user", parts=parts),
    ]
    text = ask(target, turns, tools=TOOLS).text
    inside("get_weather done", text)
    inside("get_clock done", text)


@case(on=TARGETS)
def forced_function(target):
    only = types.ToolConfig(
        function_calling_config=types.FunctionCallingConfig(mode="ANY", allowed_function_names=["get_clock"])
    )
    answer = ask(target, "say nothing", tools=TOOLS, tool_config=only)
    same([c.name for c in answer.function_calls], ["get_clock"])
    none = types.ToolConfig(function_calling_config=types.FunctionCallingConfig(mode="NONE"))
    same(ask(target, "get_clock please", tools=TOOLS, tool_config=none).function_calls, None)


class Verdict(BaseModel):
    title: str
    score: int
    tags: list[str]


@case(on=TARGETS)
def structured_output(target):
    for name, schema in (("response_schema", Verdict), ("response_json_schema", Verdict.model_json_schema())):
        mark = f"judge google {name}"
        answer = ask(target, mark, response_mime_type="application/json", **{name: schema})
        Verdict.model_validate_json(answer.text)
        if name == "response_schema":
            assert isinstance(answer.parsed, Verdict), answer
        if target != "mock":
            inside("score", json.dumps(heard(mark)))


@case(on=FOUR)
def image_and_pdf_in(target):
    parts = [
        types.Part(text="what is on google's picture"),
        types.Part.from_bytes(data=PICTURE, mime_type="image/png"),
        types.Part.from_bytes(data=base64.b64decode(PDF), mime_type="application/pdf"),
    ]
    same(ask(target, [types.Content(role="user", parts=parts)]).text, said(target, "what is on google's picture"))
    if target == "mock":
        return
    body = heard("google's picture")
    if target == "openai":
        content = body["messages"][0]["content"]
        same(content[1]["image_url"]["url"], f"data:image/png;base64,{PNG}")
        same(content[2]["file"]["file_data"], f"data:application/pdf;base64,{PDF}")
    if target == "anthropic":
        content = body["messages"][0]["content"]
        same(content[1]["source"], {"type": "base64", "media_type": "image/png", "data": PNG})
        same((content[2]["type"], content[2]["source"]["data"]), ("document", PDF))


@case(on=FOUR)
def thoughts_round_trip(target):
    config = {"models": THINKERS, "thinking_config": types.ThinkingConfig(include_thoughts=True, thinking_budget=1024)}
    first = ask(target, "think", **config)
    parts = first.candidates[0].content.parts
    same([bool(p.thought) for p in parts], [True, False])
    inside("A mock repeats", parts[0].text)
    same(first.text, said(target, "think", thinker=True))
    if target != "anthropic":
        assert first.usage_metadata.thoughts_token_count > 0, first.usage_metadata
    mark = f"go on google {target}"
    turns = [user("think"), first.candidates[0].content, user(mark)]
    inside(mark, ask(target, turns, **config).text)
    if target in ("anthropic", "gemini"):
        inside("bW9jayBzaWduYXR1cmU=", json.dumps(heard(mark)))


@case(on=FOUR)
def thoughts_streamed(target):
    config = {"models": THINKERS, "thinking_config": types.ThinkingConfig(include_thoughts=True, thinking_budget=1024)}
    parts = [p for c in streamed(target, "think aloud", **config) for p in (c.candidates[0].content.parts or [])]
    same("".join(p.text or "" for p in parts if p.thought).count("A mock repeats"), 1)
    same("".join(p.text or "" for p in parts if not p.thought), said(target, "think aloud", thinker=True))
    mark = f"went on google {target}"
    ask(target, [user("think aloud"), types.Content(role="model", parts=parts), user(mark)], **config)
    if target in ("anthropic", "gemini"):
        inside("bW9jayBzaWduYXR1cmU=", json.dumps(heard(mark)))


@case(on=FOUR)
def chat_session(target):
    chat = client.chats.create(model=TARGETS[target])
    same(chat.send_message("first turn").text, said(target, "first turn"))
    same("".join(c.text or "" for c in chat.send_message_stream("second turn")), said(target, "second turn"))
    same([c.parts[0].text for c in chat.get_history() if c.role == "user"], ["first turn", "second turn"])


@case(on=UPSTREAMS)
def cached_tokens(target):
    usage = ask(target, "cached [mock: usage=100/20/40]").usage_metadata
    same((usage.prompt_token_count, usage.cached_content_token_count, usage.candidates_token_count), (100, 40, 20))


@case(on=FOUR)
def count_tokens(target):
    assert client.models.count_tokens(model=TARGETS[target], contents="how long is this?").total_tokens > 0


@case(on=["mock", "openai", "gemini"])
def embeddings(target):
    model = {"mock": "mock", "openai": "text-embedding-3-small", "gemini": "gemini-embedding-001"}[target]
    config = types.EmbedContentConfig(output_dimensionality=16)
    answer = client.models.embed_content(model=model, contents=["one", "two"], config=config)
    same(len(answer.embeddings), 2)
    for row in answer.embeddings:
        same(len(row.values), 16)
        assert abs(math.fsum(x * x for x in row.values) - 1) < 1e-3, row
    single = client.models.embed_content(model=model, contents="one", config=config)
    same(len(single.embeddings), 1)


def fails(code, call):
    error = raises(errors.APIError, call)
    same(error.code, code)
    return error


@case()
def wrong_key():
    for key in (WRONG_KEY, "AIza-other"):
        other = connect(key)
        error = fails(401, lambda: other.models.generate_content(model="mock", contents="x"))
        same(error.status, "UNAUTHENTICATED")
        assert isinstance(error, errors.ClientError) and key not in str(error), error


@case()
def unknown_model():
    error = fails(404, lambda: client.models.generate_content(model="nothing-here", contents="x"))
    same(error.status, "NOT_FOUND")
    inside("nothing-here", error.message)


@case()
def model_not_allowed():
    small = connect(SMALL_KEY)
    inside("may I", small.models.generate_content(model="mock", contents="may I").text)
    error = fails(403, lambda: small.models.generate_content(model="gemini-2.5-flash", contents="x"))
    same(error.status, "PERMISSION_DENIED")


@case(on=FOUR)
def bad_request(target):
    options = types.HttpOptions(extra_body={"generationConfig": {"temperature": "hot"}})
    error = fails(400, lambda: ask(target, "x", http_options=options))
    same(error.status, "INVALID_ARGUMENT")
    inside("temperature", error.message)


@case(on=FOUR)
def rate_limited(target):
    error = fails(429, lambda: fault(target, "[mock: status=429, retry_after=17]"))
    same(error.status, "RESOURCE_EXHAUSTED")
    same(error.response.headers["retry-after"], "17")


@case(on=FOUR)
def upstream_broken(target):
    error = raises(errors.ServerError, lambda: fault(target, "[mock: status=500]"))
    inside(error.code, (500, 502, 503))


@case(on=FOUR)
def stream_that_dies(target):
    got = []

    def read():
        for chunk in fault_streamed(target, "one two three four [mock: cut=5]"):
            got.append(chunk)

    raises(Exception, read)
    assert got and not any(c.candidates and c.candidates[0].finish_reason for c in got), got


@case(on=FOUR)
def dies_before_its_first_word(target):
    fails(502, lambda: list(fault_streamed(target, "x [mock: cut=0]")))


@case()
def models():
    names = [m.name for m in client.models.list()]
    inside("models/mock", names)
    inside("models/smart", names)
    one = client.models.get(model="mock")
    same(one.name, "models/mock")
    fails(404, lambda: client.models.get(model="nothing-here"))


@case()
def many_at_once():
    async def all_of_them():
        async def one(n):
            target = list(TARGETS)[n % 4]
            events = await client.aio.models.generate_content_stream(
                model=TARGETS[target], contents=f"caller {n} [mock: pace=2ms]"
            )
            same("".join([c.text or "" async for c in events]), said(target, f"caller {n}"))

        await asyncio.gather(*(one(n) for n in range(40)))

    asyncio.run(all_of_them())


@case()
def under_a_prefix():
    prefixed = genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=f"{URL}/gemini"))
    same(prefixed.models.generate_content(model="mock", contents="prefix").text, said("mock", "prefix"))


@case(on=FOUR)
def as_vertex(target):
    """The same SDK as Vertex's client: the path says publisher, project and region, the key is a token or a key."""
    options = types.HttpOptions(base_url=URL)
    token = google.oauth2.credentials.Credentials(token=KEY)
    for vertex in (
        genai.Client(vertexai=True, api_key=KEY, http_options=options),
        genai.Client(vertexai=True, project="p", location="europe-west4", credentials=token, http_options=options),
    ):
        same(vertex.models.generate_content(model=TARGETS[target], contents="vertex").text, said(target, "vertex"))
        chunks = vertex.models.generate_content_stream(model=TARGETS[target], contents="vertex")
        same("".join(c.text or "" for c in chunks), said(target, "vertex"))
        assert vertex.models.count_tokens(model=TARGETS[target], contents="how long is this?").total_tokens > 0
