"""The Python SDK `openai` on responses and what is kept of them, and on legacy completions, over all upstream formats."""

import asyncio
import json

import openai
from pydantic import BaseModel

from bench import (
    CLOCK, FOUR, KEY, PNG, SMALL_KEY, TARGETS, THINKERS, URL, WEATHER, WRONG_KEY, case, fresh, heard, inside, raises, said,
    same,
)

client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
TOOLS = [
    {"type": "function", "name": "get_weather", "description": "the weather", "parameters": WEATHER, "strict": False},
    {"type": "function", "name": "get_clock", "description": "the time", "parameters": CLOCK, "strict": False},
]
SIGNATURE = "bW9jayBzaWduYXR1cmU="


def ask(target, asked, models=TARGETS, **knobs):
    return client.responses.create(model=models[target], input=asked, **knobs)


def events_of(target, asked, models=TARGETS, **knobs):
    return list(ask(target, asked, models, stream=True, **knobs))


def fault(target, text, **knobs):
    return client.responses.create(model=fresh(target), input=text, **knobs)


def kinds(answer):
    return [item.type for item in answer.output]


@case(on=TARGETS)
def plain_response(target):
    answer = ask(target, "hello responses")
    same((answer.object, answer.status, answer.error), ("response", "completed", None))
    same(answer.output_text, said(target, "hello responses"))
    same(kinds(answer), ["message"])
    same((answer.output[0].role, answer.output[0].status), ("assistant", "completed"))
    assert answer.id.startswith("resp_") and answer.output[0].id and answer.created_at > 0, answer
    usage = answer.usage
    assert usage.input_tokens > 0 and usage.output_tokens > 0, usage
    same(usage.total_tokens, usage.input_tokens + usage.output_tokens)
    assert usage.output_tokens_details.reasoning_tokens == 0, usage


@case(on=TARGETS)
def stream(target):
    events = events_of(target, "hello stream")
    same((events[0].type, events[-1].type), ("response.created", "response.completed"))
    numbers = [e.sequence_number for e in events]
    same(numbers, sorted(set(numbers)))
    pieces = [e.delta for e in events if e.type == "response.output_text.delta"]
    same("".join(pieces), said(target, "hello stream"))
    assert len(pieces) > 2, "one lump is no stream"
    for kind in ("response.output_item.added", "response.content_part.added", "response.output_text.done", "response.output_item.done"):
        same([e.type for e in events].count(kind), 1)
    final = events[-1].response
    same(final.output_text, said(target, "hello stream"))
    same(final.id, events[0].response.id)
    whole = ask(target, "hello stream").usage
    same((final.usage.input_tokens, final.usage.output_tokens), (whole.input_tokens, whole.output_tokens))


@case(on=FOUR)
def stream_helper(target):
    with client.responses.stream(model=TARGETS[target], input="with help") as events:
        seen = {event.type for event in events}
        final = events.get_final_response()
    inside("response.output_text.delta", seen)
    same(final.output_text, said(target, "with help"))


@case(on=FOUR)
def held_stream(target):
    model = f"{fresh(target)}-held"
    events = list(client.responses.create(model=model, input="one two three four [mock: pace=60ms]", stream=True))
    text = events[-1].response.output_text
    inside("heard: one two three four", text)
    assert text.endswith(" (held)"), text


@case(on=FOUR)
def instructions_and_bounds(target):
    mark = f"responses gate before {target}"
    answer = ask(target, "one two three four five", instructions=mark, max_output_tokens=3, temperature=0)
    same((answer.status, answer.incomplete_details.reason), ("incomplete", "max_output_tokens"))
    events = events_of(target, "one two three four five", max_output_tokens=3)
    same((events[-1].type, events[-1].response.status), ("response.incomplete", "incomplete"))
    if target == "mock":
        return
    body = heard(mark)
    got = body["generationConfig"] if target == "gemini" else body
    same(got["temperature"], 0)


@case(on=FOUR)
def conversation_as_items(target):
    mark = f"responses {target} turns"
    turns = [
        {"role": "developer", "content": "Be a gate."},
        {"role": "user", "content": "first"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "yes"}]},
        {"role": "user", "content": [{"type": "input_text", "text": mark}]},
    ]
    same(ask(target, turns).output_text, said(target, mark))
    if target == "openai":
        same(heard(mark)["input"], turns)
    if target == "anthropic":
        same([m["role"] for m in heard(mark)["messages"]], ["user", "assistant", "user"])


@case(on=TARGETS)
def function_calls_and_outputs(target):
    mark = f"responses {target} result"
    first = ask(target, "both get_weather and get_clock", tools=TOOLS)
    same(kinds(first), ["function_call", "function_call"])
    same(first.status, "completed")
    same([c.name for c in first.output], ["get_weather", "get_clock"])
    same([set(json.loads(c.arguments)) for c in first.output], [{"city", "days"}, {"zone"}])
    same(len({c.call_id for c in first.output}), 2)
    outputs = [{"type": "function_call_output", "call_id": c.call_id, "output": f"{mark} of {c.name}"} for c in first.output]
    turns = [{"role": "user", "content": "both get_weather and get_clock"}, *first.output, *outputs]
    text = ask(target, turns, tools=TOOLS).output_text
    inside(f"{mark} of get_weather", text)
    inside(f"{mark} of get_clock", text)
    if target == "anthropic":
        results = [b for m in heard(mark)["messages"] for b in m["content"] if isinstance(b, dict) and b["type"] == "tool_result"]
        same([b["tool_use_id"] for b in results], [c.call_id for c in first.output])
    one = ask(target, "both get_weather and get_clock", tools=TOOLS, parallel_tool_calls=False)
    same(len(one.output), 1 if target in ("mock", "openai", "anthropic") else 2)


@case(on=TARGETS)
def function_calls_streamed(target):
    events = events_of(target, "both get_weather and get_clock", tools=TOOLS)
    arguments = {}
    for event in events:
        if event.type == "response.function_call_arguments.delta":
            arguments[event.output_index] = arguments.get(event.output_index, "") + event.delta
    done = [e.item for e in events if e.type == "response.output_item.done"]
    same([item.name for item in done], ["get_weather", "get_clock"])
    same([arguments[at] for at in sorted(arguments)], [item.arguments for item in done])
    same([(i.call_id, i.arguments) for i in events[-1].response.output], [(i.call_id, i.arguments) for i in done])


@case(on=FOUR)
def forced_function(target):
    answer = ask(target, "say nothing", tools=TOOLS, tool_choice={"type": "function", "name": "get_clock"})
    same([c.name for c in answer.output], ["get_clock"])
    same(kinds(ask(target, "get_clock please", tools=TOOLS, tool_choice="none")), ["message"])


class Verdict(BaseModel):
    title: str
    score: int
    tags: list[str]


@case(on=TARGETS)
def structured_output(target):
    mark = f"judge responses {target}"
    answer = client.responses.parse(model=TARGETS[target], input=mark, text_format=Verdict)
    assert isinstance(answer.output_parsed, Verdict), answer
    if target != "mock":
        inside("score", json.dumps(heard(mark)))


@case(on=[target for target in TARGETS if target != "cohere"])
def image_in(target):
    mark = f"responses {target} picture"
    content = [
        {"type": "input_text", "text": mark},
        {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "auto"},
    ]
    same(ask(target, [{"role": "user", "content": content}]).output_text, said(target, mark))
    if target != "mock":
        inside(PNG, json.dumps(heard(mark)))


@case(on=FOUR)
def reasoning_round_trip(target):
    """Without the gateway's memory: what must come back is in the item, sealed."""
    knobs = {"store": False, "include": ["reasoning.encrypted_content"], "reasoning": {"effort": "low", "summary": "auto"}}
    for streaming in (False, True):
        mark = f"responses {target} goes on {streaming}"
        first = (events_of(target, "think", THINKERS, **knobs)[-1].response if streaming
                 else ask(target, "think", THINKERS, **knobs))
        same(kinds(first), ["reasoning", "message"])
        assert first.usage.output_tokens_details.reasoning_tokens > 0 or target == "anthropic", first.usage
        thought = first.output[0]
        inside("A mock repeats", json.dumps(thought.model_dump()))
        turns = [{"role": "user", "content": "think"}, *first.output, {"role": "user", "content": mark}]
        ask(target, turns, THINKERS, **knobs)
        if target in ("anthropic", "gemini"):
            assert thought.encrypted_content, thought
            inside(SIGNATURE, json.dumps(heard(mark)))


@case(on=FOUR)
def goes_on_from_the_last_response(target):
    """The gateway remembers for upstreams that do not: calls and thinking of the turns before are with the next one."""
    mark = f"responses {target} chained"
    first = ask(target, f"{mark}, call get_weather", THINKERS, tools=TOOLS, reasoning={"effort": "low"})
    call = next(item for item in first.output if item.type == "function_call")
    output = {"type": "function_call_output", "call_id": call.call_id, "output": f"{mark} result"}
    second = ask(target, [output], THINKERS, tools=TOOLS, previous_response_id=first.id, reasoning={"effort": "low"})
    inside(f"{mark} result", second.output_text)
    # An upstream of this format is asked with the turns themselves, and its answer passes as it came.
    if target in ("anthropic", "gemini"):
        same(second.previous_response_id, first.id)
    third = ask(target, f"{mark} third", THINKERS, previous_response_id=second.id)
    same(third.output_text, said(target, f"{mark} third", thinker=True))
    if target == "mock":
        return
    body = json.dumps(heard(f"{mark} third"))
    for part in (f"{mark}, call get_weather", f"{mark} result", "get_weather"):
        inside(part, body)
    if target != "openai":
        inside(SIGNATURE, body)


@case(on=FOUR)
def kept_and_forgotten(target):
    mark = f"keep responses {target}"
    made = ask(target, mark, metadata={"case": "kept"})
    found = client.responses.retrieve(made.id)
    same((found.id, found.status, found.output_text), (made.id, "completed", made.output_text))
    if target in ("anthropic", "gemini"):
        same(found.metadata, {"case": "kept"})
    items = list(client.responses.input_items.list(made.id))
    same([(i.type, i.role, i.content[0].text) for i in items], [("message", "user", mark)])
    client.responses.delete(made.id)
    raises(openai.NotFoundError, lambda: client.responses.retrieve(made.id))
    raises(openai.NotFoundError, lambda: ask(target, "x", previous_response_id=made.id))


@case(on=FOUR)
def conversation_by_its_id(target):
    """Kept by the gateway for every upstream: what was said before is with the next turn."""
    mark = f"conversation {target}"
    first = {"type": "message", "role": "user", "content": f"{mark} first"}
    # Where turns alternate, two of one speaker in a row would become one.
    noted = {"type": "message", "role": "assistant", "content": "noted"}
    kept = client.conversations.create(items=[first, noted], metadata={"case": "kept"})
    same(client.conversations.retrieve(kept.id).metadata, {"case": "kept"})
    same(ask(target, f"{mark} second", conversation=kept.id).output_text, said(target, f"{mark} second"))
    with client.responses.stream(model=TARGETS[target], input=f"{mark} third", conversation={"id": kept.id}) as stream:
        stream.until_done()
    if target != "mock":
        body = json.dumps(heard(f"{mark} third"))
        for part in (f"{mark} first", f"{mark} second"):
            inside(part, body)
    items = [item for item in client.conversations.items.list(kept.id, order="asc", limit=2) if item.type == "message"]
    texts = [f"{mark} first", "noted", f"{mark} second", said(target, f"{mark} second"), f"{mark} third", said(target, f"{mark} third")]
    same([item.content[0].text for item in items], texts)
    added = client.conversations.items.create(kept.id, items=[{"type": "message", "role": "user", "content": "one more"}])
    same(client.conversations.items.retrieve(added.data[0].id, conversation_id=kept.id).content[0].text, "one more")
    client.conversations.items.delete(added.data[0].id, conversation_id=kept.id)
    raises(openai.NotFoundError, lambda: client.conversations.items.retrieve(added.data[0].id, conversation_id=kept.id))
    same(client.conversations.update(kept.id, metadata={"case": "changed"}).metadata, {"case": "changed"})
    small = client.with_options(api_key=SMALL_KEY)
    raises(openai.NotFoundError, lambda: small.conversations.retrieve(kept.id))
    same(client.conversations.delete(kept.id).deleted, True)
    raises(openai.NotFoundError, lambda: ask(target, "x", conversation=kept.id))


@case()
def streamed_ones_are_kept_too():
    made = events_of("anthropic", "keep a streamed one")[-1].response
    same(client.responses.retrieve(made.id).output_text, said("anthropic", "keep a streamed one"))


@case()
def not_kept_when_asked_not_to():
    made = ask("anthropic", "forget me", store=False)
    raises(openai.NotFoundError, lambda: client.responses.retrieve(made.id))


@case()
def nobody_elses():
    made = ask("mock", "mine alone")
    small = client.with_options(api_key=SMALL_KEY)
    for call in (
        lambda: small.responses.retrieve(made.id),
        lambda: small.responses.input_items.list(made.id),
        lambda: small.responses.create(model="mock", input="x", previous_response_id=made.id),
        lambda: small.responses.delete(made.id),
    ):
        raises(openai.NotFoundError, call)
    same(client.responses.retrieve(made.id).id, made.id)


@case(on=["anthropic", "gemini"])
def in_the_background(target):
    error = raises(openai.BadRequestError, lambda: ask(target, "x", background=True))
    inside("background", error.message)


@case()
def errors():
    raises(openai.AuthenticationError, lambda: client.with_options(api_key=WRONG_KEY).responses.create(model="mock", input="x"))
    error = raises(openai.NotFoundError, lambda: client.responses.create(model="nothing-here", input="x"))
    same(error.code, "model_not_found")
    small = client.with_options(api_key=SMALL_KEY)
    raises(openai.PermissionDeniedError, lambda: small.responses.create(model="gpt-4.1", input="x"))
    error = raises(openai.BadRequestError, lambda: ask("mock", "x", temperature="hot"))
    inside("temperature", error.message)
    raises(openai.NotFoundError, lambda: client.responses.retrieve("resp_nothing"))


@case(on=FOUR)
def upstream_errors(target):
    error = raises(openai.RateLimitError, lambda: fault(target, "[mock: status=429, retry_after=17]"))
    same(error.response.headers["retry-after"], "17")
    raises(openai.InternalServerError, lambda: fault(target, "[mock: status=500]"))


@case(on=FOUR)
def stream_that_dies(target):
    """The SDK hands the error over as an event; what it raises is its helper's choice."""
    events = list(fault(target, "one two three four [mock: cut=7]", stream=True))
    inside(events[-1].type, ("error", "response.failed"))
    assert not any(e.type == "response.completed" for e in events), events


@case()
def many_at_once():
    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0) as many:
            async def one(n):
                target = list(TARGETS)[n % 4]
                answer = await many.responses.create(model=TARGETS[target], input=f"caller {n}")
                same(answer.output_text, said(target, f"caller {n}"))

            await asyncio.gather(*(one(n) for n in range(20)))

    asyncio.run(all_of_them())


@case(on=FOUR)
def legacy_completion(target):
    answer = client.completions.create(model=TARGETS[target], prompt="hello legacy")
    same((answer.object, answer.choices[0].text), ("text_completion", said(target, "hello legacy")))
    same(answer.choices[0].finish_reason, "stop")
    assert answer.usage.prompt_tokens > 0 and answer.usage.completion_tokens > 0, answer.usage


@case(on=FOUR)
def legacy_completion_streamed(target):
    chunks = list(client.completions.create(
        model=TARGETS[target], prompt="stream legacy", stream=True, stream_options={"include_usage": True}, max_tokens=100,
    ))
    pieces = [c.choices[0].text for c in chunks if c.choices]
    same("".join(pieces), said(target, "stream legacy"))
    assert len(pieces) > 2, "one lump is no stream"
    same([c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason], ["stop"])
    assert chunks[-1].usage.completion_tokens > 0, chunks[-1]


@case()
def legacy_completion_at_its_own_endpoint():
    """What no chat can do goes as it came to a model that has the endpoint."""
    asked = dict(model="gpt-3.5-turbo-instruct", suffix="the end", echo=True, logprobs=2, best_of=2, max_tokens=100)
    for prompt in (["once upon a legacy", "and another"], [[1, 2], [3]], "once upon a legacy"):
        answer = client.completions.create(prompt=prompt, **asked)
        same(answer.object, "text_completion")
        assert answer.usage.completion_tokens > 0, answer
        body = heard("the end")
        same(body, {**asked, "prompt": prompt})
    text = "".join(c.choices[0].text for c in client.completions.create(prompt="stream legacy", stream=True, **asked) if c.choices)
    inside("stream legacy", text)
    error = raises(openai.BadRequestError, lambda: client.completions.create(model="claude-sonnet-4-6", prompt="x", suffix="y"))
    same(error.param, "suffix")


@case()
def legacy_errors():
    raises(openai.NotFoundError, lambda: client.completions.create(model="nothing-here", prompt="x"))
    raises(openai.BadRequestError, lambda: client.completions.create(model="mock", prompt="x", temperature="hot"))
    error = raises(openai.RateLimitError, lambda: client.completions.create(model=fresh("openai"), prompt="[mock: status=429, retry_after=17]"))
    same(error.status_code, 429)
