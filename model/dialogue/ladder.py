"""What one way of giving the history is worth: nats of true replies after it, and after another dialogue's.

Knows nothing of the other ways, of datasets or of how rows are chosen.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from model.dialogue.dialogue import DialogueModel
from model.dialogue.examples import DialogueExample
from model.dialogue.train import Exchanges
from model.llm import body_and_head
from model.metrics.donors import with_others
from model.metrics.memory_ladder import ArmRow


def with_other_histories(
    examples: Sequence[DialogueExample], kinds: Sequence[Hashable]
) -> dict[str, DialogueExample]:
    """By key, each example with a history of another dialogue, of its kind, and as like its own in turns as there is one.

    kinds: what two must have in common, such as their dataset. Without such another, or a history, an example has none.
    """
    named = [kind if e.history else None for e, kind in zip(examples, kinds, strict=True)]
    found = with_others(examples, ("history",), named, [len(e.history) for e in examples])
    return {example.key: example for example in found if example is not None}


def arm_rows(
    model: DialogueModel,
    examples: Sequence[DialogueExample],
    others: Mapping[str, DialogueExample],
    batch: int,
) -> tuple[list[ArmRow], int]:
    """A row of each exchange that has another history, and how many utterances of their histories have no place in the
    prompts; an exchange that does not fit the LLM's window is left out.

    others: as `with_other_histories` gives them. A row's tokens are those of the history with its line's name.
    """
    before = model.counts["dropped_utterances"]
    own = Exchanges(model, [e for e in examples if e.key in others])
    dropped = model.counts["dropped_utterances"] - before
    other = Exchanges(model, [others[e.key] for e in own.examples])
    bare = Exchanges(model, [example.without_history() for example in own.examples])
    losses = dict(zip((e.key for e in other.examples), other.row_losses(batch), strict=True))
    sizes = {e.key: size for e, size in zip(bare.examples, bare.prompt_sizes, strict=True)}
    rows = zip(own.examples, own.row_losses(batch), own.prompt_sizes, strict=True)
    found = [
        ArmRow(
            key=e.key,
            dialogue=e.group,
            turn=len(e.history) + 1,
            own=round(loss, 6),
            other=round(losses[e.key], 6),
            tokens=size - sizes[e.key],
        )
        for e, loss, size in rows
        if e.key in losses
    ]
    return found, dropped


def cache_bytes(model: DialogueModel) -> int:
    """What one token takes in the LLM's cache: keys and values of every layer."""
    body, _ = body_and_head(model.llm)
    config = body.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size = model.llm.get_input_embeddings().weight.element_size()
    return 2 * config.num_hidden_layers * config.num_key_value_heads * width * size
