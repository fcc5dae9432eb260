"""Which stages another version of the code makes stale, of what has run and of what is behind it."""

import os

from storage.sample.layout import write_sample
from tasks.engine.fingerprint import fingerprint
from tasks.engine.releases import changed_code
from tasks.engine.run import RunRequest
from tasks.pipeline import EPO


def test_a_stage_is_named_with_what_changed_although_its_items_are_not_known_yet(tmp_path):
    write_sample(tmp_path / "raw", media=False, dialogues=2, turns=4)
    request = RunRequest(profile="tiny", raw=str(tmp_path / "raw"), store=str(tmp_path / "store"))
    with request.session() as session:
        plans = session.plan()
        assert next(plan for plan in plans if plan.stage.name == "epo").state == "unknown"
        assert changed_code(session.store, plans) == {}
        now = fingerprint(EPO.function, *EPO.code)
        loss, other, *_ = sorted(now)
        for stage, code in (("epo", now), ("gone", {})):  # a stage that is no more is nobody's concern
            session.store.remember(stage, "all", "0" * 32, {"code": code})
        assert changed_code(session.store, plans) == {}
        before = {**now, loss: "0" * 32, "model/old.py:gone": "0" * 32}
        del before[other]
        session.store.remember("epo", "all", "0" * 32, {"code": before})
        assert changed_code(session.store, plans) == {"epo": sorted([loss, other, "model/old.py:gone"])}
        # Another item ran since, although the clock says that it was long before.
        session.store.remember("epo", "later", "0" * 32, {"code": now})
        os.utime(session.store.last_path("epo", "later"), (1_000, 1_000))
        assert changed_code(session.store, plans) == {}
        session.store.last_path("epo", "later").unlink()
        session.store.last_path("epo", "all").write_text("{")
        assert changed_code(session.store, plans) == {}  # what it was made from is not known
