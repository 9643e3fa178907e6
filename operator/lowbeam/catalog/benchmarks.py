"""The benchmarks that Lowbeam knows: each name is one series, with one metric and one setting.

Decides which results may be compared. A floor names a benchmark and looks at nothing else, so figures of another
harness, data set or reporter get a name of their own (`gpqa-diamond.openai` beside `gpqa-diamond`) and are never mixed.
Every metric is better when higher; error rates are carried as 100 minus the rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lowbeam.catalog.facts import Benchmark

PERCENT = 10_000

_ARTIFICIAL_ANALYSIS = "Artificial Analysis harness, 0-shot; API, precision not stated"

_ALL = (
    # --- text ---
    Benchmark("mmlu-pro", "accuracy-percent", _ARTIFICIAL_ANALYSIS, PERCENT),
    Benchmark("gpqa-diamond", "accuracy-percent", _ARTIFICIAL_ANALYSIS, PERCENT),
    # OpenAI's own runs: the only ones with medium effort, at which the energy of gpt-oss was measured.
    Benchmark("gpqa-diamond.openai", "accuracy-percent", "OpenAI's evaluation, no tools", PERCENT),
    # NVIDIA's own runs: the only ones of Nemotron-Nano-12B-v2.
    Benchmark("mmlu-pro.nvidia", "accuracy-percent", "NeMo Evaluator, single run", PERCENT),
    Benchmark("gpqa-diamond.nvidia", "accuracy-percent", "NeMo Evaluator, single run", PERCENT),
    # Chance is 0, not 10: another scale than mmlu-pro. The only series that covers the models of ML.ENERGY v2.
    Benchmark("mmlu-pro.open-llm-v2", "chance-normalised-percent", "Open LLM Leaderboard v2: lm-eval, 5-shot", PERCENT),
    Benchmark("humaneval", "pass-at-1-percent", "EvalPlus, HumanEval's own tests, greedy", PERCENT),
    Benchmark("swe-bench-verified", "resolved-percent", "OpenHands v0.54; precision not stated", PERCENT),
    Benchmark("sst2", "accuracy-percent", "GLUE SST-2 validation; fp32", PERCENT),
    Benchmark("mteb-en-v1", "mean-of-56-tasks", "MTEB English v1; fp32", PERCENT),
    Benchmark("squad-v2-f1", "f1-percent", "SQuAD 2.0 dev; fp32", PERCENT),
    Benchmark("squad-v1-f1", "f1-percent", "SQuAD 1.1 dev; fp32", PERCENT),
    Benchmark("cnn-dailymail-rouge2", "rouge-2-percent", "CNN/DailyMail test, distilbart card's run; fp32", PERCENT),
    Benchmark("xsum-rouge2", "rouge-2-percent", "XSum test, distilbart card's run; fp32", PERCENT),
    Benchmark("wmt14-en-de-bleu", "bleu", "WMT14 English-German, T5 paper's fine-tuning; fp32", PERCENT),
    Benchmark("conll2003-f1", "f1-percent", "CoNLL-2003 English test, Hugging Face evaluator; fp32", PERCENT),
    Benchmark("trec-dl-2019-ndcg10", "ndcg-at-10-percent", "TREC DL 2019 passages, sbert.net; fp32", PERCENT),
    # --- speech ---
    Benchmark("asr-short-form", "word-accuracy-percent", "Distil-Whisper card: short-form, unseen sets", PERCENT),
    Benchmark("open-asr", "word-accuracy-percent", "Open ASR Leaderboard, mean of its English sets", PERCENT),
    Benchmark("librispeech-clean", "word-accuracy-percent", "LibriSpeech test-clean", PERCENT),
    # --- vision ---
    Benchmark("imagenet-top1", "accuracy-percent", "ImageNet-1k validation, timm; fp32", PERCENT),
    Benchmark("coco-ap", "average-precision-percent", "COCO 2017 validation, boxes, IoU 0.50:0.95; fp32", PERCENT),
    Benchmark("coco-caption-cider", "cider", "COCO captions, Karpathy test; fp32"),
    Benchmark("mmmu-val.qwen", "accuracy-percent", "Qwen's evaluation, Instruct models", PERCENT),
    Benchmark("video-mme.qwen", "accuracy-percent", "Qwen's evaluation, without subtitles", PERCENT),
    # --- generated pictures and films ---
    Benchmark("geneval", "overall-percent", "GenEval, 1024 px, SANA report's table", PERCENT),
    Benchmark("vbench", "total-percent", "VBench leaderboard, total score", PERCENT),
)

BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType({it.name: it for it in sorted(_ALL, key=lambda it: it.name)})
"""Every benchmark that ships, by name."""
