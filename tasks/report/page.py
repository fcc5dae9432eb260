"""The page's template (Jinja) and style sheet.

They are constants, not files, so that a stage's fingerprint sees a changed page. Knows nothing of where the
facts come from; tasks/report/render.py says what each name holds.
"""

from __future__ import annotations

STYLE = """
:root { color-scheme: light; --ink: #1f2b30; --soft: #5d6b6f; --line: #dde4e4; --paper: #fff; --wash: #f5f7f7;
  --teal: #1f6f78; --rust: #a4451d; --rustwash: #fdf1eb; --gold: #7a5a00; --goldwash: #fff8e0; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--wash); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 1.35rem; margin: 0 0 6px; }
h3 { font-size: 1.02rem; margin: 26px 0 4px; }
p { margin: 4px 0 12px; max-width: 76ch; }
a { color: var(--teal); }
nav { font-size: .92rem; margin: 12px 0 20px; display: flex; flex-wrap: wrap; gap: 4px 16px; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 22px 24px; margin: 18px 0; }
.soft, .note { color: var(--soft); }
.note { font-size: .88rem; }
.banner { border-left: 4px solid var(--gold); background: var(--goldwash); padding: 10px 16px; border-radius: 0 8px 8px 0; margin: 10px 0; }
.banner.loud { border-color: var(--rust); background: var(--rustwash); }
.banner p { margin: 2px 0; max-width: none; }
.tag { display: inline-block; font-size: .74rem; font-weight: 600; padding: 1px 8px; border-radius: 10px; white-space: nowrap;
  background: #e6f0f1; color: var(--teal); vertical-align: 2px; }
.tag.warn { background: var(--rustwash); color: var(--rust); }
.tag.gold { background: var(--goldwash); color: var(--gold); }
.scroll { overflow-x: auto; margin: 8px 0 14px; }
table { border-collapse: collapse; font-size: .88rem; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 0 0 6px; caption-side: top; }
th, td { padding: 6px 9px; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; border-bottom: 1px solid #b9c4c6; vertical-align: bottom; }
thead tr.groups th { border-bottom: 0; color: var(--ink); }
td.n, th.n { text-align: right; }
td.n { white-space: nowrap; }
.narrow { padding-left: 4px; padding-right: 4px; text-align: center; }
td.first, th.first { border-left: 1px solid var(--line); }
td small { display: block; color: var(--soft); font-size: .78rem; line-height: 1.3; }
td.paper { color: var(--soft); }
tr.flag td { background: var(--goldwash); }
tbody tr:last-child td { border-bottom: 0; }
td.words, .id { overflow-wrap: anywhere; }
code, .id { font: .82rem/1.4 ui-monospace, "DejaVu Sans Mono", Menlo, monospace; }
img { max-width: 100%; height: auto; display: block; }
img.wide { max-width: none; width: 100%; min-width: 700px; }
td:first-child { min-width: 7.5em; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 18px; }
.columns { columns: 2 420px; column-gap: 18px; }
.columns .card { break-inside: avoid; margin: 0 0 18px; }
.card { border: 1px solid var(--line); border-radius: 8px; padding: 14px 16px; min-width: 0; }
.card h3 { margin: 0 0 2px; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px; margin: 10px 0 16px; padding: 0; }
.facts div { background: var(--wash); border-radius: 8px; padding: 10px 12px; }
.facts dt { color: var(--soft); font-size: .82rem; }
.facts dd { margin: 0; font-size: 1.2rem; font-weight: 600; }
.facts dd small { display: block; font-weight: 400; font-size: .78rem; color: var(--soft); }
.say { margin: 2px 0; max-width: none; }
.say b { color: var(--soft); font-weight: 600; margin-right: 6px; }
.candidate { display: grid; grid-template-columns: 74px 120px 46px 1fr; gap: 2px 10px; align-items: baseline; font-size: .86rem; padding: 3px 6px; border-radius: 6px; }
.candidate.chosen { background: var(--rustwash); }
.candidate.unusable { color: var(--soft); }
.track { position: relative; height: 10px; background: var(--wash); border-radius: 3px; align-self: center; overflow: hidden; }
.track i { position: absolute; top: 0; bottom: 0; background: #a9c6ca; }
.chosen .track i { background: var(--rust); }
.track b { position: absolute; top: 0; bottom: 0; width: 1px; background: #7b888c; }
details { margin: 8px 0; }
summary { cursor: pointer; color: var(--teal); font-size: .92rem; }
.same { color: var(--soft); font-style: italic; }
@media (max-width: 640px) {
  main { padding: 18px 10px 40px; } section { padding: 16px 12px; } h1 { font-size: 1.6rem; }
  th, td { padding: 5px 6px; } .columns { columns: 1; }
  .candidate { grid-template-columns: 70px 1fr 46px; } .candidate .text { grid-column: 1 / -1; }
}
@media print { body { background: #fff; } section { break-inside: avoid; border: 0; padding: 0; } nav { display: none; } }
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ facts.title }}</title>
<style>{{ style | safe }}</style>
</head>
<body>
<main>
{% macro made() %}{% if facts.synthetic %} <span class="tag gold">{{ synthetic_mark }}</span>{% endif %}{% endmacro %}
{% macro counted(row) %}{{ row.n | count }}{% if row.get('dialogues') is not none %}<small>of {{ row.dialogues | count }} dialogue{{ 's' if row.dialogues != 1 }}</small>{% endif %}{% endmacro %}
{% macro graded(v) %}{% if v.mean is none %}<small>{{ v.grade }}</small>{% else %}{{ '+' if v.mean > 0 }}{{ v.mean | number }}{% if v.low is not none %}<small>{{ [v.low, v.high] | interval }}</small>{% endif %}<small>{% if v.grade == learned %}<span class="tag">above zero</span>{% else %}<span class="tag warn">{{ v.grade }}</span>{% if v.detectable %} {{ v.detectable | number }} could have been{% endif %}{% endif %}</small>{% endif %}{% endmacro %}
{% macro measured(row, name) %}{{ row[name] | number }}{% if row.get(name ~ '_ci') %}<small>{{ row[name ~ '_ci'] | interval }}</small>{% endif %}{% endmacro %}
<h1>Empathetic dialogue: what this run measured</h1>
<p class="soft">Profile <b>{{ facts.profile }}</b> · {{ facts.counts.notes | map('dataset') | join(', ') or 'no data' }} · every figure below comes from the artefacts of this run; grey ones are the paper's (arXiv 2412.17572).</p>
{% if facts.profile != 'paper' or facts.other_models %}
<div class="banner"><p><b>These are not the paper's models.</b> Numbers come from the <b>{{ facts.profile }}</b> profile{% if facts.other_models %}:
{% for w in facts.other_models %}{{ w.role }} {% if w.name %}<code>{{ w.name }}</code>{% else %}trained here from scratch{% endif %} (paper: {{ w.paper }}){{ '; ' if not loop.last }}{% endfor %}{% endif %}. They show that the pipeline works, and do not compare with the paper's in size.</p></div>
{% else %}
<div class="banner"><p>Numbers come from the <b>paper</b> profile with the weights listed under <a href="#weights">weights</a>.</p></div>
{% endif %}
{% if facts.random_models %}
<div class="banner loud"><p><b>Random weights</b> ({{ facts.random_models | join(', ') }}): the numbers mean nothing, only that every step ran.</p></div>
{% endif %}
{% if facts.synthetic %}
<div class="banner"><p><b>{{ synthetic_mark }}</b>: {{ facts.synthetic | map('dataset') | join(', ') }} {{ 'is' if facts.synthetic | length == 1 else 'are' }} the bundled sample, written for this project and acted by a procedure. It is not the corpus of that name.</p></div>
{% endif %}
{% for name in facts.dev_stands_in %}
<div class="banner"><p><b>{{ name | dataset }}: dev stands in for test.</b> No test split was found, so its figures are from dev: {% if name in facts.dev_alone %}from its only dialogue there, <b>on which checkpoints were chosen too</b>.{% else %}from half of its dialogues, drawn by their hash, which chose no checkpoint; the other half did.{% endif %}</p></div>
{% endfor %}
{% if not facts.media %}
<div class="banner"><p><b>No media.</b> No utterance has a clip, so what needs one was left out: features, the audio-visual extractor and rung 4.</p></div>
{% endif %}
<nav><a href="#ladder">Table 2</a><a href="#datasets">Table 1</a><a href="#training">Training</a><a href="#pairs">Preference pairs</a><a href="#candidates">Candidates</a><a href="#replies">Replies</a><a href="#data">Data</a><a href="#weights">Weights</a><a href="#settings">Settings</a></nav>

<section id="ladder">
<h2>The ladder: Table 2{{ made() }}</h2>
<p>Each rung adds one part. The paper measured IEMOCAP with its own models and scorers; this run's columns are over all its datasets together, with 95 % intervals (a bootstrap that resamples dialogues). Compare the steps between rungs, not the levels; a floor reads nothing of the exchange.</p>
<div class="scroll"><table>
<thead>
<tr class="groups"><th colspan="5"></th><th class="first" colspan="3">Paper, {{ table_2_title }}</th><th class="first" colspan="4">This run, {{ facts.profile }} profile</th></tr>
<tr><th>Rung</th><th class="narrow">FT</th><th class="narrow">MC</th><th class="narrow">AV</th><th class="narrow">EPO</th><th class="n first">BERTScore</th><th class="n">Emotion</th><th class="n">Dist-1</th><th class="n first">BERTScore</th><th class="n">Emotion</th><th class="n">Dist-1</th><th class="n">n</th></tr>
</thead>
<tbody>
{% for row in facts.ladder %}
<tr{% if row.flagged %} class="flag"{% endif %}>
<td><b>{{ row.rung.split('-')[0] }}</b> {{ row.title }}{% if row.continues %}<small>continues rung {{ row.continues }}: no media for rung 4</small>{% endif %}{% if row.flagged %}<small><span class="tag warn">{{ row.identical.share | percent(0) }} identical to {{ row.identical.rung }}</span></small>{% endif %}</td>
{% for part in row.parts %}<td class="narrow">{{ '✓' if part else '' }}</td>{% endfor %}
{% if row.paper %}<td class="n paper first">{{ row.paper.bertscore | number }}</td><td class="n paper">{{ row.paper.emotionscore | number }}</td><td class="n paper">{{ row.paper.dist1 | number }}</td>{% else %}<td class="paper first" colspan="3">not in the paper</td>{% endif %}
{% if row.run %}<td class="n first">{{ measured(row.run, 'bertscore') }}</td><td class="n">{{ measured(row.run, 'emotionscore') }}</td><td class="n">{{ measured(row.run, 'dist1') }}</td><td class="n">{{ counted(row.run) }}</td>{% else %}<td class="first" colspan="4"><span class="tag gold">not run: {{ row.not_run or 'no replies' }}</span></td>{% endif %}
</tr>
{% endfor %}
</tbody></table></div>
<p class="note">{{ sources.table_2 }}. FT finetuned, MC MambaCompressor, AV audio-visual, EPO emotion preference optimization. A marked row gave at least 95 % of its replies word for word as the rung named: what it adds made no difference.</p>
{% if ladder_plot %}<div class="scroll"><img class="wide" src="{{ ladder_plot }}" alt="BERTScore, EmotionScore and Dist-1 of each rung: the paper's beside this run's with 95 % intervals"></div>{% endif %}
{% if facts.systems %}
<h3>More about the replies{{ made() }}</h3>
<div class="scroll"><table>
<thead><tr><th>Rung</th><th class="n">EmotionScore, the scorer that chose the pairs</th><th class="n">EmotionScore, second scorer</th><th class="n">Emotion contrast</th><th class="n">Emotion contrast, second scorer</th><th class="n">Dist-1 of the corpus</th><th class="n">Words a reply</th><th class="n">Identical to the rung before</th></tr></thead>
<tbody>{% for row in facts.ladder if row.run %}
<tr><td><b>{{ row.rung.split('-')[0] }}</b> {{ row.title }}</td><td class="n">{{ measured(row.run, 'emotionscore') }}</td><td class="n">{% if row.run.get('emotionscore_second') is not none %}{{ measured(row.run, 'emotionscore_second') }}{% else %}–{% endif %}</td>{% for name in ('emotioncontrast', 'emotioncontrast_second') %}<td class="n">{% if row.run.get(name) is not none %}{{ measured(row.run, name) }}{% else %}–{% endif %}</td>{% endfor %}<td class="n">{{ row.run.get('dist1_corpus') | number }}</td><td class="n">{{ row.run.get('reply_words') | number(1) }}</td><td class="n">{% if row.identical %}{{ row.identical.share | percent(0) }}<small>of {{ row.identical.rung }}</small>{% else %}–{% endif %}</td></tr>
{% endfor %}</tbody></table></div>
<p class="note">Emotion contrast: EmotionScore less the mean over all other true replies of the dataset; one reply said to everything has none. The second scorer took no part in choosing pairs: a gain that only the first one sees may be a gain at pleasing that scorer. But {{ facts.scorers_line }}.</p>
{% endif %}
{% if facts.steps %}
<h3>What each rung adds to the one before{{ made() }}</h3>
<div class="scroll"><table><thead><tr><th>Rung</th><th class="n">n</th><th class="n">BERTScore</th><th class="n">EmotionScore, second scorer</th><th class="n">Emotion contrast, second scorer</th></tr></thead><tbody>
{% for step in facts.steps %}<tr><td><b>{{ step.rung.split('-')[0] }}</b> over {{ step.against.split('-')[0] }}: {{ titles.get(step.rung, step.rung) }}</td><td class="n">{{ step.bertscore.rows | count }}<small>of {{ step.bertscore.dialogues | count }} dialogue{{ 's' if step.bertscore.dialogues != 1 }}</small></td>{% for name in ('bertscore', 'emotionscore_second', 'emotioncontrast_second') %}<td class="n">{{ graded(step[name]) }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
<p class="note">Paired over the exchanges that both rungs answered, dialogues resampled. "Could have been": the smallest true difference that so many dialogues would have shown in four runs of five. {{ facts.scorers_line | capitalize }}.</p>
{% endif %}
{% if facts.control %}{% set c = facts.control %}
<h3>Is it the emotion? EPO beside its control{{ made() }}</h3>
<p>The control is EPO on the same exchanges, with any usable candidate as the rejected reply in place of the emotionally least similar one.</p>
{% if not c.shown %}<div class="banner loud"><p><b>The emotion signal is not shown.</b> By the scorer that took no part in choosing pairs, EPO is not seen to gain more than EPO on random replies: {{ 'EmotionScore difference' | told(c.emotionscore_second.difference) }}.</p></div>{% endif %}
<p>{% if c.exchange_shown %}It is this exchange's emotion, and not the usual one{% else %}That it is this exchange's emotion, and not the one that is usual, is not shown{% endif %}: {{ 'emotion contrast difference' | told(c.emotioncontrast_second.difference) }}. {{ facts.scorers_line | capitalize }}.</p>
<div class="scroll"><table><thead><tr><th>Gain over {{ c.base }}</th><th class="n">EPO</th><th class="n">EPO on random replies</th><th class="n">difference</th></tr></thead><tbody>
{% for name, title in (('emotionscore', 'EmotionScore, the scorer that chose the pairs'), ('emotionscore_second', 'EmotionScore, second scorer'), ('emotioncontrast_second', 'Emotion contrast, second scorer'), ('bertscore', 'BERTScore')) %}
<tr><td>{{ title }}</td>{% for what in ('epo', 'random', 'difference') %}<td class="n">{{ graded(c[name][what]) }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
<p class="note">The same replies in every column; 95 % intervals of the paired differences, dialogues resampled.</p>
{% endif %}
{% if facts.table_3 %}
<h3>Prompt length: Table 3{{ made() }}</h3>
<div class="scroll"><table><thead><tr><th></th><th class="n">Paper, tokens</th><th class="n">This run, tokens</th></tr></thead><tbody>
{% for row in facts.table_3 %}<tr><td>{{ row.system }} ({{ row.rung }})</td><td class="n paper">{{ row.paper | number(1) }}</td><td class="n">{{ row.run | number(1) }}</td></tr>{% endfor %}
</tbody></table></div>
<p class="note">{{ sources.table_3 }}; this run: all test exchanges. Memory and time are not measured in a report.</p>
{% endif %}
</section>

<section id="datasets">
<h2>By dataset: Table 1{{ made() }}</h2>
{% if not facts.by_dataset %}<p>No metrics: the stage was not run.</p>{% endif %}
{% for part in facts.by_dataset %}
<h3>{{ part.dataset | dataset }} <span class="tag{% if part.split != 'test' %} gold{% endif %}">{{ part.split }}{% if part.split != 'test' %} stands in for test{% endif %}</span></h3>
<div class="scroll"><table>
<thead><tr class="groups"><th></th><th class="first" colspan="4">Paper</th><th class="first" colspan="4">This run, {{ facts.profile }} profile</th></tr>
<tr><th>Rung</th><th class="first">System</th><th class="n">BERTScore</th><th class="n">Emotion</th><th class="n">Dist-1</th><th class="n first">BERTScore</th><th class="n">Emotion</th><th class="n">Dist-1</th><th class="n">n</th></tr></thead>
<tbody>
{% for row in part.rows %}
<tr><td><b>{{ row.rung.split('-')[0] }}</b> {{ row.system }}</td>
{% if row.paper %}<td class="paper first">{{ row.paper_system }}</td><td class="n paper">{{ row.paper.bertscore | number }}</td><td class="n paper">{{ row.paper.emotionscore | number }}</td><td class="n paper">{{ row.paper.dist1 | number }}</td>{% else %}<td class="first paper">–</td><td class="n paper">–</td><td class="n paper">–</td><td class="n paper">–</td>{% endif %}
<td class="n first">{{ measured(row, 'bertscore') }}</td><td class="n">{{ measured(row, 'emotionscore') }}</td><td class="n">{{ measured(row, 'dist1') }}</td><td class="n">{{ counted(row) }}</td></tr>
{% endfor %}
</tbody></table></div>
{% if part.others %}<details><summary>The paper's other systems on {{ part.dataset | dataset }}</summary><div class="scroll"><table><thead><tr><th>System</th><th class="n">BERTScore</th><th class="n">Emotion</th><th class="n">Dist-1</th></tr></thead><tbody>
{% for name, row in part.others.items() %}<tr><td class="paper">{{ name }}</td><td class="n paper">{{ row.bertscore | number }}</td><td class="n paper">{{ row.emotionscore | number }}</td><td class="n paper">{{ row.dist1 | number }}</td></tr>{% endfor %}
</tbody></table></div></details>{% endif %}
{% endfor %}
<p class="note">{{ sources.table_1 }}. BERTScore F1 without rescaling or idf; EmotionScore: cosine of the emotion scorer's features; Dist-1: mean over replies.</p>
</section>

<section id="training">
<h2>Training{{ made() }}</h2>
<p>Held-out figures are from dev, before the first step and at the step that was kept (ringed). A stage has learned where its loss fell and what it is for does better than a control: another dialogue's history or memory, another clip, another exchange's pair. Both are judged row by row, dialogues resampled; zero must lie below the 95 % interval.</p>
<div class="columns">
{% for part in training %}
<div class="card">
<h3>{{ part.title }}</h3>
<p class="note"><code>{{ part.stage }}</code>
{% if part.report is none %} <span class="tag gold">not run: {{ part.reason }}</span>
{% elif part.judged.grade is none %} <span class="tag gold">does not say whether it learned</span>
{% elif part.judged.grade == learned %} <span class="tag">learned</span>{% endif %}
{% for warning in part.warnings %} <span class="tag warn">{{ warning }}</span>{% endfor %}</p>
{% if part.headline %}<p>{{ part.headline }}.</p>{% endif %}
{% if part.curve %}<img src="{{ part.curve }}" alt="Loss of {{ part.stage }} by step, in training and held out">{% endif %}
{% if part.checks %}<div class="scroll"><table><thead><tr><th>Held out</th><th class="n">before</th><th class="n">after</th><th class="n">change</th></tr></thead><tbody>
{% for c in part.checks %}<tr><td>{{ c.name }}</td><td class="n">{{ c.before | number }}</td><td class="n">{{ c.after | number }}</td><td class="n">{{ '+' if c.change > 0 }}{{ c.change | number }}</td></tr>
{% endfor %}</tbody></table></div>{% endif %}
{% if part.judged and part.judged.findings %}<div class="scroll"><table><thead><tr><th>Better by</th><th class="n">n</th><th class="n">mean, 95 %</th></tr></thead><tbody>
{% for f in part.judged.findings %}<tr><td class="words">{{ f.says }}</td><td class="n">{{ f.rows | count }}<small>of {{ f.dialogues | count }} dialogue{{ 's' if f.dialogues != 1 }}</small></td><td class="n">{{ graded(f) }}</td></tr>
{% endfor %}</tbody></table></div>{% endif %}
{% if part.stage == 'extractor' and facts.recognition %}{% set r = facts.recognition %}
<p><b>Emotion recognition by input: Figure 6</b></p>
{% if accuracy_plot %}<img src="{{ accuracy_plot }}" alt="Emotion recognition accuracy on test by input setting with intervals, against the commonest label and another clip's features">{% endif %}
<div class="scroll"><table><thead><tr><th>Input</th><th class="n">clips</th><th class="n">right</th><th class="n">balanced</th><th class="n">commonest label</th><th class="n">beyond another clip's features</th><th class="n">beyond text alone</th></tr></thead><tbody>
{% for name, a in r.accuracy.items() %}<tr><td>{{ name }}</td><td class="n">{{ a.clips | count }}<small>of {{ a.dialogues | count }}</small></td><td class="n">{{ a.accuracy | percent }}{% if a.accuracy_ci %}<small>{{ a.accuracy_ci[0] | percent }} to {{ a.accuracy_ci[1] | percent }}</small>{% endif %}</td><td class="n">{{ a.balanced | percent }}</td><td class="n">{{ a.majority | percent }}</td>{% for v in (a.over_other, a.over_text) %}<td class="n">{% if v %}{{ graded(v) }}{% else %}–{% endif %}</td>{% endfor %}</tr>{% endfor %}
</tbody></table></div>
<p class="note">T text, A audio, V video; {{ r.clips | count }} of {{ r.there | count }} test clips{% for d, split in r.splits.items() if split == 'dev' %}; of {{ d | dataset }}, which has no test split, dev stands in{% endfor %}. Text alone is trained too: as many embeddings as a modality has, which read nothing, stand beside it. Intervals resample dialogues, or the actors of single clips, whose number stands below the clips'. The paper: A+V+T over T alone by {{ figure_6_gain }} % ({{ sources.figure_6 }}; the bars carry no numbers).</p>
<details><summary>By dataset</summary><div class="scroll"><table><thead><tr><th>Dataset</th><th>Input</th><th class="n">clips</th><th class="n">right</th><th class="n">commonest label</th></tr></thead><tbody>
{% for name, settings in r.accuracy_by_dataset.items() %}{% for input, a in settings.items() %}<tr><td>{{ name | dataset }}</td><td>{{ input }}</td><td class="n">{{ a.clips | count }}</td><td class="n">{{ a.accuracy | percent }}{% if a.accuracy_ci %}<small>{{ a.accuracy_ci[0] | percent }} to {{ a.accuracy_ci[1] | percent }}</small>{% endif %}</td><td class="n">{{ a.majority | percent }}</td></tr>{% endfor %}{% endfor %}
</tbody></table></div></details>
{% for name in (r.accuracy | list)[-1:] %}{% set a = r.accuracy[name] %}<details><summary>What was answered to each emotion ({{ name }})</summary><div class="scroll"><table><thead><tr><th>Label</th><th>Answers</th></tr></thead><tbody>
{% for label, said in a.confusion.items() %}<tr><td>{{ label }}</td><td class="words">{% for answer, n in said.items() %}{{ answer }} {{ n }}{{ ', ' if not loop.last }}{% endfor %}</td></tr>{% endfor %}
</tbody></table></div></details>{% endfor %}
{% endif %}
{% if part.stage == 'compressor.finetune' and part.report is not none %}
<p class="note">{{ sources.table_8 }}: BLEU-1 {{ table_8.bleu_1 }}, BLEU-4 {{ table_8.bleu_4 }}, BERTScore {{ table_8.bertscore }}. This run reports nats, token accuracy and exact reconstructions instead.</p>
{% endif %}
{% if part.examples %}<details><summary>Reconstructed from memories alone, greedily</summary><div class="scroll"><table><thead><tr><th>Original</th><th>Reconstructed</th></tr></thead><tbody>
{% for e in part.examples %}<tr><td class="words">{{ e.original }}</td><td class="words">{{ e.reconstructed }}</td></tr>{% endfor %}
</tbody></table></div></details>{% endif %}
{% if part.report is not none and part.report.get('history') %}<p class="note">{{ (part.report.history.get('train') or []) | length | count }} steps, {{ part.report.history.get('rows') | count }} rows, {{ part.report.history.get('tokens') | count }} tokens; kept step {{ part.report.history.get('best_step') | count }}{% if part.report.history.get('ended') %}; ended by {{ part.report.history.ended }}{% endif %}.</p>{% endif %}
{% if part.figures %}<details><summary>All figures of this stage</summary><div class="scroll"><table><tbody>
{% for f in part.figures %}<tr><td>{{ f.name }}</td><td class="n">{{ f.value }}</td></tr>{% endfor %}
</tbody></table></div></details>{% endif %}
</div>
{% endfor %}
</div>
</section>

<section id="pairs">
<h2>Preference pairs{{ made() }}</h2>
{% if facts.pairs is none %}<p>Not run.</p>{% else %}{% set pairs = facts.pairs %}
<p>Of each exchange's candidates, the usable one least like the true reply becomes the counter-emotional reply, if its cosine is below the threshold.</p>
<dl class="facts">
<div><dt>threshold in force</dt><dd>{{ pairs.threshold | number }}<small>paper {{ pairs.paper_threshold }}{% if pairs.threshold != pairs.paper_threshold %}, which would keep {{ pairs.kept_share_at_paper_threshold | percent }}{% endif %}</small></dd></div>
<div><dt>pairs kept</dt><dd>{{ pairs.pairs | count }}<small>of {{ pairs.exchanges | count }} exchanges, {{ pairs.kept_share | percent }}</small></dd></div>
<div><dt>candidates usable</dt><dd>{{ pairs.usable_share | percent }}<small>{{ pairs.usable | count }} of {{ pairs.candidates | count }}</small></dd></div>
<div><dt>human equal-error cosine</dt><dd>{{ pairs.equal_error | number }}<small>{% if pairs.calibration %}{{ pairs.calibration.pairs | count }} pairs of each kind, {{ pairs.calibration.datasets | map('dataset') | join(', ') }}{% else %}not measured{% endif %}</small></dd></div>
</dl>
{% if pairs.threshold != pairs.paper_threshold %}<p><span class="tag gold">not the paper's threshold</span> {% if pairs.threshold == pairs.set_threshold %}It was set so.{% else %}{{ pairs.set_threshold }} keeps {{ pairs.train_share_at_set_threshold | percent }} of train's exchanges, which is too few, so the cosine at which people's same- and different-emotion utterances are confused equally often took its place.{% endif %}</p>{% endif %}
{% if pairs.selection != 'least_similar' %}<p><span class="tag gold">not the paper's selection: {{ pairs.selection }}</span></p>{% endif %}
{% if facts.examples_compared %}{% set e = facts.examples_compared %}<p>Worked examples before the prompt: {{ e['with'].share | percent }} of candidates usable with them, {{ e.without.share | percent }} without, on the same exchanges ({{ e.without.candidates | count }} candidates each).</p>{% endif %}
<div class="grid">
{% if pairs_plots.all %}<div><img src="{{ pairs_plots.all }}" alt="Distribution of all usable candidates' cosines, with the thresholds"><p class="note">How like the true reply all candidates are.</p></div>{% endif %}
{% if pairs_plots.least %}<div><img src="{{ pairs_plots.least }}" alt="Distribution of each exchange's least cosine, with the thresholds"><p class="note">How unlike the least similar candidate is.</p></div>{% endif %}
{% if pairs_plots.sensitivity %}<div><img src="{{ pairs_plots.sensitivity }}" alt="Share of exchanges kept, by threshold"><p class="note">What another threshold would keep.</p></div>{% endif %}
{% if pairs_plots.calibration %}<div><img src="{{ pairs_plots.calibration }}" alt="Cosines of human utterances of the same and of different emotions"><p class="note">What the cosine says of people: the further apart the two, the more it is about emotion.</p></div>{% endif %}
<div>
<div class="scroll"><table><caption>Candidates by the emotion they were asked for</caption><thead><tr><th></th><th class="n">usable</th><th class="n">below the threshold</th><th class="n">became a pair</th></tr></thead><tbody>{% for name, f in pairs.by_asked_emotion.items() %}<tr><td>{{ name }}</td><td class="n">{{ (f.usable / f.candidates) | percent(0) }}</td><td class="n">{{ (f.below / f.candidates) | percent(0) }}</td><td class="n">{{ f.pairs | count }}</td></tr>{% else %}<tr><td>none</td></tr>{% endfor %}</tbody></table></div>
{% for title, rows in (('Exchanges that keep a pair, by dataset', pairs.by_dataset), ('Exchanges that keep a pair, by the emotion of the true reply', pairs.by_reply_emotion)) %}
<div class="scroll"><table><caption>{{ title }}</caption><tbody>{% for name, f in rows.items() %}<tr><td>{{ name | dataset }}</td><td class="n">{{ f.pairs | count }} of {{ f.exchanges | count }}</td><td class="n">{{ (f.pairs / f.exchanges) | percent(0) }}</td></tr>{% else %}<tr><td>none</td></tr>{% endfor %}</tbody></table></div>
{% endfor %}
<div class="scroll"><table><caption>Unusable candidates, by reason</caption><tbody>{% for name, n in pairs.unusable.items() %}<tr><td>{{ name }}</td><td class="n">{{ n | count }}</td></tr>{% else %}<tr><td>none</td></tr>{% endfor %}</tbody></table></div>
<div class="scroll"><table><caption>Exchanges without a pair, by reason</caption><tbody>{% for name, n in pairs.rejects.items() %}<tr><td>{{ name }}</td><td class="n">{{ n | count }}</td></tr>{% else %}<tr><td>none</td></tr>{% endfor %}</tbody></table></div>
<p class="note">Candidates written by {{ pairs.engines | join(', ') or 'no engine' }}.</p>
</div>
</div>
{% if facts.quality %}{% set q = facts.quality %}
<h3>What else tells the two replies apart{{ made() }}</h3>
{% if q.above %}<div class="banner loud"><p><b>These pairs can be told apart without their emotion.</b> {% for name in q.above %}A classifier that sees {{ 'only length' if name == 'length' else 'only function words and punctuation' }} ranks {{ q.accuracy[name] | percent }} of held-out pairs right{{ '; ' if not loop.last }}{% endfor %}: above the bound of {{ q.bound | percent(0) }}. What EPO learns from them may be that, and no emotion.</p></div>{% endif %}
<dl class="facts">
<div><dt>length alone ranks right</dt><dd>{{ q.accuracy.length | percent }}<small>50 % would be nothing; bound {{ q.bound | percent(0) }}</small></dd></div>
<div><dt>style alone ranks right</dt><dd>{{ q.accuracy.style | percent }}<small>function words and punctuation</small></dd></div>
<div><dt>words, true and rejected</dt><dd>{{ q.words.chosen | number(1) }}, {{ q.words.rejected | number(1) }}<small>rejected longer {{ q.longer | percent(0) }}, shorter {{ q.shorter | percent(0) }}</small></dd></div>
<div><dt>length gap</dt><dd>{{ q.length_gap | number(1) }}<small>words, on average</small></dd></div>
<div><dt>repeat themselves</dt><dd>{{ q.repetition.rejected | percent(0) }}<small>true replies {{ q.repetition.chosen | percent(0) }}</small></dd></div>
<div><dt>echo the sentence</dt><dd>{{ q.echo.rejected | percent(0) }}<small>true replies {{ q.echo.chosen | percent(0) }}</small></dd></div>
<div><dt>words shared by the two</dt><dd>{{ q.overlap | percent(0) }}</dd></div>
<div><dt>rejected replies used twice</dt><dd>{{ q.reused | percent(0) }}</dd></div>
</dl>
<p class="note">Both classifiers are judged on dialogues they were not trained on; repetition, echo and words are of rejected replies, with the true ones beside them.</p>
{% endif %}
{% endif %}
</section>

<section id="candidates">
<h2>Candidates: Figure 8{{ made() }}</h2>
<p>Exchanges drawn by seed, not picked. The bar is a candidate's emotional similarity to the true reply; the thin line is zero. Marked: the counter-emotional reply that was kept.</p>
{% for e in facts.candidate_examples %}
<div class="card" style="margin:12px 0">
<p class="note">{{ e.dataset | dataset }}, {{ e.split }}, dialogue <span class="id">{{ e.dialogue_id }}</span>, turn {{ e.turn }}{% if e.outcome %} <span class="tag gold">no pair: {{ e.outcome }}</span>{% endif %}</p>
<p class="say"><b>sentence</b>{{ e.sentence }}</p>
<p class="say"><b>true reply</b>{{ e.reply }}{% if e.reply_emotion %} <span class="soft">({{ e.reply_emotion }})</span>{% endif %}</p>
{% for c in e.candidates %}
<div class="candidate{% if c.chosen %} chosen{% endif %}{% if not c.usable %} unusable{% endif %}"><span>{{ c.emotion }}</span>
<span class="track">{% if c.cosine is not none %}{% set b = c.cosine | bar %}<i style="left:{{ b.left }};width:{{ b.width }}"></i><b style="left:50%"></b>{% endif %}</span>
<span>{{ c.cosine | number(2) }}</span>
<span class="text words">{{ c.text or '(nothing)' }}{% if c.chosen %} <span class="tag warn">counter-emotional</span>{% endif %}{% if not c.usable %} <span class="tag">unusable: {{ c.reason }}</span>{% endif %}</span></div>
{% endfor %}
</div>
{% else %}<p>Not run.</p>{% endfor %}
</section>

<section id="replies">
<h2>Replies, side by side{{ made() }}</h2>
<p>Exchanges drawn by seed, not picked. Each rung answers the same sentence.</p>
{% for e in facts.reply_examples %}
<div class="card" style="margin:12px 0">
<p class="note">{{ e.dataset | dataset }}, {{ e.split }}, dialogue <span class="id">{{ e.dialogue_id }}</span>, turn {{ e.turn }}</p>
<p class="say"><b>sentence</b>{{ e.sentence }}{% if e.sentence_emotion %} <span class="soft">({{ e.sentence_emotion }})</span>{% endif %}</p>
<p class="say"><b>true reply</b>{{ e.reference }}{% if e.reference_emotion %} <span class="soft">({{ e.reference_emotion }})</span>{% endif %}</p>
<div class="scroll"><table><tbody>
{% for r in e.replies %}{% set before = e.replies[loop.index0 - 1].reply if loop.index0 else none %}<tr><td style="white-space:nowrap;width:11em"><b>{{ r.rung.split('-')[0] }}</b> {{ titles.get(r.rung, r.rung) }}</td><td class="words">{% if r.reply == before %}<span class="same">as above</span>{% else %}{{ r.reply or '(nothing)' }}{% endif %}</td></tr>
{% endfor %}</tbody></table></div>
</div>
{% else %}<p>Not run.</p>{% endfor %}
</section>

<section id="data">
<h2>Data{{ made() }}</h2>
<h3>Rows and rejects of each stage</h3>
<div class="scroll"><table><thead><tr><th>Stage</th><th class="n">rows</th><th class="n">rejects</th></tr></thead><tbody>
{% for s in facts.counts.stages %}<tr><td><code>{{ s.stage }}</code></td>{% if s.rows is none %}<td class="n" colspan="2"><span class="tag gold">not run{% if s.stage == 'features' and not facts.media %}: no media{% endif %}</span></td>{% else %}<td class="n">{{ s.rows | count }}</td><td class="n">{{ s.rejects | count }}</td>{% endif %}</tr>
{% endfor %}</tbody></table></div>
<h3>By dataset and split</h3>
<div class="scroll"><table>
<thead><tr class="groups"><th colspan="2"></th><th class="first" colspan="4">utterances</th><th class="first" colspan="4">exchanges</th><th class="first" colspan="2">preference</th></tr>
<tr><th>Dataset</th><th>Split</th><th class="n first">dialogues</th><th class="n">rows</th><th class="n">with media</th><th class="n">features</th><th class="n first">rows</th><th class="n">fell out: same speaker</th><th class="n">fell out: gap</th><th class="n">selected</th><th class="n first">candidates</th><th class="n">pairs</th></tr></thead>
<tbody>{% for r in facts.counts.splits %}
<tr><td>{{ r.dataset | dataset }}</td><td>{{ r.split }}</td><td class="n first">{{ r.dialogues | count }}</td><td class="n">{{ r.utterances | count }}</td><td class="n">{{ r.with_media | count }}</td><td class="n">{{ r.features | count }}</td><td class="n first">{{ r.exchanges | count }}</td><td class="n">{{ r.same_speaker | count }}</td><td class="n">{{ r.gap | count }}</td><td class="n">{{ r.selected | count }}</td><td class="n first">{{ r.candidates | count }}</td><td class="n">{{ r.pairs | count }}</td></tr>
{% endfor %}</tbody></table></div>
{% if facts.counts.without_media %}<p class="note">{{ facts.counts.without_media | count }} utterances have no clip. They stay in the text stages; features, the extractor and the audio-visual inputs leave them out.</p>{% endif %}
<h3>Emotions</h3>
<div class="scroll"><table><thead><tr><th>Dataset</th><th>Split</th>{% for e in emotions %}<th class="n">{{ e }}</th>{% endfor %}</tr></thead><tbody>
{% for r in facts.counts.splits %}<tr><td>{{ r.dataset | dataset }}</td><td>{{ r.split }}</td>{% for e in emotions %}<td class="n">{{ r.emotions.get(e, 0) | count }}</td>{% endfor %}</tr>{% endfor %}
</tbody></table></div>
<h3>Why rows were turned away</h3>
{% if facts.counts.rejects %}<div class="scroll"><table><thead><tr><th>Stage</th><th>Dataset</th><th>Split</th><th>Reason</th><th class="n">rows</th><th>One of them</th></tr></thead><tbody>
{% for r in facts.counts.rejects %}<tr><td><code>{{ r.stage }}</code></td><td>{{ r.dataset | dataset }}</td><td>{{ r.split }}</td><td>{{ r.reason }}</td><td class="n">{{ r.count | count }}</td><td class="words note">{{ r.example }}</td></tr>{% endfor %}
</tbody></table></div>{% else %}<p>None were.</p>{% endif %}
<h3>Data cards</h3>
{% for name, card in facts.counts.cards.items() %}<details><summary>{{ name | dataset }}: {{ card.verdict }}</summary>
{% for t in card.tables %}<h3>{{ t.title }}</h3><div class="scroll"><table><thead><tr>{% for h in t.header %}<th{% if not loop.first %} class="n"{% endif %}>{{ h }}</th>{% endfor %}</tr></thead><tbody>
{% for row in t.rows %}<tr>{% for cell in row %}<td class="{{ 'words' if cell is string else 'n' }}">{{ cell }}</td>{% endfor %}</tr>{% endfor %}
</tbody></table></div>{% endfor %}
</details>{% endfor %}
{% for name, notes in facts.counts.notes.items() if notes %}<h3>Notes on {{ name | dataset }}</h3><ul>{% for note in notes %}<li class="words">{{ note }}</li>{% endfor %}</ul>{% endfor %}
</section>

<section id="weights">
<h2>Weights, seeds and budgets</h2>
<div class="scroll"><table><thead><tr><th>Role</th><th>Weights</th><th>Identity</th><th>Paper</th></tr></thead><tbody>
{% for w in facts.weights %}<tr><td>{{ w.role }}</td><td><code>{{ w.name }}</code></td><td class="id">{{ w.identity }}</td><td class="paper">{{ 'the same' if w.name == w.paper else w.paper or 'names none' }}</td></tr>{% endfor %}
</tbody></table></div>
<h3>Budgets</h3>
<div class="scroll"><table><thead><tr><th>Setting</th><th>Limits</th><th class="n">limit</th><th class="n">used</th></tr></thead><tbody>
{% for b in facts.budgets %}<tr><td><code>{{ b.name }}</code></td><td>{{ b.limits }}</td><td class="n">{% if b.limit is none %}lifted{% else %}{{ b.limit | count }}{% endif %}</td><td class="n">{{ b.used | map('count') | join(', ') or '–' }}</td></tr>{% endfor %}
</tbody></table></div>
<p class="note">Budgets choose by seed; <code>empamba run --set NAME=null</code> lifts one.</p>
<h3>Seeds</h3>
<p>{% for name, value in facts.seeds.items() %}<code>{{ name }}</code> {{ value }}{{ ' · ' if not loop.last }}{% endfor %}</p>
</section>

<section id="settings">
<h2>Settings that differ from the defaults</h2>
<p>The defaults are the paper's values, or this project's where the paper gives none.</p>
<div class="scroll"><table><thead><tr><th>Setting</th><th>Default</th><th>This run</th><th>What it is</th></tr></thead><tbody>
{% for s in facts.settings if s.differs %}<tr><td><code>{{ s.name }}</code></td><td class="words paper">{{ s.default | setting }}</td><td class="words">{{ s.value | setting }}</td><td class="words note">{{ s.description }}</td></tr>{% else %}<tr><td colspan="4">none</td></tr>{% endfor %}
</tbody></table></div>
<details><summary>All {{ facts.settings | length }} settings</summary><div class="scroll"><table><thead><tr><th>Setting</th><th>This run</th><th>What it is</th></tr></thead><tbody>
{% for s in facts.settings %}<tr><td><code>{{ s.name }}</code></td><td class="words">{{ s.value | setting }}</td><td class="words note">{{ s.description }}</td></tr>{% endfor %}
</tbody></table></div></details>
</section>
<!-- this run -->
</main>
</body>
</html>
"""
