"""What real engines print becomes counts; what they do not print stays unknown."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbeam.api.v1alpha1 import Engine
from lowbeam.api.wire import MeterMethod, MeterScope
from lowbeam.telemetry import Sample, SampleError, SampleProblem, SampleSource, WorkerEndpoint, WorkerPoller
from lowbeam.telemetry.engine_metrics import PREFIXES, SERIES, EngineCounts, read
from tests.fakes.clock import VirtualClock

RECORDED = Path(__file__).parent / "engines"

COUNTS = {
    "vllm.txt": (Engine.VLLM, EngineCounts(1, 0, 0, 5, 7), 1),
    "sglang.txt": (Engine.SGLANG, EngineCounts(1, 0, 0, 5, 32), 1),
    "sglang-busy.txt": (Engine.SGLANG, EngineCounts(None, 162, 2826, 8_128_902, 7_557_572), None),
    "tei.txt": (Engine.TEI, EngineCounts(4, None, 0, 41, None), 4),
    "llamacpp.txt": (Engine.LLAMA_CPP, EngineCounts(None, 2, 3, 27, 50), None),
}


@pytest.mark.parametrize(("name", "expected"), COUNTS.items(), ids=COUNTS)
def test_a_recorded_exposition_says(name: str, expected: tuple[Engine, EngineCounts, int | None]) -> None:
    engine, counts, accepted = expected
    found = read(engine, (RECORDED / name).read_text())
    assert found == counts
    assert found.accepted == accepted


def test_series_of_several_engines_and_endings_are_added() -> None:
    text = "\n".join(
        [
            'vllm:request_success_total{engine="0",finished_reason="stop",model_name="a b}c"} 4.0',
            'vllm:request_success_total{engine="1",finished_reason="length",model_name="m"} 2.0 1700000000000',
            'vllm:num_requests_running{engine="0"} 3',
            'vllm:num_requests_running{engine="1"} 1',
            "vllm:num_requests_running_by_somebody 99",
        ]
    )
    assert read(Engine.VLLM, text) == EngineCounts(completed=6, running=4)


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1", "1e160", "9223372036854775808"])
def test_what_is_no_count_is_no_answer(value: str) -> None:
    with pytest.raises(ValueError, match="completed is"):
        read(Engine.VLLM, f"vllm:request_success_total {value}\n")


@pytest.mark.parametrize("engine", PREFIXES)
def test_the_text_of_another_engine_is_no_answer_and_an_empty_one_is_not_zero(engine: Engine) -> None:
    for name, (other, _, _) in COUNTS.items():
        if other is not engine:
            with pytest.raises(ValueError, match="no metric begins with"):
                read(engine, (RECORDED / name).read_text())
    assert read(engine, "") == EngineCounts()


@settings(deadline=None)
@given(st.sampled_from(sorted(PREFIXES)), st.text(max_size=200), st.text(max_size=80))
def test_whatever_comes_back_is_counts_or_a_value_error(engine: Engine, text: str, more: str) -> None:
    for body in (text, f"{next(iter(SERIES[engine]))}{more}\n{text}"):
        try:
            found = read(engine, body)
        except ValueError:
            continue
        assert all(it is None or it >= 0 for it in (found.completed, found.running, found.input_tokens))


@dataclass
class Server:
    text: str = ""
    status: int = 200
    asked: list[str] = field(default_factory=list)
    url: str = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        return web.Response(status=self.status, text=self.text)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server, app = Server(), web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


async def polled(server: Server, engine: Engine) -> Sample | SampleError:
    clock = VirtualClock(datetime(2026, 11, 21, tzinfo=UTC))
    async with WorkerPoller(monotonic_ms=clock.monotonic_ms, now=clock.now) as poller:
        poller.set_endpoints([WorkerEndpoint("u", "team", "pod-0", server.url, engine=engine)])
        await poller.poll_now()
        return poller.samples().get("u") or poller.errors()["u"]


async def test_an_engines_metrics_are_a_sample_without_watts(server: Server) -> None:
    server.text = (RECORDED / "sglang.txt").read_text()
    sample = await polled(server, Engine.SGLANG)
    assert isinstance(sample, Sample)
    assert server.asked == ["/metrics"]
    assert (sample.source, sample.milliwatts, sample.joules_total) == (SampleSource.ENGINE, None, None)
    assert (sample.method, sample.scope) == (MeterMethod.UNAVAILABLE, MeterScope.NONE)
    assert (sample.requests_received_total, sample.output_tokens_total) == (1, 32)
    assert sample.profile is None, "nobody may send it a hot change"


async def test_a_page_that_is_no_exposition_names_pod_and_field(server: Server) -> None:
    server.text = "<html>login</html>"
    error = await polled(server, Engine.VLLM)
    assert isinstance(error, SampleError)
    assert error.problem is SampleProblem.BAD_SCHEMA
    assert "VLLM pod team/pod-0" in error.message
    assert "spec.engine" in error.message


async def test_metrics_that_are_switched_off_are_refused_and_not_zero(server: Server) -> None:
    server.status, server.text = 501, json.dumps({"error": "This server does not support metrics endpoint."})
    error = await polled(server, Engine.LLAMA_CPP)
    assert isinstance(error, SampleError)
    assert error.problem is SampleProblem.REFUSED
    assert error.source is SampleSource.ENGINE


async def test_an_engine_that_wants_a_key_is_not_said_to_refuse_our_token(server: Server) -> None:
    server.status = 401
    error = await polled(server, Engine.LLAMA_CPP)
    assert isinstance(error, SampleError)
    assert error.problem is SampleProblem.UNAUTHORIZED
    assert "take the API key out of spec.pod" in error.message


async def test_an_exposition_of_half_a_megabyte_is_read(server: Server) -> None:
    filler = 'vllm:inter_token_latency_seconds_bucket{engine="0",le="0.01",model_name="m"} 7.0\n' * 6000
    server.text = filler + 'vllm:request_success_total{engine="0",finished_reason="stop"} 9.0\n'
    sample = await polled(server, Engine.VLLM)
    assert isinstance(sample, Sample)
    assert sample.requests_completed_total == 9


@pytest.mark.parametrize(
    "line",
    [
        "vllm:num_requests_running  12345{ }NaN",
        'vllm:num_requests_running{, = # {x="1"} 3{"vllm:num_requests_running"} 12345',
    ],
)
def test_a_line_that_the_parser_trips_over_is_a_wrong_answer_and_no_other_error(line: str) -> None:
    with pytest.raises(ValueError, match="a line is no metric"):
        read(Engine.VLLM, line)
