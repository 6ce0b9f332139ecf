"""The Python SDK `mistralai`, whose chat completions are nearly OpenAI's, over all upstream formats.

It reads streamed calls only whole, and embeddings only with an `id`: the gateway knows it by its `user-agent`. What it reads in
Mistral's own shape alone is not here: lists of models (with a `type`)."""

import asyncio
import json

from mistralai.client import Mistral, errors
from pydantic import BaseModel

from bench import CLOCK, FOUR, KEY, PNG, TARGETS, URL, WEATHER, WRONG_KEY, case, fresh, heard, inside, raises, said, same

client = Mistral(api_key=KEY, server_url=URL)
EMBEDDERS = {"mock": "mock", "openai": "text-embedding-3-small", "gemini": "gemini/gemini-embedding-001"}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "the weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "get_clock", "description": "the time", "parameters": CLOCK}},
]


def user(content):
    return [{"role": "user", "content": content}]


def ask(model, messages, **knobs):
    return client.chat.complete(model=model, messages=user(messages) if isinstance(messages, str) else messages, **knobs)


def streamed(model, text, **knobs):
    return [event.data for event in client.chat.stream(model=model, messages=user(text), **knobs)]


@case(on=TARGETS)
def complete(target):
    answer = ask(TARGETS[target], "hello mistral", temperature=0, max_tokens=200)
    same(answer.choices[0].message.content, said(target, "hello mistral"))
    same(answer.choices[0].finish_reason, "stop")
    same(answer.model, TARGETS[target])
    assert answer.usage.prompt_tokens > 0 and answer.usage.completion_tokens > 0, answer.usage


@case(on=TARGETS)
def stream(target):
    """It asks for no usage, and takes it where it comes."""
    chunks = streamed(TARGETS[target], "hello stream")
    pieces = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    same("".join(pieces), said(target, "hello stream"))
    assert len(pieces) > 2, "one lump is no stream"
    same([c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason], ["stop"])


@case(on=TARGETS)
def tools_and_results(target):
    mark = f"mistral {target} result"
    first = ask(TARGETS[target], "both get_weather and get_clock", tools=TOOLS)
    same(first.choices[0].finish_reason, "tool_calls")
    message = first.choices[0].message
    same([c.function.name for c in message.tool_calls], ["get_weather", "get_clock"])
    same(len({c.id for c in message.tool_calls}), 2)
    results = [{"role": "tool", "tool_call_id": c.id, "name": c.function.name, "content": f"{mark} of {c.function.name}"}
               for c in message.tool_calls]
    text = ask(TARGETS[target], user("both get_weather and get_clock") + [message, *results], tools=TOOLS).choices[0].message.content
    inside(f"{mark} of get_weather", text)
    inside(f"{mark} of get_clock", text)


@case(on=TARGETS)
def streamed_tools(target):
    """Each call comes whole, once, whatever pieces the upstream told it in."""
    chunks = streamed(TARGETS[target], "both get_weather and get_clock", tools=TOOLS)
    calls = [call for c in chunks if c.choices for call in c.choices[0].delta.tool_calls or []]
    same([c.function.name for c in calls], ["get_weather", "get_clock"])
    same(len({c.id for c in calls}), 2)
    same([c.index for c in calls], [0, 1])
    for call in calls:
        assert isinstance(json.loads(call.function.arguments), dict), call
    same([c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason], ["tool_calls"])


@case(on=EMBEDDERS)
def embeddings(target):
    answer = client.embeddings.create(model=EMBEDDERS[target], inputs=["one", "two"])
    assert answer.id and answer.usage.prompt_tokens > 0, answer
    same([row.index for row in answer.data], [0, 1])
    assert all(len(row.embedding) > 2 for row in answer.data), answer


@case(on=TARGETS)
def any_tool(target):
    """`any` is its word for a call that must come."""
    answer = ask(TARGETS[target], "say nothing", tools=TOOLS, tool_choice="any")
    same(len(answer.choices[0].message.tool_calls), 1)


class Verdict(BaseModel):
    title: str
    score: int
    tags: list[str]


@case(on=TARGETS)
def structured_output(target):
    answer = client.chat.parse(Verdict, model=TARGETS[target], messages=user("judge mistral"))
    assert isinstance(answer.choices[0].message.parsed, Verdict), answer


@case(on=["openai", "anthropic", "gemini"])
def image_in(target):
    """Its picture may be a bare string where OpenAI has an object."""
    mark = f"mistral {target} picture"
    address = f"data:image/png;base64,{PNG}"
    for picture in ({"url": address}, address):
        content = [{"type": "text", "text": mark}, {"type": "image_url", "image_url": picture}]
        same(ask(TARGETS[target], user(content)).choices[0].message.content, said(target, mark))
        inside(PNG, json.dumps(heard(mark)))


def fails(status, call):
    error = raises(errors.SDKError, call)
    same(error.status_code, status)
    return error


@case()
def refusals():
    other = Mistral(api_key=WRONG_KEY, server_url=URL)
    error = fails(401, lambda: other.chat.complete(model="mock", messages=user("x")))
    assert WRONG_KEY not in str(error), error
    inside("nothing-here", str(fails(404, lambda: ask("nothing-here", "x"))))
    inside("messages", str(fails(400, lambda: ask("mock", []))))


@case(on=FOUR)
def upstream_errors(target):
    error = fails(429, lambda: ask(fresh(target), "[mock: status=429, retry_after=17]"))
    same(error.headers["retry-after"], "17")


@case()
def many_at_once():
    async def all_of_them():
        async def one(n):
            target = list(TARGETS)[n % 4]
            answer = await client.chat.complete_async(model=TARGETS[target], messages=user(f"caller {n}"))
            same(answer.choices[0].message.content, said(target, f"caller {n}"))

        await asyncio.gather(*(one(n) for n in range(20)))

    asyncio.run(all_of_them())
