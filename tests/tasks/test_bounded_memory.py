"""What training and replies hold does not grow with the clips: a corpus, and ten times as much, through the real stages.

In processes of their own, whose peak of resident memory the kernel tells: since they began, where `ru_maxrss` begins with
the peak of who started them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.many_clips import write_corpus

ROOT = Path(__file__).resolve().parents[2]
CLIPS, TIMES, ROOM_MB = 12, 10, 40
"""Nine times the clips are 100 MB, of each of three splits; what two peaks of one process differ by is some ten."""

CHILD = """
import json, sys
from pathlib import Path
from model.dialogue.settings import DialogueSettings
from model.epo.settings import EpoSettings
from model.settings import TrainingSettings
from model.zoo.resolve import identity
from storage.store import Ref, Store
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.settings import ReplySettings
from tasks.stages.dialogue.fit import fit_dialogue
from tasks.stages.epo.fit import fit_epo
from tasks.stages.replies.write import write_replies

store = Store(Path(sys.argv[1]))
made = {name: [Ref(**ref) for ref in refs] for name, refs in json.loads(sys.argv[2]).items()}
work = Workspace(store, store.root, "basis", lambda *_: None)
training = TrainingSettings(dtype="float32", batch_size=4, evaluations=1, threads=1)
settings = DialogueSettings(rank=2, alpha=4, training=training)
llm = Weights(name="tiny-llm", identity=identity("tiny-llm"))

def of(table, *splits):
    return [ref for ref in made[table] if ref.name.split("/")[2] in splits]

learnt, tested = ([of(t, *s) for t in ("utterances", "exchanges", "features")] for s in (("train", "dev"), ("test",)))
(extractor,), (compressor,) = made["extractor"], made["compressor"]
short = ReplySettings(max_new_tokens=2, batch_size=4)
(adapter,) = fit_dialogue(*learnt, None, extractor, "text", settings, llm, work)
(replies,) = write_replies("4f-text", *tested, adapter, None, extractor, "text", settings, short, llm, work)
(with_memories,) = fit_dialogue(*learnt, compressor, extractor, "memory", settings, llm, work)
epo = EpoSettings(training=training, sampled_replies=0)
(preferring,) = fit_epo(made["pairs"], *learnt, with_memories, compressor, extractor, settings, epo, llm, work)
(last,) = write_replies("5-epo", *tested, preferring, compressor, extractor, "memory", settings, short, llm, work)

reports = [json.loads((store.folder(tree) / "report.json").read_text()) for tree in (adapter, with_memories, preferring)]
assert reports[0]["audio_visual"] and reports[1]["audio_visual"]
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({
    "mb": int(peak.split()[1]) / 1024, "rows": [replies.rows, last.rows],
    "steps": [len(report["history"]["train"]) for report in reports],
}))
"""


def told(folder: Path, clips: int) -> dict:
    """What the child says after all stages: replies with text and with memories, trainings on either, and EPO."""
    folder.mkdir()
    made = write_corpus(folder, clips)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder / "store"), json.dumps(made)], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.slow
def test_ten_times_the_clips_take_no_more_memory(tmp_path):
    once, more = told(tmp_path / "once", CLIPS), told(tmp_path / "more", CLIPS * TIMES)
    assert (once["rows"], more["rows"]) == ([CLIPS] * 2, [CLIPS * TIMES] * 2)
    assert (once["steps"], more["steps"]) == ([CLIPS // 4] * 3, [CLIPS * TIMES // 4] * 3)
    assert more["mb"] < once["mb"] + ROOM_MB, (once["mb"], more["mb"])
