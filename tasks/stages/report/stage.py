"""Stage `report`, declared: it looks at what every other stage left."""

from __future__ import annotations

from model.zoo.resolve import source_of
from storage.readers.registry import dataset_named
from storage.store import Ref
from tasks.engine.declaration import (
    EVERY_OTHER,
    Calls,
    Made,
    NotRun,
    RawFiles,
    Reads,
    Stage,
    named_weights,
)
from tasks.report.templates import CODE
from tasks.settings import weight_names
from tasks.stages.replies.stage import REPLIES
from tasks.stages.systems.stage import ANSWERING

SAMPLE = "Apache-2.0: the bundled sample, written for this project"


def everything(made: Made) -> Calls:
    own = {stage.name for stage in made.stages if not stage.variant}
    names = {stage.name for stage in REPLIES}
    artefacts = {name: made.refs(name) if made.ran(name) else None for name in sorted(own - names)}
    if any(made.ran(name) for name in ANSWERING):
        artefacts["systems"] = [ref for name in ANSWERING if made.ran(name) for ref in made.refs(name)]
    artefacts["replies"] = [ref for name in made.outputs if name in names for ref in made.refs(name)]
    named = weight_names(made.settings)
    weights = {role: named_weights(name) for role, name in named.items()}
    call = {"profile": made.profile, "artefacts": artefacts, "weights": weights}
    again = variants(made)
    return {
        "all": {
            **call,
            "stages": declared(made),
            "licences": licences(made, named),
            **({"variants": again, "seeds": list(made.settings.run.seeds)} if again else {}),
        }
    }


def variants(made: Made) -> dict[str, dict[str, list[Ref] | None]]:
    """Variant -> stage, by the name it has in the run itself -> what it made; of the stages that are compared."""
    found: dict[str, dict[str, list[Ref] | None]] = {}
    for stage in made.stages:
        if stage.variant and stage.is_repeated(made.settings):
            name = stage.name.removesuffix(f".{stage.variant}")
            found.setdefault(stage.variant, {})[name] = (
                made.refs(stage.name) if made.ran(stage.name) else None
            )
    return found


def declared(made: Made) -> list[dict]:
    """What the report says of each stage: "name", "title", "trains", and the reason why it was not run."""
    return [
        {
            "name": stage.name,
            "title": stage.title,
            "trains": stage.trains,
            "reason": None if made.ran(stage.name) else _reason(stage, made),
        }
        for stage in made.stages
        if not stage.variant
    ]


def _reason(stage: Stage, made: Made) -> str | None:
    """Its own declaration says why, asked again as the plan asked it."""
    found = stage.items(made)
    return found.reason if isinstance(found, NotRun) else None


def licences(made: Made, weights: dict[str, str]) -> dict[str, dict[str, str]]:
    """{"weights": by role, "datasets": by name}: as publishers state them."""
    return {
        "weights": {role: source_of(name).licence for role, name in weights.items()},
        "datasets": {raw.dataset: _licence(raw) for raw in made.raw_files},
    }


def _licence(raw: RawFiles) -> str:
    if raw.synthetic:
        return SAMPLE
    source = dataset_named(raw.dataset).source
    return (
        "the user's own data"
        if source is None
        else f"{source.licence} ({source.title}; {source.licence_url})"
    )


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
