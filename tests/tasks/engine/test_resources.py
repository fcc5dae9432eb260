"""What items take of the machine, and who is let in; GPUs that are held by one item at a time, among processes and runs.

The GPUs are pretended ones: names, as the setting `run.gpus` gives them. Locks, processes and the pool are the real ones.
"""

import os
import runpy
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from storage.errors import InputError
from tasks.engine import preflight
from tasks.engine.declaration import Stage, Weights, served_weights
from tasks.engine.gpus import Gpus, visible_names
from tasks.engine.item import Item
from tasks.engine.pool import WorkerPool
from tasks.engine.resources import Resources, machine, taken_by
from tasks.engine.slots import Slots
from tasks.engine.stopping import Stopped
from tasks.pipeline import STAGES
from tasks.settings import RunSettings, load_settings
from tests.support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[3]
PAPER = load_settings("paper")
CPU = load_settings("cpu")
COSTS = runpy.run_path(str(ROOT / "benchmarks/costs.py"))
SHOWS = "tests.support.shows_gpus:show"


def item_of(stage: Stage) -> Item:
    return Item(stage, "all", {})


def item_named(name: str, settings=PAPER) -> Item:
    return item_of(next(stage for stage in STAGES if stage.name == name and stage.enabled(settings)))


# What an item takes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "changes", "gpus"),
    [
        ("utterances", (), 0), ("pairs", (), 0), ("report", (), 0), ("features", (), 1), ("scores", (), 1),
        ("candidates", (), 1), ("dialogue.text", (), 1), ("replies.5-epo", (), 1), ("metrics", (), 1),
        ("dialogue.text", ("run.processes=4",), 4), ("replies.5-epo", ("run.processes=4",), 1),
        ("candidates", ("candidates.engine_args.tensor_parallel_size=2",), 2),
        ("candidates", ("candidates.engine=openai", "candidates.server.model=m"), 0),
    ],
)  # fmt: skip
def test_what_computes_takes_gpus_and_what_does_not_takes_none(stage, changes, gpus):
    settings = load_settings("paper", changes)
    assert taken_by(item_named(stage), settings, Resources(8, 500.0, 16)).gpus == gpus


def test_without_a_gpu_an_item_takes_the_threads_of_its_processes():
    has = Resources(0, 16.0, 4)
    text = item_named("dialogue.text")
    assert taken_by(text, CPU, has).cores == 1  # run.threads
    assert taken_by(text, load_settings("cpu", ["run.threads=null"]), has).cores == 4
    assert taken_by(text, load_settings("cpu", ["run.threads=2", "run.processes=2"]), has).cores == 4
    assert taken_by(item_named("pairs"), CPU, has) == Resources(0, 0.3, 1)
    assert taken_by(text, PAPER, Resources(1, 100.0, 16)).cores == 1


def test_memory_goes_by_the_weights_that_an_item_reads(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(bytes(5_000_000))
    read = {"llm": Weights(name=str(tmp_path), identity=""), "judge": served_weights("somewhere else")}
    item = replace(item_named("dialogue.text"), arguments=read)
    assert taken_by(item, CPU, Resources(0, 16.0, 4)).memory_gb == pytest.approx(1.01)
    assert taken_by(item, PAPER, Resources(1, 16.0, 4)).memory_gb == pytest.approx(1.005)


def test_through_vllm_the_weights_are_counted_once_more(tmp_path):
    """In the stage's own process, which reads them for the likelihoods, and in vLLM's."""
    (tmp_path / "model.safetensors").write_bytes(bytes(5_000_000))
    item = replace(item_named("replies.5-epo"), arguments={"llm": Weights(name=str(tmp_path), identity="")})
    has = Resources(1, 100.0, 16)
    assert taken_by(item, PAPER, has).memory_gb == pytest.approx(2.01)
    without = load_settings("paper", ["replies.engine=transformers"])
    assert taken_by(item, without, has).memory_gb == pytest.approx(1.005)


@pytest.mark.parametrize(
    "stage", ["dialogue.text", "epo", "epo.test", "ladder", "extractor.test", "replies.5-epo", "candidates"]
)
def test_no_less_memory_is_counted_than_the_page_of_costs_tells(tmp_path, stage):
    """Of a 7B's size in a file of holes; the utterances, a few kB each, apart."""
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.truncate(15_200_000_000)
    item = replace(item_named(stage), arguments={"llm": Weights(name=str(tmp_path), identity="")})
    row = COSTS["REPLIES"] if stage.startswith("replies") else stage
    told = COSTS["host_gb"](COSTS["MULTIDIALOG"], row) - COSTS["MULTIDIALOG"].utterances * 12e3 / 1e9
    assert taken_by(item, PAPER, Resources(1, 200.0, 16)).memory_gb >= told


def test_the_machine_is_what_is_free_or_what_the_settings_say():
    said = machine(RunSettings(memory_gb=3.5), 2)
    assert (said.gpus, said.memory_gb, said.cores) == (2, 3.5, len(os.sched_getaffinity(0)))
    assert 0.1 < machine(RunSettings(), 0).memory_gb < 10_000


# Who is let in ----------------------------------------------------------------------------------------------


class Running:
    """Items that hold a slot until they are told to go."""

    def __init__(self, slots: Slots):
        self.slots, self.inside, self.ends, self.threads = slots, [], {}, []

    def come(self, name: str, stage: str, takes: Resources) -> None:
        self.ends[name] = threading.Event()

        def work() -> None:
            with self.slots.take(stage, takes):
                self.inside.append(name)
                self.ends[name].wait(60)
                self.inside.remove(name)

        before = len(self.slots._waiting) + len(self.inside)
        self.threads.append(threading.Thread(target=work))
        self.threads[-1].start()
        wait_for(lambda: len(self.slots._waiting) + len(self.inside) > before)

    def go(self, name: str) -> None:
        self.ends[name].set()
        wait_for(lambda: name not in self.inside)

    def all_go(self) -> None:
        for end in self.ends.values():
            end.set()
        for thread in self.threads:
            thread.join(60)


def test_cpu_items_run_beside_the_one_that_has_the_gpu():
    stages = {"train": 9, "score": 5, "pairs": 1}
    running = Running(Slots(8, dict.fromkeys(stages, 8), stages, lambda: Resources(1, 100.0, 8)))
    try:
        running.come("training", "train", Resources(1, 10.0, 1))
        running.come("scoring", "score", Resources(1, 10.0, 1))  # waits, and is more urgent than what follows
        running.come("choosing", "pairs", Resources(0, 0.3, 1))
        wait_for(lambda: "choosing" in running.inside)
        assert sorted(running.inside) == ["choosing", "training"]
        running.go("training")
        wait_for(lambda: "scoring" in running.inside)
    finally:
        running.all_go()


def test_several_gpus_serve_several_items_and_one_that_wants_all_is_not_passed_for_ever():
    stages = {"wide": 9, "narrow": 1}
    running = Running(Slots(8, dict.fromkeys(stages, 8), stages, lambda: Resources(2, 100.0, 8)))
    try:
        one = Resources(1, 1.0, 1)
        running.come("a", "narrow", one)
        running.come("b", "narrow", one)
        wait_for(lambda: sorted(running.inside) == ["a", "b"])
        running.come("both", "wide", Resources(2, 1.0, 1))
        running.come("c", "narrow", one)
        running.go("a")
        # One GPU is free, and "c" would fit; but "both" is more urgent, and gets it with the next.
        assert running.inside == ["b"]
        running.go("b")
        wait_for(lambda: running.inside == ["both"])
    finally:
        running.all_go()


@pytest.mark.parametrize("kind", ["memory_gb", "cores"])
def test_what_is_too_much_beside_others_waits_and_alone_it_always_may(kind):
    running = Running(Slots(8, {"x": 8}, {"x": 1}, lambda: Resources(0, 4.0, 4)))
    try:
        running.come("large", "x", replace(Resources(0, 1.0, 1), **{kind: 9}))
        wait_for(lambda: running.inside == ["large"])
        running.come("small", "x", Resources(0, 1.0, 1))
        assert running.inside == ["large"]
        running.go("large")
        wait_for(lambda: running.inside == ["small"])
    finally:
        running.all_go()


# Who holds which GPU ----------------------------------------------------------------------------------------


def test_a_gpu_is_held_by_one_run_of_this_machine_at_a_time(tmp_path):
    mine, theirs = (Gpus(lambda: ("0", "1"), tmp_path) for _ in range(2))
    first = mine.try_hold(1)
    assert first.names == ("0",) and first.environment == {"CUDA_VISIBLE_DEVICES": "0"}
    assert theirs.is_held("0") and not theirs.is_held("1")
    assert theirs.try_hold(2) is None and not mine.is_held("1")  # all or none
    second = theirs.try_hold(1)
    assert second.names == ("1",)
    first.release()
    assert theirs.try_hold(1).names == ("0",)


def test_a_card_is_one_lock_whatever_two_runs_call_it(monkeypatch, tmp_path):
    """As CUDA_VISIBLE_DEVICES names it, and torch tells which card that is."""
    from model.accelerator import Accelerator, Gpu
    from tasks.engine.runners import pool_of

    monkeypatch.setenv("EMPAMBA_CACHE", str(tmp_path))
    card = Gpu("A100", 85.0, 84.5, "5f0c-11")

    def seen_as(name: str, *gpus: Gpu) -> Gpus:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", name)
        monkeypatch.setattr(preflight, "accelerator", lambda settings: Accelerator(gpus))
        found = pool_of(RunSettings(), tmp_path / "store", tmp_path, {}).gpus
        assert found.names == tuple(name.split(","))
        return found

    held = seen_as("1", card).try_hold(1)
    assert held.environment == {"CUDA_VISIBLE_DEVICES": "1"}
    both = seen_as("GPU-5f,GPU-60", card, Gpu("A100", 85.0, 84.5, "60aa-12"))
    assert both.is_held("GPU-5f") and both.try_hold(1).names == ("GPU-60",)
    held.release()
    assert both.try_hold(1).names == ("GPU-5f",)
    # What a shortage of memory is laid to goes by the card too.
    taken = Gpu("A100", 85.0, 12.5, "60aa-12")
    assert preflight.shortcoming("0", taken, 80) is None


def test_a_card_is_one_lock_in_every_container_of_a_machine(monkeypatch, tmp_path):
    """Which have host names of their own; where torch tells no UUID, a name says which card it is on its host alone."""
    monkeypatch.setenv("EMPAMBA_CACHE", str(tmp_path))

    def on(host: str, **cards: str) -> tuple[Gpus, bool]:
        monkeypatch.setattr("socket.gethostname", lambda: host)
        gpus = Gpus(lambda: ("0",), cards=lambda: cards)
        return gpus, gpus.try_hold(1) is not None

    assert [on(host, **{"0": "5f0c-11"})[1] for host in ("a1", "b2", "a1")] == [True, False, False]
    assert [on(host)[1] for host in ("a1", "b2", "a1")] == [True, True, False]


def test_a_run_that_is_killed_leaves_its_gpu_to_the_process_that_still_computes_there(tmp_path):
    gpus = Gpus(lambda: ("0",), tmp_path)
    held = gpus.try_hold(1)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=held.locks)
    held.release()  # as the kernel does for a process that is killed
    assert gpus.try_hold(1) is None
    child.communicate(b"\n")
    assert gpus.try_hold(1) is not None


def test_locks_that_cannot_be_written_are_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written .*set EMPAMBA_CACHE"):
        Gpus(lambda: ("0",), tmp_path / "file" / "locks").try_hold(1)


def test_names_are_those_that_are_visible(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_names(2) == ("0", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-5f")
    assert visible_names(2) == ("3", "GPU-5f")


@pytest.fixture
def pool(tmp_path):
    def opened(names: tuple[str, ...], **changes) -> WorkerPool:
        gpus = Gpus(lambda: names, tmp_path / "locks")
        made = WorkerPool(
            RunSettings(**changes), tmp_path / "store", tmp_path, {"PYTHONPATH": str(ROOT)}, gpus
        )
        pools.append(made)
        return made

    pools: list[WorkerPool] = []
    yield opened
    for made in pools:
        made.close()


def seen_by(pool: WorkerPool, stage: str, gpus: int, told=None) -> str:
    """The GPUs that an item's process sees."""
    lines: list[str] = []
    item = item_of(Stage(stage, SHOWS))
    on_line = (told if told is not None else lines).append
    (shown,) = pool.run(
        item, Path(pool.store / "scratch"), lambda *_: None, on_line, takes=Resources(gpus=gpus)
    )
    return shown.name


def test_an_items_process_sees_its_own_gpu_and_an_idle_one_gives_it_up(pool):
    mine = pool(("0", "1"), share_workers=True)
    assert seen_by(mine, "cpu", 0) == "none"
    assert seen_by(mine, "first", 1) == "0" and seen_by(mine, "first", 1) == "0"
    assert seen_by(mine, "second", 1) == "1"
    # Both are held by workers that wait for their stages' next items: one of them ends.
    assert seen_by(mine, "both", 2) == "0,1"


def test_a_second_run_waits_for_the_gpu_of_the_first_and_says_so(pool):
    mine, other = pool(("0",)), pool(("0",))
    assert seen_by(mine, "first", 1) == "0"
    told: list[str] = []
    found: list[str] = []
    waiting = threading.Thread(target=lambda: found.append(seen_by(other, "second", 1, told)))
    waiting.start()
    wait_for(lambda: told)
    assert told == ["waits for 1 of the GPUs 0: another run holds them"] and not found
    mine.release("first")
    waiting.join(60)
    assert found == ["0"]


def test_a_run_that_stops_waits_no_longer(pool):
    mine, other = pool(("0",)), pool(("0",))
    seen_by(mine, "first", 1)
    told: list[str] = []
    ended: list[Exception] = []

    def wait() -> None:
        with pytest.raises(Stopped) as stopped:
            seen_by(other, "second", 1, told)
        ended.append(stopped.value)

    waiting = threading.Thread(target=wait)
    waiting.start()
    wait_for(lambda: told)
    other.close("enough")
    waiting.join(60)
    assert str(ended[0]) == "enough"


# Which GPUs a run takes -------------------------------------------------------------------------------------


def test_a_run_takes_those_that_suffice_and_waits_for_what_another_run_holds(monkeypatch, tmp_path):
    from model.accelerator import Accelerator, Gpu

    monkeypatch.setenv("EMPAMBA_CACHE", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    small, whole, taken = Gpu("A10", 24.1, 24.0), Gpu("A100", 85.0, 84.5), Gpu("A100", 85.0, 12.5)
    found = Accelerator((small, whole, taken))
    monkeypatch.setattr(preflight, "accelerator", lambda settings: found)
    assert preflight.gpu_names(PAPER.run) == ("1",)
    held = Gpus(lambda: ("2",)).try_hold(1)  # another run's: its memory will be free again
    assert preflight.gpu_names(PAPER.run) == ("1", "2")
    held.release()
    only = PAPER.run.model_copy(update={"gpus": ("0", "2")})
    assert "GPU 0 (A10) has 24.1 GB" in preflight.refusal(found, only)
    assert preflight.gpu_names(RunSettings(gpus=("7",))) == ("7",)
    with pytest.raises(InputError, match="run.gpus"):
        load_settings("paper", ["run.gpus=3"])
