"""`lowbeam catalog verify`: what is wrong and what is suspicious, in the built-in catalogue or in a user's objects.

Objects from files are laid over the built-in catalogue as the operator does it: an object that it would refuse is
wrong, with the field and the reason; of the others, only what they add to the findings is shown.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime

from lowbeam.api.v1alpha1 import AcceleratorClass, EnergyProfile, ModelCard
from lowbeam.api.v1alpha1.base import KubeObject
from lowbeam.api.v1alpha1.loading import read_documents
from lowbeam.api.v1alpha1.problems import Problem
from lowbeam.catalog import CatalogueProblem, CatalogueReason, Finding, load_builtin, overlay, verify
from lowbeam.catalog.verify import Severity
from lowbeam.cli.catalog.wire import finding_json
from lowbeam.cli.catalog.words import as_json, wrapped
from lowbeam.errors import BadInput

_TITLES = {Severity.ERROR: "WRONG", Severity.SUSPICIOUS: "SUSPICIOUS: physics or the rest of the catalogue contradicts"}


def run(files: Sequence[str], output: str) -> int:
    """Print the findings; 1 when something is wrong."""
    today = datetime.now(UTC).date()
    findings = _of_files(files, today) if files else verify(load_builtin(), today)
    wrong = sum(finding.severity is Severity.ERROR for finding in findings)
    counts = {"wrong": wrong, "suspicious": len(findings) - wrong}
    if output == "json":
        sys.stdout.write(as_json({**counts, "findings": [finding_json(finding) for finding in findings]}) + "\n")
        return 1 if wrong else 0
    for severity, title in _TITLES.items():
        rows = [finding for finding in findings if finding.severity is severity]
        if rows:
            print(title)
            for finding in rows:
                parts = (finding.subject, finding.field, finding.message)
                print(wrapped(": ".join(filter(None, parts)), "  "))
            print()
    kinds = Counter(finding.check for finding in findings if finding.severity is Severity.SUSPICIOUS)
    if kinds:
        print(wrapped(f"suspicious by kind: {', '.join(f'{kind} {count}' for kind, count in sorted(kinds.items()))}"))
    print(f"{counts['wrong']} wrong, {counts['suspicious']} suspicious")
    return 1 if wrong else 0


def _of_files(files: Sequence[str], today: date) -> list[Finding]:
    """What the objects add to the findings of the built-in catalogue."""
    from lowbeam.cli.manifests import read_texts  # brings the planner with it

    objects: list[KubeObject] = []
    findings: list[Finding] = []
    for path in files:
        for name, text in read_texts(path):
            for result in read_documents(text):
                findings += [_unreadable(name, problem) for problem in result.problems]
                if isinstance(result.object, ModelCard | AcceleratorClass | EnergyProfile):
                    objects.append(result.object)
    if not objects and not findings:
        raise BadInput(f"no ModelCard, AcceleratorClass or EnergyProfile in {', '.join(files)}; nothing to verify")
    catalogue, problems = overlay(
        load_builtin(),
        [item for item in objects if isinstance(item, ModelCard)],
        [item for item in objects if isinstance(item, AcceleratorClass)],
        [item for item in objects if isinstance(item, EnergyProfile)],
    )
    findings += [_refused(problem) for problem in problems]
    known = set(verify(load_builtin(), today))
    findings += [finding for finding in verify(catalogue, today) if finding not in known]
    return sorted(findings, key=lambda finding: (finding.severity, finding.subject, finding.field))


def _unreadable(file: str, problem: Problem) -> Finding:
    subject = f"{file}: {problem.object}"
    return Finding(Severity.ERROR, subject, problem.field, problem.message, CatalogueReason.INVALID_FIELD.value)


def _refused(problem: CatalogueProblem) -> Finding:
    subject = f"{problem.kind}/{problem.name}"
    return Finding(Severity.ERROR, subject, problem.field, problem.message, problem.reason.value)
