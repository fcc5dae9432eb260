"""Table 3's protocol on a CPU: what a long history costs as text and as memories. `make bench NAME=history`.

Topical-Chat dialogues of more than 20 turns (the bundled sample's, strung together, where it is not there), a seeded
draw of them, the last turn as the sentence, in table 6's prompt and chat template without audio-visual lines. The
prompt is processed and one token chosen. Making the memories is part of their time: from the whole history at once,
and turn by turn as a conversation goes, when only the newest turn is left to read. One thread, batch 1; time is CPU
time; memory is the peak above the loaded models, each kind in a process of its own. The LLM is loaded as every stage
loads it, and the compressor is the shipped one, which the `cpu` profile finetunes: that changes no cost. `--compressor`
takes another, of several memories an utterance too.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from pathlib import Path

import torch
from apart import measured_apart
from peak import forget_peak, peak_mb
from texts import sample_dialogues

from model.spoken import Spoken

ROOT = Path(__file__).resolve().parents[1]
TOPICAL_CHAT = ROOT.parent / "shared" / "data" / "topical_chat" / "valid_freq.json"
LLM, COMPRESSOR = "smollm2-135m-instruct", "memory-smollm2-135m"
LEAST_TURNS = 20
KINDS = (
    "text", "text, kept", "memory", "memory, kept", "streamed, kept", "hybrid, kept", "mean, kept", "last turn, kept",
)  # fmt: skip
"""kept: as `DialogueModel.reply` does, which encodes the instruction once and never again. streamed: see above. hybrid:
the last turn as text, the older ones as memories. mean: of each turn's token embeddings. last turn: it alone, as text."""
TURNS = 500


def dialogues(count: int) -> list[list[Spoken]]:
    """`count` long dialogues of two speakers in turn, drawn by seed, or all there are."""
    if TOPICAL_CHAT.is_file():
        content = json.loads(TOPICAL_CHAT.read_text(encoding="utf-8"))
        all_turns = [[turn["message"] for turn in d["content"]] for d in content.values()]
    else:
        lines = [line for dialogue in sample_dialogues() for line in dialogue]
        all_turns = [lines[i : i + LEAST_TURNS + 1] for i in range(0, len(lines), LEAST_TURNS + 1)]
    long = [turns for turns in all_turns if len(turns) > LEAST_TURNS]
    long = random.Random(0).sample(long, count) if count < len(long) else long
    return [[Spoken(turn, i % 2) for i, turn in enumerate(turns)] for turns in long]


def models(kind: str, asked: argparse.Namespace):
    """The dialogue model without limits of its own to the history, and its compressor."""
    from model.compressor.compressor import MambaCompressor
    from model.dialogue.dialogue import DialogueModel
    from model.dialogue.settings import DialogueSettings
    from model.llm import load_llm
    from model.zoo.resolve import resolve

    llm, tokenizer = load_llm(resolve(asked.llm), "float32")
    table = llm.get_input_embeddings().weight
    compressor = MambaCompressor.load(resolve(asked.compressor), tokenizer, table)
    settings = DialogueSettings(
        max_history_utterances=1 if kind.startswith("last") else 10_000,
        max_history_tokens=100_000,
        recent_utterances=1 if kind.startswith("hybrid") else 0,
        memory="mean" if kind.startswith("mean") else "mamba",
    )
    form = "text" if kind.startswith(("text", "last")) else "memory"
    return DialogueModel(llm, tokenizer, form, compressor, None, settings), compressor


@torch.no_grad()
def measure(kind: str, asked: argparse.Namespace) -> dict:
    """Of each dialogue, tokens of the prompt and of the history in it and CPU seconds; and the peak MB."""
    from model.dialogue.examples import DialogueExample
    from model.llm import greedy_replies

    model, compressor = models(kind, asked)
    examples = [
        DialogueExample(str(i), tuple(lines[:-1]), lines[-1].text, "")
        for i, lines in enumerate(dialogues(asked.dialogues))
    ]

    def process(example: DialogueExample) -> float:
        past, found, memories = None, [], None
        if kind.startswith("streamed"):  # all but the newest turn was read before
            for line in example.history[:-1]:
                memories_of_line, past = compressor.step(line, past)
                found.append(memories_of_line)
        begin = time.process_time()
        if kind.startswith("streamed"):
            found.append(compressor.step(example.history[-1], past)[0])
            memories = {example.history: tuple(found)}
        if kind.endswith("kept"):
            model.reply([example], 1, memories)
        else:
            greedy_replies(model.llm, model.tokenizer, model.prompts([example], memories), 1)
        return time.process_time() - begin

    process(examples[0])
    before = forget_peak()
    seconds = [process(example) for example in examples]
    peak = peak_mb() - before
    tokens = [len(model.prompt(example)) for example in examples]
    bare = [len(model.prompt(DialogueExample(e.key, (), e.sentence, ""))) for e in examples]
    return {
        "s": seconds,
        "tokens": statistics.mean(tokens),
        "history": statistics.mean(tokens) - statistics.mean(bare),
        "mb": peak,
    }


def sizes(asked: argparse.Namespace) -> dict:
    """Mean tokens of the prompt, and of the history in it, over every dialogue, as text and as memories."""
    from model.dialogue.examples import DialogueExample

    model, compressor = models("text", asked)
    width = model.llm.get_input_embeddings().weight.shape[1]
    found = {"text": [], "memory": []}
    for lines in dialogues(1_000_000):
        history, sentence = tuple(lines[:-1]), lines[-1].text
        bare = sum(map(len, model.pieces([DialogueExample("", (), sentence, "")], {})[0]))
        for form, rows in found.items():
            model.history = form
            memories = {history: tuple(torch.zeros(count, width) for count in compressor.counts(history))}
            whole = sum(map(len, model.pieces([DialogueExample("", history, sentence, "")], memories)[0]))
            rows.append((whole, whole - bare))
    means = {
        form: [statistics.mean(column) for column in zip(*rows, strict=True)] for form, rows in found.items()
    }
    return {"dialogues": len(found["text"]), **means}


def streaming(asked: argparse.Namespace) -> dict:
    """CPU milliseconds of a turn by its place in one conversation of TURNS turns, and of reading all of it anew."""
    _, compressor = models("memory", asked)
    lines = dialogues(1)[0][:20]  # said over and over, so that places differ and turns do not
    past, seconds = None, []
    for turn in range(TURNS):
        begin = time.process_time()
        _, past = compressor.step(lines[turn % len(lines)], past)
        seconds.append(time.process_time() - begin)
    begin = time.process_time()
    compressor.compress([[lines[turn % len(lines)] for turn in range(TURNS)]])
    return {
        "early_ms": 1e3 * statistics.median(seconds[5:105]),
        "late_ms": 1e3 * statistics.median(seconds[-100:]),
        "anew_ms": 1e3 * (time.process_time() - begin),
        "state_kb": sum(4 * (t.window.numel() + t.state.numel()) for t in past) / 1024,
    }


def child(kind: str, asked: argparse.Namespace) -> dict:
    """One kind in a process of its own."""
    options = ("--dialogues", str(asked.dialogues), "--compressor", asked.compressor, "--llm", asked.llm)
    return measured_apart(__file__, "--kind", kind, *options, giving_back=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=(*KINDS, "turns", "sizes"))
    parser.add_argument("--dialogues", type=int, default=40)
    parser.add_argument("--compressor", default=COMPRESSOR, help="weight name or folder")
    parser.add_argument("--llm", default=LLM, help="weight name or folder; a compressor fits one LLM alone")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.kind:
        special = {"turns": streaming, "sizes": sizes}.get(asked.kind)
        print(json.dumps(special(asked) if special else measure(asked.kind, asked)))
        return
    data = "Topical-Chat" if TOPICAL_CHAT.is_file() else "sample"
    result = {"name": "history", "data": data, "compressor": asked.compressor}
    tokens = child("sizes", asked)
    (text, text_history), (memory, memory_history) = tokens["text"], tokens["memory"]
    print(
        f"{tokens['dialogues']} dialogues: prompt {text:.1f} -> {memory:.1f} tokens ({memory / text - 1:+.1%}), history "
        f"{text_history:.1f} -> {memory_history:.1f} ({memory_history / text_history - 1:+.1%})",
        flush=True,
    )
    result["sizes"] = tokens
    full = None
    for kind in KINDS:
        f = child(kind, asked)
        full = full or f
        mean, of_full = statistics.mean(f["s"]), statistics.mean(full["s"])
        each = sorted(a / b - 1 for a, b in zip(f["s"], full["s"], strict=True))
        print(
            f"{kind}: {f['tokens']:.1f} tokens ({f['tokens'] / full['tokens'] - 1:+.1%}), history {f['history']:.1f} "
            f"({f['history'] / full['history'] - 1:+.1%}), {mean * 1e3:.0f} ms ({mean / of_full - 1:+.1%}; by dialogue "
            f"{each[0]:+.1%} to {each[-1]:+.1%}), {f['mb']:.0f} MB above the models ({f['mb'] / full['mb'] - 1:+.1%}); "
            f"{len(each)} dialogues",
            flush=True,
        )
        result[kind] = {
            "s": round(mean, 4),
            **{name: round(f[name], 4) for name in ("tokens", "history", "mb")},
        }
    turns = child("turns", asked)
    print(
        f"a turn: {turns['early_ms']:.1f} ms after 5 turns, {turns['late_ms']:.1f} ms before turn {TURNS}, "
        f"{turns['state_kb']:.0f} kB kept; all {TURNS} anew {turns['anew_ms']:.0f} ms"
    )
    result["turns"] = {name: round(value, 2) for name, value in turns.items()}
    result["ratio"] = round(result["text"]["s"] / result["memory, kept"]["s"], 2)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
