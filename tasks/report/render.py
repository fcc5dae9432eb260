"""Facts -> the HTML page: plots drawn, numbers put in words. Knows nothing of artefacts or of the store."""

from __future__ import annotations

import json

from jinja2 import DictLoader, Environment, StrictUndefined

from model.metrics.verdict import LEARNED
from storage.utterance import EMOTIONS
from tasks.nested import leaves
from tasks.report import plots
from tasks.report.cells import (
    ABOVE,
    changed,
    compared,
    count,
    counted,
    graded,
    interval,
    measured,
    number,
    over_seeds,
    percent,
    percents,
)
from tasks.report.counts import SYNTHETIC
from tasks.report.figures import FIGURES, FURTHER, MAIN, OF_TEXTS, STEPS, csv_link
from tasks.report.method_tables import before_and_after
from tasks.report.paper_index import paper_index
from tasks.report.paper_tables import (
    FIGURE_6_GAIN,
    FIGURE_6_SOURCE,
    TABLE_1_SOURCE,
    TABLE_2_SOURCE,
    TABLE_2_TITLE,
    TABLE_3,
    TABLE_3_CHANGE,
    TABLE_3_FORMS,
    TABLE_3_SOURCE,
    TABLE_8,
    TABLE_8_SOURCE,
)
from tasks.report.rows import page_rows
from tasks.report.samples import LINES
from tasks.report.table_1 import titles_of
from tasks.report.templates import TEMPLATES, template
from tasks.report.viewer import CHARACTERS, as_script
from tasks.stages.replies.rungs import CONTROL_RUNGS
from tasks.stages.verdicts import verdict_text

SHOWN = 2
"""Examples that stand open; the others are folded away, and are not printed."""


def render(facts: dict) -> str:
    """The page as one self-contained HTML document."""
    titles = {**facts["counts"]["titles"], "all": "all datasets"}
    systems = titles_of(facts["other_systems"])
    samples = facts["viewer"]
    return page_environment(titles).get_template("page.html.j2").render(
        facts=facts,
        tables={name: rows for name, rows in page_rows(facts).items() if rows},
        ladder_plot=_ladder_plot(facts["ladder"], facts["same_scorer"]),
        memory_plot=plots.memory_ladder(list(facts["memory_ladder"]["arms"].values()))
        if facts["memory_ladder"]
        else None,
        study_plot=plots.study(facts["study"]) if facts["study"] else None,
        training=[_training_view(part) for part in facts["training"]],
        accuracy_plot=plots.accuracy_bars(facts["recognition"]["accuracy"])
        if facts["recognition"] and facts["recognition"]["accuracy"]
        else None,
        learned=LEARNED,
        above=ABOVE,
        figures=FIGURES,
        main=MAIN,
        general=[figure for figure in FIGURES if figure.paper or figure.steps],
        further=FURTHER,
        step_figures=STEPS,
        text_figures=OF_TEXTS,
        shown=SHOWN,
        case_lines=LINES,
        pairs_plots=_pairs_plots(facts["pairs"]),
        emotions=(*EMOTIONS, "none"),
        synthetic_mark=SYNTHETIC,
        titles=systems,
        viewer_data=as_script(samples) if samples else None,
        viewer_titles={name: systems.get(name, name) for name in samples["systems"]} if samples else {},
        viewer_characters=CHARACTERS,
        viewer_script=template("viewer.js"),
        control_titles={name: rung.title for name, rung in CONTROL_RUNGS.items()},
        sources={"table_1": TABLE_1_SOURCE, "table_2": TABLE_2_SOURCE, "table_3": TABLE_3_SOURCE,
                 "table_8": TABLE_8_SOURCE, "figure_6": FIGURE_6_SOURCE},
        paper_index=paper_index(facts),
        table_2_title=TABLE_2_TITLE,
        table_8=TABLE_8,
        table_3=[(form, name, TABLE_3[name]) for name, form in TABLE_3_FORMS.items()],
        table_3_change=TABLE_3_CHANGE,
        figure_6_gain=FIGURE_6_GAIN,
    )  # fmt: skip


def page_environment(titles: dict[str, str]) -> Environment:
    """The templates with all their filters. titles: dataset -> its name for people."""
    environment = Environment(
        loader=DictLoader({name: template(name) for name in TEMPLATES}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "number": number,
        "percent": percent,
        "percents": percents,
        "interval": interval,
        "measured": measured,
        "graded": graded,
        "compared": compared,
        "counted": counted,
        "over_seeds": over_seeds,
        "changed": changed,
        "dataset": lambda name: titles.get(name, name),
        "setting": setting,
        "count": count,
        "bar": bar,
        "verdict_text": verdict_text,
        "flat_figures": _plain_figures,
        "csv": csv_link,
    }
    return environment


# Filters ----------------------------------------------------------------------------------------------


def setting(value: object) -> str:
    """A setting's value as `--set` takes it."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def bar(cosine: float) -> dict[str, str]:
    """Left edge and width of a cosine's bar, in per cent: -1 is the left end, 1 the right one, 0 in the middle."""
    end = 50 + 50 * max(-1.0, min(1.0, cosine))
    return {"left": f"{min(50, end):.1f}%", "width": f"{abs(end - 50):.1f}%"}


# Plots ------------------------------------------------------------------------------------------------


def _ladder_plot(rows: list[dict], same_scorer: list[str]) -> str | None:
    if not any(row["run"] for row in rows):
        return None
    return plots.ladder(
        [
            {"label": f"{r['rung'].split('-')[0]}  {r['title']}", "paper": r["paper"], "run": r["run"]}
            for r in rows
        ],
        [(figure, figure.key in same_scorer) for figure in MAIN],
    )


def _pairs_plots(pairs: dict | None) -> dict[str, str | None]:
    drawn: dict[str, str | None] = dict.fromkeys(("all", "least", "sensitivity", "calibration"))
    if pairs is None:
        return drawn
    thresholds = (pairs["paper_threshold"], pairs["threshold"])
    if pairs["least_cosines"]:
        drawn["all"] = plots.all_cosines(pairs["cosine_counts"], *thresholds)
        drawn["least"] = plots.least_cosines(pairs["least_cosines"], *thresholds)
        drawn["sensitivity"] = plots.sensitivity(pairs["least_cosines"], pairs["exchanges"], *thresholds)
    human = pairs["calibration"]
    if human and human["same"]:
        drawn["calibration"] = plots.calibration(human["same"], human["different"], human["equal_error"])
    return drawn


# Training ---------------------------------------------------------------------------------------------


def _training_view(part: dict) -> dict:
    """What the page shows of one trained stage; of a stage that did not run, its reason alone."""
    report = part["report"]
    view = {**part, "headline": None, "curve": None, "figures": [], "checks": [], "examples": []}
    view |= {"warnings": []}
    if report is None:
        return view
    history = report.get("history") or {}
    view["curve"] = plots.loss_curve(history) if history.get("heldout") else None
    view["checks"] = before_and_after(report)
    view["headline"] = _headline(part["stage"], report)
    view["warnings"] = _warnings(report, history, part["judged"]["grade"])
    view["examples"] = (report.get("free_running") or {}).get("examples", [])[:4]
    shown = {"history", "heldout_before", "heldout_after", "compared"}
    view["figures"] = _plain_figures({k: v for k, v in report.items() if k not in shown})
    return view


def _headline(stage: str, report: dict) -> str | None:
    """The one figure that says what the stage is for; None where the report lacks it."""
    before, after = report.get("heldout_before") or {}, report.get("heldout_after") or {}
    if stage.startswith("compressor") and "nats_recovered" in report:
        text = f"{number(report['nats_recovered'])} nats a token recovered by the memories"
        other = report.get("heldout_other_memory")
        own = f": {number(after.get('loss'))} with its own"
        without = f", {number((report.get('heldout_no_memory') or {}).get('loss'))} without"
        return text + own + without + (f", {number(other['loss'])} with another dialogue's" if other else "")
    if stage.startswith("epo") and "accuracy" in after:
        text = (
            f"{percent(before.get('accuracy'))} → {percent(after['accuracy'])} of held-out pairs ranked right"
        )
        length = report.get("length_accuracy")
        return text if length is None else f"{text}; reply length alone would rank {percent(length)}"
    if stage.startswith("dialogue") and "reply" in after:
        text = f"{number(before.get('reply'))} → {number(after['reply'])} nats a reply token"
        bare = report.get("heldout_no_history")
        rows = report.get("train_histories_withheld")
        met = f"as it was in {count(rows)} train rows" if rows else "which no prompt of training was like"
        away = f"{text}; {number(bare)} when the history is withheld, {met}"
        return text if bare is None else away
    return None


def _warnings(report: dict, history: dict, grade: str | None) -> list[str]:
    found = [grade] if grade not in (None, LEARNED) else []
    if report.get("collapsed"):
        found.append("collapsed: the rewards of both replies kept falling")
    if "collapsed" in report and report["collapsed"] is None:
        found.append("too few steps to tell a collapse")
    if history.get("best_step") == 0 and history.get("train"):
        found.append("no check beat the start: the starting weights were kept")
    return found


def _plain_figures(figures: dict) -> list[dict]:
    """{"name", "value"} of every plain figure; texts of examples are shown elsewhere."""
    shown = ((" · ".join(names), _shown(value)) for names, value in leaves(figures, dict))
    return [{"name": name, "value": value} for name, value in shown if value]


def _shown(value: object) -> str:
    """A figure as it is printed; empty for what is none."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return number(value, 4)
    if isinstance(value, int):
        return count(value)
    return value if isinstance(value, str) else ""
