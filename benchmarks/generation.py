"""Tokens a second of the candidates' engine beside its peers. `make bench NAME=generation`, and with
`ARGS="--few 1024"` transformers on all prompts too.

The same prompts (table 7 with two worked examples over MELD's or the sample's sentences), weights, precision, seeds and
sampling, one OpenMP thread each, one engine after the other in fresh processes, start-up not counted. `cpu_ratio` and
`cpu_over_transformers` are by CPU seconds, which a busy machine moves less than the clock:
- task: what the stage does, rows stored as they finish;
- bare: `vllm.LLM.generate` over the same token ids;
- transformers: `model.generate` on batches of like length;
- fallback: this project's own transformers engine.

The last two are several times slower, so they get a seeded sample of `--few` of the prompts; tokens a second compare.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from model.candidates.prompts import candidate_messages
from model.candidates.settings import GENERATION_EMOTIONS, CandidateSettings
from model.generation.client import GenerationEngine, child_environment
from model.generation.protocol import GenerationRequest, request_seed
from model.generation.settings import EngineSettings
from model.zoo.resolve import resolve
from storage.store import RowStore, canonical

ROOT = Path(__file__).resolve().parents[1]
MELD = ROOT.parent / "shared" / "data" / "meld" / "train_sent_emo.csv"
SETTINGS = CandidateSettings(examples=2, max_new_tokens=40)
BATCH = 64


def sentences() -> list[str]:
    """MELD's distinct ones where it lies beside the repository, else the sample corpus'."""
    if MELD.is_file():
        with open(MELD, encoding="utf-8", newline="") as lines:
            return list(dict.fromkeys(row["Utterance"] for row in csv.DictReader(lines)))
    text = (ROOT / "storage/sample/dialogues.json").read_text(encoding="utf-8")
    return list(dict.fromkeys(re.findall(r'"([^"]* [^"]*)"', text)))


def requests(count: int, few: int | None = None) -> list[GenerationRequest]:
    """The first `count`, or a seeded sample of `few` of them in their order."""
    found = []
    chosen = range(count) if few is None else sorted(random.Random(0).sample(range(count), min(few, count)))
    for n in chosen:
        sentence, emotion = SENTENCES[n // 8 % len(SENTENCES)], GENERATION_EMOTIONS[n % 8]
        messages = tuple(candidate_messages(sentence, emotion, SETTINGS.examples))
        found.append(GenerationRequest(f"row{n}", messages, request_seed(messages, SETTINGS.sampling)))
    return found


SENTENCES = sentences()


Measured = tuple[int, float, float]
"""New tokens, seconds, CPU seconds."""


class Clock:
    """Seconds and CPU seconds from now on, of this process and one it started."""

    def __init__(self, pid: int | None = None) -> None:
        self.pid = pid
        self.started, self.cpu = time.monotonic(), self._cpu()

    def measured(self, tokens: int) -> Measured:
        return tokens, time.monotonic() - self.started, self._cpu() - self.cpu

    def _cpu(self) -> float:
        own = time.process_time()
        if self.pid is None:
            return own
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return own + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def through_the_task(engine: str, asked: list[GenerationRequest], dtype: str) -> Measured:
    """Of the engine in its process, each row put into a row store."""
    settings = EngineSettings(
        model=str(resolve("smollm2-135m-instruct")),
        engine=engine,
        args=SETTINGS.engine_args.model_copy(update={"batch_size": BATCH, "dtype": dtype}),
        sampling=SETTINGS.sampling,
    )
    with tempfile.TemporaryDirectory() as folder, GenerationEngine(settings) as running:
        list(running.generate([GenerationRequest("warm", asked[-1].messages, 1)]))
        rows, tokens, clock = RowStore(Path(folder) / "rows.sqlite"), 0, Clock(running.pid)
        for row in running.generate(asked):
            rows.put(row.key, canonical({"text": row.text}))
            tokens += row.new_tokens
        return clock.measured(tokens)


def bare(asked: list[GenerationRequest], dtype: str) -> Measured:
    from vllm import LLM, SamplingParams

    from model.generation.chat import Chat
    from model.generation.vllm_engine import vllm_arguments

    folder = str(resolve("smollm2-135m-instruct"))
    engine = vllm_arguments(SETTINGS.engine_args.model_copy(update={"dtype": dtype}))
    chat, llm = Chat(folder), LLM(model=folder, **engine)
    prompts = [{"prompt_token_ids": chat.encode(request.messages)} for request in asked]
    sampling = [
        SamplingParams(
            temperature=SETTINGS.temperature,
            top_p=SETTINGS.top_p,
            max_tokens=SETTINGS.max_new_tokens,
            seed=request.seed,
            stop_token_ids=list(chat.stop_ids),
        )
        for request in asked
    ]
    llm.generate(prompts[-1:], sampling[-1:], use_tqdm=False)
    clock = Clock()
    answers = llm.generate(prompts, sampling, use_tqdm=False)
    return clock.measured(sum(len(answer.outputs[0].token_ids) for answer in answers))


def transformers(asked: list[GenerationRequest], dtype: str) -> Measured:
    import torch
    from transformers import AutoModelForCausalLM

    from model.generation.chat import Chat
    from model.pretrained import from_folder

    torch.set_num_threads(1)
    folder = resolve("smollm2-135m-instruct")
    chat = Chat(folder)
    model = from_folder(AutoModelForCausalLM, folder, dtype=getattr(torch, dtype)).eval()
    prompts = sorted((chat.encode(request.messages) for request in asked), key=len)
    torch.manual_seed(0)
    tokens, clock = 0, Clock()
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        width = max(map(len, batch))
        ids = torch.tensor([[chat.stop_ids[0]] * (width - len(p)) + p for p in batch])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch])
        with torch.inference_mode():
            whole = model.generate(
                ids, attention_mask=mask, do_sample=True, temperature=SETTINGS.temperature, top_p=SETTINGS.top_p,
                top_k=0, max_new_tokens=SETTINGS.max_new_tokens, pad_token_id=chat.stop_ids[0],
            )  # fmt: skip
        stops = torch.isin(whole[:, width:], torch.tensor(chat.stop_ids))
        # What stands after the first end of turn is padding.
        tokens += int((stops.cumsum(1) - stops.long() == 0).sum())
    return clock.measured(tokens)


ENGINES = {
    "task": lambda asked, dtype: through_the_task("vllm", asked, dtype),
    "bare": bare,
    "transformers": transformers,
    "fallback": lambda asked, dtype: through_the_task("transformers", asked, dtype),
}
SLOW = ("transformers", "fallback")


def measured(name: str, count: int, few: int, dtype: str) -> dict:
    """One engine in a process of its own, with the environment the stage gives its engine."""
    environment = {**child_environment(1), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, "--prompts", str(count), "--few", str(few), "--dtype", dtype]
    command += ["--only", name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    tokens, seconds, cpu = json.loads(done.stdout.splitlines()[-1])
    figures = {
        "prompts": min(few, count) if name in SLOW else count,
        "tokens": tokens,
        "seconds": round(seconds, 1),
        "tokens_per_s": round(tokens / seconds, 1),
        "tokens_per_cpu_s": round(tokens / cpu, 1),
    }
    print(f"{name}: {figures}", flush=True)
    return figures


def _times(rows: dict[str, dict], peer: str, what: str) -> float | None:
    """How many times the peer's figure the task reaches; None where one of them was not run."""
    return round(rows["task"][what] / rows[peer][what], 3) if {"task", peer} <= rows.keys() else None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=1024)
    parser.add_argument("--few", type=int, default=256, help="prompts of the engines on transformers")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of all engines")
    parser.add_argument("--engines", nargs="*", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--only", choices=list(ENGINES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        few = arguments.few if arguments.only in SLOW else None
        print(json.dumps(ENGINES[arguments.only](requests(arguments.prompts, few), arguments.dtype)))
        return
    rows = {
        name: measured(name, arguments.prompts, arguments.few, arguments.dtype) for name in arguments.engines
    }
    figures = {
        "name": "generation",
        "ratio": _times(rows, "bare", "tokens_per_s"),
        "over_transformers": _times(rows, "transformers", "tokens_per_s"),
        "cpu_ratio": _times(rows, "bare", "tokens_per_cpu_s"),
        "cpu_over_transformers": _times(rows, "transformers", "tokens_per_cpu_s"),
        "prompts": arguments.prompts,
        "dtype": arguments.dtype,
        "cores": os.cpu_count(),
        "engines": rows,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
