"""What the cases stand on: the table, the targets, and what the upstream heard. Knows no SDK."""

import itertools
import json
import os
import sys
import traceback
import urllib.error
import urllib.parse
import urllib.request

URL = os.environ["PORTCULLIS_URL"]
KEY = os.environ["PORTCULLIS_KEY"]
# May use the model `mock` and nothing else.
SMALL_KEY = os.environ["PORTCULLIS_SMALL_KEY"]
WRONG_KEY = "sk-pc-" + "A" * 43

# The in-process provider, and one model of each upstream format.
TARGETS = {
    "mock": "mock", "openai": "gpt-4.1", "anthropic": "claude-sonnet-4-6", "gemini": "gemini-2.5-flash",
    "bedrock": "us.anthropic.claude-sonnet-4-6", "cohere": "command-a-03-2025", "ollama": "qwen3",
}
# For what does not differ by upstream so much that it is worth asking them all.
FOUR = ["mock", "openai", "anthropic", "gemini"]
# Those that take pictures; one that does takes no tools.
SEEING = {**TARGETS, "cohere": "command-a-vision-07-2025"}
THINKERS = {**TARGETS, "openai": "gpt-5"}
UPSTREAMS = ["openai", "anthropic", "gemini"]

# One pixel.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PDF = "JVBERi0xLjQKJSVFT0YK"
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "where"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
CLOCK = {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"], "additionalProperties": False}

CASES = []
FRESH = itertools.count()


def fresh(target):
    """A model that no fault has met: the gateway rests what fails, and the next case must not find it so."""
    name = f"{TARGETS[target]}-{os.getpid()}-{next(FRESH)}"
    return f"mock/{name}" if target == "mock" else name



def case(on=None):
    """A row of the table. `on`: the targets it runs on; without it, once and without a target."""

    def add(function):
        CASES.append((function, on))
        return function

    return add


def run(sdk):
    """One line a case. The number of those that failed."""
    failed = 0
    for function, on in CASES:
        for target in on or [None]:
            name = f"{sdk:<28} {function.__name__:<34} {target or ''}".rstrip()
            try:
                function(target) if target else function()
                print(f"ok      {name}", flush=True)
            except Exception:
                failed += 1
                print(f"FAILED  {name}", flush=True)
                traceback.print_exc()
    CASES.clear()
    return failed


def heard(mark):
    """The upstream's side of the latest request with `mark` in it: its JSON body."""
    return heard_whole(mark)["json"]


def heard_whole(mark):
    address = os.environ["PORTCULLIS_HEARD"] + "/?" + urllib.parse.urlencode({"mark": mark})
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            found = json.load(answer)
    except urllib.error.HTTPError:
        raise AssertionError(f"the upstream heard nothing with {mark!r}") from None
    text = json.dumps(found["headers"]) + found["path"]
    assert KEY not in text, "a virtual key reached the upstream"
    found["json"] = json.loads(found["body"]) if found["body"] else None
    return found


def said(target, text, thinker=False):
    """What the mock says to `text`."""
    model = (THINKERS if thinker else TARGETS)[target]
    return f"mock/{model} heard: {text}"


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised")


def same(got, wanted):
    assert got == wanted, f"got {got!r}, wanted {wanted!r}"


def inside(part, whole):
    assert part in whole, f"{part!r} is not in {whole!r}"
