"""Changes of the running profile: checked as a whole, made once, in the order of their generations.

    1. the same change again        -> the same answer, nothing is done
    2. an older or equal generation -> refused with the one in force: a slower writer never undoes a faster one
    3. every value is checked       -> one that cannot be had refuses the change, and nothing is changed
    4. limits at once; another precision by fresh weights, loaded beside the old ones and put in between two steps

Invariant: `generation` never decreases; a change takes effect entirely or not at all, except that a precision whose
weights turn out not to load leaves everything as it was.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from lowbeam.api.wire import ProfileChange, ProfileChangeResult
from lowbeam_worker.energy.ledger import Phase
from lowbeam_worker.engines.base import Engine, EngineClosedError, Limits, check_limits
from lowbeam_worker.limits import AnswerLimits
from lowbeam_worker.models import CannotLoadError
from lowbeam_worker.options import Precision
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
    precision: Precision


class Changes:
    """One at a time, for any number of writers."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._turn = asyncio.Lock()
        self._last: tuple[ProfileChange, ProfileChangeResult] | None = None

    async def make(self, wish: ProfileChange) -> ProfileChangeResult:
        """Carry out a change once. Raises OldGenerationError or CannotChangeError."""
        async with self._turn:
            if (
                self._last is not None
                and self._last[0] == wish
                and self._last[0].model_fields_set == wish.model_fields_set
            ):
                return self._last[1]
            in_force = self._worker.generation
            if wish.generation <= in_force:
                raise OldGenerationError(
                    f"generation {wish.generation} is not newer than {in_force}, in force with other values; "
                    "read /control/profile and decide again"
                )
            engine = self._worker.engine
            if engine is None or self._worker.service is None:
                raise CannotChangeError("the model is still loading; try again when /ready answers 200")
            began, spent_mj = time.monotonic(), self._worker.ledger.parts().reconfigure_mj
            now = self._now(engine)
            target = self._checked(wish, now, engine)
            touched: tuple[str, ...] = ()
            if target.precision is not now.precision or target.limits != now.limits:
                touched = self._worker.requests_in_flight()
            if target.precision is not now.precision:
                await self._swap(engine, target.precision)
            self._take(engine, now, target)
            self._worker.generation = wish.generation
            cost_mj = self._worker.ledger.parts().reconfigure_mj - spent_mj
            result = ProfileChangeResult(
                profile=self._worker.profile(),
                changed=target != now,
                seconds=time.monotonic() - began,
                joules=cost_mj / 1000 if self._worker.meter.counts_energy else None,
                requests_touched=len(touched),
                requests=touched[:REQUESTS_SHOWN],
            )
            self._last = (wish, result)
            return result

    def _now(self, engine: Engine) -> _Target:
        worker = self._worker
        return _Target(
            engine.limits,
            worker.answers,
            worker.admission.requests_per_second,
            worker.admission.power_budget_watts,
            worker.precision,
        )

    def _checked(self, wish: ProfileChange, now: _Target, engine: Engine) -> _Target:
        """The state that is wished for; CannotChangeError with the field that cannot be had."""
        if wish.model not in {None, self._worker.options.model}:
            raise CannotChangeError(
                f"model: this worker serves {self._worker.options.model!r} as long as it lives; start another worker "
                f"for {wish.model!r} and drain this one"
            )
        limits = Limits(wish.batch_limit or now.limits.batch, wish.token_budget or now.limits.step_tokens)
        try:
            check_limits(limits, engine.ceilings)
        except ValueError as error:
            field = "batchLimit" if limits.batch > engine.ceilings.batch else "tokenBudget"
            raise CannotChangeError(f"{field}: {error}, the ceiling of this worker; ask for less") from error
        answers = self._answers(wish, now.answers)
        watts = wish.power_budget_watts if "power_budget_watts" in wish.model_fields_set else now.power_budget_watts
        if watts is not None and self._worker.meter.last is None:
            raise CannotChangeError(
                "powerBudgetWatts: this worker has no power meter, so it could not keep to it; use requestsPerSecond"
            )
        rate = wish.requests_per_second if "requests_per_second" in wish.model_fields_set else now.requests_per_second
        return _Target(limits, answers, rate, watts, self._precision(wish.precision, now.precision))

    def _answers(self, wish: ProfileChange, now: AnswerLimits) -> AnswerLimits:
        service = self._worker.service
        given = wish.model_fields_set
        lengths = given & {"default_output_tokens", "max_output_tokens"}
        if any(getattr(wish, name) is not None for name in lengths) and not self._worker.options.task.writes:
            raise CannotChangeError(f"outputTokens: a worker for {self._worker.options.task} writes no answers")
        thinking = {name: getattr(wish, name) for name in given & {"default_thinking_tokens", "max_thinking_tokens"}}
        if any(value is not None for value in thinking.values()) and not getattr(service, "can_limit_thinking", False):
            raise CannotChangeError("thinkingTokens: this model has no mark for the end of its thinking to set")
        longest = wish.max_output_tokens or now.longest
        usual = wish.default_output_tokens or min(now.usual, longest)
        if usual > longest:
            raise CannotChangeError(f"defaultOutputTokens {usual} is above maxOutputTokens {longest}")
        most = thinking.get("max_thinking_tokens", now.most_thinking)
        return AnswerLimits(longest, usual, most, thinking.get("default_thinking_tokens", now.usual_thinking))

    def _precision(self, asked: str | None, now: Precision) -> Precision:
        if asked is None:
            return now
        try:
            wanted = Precision(asked.lower())
        except ValueError:
            raise CannotChangeError(f"precision: {asked!r} is none of {', '.join(Precision)}") from None
        why_not = "" if wanted is now else self._worker.why_not_precision(wanted)
        if why_not:
            raise CannotChangeError(f"precision: {why_not}; start another worker with it and drain this one")
        return wanted

    async def _swap(self, engine: Engine, precision: Precision) -> None:
        reload = self._worker.reload
        assert reload is not None  # noqa: S101 - why_not_precision
        self._worker.reconfiguring = True
        try:
            # Requests go on while the weights are read; only putting them in is the change's own time and energy.
            put_in = await asyncio.to_thread(reload, precision)
            with self._worker.ledger.phase(Phase.RECONFIGURE):
                await engine.swap(put_in)
        except (CannotLoadError, EngineClosedError, RuntimeError) as error:
            raise CannotChangeError(f"precision: the weights could not be changed to {precision}: {error}") from error
        finally:
            self._worker.reconfiguring = False
        self._worker.precision = precision

    def _take(self, engine: Engine, now: _Target, target: _Target) -> None:
        if target.limits != now.limits:
            with self._worker.ledger.phase(Phase.RECONFIGURE):
                engine.set_limits(target.limits)
        self._worker.answers = target.answers
        if target.requests_per_second != now.requests_per_second:
            self._worker.admission.limit_rate(target.requests_per_second)
        self._worker.admission.power_budget_watts = target.power_budget_watts
