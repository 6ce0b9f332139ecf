"""`boto3` on Bedrock's Converse and ConverseStream, over all upstream formats.

It sends API keys over TLS only (`with_a_bearer_key` does). Without TLS, as here on loopback, the key stands in a header."""

import base64
import datetime
import ipaddress
import json
import os
import pathlib
import subprocess
import tempfile

import boto3
import botocore
import botocore.config
import botocore.exceptions
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench import CLOCK, FOUR, KEY, PNG, SMALL_KEY, TARGETS, THINKERS, URL, WEATHER, WRONG_KEY, case, fresh, heard, inside, raises, said, same


def connect(key, url=URL):
    config = botocore.config.Config(signature_version=botocore.UNSIGNED, retries={"total_max_attempts": 1}, read_timeout=30)
    made = boto3.client("bedrock-runtime", region_name="us-east-1", endpoint_url=url, config=config)
    made.meta.events.register("request-created", lambda request, **_: request.headers.add_header("x-api-key", key))
    return made


client = connect(KEY)
TOOLS = {
    "tools": [
        {"toolSpec": {"name": "get_weather", "description": "the weather", "inputSchema": {"json": WEATHER}}},
        {"toolSpec": {"name": "get_clock", "description": "the time", "inputSchema": {"json": CLOCK}}},
    ]
}
SIGNATURE = "bW9jayBzaWduYXR1cmU="


def user(*content):
    return {"role": "user", "content": [{"text": c} if isinstance(c, str) else c for c in content]}


def ask(target, *messages, models=TARGETS, **knobs):
    messages = [user(m) if isinstance(m, str) else m for m in messages]
    return client.converse(modelId=models[target], messages=messages, **knobs)


def events_of(model, *messages, **knobs):
    messages = [user(m) if isinstance(m, str) else m for m in messages]
    return list(client.converse_stream(modelId=model, messages=messages, **knobs)["stream"])


def fold(events):
    """The content blocks of a stream."""
    blocks = {}
    for event in events:
        if start := event.get("contentBlockStart"):
            blocks[start["contentBlockIndex"]] = {"toolUse": {**start["start"]["toolUse"], "input": ""}}
        if piece := event.get("contentBlockDelta"):
            block, delta = blocks.setdefault(piece["contentBlockIndex"], {}), piece["delta"]
            if "text" in delta:
                block["text"] = block.get("text", "") + delta["text"]
            if "toolUse" in delta:
                block["toolUse"]["input"] += delta["toolUse"]["input"]
            for name, text in delta.get("reasoningContent", {}).items():
                thought = block.setdefault("reasoningContent", {"reasoningText": {"text": ""}})["reasoningText"]
                thought[name] = thought.get(name, "") + text
    for block in blocks.values():
        if "toolUse" in block:
            block["toolUse"]["input"] = json.loads(block["toolUse"]["input"] or "{}")
    return [blocks[at] for at in sorted(blocks)]


@case(on=TARGETS)
def converse(target):
    answer = ask(target, "hello bedrock", inferenceConfig={"temperature": 0, "maxTokens": 200})
    message = answer["output"]["message"]
    same((message["role"], message["content"]), ("assistant", [{"text": said(target, "hello bedrock")}]))
    same(answer["stopReason"], "end_turn")
    usage = answer["usage"]
    assert usage["inputTokens"] > 0 and usage["outputTokens"] > 0, usage
    same(usage["totalTokens"], usage["inputTokens"] + usage["outputTokens"])
    assert answer["metrics"]["latencyMs"] >= 0 and answer["ResponseMetadata"]["RequestId"], answer


@case(on=TARGETS)
def converse_stream(target):
    events = events_of(TARGETS[target], "hello stream")
    same(list(events[0]), ["messageStart"])
    pieces = [e["contentBlockDelta"]["delta"]["text"] for e in events if "contentBlockDelta" in e]
    same("".join(pieces), said(target, "hello stream"))
    assert len(pieces) > 2, "one lump is no stream"
    same([e["messageStop"]["stopReason"] for e in events if "messageStop" in e], ["end_turn"])
    usage = events[-1]["metadata"]["usage"]
    whole = ask(target, "hello stream")["usage"]
    same((usage["inputTokens"], usage["outputTokens"]), (whole["inputTokens"], whole["outputTokens"]))


@case(on=FOUR)
def held_stream(target):
    text = fold(events_of(f"{fresh(target)}-held", "one two three four [mock: pace=60ms]"))[0]["text"]
    inside("heard: one two three four", text)
    assert text.endswith(" (held)"), text


@case(on=FOUR)
def system_and_bounds(target):
    mark = f"bedrock gate before {target}"
    answer = ask(target, "one two three four", system=[{"text": mark}], inferenceConfig={"maxTokens": 3, "stopSequences": ["four"]})
    same(answer["stopReason"], "max_tokens")
    if target != "mock":
        inside(mark, json.dumps(heard(mark)))


@case(on=TARGETS)
def tools_and_results(target):
    for streaming in (False, True):
        mark = f"bedrock {target} {streaming} result"
        asked = "both get_weather and get_clock"
        if streaming:
            events = events_of(TARGETS[target], asked, toolConfig=TOOLS)
            content = fold(events)
            same([e["messageStop"]["stopReason"] for e in events if "messageStop" in e], ["tool_use"])
        else:
            first = ask(target, asked, toolConfig=TOOLS)
            content = first["output"]["message"]["content"]
            same(first["stopReason"], "tool_use")
        uses = [b["toolUse"] for b in content if "toolUse" in b]
        same([u["name"] for u in uses], ["get_weather", "get_clock"])
        same([set(u["input"]) for u in uses], [{"city", "days"}, {"zone"}])
        same(len({u["toolUseId"] for u in uses}), 2)
        results = [{"toolResult": {"toolUseId": u["toolUseId"], "content": [{"text": f"{mark} of {u['name']}"}]}} for u in uses]
        turns = [user(asked), {"role": "assistant", "content": content}, user(*results)]
        text = ask(target, *turns, toolConfig=TOOLS)["output"]["message"]["content"][0]["text"]
        inside(f"{mark} of get_weather", text)
        inside(f"{mark} of get_clock", text)


@case(on=TARGETS)
def forced_tool(target):
    answer = ask(target, "say nothing", toolConfig={**TOOLS, "toolChoice": {"tool": {"name": "get_clock"}}})
    same([b["toolUse"]["name"] for b in answer["output"]["message"]["content"]], ["get_clock"])


@case(on=TARGETS)
def structured_output(target):
    schema = {
        "type": "object", "properties": {"title": {"type": "string"}, "score": {"type": "integer"}},
        "required": ["title", "score"], "additionalProperties": False,
    }
    structure = {"jsonSchema": {"name": "verdict", "schema": json.dumps(schema)}}
    answer = ask(target, "judge bedrock", outputConfig={"textFormat": {"type": "json_schema", "structure": structure}})
    same(list(json.loads(answer["output"]["message"]["content"][0]["text"])), ["title", "score"])


@case(on=FOUR)
def media_in(target):
    mark = f"bedrock {target} picture"
    picture = {"image": {"format": "png", "source": {"bytes": base64.b64decode(PNG)}}}
    document = {"document": {"format": "txt", "name": "notes", "source": {"bytes": b"words of a document"}}}
    inside(mark, ask(target, user(mark, picture, document))["output"]["message"]["content"][0]["text"])
    if target != "mock":
        inside(PNG, json.dumps(heard(mark)))


@case(on=["anthropic"])
def reasoning_round_trip(target):
    mark = f"bedrock {target} goes on"
    think = {"additionalModelRequestFields": {"thinking": {"type": "enabled", "budget_tokens": 1024}}}
    first = ask(target, "think", models=THINKERS, **think)["output"]["message"]
    same([list(b)[0] for b in first["content"]], ["reasoningContent", "text"])
    inside("A mock repeats", first["content"][0]["reasoningContent"]["reasoningText"]["text"])
    ask(target, "think", first, user(mark), models=THINKERS, **think)
    inside(SIGNATURE, json.dumps(heard(mark)))


def fails(kind, status, call):
    error = raises(getattr(client.exceptions, kind), call)
    same(error.response["ResponseMetadata"]["HTTPStatusCode"], status)
    return str(error)


@case()
def refusals():
    asked = {"messages": [user("x")]}
    error = raises(botocore.exceptions.ClientError, lambda: connect(WRONG_KEY).converse(modelId="mock", **asked))
    same(error.response["ResponseMetadata"]["HTTPStatusCode"], 401)
    assert isinstance(error, client.exceptions.AccessDeniedException) and WRONG_KEY not in str(error), error
    fails("AccessDeniedException", 403, lambda: connect(SMALL_KEY).converse(modelId="gpt-4.1", **asked))
    inside("nothing-here", fails("ResourceNotFoundException", 404, lambda: client.converse(modelId="nothing-here", **asked)))
    fails("ValidationException", 400, lambda: client.converse(modelId="mock", messages=[]))


@case()
def a_signature_is_no_key():
    signed = boto3.client(
        "bedrock-runtime", region_name="eu-west-1", endpoint_url=URL, aws_access_key_id="AKIAEXAMPLE", aws_secret_access_key="secret",
        config=botocore.config.Config(retries={"total_max_attempts": 1}),
    )
    error = raises(botocore.exceptions.ClientError, lambda: signed.converse(modelId="mock", messages=[user("x")]))
    same(error.response["Error"]["Code"], "AccessDeniedException")
    inside("AWS_BEARER_TOKEN_BEDROCK", str(error))


@case(on=FOUR)
def upstream_errors(target):
    limited = [user("[mock: status=429, retry_after=17]")]
    fails("ThrottlingException", 429, lambda: client.converse(modelId=fresh(target), messages=limited))
    broken = [user("[mock: status=500]")]
    error = raises(botocore.exceptions.ClientError, lambda: client.converse(modelId=fresh(target), messages=broken))
    assert error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500, error.response


@case(on=FOUR)
def stream_that_dies(target):
    """What came is there, and the end is an error."""
    got = []

    def read():
        for event in client.converse_stream(modelId=fresh(target), messages=[user("one two three four five six [mock: cut=6]")])["stream"]:
            got.append(event)

    raises(botocore.exceptions.EventStreamError, read)
    assert any("contentBlockDelta" in e for e in got) and not any("messageStop" in e for e in got), got


@case()
def under_a_prefix():
    answer = connect(KEY, f"{URL}/bedrock").converse(modelId="mock", messages=[user("prefix")])
    same(answer["output"]["message"]["content"][0]["text"], said("mock", "prefix"))


@case()
def full_names():
    answer = client.converse(modelId="anthropic/claude-sonnet-4-6", messages=[user("by name")])
    same(answer["output"]["message"]["content"][0]["text"], said("anthropic", "by name"))


def certificate(folder):
    """A certificate of 127.0.0.1 that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "portcullis test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(hours=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    (folder / "cert.pem").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    encoding = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*encoding))


@case()
def with_a_bearer_key():
    """A gateway of its own that speaks TLS, and the key where AWS's own tools look for it."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        certificate(folder)
        tls = 'tls = { cert = "cert.pem", key = "key.pem" }'
        (folder / "gateway.toml").write_text(f'[server]\nlisten = "127.0.0.1:0"\n{tls}\n[admin]\nlisten = "127.0.0.1:0"\n')
        serving = subprocess.Popen([os.environ["PORTCULLIS_BINARY"], "serve"], cwd=folder, stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL, text=True)
        try:
            url = next(line.split()[1] for line in serving.stdout if line.split()[:1] == ["gateway"])
            os.environ["AWS_BEARER_TOKEN_BEDROCK"] = (folder / "data/first-key").read_text().strip()
            bearer = boto3.client("bedrock-runtime", region_name="us-east-1", endpoint_url=url, verify=str(folder / "cert.pem"))
            answer = bearer.converse(modelId="mock", messages=[user("bearer")])
            same(answer["output"]["message"]["content"][0]["text"], said("mock", "bearer"))
            events = bearer.converse_stream(modelId="mock", messages=[user("bearer")])["stream"]
            same(fold(events)[0]["text"], said("mock", "bearer"))
        finally:
            os.environ.pop("AWS_BEARER_TOKEN_BEDROCK", None)
            serving.terminate()
            serving.wait(timeout=30)
