"""The prompt that asks an LLM for one candidate.

Knows nothing of engines or of what becomes of the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from model.generation.protocol import Message

_INSTRUCTION = "Generate a response that align with the emotional tone of a given sentence."

WORKED_EXAMPLES = (
    ("Angry", "I forgot to bring your book back.", "Again? You promised me twice, and I needed it today!"),
    ("Happy", "We got the table by the window.", "Oh, how lovely! I was hoping we would sit there."),
)
"""(emotion, sentence, reply) of the worked exchanges, written for this project."""


def candidate_prompt(sentence: str, emotion: str, history: Sequence[str] = ()) -> str:
    """The user prompt, exactly as in Table 7 of the paper, grammar included.

    `history`: role-tagged lines of the turns before, put above it (not in the paper).
    """
    asked = f"{_INSTRUCTION}\n({emotion}) {sentence}"
    return "\n".join([*history, "", asked]) if history else asked


def candidate_messages(
    sentence: str, emotion: str, examples: int = 0, history: Sequence[str] = ()
) -> list[Message]:
    """Chat messages that ask for a reply to `sentence` in `emotion`, after `examples` (0 to 2) worked exchanges.

    The system message is there and empty: without one, some chat templates put in a text of their own. Raises
    ValueError for a number of examples that does not exist.
    """
    if not 0 <= examples <= len(WORKED_EXAMPLES):
        raise ValueError(f"{examples} worked examples asked for; there are {len(WORKED_EXAMPLES)}")
    messages: list[Message] = [{"role": "system", "content": ""}]
    for shown_emotion, shown_sentence, reply in WORKED_EXAMPLES[:examples]:
        messages.append({"role": "user", "content": candidate_prompt(shown_sentence, shown_emotion)})
        messages.append({"role": "assistant", "content": reply})
    messages.append({"role": "user", "content": candidate_prompt(sentence, emotion, history)})
    return messages
