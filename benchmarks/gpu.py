"""The paper's sizes on one GPU, with weights drawn at random: costs follow from sizes alone. `make bench NAME=gpu`.

- compressor: forward and backward of Mamba-370M, by mamba-ssm's kernel (where it is installed), by our scan, and as
  transformers computes it.
- history: table 3's protocol (as in history.py) on a 7B in bfloat16 with a compressor of Mamba-370M's size.
- epo: a step (forward, backward, AdamW) on the 7B with LoRA (r = 128), beside TRL's CPOTrainer (SimPO) on the same tokens.

Tokens are those of the `cpu` profile's tokenizer. Time is the clock's, the GPU awaited; memory is the peak that torch
had allocated, above the models. `--small` is a rehearsal on any machine.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from epo import BETA, GAMMA, RATE, WEIGHT, pairs, triples
from history import LLM, dialogues

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SEVEN_B = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 32768, "tie_word_embeddings": False,
}  # fmt: skip
"""Qwen2.5-7B's."""
SMALL_LLM = {
    **SEVEN_B,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
MAMBA = {"hidden_size": 1024, "num_hidden_layers": 48}
SMALL_MAMBA = {"hidden_size": 32, "num_hidden_layers": 2}
CASES = ((128, 8), (512, 8))
"""Tokens of a row, rows."""
EPO_CASES = ((256, False, 8), (256, True, 8), (1024, True, 4))
"""Tokens of a prompt, table 6's instruction before the history, pairs a step."""


def clock() -> float:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def allocated_mb() -> float:
    """Allocated now, which becomes the peak."""
    if DEVICE == "cpu":
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated() / 2**20


def peak_mb() -> float:
    return torch.cuda.max_memory_allocated() / 2**20 if DEVICE == "cuda" else 0.0


def timed(step: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median milliseconds of a step after two untimed ones, and peak MB above what was there."""
    for _ in range(2):
        step()
    before, times = allocated_mb(), []
    for _ in range(rounds):
        begin = clock()
        step()
        times.append(1e3 * (clock() - begin))
    return statistics.median(times), peak_mb() - before


def compressor(small: bool) -> dict:
    from transformers import MambaConfig, MambaModel

    from model.compressor import mamba as module
    from model.compressor.scans import KERNELS, choose

    sizes, found = SMALL_MAMBA if small else MAMBA, {}
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=8, initializer_range=0.02, **sizes)
    theirs = MambaModel(config).to(DEVICE)
    ours = module.Mamba(
        module.MambaShape(**{name: getattr(config, name) for name in module.MambaShape.model_fields}), 8
    ).to(DEVICE)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    sides = {"transformers": (theirs.eval(), None), "scan": (ours, choose({}, DEVICE))}
    sides |= {name: (ours, choose({name: load}, DEVICE)) for name, load in KERNELS.items()}
    for length, rows in CASES:
        inputs, weight = torch.randn(2, rows, length, sizes["hidden_size"], device=DEVICE)
        norms = {}
        for side, (mamba, scan) in sides.items():
            if side == "transformers" and length > CASES[0][0]:
                continue
            if side in KERNELS and scan.passed_over:
                print(f"compressor, {side}: {scan.line}", flush=True)
                continue
            module.scan_of = lambda device, scan=scan: scan

            def step(mamba=mamba, side=side, inputs=inputs, weight=weight, norms=norms):
                mamba.zero_grad()
                out = mamba(inputs_embeds=inputs, use_cache=False)[0] if mamba is theirs else mamba(inputs)
                (out * weight).sum().backward()
                norms[side] = mamba.layers[0].mixer.in_proj.weight.grad.norm().item()

            ms, mb = timed(step, 5)
            found[f"{side}_{length}"] = (round(ms, 1), round(mb))
            print(
                f"compressor, {rows} x {length}, {side}: {ms:.1f} ms, {mb:.0f} MB, {norms[side]:.6g}",
                flush=True,
            )
    return found


def random_llm(small: bool):
    from transformers import AutoModelForCausalLM, Qwen2Config

    torch.manual_seed(0)
    with torch.device(DEVICE):
        llm = AutoModelForCausalLM.from_config(
            Qwen2Config(**(SMALL_LLM if small else SEVEN_B)),
            dtype=torch.bfloat16,
            attn_implementation="sdpa",
        )
    return llm.requires_grad_(False).eval()


@torch.no_grad()
def history(small: bool, llm, tokenizer, count: int) -> dict:
    from model.compressor.compressor import CompressorShape, MambaCompressor
    from model.dialogue.dialogue import DialogueModel
    from model.dialogue.examples import DialogueExample
    from model.dialogue.settings import DialogueSettings

    sizes = SMALL_MAMBA if small else MAMBA
    shape = CompressorShape(
        kind="checkpoint", llm_width=llm.config.hidden_size, hidden=sizes["hidden_size"],
        max_utterance_tokens=128, roles=8, checkpoint={"vocab_size": 50280, **sizes},
    )  # fmt: skip
    reader = MambaCompressor(shape, tokenizer, llm.get_input_embeddings().weight).to(DEVICE).eval()
    settings = DialogueSettings(max_history_utterances=10_000, max_history_tokens=100_000)
    examples = [
        DialogueExample(str(i), tuple(lines[:-1]), lines[-1].text, "")
        for i, lines in enumerate(dialogues(count))
    ]
    found = {"models_mb": round(allocated_mb())}
    for form in ("text", "memory"):
        model = DialogueModel(llm, tokenizer, form, reader, None, settings)
        for example in examples[:3]:
            model.reply([example], 1)
        before, times = allocated_mb(), []
        for example in examples:
            begin = clock()
            model.reply([example], 1)
            times.append(1e3 * (clock() - begin))
        tokens = statistics.mean(len(model.prompt(example)) for example in examples)
        mean, mb = statistics.mean(times), peak_mb() - before
        found[form] = (round(tokens, 1), round(mean, 2), round(mb))
        print(
            f"history as {form}: {tokens:.1f} tokens, {mean:.2f} ms, {mb:.0f} MB above the models", flush=True
        )
    return found


def epo(llm, tokenizer, small: bool) -> dict:
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    from model.epo.loss import pair_log_probs, total_loss

    lora = LoraConfig(r=128, lora_alpha=256, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    llm = get_peft_model(llm, lora).eval()
    optimizer = torch.optim.AdamW([p for p in llm.parameters() if p.requires_grad], lr=RATE)
    found = {}
    for size, instructed, count in EPO_CASES[: 1 if small else None]:
        rows = pairs(tokenizer, size, count, instructed)
        with tempfile.TemporaryDirectory() as folder:
            config = CPOConfig(
                output_dir=folder, loss_type="simpo", beta=BETA, simpo_gamma=GAMMA, cpo_alpha=WEIGHT,
                max_length=4096, per_device_train_batch_size=count, gradient_checkpointing=False, bf16=False,
                use_cpu=DEVICE == "cpu", report_to=[], remove_unused_columns=False,
            )  # fmt: skip
            trainer = CPOTrainer(
                model=llm, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
            )
            batch = next(iter(trainer.get_train_dataloader()))
            trainer.current_gradient_accumulation_steps = 1
        data, losses = triples({name: v.cpu() if torch.is_tensor(v) else v for name, v in batch.items()}), {}
        table = llm.get_input_embeddings()

        def ours(data=data, losses=losses, table=table):
            with torch.no_grad():
                prompts = [table(prompt.to(DEVICE)) for prompt, _, _ in data]
            scores = pair_log_probs(llm, prompts, [c for _, c, _ in data], [r for _, _, r in data])
            loss, _ = total_loss(scores, BETA, GAMMA, WEIGHT)
            loss.backward()
            losses.setdefault("ours", loss.item())

        def theirs(batch=batch, losses=losses, trainer=trainer):
            losses.setdefault("trl", float(trainer.training_step(llm, batch)))

        for side, forward_and_back in (("ours", ours), ("trl", theirs)):

            def step(run=forward_and_back):
                run()
                optimizer.step()
                optimizer.zero_grad()

            try:
                ms, mb = timed(step, 5)
            except torch.OutOfMemoryError:
                print(f"epo, {size}, table 6 {instructed}, {count} pairs, {side}: out of memory", flush=True)
                continue
            found[f"{side}_{size}_{instructed}"] = (round(1e3 * count / ms, 2), round(mb))
            print(
                f"epo, {size}, table 6 {instructed}, {count} pairs, {side}: {1e3 * count / ms:.2f} pairs/s, "
                f"{mb:.0f} MB above the model, loss before a step {losses[side]:.5f}",
                flush=True,
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--tokenizer", type=Path, help="a folder; the `cpu` profile's without it")
    parser.add_argument("--dialogues", type=int, default=40)
    parser.add_argument("--parts", nargs="+", default=["compressor", "history", "epo"])
    asked = parser.parse_args()
    from transformers import AutoTokenizer

    from model.pretrained import from_folder
    from model.zoo.resolve import resolve

    random.seed(0)
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else "no GPU"
    result: dict = {"name": "gpu", "device": name, "torch": torch.__version__}
    if "compressor" in asked.parts:
        result["compressor"] = compressor(asked.small)
    if {"history", "epo"} & set(asked.parts):
        tokenizer = from_folder(AutoTokenizer, asked.tokenizer or resolve(LLM))
        llm = random_llm(asked.small)
        if "history" in asked.parts:
            result["history"] = history(asked.small, llm, tokenizer, asked.dialogues)
        if "epo" in asked.parts:
            result["epo"] = epo(llm, tokenizer, asked.small)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
