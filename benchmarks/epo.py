"""An EPO step beside TRL's CPOTrainer (SimPO) on the same weights, pairs and threads. `make bench NAME=epo`.

SmolLM2-135M in float32 with LoRA (r = 128 on q, k, v, o); replies of MELD with their history as text, the other
reply drawn from MELD (the bundled sample's dialogues where MELD is not there): as they come, each with all of its
dialogue before it, and made up to a length, so that TRL pads nothing. TRL tokenizes the pairs, and both
sides train on those very tokens: the losses are checked to be equal. A step is forward, backward and AdamW; each
side runs on one thread in a process of its own. Time is that process's CPU time, so that what else the machine
does counts less; memory is its peak above the loaded model and optimizer.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time

import torch
from apart import measured_apart
from peak import forget_peak, peak_mb
from texts import dialogues, source

LLM = "smollm2-135m-instruct"
BETA, GAMMA, WEIGHT = 2.0, 0.5, 1.0
RATE = 1e-6
AS_IT_COMES = 0
SIZES = {AS_IT_COMES: 8, 64: 8, 256: 4, 1024: 2}
"""Tokens of a prompt -> pairs a step: what fits 24 GB beside TRL's logits."""
CASES = ((AS_IT_COMES, False), (AS_IT_COMES, True), (64, False), (256, False), (256, True), (1024, True))
"""Size, and whether table 6's instruction stands before the history, as it does where this project trains."""
HEADLINE = (256, True)


def pairs(tokenizer, size: int, count: int, instructed: bool) -> list[dict[str, str]]:
    """Pairs whose prompt has just under `size` tokens: the lines before the reply, over dialogues if need be.

    AS_IT_COMES: the lines of the reply's own dialogue before it, however many.
    instructed: table 6 in the chat template, the history within; else the lines alone, which share nothing.
    """
    from model.prompts import dialogue_prompt

    def tokens(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    def whole(history: list[str], sentence: str) -> str:
        if not instructed:
            return "\n".join([*history, sentence, ""])
        text = dialogue_prompt(sentence, "\n".join(history) or None, False, False)
        messages = [{"role": "system", "content": ""}, {"role": "user", "content": text}]
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    draw, found = random.Random(0), []
    if size == AS_IT_COMES:
        every = [(d, at) for d in dialogues("train") for at in range(len(d) - 1)]
        drawn = draw.sample(every, 2 * count)
        return [
            {"prompt": whole(d[:at], d[at]), "chosen": d[at + 1], "rejected": other[place]}
            for (d, at), (other, place) in zip(drawn[:count], drawn[count:], strict=True)
        ]
    lines = [line for dialogue in dialogues("train") for line in dialogue]
    while len(found) < count:
        at = draw.randrange(min(200, len(lines) // 2), len(lines) - 1)
        history = []
        while tokens(whole(history, lines[at])) < size:
            history.insert(0, lines[at - len(history) - 1])
        if tokens(whole(history[1:], lines[at])) < 3 * size // 4:
            continue  # the oldest line was a long one
        prompt = whole(history[1:], lines[at])
        found.append({"prompt": prompt, "chosen": lines[at + 1], "rejected": draw.choice(lines)})
    return found


def adapted_llm():
    """The LLM in fp32 with a seeded adapter that already does something, and its tokenizer."""
    from peft import LoraConfig, get_peft_model

    from model.llm import load_llm
    from model.zoo.resolve import resolve

    llm, tokenizer = load_llm(resolve(LLM), "float32")
    torch.manual_seed(0)
    lora = LoraConfig(r=128, lora_alpha=256, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    llm = get_peft_model(llm, lora)
    for name, parameter in llm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=1e-3)
    return llm, tokenizer


def trainer_of(llm, tokenizer, rows: list[dict], folder: str, checkpointing: bool):
    """TRL's trainer and its one batch of all rows."""
    from datasets import Dataset
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    config = CPOConfig(
        output_dir=folder,
        loss_type="simpo",
        beta=BETA,
        simpo_gamma=GAMMA,
        cpo_alpha=WEIGHT,
        max_length=4096,
        per_device_train_batch_size=len(rows),
        gradient_checkpointing=checkpointing,
        bf16=False,
        use_cpu=True,
        report_to=[],
        remove_unused_columns=False,
    )
    trainer = CPOTrainer(
        model=llm, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    return trainer, next(iter(trainer.get_train_dataloader()))


def triples(batch: dict) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Prompt, chosen and rejected ids of TRL's batch."""
    found = []
    for i in range(len(batch["chosen_labels"])):
        replies = []
        for name in ("chosen", "rejected"):
            labels = batch[f"{name}_labels"][i]
            replies.append(labels[labels != -100])
            start = int((labels != -100).int().argmax())
        found.append((batch["rejected_input_ids"][i][:start], *replies))
    return found


def measure(side: str, size: int, steps: int, instructed: bool) -> dict:
    """CPU seconds of the quickest step, peak MB above the loaded model, and the loss before any step."""
    from model.epo.loss import pair_log_probs, total_loss

    torch.set_num_threads(1)
    llm, tokenizer = adapted_llm()
    rows = pairs(tokenizer, size, SIZES[size], instructed)
    with tempfile.TemporaryDirectory() as folder:
        checkpointing = side == "trl-checkpointing"
        if side != "ours":
            llm.set_attn_implementation("sdpa")  # its usual one, and the quicker one for it at these lengths
        trainer, batch = trainer_of(llm, tokenizer, rows, folder, checkpointing)
        trainer.current_gradient_accumulation_steps = 1  # what `train` would set
        data = triples(batch)
        trained = [p for p in llm.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=RATE)

        def ours() -> float:
            with torch.no_grad():
                prompts = [llm.get_input_embeddings()(prompt) for prompt, _, _ in data]
            scores = pair_log_probs(llm, prompts, [c for _, c, _ in data], [r for _, _, r in data])
            loss, _ = total_loss(scores, BETA, GAMMA, WEIGHT)
            loss.backward()
            return loss.item()

        def theirs() -> float:
            return float(trainer.training_step(llm, batch))

        # A first run of the allocator and the libraries on one pair, untimed.
        whole, whole_batch = data, batch
        data, batch = whole[:1], {k: v[:1] for k, v in batch.items() if torch.is_tensor(v)}
        (ours if side == "ours" else theirs)()
        optimizer.step()
        optimizer.zero_grad()
        data, batch = whole, whole_batch
        llm.eval() if side == "ours" else llm.train()
        loaded = forget_peak()
        seconds, losses = [], []
        for _ in range(steps):
            begin = time.process_time()
            losses.append((ours if side == "ours" else theirs)())
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.process_time() - begin)
        return {
            "s": min(seconds),
            "mb": peak_mb() - loaded,
            "loss": losses[0],
            "prompt": sum(len(p) for p, _, _ in data) / len(data),
            "reply": sum(len(c) + len(r) for _, c, r in data) / 2 / len(data),
        }


def child(side: str, size: int, steps: int, instructed: bool) -> dict:
    """`measure` in a process of its own."""
    arguments = ["--side", side, "--size", str(size), "--steps", str(steps)]
    return measured_apart(__file__, *arguments, *(["--instructed"] if instructed else []))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", choices=("ours", "trl", "trl-checkpointing"))
    parser.add_argument("--size", type=int, choices=SIZES)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument(
        "--instructed", action="store_true", help="table 6's instruction before every history"
    )
    asked = parser.parse_args()
    if asked.side:
        print(json.dumps(measure(asked.side, asked.size, asked.steps, asked.instructed)))
        return
    result = {"name": "epo", "data": source()}
    for size, instructed in [case for case in CASES if asked.size in (None, case[0])]:
        headline = (size, instructed) == HEADLINE
        sides = ["ours", "trl", *(["trl-checkpointing"] if headline else [])]
        figures = {side: child(side, size, asked.steps, instructed) for side in sides}
        name = f"{size or 'as it comes'}{' with table 6' if instructed else ''}"
        for side, found in figures.items():
            pace = SIZES[size] / found["s"]
            print(
                f"{name}: {side}: {pace:.3f} pairs/s, {found['mb']:.0f} MB above the model, loss {found['loss']:.6f} "
                f"({SIZES[size]} pairs, prompts {found['prompt']:.0f}, replies {found['reply']:.0f} tokens)",
                flush=True,
            )
        ours, trl = figures["ours"], figures["trl"]
        if abs(ours["loss"] - trl["loss"]) > 1e-5 * abs(trl["loss"]):
            raise SystemExit(f"{name}: losses differ: {ours['loss']} and {trl['loss']}")
        result[name] = {"pace": round(trl["s"] / ours["s"], 2), "memory": round(ours["mb"] / trl["mb"], 3)}
        if headline:
            result["ratio"] = result[name]["pace"]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
