"""From points to the text that kubectl and the catalogue take."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
import yaml

from lowbeam.api.v1alpha1 import EnergyProfile
from lowbeam.api.v1alpha1.loading import read_documents
from lowbeam.catalog import load_builtin, overlay, verify
from lowbeam.catalog.facts import Basis
from lowbeam_worker.calibration.profile import ANNOTATION, document, rising
from tests.worker.calibration_on_a_stub import CARD, CLASS
from tests.worker.calibration_samples import DECODER, ENCODER, measurement, options, point

CURVE = (point(1, 10.0, 40.0), point(4, 25.5, 60.0))


def read(text: str) -> EnergyProfile:
    (result,) = read_documents(text)
    assert not result.problems
    assert isinstance(result.object, EnergyProfile)
    return result.object


def test_the_text_is_an_object_that_the_catalogue_takes_without_a_doubt() -> None:
    profile = read(document(options(*DECODER), measurement(*CURVE)))
    catalogue, problems = overlay(load_builtin(), [CARD], [CLASS], [profile])
    assert not problems
    (fact,) = (it for it in catalogue.profiles if it.name == profile.metadata.name)
    assert (fact.basis, fact.engine, fact.input_tokens, fact.output_tokens) == (Basis.MEASURED, "native-0.1.0", 16, 20)
    assert [it.milliwatts for it in fact.points] == [40_000, 60_000]
    assert [it.requests_per_second_milli for it in fact.points] == [10_000, 25_500]
    assert [it.inter_token_p95_us for it in fact.points] == [500, 500]
    assert not [it for it in verify(catalogue) if fact.name in it.subject]


def test_it_takes_the_place_of_the_built_in_profile_of_the_same_variant() -> None:
    text = document(options(*ENCODER), measurement(point(1, 300.0, 40.0, writes=False)))
    raw = yaml.safe_load(text)
    raw["spec"]["acceleratorClass"] = "l4"
    raw["spec"]["precision"] = "bf16"
    catalogue, problems = overlay(load_builtin(), [], [], [raw])
    assert not problems
    same = [it for it in catalogue.profiles if (it.model, it.accelerator_class) == ("all-minilm-l6-v2", "l4")]
    assert [it.basis for it in same] == [Basis.MEASURED]


def test_what_was_run_and_how_sure_it_is_stand_in_the_source() -> None:
    source = read(document(options(*DECODER), measurement(*CURVE))).spec.source
    assert source.citation == "lowbeam calibrate on Stub L4, energy by nvmlDeviceGetTotalEnergyConsumption"
    note = source.note or ""
    for words in ("torch 2.13.0", "driver 580.00.stub", "0123456789abcdef", "120 requests", "+-2.5%", "25.5 W after"):
        assert words in note


def test_everything_measured_travels_with_the_object() -> None:
    record = json.loads(read(document(options(*DECODER), measurement(*CURVE))).metadata.annotations[ANNOTATION])
    first = record["points"][0]
    assert first["tokensPerSecond"]["mean"] == 200
    assert first["joulesPerToken"]["mean"] == pytest.approx(0.2)
    assert first["joulesPerToken"]["plusMinus"] == pytest.approx(0.2 * 0.0248, rel=0.01)
    assert first["timeToFirstTokenMilliseconds"] == {"p50": 2.0, "p95": 3.0, "p99": None}
    assert record["leftOut"][0]["batches"] == [64, 128]
    assert record["idleWatts"] == {"before": 25.0, "after": 25.5}


def test_a_model_without_text_has_no_tokens_in_its_record_nor_in_its_points() -> None:
    profile = read(document(options(*ENCODER), measurement(point(1, 300.0, 40.0, writes=False))))
    assert profile.spec.points[0].inter_token_p50_microseconds is None
    assert not any("oken" in key for key in json.loads(profile.metadata.annotations[ANNOTATION])["points"][0])


def test_an_interrupted_measurement_says_so() -> None:
    note = read(document(options(*DECODER), measurement(*CURVE, after=None))).spec.source.note or ""
    assert "interrupted before it was measured after" in note


def test_above_the_object_stands_a_table_that_fits_a_screen() -> None:
    lines = document(options(*DECODER), measurement(*CURVE)).split("apiVersion")[0].splitlines()
    assert lines[0] == "---"
    assert lines[2].split()[1:4] == ["batch", "tokens/s", "watts"]
    assert lines[3].split()[1:5] == ["1", "200.000", "40.0", "0.2"]
    assert lines[-1] == ("# batch 64, 128 left out: the key-value cache of 2048 tokens holds 56 requests of 36")
    assert all(len(line) <= 80 for line in lines[:-1])


def test_a_rate_that_is_small_keeps_its_digits() -> None:
    (only,) = read(document(options(*DECODER), measurement(point(1, 0.012345678, 300.0)))).spec.points
    assert Decimal(only.requests_per_second) == Decimal("0.012346")


def test_batches_that_serve_no_more_than_a_smaller_one_are_left_out_with_the_reason() -> None:
    kept, dropped = rising([point(1, 10.0, 40.0), point(2, 10.0004, 45.0), point(4, 9.0, 50.0), point(8, 11.0, 60.0)])
    assert [it.batch for it in kept] == [1, 8]
    assert [str(it) for it in dropped] == [
        "batch 2 left out: it serves no more than batch 1",
        "batch 4 left out: it serves no more than batch 1",
    ]
