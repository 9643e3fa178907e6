"""Names and identities of children: which Deployment an option belongs to, and how a worker knows its operator.

Decides names, the placement hash, the annotations that a successor reads (`lowbeam.dev/option`, `lowbeam.dev/shares`),
owner references and control tokens.

Invariants: the name of a Deployment depends on the workload's name and the placement alone, so that applying twice, or
after a restart, finds the same object; two workloads never share a name, however long theirs are.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Self

from pydantic.alias_generators import to_camel, to_snake

from lowbeam.api.v1alpha1.base import API_VERSION
from lowbeam.catalog.facts import Reasoning
from lowbeam.planning.roll import Roll
from lowbeam.render import labels
from lowbeam.sizing.options import Option

_MOST = 99_999
"""Of replicas, batches and watts, far above what is ever decided: an annotation that says more was edited."""
_SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Placement:
    """What needs a Deployment of its own: everything of an option but replicas and what changes in place."""

    model: str
    precision: str
    reasoning: Reasoning
    accelerator_class: str
    accelerators: int
    pool: str
    engine: str
    batch_limit: int = 0
    """Of an engine that reads it only when it starts; 0 where it changes in place."""

    @classmethod
    def of(cls, option: Option) -> Self:
        """The placement of an option."""
        return cls(*option.placement_key)

    def to_annotation(self) -> str:
        """Compact JSON for `lowbeam.dev/option`; without a batch limit that changes in place."""
        named = {to_camel(name): value for name, value in asdict(self).items() if name != "batch_limit" or value}
        return json.dumps(named, separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_annotation(cls, text: str) -> Self | None:
        """Read `lowbeam.dev/option` back; None when somebody edited it into something else."""
        try:
            raw = {to_snake(name): value for name, value in json.loads(text).items()}
            placement = cls(**{**raw, "reasoning": Reasoning(raw["reasoning"])})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        texts = (placement.model, placement.precision, placement.accelerator_class, placement.pool, placement.engine)
        counts = (placement.accelerators, placement.batch_limit)
        sound = all(isinstance(text, str) for text in texts) and all(type(count) is int for count in counts)
        return placement if sound else None

    def digest(self, workload: str) -> str:
        """Ten hexadecimal digits for this placement of this workload: label value and end of the name."""
        return _digest(workload, self)


@dataclass(frozen=True, slots=True)
class Shares:
    """What the counts and the placement of a Deployment do not tell of a replacement share by share."""

    roll: Roll
    """Where it began. Begun anew by each successor it would end more old replicas than there is need to."""
    batch_limit: int
    """That was decided; the status may still tell that of the old placement."""
    board_limit_watts: int = 0
    """The same of the power limit of its boards; 0 where there is none."""

    def to_annotation(self) -> str:
        """Compact JSON for `lowbeam.dev/shares`; without a power limit that there is none of."""
        named = {"batchLimit": self.batch_limit, "newReplicas": self.roll.new, "oldReplicas": self.roll.old}
        if self.board_limit_watts:
            named["boardLimitWatts"] = self.board_limit_watts
        return json.dumps(named, separators=(",", ":"))

    @classmethod
    def from_annotation(cls, text: str) -> Self | None:
        """Read `lowbeam.dev/shares` back; None when somebody edited it into something else."""
        try:
            raw = json.loads(text)
            old, new, batch_limit = raw["oldReplicas"], raw["newReplicas"], raw["batchLimit"]
            limit_watts = raw.get("boardLimitWatts", 0)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        counts = (old, new, batch_limit, limit_watts)
        if not all(type(count) is int and count <= _MOST for count in counts):
            return None
        if min(old, batch_limit, new + 1, limit_watts + 1) < 1:
            return None
        return cls(Roll(old, new), batch_limit, limit_watts)


@lru_cache(maxsize=16384)
def _digest(workload: str, placement: Placement) -> str:
    """Remembered: every tick asks it for every workload."""
    return labels.short_hash(f"{workload}\n{placement.to_annotation()}")


def deployment_name(workload: str, placement: Placement) -> str:
    """`WORKLOAD-DIGEST`, at most 63 characters: a pod's host name and labels hold it whole."""
    return labels.with_hash(_as_label(workload), placement.digest(workload))


def service_name(workload: str) -> str:
    """The workload's own name where a Service may have it (RFC 1035), else the nearest one with a hash."""
    if _SERVICE_NAME.fullmatch(workload):
        return workload
    stem = _as_label(workload)
    return labels.with_hash(stem if stem[:1].isalpha() else f"iw-{stem}", labels.short_hash(workload))


def _as_label(name: str) -> str:
    """`name` with nothing but letters, digits and dashes: dots in a pod's name make a surprising host name."""
    return re.sub(r"[^a-z0-9-]", "-", name.lower())


def owner_references(name: str, uid: str) -> list[dict[str, Any]]:
    """The InferenceWorkload as controller; without blockOwnerDeletion, which would need rights on its finalizers."""
    return [{"apiVersion": API_VERSION, "kind": "InferenceWorkload", "name": name, "uid": uid, "controller": True}]


def control_token(key: bytes, uid: str) -> str:
    """The bearer token of one workload's control port: HMAC-SHA256 of the workload's uid under the operator's key.

    Derived, so that a restarted operator knows it without reading a Secret, and one workload's token opens no other's.
    """
    return hmac.new(key, uid.encode(), hashlib.sha256).hexdigest()
