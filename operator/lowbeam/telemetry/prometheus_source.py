"""Watts and request counters from Prometheus, for engines that are not ours and as a cross-check of those that are.

Decides what in an answer is a reading. An empty answer, an unknown schema or an old scrape is no data, never 0 W.
`prometheus-api-client` is synchronous and has no time-out of its own: it runs in a pool of `THREADS` threads with ours,
and when both hang, further questions fail at once instead of queueing up behind them.

Invariants
- A sample's age is that of the scrape, not of the query: an instant query answers values up to 5 minutes old as if new.
- A board counts once: MIG instances report the whole board's watts each, so series of one UUID are one board, and where
  several pods share it the shares are equal and labelled `shared`. Only one exporter is asked by how many: another one
  may name its own pod.
- A board below 0 W or above `BOARD_LIMIT_WATTS` (milliwatts) is an error of its pods, not a number.
- A sample names its boards, so that a pod of which one board is not exported is not taken for one that draws less.
- User and password of the URL go into the Authorization header only: no library has a URL to quote them from.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import aiohttp
from prometheus_api_client import PrometheusApiClientException, PrometheusConnect
from urllib3.util.retry import Retry

from lowbeam.api.wire import DeviceReading, MeterMethod, MeterScope
from lowbeam.telemetry.engine_metrics import SERIES, EngineCounts, counts_of
from lowbeam.telemetry.samples import CLOCK_TOLERANCE_MS, Sample, SampleError, SampleProblem, SampleSource

THREADS = 2
TIMEOUT_SECONDS = 4
"""Below two guard ticks; a Prometheus that needs longer for these queries is overloaded."""
BOARD_LIMIT_WATTS = 5000
"""No single accelerator board draws this (the largest announced ones stay below 3 kW)."""

POWER_METRICS = ("DCGM_FI_DEV_POWER_USAGE", "lowbeam_agent_device_power_watts")
"""Watts per board, from NVIDIA's dcgm-exporter and from our node agent: both say UUID, namespace, pod and container."""
LOAD_METRICS = {name: field for series in SERIES.values() for name, field in series.items()}
"""Metric -> field of `EngineCounts`."""
REQUEST_COUNTERS = "|".join(name for name, field in LOAD_METRICS.items() if field == "completed")
"""What an engine has completed since it started; one of them per pod."""

TARGET_LABELS = ("job", "instance", "endpoint", "prometheus", "prometheus_replica", "replica")
"""What scrapes of one pod differ in: those of two jobs, or of two Prometheus behind one query."""

PodName = tuple[str, str]
"""(namespace, name)."""
Target = tuple[PodName, tuple[str, ...]]
"""A pod as one job of one Prometheus scrapes it."""


class PrometheusUnavailable(Exception):
    """Prometheus does not answer, or not in its own language; the message says what to check."""


@dataclass(frozen=True, slots=True)
class PodLoad:
    """What the engine in one pod says about its requests."""

    at_ms: int
    """When it was scraped, on the operator's monotonic clock."""
    counts: EngineCounts


class PrometheusSource:
    """One Prometheus. `async with` opens and closes its connections and threads."""

    def __init__(
        self,
        url: str,
        *,
        monotonic_ms: Callable[[], int],
        now: Callable[[], datetime],
        headers: Mapping[str, str] | None = None,
        power_metrics: Sequence[str] = POWER_METRICS,
    ) -> None:
        self.url, self._login, self._problem = _parts(url)
        """Without user and password: it is in messages."""
        self._monotonic_ms = monotonic_ms
        self._now = now
        self._headers = dict(headers or {})
        self._power_series = [f'{metric}{{UUID!=""}}' for metric in power_metrics]
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="prometheus")
        self._busy = 0
        self._session: aiohttp.ClientSession | None = None
        self._client = PrometheusConnect(
            self.url,
            headers=self._headers,
            auth=self._login,
            timeout=TIMEOUT_SECONDS,
            retry=Retry(total=1, backoff_factor=0.2, status_forcelist=(502, 503, 504)),
        )

    async def __aenter__(self) -> PrometheusSource:
        login = {"Authorization": f"Basic {base64.b64encode(b':'.join(self._login)).decode()}"} if self._login else {}
        self._session = aiohttp.ClientSession(headers={**self._headers, **login})
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    async def ready(self) -> bool:
        """Whether Prometheus says that it can serve queries."""
        if self._session is None:
            raise RuntimeError("PrometheusSource is not open: use `async with`")
        try:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
            async with self._session.get(f"{self.url}/-/ready", timeout=timeout) as response:
                return response.status == 200
        except (TimeoutError, aiohttp.ClientError, OSError):
            return False

    async def pod_power(self, pods: Mapping[PodName, str]) -> dict[str, Sample | SampleError]:
        """Newest reading of each of `pods` ((namespace, name) -> uid), by uid; a pod without series is left out.

        Raises PrometheusUnavailable.
        """
        values = await self._query(" or ".join(self._power_series))
        stamps = await self._query(" or ".join(f"timestamp({series})" for series in self._power_series))
        received_at_ms, now_seconds = self._monotonic_ms(), self._now().timestamp()
        scraped_at = {_series_key(labels): seconds for labels, seconds in stamps}
        boards = _boards(values, scraped_at)
        return {
            uid: self._pod_sample(pod, uid, boards, received_at_ms, now_seconds)
            for pod, uid in pods.items()
            if any(pod in board.users for board in boards)
        }

    async def pod_load(self, pods: Mapping[PodName, str]) -> dict[str, PodLoad]:
        """Newest counters of each of `pods` ((namespace, name) -> uid), by uid; a pod without them is left out.

        Raises PrometheusUnavailable.
        """
        values = await self._query(f'{{__name__=~"{"|".join(LOAD_METRICS)}"}}')
        stamps = await self._query(f'timestamp({{__name__=~"{REQUEST_COUNTERS}"}})')
        received_at_ms, now_seconds = self._monotonic_ms(), self._now().timestamp()
        oldest: dict[Target, float] = {}
        for labels, seconds in stamps:
            if (target := _target_of(labels)) is not None:
                oldest[target] = min(seconds, oldest.get(target, seconds))
        sums: dict[Target, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for labels, value in values:
            field = LOAD_METRICS.get(labels.get("__name__", ""))
            if field is not None and (target := _target_of(labels)) is not None:
                sums[target][field] += value
        found: dict[str, PodLoad] = {}
        for target in sorted(oldest.keys() & sums.keys()):  # of several, always the same one
            uid = pods.get(target[0])
            if uid is not None and uid not in found and "completed" in sums[target]:
                with contextlib.suppress(ValueError):  # no count: no data
                    at_ms = received_at_ms - max(0, round((now_seconds - oldest[target]) * 1000))
                    found[uid] = PodLoad(at_ms, counts_of(sums[target]))
        return found

    def _pod_sample(
        self, pod: PodName, uid: str, boards: Sequence[_Board], received_at_ms: int, now_seconds: float
    ) -> Sample | SampleError:
        mine = [board for board in boards if pod in board.users]
        for board in mine:
            if not 0 <= board.watts <= BOARD_LIMIT_WATTS:  # and where it is no number
                what = f"the power of board {board.uuid} is {board.watts:g}: no board draws so many watts"
                message = f"pod {pod[0]}/{pod[1]}: {what}; check the exporter's unit (milliwatts?)"
                return SampleError(uid, SampleSource.PROMETHEUS, received_at_ms, SampleProblem.BAD_SCHEMA, message)
        oldest_seconds = min(board.scraped_at_seconds for board in mine)
        age_ms = round((now_seconds - oldest_seconds) * 1000)
        if age_ms < -CLOCK_TOLERANCE_MS:
            what = f"its scrape is stamped {-age_ms} ms ahead, so nobody can tell its age"
            message = f"pod {pod[0]}/{pod[1]}: {what}; check NTP where {self.url} and the operator run"
            return SampleError(uid, SampleSource.PROMETHEUS, received_at_ms, SampleProblem.CLOCK_AHEAD, message)
        shares = [(board.uuid, board.watts / board.users[pod]) for board in mine]
        return Sample(
            pod_uid=uid,
            source=SampleSource.PROMETHEUS,
            sampled_at_ms=received_at_ms - max(0, age_ms),
            received_at_ms=received_at_ms,
            milliwatts=sum(round(watts * 1000) for _, watts in shares),
            method=MeterMethod.NVML,
            scope=MeterScope.SHARED if any(board.users[pod] > 1 for board in mine) else MeterScope.DEVICE,
            devices=tuple(DeviceReading(uuid=uuid[:128], watts=watts) for uuid, watts in shares),
        )

    async def _query(self, query: str) -> list[tuple[dict[str, str], float]]:
        """An instant query: (labels, value) of each series."""
        if self._problem:
            raise PrometheusUnavailable(f"{self.url}: {self._problem}")
        if self._busy >= THREADS:
            raise PrometheusUnavailable(f"{self.url}: earlier queries have not come back; is Prometheus overloaded?")
        self._busy += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, self._client.custom_query, query)
        future.add_done_callback(self._came_back)
        try:
            # The thread goes on after this; `_busy` remembers it. The margin lets the client's own time-out speak.
            async with asyncio.timeout(2 * TIMEOUT_SECONDS + 1):
                return _vector(await asyncio.shield(future))
        except TimeoutError as error:
            raise PrometheusUnavailable(f"{self.url}: no answer to {query!r}") from error
        except PrometheusApiClientException as error:
            raise PrometheusUnavailable(f"{self.url} refuses {query!r}: {str(error)[:300]}") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            # requests' errors are OSErrors; the others are answers that are not Prometheus' JSON.
            raise PrometheusUnavailable(f"{self.url}: {type(error).__name__}: {str(error)[:300]}") from error

    def _came_back(self, future: asyncio.Future[Any]) -> None:
        self._busy -= 1
        if not future.cancelled():
            future.exception()  # Read, so that a query nobody waits for any longer is not reported as lost.


def _parts(url: str) -> tuple[str, tuple[bytes, bytes] | None, str]:
    """A URL without user and password, these two, and what is wrong with it; of a wrong one nothing is shown."""
    try:
        parts = urlsplit(url.strip().rstrip("/"))
        usable = parts.scheme in ("http", "https") and parts.hostname is not None and parts.port != 0
        # A bare / ? or # in a password ends what is read as the host, and the rest looks like a path.
        usable = usable and "@" not in parts.path + parts.query + parts.fragment
    except ValueError:
        usable = False
    if not usable:
        wrong = "not a URL like http://HOST:PORT; write special characters of a user or password as %XX"
        return "--prometheus-url", None, wrong
    login, _, address = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    shown = parts._replace(netloc=address).geturl()
    return shown, (unquote_to_bytes(user), unquote_to_bytes(password)) if login else None, ""


@dataclass(frozen=True, slots=True)
class _Board:
    """One physical board: its watts once, and who uses it."""

    uuid: str
    watts: float
    scraped_at_seconds: float
    users: Mapping[PodName, int]
    """Pod -> how many share the board, itself included."""


def _boards(
    values: Sequence[tuple[dict[str, str], float]], scraped_at: Mapping[tuple[tuple[str, str], ...], float]
) -> list[_Board]:
    """Series -> boards. A series that has no scrape time vanished between the two queries: no data."""
    by_uuid: dict[str, list[tuple[float, float]]] = defaultdict(list)
    named: dict[str, dict[tuple[str, str], set[PodName]]] = defaultdict(lambda: defaultdict(set))
    used = {labels["UUID"] for labels, _ in values if "exported_pod" in labels}
    for labels, watts in values:
        pod, seconds = _pod_of(labels), scraped_at.get(_series_key(labels))
        # Without the exporter's `exported_pod` beside one that has it, it is an idle instance of the same board.
        idle = "exported_pod" not in labels and labels["UUID"] in used
        if pod is not None and seconds is not None and not idle:
            by_uuid[labels["UUID"]].append((watts, seconds))
            exporter = (labels.get("__name__", ""), labels.get("instance", ""))
            named[labels["UUID"]][exporter].add(pod)
    return [
        # The largest claim of the board, the oldest scrape, and of two exporters the one that names fewer pods beside
        # this one: all on the side of caution.
        _Board(uuid, max(w for w, _ in rows), min(s for _, s in rows), _users(named[uuid].values()))
        for uuid, rows in sorted(by_uuid.items())
    ]


def _users(exporters: Iterable[set[PodName]]) -> dict[PodName, int]:
    users: dict[PodName, int] = {}
    for pods in exporters:
        for pod in pods:
            users[pod] = min(len(pods), users.get(pod, len(pods)))
    return users


def _pod_of(labels: Mapping[str, str]) -> PodName | None:
    """The pod that uses the board. `pod` alone is the exporter's own unless the scrape honours its labels."""
    namespace = labels.get("exported_namespace") or labels.get("namespace")
    pod = labels.get("exported_pod") or labels.get("pod")
    return (namespace, pod) if namespace and pod else None


def _target_of(labels: Mapping[str, str]) -> Target | None:
    pod = _pod_of(labels)
    return None if pod is None else (pod, tuple(labels.get(name, "") for name in TARGET_LABELS))


def _series_key(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((key, value) for key, value in labels.items() if key != "__name__"))


def _vector(result: Any) -> list[tuple[dict[str, str], float]]:
    """The instant vector of an answer. Raises ValueError, KeyError or TypeError for anything else."""
    if not isinstance(result, list):
        raise TypeError(f"expected a vector, got {str(result)[:100]}")
    return [(dict(series["metric"]), float(series["value"][1])) for series in result]
