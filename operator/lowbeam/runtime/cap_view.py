"""PowerCap objects as the pure core wants them: `power.Cap` values and node pools.

Decides how scopes are resolved: a node pool is named after its cap, a namespace selector becomes a set of names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lowbeam.api.v1alpha1 import PowerCap
from lowbeam.power.caps import Cap
from lowbeam.power.from_spec import cap_of_spec

Labels = Mapping[str, str]


def cap_of(cap: PowerCap, namespaces: Mapping[str, Labels]) -> Cap:
    """One cap for the core; `namespaces` are the cluster's, with their labels."""
    return cap_of_spec(cap.metadata.name, cap.metadata.uid, cap.spec, _namespaces(cap, namespaces))


def pool_caps(caps: Iterable[PowerCap]) -> list[tuple[str, dict[str, str]]]:
    """(pool name, node selector) of every node-pool cap."""
    return [(c.metadata.name, dict(c.spec.scope.node_pool.node_selector)) for c in caps if c.spec.scope.node_pool]


def _namespaces(cap: PowerCap, namespaces: Mapping[str, Labels]) -> frozenset[str]:
    scope = cap.spec.scope.namespaces
    if scope is None:
        return frozenset()
    chosen = set(scope.names)
    if scope.selector is not None:
        wanted = scope.selector.match_labels.items()
        chosen |= {name for name, labels in namespaces.items() if wanted <= dict(labels).items()}
    return frozenset(chosen)
