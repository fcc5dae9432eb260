"""The figures the paper prints, as data, each with where it stands (arXiv 2412.17572).

Knows nothing of runs; nothing here is measured by this project.
"""

from __future__ import annotations

METRICS = ("bertscore", "emotionscore", "dist1")
"""Order of the figures below."""


def by_metric(figures: tuple[float, float, float] | None) -> dict[str, float] | None:
    """A row's figures by their metrics' keys."""
    return None if figures is None else dict(zip(METRICS, figures, strict=True))


TABLE_1_SOURCE = "Table 1: automatic evaluation; † finetuned on the training data"
TABLE_1: dict[str, dict[str, tuple[float, float, float]]] = {
    "Qwen2.5-7B-Instruct": {
        "multidialog": (0.732, 0.398, 0.821),
        "meld": (0.835, 0.426, 0.933),
        "iemocap": (0.844, 0.422, 0.949),
    },
    "Qwen2.5-7B-Instruct†": {
        "multidialog": (0.837, 0.404, 0.931),
        "meld": (0.866, 0.447, 0.953),
        "iemocap": (0.864, 0.503, 0.973),
    },
    "Qwen-Audio-Chat†": {
        "multidialog": (0.844, 0.354, 0.953),
        "meld": (0.853, 0.458, 0.978),
        "iemocap": (0.865, 0.486, 0.943),
    },
    "LLaVA-NeXT†": {
        "multidialog": (0.845, 0.374, 0.960),
        "meld": (0.853, 0.453, 0.980),
        "iemocap": (0.840, 0.424, 0.975),
    },
    "Claude 3.5 haiku": {
        "multidialog": (0.848, 0.401, 0.946),
        "meld": (0.862, 0.417, 0.979),
        "iemocap": (0.861, 0.391, 0.962),
    },
    "Gemini 1.5 flash": {
        "multidialog": (0.852, 0.396, 0.958),
        "meld": (0.833, 0.473, 0.947),
        "iemocap": (0.864, 0.442, 0.940),
    },
    "GPT-4o": {
        "multidialog": (0.855, 0.410, 0.931),
        "meld": (0.871, 0.411, 0.980),
        "iemocap": (0.868, 0.369, 0.950),
    },
    "Ours†": {
        "multidialog": (0.859, 0.459, 0.964),
        "meld": (0.870, 0.485, 0.982),
        "iemocap": (0.907, 0.593, 0.983),
    },
}
"""System -> dataset -> BERTScore, EmotionScore, Dist-1."""

TABLE_1_RUNGS = {"1-llm": "Qwen2.5-7B-Instruct", "2-ft": "Qwen2.5-7B-Instruct†", "5-epo": "Ours†"}
"""Rung of the ladder -> the system of Table 1 it stands for."""

TABLE_2_SOURCE = "Table 2: ablation on IEMOCAP"
TABLE_2: dict[str, tuple[float, float, float]] = {
    "1-llm": (0.844, 0.422, 0.949),
    "2-ft": (0.864, 0.503, 0.973),
    "3-mc": (0.881, 0.484, 0.961),
    "4-av": (0.882, 0.525, 0.963),
    "5-epo": (0.907, 0.593, 0.983),
}
"""Rung -> BERTScore, EmotionScore, Dist-1."""
TABLE_2_DATASET, TABLE_2_TITLE = "iemocap", "IEMOCAP"

TABLE_3_SOURCE = "Table 3: MultiDialog dialogues of 20 turns or more"
TABLE_3 = {
    "without MambaCompressor": {"input": 606.23, "memory_gb": 16.30, "seconds": 0.1112, "bertscore": 0.844},
    "with MambaCompressor": {"input": 111.52, "memory_gb": 15.73, "seconds": 0.0795, "bertscore": 0.848},
}
TABLE_3_CHANGE = {"tokens": "−81.6 %", "gigabytes": "−3.5 %", "seconds": "−28.5 %", "bertscore": "+0.004"}
TABLE_3_FORMS = {"without MambaCompressor": "text", "with MambaCompressor": "memory"}
"""System of table 3 -> how its history stands in the prompt."""
TABLE_3_RUNGS = {"without MambaCompressor": "2-ft", "with MambaCompressor": "3-mc"}

TABLE_8_SOURCE = "Table 8: conversation reconstruction, MultiDialog test-freq"
TABLE_8 = {"bleu_1": 0.848, "bleu_4": 0.679, "bertscore": 0.969}

FIGURE_6_SOURCE = "Figure 6 and section 5.4"
FIGURE_6_GAIN = 7.86
"""A+V+T over T alone, in per cent as section 5.4 puts it; the bars' own values stand only in the picture."""
