"""The figures in docs/catalogue-physics.md, so that no number there is typed by hand."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from lowbeam.catalog.builtin import NOTHING
from lowbeam.catalog.facts import Catalogue
from lowbeam.catalog.knee import with_targets
from lowbeam.catalog.overlay import overlay
from lowbeam.catalog.verify import Severity, verify
from tools.catalog.board_limit_figures import board_limit_figures
from tools.catalog.encoders import cpu_flops_per_second
from tools.catalog.figures import BEGIN, END
from tools.catalog.fits import Fitted
from tools.catalog.mixtures import transfer_errors
from tools.catalog.physics import Errors, PhysicalModel
from tools.catalog.published import LEFT_OUT
from tools.catalog.references import SERIES
from tools.catalog.rows import Manifest


def with_physics_figures(
    text: str,
    cards: Sequence[Manifest],
    classes: Sequence[Manifest],
    profiles: Sequence[Manifest],
    physics: Fitted,
) -> str:
    """The document with the part between the two markers replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    catalogue, problems = overlay(NOTHING, cards, classes, profiles)
    if problems:
        raise ValueError(f"the catalogue refuses its own data: {problems[0]} (and {len(problems) - 1} more)")
    parts = [
        _classes(classes),
        _counts(classes, profiles),
        _errors(physics, profiles),
        _uncertainty(profiles),
        _constants(physics),
        board_limit_figures(catalogue),
        _series(profiles),
        _left_out(),
        _findings(catalogue),
    ]
    return f"{before}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}"


def _classes(classes: Sequence[Manifest]) -> str:
    lines = [
        "| class | product label | memory GiB | GB/s | BF16 / FP16 / FP8 TFLOP/s | limit W: min, default "
        "| idle W: bare, loaded |",
        "|---|---|---|---|---|---|---|",
    ]
    for item in classes:
        spec = item["spec"]
        peaks = " / ".join(str(spec.get(f"denseTeraflops{name}", "-")) for name in ("Bf16", "Fp16", "Fp8"))
        lines.append(
            f"| {item['metadata']['name']} | {', '.join(spec.get('productLabels', [])) or '-'} "
            f"| {spec['memoryMebibytes'] / 1024:.1f} | {spec['memoryBandwidthGigabytesPerSecond']} | {peaks} "
            f"| {spec.get('minWatts', '-')}, {spec['maxWatts']} "
            f"| {spec.get('bareIdleWatts', '-')}, {spec['idleWatts']} |"
        )
    return "\n".join(lines)


def _counts(classes: Sequence[Manifest], profiles: Sequence[Manifest]) -> str:
    rows = Counter(
        (p["spec"]["acceleratorClass"], "Reference" if "series" in p["spec"] else p["spec"]["basis"]) for p in profiles
    )
    kinds = ("Published", "Modelled", "Reference")
    names = [item["metadata"]["name"] for item in classes]
    total = " | ".join(str(sum(rows[name, kind] for name in names)) for kind in kinds)
    return "\n".join(
        [
            "Energy profiles (reference: another series, shown and never planned with):",
            "",
            "| class | published | modelled | reference |",
            "|---|---|---|---|",
            *(f"| {name} | {' | '.join(str(rows[name, kind]) for kind in kinds)} |" for name in names),
            f"| all {len(profiles)} | {total} |",
        ]
    )


def _errors(physics: Fitted, profiles: Sequence[Manifest]) -> str:
    rows = [
        *((f"joules, {name.upper()}: each model from the others", errors) for name, errors in physics.left_out.items()),
        ("joules, B200 from the H100's constants", physics.other_class),
        ("joules, B200: mixtures of experts carried from H100 by the ratio", transfer_errors(physics, profiles)),
        ("joules, A100 from the H100's constants (both within ML.ENERGY v2)", physics.generation),
        ("watts, A40, V100 and A100 at batch 1 (ML.ENERGY v1)", physics.single_request_watts),
        ("seconds, vision transformers on an RTX 4090", physics.encoder_throughput),
    ]
    lines = [
        "Errors on what the fit has not seen:",
        "",
        "| predicted | points | median | 90 % are within | bias |",
        "|---|---|---|---|---|",
        *(_error_row(name, errors) for name, errors in rows),
    ]
    return "\n".join(lines)


def _error_row(name: str, e: Errors) -> str:
    cells = f"{e.median_percent:.1f} % | {e.p90_percent:.1f} % | {e.bias_percent:+.1f} %"
    return f"| {name} | {len(e.relative)} | {cells} |"


def _uncertainty(profiles: Sequence[Manifest]) -> str:
    found: dict[str, set[int]] = defaultdict(set)
    for profile in profiles:
        spec = profile["spec"]
        if spec["basis"] == "Modelled":
            kind = "decoders" if spec["outputTokens"] > 1 else "encoders"
            found[f"{spec['acceleratorClass']}, {kind}"].add(spec["uncertaintyPercent"])
    cells = [f"{name} {' / '.join(map(str, sorted(values)))} %" for name, values in sorted(found.items())]
    return "Uncertainty of the modelled profiles: " + "; ".join(cells) + "."


def _constants(physics: Fitted) -> str:
    lines = [
        "| constants of | c0 ms | c1 | c2 | c3 us per layer | c4 us per request | p0 | p1 | p2 | p95 / p50 |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_constants_row(name, model, physics.p95_factors[name]) for name, model in physics.models.items()),
        "",
        f"A CPU replica computes {cpu_flops_per_second() / 1e9:.0f} GFLOP/s.",
    ]
    return "\n".join(lines)


def _constants_row(name: str, model: PhysicalModel, p95_factor: float) -> str:
    c0, c1, c2, c3, c4 = model.time
    times = f"{c0 * 1e3:.2f} | {c1:.2f} | {c2:.2f} | {c3 * 1e6:.1f} | {c4 * 1e6:.1f}"
    return f"| {name} | {times} | {' | '.join(f'{p:.2f}' for p in model.power)} | {p95_factor:.2f} |"


def _series(profiles: Sequence[Manifest]) -> str:
    """How far apart the two series are where both ran the same model on as many of the same boards."""
    found: dict[tuple[str, str, int], dict[str, Manifest]] = defaultdict(dict)
    for profile in profiles:
        spec = profile["spec"]
        if spec["basis"] == "Published" and spec["reasoning"] == "Off" and spec["task"] == "text-generation":
            found[spec["model"], spec["acceleratorClass"], spec["accelerators"]][spec.get("series", "v3")] = spec
    lines = [
        "The same models on the same boards in both series, at their largest batches:",
        "",
        "| model | tokens/s, v3 / v2 | joules per token, v3 / v2 |",
        "|---|---|---|",
    ]
    for (model, name, count), by_series in sorted(found.items()):
        if len(by_series) > 1:
            (now, joules), (then, joules_then) = (_last(by_series[key]) for key in ("v3", SERIES))
            lines.append(f"| {model}, {name} x{count} | {now / then:.1f} | {joules / joules_then:.2f} |")
    return "\n".join(lines)


def _last(spec: Manifest) -> tuple[float, float]:
    """(tokens per second, joules per token) at the last point."""
    point = spec["points"][-1]
    rate = float(point["requestsPerSecond"]) * spec["outputTokens"]
    return rate, float(point["watts"]) / rate


def _left_out() -> str:
    lines = ["Published series that are left out:", ""]
    lines += [f"- {model} on {gpu}, {file}: {why}." for (model, gpu, file), why in LEFT_OUT.items()]
    return "\n".join(lines)


def _findings(catalogue: Catalogue) -> str:
    found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for finding in verify(with_targets(catalogue)):
        if finding.severity is Severity.SUSPICIOUS:
            found[finding.check][finding.subject.partition("/")[2]] += 1
    lines = ["Rows that `lowbeam catalog verify` calls suspicious (in brackets: how many points):", ""]
    for check, subjects in sorted(found.items()):
        names = (name if count == 1 else f"{name} ({count})" for name, count in sorted(subjects.items()))
        lines.append(f"- {check}: {', '.join(names)}.")
    return "\n".join(lines)
