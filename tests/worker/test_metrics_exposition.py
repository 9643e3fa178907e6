"""What /metrics says: names that parse, the names of the model-server protocol, buckets, exemplars, and the alarm."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from prometheus_client.samples import Sample
from transformers import BertForSequenceClassification

from lowbeam.api.wire import (
    EnergyParts,
    MeterMethod,
    MeterScope,
    RunningProfile,
    WorkerState,
    WorkerTelemetry,
)
from lowbeam_worker.energy.cost import Prices
from lowbeam_worker.energy.ledger import Ledger
from lowbeam_worker.energy.meter import Meter
from lowbeam_worker.engines.base import EngineStats
from lowbeam_worker.metrics import FIRST_TOKEN_SECONDS, REQUEST_SECONDS, TOKEN_SECONDS, TRACE, Metrics, trace_id
from lowbeam_worker.options import Task
from tests.worker.conftest import local_worker, options
from tests.worker.tiny import save_bert

PROMETHEUS_2 = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
PROMETHEUS_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.2"
TRACED = "4bf92f3577b34da6a3ce929d0e0e4736"
DECODER = EngineStats(
    3,
    2,
    cache_usage=0.25,
    cache_tokens=3200,
    cache_page_tokens=32,
    steps=9,
    tokens=80,
    padded_tokens=100,
    prices=Prices(0.01, 0.001, 0.002),
)


def telemetry(*, metered: bool, age_s: float = 0.0) -> WorkerTelemetry:
    return WorkerTelemetry(
        pod="p",
        state=WorkerState.READY,
        profile=RunningProfile(model="tiny", precision="bf16", batch_limit=8),
        method=MeterMethod.NVML if metered else MeterMethod.UNAVAILABLE,
        scope=MeterScope.DEVICE if metered else MeterScope.NONE,
        sampled_at_seconds=time.time() - age_s,
        watts=90.0 if metered else None,
        energy_joules=EnergyParts(active=5, idle=3, load=1, reconfigure=1, counter=10) if metered else None,
        requests_running=3,
        requests_waiting=2,
        input_tokens_total=40,
        output_tokens_total=20,
    )


def shown(*, metered: bool = True, stats: EngineStats | None = DECODER) -> Metrics:
    metrics = Metrics()
    metrics.show(lambda: (telemetry(metered=metered), stats, Meter(None, Ledger())))
    metrics.completed("tiny", 40, 20, 1.5, 5.0 if metered else None, finished_reason="length")
    metrics.ended("tiny", "abort")
    metrics.first_token("tiny", 0.05)
    metrics.next_token("tiny", 0.02)
    metrics.generated("tiny", 0.1, 0.2, 1.9, 20)
    return metrics


def samples(metrics: Metrics) -> dict[str, list[Sample]]:
    text, content_type = metrics.exposition()
    assert content_type.startswith("text/plain")
    found: dict[str, list[Sample]] = {}
    for family in parse(text.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    return found


def test_every_line_parses_and_every_series_has_help_type_and_a_name_as_promtool_wants_it() -> None:
    text = shown().exposition()[0].decode()
    for family in parse(text):
        assert family.documentation
        assert family.type in {"counter", "gauge", "histogram", "info"}
        assert re.fullmatch(r"(vllm:|lowbeam_worker_)[a-z][a-z0-9_]*", family.name)
        for sample in family.samples:
            assert not math.isnan(sample.value)
            if family.type == "counter":
                assert sample.name.endswith(("_total", "_created"))
            if family.name.startswith("vllm:") and not family.name.endswith("_info"):
                assert {"model_name", "engine"} <= set(sample.labels)
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))


def test_the_model_server_protocol_finds_what_it_reads() -> None:
    found = samples(shown())
    assert found["vllm:num_requests_running"][0].value == 3
    assert found["vllm:num_requests_waiting"][0].value == 2
    assert found["vllm:kv_cache_usage_perc"][0].value == 0.25
    assert found["vllm:cache_config_info"][0].labels["block_size"] == "32"
    assert found["vllm:cache_config_info"][0].labels["num_gpu_blocks"] == "100"
    assert found["vllm:prompt_tokens_total"][0].value == 40
    assert found["vllm:generation_tokens_total"][0].value == 20
    ended = {sample.labels["finished_reason"]: sample.value for sample in found["vllm:request_success_total"]}
    assert ended == {"length": 1, "abort": 1}
    assert found["vllm:request_time_per_output_token_seconds_sum"][0].value == pytest.approx(0.1)
    for histogram in (
        *("vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds", "vllm:e2e_request_latency_seconds"),
        *("vllm:request_queue_time_seconds", "vllm:request_prefill_time_seconds", "vllm:request_decode_time_seconds"),
        *("vllm:request_inference_time_seconds", "vllm:request_prompt_tokens", "vllm:request_generation_tokens"),
    ):
        assert found[f"{histogram}_count"][0].value == 1


def test_what_requests_are_counted_by_is_there_before_the_first_and_begins_at_zero() -> None:
    before, after = Metrics(), shown()
    before.show(lambda: (telemetry(metered=False), DECODER, Meter(None, Ledger())))
    before.serves("tiny", generates=True)
    found = samples(before)
    counted = {name for name in samples(after) if name.startswith("vllm:") or name.startswith("lowbeam_worker_request")}
    assert counted <= set(found)
    reasons = found["vllm:request_success_total"]
    assert {sample.labels["finished_reason"]: sample.value for sample in reasons} == {
        "stop": 0,
        "length": 0,
        "abort": 0,
        "error": 0,
    }
    assert found["vllm:time_to_first_token_seconds_count"][0].value == 0


async def test_a_worker_that_has_answered_nobody_shows_them(tmp_path: Path) -> None:
    folder = save_bert(BertForSequenceClassification, tmp_path, num_labels=2)
    async for local in local_worker(options(Task.TEXT_CLASSIFICATION, "judge", str(folder))):
        found = samples(local.worker.metrics)
        assert found["lowbeam_worker_request_seconds_count"][0].value == 0
        assert found["vllm:e2e_request_latency_seconds_count"][0].labels["model_name"] == "judge"
        assert "vllm:time_to_first_token_seconds_count" not in found  # an encoder has none


def test_names_that_vllm_has_given_up_are_not_shown() -> None:
    assert not {"vllm:gpu_cache_usage_perc", "vllm:time_per_output_token_seconds_count"} & set(samples(shown()))


@pytest.mark.parametrize(
    ("name", "buckets"),
    [
        ("vllm:time_to_first_token_seconds", FIRST_TOKEN_SECONDS),
        ("vllm:inter_token_latency_seconds", TOKEN_SECONDS),
        ("vllm:e2e_request_latency_seconds", REQUEST_SECONDS),
    ],
)
def test_histograms_have_vllms_buckets_and_count_upwards(name: str, buckets: tuple[float, ...]) -> None:
    found = samples(shown())[f"{name}_bucket"]
    assert [float(sample.labels["le"]) for sample in found] == [*buckets, math.inf]
    counts = [sample.value for sample in found]
    assert counts == sorted(counts)
    assert counts[-1] == 1


def test_an_encoder_shows_padding_and_no_cache() -> None:
    found = samples(shown(stats=EngineStats(1, 0, steps=4, tokens=75, padded_tokens=100)))
    assert found["lowbeam_worker_padding_efficiency"][0].value == 0.75
    assert found["lowbeam_worker_step_tokens_total"][0].value == 75
    assert found["lowbeam_worker_step_padded_tokens_total"][0].value == 100
    assert "vllm:kv_cache_usage_perc" not in found
    assert "lowbeam_worker_step_price_seconds" not in found


def test_without_a_meter_there_is_no_energy_series_and_no_watt() -> None:
    found = samples(shown(metered=False))
    energetic = {name for name in found if "joules" in name or "watts" in name}
    assert not energetic
    assert found["lowbeam_worker_energy_method_info"][0].labels == {
        "method": "unavailable",
        "scope": "none",
        "source": "none",
    }


def test_watts_of_a_meter_that_was_lost_are_not_exported_as_those_of_now() -> None:
    metrics, age_s = Metrics(), 3.0
    metrics.show(lambda: (telemetry(metered=True, age_s=age_s), DECODER, Meter(None, Ledger())))
    assert samples(metrics)["lowbeam_worker_power_watts"][0].value == 90
    age_s = 11.0
    found = samples(metrics)
    assert "lowbeam_worker_power_watts" not in found
    assert found["lowbeam_worker_sample_age_seconds"][0].value >= 11


def test_energy_is_told_by_phase_and_the_alarm_is_zero() -> None:
    found = samples(shown())
    phases = {sample.labels["phase"]: sample.value for sample in found["lowbeam_worker_energy_joules_total"]}
    assert sum(phases.values()) == found["lowbeam_worker_energy_counter_joules_total"][0].value == 10
    assert found["lowbeam_worker_energy_ledger_error_joules"][0].value == 0
    assert found["lowbeam_worker_energy_charged_joules_total"][0].value == 5


def test_a_broken_book_rings_the_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, meter = Metrics(), Meter(None, Ledger())
    metrics.show(lambda: (telemetry(metered=True), DECODER, meter))
    monkeypatch.setattr(meter, "_counted_mj", 1500)  # the ledger has booked nothing of it
    assert samples(metrics)["lowbeam_worker_energy_ledger_error_joules"][0].value == 1.5


@pytest.mark.parametrize("accept", [PROMETHEUS_2, PROMETHEUS_3])
def test_an_openmetrics_scraper_gets_trace_ids_with_the_latencies_and_the_same_names(accept: str) -> None:
    metrics = Metrics()
    token = TRACE.set(trace_id(f"00-{TRACED}-00f067aa0ba902b7-01"))
    metrics.first_token("tiny", 0.05)
    TRACE.reset(token)
    text, content_type = metrics.exposition(accept)
    assert content_type.startswith("application/openmetrics-text")
    families = list(parse_openmetrics(text.decode()))  # type: ignore[no-untyped-call]
    assert "vllm:time_to_first_token_seconds" in {family.name for family in families}
    exemplars = [sample.exemplar for family in families for sample in family.samples]
    assert [exemplar.labels for exemplar in exemplars if exemplar] == [{"trace_id": TRACED}]


@pytest.mark.parametrize("header", [None, "", "00-xyz-1-01", f"00-{'0' * 32}-00f067aa0ba902b7-01", "\n" * 50])
def test_a_malformed_traceparent_is_no_trace(header: str | None) -> None:
    assert trace_id(header) is None
