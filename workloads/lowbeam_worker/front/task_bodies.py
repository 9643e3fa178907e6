"""Bodies of /v1/tasks/{task}: `inputs` and `parameters` of transformers' pipelines (front/reading.py has the rules).

A parameter of a pipeline that is not here is refused by name.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lowbeam_worker.front.reading import FEW, Body, Strings

Texts = str | Strings


class TaskBody(Body):
    """What all tasks share."""

    model: str | None = None
    """Optional: a worker serves one model; where it is given, it must be that one."""


class TextPair(Body):
    """Two texts to be read together."""

    text: str
    text_pair: str


class Parameters(Body):
    """What the parameters of all tasks share: a pipeline may mean something by a null, such as "all" by `top_k`."""

    null_is_a_value: ClassVar[bool] = True


class ClassificationParameters(Parameters):
    """Of text-classification."""

    top_k: Annotated[int, Field(ge=1)] | None = 1
    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None
    truncation: bool = False


class ClassificationBody(TaskBody):
    """POST /v1/tasks/text-classification."""

    inputs: str | TextPair | Annotated[list[str | TextPair], FEW]
    parameters: ClassificationParameters = ClassificationParameters()


class ZeroShotParameters(Parameters):
    """Of zero-shot-classification."""

    candidate_labels: str | Strings
    hypothesis_template: Annotated[str, Field(max_length=1024)] = "This example is {}."
    multi_label: bool = False

    @property
    def labels(self) -> list[str]:
        """As the pipeline reads them: a text is split at its commas."""
        if isinstance(self.candidate_labels, str):
            return [label.strip() for label in self.candidate_labels.split(",") if label.strip()]
        return self.candidate_labels


class ZeroShotBody(TaskBody):
    """POST /v1/tasks/zero-shot-classification."""

    inputs: Texts
    parameters: ZeroShotParameters


class TokenParameters(Parameters):
    """Of token-classification."""

    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] = "none"
    ignore_labels: Strings = Field(default_factory=lambda: ["O"])
    stride: Annotated[int, Field(ge=0)] | None = None
    """Read a text that is too long in pieces that overlap by so many tokens; without it such a text is refused."""


class TokenBody(TaskBody):
    """POST /v1/tasks/token-classification."""

    inputs: Texts
    parameters: TokenParameters = TokenParameters()


class Question(Body):
    """A question, and the text that has the answer."""

    question: Annotated[str, Field(min_length=1)]
    context: Annotated[str, Field(min_length=1)]


class AnswerParameters(Parameters):
    """Of question-answering; None: the pipeline's own choice."""

    top_k: Annotated[int, Field(ge=1, le=100)] = 1
    doc_stride: Annotated[int, Field(ge=0)] | None = None
    max_answer_len: Annotated[int, Field(ge=1)] = 15
    max_seq_len: Annotated[int, Field(ge=1)] | None = None
    handle_impossible_answer: bool = False
    align_to_words: bool = True


class AnswerBody(TaskBody):
    """POST /v1/tasks/question-answering."""

    inputs: Question | Annotated[list[Question], FEW]
    parameters: AnswerParameters = AnswerParameters()


class SummaryParameters(Parameters):
    """Of summarization; fields that are left out are as the model's generation config says."""

    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    min_new_tokens: Annotated[int, Field(ge=1)] | None = None
    num_beams: Annotated[int, Field(ge=1, le=8)] | None = None
    length_penalty: Annotated[float, Field(ge=-10, le=10)] | None = None
    no_repeat_ngram_size: Annotated[int, Field(ge=0, le=16)] | None = None
    truncation: bool = False


class SummaryBody(TaskBody):
    """POST /v1/tasks/summarization."""

    inputs: Texts
    parameters: SummaryParameters = SummaryParameters()
