"""The report's plots, as SVG in data URIs; the same facts give the same bytes.

Knows nothing of artefacts, settings or the page around the plots.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas

from tasks.report.figures import Figure

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

STYLE: dict[RcKeyType, Any] = {
    "svg.hashsalt": "empamba",
    "svg.fonttype": "none",  # text stays text; the browser draws it
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9,
    "axes.edgecolor": "#9aa5a8",
    "axes.labelcolor": "#3c4a4e",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6eaea",
    "grid.linewidth": 0.8,
    "xtick.color": "#5d6b6f",
    "ytick.color": "#5d6b6f",
    "legend.frameon": False,
    "legend.fontsize": 8,
}
TEAL, RUST, GREY, PALE = "#1f6f78", "#b4532a", "#7b888c", "#a9c6ca"
POINTS = 400
"""Most points of a curve; longer ones are averaged down."""


def loss_curve(history: dict) -> str:
    """Train loss by step, and the held-out checks with the one that was kept."""
    with rc_context(STYLE):
        figure, (axes,) = _figure(5.2, 2.5, 1)
        train = history.get("train", [])
        if train:
            steps, losses = _thinned([p["step"] for p in train], [p["loss"] for p in train])
            axes.plot(steps, losses, color=PALE, linewidth=1.2, label="train")
        heldout = history.get("heldout", [])
        axes.plot(
            [p["step"] for p in heldout],
            [p["loss"] for p in heldout],
            color=TEAL,
            marker="o",
            markersize=4,
            linewidth=1.6,
            label="held out",
        )
        kept = [p for p in heldout if p["step"] == history.get("best_step")]
        axes.plot(
            [p["step"] for p in kept],
            [p["loss"] for p in kept],
            color=TEAL,
            marker="o",
            markersize=9,
            markerfacecolor="none",
            linestyle="none",
            label="kept",
        )
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.legend(loc="best")
        return _uri(figure)


def ladder(rows: Sequence[dict], figures: Sequence[tuple[Figure, bool]]) -> str:
    """Paper and run beside each other for each figure. rows: {"label", "paper", "run"}, top rung first.

    "run" is a row of metrics.json or None, "paper" its figures by key or None. figures: each with whether the paper's
    was measured by the same scorer; where it was not, it has a panel of its own, since one axis would compare them.
    """
    panes = [pane for figure, same in figures for pane in _panes(figure, same)]
    with rc_context(STYLE):
        widths = [1.0 if "run" in drawn else 0.6 for _, _, drawn in panes]
        figure, panels = _figure(10.4, 0.42 * len(rows) + 1.3, len(panes), sharey=True, widths=widths)
        heights = np.arange(len(rows))[::-1]
        for axes, (name, title, drawn) in zip(panels, panes, strict=True):
            for height, row in zip(heights, rows, strict=True):
                _ladder_row(
                    axes, height, {who: row[who] if who in drawn else None for who in ("paper", "run")}, name
                )
            axes.set_title(title, fontsize=10, loc="left", color="#26343a")
            axes.set_ylim(-0.6, len(rows) - 0.4)
            axes.grid(axis="y", visible=False)
        panels[0].set_yticks(heights, [row["label"] for row in rows])
        panels[0].plot([], [], "D", color=GREY, markerfacecolor="none", label="paper")
        panels[0].plot([], [], "o-", color=TEAL, label="this run, 95 % interval")
        figure.legend(loc="outside lower center", ncols=2)
        return _uri(figure)


def _panes(figure: Figure, same_scorer: bool) -> list[tuple[str, str, tuple[str, ...]]]:
    """(key, title, whose figures are drawn) of a figure's panels."""
    if same_scorer:
        return [(figure.key, figure.short, ("run", "paper"))]
    return [
        (figure.key, figure.short, ("run",)),
        (figure.key, f"{figure.short}\n(the paper's)", ("paper",)),
    ]


def _ladder_row(axes: Axes, height: float, row: dict, name: str) -> None:
    if row["paper"] is not None:
        axes.plot(
            [row["paper"][name]], [height + 0.16], "D", color=GREY, markerfacecolor="none", markersize=5
        )
    if row["run"] is not None and row["run"].get(name) is not None:
        low, high = row["run"].get(f"{name}_ci") or (row["run"][name],) * 2
        axes.plot([low, high], [height - 0.16] * 2, color=TEAL, linewidth=1.6)
        axes.plot([row["run"][name]], [height - 0.16], "o", color=TEAL, markersize=5.5)


def memory_ladder(arms: Sequence[dict]) -> str:
    """Other − own of each form of the history with its interval. arms: {"title", "gain"}, top first."""
    with rc_context(STYLE):
        figure, (axes,) = _figure(6.4, 0.34 * len(arms) + 0.9, 1)
        heights = np.arange(len(arms))[::-1]
        for height, arm in zip(heights, arms, strict=True):
            gain = arm["gain"]
            if gain["mean"] is not None:
                ends = (gain["mean"],) * 2 if gain["low"] is None else (gain["low"], gain["high"])
                axes.plot(ends, [height] * 2, color=TEAL, linewidth=1.6)
                axes.plot([gain["mean"]], [height], "o", color=TEAL, markersize=5.5)
        axes.axvline(0, color=RUST, linewidth=1.2)
        axes.set_yticks(heights, [arm["title"] for arm in arms])
        axes.set_ylim(-0.6, len(arms) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("nats a token, another dialogue's history less the own")
        return _uri(figure)


def study(facts: dict) -> str:
    """Mean judgement of each system by question with its interval, on the scale that people had (figure 5)."""
    systems, scale = facts["systems"], sorted(map(int, facts["scale"]))
    with rc_context(STYLE):
        figure, panels = _figure(8.4, 0.4 * len(systems) + 1.2, len(facts["questions"]), sharey=True)
        heights = np.arange(len(systems))[::-1]
        for axes, question in zip(panels, facts["questions"], strict=True):
            for height, system in zip(heights, systems, strict=True):
                found = system["questions"][question]["all"]
                if found["mean"] is None:
                    continue
                if found["low"] is not None:
                    ends = [max(scale[0], found["low"]), min(scale[-1], found["high"])]
                    axes.plot(ends, [height] * 2, color=TEAL, linewidth=1.6)
                axes.plot([found["mean"]], [height], "o", color=TEAL, markersize=5.5)
                axes.annotate(f"{found['mean']:.2f}", (found["mean"], height + 0.18), ha="center", fontsize=8)
            axes.set_title(f"{question.capitalize()} score", fontsize=10, loc="left", color="#26343a")
            axes.set_xlim(scale[0] - 0.1, scale[-1] + 0.1)
            axes.set_xticks(scale, [f"{value} {facts['scale'][str(value)]}" for value in scale])
            axes.set_ylim(-0.6, len(systems) - 0.3)
            axes.grid(axis="y", visible=False)
        panels[0].set_yticks(heights, [system["title"] for system in systems])
        return _uri(figure)


def accuracy_bars(accuracy: dict[str, dict]) -> str:
    """Accuracy by input setting with its interval and n, against the commonest label's share and another clip's
    features (figure 6)."""
    with rc_context(STYLE):
        figure, (axes,) = _figure(5.2, 2.8, 1)
        names = list(accuracy)
        values = [100 * accuracy[name]["accuracy"] for name in names]
        tops = list(values)
        labels = [f"{name}\nn = {accuracy[name]['clips']}" for name in names]
        axes.bar(range(len(names)), values, color=PALE, edgecolor=TEAL, width=0.6, tick_label=labels)
        for place, name in enumerate(names):
            share = 100 * accuracy[name]["majority"]
            label = "commonest label" if place == 0 else None
            axes.plot([place - 0.38, place + 0.38], [share, share], color=RUST, linewidth=1.6, label=label)
            other, ends = accuracy[name]["other"], accuracy[name]["accuracy_ci"]
            if other is not None:
                legend = (
                    None if any(accuracy[n]["other"] is not None for n in names[:place]) else "another clip"
                )
                axes.plot(
                    [place],
                    [100 * other],
                    "D",
                    color=GREY,
                    markerfacecolor="white",
                    markersize=5,
                    label=legend,
                )
            if ends is not None:
                axes.plot([place] * 2, [100 * end for end in ends], color=TEAL, linewidth=1.6)
                tops.append(100 * ends[1])
            axes.annotate(
                f"{values[place]:.0f}",
                (place + 0.04, values[place]),
                ha="left",
                va="bottom",
                fontsize=8,
            )
        axes.set_ylim(0, max([*tops, *(100 * accuracy[n]["majority"] for n in names), 1]) * 1.35)
        axes.set_ylabel("accuracy, %")
        axes.grid(axis="x", visible=False)
        axes.legend(loc="upper left", ncols=2)
        return _uri(figure)


def least_cosines(least: Sequence[float], paper: float, in_force: float) -> str:
    """How like the true reply the least similar usable candidate of each exchange is."""
    with rc_context(STYLE):
        figure, (axes,) = _figure(5.2, 2.6, 1)
        low = min([*least, paper, in_force, 0.0])
        axes.hist(
            least, bins=np.linspace(low, 1.0, 31).tolist(), color=PALE, edgecolor="white", linewidth=0.5
        )
        _thresholds(axes, paper, in_force)
        axes.set_xlabel("least cosine of an exchange")
        axes.set_ylabel("exchanges")
        axes.legend(loc="best")
        return _uri(figure)


def all_cosines(counts: Sequence[int], paper: float, in_force: float) -> str:
    """How like the true reply every usable candidate is. counts: in equal parts of -1 to 1."""
    with rc_context(STYLE):
        figure, (axes,) = _figure(5.2, 2.6, 1)
        edges = np.linspace(-1, 1, len(counts) + 1)
        axes.bar(
            edges[:-1],
            counts,
            width=np.diff(edges),
            align="edge",
            color=PALE,
            edgecolor="white",
            linewidth=0.5,
        )
        _thresholds(axes, paper, in_force)
        axes.set_xlabel("cosine to the true reply")
        axes.set_ylabel("usable candidates")
        axes.legend(loc="best")
        return _uri(figure)


def sensitivity(least: Sequence[float], exchanges: int, paper: float, in_force: float) -> str:
    """Share of all exchanges that keep a pair, by threshold; those without a usable candidate never do."""
    with rc_context(STYLE):
        figure, (axes,) = _figure(5.2, 2.6, 1)
        low = min([*least, paper, in_force, 0.0])
        thresholds = np.linspace(low, 1.0, 201)
        kept = np.searchsorted(np.sort(least), thresholds, side="left") / max(1, exchanges)
        axes.plot(thresholds, 100 * kept, color=TEAL, linewidth=1.6)
        _thresholds(axes, paper, in_force)
        axes.set_ylim(-2, 102)
        axes.set_xlabel("threshold")
        axes.set_ylabel("exchanges kept, %")
        axes.legend(loc="best")
        return _uri(figure)


def calibration(same: Sequence[float], different: Sequence[float], equal_error: float | None) -> str:
    """Cosines between human utterances of the same and of different emotions."""
    with rc_context(STYLE):
        figure, (axes,) = _figure(5.2, 2.6, 1)
        bins = np.linspace(min([*same, *different, 0.0]), 1.0, 31).tolist()
        axes.hist(different, bins=bins, color=RUST, alpha=0.45, label="different emotions")
        axes.hist(same, bins=bins, color=TEAL, alpha=0.5, label="same emotion")
        if equal_error is not None:
            axes.axvline(equal_error, color="#26343a", linewidth=1.4, label=f"equal error {equal_error:.3f}")
        axes.set_xlabel("cosine")
        axes.set_ylabel("pairs of human utterances")
        axes.legend(loc="best")
        return _uri(figure)


def _thresholds(axes: Axes, paper: float, in_force: float) -> None:
    axes.axvline(paper, color=GREY, linestyle="--", linewidth=1.4, label=f"paper {paper:g}")
    if in_force != paper:
        axes.axvline(in_force, color=RUST, linewidth=1.4, label=f"in force {in_force:.3f}")


def _thinned(steps: Sequence[float], values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """A curve of at most POINTS points, each the mean of the steps it stands for."""
    parts = min(len(steps), POINTS)
    means = [[part.mean() for part in np.array_split(of, parts)] for of in (steps, values)]
    return np.array(means[0]), np.array(means[1])


def _figure(
    width: float, height: float, panels: int, sharey: bool = False, widths: Sequence[float] | None = None
) -> tuple[Canvas, list[Axes]]:
    figure = Canvas(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, list(figure.subplots(1, panels, squeeze=False, sharey=sharey, width_ratios=widths)[0])


def _uri(figure: Canvas) -> str:
    drawn = io.BytesIO()
    # Without a date, and with the hash salt of STYLE, the bytes depend on the figure alone.
    figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(drawn.getvalue()).decode("ascii")
