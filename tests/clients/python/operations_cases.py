"""The Python SDK `openai` on moderations, images, sound, files, batches and realtime."""

import base64
import io
import json

import openai

from bench import KEY, PNG, SMALL_KEY, URL, WRONG_KEY, case, fresh, inside, raises, same

client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
small = client.with_options(api_key=SMALL_KEY)
PICTURE = base64.b64decode(PNG)
ON = ["mock", "openai"]
WAV = b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x40\x1f\x00\x00\x80\x3e\x00\x00\x02\x00\x10\x00data\x00\x00\x00\x00"


def named(target, openais):
    return "mock" if target == "mock" else openais


@case(on=ON)
def moderation(target):
    ask = lambda text: client.moderations.create(model=named(target, "omni-moderation-latest"), input=text).results[0]
    same((ask("kind words").flagged, ask("kill").flagged), (False, True))
    result = ask("kind words")
    assert result.category_scores.violence >= 0 and result.categories.harassment_threatening is False, result


@case(on=ON)
def image_made(target):
    answer = client.images.generate(model=named(target, "gpt-image-1"), prompt="a gate", size="1024x1024")
    picture = answer.data[0]
    assert picture.b64_json or picture.url, answer
    assert answer.created > 0, answer


@case(on=ON)
def image_edited(target):
    answer = client.images.edit(model=named(target, "gpt-image-1"), image=("gate.png", PICTURE, "image/png"), prompt="paint it red")
    assert answer.data[0].b64_json or answer.data[0].url, answer
    several = [("a.png", PICTURE, "image/png"), ("b.png", PICTURE, "image/png")]
    assert client.images.edit(model=named(target, "gpt-image-1"), image=several, prompt="both").data


@case(on=ON)
def image_varied(target):
    answer = client.images.create_variation(model=named(target, "dall-e-2"), image=("gate.png", PICTURE, "image/png"))
    assert answer.data[0].b64_json or answer.data[0].url, answer


@case(on=ON)
def speech(target):
    asked = {"model": named(target, "tts-1"), "voice": "alloy", "input": "open the gate"}
    whole = client.audio.speech.create(**asked).content
    assert len(whole) > 0
    with client.audio.speech.with_streaming_response.create(**asked) as answer:
        inside("audio/", answer.headers["content-type"])
        same(b"".join(answer.iter_bytes()), whole)


@case(on=ON)
def transcription(target):
    asked = {"model": named(target, "whisper-1"), "file": ("words.wav", WAV, "audio/wav")}
    assert client.audio.transcriptions.create(**asked).text
    assert isinstance(client.audio.transcriptions.create(**asked, response_format="text"), str)


@case(on=ON)
def translation(target):
    assert client.audio.translations.create(model=named(target, "whisper-1"), file=("words.wav", WAV, "audio/wav")).text


@case(on=ON)
def pictures_streamed(target):
    model = named(target, "gpt-image-1")
    made = list(client.images.generate(model=model, prompt="a gate", stream=True, partial_images=1))
    same([event.type for event in made], ["image_generation.partial_image", "image_generation.completed"])
    assert made[-1].b64_json and made[-1].usage.total_tokens > 0, made
    edited = list(client.images.edit(model=model, image=("gate.png", PICTURE, "image/png"), prompt="red", stream=True))
    same([event.type for event in edited], ["image_edit.partial_image", "image_edit.completed"])


@case(on=ON)
def sound_streamed(target):
    asked = {"model": named(target, "gpt-4o-transcribe"), "file": ("words.wav", WAV, "audio/wav")}
    heard = list(client.audio.transcriptions.create(**asked, stream=True))
    same([event.type for event in heard], ["transcript.text.delta", "transcript.text.done"])
    same(heard[0].delta, heard[-1].text)
    spoken = {"model": named(target, "gpt-4o-mini-tts"), "voice": "alloy", "input": "open the gate", "stream_format": "sse"}
    with client.audio.speech.with_streaming_response.create(**spoken) as answer:
        inside("text/event-stream", answer.headers["content-type"])
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]
    same([event["type"] for event in events], ["speech.audio.delta", "speech.audio.done"])


@case(on=ON)
def files_and_batches(target):
    line = {"custom_id": "one", "method": "POST", "url": "/v1/chat/completions",
            "body": {"model": "gpt-4.1", "messages": [{"role": "user", "content": "in a batch"}]}}
    content = (json.dumps(line) + "\n").encode()
    where = {"provider": target}
    file = client.files.create(file=("lines.jsonl", io.BytesIO(content)), purpose="batch", extra_body=where)
    same((file.object, file.purpose, file.bytes), ("file", "batch", len(content)))
    same(client.files.retrieve(file.id).id, file.id)
    inside(b"custom_id", client.files.content(file.id).content)
    inside(file.id, [f.id for f in client.files.list()])
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    same((batch.object, batch.input_file_id), ("batch", file.id))
    same(client.batches.retrieve(batch.id).id, batch.id)
    inside(batch.id, [b.id for b in client.batches.list()])
    # Nobody else has them: another key is another tenant.
    for call in (
        lambda: small.files.retrieve(file.id),
        lambda: small.files.content(file.id),
        lambda: small.files.delete(file.id),
        lambda: small.batches.retrieve(batch.id),
        lambda: small.batches.cancel(batch.id),
    ):
        raises(openai.NotFoundError, call)
    inside(client.batches.cancel(batch.id).status, ("cancelling", "cancelled"))
    same(client.files.delete(file.id).deleted, True)
    assert file.id not in [f.id for f in client.files.list()], "a file that is gone is listed"


@case()
def errors():
    other = client.with_options(api_key=WRONG_KEY)
    for make in (
        lambda c, model: c.moderations.create(model=model, input="x"),
        lambda c, model: c.images.generate(model=model, prompt="x"),
        lambda c, model: c.images.edit(model=model, image=("a.png", PICTURE, "image/png"), prompt="x"),
        lambda c, model: c.audio.speech.create(model=model, voice="alloy", input="x"),
        lambda c, model: c.audio.transcriptions.create(model=model, file=("a.wav", WAV, "audio/wav")),
    ):
        raises(openai.AuthenticationError, lambda: make(other, "mock"))
        error = raises(openai.NotFoundError, lambda: make(client, "nothing-here"))
        same(error.code, "model_not_found")
        raises(openai.PermissionDeniedError, lambda: make(small, "gpt-image-1"))
    raises(openai.NotFoundError, lambda: client.files.retrieve("file-of-nobody"))
    raises(openai.NotFoundError, lambda: client.batches.retrieve("batch_of_nobody"))


@case()
def upstream_errors():
    error = raises(openai.RateLimitError, lambda: client.images.generate(model=fresh("openai"), prompt="[mock: status=429, retry_after=17]"))
    same(error.response.headers["retry-after"], "17")
