"""Changes of the running profile: checked as a whole, made once, in the order of their generations.

    1. the same change again        -> the same answer, nothing is done; while it is being made, its answer when it is
    2. an older or equal generation -> refused with the one in force: a slower writer never undoes a faster one
    3. every value is checked       -> one that cannot be had refuses the change, and nothing is changed
    4. limits at once, also while a model is loading: whoever must shed watts now does not wait for a disk. What such a
       newer change has set, the older one leaves alone when its model is there
    5. another precision by fresh weights put in between two steps, where the engine can; it and any other model
       otherwise by a second engine, which takes over when it has warmed up. One at a time

Invariant: `generation` never decreases; a change takes effect entirely or not at all. A model that does not load, or
that there is no room for, leaves everything as it was.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace

from lowbeam.api.wire import ProfileChange, ProfileChangeResult
from lowbeam_worker.building import prepare
from lowbeam_worker.energy.ledger import Phase
from lowbeam_worker.engines.base import Engine, EngineClosedError, Limits, check_limits
from lowbeam_worker.limits import AnswerLimits
from lowbeam_worker.memory import give_back
from lowbeam_worker.models import CannotLoadError, choose_device
from lowbeam_worker.options import Precision
from lowbeam_worker.running import RunningModel, Service, Source
from lowbeam_worker.worker import Worker

REQUESTS_SHOWN = 256


class OldGenerationError(Exception):
    """A change that was decided before the one in force."""


class CannotChangeError(Exception):
    """A change that this worker cannot make; the message names the field and the limit."""


@dataclass(frozen=True, slots=True)
class _Target:
    """Everything a change may alter, as it will be."""

    limits: Limits
    answers: AnswerLimits
    requests_per_second: float | None
    power_budget_watts: float | None
    source: Source


class _Cost:
    """What a change took, from now on."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._began_s, self._before_mj = time.monotonic(), worker.ledger.parts().reconfigure_mj

    def seconds(self) -> float:
        return time.monotonic() - self._began_s

    def joules(self) -> float | None:
        spent_mj = self._worker.ledger.parts().reconfigure_mj - self._before_mj
        return spent_mj / 1000 if self._worker.meter.counts_energy else None


class Changes:
    """For any number of writers."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._one_model_at_a_time = asyncio.Lock()
        self._newest: tuple[ProfileChange, asyncio.Future[ProfileChangeResult]] | None = None
        self._set_since: dict[int, set[str]] = {}
        """Generations that are waiting for a model, each with the fields that newer changes have set meanwhile."""

    async def make(self, wish: ProfileChange) -> ProfileChangeResult:
        """Carry out a change once. Raises OldGenerationError or CannotChangeError."""
        if self._newest is not None and _same(self._newest[0], wish):
            return await asyncio.shield(self._newest[1])
        newest = max(self._worker.generation, *self._set_since, 0)
        if wish.generation <= newest:
            raise OldGenerationError(
                f"generation {wish.generation} is not newer than {newest}, in force with other values; "
                "read /control/profile and decide again"
            )
        if self._worker.running is None:
            raise CannotChangeError("the model is still loading; try again when /ready answers 200")
        self._checked(wish, self._worker.running)
        if self._source(wish, self._worker.source) == self._worker.source:
            # Not one await from the check to here: of two writers the newer decision stands, whoever comes first.
            return self._made_at_once(wish)
        self._set_since[wish.generation] = set()
        # A task of its own: a writer that hangs up does not leave half a change behind.
        making = asyncio.get_running_loop().create_task(self._make_with_a_model(wish))
        before, self._newest = self._newest, (wish, making)

        def forget_a_failure(task: asyncio.Task[ProfileChangeResult]) -> None:
            if (task.cancelled() or task.exception()) and self._newest == (wish, task):
                self._newest = before

        making.add_done_callback(forget_a_failure)
        return await asyncio.shield(making)

    def _made_at_once(self, wish: ProfileChange) -> ProfileChangeResult:
        result = self._result(wish, _Cost(self._worker), *self._take(wish))
        for fields in self._set_since.values():
            fields |= wish.model_fields_set - {"generation"}
        made = asyncio.get_running_loop().create_future()
        made.set_result(result)
        self._newest = (wish, made)
        return result

    async def _make_with_a_model(self, wish: ProfileChange) -> ProfileChangeResult:
        cost = _Cost(self._worker)
        try:
            async with self._one_model_at_a_time:
                return self._result(wish, cost, *await self._change_model(wish))
        finally:
            del self._set_since[wish.generation]

    def _result(self, wish: ProfileChange, cost: _Cost, changed: bool, touched: tuple[str, ...]) -> ProfileChangeResult:
        self._worker.generation = max(self._worker.generation, wish.generation)
        return ProfileChangeResult(
            profile=self._worker.profile(),
            changed=changed,
            seconds=cost.seconds(),
            joules=cost.joules(),
            requests_touched=len(touched),
            requests=touched[:REQUESTS_SHOWN],
        )

    def _running(self) -> RunningModel:
        running = self._worker.running
        assert running is not None  # noqa: S101 - checked by `make`; no model is ever taken away
        return running

    def _now(self) -> _Target:
        worker, running = self._worker, self._running()
        return _Target(
            running.engine.limits,
            worker.answers,
            worker.admission.requests_per_second,
            worker.admission.power_budget_watts,
            running.source,
        )

    # --- what is wished ----------------------------------------------------------------------------------------------

    def _checked(self, wish: ProfileChange, running: RunningModel, service: Service | None = None) -> _Target:
        """The state that is wished for; CannotChangeError with the field that cannot be had.

        `service` is that of another model which is ready to take over.
        """
        now = self._now()
        source = self._source(wish, now.source)
        limits = Limits(wish.batch_limit or now.limits.batch, wish.token_budget or now.limits.step_tokens)
        ceilings = running.engine.ceilings
        try:
            check_limits(limits, ceilings)
        except ValueError as error:
            field = "batchLimit" if limits.batch > ceilings.batch else "tokenBudget"
            raise CannotChangeError(f"{field}: {error}, the ceiling of this worker; ask for less") from error
        if service is None and source == now.source:
            service = running.service
        answers = self._answers(wish, now.answers, service)
        watts = wish.power_budget_watts if "power_budget_watts" in wish.model_fields_set else now.power_budget_watts
        if watts is not None and self._worker.meter.last is None:
            raise CannotChangeError(
                "powerBudgetWatts: this worker has no power meter, so it could not keep to it; use requestsPerSecond"
            )
        rate = wish.requests_per_second if "requests_per_second" in wish.model_fields_set else now.requests_per_second
        return _Target(limits, answers, rate, watts, source)

    def _answers(self, wish: ProfileChange, now: AnswerLimits, service: Service | None) -> AnswerLimits:
        """`service`: of the model that will answer; None: not known before it is loaded."""
        given = wish.model_fields_set
        lengths = given & {"default_output_tokens", "max_output_tokens"}
        if any(getattr(wish, name) is not None for name in lengths) and not self._worker.options.task.writes:
            raise CannotChangeError(f"outputTokens: a worker for {self._worker.options.task} writes no answers")
        thinking = {name: getattr(wish, name) for name in given & {"default_thinking_tokens", "max_thinking_tokens"}}
        can_limit = service is None or getattr(service, "can_limit_thinking", False)
        if any(value is not None for value in thinking.values()) and not can_limit:
            raise CannotChangeError("thinkingTokens: this model has no mark for the end of its thinking to set")
        longest = wish.max_output_tokens or now.longest
        usual = wish.default_output_tokens or min(now.usual, longest)
        if usual > longest:
            raise CannotChangeError(f"defaultOutputTokens {usual} is above maxOutputTokens {longest}")
        if not can_limit:  # limits of the model before, which this one could not keep
            return AnswerLimits(longest, usual)
        most = thinking.get("max_thinking_tokens", now.most_thinking)
        return AnswerLimits(longest, usual, most, thinking.get("default_thinking_tokens", now.usual_thinking))

    def _source(self, wish: ProfileChange, now: Source) -> Source:
        try:
            precision = now.precision if wish.precision is None else Precision(wish.precision.lower())
        except ValueError:
            raise CannotChangeError(f"precision: {wish.precision!r} is none of {', '.join(Precision)}") from None
        name = wish.model or now.name
        # As on the command line, a model that comes without a path is found under its name.
        return Source(name, wish.model_path or (now.path if name == now.name else name), precision)

    # --- what is done ------------------------------------------------------------------------------------------------

    def _take(self, wish: ProfileChange, fresh: RunningModel | None = None) -> tuple[bool, tuple[str, ...]]:
        """Everything but loading, in one go; whether it changed anything, and the requests that go on under it."""
        worker, now = self._worker, self._now()
        target = self._checked(wish, fresh or self._running(), fresh.service if fresh else None)
        engine: Engine = (fresh or self._running()).engine
        touched = worker.requests_in_flight() if fresh or target.limits != now.limits else ()
        if target.limits != engine.limits:
            with worker.ledger.phase(Phase.RECONFIGURE):
                engine.set_limits(target.limits)
        if fresh is not None:
            worker.take_over(fresh)
        worker.answers = target.answers
        if target.requests_per_second != now.requests_per_second:
            worker.admission.limit_rate(target.requests_per_second)
        worker.admission.power_budget_watts = target.power_budget_watts
        return target != now, touched

    async def _change_model(self, wish: ProfileChange) -> tuple[bool, tuple[str, ...]]:
        worker, running = self._worker, self._running()
        source = self._source(wish, running.source)
        if source == running.source:  # a change that came before this one has brought it
            return self._take(self._not_set_since(wish))
        in_place = replace(source, precision=running.source.precision) == running.source
        worker.reconfiguring = True
        try:
            if in_place and running.can_change_in_place(source.precision):
                touched = await self._put_in(running, source, wish)
                return True, self._take(self._not_set_since(wish))[1] or touched
            with worker.ledger.phase(Phase.RECONFIGURE):
                fresh = await prepare(worker, source, choose_device(worker.options.device), running.engine.limits)
            try:
                return self._take(self._not_set_since(wish), fresh)
            except CannotChangeError:
                await fresh.engine.stop()
                raise
        except (CannotLoadError, EngineClosedError, RuntimeError) as error:
            field = "precision" if in_place else "model"
            raise CannotChangeError(f"{field}: {source.name!r} at {source.precision} cannot be had: {error}") from error
        finally:
            worker.reconfiguring = False

    def _not_set_since(self, wish: ProfileChange) -> ProfileChange:
        newer = self._set_since[wish.generation]
        if own := newer & {"model", "model_path", "precision"}:
            raise CannotChangeError(f"{', '.join(sorted(own))}: a newer change has decided otherwise meanwhile")
        return ProfileChange(**wish.model_dump(exclude_unset=True, exclude=newer))

    async def _put_in(self, running: RunningModel, source: Source, wish: ProfileChange) -> tuple[str, ...]:
        # Requests go on while the weights are read; only putting them in is the change's own time and energy.
        put_in = await asyncio.to_thread(running.reload, source.precision)
        self._not_set_since(wish)
        with self._worker.ledger.phase(Phase.RECONFIGURE):
            touched = self._worker.requests_in_flight()
            await running.engine.swap(put_in)
        running.source = source
        del put_in  # it holds the weights of before
        await asyncio.to_thread(give_back)
        return touched


def _same(one: ProfileChange, other: ProfileChange) -> bool:
    return one == other and one.model_fields_set == other.model_fields_set
