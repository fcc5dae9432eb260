"""Stage `ladder`: the same true replies after each way of giving the history, in nats. Knows nothing of the report.

An arm that has no adapter of its own is measured with that of rung 2 or 3, and the facts say which and whether that one
was trained on such prompts. Nothing is generated, so a reply costs one forward pass for each history.
"""

from __future__ import annotations

import gc

from model.dialogue.dialogue import DialogueModel, load_dialogue
from model.dialogue.examples import DialogueExample
from model.dialogue.ladder import arm_rows, cache_bytes, with_other_histories
from model.dialogue.prompt_cost import prompt_cost
from model.dialogue.settings import DialogueSettings
from model.draws import evenly_apart
from model.metrics.bootstrap import mean_figures
from model.metrics.memory_ladder import FULL, TURNS, ArmRow, arm_figures, by_dataset, comparisons
from model.metrics.settings import BootstrapSettings
from model.zoo.resolve import resolve
from storage.store import Ref, canonical
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.settings import LadderSettings
from tasks.stages.evaluation import evaluation_exchanges
from tasks.stages.examples import dialogue_examples, key_text
from tasks.stages.ladder.arms import ARMS, Arm, known_by
from tasks.stages.selection import spread

OWN = "own"
RUNG = {"text": "rung 2", "memory": "rung 3"}
"""Whose adapter an arm without one of its own is measured with, by the form of its history."""


def measure_ladder(
    utterances: list[Ref],
    exchanges: list[Ref],
    own_adapters: dict[str, Ref],
    text_adapter: Ref,
    memory_adapter: Ref,
    compressor: Ref,
    dialogue: DialogueSettings,
    settings: LadderSettings,
    intervals: BootstrapSettings,
    llm: Weights,
    work: Workspace,
) -> list[Ref]:
    """Output: ladder.json: "arms" by name, "comparisons", both again "by_dataset", "turns", how many exchanges, how many of
    them are "alone" (no other dialogue of their dataset is there), a cached token's bytes, how many utterances the histories
    have, of which each arm tells those that its prompts leave out, what its prompts cost where that is asked for, and what
    limits them."""
    examples, pool = evaluated_examples(utterances, exchanges, settings, work)
    # Another history is of the same dataset, for another one's style would tell it.
    others = with_other_histories(pool, [example.key.split("/")[0] for example in pool])
    paired = [e for e in examples if e.key in others]
    by_key = {example.key: example for example in examples}
    found: dict[str, list[ArmRow]] = {}
    facts: dict[str, dict] = {}
    size = None
    for done, name in enumerate(settings.arms):
        arm = ARMS[name]
        adapter = own_adapters.get(name) or (text_adapter if arm.history == "text" else memory_adapter)
        model = load_dialogue(
            resolve(llm.name),
            adapter=work.store.folder(adapter),
            compressor=work.store.folder(compressor) if arm.needs_compressor else None,
            extractor=None,
            history=arm.history,
            settings=arm.settings(dialogue),
            dtype=dialogue.training.dtype,
        )
        found[name], dropped = arm_rows(model, examples, others, dialogue.reply_batch_size)
        facts[name] = {
            **_about(arm, name in own_adapters, dialogue),
            "dropped_utterances": dropped,
            "cost": cost_of_prompts(
                model,
                [by_key[found[name][i].key] for i in evenly_apart(len(found[name]), settings.timed)],
                intervals,
            ),
        }
        size = cache_bytes(model)
        del model
        gc.collect()
        work.progress(done + 1, len(settings.arms), {})
    measured = {
        name: {**facts[name], **arm_figures(rows, found.get(FULL), intervals)} for name, rows in found.items()
    }
    return [
        work.store.put_bytes(
            "ladder.json",
            canonical(
                {
                    "arms": measured,
                    "comparisons": comparisons(found, intervals),
                    "by_dataset": by_dataset(found, intervals),
                    "turns": list(TURNS),
                    "exchanges": len(examples),
                    "alone": len(examples) - len(paired),
                    "cache_bytes": size,
                    "history_utterances": sum(len(e.history) for e in paired),
                    "most_utterances": dialogue.max_history_utterances,
                    "most_tokens": dialogue.max_history_tokens,
                }
            ),
            rows=len(examples),
        )
    ]


def evaluated_examples(
    utterances: list[Ref], exchanges: list[Ref], settings: LadderSettings, work: Workspace
) -> tuple[list[DialogueExample], list[DialogueExample]]:
    """The exchanges of all arms, by key, and those they are drawn from: all that give numbers with enough history."""
    unseen = {key_text(e.key): e for e in evaluation_exchanges(work.store, utterances, exchanges)}
    whole = dialogue_examples(work.store, utterances, exchanges, [], "test", "dev")
    long = [e for e in whole if e.key in unseen and len(e.history) >= settings.least_history]
    chosen = spread([unseen[e.key] for e in long], settings.exchanges, settings.seed, "ladder.exchanges")
    wanted = {key_text(exchange.key) for exchange in chosen}
    return [e for e in long if e.key in wanted], long


def cost_of_prompts(
    model: DialogueModel, examples: list[DialogueExample], intervals: BootstrapSettings
) -> dict | None:
    """{"n", "dialogues", "seconds", "seconds_ci", "gigabytes", "memory_of"} of prompts one by one, memories made anew for
    each; None of no examples."""
    if not examples:
        return None
    spent = prompt_cost(model, examples)
    dialogues = [example.group for example in examples]
    return {
        "n": len(examples),
        "dialogues": len(set(dialogues)),
        **mean_figures({"seconds": spent.seconds}, dialogues, intervals),
        "gigabytes": round(spent.gigabytes, 4),
        "memory_of": spent.memory_of,
    }


def _about(arm: Arm, own: bool, dialogue: DialogueSettings) -> dict:
    """prepared: whether the adapter was trained on prompts of this kind."""
    return {
        "title": arm.title,
        "adapter": OWN if own else RUNG[arm.history],
        "prepared": own or arm.name in known_by(arm.history, dialogue),
    }
