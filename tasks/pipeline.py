"""The pipeline's table of contents: every stage, in order. What a stage is lies in its own folder, tasks/stages/NAME.

Imports neither torch nor Prefect, and runs nothing.
"""

from __future__ import annotations

from tasks.stages.candidates.stage import CANDIDATES, SAMPLED
from tasks.stages.compressor.stage import FINETUNE, PRETRAIN
from tasks.stages.dialogue.stage import AUDIOVISUAL, MEMORY, TEXT, TEXT_AUDIOVISUAL
from tasks.stages.epo.stage import CONTROLS_OF_EPO, EPO, EPO_TEST
from tasks.stages.extractor.stage import EXTRACTOR, RECOGNITION
from tasks.stages.features.stage import FEATURES
from tasks.stages.judge.stage import JUDGE
from tasks.stages.ladder.stage import FITS, LADDER
from tasks.stages.long_history.stage import LONG_HISTORY
from tasks.stages.metrics.stage import METRICS
from tasks.stages.pairs.stage import CONTROL_PAIRS, PAIRS, PEOPLES, QUALITY
from tasks.stages.reconstruction.stage import RECONSTRUCTION
from tasks.stages.replies.stage import REPLIES
from tasks.stages.report.stage import REPORT
from tasks.stages.scores.stage import CALIBRATION, SCORES
from tasks.stages.study.stage import STUDY
from tasks.stages.systems.stage import FIT, MULTIMODAL, SYSTEMS
from tasks.stages.utterances.stage import EXCHANGES, UTTERANCES

STAGES = (
    UTTERANCES,  # raw datasets -> utterance shards
    EXCHANGES,  # dialogues -> sentence and reply
    FEATURES,  # clips -> Whisper and CLIP states
    CANDIDATES,  # eight replies a sentence, by the chatbot's own LLM
    *SAMPLED,  # or, in its place, samples of the finetuned one
    SCORES,  # their emotional similarity to the true reply
    CALIBRATION,  # what human replies score
    PAIRS,  # the least similar one becomes the counter-emotional reply
    *PEOPLES,  # where a run names them: those that people chose
    QUALITY,
    *CONTROL_PAIRS,  # the same exchanges, chosen otherwise
    EXTRACTOR,
    PRETRAIN,  # compressor: single utterances
    FINETUNE,  # compressor: whole dialogues
    TEXT,  # dialogue LoRA, history as text
    MEMORY,  # history as memories
    AUDIOVISUAL,  # memories and clips
    TEXT_AUDIOVISUAL,  # text and clips, where asked for
    EPO,
    *CONTROLS_OF_EPO,  # the same training on those
    *FITS,  # an adapter for each way of giving the history that is asked for
    *REPLIES,  # each rung answers the test exchanges
    SYSTEMS,  # and so does each system that a run names
    FIT,  # the multimodal ones finetuned, where asked for
    MULTIMODAL,  # which hear or see the sentence
    RECONSTRUCTION,  # test conversations from their memories
    LADDER,  # what each way of giving the history is worth on true replies
    LONG_HISTORY,  # what a long history costs as text and as memories
    EPO_TEST,  # what EPO made likelier among samples from before it
    RECOGNITION,  # the extractor's answers to test clips
    METRICS,
    JUDGE,  # where one is named: who replies better, to an LLM
    STUDY,  # where one is named: how good replies are, to people
    REPORT,
)
