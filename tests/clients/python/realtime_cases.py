"""The Python SDK `openai` on the realtime WebSocket."""

import openai

from bench import KEY, SMALL_KEY, URL, WRONG_KEY, case, inside, raises, same

from websockets.exceptions import InvalidStatus

client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)


def opened(model, key=KEY):
    return client.with_options(api_key=key).realtime.connect(model=model)


@case(on=["mock", "openai"])
def text_over_a_socket(target):
    model = {"mock": "mock", "openai": "gpt-realtime"}[target]
    with opened(model) as socket:
        same(socket.recv().type, "session.created")
        socket.session.update(session={"type": "realtime", "output_modalities": ["text"]})
        content = [{"type": "input_text", "text": "hello realtime"}]
        socket.conversation.item.create(item={"type": "message", "role": "user", "content": content})
        socket.response.create()
        text, final = "", None
        for event in socket:
            if event.type == "response.output_text.delta":
                text += event.delta
            if event.type == "error":
                raise AssertionError(event)
            if event.type == "response.done":
                final = event.response
                break
    inside("mock heard", text)
    same(final.status, "completed")
    assert final.usage.input_tokens > 0 and final.usage.output_tokens > 0, final.usage


@case()
def refusals():
    for status, model, key in ((401, "mock", WRONG_KEY), (404, "nothing-here", KEY), (403, "gpt-realtime", SMALL_KEY)):
        def call():
            with opened(model, key) as socket:
                socket.recv()

        same(raises(InvalidStatus, call).response.status_code, status)
