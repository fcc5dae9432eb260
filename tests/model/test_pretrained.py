"""Folders of pretrained weights: whole or refused, and no Python of theirs is run, by whichever road they are loaded."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.features.encoders import FeatureError, load_video_encoder
from model.generation.protocol import GenerationRequest
from model.generation.settings import EngineArgs, EngineSettings, Sampling
from model.generation.transformers_engine import TransformersEngine
from model.llm import load_llm
from model.pretrained import in_dtype
from model.zoo.random_models import write_random_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tiny_llm_folder, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_llm_folder, tmp_path / "llm"))


def _change(folder: Path, change) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


def _last_layer(tensors) -> str:
    return sorted(name for name in tensors if name.endswith("down_proj.weight"))[-1]


def _without_one(tensors):
    del tensors[_last_layer(tensors)]


def _of_another_shape(tensors):
    name = _last_layer(tensors)
    tensors[name] = torch.cat([tensors[name], tensors[name]])


def _engine(folder: Path):
    settings = EngineSettings(
        model=str(folder),
        engine="transformers",
        args=EngineArgs(dtype="float32", max_model_len=256),
        sampling=Sampling(max_new_tokens=2),
    )
    request = GenerationRequest("row", ({"role": "user", "content": "Hi."},), 1)
    return list(TransformersEngine(settings).generate([request]))


BOTH_ROADS = pytest.mark.parametrize("load", [load_llm, _engine])


@BOTH_ROADS
@pytest.mark.parametrize(
    "change, says",
    [(_without_one, "missing: .*down_proj"), (_of_another_shape, "of another shape: .*down_proj")],
)
def test_an_llm_that_is_not_whole_is_refused_on_both_roads(folder, load, change, says):
    _change(folder, change)
    with pytest.raises(ValueError, match=f"not whole .{says}.*resolve them again") as failure:
        load(folder)
    assert "\n" not in str(failure.value)


def test_weights_beyond_the_model_are_no_error(folder):
    _change(folder, lambda tensors: tensors.update(further=torch.zeros(3)))
    assert len(_engine(folder)) == 1


def _with_code(folder: Path, model_type: str, ran: Path) -> None:
    """The folder asks transformers to run its own module, which would leave a file."""
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    for name, kinds in (
        ("config.json", ("AutoConfig", "AutoModelForCausalLM")),
        ("tokenizer_config.json", ("AutoTokenizer",)),
    ):
        values = json.loads((folder / name).read_text())
        owned = {kind: "own.Own" for kind in kinds}
        values["auto_map"] = {k: [v, v] if k == "AutoTokenizer" else v for k, v in owned.items()}
        if name == "config.json":
            values["model_type"] = model_type
        else:
            values["tokenizer_class"] = "Own"
        (folder / name).write_text(json.dumps(values))


@BOTH_ROADS
def test_a_folder_with_code_of_its_own_neither_runs_it_nor_asks(folder, load, tmp_path):
    _with_code(folder, "own", tmp_path / "ran")
    with pytest.raises(ValueError, match=r"Python code of its own \(auto_map in its config\)") as failure:
        load(folder)
    assert "\n" not in str(failure.value) and not (tmp_path / "ran").exists()


def test_nobody_is_asked_at_a_terminal(folder, tmp_path):
    """As a shell starts it, with an input that nobody writes to."""
    _with_code(folder, "own", tmp_path / "ran")
    reading, writing = os.pipe()
    code = f"from pathlib import Path; from model.llm import load_llm; load_llm(Path({str(folder)!r}))"
    ended = subprocess.run(
        [sys.executable, "-c", code], stdin=reading, capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    os.close(reading), os.close(writing)
    assert "Python code of its own" in ended.stderr and "[y/N]" not in ended.stdout + ended.stderr
    assert not (tmp_path / "ran").exists()


def test_a_kind_that_is_built_in_is_loaded_from_there(folder, tmp_path):
    told = (folder / "tokenizer_config.json").read_text()
    _with_code(folder, json.loads((folder / "config.json").read_text())["model_type"], tmp_path / "ran")
    (folder / "tokenizer_config.json").write_text(told)
    llm, _ = load_llm(folder, "float32")
    assert type(llm).__module__.startswith("transformers.models.") and not (tmp_path / "ran").exists()


@torch.no_grad()
def test_a_network_cast_to_bfloat16_is_the_one_that_was_loaded_so_at_the_thousandth_position_too(folder):
    """Cast whole, its rotary frequencies would be rounded with the weights."""
    loaded, cast = load_llm(folder, "bfloat16")[0], in_dtype(load_llm(folder, "float32")[0], torch.bfloat16)
    assert cast.state_dict().keys() == loaded.state_dict().keys()
    for kind in ("named_parameters", "named_buffers"):
        for (name, found), (_, wanted) in zip(getattr(cast, kind)(), getattr(loaded, kind)(), strict=True):
            assert found.dtype == wanted.dtype and torch.equal(found, wanted), name
    assert {weight.dtype for weight in cast.parameters()} == {torch.bfloat16}
    ids, places = torch.arange(1, 9)[None], torch.arange(1000, 1008)[None] ** 2 // 1000
    assert torch.equal(*(llm(input_ids=ids, position_ids=places).logits for llm in (cast, loaded)))
    whole = load_llm(folder, "float32")[0].to(torch.bfloat16)  # what it must not be
    assert not torch.equal(dict(whole.named_buffers())["model.rotary_emb.inv_freq"].float(),
                           dict(loaded.named_buffers())["model.rotary_emb.inv_freq"])  # fmt: skip


def test_encoders_are_whole_too(tmp_path):
    write_random_model("tiny-vision", tmp_path)
    assert load_video_encoder(tmp_path).width
    _change(tmp_path, lambda tensors: tensors.pop(sorted(n for n in tensors if "mlp.fc2.weight" in n)[0]))
    with pytest.raises(FeatureError, match="not whole .missing: .*fc2"):
        load_video_encoder(tmp_path)


def test_no_other_call_loads_a_model_or_a_tokenizer():
    """Every `from_pretrained` of the product is in model/pretrained.py; the others read one JSON file each."""
    plain = {"GenerationConfig", "PeftConfig"}
    found = set()
    for package in ("model", "tasks", "flows", "storage"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and node.attr == "from_pretrained":
                    owner = node.value.id if isinstance(node.value, ast.Name) else "?"
                    if owner not in plain:
                        found.add(path.relative_to(ROOT).as_posix())
    assert found == {"model/pretrained.py"}


def test_vllm_is_told_too():
    tree = ast.parse((ROOT / "model/generation/vllm_engine.py").read_text(encoding="utf-8"))
    (call,) = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "LLM"]
    (told,) = [word.value.value for word in call.keywords if word.arg == "trust_remote_code"]
    assert told is False
