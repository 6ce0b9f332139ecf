"""The Python SDK `anthropic`, 0.x and 2.x, on messages, token counts and models, over all upstream formats."""

import asyncio
import json

import anthropic
from pydantic import BaseModel

from bench import (
    CLOCK, FOUR, KEY, PDF, PNG, SMALL_KEY, TARGETS, THINKERS, UPSTREAMS, URL, WEATHER, WRONG_KEY, case, fresh, heard, inside, raises,
    said, same,
)

VERSION = anthropic.__version__
client = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0)
TOOLS = [
    {"name": "get_weather", "description": "the weather", "input_schema": WEATHER},
    {"name": "get_clock", "description": "the time", "input_schema": CLOCK},
]
THINK = {"type": "enabled", "budget_tokens": 1024}


def user(content):
    return [{"role": "user", "content": content}]


def arguments(target, messages, models, knobs):
    messages = user(messages) if isinstance(messages, str) else messages
    return {"model": models[target], "max_tokens": 2000, "messages": messages, **knobs}


def ask(target, messages, models=TARGETS, **knobs):
    return client.messages.create(**arguments(target, messages, models, knobs))


def streamed(target, messages, models=TARGETS, **knobs):
    return client.messages.stream(**arguments(target, messages, models, knobs))


def fault(target, text, **knobs):
    return client.messages.create(model=fresh(target), max_tokens=200, messages=user(text), **knobs)


@case(on=TARGETS)
def plain_message(target):
    answer = ask(target, f"hello anthropic {VERSION}")
    same((answer.type, answer.role), ("message", "assistant"))
    same([b.type for b in answer.content], ["text"])
    same(answer.content[0].text, said(target, f"hello anthropic {VERSION}"))
    same(answer.stop_reason, "end_turn")
    same(answer.model, TARGETS[target])
    assert answer.id, answer
    assert answer.usage.input_tokens > 0 and answer.usage.output_tokens > 0, answer.usage
    assert answer._request_id, "no request id"


@case(on=TARGETS)
def stream(target):
    with streamed(target, "hello stream") as events:
        kinds = [event.type for event in events]
        final = events.get_final_message()
    same((kinds[0], kinds[-1]), ("message_start", "message_stop"))
    assert kinds.count("text") > 2, "one lump is no stream"
    same(final.content[0].text, said(target, "hello stream"))
    same(final.stop_reason, "end_turn")
    whole = ask(target, "hello stream").usage
    same((final.usage.input_tokens, final.usage.output_tokens), (whole.input_tokens, whole.output_tokens))


@case(on=FOUR)
def held_stream(target):
    model = f"{fresh(target)}-held"
    text = "one two three four [mock: pace=60ms]"
    raw = client.messages.with_streaming_response.create(model=model, max_tokens=200, messages=user(text), stream=True)
    with raw as answer:
        assert sum(line.startswith("event: ping") for line in answer.iter_lines()) > 1, "no keep-alive while it is held back"
    with client.messages.stream(model=model, max_tokens=200, messages=user(text)) as events:
        final = events.get_final_message()
    inside("heard: one two three four", final.content[0].text)
    assert final.content[0].text.endswith(" (held)"), final
    same(final.stop_reason, "end_turn")


@case(on=FOUR)
def raw_stream(target):
    events = list(ask(target, "hello raw", stream=True))
    opened = [e.index for e in events if e.type == "content_block_start"]
    closed = [e.index for e in events if e.type == "content_block_stop"]
    same((opened, closed), ([0], [0]))
    text = "".join(e.delta.text for e in events if e.type == "content_block_delta")
    same(text, said(target, "hello raw"))


@case(on=FOUR)
def system_and_bounds(target):
    mark = f"Be the gate of {VERSION}."
    system = [{"type": "text", "text": mark, "cache_control": {"type": "ephemeral"}}]
    answer = ask(target, "one two three four five", system=system, max_tokens=3)
    same(answer.stop_reason, "max_tokens")
    if target == "mock":
        return
    body = heard(mark)
    if target == "anthropic":
        same(body["system"], system)
    if target == "openai":
        inside(body["messages"][0]["role"], ["system", "developer"])
    if target == "gemini":
        inside(mark, json.dumps(body["systemInstruction"]))


@case(on=FOUR)
def stop_sequence(target):
    answer = ask(target, "alpha beta gamma", stop_sequences=["beta"])
    same(answer.content[0].text, said(target, "alpha "))
    if target == "anthropic":
        same((answer.stop_reason, answer.stop_sequence), ("stop_sequence", "beta"))


@case(on=TARGETS)
def tool_use_and_result(target):
    mark = f"anthropic {VERSION}: 21 degrees"
    first = ask(target, "call get_weather now", tools=TOOLS)
    same(first.stop_reason, "tool_use")
    uses = [b for b in first.content if b.type == "tool_use"]
    same([u.name for u in uses], ["get_weather"])
    assert isinstance(uses[0].input["city"], str) and isinstance(uses[0].input["days"], int), uses
    turns = user("call get_weather now") + [
        {"role": "assistant", "content": first.content},
        *user([{"type": "tool_result", "tool_use_id": uses[0].id, "content": mark}]),
    ]
    second = ask(target, turns, tools=TOOLS)
    same(second.stop_reason, "end_turn")
    inside(mark, second.content[0].text)
    if target == "gemini":
        parts = [p for c in heard(mark)["contents"] for p in c["parts"]]
        same([p["functionResponse"]["name"] for p in parts if "functionResponse" in p], ["get_weather"])
    if target == "openai":
        same([m["tool_call_id"] for m in heard(mark)["messages"] if m["role"] == "tool"], [uses[0].id])


@case(on=[target for target in TARGETS if target != "cohere"])
def picture_in_a_tool_result(target):
    mark = f"see result {VERSION}"
    first = ask(target, "call get_clock now", tools=TOOLS)
    use = first.content[-1]
    result = [
        {"type": "text", "text": mark},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
    ]
    turns = user("call get_clock now") + [
        {"role": "assistant", "content": first.content},
        *user([{"type": "tool_result", "tool_use_id": use.id, "content": result}]),
    ]
    inside(mark, ask(target, turns, tools=TOOLS).content[0].text)
    if target != "mock":
        inside(PNG, json.dumps(heard(mark)))


@case(on=TARGETS)
def parallel_tools(target):
    first = ask(target, "both get_weather and get_clock", tools=TOOLS)
    uses = [b for b in first.content if b.type == "tool_use"]
    same([u.name for u in uses], ["get_weather", "get_clock"])
    same(len({u.id for u in uses}), 2)
    results = [{"type": "tool_result", "tool_use_id": u.id, "content": f"result of {u.name}"} for u in uses]
    turns = user("both get_weather and get_clock") + [{"role": "assistant", "content": first.content}, *user(results)]
    text = ask(target, turns, tools=TOOLS).content[0].text
    inside("result of get_weather", text)
    inside("result of get_clock", text)


@case(on=TARGETS)
def parallel_tools_streamed(target):
    with streamed(target, "both get_weather and get_clock", tools=TOOLS) as events:
        kinds = [event.type for event in events]
        final = events.get_final_message()
    assert kinds.count("input_json") >= 2, kinds
    same([b.name for b in final.content], ["get_weather", "get_clock"])
    same([set(b.input) for b in final.content], [{"city", "days"}, {"zone"}])
    same(final.stop_reason, "tool_use")


@case(on=TARGETS)
def forced_tool(target):
    answer = ask(target, "say nothing", tools=TOOLS, tool_choice={"type": "tool", "name": "get_clock"})
    same([b.name for b in answer.content], ["get_clock"])
    answer = ask(target, "say nothing", tools=TOOLS, tool_choice={"type": "any"})
    same([b.type for b in answer.content], ["tool_use"])


class Verdict(BaseModel):
    title: str
    score: int
    tags: list[str]


@case(on=TARGETS)
def structured_output(target):
    mark = f"judge anthropic {VERSION}"
    answer = client.messages.parse(
        model=TARGETS[target], max_tokens=500, messages=user(mark), output_format=Verdict
    )
    assert isinstance(answer.parsed_output, Verdict), answer
    if target != "mock":
        inside("score", json.dumps(heard(mark)))


@case(on=FOUR)
def image_and_pdf_in(target):
    mark = f"what is on anthropic's picture {VERSION}"
    content = [
        {"type": "text", "text": mark},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}},
    ]
    same(ask(target, user(content)).content[0].text, said(target, mark))
    if target == "mock":
        return
    body = heard(mark)
    if target == "anthropic":
        same(body["messages"][0]["content"], content)
    if target == "openai":
        parts = body["messages"][0]["content"]
        same(parts[1]["image_url"]["url"], f"data:image/png;base64,{PNG}")
        same(parts[2]["file"]["file_data"], f"data:application/pdf;base64,{PDF}")
    if target == "gemini":
        parts = body["contents"][0]["parts"]
        same(parts[1]["inlineData"], {"mimeType": "image/png", "data": PNG})
        same(parts[2]["inlineData"], {"mimeType": "application/pdf", "data": PDF})


@case(on=FOUR)
def thinking_round_trip(target):
    mark = f"go on anthropic {VERSION}"
    first = ask(target, "think", models=THINKERS, thinking=THINK)
    same([b.type for b in first.content], ["thinking", "text"])
    inside("A mock repeats", first.content[0].thinking)
    turns = user("think") + [{"role": "assistant", "content": first.content}] + user(mark)
    inside(mark, ask(target, turns, models=THINKERS, thinking=THINK).content[-1].text)
    if target == "anthropic":
        same(first.content[0].signature, "bW9jayBzaWduYXR1cmU=")
        same(heard(mark)["messages"][1]["content"][0]["signature"], "bW9jayBzaWduYXR1cmU=")
        same(heard(mark)["thinking"], THINK)
    if target == "gemini":
        assert first.content[0].signature, first
        inside("bW9jayBzaWduYXR1cmU=", json.dumps(heard(mark)))


@case(on=FOUR)
def thinking_streamed(target):
    mark = f"went on anthropic {VERSION}"
    with streamed(target, "think aloud", models=THINKERS, thinking=THINK) as events:
        kinds = [event.type for event in events]
        final = events.get_final_message()
    same([b.type for b in final.content], ["thinking", "text"])
    same(final.content[0].thinking.count("A mock repeats"), 1)
    inside("thinking", kinds)
    turns = user("think aloud") + [{"role": "assistant", "content": final.content}] + user(mark)
    ask(target, turns, models=THINKERS, thinking=THINK)
    if target in ("anthropic", "gemini"):
        inside("bW9jayBzaWduYXR1cmU=", json.dumps(heard(mark)))


@case(on=UPSTREAMS)
def cached_tokens(target):
    usage = ask(target, "cached [mock: usage=100/20/40]").usage
    same((usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens), (60, 40, 20))


@case(on=FOUR)
def count_tokens(target):
    counted = client.messages.count_tokens(model=TARGETS[target], messages=user("how long is this?"), tools=TOOLS)
    assert counted.input_tokens > 0, counted


@case()
def wrong_key():
    for key in (WRONG_KEY, "sk-other"):
        error = raises(anthropic.AuthenticationError, lambda: client.with_options(api_key=key).models.list())
        same(error.body["error"]["type"], "authentication_error")
        assert key not in str(error), error
    bearer = anthropic.Anthropic(base_url=URL, auth_token=KEY, api_key=None, max_retries=0)
    same(bearer.messages.create(model="mock", max_tokens=50, messages=user("bearer")).stop_reason, "end_turn")


@case()
def unknown_model():
    error = raises(
        anthropic.NotFoundError, lambda: client.messages.create(model="nothing-here", max_tokens=5, messages=user("x"))
    )
    same(error.body["error"]["type"], "not_found_error")
    same(error.body["error"]["details"]["error_code"], "model_not_found")
    inside("nothing-here", error.body["error"]["message"])


@case()
def model_not_allowed():
    small = client.with_options(api_key=SMALL_KEY)
    error = raises(
        anthropic.PermissionDeniedError,
        lambda: small.messages.create(model="claude-sonnet-4-6", max_tokens=5, messages=user("x")),
    )
    same(error.body["error"]["type"], "permission_error")


@case(on=FOUR)
def bad_request(target):
    error = raises(anthropic.BadRequestError, lambda: ask(target, "x", extra_body={"stop_sequences": 7}))
    same(error.body["error"]["type"], "invalid_request_error")
    inside("stop_sequences", error.body["error"]["message"])
    body = {"model": TARGETS[target], "max_tokens": 5}
    error = raises(anthropic.BadRequestError, lambda: client.post("/v1/messages", body=body, cast_to=object))
    inside("messages", error.body["error"]["message"])


@case(on=FOUR)
def rate_limited(target):
    error = raises(anthropic.RateLimitError, lambda: fault(target, "[mock: status=429, retry_after=17]"))
    same(error.response.headers["retry-after"], "17")
    same(error.body["error"]["type"], "rate_limit_error")


@case(on=FOUR)
def upstream_broken(target):
    error = raises(anthropic.APIStatusError, lambda: fault(target, "[mock: status=500]"))
    assert error.status_code in (500, 502, 503), error
    same(error.response.headers.get("x-should-retry"), "false")


@case(on=FOUR)
def stream_that_dies(target):
    got = []

    def read():
        for event in fault(target, "one two three four [mock: cut=5]", stream=True):
            got.append(event.type)

    raises(anthropic.APIError, read)
    assert got and "message_stop" not in got, got


@case(on=FOUR)
def dies_before_its_first_word(target):
    error = raises(anthropic.APIStatusError, lambda: list(fault(target, "x [mock: cut=0]", stream=True)))
    same(error.status_code, 502)


@case()
def models():
    page = client.models.list()
    names = [m.id for m in page]
    inside("mock", names)
    inside("smart", names)
    same(page.data[0].type, "model")
    one = client.models.retrieve("mock")
    same((one.id, one.type), ("mock", "model"))
    assert one.display_name and one.created_at, one
    raises(anthropic.NotFoundError, lambda: client.models.retrieve("nothing-here"))


@case()
def many_at_once():
    async def all_of_them():
        async with anthropic.AsyncAnthropic(base_url=URL, api_key=KEY, max_retries=0) as many:
            async def one(n):
                target = list(TARGETS)[n % 4]
                messages = user(f"caller {n} [mock: pace=2ms]")
                async with many.messages.stream(model=TARGETS[target], max_tokens=100, messages=messages) as events:
                    same((await events.get_final_message()).content[0].text, said(target, f"caller {n}"))

            await asyncio.gather(*(one(n) for n in range(40)))

    asyncio.run(all_of_them())


@case()
def under_a_prefix():
    prefixed = anthropic.Anthropic(base_url=f"{URL}/anthropic", api_key=KEY, max_retries=0)
    answer = prefixed.messages.create(model="mock", max_tokens=50, messages=user("prefix"))
    same(answer.content[0].text, said("mock", "prefix"))
