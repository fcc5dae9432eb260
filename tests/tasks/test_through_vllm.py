"""Prompts as embeddings through vLLM, in fp32 on a CPU: token by token the replies of the transformers path.

One engine is started, over a tiny LLM with two adapters, and lent to the stage, which would start its own; `serve` does.
"""

import importlib.util
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pytest
import torch

from model.adapter import for_inference, load_adapter
from model.dialogue.settings import DialogueSettings
from model.extractor.extractor import new_extractor
from model.extractor.settings import ExtractorSettings
from model.generation.settings import EngineSettings, Sampling
from model.generation.streaming import Row
from model.generation.vllm_settings import VllmSettings
from model.generation.vllm_start import vllm_rows
from model.llm import embed, greedy_replies, load_llm, token_ids
from model.settings import TrainingSettings
from model.zoo.resolve import identity, resolve
from storage.shards import read_table
from storage.store import Ref
from tasks.chat.engine import Engine
from tasks.chat.models import Models
from tasks.chat.openai_api import openai_app
from tasks.chat.vllm_models import VllmModels
from tasks.chat.weights import Trained
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.settings import ReplySettings, load_settings
from tasks.stages.replies import write
from tasks.stages.replies.rungs import LADDER
from tests.support.clips import turn_with_clip, write_clip
from tests.support.multimodal import write_multimodal
from tests.support.served import served
from tests.support.talkative import talkative
from tests.support.two_dialogues import CLIPS, TwoDialogues, two_dialogues
from tests.support.waiting import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
SETTINGS = VllmSettings(
    max_model_len=2048, max_num_batched_tokens=4096, max_num_seqs=4, kv_cache_memory_bytes=1 << 26
)
DIALOGUE = DialogueSettings(training=TrainingSettings(dtype="float32", threads=1))
NEW = 12
FINETUNED = {rung.name: rung for rung in LADDER if rung.adapter}
CLIP_WIDTHS = {"audio_width": 3, "video_width": 4}
"""Of the clips of `two_dialogues`."""


@dataclass
class Started:
    """found: a run's parts; adapters, compressor and extractor lie in the store of `two`."""

    engine: object
    found: Trained
    two: TwoDialogues
    adapters: dict[str, Ref]
    compressor: Ref
    extractor: Ref

    def folder(self, rung: str) -> Path:
        return self.two.work.folder(self.adapters[rung])

    @property
    def llm(self) -> Path:
        return resolve(self.found.settings.llm.weights)


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Trained:
    # Heads of 32 numbers: vLLM has no CPU kernel for those of the tiny LLM. Louder, so that replies are unlike each other.
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    return talkative(tmp_path_factory.mktemp("talkative"), louder=8, **heads)


@pytest.fixture(scope="module")
def started(tmp_path_factory, found):
    two = two_dialogues(tmp_path_factory.mktemp("two"), ["test"], ["dev"])
    adapters = {name: two.store.put_tree(f"adapter-{name}", found.rungs[name].adapter) for name in FINETUNED}
    compressor = two.store.put_tree("compressor", found.rungs["3-mc"].compressor)
    llm, tokenizer = load_llm(resolve(found.settings.llm.weights), "float32")
    shape = ExtractorSettings(layers=1, queries=4, hidden=32, heads=4)
    folder = tmp_path_factory.mktemp("extractor")
    new_extractor(shape, **CLIP_WIDTHS, token_embeddings=llm.get_input_embeddings().weight).save(folder)
    extractor = two.store.put_tree("extractor", folder)
    with vllm_rows(
        resolve(found.settings.llm.weights), SETTINGS.engine_args("float32", 2048), [tokenizer.eos_token_id],
        [two.work.folder(ref) for ref in adapters.values()],
    ) as engine:  # fmt: skip
        yield Started(engine, found, two, adapters, compressor, extractor)


def prompts_with_memories(llm, tokenizer) -> list[torch.Tensor]:
    """Of unlike lengths; the first tokens are shared, then stands what no token is."""
    generator = torch.Generator().manual_seed(0)
    memories = [torch.randn(n, 64, generator=generator) * 0.3 for n in (1, 7, 30, 2, 70, 16)]
    words = [token_ids(tokenizer, "There is a person who says " + "so " * n) for n in range(len(memories))]
    return [embed(llm, [words[0], memory, more]) for memory, more in zip(memories, words, strict=True)]


def finished(engine) -> None:
    while len(engine):
        engine.step()


@torch.no_grad()
def test_greedy_replies_are_those_of_transformers_with_and_without_an_adapter(started):
    engine, wanted, rows, tokenizer = started.engine, {}, {}, None
    for rung in (None, "2-ft", "3-mc"):
        llm, tokenizer = load_llm(started.llm, "float32")
        prompts = prompts_with_memories(llm, tokenizer)
        if rung is not None:
            llm = for_inference(load_adapter(llm, started.folder(rung)))
        wanted[rung] = greedy_replies(llm, tokenizer, prompts, NEW)
        rows[rung] = [Row(p, Sampling(temperature=0, max_new_tokens=NEW)) for p in prompts]
    # All at once, more than have a place: rows of one step have different adapters.
    for i in range(len(rows[None])):
        for rung, of_rung in rows.items():
            engine.add(of_rung[i], None if rung is None else started.folder(rung))
    finished(engine)
    for rung, of_rung in rows.items():
        texts = [tokenizer.decode(row.tokens, skip_special_tokens=True).strip() for row in of_rung]
        assert texts == wanted[rung]
        assert all(row.ended == ("length" if len(row.tokens) == NEW else "stop") for row in of_rung)
    assert wanted[None] != wanted["2-ft"] != wanted["3-mc"]
    # A prompt of nothing but tokens is given as tokens, to the same reply.
    ids = token_ids(tokenizer, "What a surprise, I did not expect you here today.")
    both = [
        Row(p, Sampling(temperature=0, max_new_tokens=NEW))
        for p in (ids, embed(load_llm(started.llm, "float32")[0], [ids]))
    ]
    for row in both:
        engine.add(row)
    finished(engine)
    assert both[0].tokens == both[1].tokens and both[0].tokens


def test_a_row_leaves_and_a_draw_is_its_seed_s(started):
    engine, (llm, tokenizer) = started.engine, load_llm(started.llm, "float32")
    prompt = prompts_with_memories(llm, tokenizer)[1]
    stays, goes = (Row(prompt, Sampling(temperature=0, max_new_tokens=200)) for _ in range(2))
    engine.add(stays)
    engine.add(goes)
    while not goes.tokens:
        engine.step()
    engine.leave([goes])
    had = list(goes.tokens)
    finished(engine)
    assert goes.tokens == had and goes.ended is None and stays.ended is not None
    drawn = [Row(prompt, Sampling(temperature=1, max_new_tokens=NEW, seed=seed)) for seed in (1, 2, 1)]
    for row in drawn:
        engine.add(row)
    finished(engine)
    assert drawn[0].tokens == drawn[2].tokens != drawn[1].tokens


def replied(
    started: Started, name: str, vllm: str | None, work: Workspace | None = None, clips: bool = True
) -> list[dict]:
    """The rows of a rung. clips: whether it is given those that it can see."""
    rung, two, found = FINETUNED[name], started.two, started.found.settings.llm.weights
    (ref,) = write.write_replies(
        name, two.utterances, two.exchanges, two.features if rung.av and clips else [], started.adapters[name],
        started.compressor if rung.mc else None, started.extractor if rung.av else None, rung.history, DIALOGUE,
        ReplySettings(max_new_tokens=NEW, batch_size=2, vllm=SETTINGS), Weights(name=found, identity=identity(found)),
        work or two.work, vllm,
    )  # fmt: skip
    return read_table(two.store.read(ref), "replies")


@pytest.fixture
def lent(started, monkeypatch):
    """The stage's engine is the one that has been started. Returns what was asked of each."""
    asked = []

    def lend(*given):
        asked.append(given)
        return nullcontext(started.engine)

    monkeypatch.setattr(write, "vllm_rows", lend)
    return asked


@pytest.mark.parametrize("rung", FINETUNED)
def test_a_rung_s_rows_are_those_of_the_transformers_path(started, lent, rung):
    wanted = replied(started, rung, None)
    assert lent == [] and len({row["reply"] for row in wanted}) > 3
    assert replied(started, rung, "0.32.0") == wanted
    eos = load_llm(started.llm, "float32")[1].eos_token_id
    assert lent == [
        (started.llm, SETTINGS.engine_args("float32", 2048), [eos], [started.folder(rung)])
    ]  # as it was started
    # All of it is stored now, of either half: nothing is started or loaded.
    with pytest.MonkeyPatch.context() as patch:
        for name in ("load_dialogue", "load_prompter"):
            patch.setattr(write, name, lambda *_, **__: pytest.fail("loaded"))
        assert replied(started, rung, "0.32.0") == wanted and len(lent) == 1
    if FINETUNED[rung].av:
        pairs = list(zip(wanted, replied(started, rung, "0.32.0", clips=False), strict=True))
        seen = {place(a) for a, b in pairs if a["prompt_tokens"] > b["prompt_tokens"]}
        assert seen == {(dataset, turn) for dataset, clips in CLIPS.items() for turn in clips}
        otherwise = {place(a) for a, b in pairs if a["reply"] != b["reply"]}
        assert otherwise <= seen and len(otherwise) >= 3  # what is heard and seen changes the reply


def place(row: dict) -> tuple[str, int]:
    return row["dataset"], row["turn"]


def test_a_killed_rung_goes_on_with_the_rows_that_it_has_not(started, lent, monkeypatch):
    class Killed(Exception):
        """Stands for the kill; what was stored before it is durable, as it is there."""

    wanted, work, steps = replied(started, "3-mc", None), started.two.work, []

    def progress(done: int, total: int, _: dict) -> None:
        steps.append((done, total))
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        replied(started, "3-mc", "another", Workspace(work.store, work.raw, work.basis, progress))
    assert steps == [(1, 12), (2, 12)]
    finished(started.engine)  # the killed one's went with it
    begun, usual = [], started.engine.add
    monkeypatch.setattr(started.engine, "add", lambda row, adapter: begun.append(row) or usual(row, adapter))
    assert replied(started, "3-mc", "another") == wanted
    assert len(begun) == 4


def test_what_the_settings_say_of_gpus_reaches_vllm(found, monkeypatch, tmp_path):
    """Candidates, replies and a multimodal system on two pretended cards of 80 GB: what vLLM would be started with."""
    from model.generation import vllm_engine, vllm_rows
    from model.multimodal import vllm_model

    card = SimpleNamespace(is_cpu=lambda: False, get_device_total_memory=lambda: 80_000_000_000)
    asked = []

    def engine(given: dict) -> SimpleNamespace:
        asked.append(given)
        return SimpleNamespace(llm_engine=None)

    for module in (vllm_engine, vllm_rows, vllm_model):
        monkeypatch.setattr(module, "current_platform", card)
    monkeypatch.setattr(vllm_engine, "LLM", lambda **given: engine(given))
    monkeypatch.setattr(vllm_model, "LLM", lambda **given: engine(given))
    monkeypatch.setattr(vllm_rows.LLMEngine, "from_engine_args", lambda given, **_: engine(vars(given)))
    two = ["candidates.engine_args", "replies.vllm"]
    settings = load_settings("paper", [f"{group}.tensor_parallel_size=2" for group in two])
    args, llm = settings.candidates.engine_args, resolve(found.settings.llm.weights)
    vllm_engine.VllmEngine(EngineSettings(model=str(llm), engine="vllm", args=args))
    vllm_rows.VllmRows(llm, settings.replies.vllm.engine_args("bfloat16", 2048), [0])
    vllm_model.VllmMultimodal(write_multimodal(tmp_path / "qwen2_audio", "qwen2_audio"), args)
    # The cache and what a step takes; the tiny weights are nothing beside them.
    shares = [(17.18 + 4) / 80, (8.59 + 4) / 80, (17.18 + 4) / 80]
    assert [given["gpu_memory_utilization"] for given in asked] == pytest.approx(shares, abs=1e-3)
    assert all(given["tensor_parallel_size"] == 2 and given["enforce_eager"] is False for given in asked)
    assert [given["kv_cache_memory_bytes"] for given in asked] == [16 << 30, 8 << 30, 16 << 30]


def asked(url: str, path: str, **body) -> dict:
    done = httpx.post(f"{url}/v1/{path}", json={"max_tokens": NEW, **body}, timeout=120)
    assert done.status_code == 200, done.text
    return done.json()


TALK = [
    {"role": "user", "content": "I have lost my keys again."},
    {"role": "assistant", "content": "Where did you see them last?"},
    {"role": "user", "content": "In the kitchen, I think."},
]


def engines() -> list[list[str]]:
    """The processes that vLLM computes in, below this one: Python starts them by `spawn_main`."""
    below = [
        child for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE
    ]
    told = [[child.name(), *child.cmdline()] for child in below]
    return [words for words in told if any("spawn_main" in word or "VLLM" in word for word in words)]


def test_serve_answers_as_it_does_through_transformers(found, monkeypatch, tmp_path):
    """Four rungs at once, whole and streamed, chat and text, and a clip; a client that goes frees its place; the end ends
    vLLM. It has an engine of its own: one is used by the thread that started it."""
    found = replace(found, rungs={name: found.rungs[name] for name in ("1-llm", "2-ft", "3-mc", "5-epo")})
    filmed = turn_with_clip(TALK[-1]["content"], "video_url", write_clip(tmp_path / "a.mp4").read_bytes())
    answers, begun, before = [], [], engines()
    usual = Engine.reply
    monkeypatch.setattr(Engine, "reply", lambda *given: begun.append(usual(*given)) or begun[-1])
    for load in (lambda: Models(found), lambda: VllmModels(found, found.rungs)):
        with Engine(load) as engine, served(openai_app(engine, found, found.rungs, "127.0.0.1")) as url:
            with ThreadPoolExecutor(9) as pool:
                chats = [
                    pool.submit(asked, url, "chat/completions", model=name, messages=TALK[:n])
                    for name in found.rungs
                    for n in (1, 3)
                ]
                seen = pool.submit(
                    asked, url, "chat/completions", model="5-epo", messages=[*TALK[:2], filmed]
                )
            assert (len(engines()) > len(before)) == isinstance(engine._models(), VllmModels)
            texts = asked(url, "completions", model="2-ft", prompt=["The weather is", "So"])
            chats.append(seen)
            answers.append([done.result()["choices"] for done in chats] + [texts["choices"], texts["usage"]])
            body = {"model": "3-mc", "messages": TALK, "max_tokens": NEW, "stream": True}
            with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=120) as stream:
                events = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: {")]
            told = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
            assert told == answers[-1][5][0]["message"]["content"]
            before_it = len(begun)
            with httpx.stream(
                "POST", f"{url}/v1/chat/completions", json=body | {"max_tokens": 1500}, timeout=120
            ) as stream:
                next(stream.iter_lines())
            (reply,) = begun[before_it:]
            reply.done.result(60)
            assert reply.ended == "stopped" and len(reply.row.tokens) < 1500
    assert answers[0] == answers[1] and len({str(answer) for answer in answers[0]}) == len(answers[0])
    wait_for(lambda: len(engines()) == len(before))
