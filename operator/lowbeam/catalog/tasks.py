"""What Lowbeam assumes about a task when a workload does not say: benchmark, floor, latency, lengths, no reasoning.

Decides defaults only; every one of them can be overridden in the workload. Names are Hugging Face pipeline tags, except
`code-completion`, for which Hugging Face has no tag: fill-in-the-middle for editors, told apart from chat because its
models, prompts and latency targets differ.

Scores are in hundredths of the benchmark's unit. A floor is the least that is useful: somebody's judgement, given with
its reason. A target is the knee of quality against joules and is not written here: `catalog.knee` computes it from the
profiles when the catalogue is loaded. Where there are no joules to compute it from, the floor is the target.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lowbeam.catalog.facts import TaskFacts

UNHURRIED_MS = 2_000
"""Somebody waits for the whole answer of a model that writes a sentence or two."""
INTERACTIVE_MS = 500
"""Inside a request of a person: half a second leaves room for the rest."""


def _streamed(  # noqa: PLR0917 - one row of a table: name, benchmark, floor, tokens in and out, first and next token
    name: str, benchmark: str, floor: int, tokens_in: int, tokens_out: int, first_token_ms: int, inter_token_ms: int
) -> TaskFacts:
    """Text that is read while it is written: its total time depends on its length, so it has no default."""
    return TaskFacts(
        name=name,
        benchmark=benchmark,
        floor_centi=floor,
        target_centi=floor,
        generative=True,
        default_input_tokens=tokens_in,
        default_output_tokens=tokens_out,
        end_to_end_ms=None,
        time_to_first_token_ms=first_token_ms,
        inter_token_ms=inter_token_ms,
    )


def _whole(  # noqa: PLR0917 - one row of a table: name, benchmark, floor, tokens in and out, milliseconds
    name: str, benchmark: str, floor: int, tokens_in: int, tokens_out: int, end_to_end_ms: int
) -> TaskFacts:
    """An answer that is used as a whole; more than one token out means that it is text."""
    return TaskFacts(
        name=name,
        benchmark=benchmark,
        floor_centi=floor,
        target_centi=floor,
        generative=tokens_out > 1,
        default_input_tokens=tokens_in,
        default_output_tokens=tokens_out,
        end_to_end_ms=end_to_end_ms,
        time_to_first_token_ms=None,
        inter_token_ms=None,
    )


_ALL = (
    # --- text, streamed ---
    # MMLU-Pro has the widest coverage in one setting of all models with measured energy. Below 45 only models under 4 B
    # remain, which mainly repeat. Published chat answers are 350 to 1,340 tokens, the efficient ones short. A second
    # until the first word, then 20 tokens/s: about four times the speed of reading.
    _streamed("text-generation", "mmlu-pro", 45_00, 500, 400, 1_000, 50),
    # The only code benchmark reported for small and large code models alike; below 70 a suggestion is more often wrong
    # than kept. A prompt with the file around the cursor; measured completions are about 250 tokens. The suggestion
    # competes with typing: half a second, then faster than chat.
    _streamed("code-completion", "humaneval", 70_00, 800, 250, 500, 30),
    # MMMU as Qwen evaluates it: vendors' settings differ, and no other covers a whole family. At 60 the small models of
    # 2024 are out. One picture is about a thousand tokens.
    _streamed("image-text-to-text", "mmmu-val.qwen", 60_00, 1_000, 400, 2_000, 50),
    # 65: below it no model with measured energy is known. A minute of film is several thousand tokens, read before the
    # first word.
    _streamed("video-text-to-text", "video-mme.qwen", 65_00, 5_000, 400, 5_000, 50),
    # --- text, whole answers ---
    # ROUGE-2 of 20: the smallest distilled model has 20.2. An article in, three sentences out.
    _whole("summarization", "cnn-dailymail-rouge2", 20_00, 800, 80, 5_000),
    # BLEU of 26: the smallest T5 has 26.7. One sentence.
    _whole("translation", "wmt14-en-de-bleu", 26_00, 40, 40, UNHURRIED_MS),
    # At most one word in eight wrong. Whisper reads windows of 30 s (1,500 frames) and writes some 100 tokens for each.
    _whole("automatic-speech-recognition", "asr-short-form", 87_50, 1_500, 100, UNHURRIED_MS),
    # CIDEr of 130: the smallest captioning models have 131 to 133. A picture of 384 pixels is 577 patches; a caption is
    # one line.
    _whole("image-to-text", "coco-caption-cider", 130_00, 577, 20, UNHURRIED_MS),
    # --- text, judged ---
    # Binary sentiment: the classification set that every encoder family reports.
    _whole("text-classification", "sst2", 90_00, 128, 1, INTERACTIVE_MS),
    # Mean of the 56 English tasks of MTEB v1, the list that all these models report; all-MiniLM-L6-v2 (56.3) is the
    # least that people use for retrieval.
    _whole("feature-extraction", "mteb-en-v1", 56_00, 128, 1, INTERACTIVE_MS),
    # A question and a paragraph. 80 F1: half-sized RoBERTa has 82; the 8-layer BERT with 73 misses too many.
    _whole("question-answering", "squad-v2-f1", 80_00, 384, 1, INTERACTIVE_MS),
    # One question and one passage. The smallest cross-encoder has 69.8.
    _whole("text-ranking", "trec-dl-2019-ndcg10", 69_00, 128, 1, INTERACTIVE_MS),
    # One paragraph; below 90 every tenth name is missed or wrong.
    _whole("token-classification", "conll2003-f1", 90_00, 128, 1, INTERACTIVE_MS),
    # --- pictures and films ---
    # 197 tokens: 224 pixels in patches of 16. Three of four right at the first guess among 1,000 classes.
    _whole("image-classification", "imagenet-top1", 75_00, 197, 1, INTERACTIVE_MS),
    # An AP of 36 is YOLOS-small. 850 positions: a picture of 800 x 1,066 pixels at a stride of 32.
    _whole("object-detection", "coco-ap", 36_00, 850, 1, 1_000),
    # A prompt of up to 77 tokens, one picture of 1,024 pixels. Half of the prompts followed in full.
    _whole("text-to-image", "geneval", 50_00, 77, 1, 30_000),
    # A film of some seconds; it is asked for and fetched later. At 80 are the first open diffusion transformers.
    _whole("text-to-video", "vbench", 80_00, 77, 1, 600_000),
)

TASKS: Mapping[str, TaskFacts] = MappingProxyType({task.name: task for task in sorted(_ALL, key=lambda t: t.name)})
"""Every task that Lowbeam knows, by name; `load_builtin` puts the targets in."""

READ_IN_PIECES = frozenset({"question-answering"})
"""Texts that are longer than the model reads go through it in pieces, whoever asks: none is too long, all is read."""
