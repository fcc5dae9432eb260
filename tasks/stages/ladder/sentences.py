"""The memory ladder in words, each sentence from figures and free to be negative. Knows nothing of how they were measured."""

from __future__ import annotations

from collections.abc import Mapping

from model.metrics.verdict import LEARNED, WORSE
from tasks.stages.verdicts import by_dataset_text, counted_text, verdict_text

OWN = "own"
MEMORY, MEAN, HYBRID, LAST, FULL = "memory", "mean", "memory-text-1", "text-1", "full"
MEAN_HYBRID = "mean-text-1"


def ladder_sentences(facts: dict, titles: Mapping[str, str]) -> list[str]:
    """What ladder.json shows, the most asked-for first. titles: dataset -> its name for people."""
    found = [
        beside_mean(facts),
        content(facts, titles),
        shares(facts),
        _beside_last_turn(facts),
        _unprepared(facts),
        _cut(facts),
    ]
    return [sentence for sentence in found if sentence]


def compared(facts: dict, arm: str, than: str) -> dict | None:
    """The verdict on how many nats less the arm leaves than another; None where either was not measured."""
    pairs = (c for c in facts["comparisons"] if (c["arm"], c["than"]) == (arm, than))
    return next((c["difference"] for c in pairs), None)


def beside_mean(facts: dict) -> str | None:
    """Whether the learnt memory beats mean embeddings, and does with the last turn beside both; None where the first was
    not measured."""
    found = compared(facts, MEMORY, MEAN)
    if found is None:
        return None
    verb = {LEARNED: "beats", WORSE: "does not beat"}.get(found["grade"], "is not seen to beat")
    spared = verdict_text("nats a token spared", found)
    hybrid = compared(facts, HYBRID, MEAN_HYBRID)
    with_last = f"; {verdict_text('with the last turn as text beside both', hybrid)}" if hybrid else ""
    return (
        f"The learnt memory {verb} mean embeddings in use: {spared}{with_last}{_unlike(facts, MEMORY, MEAN)}."
    )


def _unlike(facts: dict, *arms: str) -> str:
    """What to add where two arms' adapters do not come from one training schedule."""
    alike = all(facts["arms"][arm]["adapter"] == OWN for arm in arms)
    return "" if alike else "; their adapters were not trained for this comparison"


def content(facts: dict, titles: Mapping[str, str]) -> str | None:
    """Whether memories say more of their dialogue than another's do, also by dataset; None where they were not measured."""
    arm = facts["arms"].get(MEMORY)
    if arm is None:
        return None
    carry = "carry" if arm["gain"]["grade"] == LEARNED else "are not seen to carry"
    return (
        f"The memories {carry} their own dialogue's content into the reply: "
        f"{verdict_text('other − own, nats a token', arm['gain'])}."
        f"{by_dataset_text({name: part['arms'][MEMORY]['gain'] for name, part in facts['by_dataset'].items()}, titles)}"
    )


def shares(facts: dict) -> str | None:
    """What each way of giving the history keeps of the full one's gain; None where that was not measured."""
    full = facts["arms"].get(FULL)
    if full is None:
        return None
    if full["gain"]["grade"] != LEARNED:
        return (
            "The full history as text is not seen to help here, so no share of its gain can be given: "
            f"{verdict_text('other − own, nats a token', full['gain'])}."
        )
    kept = [arm for name, arm in facts["arms"].items() if name not in (FULL, "none") and arm["share"]]
    if not kept:
        return None
    of = [counted_text(arm["both"]["rows"], arm["both"]["dialogues"]) for arm in kept]
    alike = len(set(of)) == 1
    told = [_kept(arm) if alike else f"{_kept(arm)}, {n}" for arm, n in zip(kept, of, strict=True)]
    return f"Of the full history's own gain are kept{f', {of[0]}' if alike else ''}: {'; '.join(told)}."


def _kept(arm: dict) -> str:
    share, low, high = map(_percent, arm["share"])
    return f"{arm['title']} {share} ({low} to {high}) at {_saved(arm['saved'])} history tokens"


def _beside_last_turn(facts: dict) -> str | None:
    found = compared(facts, HYBRID, LAST)
    if found is None:
        return None
    verb = {LEARNED: "add to", WORSE: "take from"}.get(found["grade"], "are not seen to add to")
    return f"Memories of the older turns {verb} the last turn as text: {verdict_text('nats a token spared', found)}{_unlike(facts, HYBRID, LAST)}."


def _unprepared(facts: dict) -> str | None:
    unprepared = [arm["title"] for arm in facts["arms"].values() if not arm["prepared"]]
    if not unprepared:
        return None
    return f"Measured zero-shot, with an adapter that was trained on another kind of prompt: {'; '.join(unprepared)}."


def _cut(facts: dict) -> str | None:
    """How much of the histories the ways of giving the whole of one leave out; None where that was not counted."""
    arms = [facts["arms"][name] for name in (FULL, MEAN, MEMORY) if name in facts["arms"]]
    if "history_utterances" not in facts or not arms:
        return None
    told = "; ".join(f"{arm['dropped_utterances']:,} in {arm['title']}" for arm in arms)
    return (
        f"A whole history is its last {facts['most_utterances']} turns, as text their last {facts['most_tokens']:,} tokens: of "
        f"{facts['history_utterances']:,} turns have no place {told}."
    )


def _percent(value: float) -> str:
    return f"{round(100 * value)} %".replace("-", "−")  # a whole number: none is −0


def _saved(value: float) -> str:
    return f"{-100 * value + 0.0:+.0f} %".replace("-", "−")
