"""Each engine is told what the option says, with flags that its own documentation has."""

from __future__ import annotations

import dataclasses
import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from lowbeam.api.v1alpha1.inferenceworkload import Engine, InferenceWorkload
from lowbeam.api.v1alpha1.pod import RESERVED_ARGUMENTS
from lowbeam.api.v1alpha1.provenance import ReasoningSwitch
from lowbeam.catalog.engines import ENGINES
from lowbeam.catalog.facts import AcceleratorClass, Basis, Reasoning, ReasoningControl, Source
from lowbeam.errors import BadInput
from lowbeam.render import ModelTraits, RenderSettings, deployment
from lowbeam.render.engines import ADAPTERS, Launch
from lowbeam.runtime.settings import OperatorSettings
from lowbeam.sizing.options import Option

DOCUMENTED: dict[str, Any] = json.loads((Path(__file__).parent / "engines" / "flags.json").read_text())
OTHERS = [engine for engine in ADAPTERS if engine is not Engine.NATIVE]
THINKS = ReasoningControl(
    ReasoningSwitch.TEMPLATE_FLAG, "enable_thinking", ((Reasoning.OFF, "false"), (Reasoning.HIGH, "true"))
)
BY_LEVEL = ReasoningControl(ReasoningSwitch.EFFORT, "reasoning_effort", ((Reasoning.LOW, "low"),))
CHAT = Launch(
    task="text-generation",
    model="qwen3-8b",
    path="Qwen/Qwen3-8B",
    precision="bf16",
    reasoning=Reasoning.OFF,
    batch_limit=32,
    accelerators=2,
    input_tokens=300,
    output_tokens=500,
    port=8080,
    control_port=9465,
    drain_seconds=60,
    traits=ModelTraits(context_tokens=40_960, reasoning_control=THINKS),
)
EMBED = dataclasses.replace(
    CHAT,
    task="feature-extraction",
    model="minilm",
    path="/models/minilm",
    precision="fp32",
    batch_limit=64,
    accelerators=0,
    input_tokens=400,
    output_tokens=1,
    traits=ModelTraits(),
)

GOLDEN = {
    "native chat": (
        Engine.NATIVE,
        CHAT,
        "--task text-generation --model qwen3-8b --model-path Qwen/Qwen3-8B --precision bf16 --batch-limit 1 "
        '--max-output-tokens 2048 --default-chat-template-kwargs {"enable_thinking":false} --port 8080 '
        "--control-port 9465",
    ),
    "vllm chat": (
        Engine.VLLM,
        CHAT,
        "Qwen/Qwen3-8B --served-model-name qwen3-8b --host 0.0.0.0 --port 8080 --dtype bfloat16 --max-num-seqs 32 "
        "--max-num-batched-tokens 8192 --max-model-len 8192 --tensor-parallel-size 2 --enable-prefix-caching "
        '--shutdown-timeout 55 --default-chat-template-kwargs {"enable_thinking":false}',
    ),
    "vllm thinks in fp8 that it makes itself": (
        Engine.VLLM,
        dataclasses.replace(
            CHAT,
            precision="fp8",
            reasoning=Reasoning.HIGH,
            accelerators=1,
            batch_limit=9000,
            traits=dataclasses.replace(CHAT.traits, quantises=True),
        ),
        "Qwen/Qwen3-8B --served-model-name qwen3-8b --host 0.0.0.0 --port 8080 --dtype auto --quantization fp8 "
        "--max-num-seqs 9000 --max-num-batched-tokens 9000 --max-model-len 8192 --tensor-parallel-size 1 "
        '--enable-prefix-caching --shutdown-timeout 55 --default-chat-template-kwargs {"enable_thinking":true} '
        "--reasoning-parser qwen3",
    ),
    "sglang chat": (
        Engine.SGLANG,
        CHAT,
        "--model-path Qwen/Qwen3-8B --served-model-name qwen3-8b --host 0.0.0.0 --port 8080 --dtype bfloat16 "
        "--max-running-requests 32 --chunked-prefill-size 8192 --context-length 8192 --tp-size 2 --enable-metrics "
        '--default-chat-template-kwargs {"enable_thinking":false}',
    ),
    "tei on a cpu": (
        Engine.TEI,
        EMBED,
        "--model-id /models/minilm --served-model-name minilm --hostname 0.0.0.0 --port 8080 --dtype float32 "
        "--max-batch-requests 64 --max-batch-tokens 25600",
    ),
    "llama.cpp chat": (
        Engine.LLAMA_CPP,
        dataclasses.replace(CHAT, path="/models/q.gguf"),
        "--model /models/q.gguf --alias qwen3-8b --host 0.0.0.0 --port 8080 --parallel 32 --ctx-size 131072 "
        '--gpu-layers all --metrics --no-ui --offline --chat-template-kwargs {"enable_thinking":false}',
    ),
    "llama.cpp embeds a model of unknown context": (
        Engine.LLAMA_CPP,
        dataclasses.replace(EMBED, path="/models/e.gguf"),
        "--model /models/e.gguf --alias minilm --host 0.0.0.0 --port 8080 --parallel 64 --kv-unified "
        "--metrics --no-ui --offline --embeddings",
    ),
    "llama.cpp at a level of reasoning": (
        Engine.LLAMA_CPP,
        dataclasses.replace(
            CHAT, path="/m/g.gguf", batch_limit=1, reasoning=Reasoning.LOW, traits=ModelTraits(2048, BY_LEVEL)
        ),
        "--model /m/g.gguf --alias qwen3-8b --host 0.0.0.0 --port 8080 --parallel 1 --ctx-size 2048 "
        "--gpu-layers all --metrics --no-ui --offline --reasoning-effort low",
    ),
}


@pytest.mark.parametrize(("engine", "launch", "expected"), GOLDEN.values(), ids=GOLDEN)
def test_the_arguments_are_those_of_the_option(engine: Engine, launch: Launch, expected: str) -> None:
    assert " ".join(ADAPTERS[engine](launch).args) == expected


def launches() -> list[Launch]:
    controls = (None, THINKS, BY_LEVEL)
    ways = product(
        sorted({task for it in ENGINES.values() for task in it.tasks}),
        ("fp32", "fp8", "mxfp4"),
        (Reasoning.OFF, Reasoning.LOW, Reasoning.HIGH),
        controls,
        (0, 4),
        ("qwen3-8b", "deepseek-v3.1", "gpt-oss-20b"),
    )
    return [
        dataclasses.replace(
            CHAT,
            task=task,
            precision=precision,
            reasoning=reasoning,
            accelerators=boards,
            model=model,
            traits=ModelTraits(0 if boards == 4 else 8192, control, precision == "fp8"),
        )
        for task, precision, reasoning, control, boards, model in ways
    ]


@pytest.mark.parametrize("engine", OTHERS)
def test_every_flag_is_documented_by_the_release_that_the_default_image_is_of(engine: Engine) -> None:
    documented, facts = DOCUMENTED[engine], ENGINES[engine]
    used = {arg for launch in launches() for arg in ADAPTERS[engine](launch).args if arg.startswith("--")}
    assert used <= set(documented["flags"])
    assert documented["version"] == facts.version
    settings = OperatorSettings(identity="t")
    images = [image for it in (settings.engine_images(), settings.cpu_engine_images()) if (image := it.get(engine))]
    release = facts.version.rsplit(".", 1)[0] if engine is Engine.TEI else facts.version
    assert images
    assert all(image.endswith(release) for image in images), "TEI tags a series, the others a release"


def test_the_arguments_that_the_documentation_lists_are_used() -> None:
    page = (Path(__file__).parents[2] / "docs" / "engines.md").read_text(encoding="utf-8")
    table = page[page.index("## Arguments") : page.index("The longest request is")]
    rows = [row.split("|") for row in table.splitlines() if row.startswith("|")]
    for engine in OTHERS:
        place = rows[0].index(f" {ENGINES[engine].title} ")
        listed = {flag for row in rows for flag in re.findall(r"`(--[\w-]+)", row[place])}
        used = {arg for launch in launches() for arg in ADAPTERS[engine](launch).args}
        assert listed
        assert listed <= used


@pytest.mark.parametrize("engine", OTHERS)
def test_what_the_plan_decides_is_refused_among_a_users_arguments(engine: Engine) -> None:
    def flag_with(value: str, launch: Launch) -> str:
        args = ADAPTERS[engine](launch).args
        return next(args[i - 1] for i, arg in enumerate(args) if arg == value)

    assert re.search(RESERVED_ARGUMENTS, flag_with("77", dataclasses.replace(EMBED, batch_limit=77)))
    assert re.search(RESERVED_ARGUMENTS, flag_with("8080", EMBED))
    if engine in {Engine.VLLM, Engine.SGLANG}:
        assert re.search(RESERVED_ARGUMENTS, flag_with("7", dataclasses.replace(CHAT, accelerators=7)))


@pytest.mark.parametrize(
    "argument", ["-tp", "-np=4", "--pipeline-parallel-size=2", "-dp", "--max_num_seqs", "--port=80"]
)
def test_other_spellings_of_it_are_refused_too(argument: str) -> None:
    assert re.search(RESERVED_ARGUMENTS, argument)


@pytest.mark.parametrize("argument", ["--data-parallel-backend=ray", "--port-range", "8", "tp", "--kv-cache-dtype=fp8"])
def test_the_rest_is_the_users(argument: str) -> None:
    assert not re.search(RESERVED_ARGUMENTS, argument)


SOURCE = Source("test", "2026-01-01")
GPU = AcceleratorClass("h100", ("H100",), 81920, 90, ("bf16",), 100_000, 700_000, SOURCE)
CPU = AcceleratorClass("cpu", (), 0, 0, ("fp32",), 2_000, 20_000, SOURCE)
IMAGES = OperatorSettings(identity="t")
SETTINGS = RenderSettings(
    "example/worker:1",
    engine_images=IMAGES.engine_images(),
    cpu_engine_images=IMAGES.cpu_engine_images(),
    control_key=b"0123456789abcdef",
)


def rendered(engine: Engine, *, on_cpu: bool = False, batch: int = 8, **pod: Any) -> dict[str, Any]:
    workload = InferenceWorkload.from_cluster(
        {
            "metadata": {"namespace": "team", "name": "chat", "uid": "u"},
            "spec": {
                "task": "text-generation",
                "load": {"requestsPerMinute": 60, "inputTokens": 100, "outputTokens": 100},
                "engine": engine.value,
                "pod": pod,
            },
        }
    )
    option = Option(
        model="m",
        precision="fp32" if on_cpu else "bf16",
        reasoning=Reasoning.OFF,
        accelerator_class="cpu" if on_cpu else "h100",
        accelerators_per_replica=0 if on_cpu else 2,
        batch_limit=batch,
        replicas=1,
        pool="",
        engine=engine.value,
        expected_milliwatts=1,
        worst_case_milliwatts=1,
        capacity_millirps=1,
        unserved_millirps=0,
        quality_centi=None,
        quality_shortfall_centi=0,
        millijoules_per_request=1,
        latency_p95_ms=1,
        basis=Basis.MEASURED,
    )
    return deployment(
        workload,
        option,
        model_path="org/m",
        weights_mib=1000,
        replicas=1,
        accelerator=CPU if on_cpu else GPU,
        pool_selector={},
        settings=SETTINGS,
    )


def container(manifest: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manifest["spec"]["template"]["spec"]["containers"][0]
    return found


@pytest.mark.parametrize("engine", OTHERS)
def test_an_engine_that_is_not_ours_gets_no_control_port_and_no_token(engine: Engine) -> None:
    it = container(rendered(engine))
    assert [port["name"] for port in it["ports"]] == ["http"]
    assert "LOWBEAM_CONTROL_TOKEN" not in {variable["name"] for variable in it["env"]}
    assert it["readinessProbe"]["httpGet"]["path"] == "/health"
    assert it["resources"]["limits"]["nvidia.com/gpu"] == "2"


def test_another_batch_limit_is_another_deployment_where_it_is_read_at_start_and_only_there() -> None:
    def name(engine: Engine, batch: int) -> str:
        found: str = rendered(engine, batch=batch)["metadata"]["name"]
        return found

    assert name(Engine.NATIVE, 8) == name(Engine.NATIVE, 16)
    assert all(name(engine, 8) != name(engine, 16) for engine in OTHERS)


def test_engines_of_several_processes_get_shared_memory_unless_the_user_mounts_it() -> None:
    mounts = {it["mountPath"] for it in container(rendered(Engine.VLLM))["volumeMounts"]}
    assert {"/tmp", "/dev/shm"} <= mounts
    volume, mount = {"name": "s", "emptyDir": {"medium": "Memory"}}, {"name": "s", "mountPath": "/dev/shm"}
    own = rendered(Engine.SGLANG, volumes=[volume], volumeMounts=[mount])
    assert [it["name"] for it in container(own)["volumeMounts"] if it["mountPath"] == "/dev/shm"] == ["s"]
    assert "/dev/shm" not in {it["mountPath"] for it in container(rendered(Engine.TEI))["volumeMounts"]}


def test_a_signal_that_aborts_requests_comes_only_when_they_are_done() -> None:
    for engine in ADAPTERS:
        manifest = rendered(engine)
        sleep = container(manifest)["lifecycle"]["preStop"]["sleep"]["seconds"]
        grace = manifest["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        assert sleep >= 60 if engine is Engine.LLAMA_CPP else grace - sleep >= 60, engine
        assert grace > sleep


def test_the_user_may_bring_image_command_variables_and_more_arguments() -> None:
    env = [{"name": "USER", "value": "me"}, {"name": "VLLM_LOGGING_LEVEL", "value": "DEBUG"}]
    it = container(rendered(Engine.VLLM, image="mine:1", command=["my-vllm"], args=["--kv-cache-dtype=fp8"], env=env))
    assert (it["image"], it["command"], it["args"][-1]) == ("mine:1", ["my-vllm"], "--kv-cache-dtype=fp8")
    assert [v["value"] for v in it["env"] if v["name"] == "USER"] == ["me"]
    plain = container(rendered(Engine.VLLM))
    assert (plain["image"], plain["command"]) == (IMAGES.vllm_image, ["vllm", "serve"])


def test_the_image_is_that_of_the_kind_of_node() -> None:
    assert container(rendered(Engine.TEI))["image"] == IMAGES.tei_image
    assert container(rendered(Engine.TEI, on_cpu=True))["image"] == IMAGES.tei_cpu_image
    with pytest.raises(BadInput, match=r"no image of the SGLang engine.*engines\.sglang\.cpuImage"):
        rendered(Engine.SGLANG, on_cpu=True)
