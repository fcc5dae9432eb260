"""Stage `report`, declared: it looks at what every other stage left."""

from __future__ import annotations

from tasks.engine.declaration import EVERY_OTHER, Calls, Made, Reads, Stage, named_weights
from tasks.report.templates import CODE
from tasks.settings import weight_names
from tasks.stages.replies.stage import REPLIES


def everything(made: Made) -> Calls:
    names = {stage.name for stage in REPLIES}
    artefacts = {
        name: made.refs(name) if made.ran(name) else None for name in sorted(made.outputs.keys() - names)
    }
    artefacts["replies"] = [ref for name in made.outputs if name in names for ref in made.refs(name)]
    weights = {role: named_weights(name) for role, name in weight_names(made.settings).items()}
    return {"all": {"profile": made.profile, "artefacts": artefacts, "weights": weights}}


REPORT = Stage(
    name="report",
    title="Report",
    flow="write_report",
    needs=EVERY_OTHER,
    items=everything,
    function="tasks.stages.report.write:write_report",
    code=CODE,
    settings={"settings": Reads("", without=("run",))},
    libraries=("jinja2", "matplotlib"),
)
