"""Tidy a candidate's text and judge whether it is a reply at all.

Judges form only, from the text: whether a reply fits its emotion is the scorer's matter. Knows nothing of engines,
files or models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from model.candidates.prompts import WORKED_EXAMPLES
from model.candidates.settings import GENERATION_EMOTIONS
from model.generation.protocol import NO_REPLY

REASONS = (
    "too_long",
    "refusal",
    "thought",
    "tool_call",
    "garbled",
    "overlong",
    "malformed",
    "no_answer",
    "empty",
    "truncated",
    "label",
    "echo",
    "meta",
    "example",
    "duplicate",
)
"""Why a candidate is unusable, in the order in which the reasons are tried. The first go by how it ended
(model/generation/protocol.py), refusals by the text as well."""

_QUOTES = (('"', '"'), ("“", "”"), ("‘", "’"), ("'", "'"), ("«", "»"))

_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’»)\]*]*(?=\s|$)")

# A number, or a lone letter other than I, before a full stop is a list mark or an initial. After a title or an
# abbreviation the sentence mostly goes on; where it does not, only its last full sentence is lost.
_NO_END = re.compile(
    r"(?:^|\s)[(\"“]*(?:\d+|[A-HJ-Za-z]|(?:[A-Z]\.)+[A-Z]"
    r"|(?i:mr|mrs|ms|dr|st|prof|rev|capt|lt|sgt|jr|sr|vs|etc|e\.g|i\.e))\.$"
)

_EMOTION = "|".join(GENERATION_EMOTIONS)

_LABEL = re.compile(
    # "(Happy) ..." anywhere, "Happy: ..." or any "(Word) ..." at the start.
    rf"[(\[*](?:{_EMOTION})[)\]*:]|^(?:{_EMOTION})\s*(?:[.,:;!?-]|$)|^[(\[][^)\]]*[)\]]"
    # "Emotion: Happy ...", "Happy response: ...".
    rf"|^emotion\s*:|\b(?:emotion|tone|mood)\s*:\s*(?:{_EMOTION})\b"
    rf"|^(?:(?:an?|the|my) )?(?:{_EMOTION}) (?:response|reply|answer|version)\b[^.!?:]*:"
    # "... - Happy" signs a whole sentence, or has a label's capital: "I'm just so - happy!" is talk.
    rf"|[.!?…][\"')*]*\s*[-–—]+\s*(?:{_EMOTION})[.!]?$|\s[-–—]+\s*(?-i:{_EMOTION})[.!]?$"
    # "As a happy person, ..." plays the label; "She strikes me as a sad person" is talk.
    rf"|(?:^|[.!?…] )as an? (?:\w+ )?(?:{_EMOTION})(?:ed)? (?:person|individual|character|speaker)\b",
    re.IGNORECASE,
)

_CANNOT = r"\b(?:can(?:no|')t|can not|unable to|not able to)"

_REFUSAL = re.compile(
    r"\bas an? (?:ai|artificial|assistant|chatbot|language model)\b"
    r"|\b(?:ai|digital|virtual) (?:language )?(?:model|assistant)\b|\blanguage model\b|\bchatbot\b"
    rf"|(?:{_CANNOT}|\bwon't) "
    r"(?:assist|fulfil|fulfill|comply|generate|provide|create a|engage|respond to|help (?:you )?with)\b"
    # People cannot answer the phone and decline an invitation: what is refused has to be the task.
    rf"|{_CANNOT} answer (?:this|that|these|those|your|such) (?:\w+ )?(?:question|request|prompt)s?\b"
    r"|\b(?:must|have to) (?:\w+ )?(?:decline|refuse) "
    r"(?:(?:this|that|your|the) (?:request|question|prompt)|to (?:answer|respond|engage|generate|comply))\b"
    # People may have no feelings for someone, or about something.
    r"|\bi (?:(?:do not|don't|can(?:no|')t) (?:have|experience|possess)|have no) (?:\w+ )?(?:feelings|emotions)\b"
    r"(?! (?:for|about|toward|towards|left|either|like|anymore)\b)",
    re.IGNORECASE,
)

_ANNOUNCEMENT = re.compile(
    r"^(?:(?:sure|certainly|of course|absolutely|okay|ok)\b[,.!:]*\s*)?"
    r"(?:here(?:'s| is| are)\b[^.!?]*\b(?:response|reply|sentence|version|answer|example|message)s?\b"
    r"|here(?:'s| is) (?:how|what) (?:you|one|i) (?:could|can|might|may|would) (?:\w+ )?(?:respond|reply|answer|say)\b"
    r"[^.!?:]*:"
    # "I would say: go for it!" and "You could say it was fun: we laughed." are talk.
    r"|(?:you|one) (?:could|can|might|may) (?:\w+ )?(?:respond|reply|answer|say)(?: with| by saying| like this)?\s*:"
    r"|(?:(?:an?|one|another|the|my) )?(?:possible|potential|suggested|suitable|appropriate|fitting|sample|example) "
    r"(?:response|reply|answer)\b[^.!?:\"“]*[:\"“]"
    r"|(?:an?|one|another) (?:response|reply|answer) (?:could|might|may|would) be\s*[:\"“]"
    r"|(?:response|reply|answer)\s*:)",
    re.IGNORECASE,
)

# At the start or after a sentence; elsewhere a colon may follow such a word in talk: "I have a new assistant: Tom."
_TRANSCRIPT = re.compile(
    r"(?:^|[.!?…][\"')*]*\s)\W*(?:user|assistant|human|gpt|ai|bot|chatbot|(?:speaker|person) ?(?:\d|[a-z]))\W?:",
    re.IGNORECASE,
)

_META = re.compile(
    # About the sentence or the reply, instead of a reply.
    r"\b(?:the|this|that|your|given|original|revised|following) (?:\w+ )?(?:sentence|phrase|prompt)\b"
    r"|\b(?:a|an|the|this|that|my|your) (?:\w+ )?(?:response|reply) (?:is|was|that|to the|aligns?|conveys?|expresses)\b"
    r"|^(?:the|this|that|my|your) (?:response|reply|statement|message|speaker|text)\b"
    r"|\bemotional (?:tone|response|message|state)\b|\btone of\b|\b(?:neutral|negative|positive|\w+ emotional) tone\b"
    r"|\balign(?:s|ed)? with the\b|\b(?:convey|express|evoke)(?:s|ing)? (?:a|an|the) (?:\w+ )?(?:sense|tone|emotion|feeling|mix)\b"
    # The voice of an assistant.
    r"|\bhappy to (?:help|assist) (?:you )?(?:with|craft|create|rephrase)\b|\b(?:help|assist) you with (?:that|today|your)\b"
    r"|\[your [^\]]*\]|\bplease (?:provide|share|specify)\b|\bcraft a\b|\brephrase\b",
    re.IGNORECASE,
)

_SHOP_WORDS = frozenset({"sentence", "tone", "emotionally", "grammar", "rephrased", "placeholder"})
"""Words of the task and not of the talk: meta-talk unless the sentence has them too."""

_LONG = 4
"""Words from which a text that stands inside another is no coincidence."""


def tidy(text: str, finish_reason: str) -> str:
    """The candidate as it would be said: one line, no wrapping quotes, whole sentences.

    A text that ran into the token limit (finish_reason "length") is cut after its last full sentence, and is
    empty where it has none. The paper does not say what it does with such texts.
    """
    text = _unquote(" ".join(text.split()))
    if finish_reason == "length":
        text = _unquote(_whole_sentences(text))
    return text


def usable(
    text: str, finish_reason: str, sentence: str, emotion: str | None, others: Iterable[str] = ()
) -> tuple[bool, str]:
    """Whether a tidied candidate is a reply to `sentence`, and if not, why: (False, one of `REASONS`).

    `emotion` is the label that was asked for, if any; `others` are the tidied earlier candidates of the same exchange. A
    usable candidate gives (True, ""). Meant to rather lose a good candidate than to keep text that is no reply.
    """
    reason = _fault(_plain(text), finish_reason, _plain(sentence), emotion, others)
    return (not reason, reason)


def _fault(text: str, finish_reason: str, sentence: str, emotion: str | None, others: Iterable[str]) -> str:
    if finish_reason in NO_REPLY:
        return "refusal" if finish_reason == "filtered" else finish_reason
    words = _words(text)
    if not words:
        return "truncated" if finish_reason == "length" else "empty"
    if _LABEL.search(text) or (emotion is not None and words == _words(emotion)):
        return "label"
    if _REFUSAL.search(text):
        return "refusal"
    said = _words(sentence)
    if _ANNOUNCEMENT.search(text) or _TRANSCRIPT.search(text) or _holds(words, said) or _holds(said, words):
        return "echo"
    if _META.search(text) or _SHOP_WORDS & set(words) - set(said):
        return "meta"
    if any(_holds(words, _words(_plain(reply))) for _, _, reply in WORKED_EXAMPLES):
        return "example"
    if any(words == _words(_plain(other)) for other in others):
        return "duplicate"
    return ""


def _holds(words: list[str], piece: list[str]) -> bool:
    """Whether `piece` stands inside `words` and is long enough to be no coincidence, or is all of them."""
    if len(piece) < _LONG:
        return piece == words
    return f" {' '.join(piece)} " in f" {' '.join(words)} "


def _whole_sentences(text: str) -> str:
    ends = [match.end() for match in _SENTENCE_END.finditer(text) if not _NO_END.search(text[: match.end()])]
    return text[: ends[-1]].strip() if ends else ""


def _unquote(text: str) -> str:
    """Strip one pair of quotes around the whole text, or an opening one whose end was cut off."""
    for opening, closing in _QUOTES:
        if not text.startswith(opening):
            continue
        inner = text[len(opening) :]
        if (
            inner.endswith(closing)
            and opening not in inner[:-1]
            and (opening == "‘" or closing not in inner[:-1])
        ):
            return inner[: -len(closing)].strip()
        if opening != "'" and closing not in inner and opening not in inner:
            return inner.strip()
    return text


def _plain(text: str) -> str:
    """Typographic apostrophes as plain ones, so that one pattern serves both."""
    return text.replace("’", "'").replace("‘", "'")


def _words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text.casefold())
