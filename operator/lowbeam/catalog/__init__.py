"""The catalogue: what is known about models, accelerators and the energy of running one on the other.

    load_builtin()                                  facts that ship with Lowbeam
    overlay(catalogue, cards, classes, profiles)    objects of the cluster on top, bad ones refused one by one
    class_of_node(labels, catalogue)                which accelerators a node has
    stars(...), largest_model(...), verify(...)     judgements on the facts
    official_score(...)                             what the AI Energy Score says, never mixed with stars

Read-only; never looks at workloads, caps or clusters.
"""

from lowbeam.catalog.builtin import load_builtin
from lowbeam.catalog.comparison import benchmarks_of, largest_model
from lowbeam.catalog.facts import Catalogue
from lowbeam.catalog.nodes import class_of_node, why_no_class
from lowbeam.catalog.official_stars import official_score
from lowbeam.catalog.overlay import overlay
from lowbeam.catalog.problems import CatalogueProblem, CatalogueReason
from lowbeam.catalog.stars import stars
from lowbeam.catalog.verify import Finding, verify

__all__ = [
    "Catalogue",
    "CatalogueProblem",
    "CatalogueReason",
    "Finding",
    "benchmarks_of",
    "class_of_node",
    "largest_model",
    "load_builtin",
    "official_score",
    "overlay",
    "stars",
    "verify",
    "why_no_class",
]
