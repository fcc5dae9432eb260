"""Where single acted clips go: to the features and the extractor, and to no stage that reads dialogues."""

import pytest

from storage.store import Ref, Store
from tasks.engine.declaration import NotRun
from tasks.engine.graph import Sources, build_graph
from tasks.pipeline import STAGES
from tasks.settings import load_settings
from tasks.stages.inputs import NO_DIALOGUES


def ref(name):
    return Ref(name=name, digest="0" * 32, size=1, rows=5)


CLIPS = [
    ref(f"{{}}/{dataset}/{split}/0")
    for dataset in ("crema_d", "ravdess")
    for split in ("train", "dev", "test")
]
TALK = [ref(f"{{}}/meld/{split}/0") for split in ("train", "dev", "test")]


def of(table, refs):
    return {"all": tuple(r.model_copy(update={"name": r.name.format(table)}) for r in refs)}


@pytest.fixture
def nodes(tmp_path):
    sources = Sources(load_settings("tiny"), "tiny", Store(tmp_path / "store"), (), tmp_path)
    return {node.stage.name: node for node in build_graph(STAGES, sources)}


def datasets(item):
    """Datasets among an item's shards, by argument."""
    return {
        name: {r.name.split("/")[1] for r in value}
        for name, value in item.arguments.items()
        if isinstance(value, list) and value and isinstance(value[0], Ref)
    }


def test_the_extractor_learns_from_them(nodes):
    needed = {"utterances": of("utterances", CLIPS + TALK), "features": of("features", CLIPS + TALK)}
    (item,) = nodes["extractor"].items(needed)
    everything = {"crema_d", "ravdess", "meld"}
    assert datasets(item) == {"utterances": everything, "features": everything}
    (item,) = nodes["extractor.test"].items({**needed, "extractor": {"all": (ref("extractor"),)}})
    assert datasets(item) == {"utterances": everything, "features": everything}


def test_no_stage_of_dialogues_reads_them(nodes):
    tree = ref("compressor").model_copy(update={"tree": True})
    needed = {
        "utterances": of("utterances", CLIPS + TALK),
        "features": of("features", CLIPS + TALK),
        "utterances.exchanges": of("exchanges", TALK),
        "compressor.pretrain": {"all": (tree,)},
        "compressor.finetune": {"all": (tree,)},
        "extractor": {"all": (ref("extractor"),)},
        "dialogue.text": {"all": (ref("adapter"),)},
        "dialogue.audiovisual": {"all": (ref("adapter"),)},
    }
    reading = (
        "utterances.exchanges", "compressor.pretrain", "compressor.finetune", "dialogue.text", "dialogue.memory",
        "dialogue.audiovisual", "replies.1-llm", "replies.4-av",
    )  # fmt: skip
    for name in reading:
        node = nodes[name]
        (item,) = node.items({need: needed[need] for need in node.needs})
        found = datasets(item)
        assert found and all(part == {"meld"} for part in found.values()), name


def test_alone_they_leave_the_stages_of_dialogues_unrun(nodes):
    settled = {"utterances": of("utterances", CLIPS), "features": of("features", CLIPS)}
    settled |= {name: {"all": (ref(name),)} for name in ("extractor", "extractor.test")}
    for name, node in nodes.items():
        if name in ("utterances", "features", "extractor", "extractor.test", "report"):
            continue
        found = node.items({need: settled[need] for need in node.needs})
        assert isinstance(found, NotRun) and found.reason == NO_DIALOGUES, name
        settled[name] = None
    (report,) = nodes["report"].items({need: settled[need] for need in nodes["report"].needs})
    assert report.arguments["artefacts"]["pairs"] is None
