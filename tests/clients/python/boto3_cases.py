"""AWS's SDK `boto3`, Converse and ConverseStream, over all upstream formats.

It sends a bearer key over HTTPS only, and the gateway under test speaks HTTP: the key is put on by a hook, as it stands."""

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError

from bench import CLOCK, KEY, TARGETS, URL, WEATHER, WRONG_KEY, case, fresh, heard, inside, raises, said, same


def made(key=KEY):
    config = Config(signature_version=UNSIGNED, retries={"max_attempts": 1}, max_pool_connections=20)
    made = boto3.client("bedrock-runtime", region_name="eu-west-1", endpoint_url=URL, config=config)
    sign = lambda request, **_: request.headers.__setitem__("Authorization", f"Bearer {key}")
    made.meta.events.register("before-send.bedrock-runtime", sign)
    return made


client = made()
SPECS = [("get_weather", "the weather", WEATHER), ("get_clock", "the time", CLOCK)]
TOOLS = {"tools": [{"toolSpec": {"name": n, "description": d, "inputSchema": {"json": s}}} for n, d, s in SPECS]}


def user(*content):
    return [{"role": "user", "content": [{"text": c} if isinstance(c, str) else c for c in content]}]


def ask(model, messages, **more):
    return client.converse(modelId=model, messages=user(messages) if isinstance(messages, str) else messages, **more)


def text(answer):
    return "".join(block.get("text", "") for block in answer["output"]["message"]["content"])


@case(on=TARGETS)
def converse(target):
    mark = f"boto3 {target} knobs"
    config = {"temperature": 0, "topP": 0.5, "maxTokens": 200, "stopSequences": ["END"]}
    answer = ask(TARGETS[target], mark, system=[{"text": "Be brief."}], inferenceConfig=config)
    same(text(answer), said(target, mark))
    same(answer["stopReason"], "end_turn")
    usage = answer["usage"]
    assert usage["inputTokens"] > 0 and usage["totalTokens"] == usage["inputTokens"] + usage["outputTokens"], usage
    inside("req_", answer["ResponseMetadata"]["RequestId"])


@case(on=TARGETS)
def converse_stream(target):
    events = list(client.converse_stream(modelId=TARGETS[target], messages=user("hello stream"))["stream"])
    kinds = [next(iter(event)) for event in events]
    same((kinds[0], kinds[-2:]), ("messageStart", ["messageStop", "metadata"]))
    pieces = [e["contentBlockDelta"]["delta"]["text"] for e in events if "contentBlockDelta" in e]
    same("".join(pieces), said(target, "hello stream"))
    assert len(pieces) > 2, "one lump is no stream"
    assert events[-1]["metadata"]["usage"]["outputTokens"] > 0, events[-1]


@case(on=TARGETS)
def tools_and_results(target):
    mark = f"boto3 {target} result"
    question = "both get_weather and get_clock"
    first = ask(TARGETS[target], question, toolConfig=TOOLS)
    same(first["stopReason"], "tool_use")
    message = first["output"]["message"]
    calls = [block["toolUse"] for block in message["content"] if "toolUse" in block]
    same([call["name"] for call in calls], ["get_weather", "get_clock"])
    same(sorted(calls[0]["input"]), ["city", "days"])
    results = [{"toolResult": {"toolUseId": call["toolUseId"], "content": [{"text": f"{mark} of {call['name']}"}]}} for call in calls]
    answer = ask(TARGETS[target], user(question) + [message, {"role": "user", "content": results}], toolConfig=TOOLS)
    inside(f"{mark} of get_weather", text(answer))
    inside(f"{mark} of get_clock", text(answer))


@case(on=TARGETS)
def streamed_tools(target):
    events = client.converse_stream(modelId=TARGETS[target], messages=user("get_weather"), toolConfig=TOOLS)["stream"]
    names, arguments, reason = [], "", None
    for event in events:
        if "contentBlockStart" in event:
            names.append(event["contentBlockStart"]["start"]["toolUse"]["name"])
        elif "contentBlockDelta" in event:
            arguments += event["contentBlockDelta"]["delta"]["toolUse"]["input"]
        elif "messageStop" in event:
            reason = event["messageStop"]["stopReason"]
    same((names, reason), (["get_weather"], "tool_use"))
    inside("city", arguments)


@case(on=TARGETS)
def forced_tool(target):
    answer = ask(TARGETS[target], "say nothing", toolConfig={**TOOLS, "toolChoice": {"tool": {"name": "get_clock"}}})
    same([b["toolUse"]["name"] for b in answer["output"]["message"]["content"] if "toolUse" in b], ["get_clock"])


@case(on=["openai", "anthropic", "gemini"])
def media_in(target):
    mark = f"boto3 {target} media"
    picture = {"image": {"format": "png", "source": {"bytes": b"\x89PNG\r\n\x1a\n"}}}
    document = {"document": {"format": "txt", "name": "notes", "source": {"bytes": b"words of a document"}}}
    inside(mark, text(ask(TARGETS[target], user(mark, picture, document))))
    inside("iVBORw0KGgo", str(heard(mark)))


@case(on=TARGETS)
def structured_output(target):
    schema = '{"type":"object","properties":{"title":{"type":"string"}},"required":["title"],"additionalProperties":false}'
    format = {"type": "json_schema", "structure": {"jsonSchema": {"name": "Verdict", "schema": schema}}}
    inside('"title"', text(ask(TARGETS[target], "judge boto3", outputConfig={"textFormat": format})))


def fails(name, status, call):
    error = raises(ClientError, call)
    same((error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]), (name, status))
    return error


@case()
def refusals():
    other = made(WRONG_KEY)
    error = fails("AccessDeniedException", 401, lambda: other.converse(modelId="mock", messages=user("x")))
    assert WRONG_KEY not in str(error), error
    assert isinstance(error, client.exceptions.AccessDeniedException), type(error)
    inside("nothing-here", str(fails("ResourceNotFoundException", 404, lambda: ask("nothing-here", "x"))))
    fails("ValidationException", 400, lambda: ask("mock", []))


@case()
def a_signature_is_no_key():
    signed = boto3.client(
        "bedrock-runtime", region_name="eu-west-1", endpoint_url=URL,
        aws_access_key_id="AKIAEXAMPLE", aws_secret_access_key="secret", config=Config(retries={"max_attempts": 1}),
    )
    error = fails("AccessDeniedException", 401, lambda: signed.converse(modelId="mock", messages=user("x")))
    inside("AWS_BEARER_TOKEN_BEDROCK", str(error))


@case(on=TARGETS)
def upstream_errors(target):
    fails("ThrottlingException", 429, lambda: ask(fresh(target), "[mock: status=429]"))


@case(on=TARGETS)
def cut_stream(target):
    """What came is there, and the end is an error."""
    stream = client.converse_stream(modelId=fresh(target), messages=user("one two three four five six [mock: cut=6]"))["stream"]
    events = []
    raises(EventStreamError, lambda: [events.append(event) for event in stream])
    assert any("contentBlockDelta" in event for event in events), events
    assert not any("messageStop" in event for event in events), events
