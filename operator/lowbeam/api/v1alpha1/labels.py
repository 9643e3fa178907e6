"""Labels and selectors by equality, in the syntax that Kubernetes demands of them.

Decides what a key and a value may be. A selector of a PowerCap becomes part of the affinity of other people's pods: one
that Kubernetes does not take would have every one of their Deployments refused.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, StringConstraints

from lowbeam.api.v1alpha1.base import Rule


def _key_pattern(of_domain: str) -> str:
    part = f"[{of_domain}]([-{of_domain}]*[{of_domain}])?"
    return rf"^({part}(\.{part})*/)?([A-Za-z0-9][-A-Za-z0-9_.]{{0,61}})?[A-Za-z0-9]$"


LABEL_KEY_PATTERN = _key_pattern("a-z0-9")
"""`rack`, or with the domain of whoever made it `example.org/rack`."""
ANNOTATION_KEY_PATTERN = _key_pattern("A-Za-z0-9")
"""The same, but capital letters may be in the domain too."""
LABEL_VALUE_PATTERN = "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
"""Empty is a value too."""
LONGEST_LABEL_VALUE = 63
LONGEST_DOMAIN = 253
KEY_FORM = (
    "letters, digits, dashes, underscores and dots (at most 63, a letter or digit at both ends), "
    "after a domain and a slash where it has one, e.g. example.org/rack"
)

LabelKey = Annotated[str, StringConstraints(min_length=1, max_length=317, pattern=LABEL_KEY_PATTERN)]
LabelValue = Annotated[str, StringConstraints(max_length=LONGEST_LABEL_VALUE, pattern=LABEL_VALUE_PATTERN)]
KeyOfMap = Annotated[str, StringConstraints(max_length=317)]
"""Its form is a matter of `has_keys_of_labels`: a schema cannot constrain the keys of a map."""
Labels = Annotated[dict[KeyOfMap, LabelValue], Field(max_length=32)]
"""Labels or a label selector by equality; the structure declares `has_keys_of_labels` for it."""


def has_keys_of_labels(field: str, name: str, *, pattern: str = LABEL_KEY_PATTERN) -> Rule:
    """The rule that every key of the map `field` (in the API; `name` in the model) is one that Kubernetes takes."""
    return Rule(
        cel=f"!has(self.{field}) || "
        f"self.{field}.all(key, key.indexOf('/') <= {LONGEST_DOMAIN} && key.matches('{_in_cel(pattern)}'))",
        message=f"every key in {field} must be {KEY_FORM}",
        holds=lambda it: all(
            key.find("/") <= LONGEST_DOMAIN and re.fullmatch(pattern, key) for key in getattr(it, name)
        ),
        field=field,
    )


def _in_cel(pattern: str) -> str:
    return pattern.replace("\\", "\\\\")
