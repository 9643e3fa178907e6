"""The ground that every Lowbeam kind stands on: models, scalar types, metadata, conditions, resource declarations.

Decides how an API object looks in Python and which facts about a kind (names, scope, printer columns, subresources,
cross-field rules) the CRD generator reads. It never talks to a cluster, never reads a clock and never writes a file.

Invariants
- Objects are frozen and refuse unknown fields; `from_cluster` ignores them, because the API server has validated the
  object already and a newer CRD may carry more fields than this release knows.
- A docstring under a field is its description in `kubectl explain` and in docs/reference; no field goes without one.
- A cross-field rule is written once, as CEL next to the same condition in Python, so that `lowbeam plan` refuses
  offline exactly what the API server refuses, in the same words.
- `None` means unknown or not given, never zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

GROUP = "lowbeam.dev"
VERSION = "v1alpha1"
API_VERSION: Final = "lowbeam.dev/v1alpha1"
CATEGORY = "lowbeam"

MAX_MESSAGE_LENGTH = 1024
"""Characters of a condition message. Kubernetes allows 32768; a sentence nobody finishes helps nobody."""

MAX_SENTENCE_LENGTH = 512

DECIMAL_PATTERN = r"^[0-9]{1,9}(\.[0-9]{1,6})?$"
"""At most 15 digits: every value is exact as a double, so CEL's `double()` compares as a decimal would."""

HIGHEST_DECIMAL = 999_999_999
"""What such a text can say at most; a figure of ours above it is told as this: the status is written whole or not."""

TASK_PATTERN = r"^[a-z0-9]+(-[a-z0-9]+)*$"
"""A Hugging Face pipeline tag, e.g. `text-classification`."""

DNS_LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
"""Names of objects. The API server checks them itself: no schema says so."""
"""A name of a namespace, volume or similar (RFC 1123 label)."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One cross-field rule of a model, in two languages that must agree (tests/cluster compares them)."""

    cel: str
    """The condition for the API server; `self` is the object that declares the rule."""
    message: str
    """What is wrong and what to do, in one sentence without the object's name."""
    holds: Callable[[Any], bool]
    """The same condition on the Python model; must not raise."""
    field: str = ""
    """Path below the declaring object that the message is about, e.g. `floor`; empty = the object itself."""


class ApiModel(BaseModel):
    """Base of every structure in the API: camelCase outside, frozen, bounded, unknown fields refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()
    """Cross-field rules of this structure; become `x-kubernetes-validations`."""

    @model_validator(mode="after")
    def _obeys_its_rules(self) -> Self:
        broken = [(rule.field, rule.message) for rule in self.rules if not rule.holds(self)]
        for name, alias, keys in _lists_without_duplicates(type(self)):
            broken += [(f"{alias}[{index}]", text) for index, text in _duplicates(getattr(self, name), keys)]
        if broken:
            summary = "; ".join(message for _, message in broken)
            raise PydanticCustomError("rule", "{summary}", {"summary": summary, "broken": broken})
        return self

    @classmethod
    def from_cluster(cls, raw: Mapping[str, Any]) -> Self:
        """Read what the API server returned; fields that this release does not know are ignored.

        Raises pydantic's ValidationError; `loading.read_object` turns it into problems a user understands.
        """
        return cls.model_validate(raw, extra="ignore")

    def to_wire(self) -> dict[str, Any]:
        """The JSON object as Kubernetes writes it: camelCase, nothing that is unknown (`None`)."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


@cache
def _lists_without_duplicates(model: type[ApiModel]) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """(field, alias, fields of an item that tell items apart) of every list-set and list-map of a model."""
    found = []
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        if extra.get("x-kubernetes-list-type") in ("set", "map"):
            keys = extra.get("x-kubernetes-list-map-keys") or []
            found.append((name, field.alias or name, tuple(str(key) for key in keys) if isinstance(keys, list) else ()))
    return tuple(found)


@cache
def _names_by_alias(model: type[ApiModel]) -> dict[str, str]:
    return {field.alias or name: name for name, field in model.model_fields.items()}


def _duplicates(items: Iterable[Any], keys: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """(index, message) of every item that repeats an earlier one; the API server refuses it too."""
    seen: set[Any] = set()
    for index, item in enumerate(items):
        names = _names_by_alias(item.__class__) if keys else {}
        identity: Any = tuple(getattr(item, names[key]) for key in keys) if keys else item
        if identity in seen:
            pairs = (f'{key} "{value}"' for key, value in zip(keys, identity, strict=True)) if keys else (f'"{item}"',)
            yield index, f"{', '.join(pairs)} is given twice"
        seen.add(identity)


# --- scalars ---------------------------------------------------------------------------------------------------------

DecimalString = Annotated[str, StringConstraints(pattern=DECIMAL_PATTERN, max_length=16)]
"""A non-negative decimal number in quotes ("56.7"): JSON floats would round and CRDs should not hold them."""


def decimal(value: str) -> Decimal:
    """The number in a `DecimalString`, exactly."""
    return Decimal(value)


Name = Annotated[str, StringConstraints(min_length=1, max_length=253)]
"""A name of something outside our control: a model, a node, a class."""

DnsLabel = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=DNS_LABEL_PATTERN)]
"""A Kubernetes name without dots: a namespace, a volume."""

Task = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=TASK_PATTERN)]
"""A Hugging Face pipeline tag; whether the catalogue knows it is decided by the catalogue, not by the schema."""

MAX_WATTS = 1_000_000_000
"""One gigawatt: above any site, and small enough that milliwatts times percents fit a 64-bit integer."""

MAX_REQUESTS_PER_MINUTE = 100_000_000
MAX_TOKENS = 10_000_000
"""Of one request, or of one answer."""

BatchSize = Annotated[int, Field(ge=1, le=65_536)]
"""Requests or rows in one engine step: no more than the control port and the worker take (`wire.ProfileChange`)."""

Watts = Annotated[int, Field(ge=0, le=MAX_WATTS)]
CamelWord = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Z][A-Za-z0-9]*$")]
"""One word that programs compare: a condition type, a reason, an action."""

DecisionId = Annotated[str, Field(min_length=1, max_length=64)]
"""What ties together a status, its Events and the log lines of one decision."""


def cut(text: str, length: int) -> str:
    """An over-long message of ours: losing its end is better than losing the whole status."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _cut_to(length: int) -> BeforeValidator:
    return BeforeValidator(lambda text: cut(text, length) if isinstance(text, str) else text)


Sentence = Annotated[str, Field(max_length=MAX_SENTENCE_LENGTH), _cut_to(MAX_SENTENCE_LENGTH)]
"""A message for people in a list that must stay small."""

Message = Annotated[str, Field(max_length=MAX_MESSAGE_LENGTH), _cut_to(MAX_MESSAGE_LENGTH)]
"""A message for people in a condition."""


def _to_whole_seconds(value: datetime) -> datetime:
    return value.astimezone(UTC).replace(microsecond=0)


def _as_rfc3339(value: datetime) -> str:
    return value.strftime("%Y-%m-%dT%H:%M:%SZ")


Time = Annotated[
    AwareDatetime, AfterValidator(_to_whole_seconds), PlainSerializer(_as_rfc3339, return_type=str, when_used="json")
]
"""A moment in UTC, cut to whole seconds as the API server does, so that reading back what we wrote changes nothing."""


# --- schema hints ----------------------------------------------------------------------------------------------------


def list_map(*keys: str) -> dict[str, Any]:
    """`json_schema_extra` of a list whose items are told apart by these fields; several managers may own items."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


def list_set() -> dict[str, Any]:
    """`json_schema_extra` of a list without duplicates, merged by value."""
    return {"x-kubernetes-list-type": "set"}


# --- what a kind is --------------------------------------------------------------------------------------------------


class Scope(StrEnum):
    """Where objects of a kind live."""

    NAMESPACED = "Namespaced"
    CLUSTER = "Cluster"


@dataclass(frozen=True, slots=True)
class PrinterColumn:
    """One column of `kubectl get`."""

    name: str
    json_path: str
    type: Literal["string", "integer", "number", "boolean", "date"] = "string"
    description: str = ""
    priority: int = 0
    """0 = always shown; above 0 = only with `-o wide`."""


AGE = PrinterColumn("Age", ".metadata.creationTimestamp", "date")


def condition_column(name: str, condition: str, description: str, priority: int = 0) -> PrinterColumn:
    """A column that shows the status (True, False, Unknown) of one condition."""
    path = f'.status.conditions[?(@.type=="{condition}")].status'
    return PrinterColumn(name, path, "string", description, priority)


@dataclass(frozen=True, slots=True)
class ScaleSubresource:
    """Paths behind `/scale`, for `kubectl scale`, HPA and KEDA."""

    spec_replicas_path: str = ".spec.replicas"
    status_replicas_path: str = ".status.replicas"
    label_selector_path: str = ".status.selector"


@dataclass(frozen=True, slots=True)
class Resource:
    """What the CRD says about a kind besides its schema."""

    kind: str
    plural: str
    short_names: tuple[str, ...]
    scope: Scope
    columns: tuple[PrinterColumn, ...]
    scale: ScaleSubresource | None = None

    @property
    def singular(self) -> str:
        """Lower-case kind, as kubectl accepts it."""
        return self.kind.lower()

    @property
    def crd_name(self) -> str:
        """Name of the CustomResourceDefinition."""
        return f"{self.plural}.{GROUP}"


# --- metadata and conditions -----------------------------------------------------------------------------------------


class OwnerReference(ApiModel):
    """The object that this one belongs to and is deleted with."""

    model_config = ConfigDict(extra="ignore")

    api_version: str = ""
    """API version of the owner."""
    kind: str = ""
    """Kind of the owner."""
    name: str = ""
    """Name of the owner."""
    uid: str = ""
    """Uid of the owner."""
    controller: bool = False
    """Whether the owner manages this object."""


class ObjectMeta(ApiModel):
    """The parts of Kubernetes' metadata that Lowbeam reads; the rest is ignored, also in files of users."""

    model_config = ConfigDict(extra="ignore")

    name: str = ""
    """Name of the object."""
    namespace: str = ""
    """Namespace; empty for cluster-scoped kinds."""
    uid: str = ""
    """Identity of this very object; a recreated object has another one."""
    resource_version: str = ""
    """Version for optimistic writes; compare only for equality."""
    generation: int = 0
    """Grows with every change of the spec; 0 = never written to a cluster."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Annotations."""
    creation_timestamp: Time | None = None
    """When the object was made."""
    deletion_timestamp: Time | None = None
    """When deletion was asked for; not None = the object is going away."""
    owner_references: tuple[OwnerReference, ...] = ()
    """Owners of the object."""

    @model_serializer(mode="wrap")
    def _without_what_is_empty(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value}


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(ApiModel):
    """One observation about the object, in the form that kubectl wait, Argo CD and Flux understand."""

    type: CamelWord
    """What is observed, e.g. Ready."""
    status: ConditionStatus
    """True, False or Unknown."""
    reason: CamelWord
    """Why, as one word that programs may compare; the list is in docs/reference/reasons.md."""
    message: Message = ""
    """What happened, to what, and what to do, for people."""
    last_transition_time: Time
    """When the status last changed from one value to another."""
    observed_generation: int = Field(default=0, ge=0)
    """The generation of the spec that this was observed for."""


Conditions = Annotated[tuple[Condition, ...], Field(max_length=16, json_schema_extra=list_map("type"))]
"""Conditions of an object, at most one of each type."""


class KubeObject(ApiModel):
    """Base of the kinds. A kind declares `resource`, `kind`, `spec` and (where it has one) `status`."""

    resource: ClassVar[Resource]
    """Names, scope, columns and subresources."""

    api_version: Literal["lowbeam.dev/v1alpha1"] = API_VERSION
    """Version of the schema of this object."""
    kind: str
    """What the object is."""
    metadata: ObjectMeta = Field(default_factory=ObjectMeta)
    """Standard metadata."""

    @property
    def key(self) -> str:
        """`namespace/name`, or the name alone for cluster-scoped kinds: how messages name the object."""
        meta = self.metadata
        return f"{meta.namespace}/{meta.name}" if meta.namespace else meta.name
