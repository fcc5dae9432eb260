"""The compressor's scan and stack, forward and backward, beside transformers' and mamba.py's. `make bench NAME=compressor`.

At the sizes of Mamba-370M (width 1024, inner 2048, 16 states), 4 rows, float32, one thread: the selective scan
alone, and a stack of two of its 48 layers. All sides get the same weights and inputs, and their gradients are
checked to be equal. Time is CPU time, the least of a few runs; memory is the peak above what was there before, in
a process whose allocator gives back what is freed. mamba.py (the package mambapy) takes part where it can be
imported or `--mambapy FOLDER` holds it; it is what transformers offers with `use_mambapy`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from peak import forget_peak, peak_mb
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[2]
BATCH, WIDTH, STATES, LAYERS = 4, 1024, 16, 2
LENGTHS = (32, 64, 128, 512)
HEADLINE = 128
SIDES = ("ours", "transformers", "mambapy")
DEAREST_S = 4.0
"""A side is run once more while its runs have taken less than this."""


def scan_case(side: str, length: int):
    """A function of no arguments that scans, and what to differentiate by."""
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    from model.compressor.scan import selective_scan

    draw = torch.Generator().manual_seed(0)
    inner = 2 * WIDTH

    def random(*sizes):
        return torch.randn(*sizes, generator=draw)

    x, dt = random(BATCH, length, inner), F.softplus(random(BATCH, length, inner) - 4)
    B, C, D = random(BATCH, length, STATES), random(BATCH, length, STATES), random(inner)
    A = -torch.arange(1.0, STATES + 1).repeat(inner, 1)
    inputs = [t.requires_grad_() for t in (x, dt, A, B, C, D)]

    def theirs():
        first = [t.transpose(1, 2) for t in (x, dt)]
        y = mamba_selective_scan(
            *first, A, B.transpose(1, 2), C.transpose(1, 2), D=D, use_mambapy=side == "mambapy"
        )
        return y.transpose(1, 2)

    return (lambda: selective_scan(*inputs)[0]) if side == "ours" else theirs, inputs


def stack_case(side: str, length: int):
    """As `scan_case`, for a stack of layers."""
    from transformers import MambaConfig, MambaModel

    from model.compressor.mamba import Mamba, MambaShape

    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=8, hidden_size=WIDTH, num_hidden_layers=LAYERS, use_mambapy=side == "mambapy"
    )
    model = MambaModel(config)
    inputs = torch.randn(BATCH, length, WIDTH).requires_grad_()
    if side == "ours":
        theirs = model
        model = Mamba(MambaShape(**{name: getattr(config, name) for name in MambaShape.model_fields}), 8)
        model.load_state_dict(theirs.state_dict(), strict=True)
        run = lambda: model(inputs)  # noqa: E731
    else:
        run = lambda: model(inputs_embeds=inputs, use_cache=False).last_hidden_state  # noqa: E731
    named = sorted((n, p) for n, p in model.named_parameters() if not n.startswith("embeddings"))
    return run, [inputs, *(p for _, p in named)]


def measure(part: str, side: str, length: int) -> dict:
    """CPU seconds of forward and backward, peak MB, and the sums of all gradients, to compare."""
    run, inputs = (scan_case if part == "scan" else stack_case)(side, length)
    draw = torch.Generator().manual_seed(1)
    weight, seconds, before = None, [], forget_peak()
    while not seconds or (len(seconds) < 5 and sum(seconds) < DEAREST_S):
        begin = time.process_time()
        out = run()
        middle = time.process_time()
        weight = torch.randn(out.shape, generator=draw) if weight is None else weight
        begin += time.process_time() - middle
        gradients = torch.autograd.grad((out * weight).sum(), inputs)
        seconds.append(time.process_time() - begin)
        del out
    return {"s": min(seconds), "mb": peak_mb() - before, "norms": [g.norm().item() for g in gradients]}


def child(part: str, side: str, lengths: list[int], mambapy: str | None, memory: bool) -> dict[str, dict]:
    """`measure` for each length in a process of its own."""
    paths = [str(ROOT), *([mambapy] if mambapy else []), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    if memory:
        environment["MALLOC_MMAP_THRESHOLD_"] = str(1 << 16)
    command = [sys.executable, __file__, "--part", part, "--side", side, "--lengths", *map(str, lengths)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def has_mambapy(folder: str | None) -> bool:
    command = [sys.executable, "-c", "import mambapy.pscan"]
    environment = {**os.environ, "PYTHONPATH": folder or ""}
    return subprocess.run(command, env=environment, capture_output=True).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", choices=("scan", "stack"))
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--all", action="store_true", help="transformers beyond the headline's length too")
    parser.add_argument("--mambapy", help="folder that holds the package mambapy")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.side:
        print(json.dumps({n: measure(asked.part, asked.side, n) for n in asked.lengths}))
        return
    sides = SIDES if has_mambapy(asked.mambapy) else SIDES[:2]
    result = {"name": "compressor"}
    for part in [asked.part] if asked.part else ["scan", "stack"]:
        found, memory = {}, {}
        for side in sides:
            # transformers' backward is quadratic in length: three minutes for one scan of 512.
            lengths = [n for n in asked.lengths if asked.all or side != "transformers" or n <= HEADLINE]
            found[side] = child(part, side, lengths, asked.mambapy, memory=False)
            within = [n for n in lengths if n >= HEADLINE and not (side == "transformers" and n > HEADLINE)]
            wanted = part == "scan" and within
            memory[side] = child(part, side, within, asked.mambapy, memory=True) if wanted else {}
        for length in map(str, asked.lengths):
            ours = found["ours"][length]
            for side in (s for s in sides if length in found[s]):
                theirs = found[side][length]
                for a, b in zip(ours["norms"], theirs["norms"], strict=True):
                    if abs(a - b) > 1e-4 * abs(b):
                        raise SystemExit(f"{part} {length}: gradients of ours and {side} differ: {a} and {b}")
                peak = memory[side].get(length)
                told = "" if peak is None else f", peak {peak['mb']:.0f} MB"
                print(
                    f"{part} {length}: {side}: {theirs['s'] * 1e3:.0f} ms{told}, {theirs['s'] / ours['s']:.2f} x ours",
                    flush=True,
                )
                if side != "ours":
                    result[f"{part}_{length}_{side}"] = round(theirs["s"] / ours["s"], 2)
    result["ratio"] = result.get(f"scan_{HEADLINE}_transformers")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
