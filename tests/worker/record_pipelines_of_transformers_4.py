"""Writes pipelines_of_transformers_4.json: what the last pipelines for question answering and summarisation answer.

Not part of the test run: it needs transformers 4.57.1, which has them, in a folder of its own before the project's.
With that folder made by `uv pip install --no-deps --target FOLDER transformers==4.57.1 huggingface_hub==0.35.3
tokenizers==0.22.1`: `PYTHONPATH=FOLDER:. python -m tests.worker.record_pipelines_of_transformers_4`.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import transformers
from transformers import BartForConditionalGeneration, BertForQuestionAnswering, pipeline

from tests.worker.tiny import MAX_TOKENS, save_bart, save_bert, tokenizer

TEXTS = ["Anna works in Paris and Bob lives in Berlin.", "The cat sits on the mat."]
LONG = " ".join(TEXTS * 6)
QUESTIONS: list[tuple[Any, dict[str, Any]]] = [
    ({"question": "where is Anna?", "context": TEXTS[0]}, {}),
    ({"question": "who sits on the mat?", "context": TEXTS[1]}, {"top_k": 3}),
    ({"question": "who lives in Berlin?", "context": TEXTS[0]}, {"top_k": 4, "max_answer_len": 2}),
    ({"question": "where is Anna?", "context": TEXTS[0]}, {"handle_impossible_answer": True, "top_k": 5}),
    ({"question": "where is Anna?", "context": TEXTS[0]}, {"align_to_words": False, "top_k": 3}),
    ({"question": "who?", "context": LONG}, {"top_k": 3}),
    (
        {"question": "who?", "context": LONG},
        {"doc_stride": 8, "max_seq_len": 32, "top_k": 2, "handle_impossible_answer": True},
    ),
    ([{"question": "who?", "context": TEXTS[0]}, {"question": "where?", "context": TEXTS[1]}], {}),
]
SUMMARIES: list[tuple[Any, dict[str, Any]]] = [
    (TEXTS[0], {"max_new_tokens": 12}),
    (TEXTS, {"max_new_tokens": 8, "num_beams": 1}),
    (TEXTS[1], {"max_new_tokens": 12, "num_beams": 2, "no_repeat_ngram_size": 2, "length_penalty": 2.0}),
    (TEXTS[1], {"max_new_tokens": 10, "min_new_tokens": 6}),
    (TEXTS[0], {}),
]


def main() -> None:
    """Overwrite the file beside this one."""
    assert transformers.__version__ == "4.57.1", transformers.__version__
    with tempfile.TemporaryDirectory() as name:
        question_model = save_bert(BertForQuestionAnswering, Path(name) / "questions")
        answer = pipeline("question-answering", model=str(question_model), tokenizer=tokenizer(), device="cpu")
        summary_model = save_bart(BartForConditionalGeneration, Path(name) / "summaries")
        summarise = pipeline("summarization", model=str(summary_model), tokenizer=tokenizer(), device="cpu")
        recorded = {
            "question-answering": [
                _case(inputs, parameters, answer(inputs, **parameters)) for inputs, parameters in QUESTIONS
            ],
            "summarization": [
                # Left alone, the pipeline would write more tokens than this model has positions.
                _case(inputs, parameters, summarise(inputs, **(parameters or {"max_new_tokens": MAX_TOKENS - 1})))
                for inputs, parameters in SUMMARIES
            ],
        }
    target = Path(__file__).parent / "pipelines_of_transformers_4.json"
    target.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


def _case(inputs: Any, parameters: dict[str, Any], output: Any) -> dict[str, Any]:
    return {"inputs": inputs, "parameters": parameters, "output": output}


if __name__ == "__main__":
    main()
