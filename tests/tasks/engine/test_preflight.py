"""What a run asks before anything long starts: the GPU and its memory, the scan, the hub. One line each.

No machine of the tests has a GPU: what torch would say of one is made up here, and nothing else.
"""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from model import accelerator
from model.accelerator import Accelerator, Gpu
from storage.errors import InputError
from storage.sample.layout import write_sample
from tasks.engine import preflight
from tasks.engine.preflight import refusal
from tasks.engine.session import Session
from tasks.pipeline import STAGES
from tasks.settings import RunSettings, load_settings, profile_names
from tasks.stages.candidates import stage as candidates_stage
from tests.support.command_line import empamba

ROOT = Path(__file__).resolve().parents[3]
PAPER = load_settings("paper").run
A100 = Gpu("A100 80GB", 85.0, 84.5)
SLOW = "selective scan: step by step (Triton: ImportError: No module named 'triton')"
OLD_DRIVER = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by downloading "
    "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx"
)


def test_a_gpu_that_suffices_is_not_refused_and_is_said_first():
    found = Accelerator((A100,), None, "selective scan: Triton")
    assert refusal(found, PAPER) is None
    assert found.lines == ("computes on A100 80GB (84 of 85 GB free)", "selective scan: Triton")
    assert Accelerator().lines == ("computes on the CPU", "selective scan: step by step")


@pytest.mark.parametrize(
    "found, words",
    [
        (Accelerator(fault="Torch not compiled with CUDA enabled"), ("not compiled", "make setup-gpu")),
        (Accelerator(fault="Found no NVIDIA driver on your system"), ("no NVIDIA driver", "nvidia-smi")),
        (Accelerator(fault=OLD_DRIVER.split(". ")[0]), ("too old", "11040", "update the driver")),
        (
            Accelerator((Gpu("T4", 15.8, 15.5),)),
            ("GPU 0 (T4) has 15.8 GB", "80 are needed", "larger", "activation_checkpointing"),
        ),
        (
            Accelerator((Gpu("A100", 85.0, 12.5),)),
            ("12.5 of its 85.0 GB free", "another process", "nvidia-smi"),
        ),
        (
            Accelerator((A100,), None, SLOW, True),
            ("step by step", "No module named 'triton'", "allow_slow_scan=true"),
        ),
    ],
    ids=["CPU build", "no driver", "old driver", "too small", "taken", "slow scan"],
)
def test_what_the_paper_profile_cannot_run_on_is_one_line_that_says_what_to_do(found, words):
    line = refusal(found, PAPER)
    assert line is not None and "\n" not in line
    assert all(word in line for word in words), line


def test_every_process_needs_a_gpu_of_its_own():
    two = PAPER.model_copy(update={"processes": 2})
    assert "run.processes is 2 and torch finds 1 GPUs" in (refusal(Accelerator((A100,)), two) or "")
    second = Accelerator((A100, Gpu("A10", 24.1, 24.0)))
    assert refusal(second, PAPER) is None
    assert "GPU 1 (A10)" in (refusal(second, two) or "")


@pytest.mark.parametrize("least", [None, 80], ids=["any", "least_gpu_gb"])
@pytest.mark.parametrize(
    "visible, asked, absent, there",
    [
        (None, ("7",), "7", "0 (A100 80GB), 1 (A10)"),
        (None, ("0", "GPU-5f0c"), "GPU-5f0c", "0 (A100 80GB), 1 (A10)"),
        ("GPU-5f0c,GPU-60aa", ("0", "1"), "0 or 1", "GPU-5f0c (A100 80GB), GPU-60aa (A10)"),
        ("2,3", ("3", "2"), None, ""),
    ],
)
def test_a_gpu_that_is_not_there_is_named_beside_those_that_are(
    monkeypatch, least, visible, asked, absent, there
):
    """Or a process that is told to see it alone sees none, and computes on the CPU."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    settings = PAPER.model_copy(update={"gpus": asked, "least_gpu_gb": least})
    line = refusal(Accelerator((A100, Gpu("A10", 24.1, 24.0))), settings)
    if absent is None:
        assert line is None
    else:
        assert line is not None and line.startswith(
            f"run.gpus: no visible GPU is called {absent}; there are {there}: "
        )


def test_names_say_nothing_where_there_is_no_gpu():
    named = PAPER.model_copy(update={"gpus": ("7",), "least_gpu_gb": None})
    assert refusal(Accelerator(), named) is None
    assert "torch has none" in (refusal(Accelerator(fault="none"), PAPER) or "")


def test_settings_allow_what_the_paper_profile_refuses():
    anyway = PAPER.model_copy(update={"least_gpu_gb": None, "allow_slow_scan": True})
    assert refusal(Accelerator(fault="none"), anyway) is None
    assert refusal(Accelerator((Gpu("T4", 15.8, 2.0),), None, SLOW, True), anyway) is None
    assert refusal(Accelerator((A100,), None, SLOW, True), RunSettings()) is None


@pytest.mark.parametrize(
    "error", [RuntimeError(OLD_DRIVER), AssertionError("Torch not compiled with CUDA enabled")]
)
def test_torchs_reason_becomes_one_sentence(monkeypatch, error):
    def init():
        raise error

    monkeypatch.setattr(torch.cuda, "init", init)
    found = accelerator.look()
    assert found.fault == str(error).split(". ")[0] and not found.gpus and not found.slow_scan


def test_two_gpus_of_torchs_are_told_with_what_is_free_of_them(monkeypatch):
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"card {number}")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: ((number + 1) * 10**9, 80 * 10**9))
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid=f"5f-{number}")
    )
    found = accelerator.look()
    assert found.gpus == (Gpu("card 0", 80.0, 1.0, "5f-0"), Gpu("card 1", 80.0, 2.0, "5f-1"))
    # Such a card scans nothing: no kernel starts on it, and each is named.
    assert found.slow_scan and "mamba-ssm" in found.scan and "Triton" in found.scan
    assert Accelerator.from_json(found.as_json()) == found


def test_as_a_module_it_prints_what_it_finds_here():
    done = subprocess.run(
        [sys.executable, "-m", "model.accelerator"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert Accelerator.from_json(done.stdout) == accelerator.look()


def test_where_no_driver_is_and_no_gpu_is_needed_torch_is_not_asked(monkeypatch):
    monkeypatch.setattr(preflight, "may_have_gpu", lambda: False)
    monkeypatch.setattr(preflight.subprocess, "run", lambda *_, **__: pytest.fail("asked"))
    assert preflight.accelerator(RunSettings(parallel=7)) == Accelerator()


def test_the_hub_is_asked_for_what_the_run_will_load_and_for_nothing_else(monkeypatch, tmp_path):
    monkeypatch.setenv("EMPAMBA_CACHE", str(tmp_path / "cache"))
    write_sample(tmp_path / "raw", media=False, dialogues=1, turns=2)

    def asked_for(until: str | None, *changes: str) -> set[str]:
        asked: list[str] = []
        fetched: list[str] = []
        monkeypatch.setattr(preflight, "check_hub", lambda name, offline: asked.append(name))
        monkeypatch.setattr(preflight, "fetch", lambda name, offline, stop: fetched.append(name))
        settings = load_settings("paper", ["run.least_gpu_gb=null", *changes])
        with Session(settings, "paper", tmp_path / "store", tmp_path / "raw") as session:
            preflight.preflight(session, until)
        assert fetched == asked
        return set(asked)

    text = {"qwen2.5-7b-instruct", "mamba-370m", "roberta-base-go_emotions", "roberta-large"}
    assert asked_for(None) == text
    assert asked_for("scores") == {"qwen2.5-7b-instruct", "roberta-base-go_emotions"}
    assert asked_for("dialogue.text") == {"qwen2.5-7b-instruct"}
    own = 'compressor.pretrained="memory-smollm2-135m"'
    assert asked_for("compressor.pretrain", own) == {"qwen2.5-7b-instruct"}
    # One clip, and the encoders are wanted.
    clip = next((tmp_path / "raw").rglob("*.csv")).parent / "dev_splits_complete/dia0_utt0.mp4"
    clip.parent.mkdir(exist_ok=True)
    clip.write_bytes(b"a clip, for all that its name says")
    assert asked_for(None) == text | {"whisper-tiny", "clip-vit-b-32"}


def own_fault(profile: str, *changes: str) -> str | None:
    settings = load_settings(profile, changes)
    return preflight.own_fault([stage for stage in STAGES if stage.enabled(settings)], settings)


def test_what_a_pretrained_compressor_is_not_is_one_line_that_says_what_it_is(tmp_path):
    assert [own_fault(profile) for profile in profile_names()] == [None] * len(profile_names())
    spans = "compressor.pretrained=memory-smollm2-135m-span8"
    assert own_fault("night", spans) is None is own_fault("night", spans, "compressor.memory_span=8")
    assert own_fault("night", spans, "compressor.memory_span=4") == (
        "compressor.memory_span is 4, and memory-smollm2-135m-span8 (compressor.pretrained) keeps what it was made "
        "with, 8; leave it at null, or take another compressor"
    )
    assert (
        "memory-smollm2-135m (compressor.pretrained) keeps what it was made with, one memory an utterance"
        in (own_fault("cpu", "compressor.memory_span=8") or "")
    )
    # One that was made with the paper's prompt, beside a profile that has the other.
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    own = f"compressor.pretrained={tmp_path}"
    assert own_fault("cpu", own, "compressor.prompt=paper") is None is own_fault("paper", own)
    assert own_fault("cpu", own) == (
        f"compressor.prompt is bare, and {tmp_path} (compressor.pretrained) keeps what it was made with, table 5; "
        "set compressor.prompt=paper, or take another compressor"
    )


def faults(gpus: int, *changes: str) -> str:
    settings = load_settings("paper", changes)
    stages = [stage for stage in STAGES if stage.enabled(settings)]
    return preflight.gpu_fault(stages, settings, gpus) or ""


def test_more_gpus_than_there_are_is_one_line_that_names_the_setting():
    candidates = "candidates.engine_args.tensor_parallel_size"
    two, four = "replies.vllm.tensor_parallel_size=2", f"{candidates}=4"
    assert faults(1) == faults(2, two) == faults(4, two, four) == faults(4, "run.processes=4") == ""
    assert faults(0) == faults(0, "run.processes=2") == ""  # a CPU
    said = faults(1, two)
    assert said.startswith(
        "replies.vllm.tensor_parallel_size is 2, and replies.1-llm finds 1 GPUs: lower it, or"
    )
    assert faults(2, two, four).startswith(f"{candidates} is 4, and candidates finds 2 GPUs")
    assert faults(2, "run.processes=3").startswith("run.processes is 3, and extractor finds 2 GPUs")
    assert faults(0, four).startswith(f"{candidates} is 4, and candidates finds 0 GPUs")
    # Who has no engine of vLLM's has nothing to share.
    transformers = ("candidates.engine=transformers", "replies.engine=transformers")
    assert faults(1, two, four, *transformers) == ""
    on_policy = "candidates.source=dialogue"  # with memories in the prompts, which transformers samples
    assert faults(1, four, on_policy) == "" != faults(1, four, on_policy, "candidates.dialogue.history=text")
    heard = {"name": "q", "kind": "multimodal", "weights": "w", "engine": "vllm"}
    shared = json.dumps([heard, heard | {"name": "r", "engine_args": {"tensor_parallel_size": 2}}])
    assert faults(2, f"systems={shared}") == ""
    assert faults(1, f"systems={shared}").startswith(
        "systems.r.engine_args.tensor_parallel_size is 2, and systems."
    )


def test_on_a_cluster_the_head_needs_no_gpu(monkeypatch):
    """Its nodes are asked when the run begins (ray_pool.py)."""
    monkeypatch.setattr(preflight, "accelerator", lambda settings: Accelerator(fault="No NVIDIA driver"))
    preflight.check_machine([], load_settings("paper", ["run.runner=ray"]))
    with pytest.raises(InputError, match="a GPU of 80 GB is needed"):
        preflight.check_machine([], load_settings("paper"))


def test_without_vllm_what_asks_for_it_is_one_line(monkeypatch, tmp_path):
    """For a command before it starts a server, and for a run before it looks at anything."""
    for module in (preflight, candidates_stage):
        monkeypatch.setattr(module, "find_spec", lambda name: None if name == "vllm" else pytest.fail(name))
    monkeypatch.setattr(preflight, "check_hub", lambda name, offline: pytest.fail("asked the hub"))
    write_sample(tmp_path / "raw", media=False, dialogues=1, turns=2)

    def refused(until: str | None, *changes: str) -> str:
        settings = load_settings("paper", ["run.least_gpu_gb=null", *changes])
        with Session(settings, "paper", tmp_path / "store", tmp_path / "raw") as session:
            with pytest.raises(InputError) as of_run:
                preflight.preflight(session, until)
            with pytest.raises(InputError) as of_command:
                preflight.check_machine(session.plan(until), settings)
        assert str(of_run.value) == str(of_command.value)
        return str(of_run.value)

    said = refused(None)
    assert "\n" not in said and said.startswith(
        "candidates.engine and replies.engine: vllm, and vLLM is not installed"
    )
    assert "make setup-gpu" in said and "transformers" in said
    assert refused("candidates").startswith("candidates.engine: vllm")
    assert refused(None, "candidates.engine=auto").startswith("replies.engine: vllm")
    heard = {"name": "q", "kind": "multimodal", "weights": str(tmp_path), "engine": "vllm"}
    without = (
        "candidates.engine=transformers",
        "replies.engine=transformers",
        f"systems={json.dumps([heard])}",
    )
    (tmp_path / "config.json").write_text("{}")
    assert refused(None, *without).startswith("systems.q.engine: vllm")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_the_paper_profile_ends_at_once_without_a_gpu(tmp_path):
    done = empamba(tmp_path, "run", "--profile", "paper")
    said = done.stderr.decode().strip().splitlines()
    assert done.returncode == 2 and said[-1].startswith(
        "error: a GPU of 80 GB is needed, and torch has none: "
    )
    assert not list(tmp_path.glob("store/objects/*")) and not list(tmp_path.glob("store/sample/*"))
