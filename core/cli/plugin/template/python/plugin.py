"""What this plugin is for, in a sentence.

Names are those of wit/deps/portcullis/portcullis.wit in Python's writing; a variant's case is a class (`Need_Texts`). A
class a phase: add it here, in `phases` below, and in wit/plugin.wit. For an editor's sake `componentize-py -d wit bindings
bindings` writes the modules that are imported here.
"""

from wit_world import exports
from wit_world.exports.request import Verdict_Continue, Verdict_Reject
from wit_world.imports import config
from wit_world.imports.types import Description, Need_LastUserText, Phase_Request, Refusal


class Describe(exports.Describe):
    def describe(self) -> Description:
        return Description(
            name="example-name",
            version="0.1.0",
            phases=[Phase_Request()],
            needs=[Need_LastUserText()],
            stream_mode=None,
            window=None,
            # Nothing of one request is kept for another, so the operator may say isolation = "pooled".
            reusable=True,
        )


class Request(exports.Request):
    def on_request(self, request):
        # [[stages]] config = { word = "please" }
        word = config.value("word") or "please"
        if word in request.last_user_text:
            return Verdict_Continue()
        return Verdict_Reject(Refusal(status=400, message=f"say {word}"))
