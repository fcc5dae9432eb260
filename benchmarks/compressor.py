"""The compressor's scan and model, forward and backward, beside transformers' and mamba.py's. `make bench NAME=compressor`.

At the sizes of Mamba-370M (width 1024, inner 2048, 16 states, 48 layers), float32, one thread: the selective scan
alone, and the whole model. All sides get the same weights and inputs, and their gradients are checked to be equal.
Time is CPU time, the least of a few runs; memory is the peak above what was there before, in a process whose
allocator gives back what is freed. Rows are few where transformers would need minutes or tens of gigabytes: its
backward is quadratic in length. mamba.py (the package mambapy) takes part where it can be imported or `--mambapy
FOLDER` holds it; it is what transformers offers with `use_mambapy`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

import torch
from apart import measured_apart
from peak import forget_peak, peak_mb
from torch.nn import functional as F

WIDTH, STATES, LAYERS = 1024, 16, 48
SIDES = ("ours", "transformers", "mambapy")
CASES = (
    ("scan", 32, 4),
    ("scan", 64, 4),
    ("scan", 128, 4),
    ("scan", 512, 1),
    ("model", 32, 4),
    ("model", 128, 1),
)
"""Part, tokens of a row, rows."""
HEADLINE = ("scan", 128)
LONG = (512, 1024, 2048, 4096)
"""Tokens at which the memory of our scan is looked at by itself."""
DEAREST_S = 4.0
"""A side is run once more while its runs have taken less than this."""


def scan_case(side: str, length: int, rows: int):
    """A function of no arguments that scans, and what to differentiate by."""
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    from model.compressor.scan import selective_scan

    draw = torch.Generator().manual_seed(0)
    inner = 2 * WIDTH

    def random(*sizes):
        return torch.randn(*sizes, generator=draw)

    x, dt = random(rows, length, inner), F.softplus(random(rows, length, inner) - 4)
    B, C, D = random(rows, length, STATES), random(rows, length, STATES), random(inner)
    A = -torch.arange(1.0, STATES + 1).repeat(inner, 1)
    inputs = [t.requires_grad_() for t in (x, dt, A, B, C, D)]

    def theirs():
        first = [t.transpose(1, 2) for t in (x, dt)]
        y = mamba_selective_scan(
            *first, A, B.transpose(1, 2), C.transpose(1, 2), D=D, use_mambapy=side == "mambapy"
        )
        return y.transpose(1, 2)

    return (lambda: selective_scan(*inputs)[0]) if side == "ours" else theirs, inputs


def model_case(side: str, length: int, rows: int):
    """As `scan_case`, for all layers."""
    from transformers import MambaConfig, MambaModel

    from model.compressor.mamba import Mamba, MambaShape

    torch.manual_seed(0)
    # The library's usual 0.1 makes so deep a stack chaotic: gradients then agree to a few thousandths only.
    config = MambaConfig(
        vocab_size=8,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        initializer_range=0.02,
        use_mambapy=side == "mambapy",
    )
    model = MambaModel(config)
    inputs = torch.randn(rows, length, WIDTH).requires_grad_()
    if side == "ours":
        theirs = model
        model = Mamba(MambaShape(**{name: getattr(config, name) for name in MambaShape.model_fields}), 8)
        model.load_state_dict(theirs.state_dict(), strict=True)
        run = lambda: model(inputs)  # noqa: E731
    else:
        run = lambda: model(inputs_embeds=inputs, use_cache=False).last_hidden_state  # noqa: E731
    named = sorted((n, p) for n, p in model.named_parameters() if not n.startswith("embeddings"))
    return run, [inputs, *(p for _, p in named)]


def measure(part: str, side: str, length: int, rows: int) -> dict:
    """CPU seconds of forward and backward, peak MB, and the norms of all gradients, to compare."""
    run, inputs = (scan_case if part == "scan" else model_case)(side, length, rows)
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


def child(part: str, side: str, length: int, rows: int, mambapy: str | None) -> dict:
    """`measure` in a process of its own; memory apart from time where a run is cheap."""
    arguments = ["--part", part, "--side", side, "--lengths", str(length), "--rows", str(rows)]
    paths = [mambapy] if mambapy else []
    found = measured_apart(__file__, *arguments, paths=paths)
    if part == "scan":
        found["mb"] = measured_apart(__file__, *arguments, paths=paths, giving_back=True)["mb"]
    return found


def has_mambapy(folder: str | None) -> bool:
    command = [sys.executable, "-c", "import mambapy.pscan"]
    environment = {**os.environ, "PYTHONPATH": folder or ""}
    return subprocess.run(command, env=environment, capture_output=True).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", choices=("scan", "model"))
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--lengths", type=int, nargs="+")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--mambapy", help="folder that holds the package mambapy")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.side:
        print(json.dumps(measure(asked.part, asked.side, asked.lengths[0], asked.rows)))
        return
    sides = SIDES if has_mambapy(asked.mambapy) else SIDES[:2]
    result = {"name": "compressor"}
    for part, length, rows in CASES:
        if asked.part not in (None, part) or length not in (asked.lengths or [length]):
            continue
        rows, name = asked.rows or rows, f"{part}_{length}"
        found = {side: child(part, side, length, rows, asked.mambapy) for side in sides}
        ours = found["ours"]
        for side, theirs in found.items():
            for a, b in zip(ours["norms"], theirs["norms"], strict=True):
                if abs(a - b) > 1e-4 * abs(b):
                    raise SystemExit(f"{name}: gradients of ours and {side} differ: {a} and {b}")
            print(
                f"{part}, {rows} x {length} tokens: {side}: {theirs['s'] * 1e3:,.0f} ms, peak {theirs['mb']:,.0f} MB; "
                f"{theirs['s'] / ours['s']:.2f} x the time and {theirs['mb'] / ours['mb']:.2f} x the memory of ours",
                flush=True,
            )
            if side != "ours":
                result[f"{name}_{side}"] = round(theirs["s"] / ours["s"], 2)
    if asked.part != "model" and not asked.lengths:
        peaks = {length: child("scan", "ours", length, 1, None) for length in LONG}
        told = ", ".join(f"{length}: {f['mb']:.1f} MB, {f['s'] * 1e3:.0f} ms" for length, f in peaks.items())
        print(f"our scan of one row by tokens: {told}")
        result["memory_mb"] = {length: round(f["mb"], 1) for length, f in peaks.items()}
    result["ratio"] = result.get("_".join(map(str, (*HEADLINE, "transformers"))))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
