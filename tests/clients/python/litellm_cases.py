"""LiteLLM as a client: its `openai/`, `anthropic/` and `gemini/` prefixes, each over all upstream formats."""

import json
import os

# It would look for prices and beta headers on the net.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS"] = "True"
import litellm
from pydantic import BaseModel

from bench import CLOCK, FOUR, KEY, PNG, TARGETS, THINKERS, UPSTREAMS, URL, WEATHER, WRONG_KEY, case, fresh, heard, inside, raises, said, same

litellm.suppress_debug_info = True

# The prefix says which format it speaks; what follows it and the base URL are the gateway's.
PREFIXES = {"openai": f"{URL}/v1", "anthropic": URL, "gemini": f"{URL}/v1beta"}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "the weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "get_clock", "description": "the time", "parameters": CLOCK}},
]


def user(text):
    return [{"role": "user", "content": text}]


def speak(prefix, model, messages, key=KEY, **knobs):
    messages = user(messages) if isinstance(messages, str) else messages
    return litellm.completion(
        model=f"{prefix}/{model}", api_base=PREFIXES[prefix], api_key=key, messages=messages, max_retries=0, **knobs
    )


def each(function):
    """The case once for each prefix."""
    for prefix in PREFIXES:
        function(prefix)


@case(on=TARGETS)
def completion(target):
    def one(prefix):
        answer = speak(prefix, TARGETS[target], f"hello litellm {prefix}", temperature=0, max_tokens=200)
        same(answer.choices[0].message.content, said(target, f"hello litellm {prefix}"))
        same(answer.choices[0].finish_reason, "stop")
        assert answer.usage.prompt_tokens > 0 and answer.usage.completion_tokens > 0, answer.usage

    each(one)


@case(on=FOUR)
def stream(target):
    def one(prefix):
        chunks = list(speak(prefix, TARGETS[target], "hello stream", stream=True, stream_options={"include_usage": True}))
        pieces = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
        same("".join(pieces), said(target, "hello stream"))
        assert len(pieces) > 2, "one lump is no stream"
        same([c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason], ["stop"])
        counted = [c.usage for c in chunks if getattr(c, "usage", None)]
        assert counted and counted[-1].completion_tokens > 0, chunks

    each(one)


@case(on=TARGETS)
def tools_and_results(target):
    def one(prefix):
        for streaming in (False, True):
            mark = f"litellm {prefix} {streaming} result"
            answer = speak(prefix, TARGETS[target], "both get_weather and get_clock", tools=TOOLS, stream=streaming)
            if streaming:
                answer = litellm.stream_chunk_builder(list(answer))
            same(answer.choices[0].finish_reason, "tool_calls")
            message = answer.choices[0].message
            same([c.function.name for c in message.tool_calls], ["get_weather", "get_clock"])
            same([set(json.loads(c.function.arguments)) for c in message.tool_calls], [{"city", "days"}, {"zone"}])
            ids = [c.id for c in message.tool_calls]
            same(len(set(ids)), 2)
            results = [
                {"role": "tool", "tool_call_id": c.id, "name": c.function.name, "content": f"{mark} of {c.function.name}"}
                for c in message.tool_calls
            ]
            turns = user("both get_weather and get_clock") + [message.model_dump(exclude_none=True), *results]
            text = speak(prefix, TARGETS[target], turns, tools=TOOLS).choices[0].message.content
            inside(f"{mark} of get_weather", text)
            inside(f"{mark} of get_clock", text)
            if target == "anthropic" and prefix == "openai":
                blocks = [b for m in heard(mark)["messages"] for b in m["content"] if isinstance(b, dict)]
                same([b["tool_use_id"] for b in blocks if b["type"] == "tool_result"], ids)

    each(one)


class Verdict(BaseModel):
    title: str
    score: int
    tags: list[str]


@case(on=FOUR)
def structured_output(target):
    # A model that it knows no schemas of gets this one as a part of the prompt: with its Gemini part, all but Gemini's.
    for prefix in PREFIXES if target == "gemini" else ("openai", "anthropic"):
        answer = speak(prefix, TARGETS[target], f"judge litellm {prefix}", response_format=Verdict)
        Verdict.model_validate_json(answer.choices[0].message.content)


@case(on=UPSTREAMS)
def image_in(target):
    def one(prefix):
        mark = f"litellm {prefix} picture"
        picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
        speak(prefix, TARGETS[target], [{"role": "user", "content": [{"type": "text", "text": mark}, picture]}])
        inside(PNG, json.dumps(heard(mark)))

    each(one)


@case(on=["anthropic", "gemini"])
def reasoning_round_trip(target):
    """What a turn was signed with must be back at its own upstream on the next one."""
    for prefix in ("openai", target):
        mark = f"litellm {prefix} goes on"
        first = speak(prefix, THINKERS[target], "think litellm", reasoning_effort="low")
        message = first.choices[0].message
        inside("A mock repeats", message.reasoning_content)
        turns = user("think litellm") + [message.model_dump(exclude_none=True)] + user(mark)
        speak(prefix, THINKERS[target], turns, reasoning_effort="low")
        inside("bW9jayBzaWduYXR1cmU=", json.dumps(heard(mark)))


@case()
def embedding():
    answer = litellm.embedding(model="openai/text-embedding-3-small", api_base=PREFIXES["openai"], api_key=KEY, input=["one", "two"])
    same(len(answer.data), 2)
    assert len(answer.data[0]["embedding"]) > 8, answer


@case()
def errors():
    def one(prefix):
        raises(litellm.AuthenticationError, lambda: speak(prefix, "mock", "x", key=WRONG_KEY))
        inside("nothing-here", str(raises(litellm.NotFoundError, lambda: speak(prefix, "nothing-here", "x"))))
        # Its Gemini part counts with the temperature itself.
        bad = {"top_p": "wide"} if prefix == "gemini" else {"temperature": "hot"}
        raises(litellm.BadRequestError, lambda: speak(prefix, "mock", "x", **bad))

    each(one)


@case(on=FOUR)
def upstream_errors(target):
    def one(prefix):
        raises(litellm.RateLimitError, lambda: speak(prefix, fresh(target), "[mock: status=429, retry_after=17]"))

    each(one)


@case(on=FOUR)
def stream_that_dies(target):
    def one(prefix):
        got = []

        def read():
            got.extend(speak(prefix, fresh(target), "one two three four [mock: cut=5]", stream=True))

        raises(Exception, read)
        assert not any(c.choices and c.choices[0].finish_reason for c in got), got

    each(one)
