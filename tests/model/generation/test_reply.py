"""The one place that reads an answer: what is text, what is not, and why; and nothing makes it raise."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.candidates.usable import REASONS, tidy, usable
from model.generation.protocol import NO_REPLY
from model.generation.reply import LONGEST_REPLY, reply_of


def _said(text, ending="stop", **more):
    return reply_of({"role": "assistant", "content": text, **more}, ending)


@pytest.mark.parametrize(
    "text, said",
    [
        ("<think>\nThe user wants anger.\n</think>\n\nThat makes me furious!", "That makes me furious!"),
        ("The template opened it.</think> Oh no.", "Oh no."),
        ("Well. <thinking>hm</thinking>I see.", "Well. I see."),
        ("<THINK>a</THINK><think>b</think>Yes.", "Yes."),
        ("<think>a <think> b</think> c</think> Good.", "Good."),
        ("[THINK]hm[/THINK]Fine.", "Fine."),
        ("I think so.", "I think so."),
        ("Zero\u200bwidth \ufeffmarks.", "Zerowidth marks."),
        ("A family: \U0001f468\u200d\U0001f469\u200d\U0001f467.", "A family: \U0001f468\u200d\U0001f469\u200d\U0001f467."),
        ("Line\r\n\tbreaks\x85 stay.", "Line\r\n\tbreaks\x85 stay."),
    ],
)  # fmt: skip
def test_what_is_said(text, said):
    reply = _said(text)
    assert (reply.text.strip(), reply.finish_reason) == (said, "stop")


@pytest.mark.parametrize(
    "message, ending, reason",
    [
        ({"content": "<think>\nThe user wants me to be angry and so I"}, "length", "thought"),
        ({"content": "<think>never ends"}, "stop", "thought"),
        ({"content": "Yes. <think>but then"}, "length", "thought"),
        ({"content": "<think>all of it</think>\n"}, "stop", "thought"),
        ({"content": None, "reasoning_content": "let me think"}, "length", "thought"),
        ({"content": "", "reasoning": "let me think"}, "stop", "thought"),
        ({"content": None, "tool_calls": [{"id": "1"}]}, "stop", "tool_call"),
        ({"content": None}, "tool_calls", "tool_call"),
        ({"content": "I'll look.", "function_call": {"name": "f"}}, "stop", "tool_call"),
        ({"content": None, "refusal": "No."}, "stop", "filtered"),
        ({"content": [{"type": "refusal", "refusal": "No."}]}, "stop", "filtered"),
        ({"content": None}, "content_filter", "filtered"),
        ({"content": "bad \ud800 half"}, "stop", "garbled"),
        ({"content": "a\x00b"}, "stop", "garbled"),
        ({"content": "Hi \x1b[31mred\x1b]0;title\x07"}, "stop", "garbled"),
        ({"content": "Hi \u202eevil"}, "stop", "garbled"),
        ({"content": "half a \ufffd character, and on"}, "stop", "garbled"),
        ({"content": "<|im_start|>user"}, "stop", "garbled"),
        ({"content": "a" * (LONGEST_REPLY + 1)}, "stop", "overlong"),
        ({"content": 7}, "stop", "malformed"),
        ({"content": [{"type": "image_url"}]}, "stop", "malformed"),
        ({"content": {"text": "Hi."}}, "stop", "malformed"),
        (None, "stop", "malformed"),
        (["Hi."], "stop", "malformed"),
    ],
)
def test_what_is_no_reply_has_its_reason(message, ending, reason):
    reply = reply_of(message, ending)
    assert reply.finish_reason == reason and reason in NO_REPLY
    found = usable(tidy(reply.text, reason), reason, "I lost my keys.", "Sad")
    assert found == (False, "refusal" if reason == "filtered" else reason) and found[1] in REASONS


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "Oh "}, {"type": "text", "text": "no."}],
        [{"type": "output_text", "text": "Oh no."}],
        [{"type": "image_url", "image_url": {}}, {"text": "Oh no."}],
        ["Oh ", "no."],
    ],
)
def test_a_list_of_parts_is_their_text(content):
    assert _said(content).text == "Oh no." and _said(content).finish_reason == "stop"


@pytest.mark.parametrize("ending", [None, "", "abort", 3, "cut_off"])
def test_an_ending_that_is_unknown_may_be_a_cut(ending):
    """So that a half sentence is not taken for a whole one."""
    assert _said("Hello there, I", ending).finish_reason == "length"


def test_nothing_said_is_empty_or_cut():
    assert usable(_said(None).text, _said(None).finish_reason, "Hi.", "Sad") == (False, "empty")
    cut = _said(None, "length")
    assert usable(cut.text, cut.finish_reason, "Hi.", "Sad") == (False, "truncated")
    assert _said(None, tool_calls=[], function_call=None).finish_reason == "stop"


def test_the_limit_may_cut_inside_a_character():
    assert _said("Oh no. Not \ufffd", "length").text.strip() == "Oh no. Not"
    assert _said("Oh no. Not \ufffd", "length").finish_reason == "length"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
TEXTS = st.lists(
    st.sampled_from(
        ["<think>", "</think>", "\ud800", "\x00", "\x1b[2J", "\u202e", "Hi.", " ", "\ufffd", "[THINK]", "\n"]
    )
    | st.characters(),
    max_size=12,
).map("".join)
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "content": TEXTS
        | JSON
        | st.lists(st.fixed_dictionaries({}, optional={"type": JSON, "text": TEXTS | JSON})),
        "refusal": JSON | TEXTS,
        "reasoning_content": JSON | TEXTS,
        "tool_calls": JSON,
    },
)


@settings(max_examples=400, deadline=None)
@given(message=MESSAGES | JSON, ending=JSON | st.sampled_from(["stop", "length", "tool_calls"]))
def test_whatever_is_answered_is_text_or_has_a_reason(message, ending):
    reply = reply_of(message, ending)
    reply.text.encode()  # storable: no lone surrogate
    assert len(reply.text) <= LONGEST_REPLY
    assert not {c for c in reply.text if c in "\x00\x1b\u202e\u2066\x9b"}
    if reply.finish_reason not in NO_REPLY:
        assert "<think>" not in reply.text and "\ufffd" not in reply.text
    good, reason = usable(tidy(reply.text, reply.finish_reason), reply.finish_reason, "Hello.", "Sad")
    assert good is not bool(reason) and reason in ("", *REASONS)
    json.dumps(reply.text, ensure_ascii=False).encode()
