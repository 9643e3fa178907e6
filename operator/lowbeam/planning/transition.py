"""From where we are to where the plan wants to be, one safe step at a time.

    1. down   every move that lowers all caps it touches happens now
    2. up     by priority: a dimmed workload asks the restore gate, any other is admitted when it fits

Decides which moves happen now, in which order a replacement goes, and what is held and why. The targets it answers are
the assumption of "assume, then write": pass them back at the next tick, and the ledger charges what is decided but not
yet running. Never credits watts before the pod is gone, never raises a cap's committed watts above usable, and never
looks at a clock. The runtime and the simulation both go through here.

Invariants: an upward move leaves committed <= usable in every enforced cap that it raises; down goes before up; a
replacement is made before the old one goes only when both fit (watts and boards), else share by share; where a cap
waits for the old one it is made after that is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lowbeam.planning.boards import Boards
from lowbeam.planning.choices import loses
from lowbeam.planning.committed import Ledger, Order, Target, contribution, placement_of, replicas_of
from lowbeam.planning.moves import Move, move_between
from lowbeam.planning.plan_types import Choice, Plan
from lowbeam.planning.roll import Roll
from lowbeam.planning.shed import Shed, ShedOrder
from lowbeam.planning.snapshot import Snapshot
from lowbeam.power.caps import CapTree
from lowbeam.power.gate import RECHECK_MS, CapView, GateState, Hold, permit, pin_of
from lowbeam.power.guard import Assessment, Urgency
from lowbeam.power.ledger import ReplicaCharge
from lowbeam.power.pins import Direction
from lowbeam.sizing.options import Option

Key = tuple[str, str]

NO_HEADROOM = "NoHeadroom"
"""The move does not fit under a cap yet: pods that hold its watts have to end first."""
GROWTH_FROZEN = "GrowthFrozen"
"""A cap on the path is shedding, or sees too few of its accelerators."""


@dataclass(frozen=True, slots=True)
class Step:
    """One move to carry out now."""

    namespace: str
    name: str
    before: Option | None
    after: Option | None
    direction: Direction
    order: Order
    cap: str
    """The cap that asked for a downward step or let a restore through; empty for everything else."""
    move: Move

    @property
    def key(self) -> Key:
        """(namespace, name)."""
        return (self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class Transition:
    """The answer of one tick. Store `targets` and `gate`, carry out `steps`, show `held`."""

    targets: dict[Key, Target]
    steps: tuple[Step, ...]
    """Downward first, then upward by priority."""
    held: dict[Key, Hold]
    gate: GateState
    committed_milliwatts: dict[str, int]
    """Per cap, with these targets assumed."""
    hurried: frozenset[Key] = frozenset()
    """Workloads whose replacement share by share goes on another way, with nothing else decided."""
    shed_caps: frozenset[str] = field(default_factory=frozenset)
    """Caps that asked for a downward step: restart their `PowerWindow`."""


def next_targets(
    snapshot: Snapshot,
    plan: Plan,
    *,
    targets: Mapping[Key, Target],
    charges: Sequence[ReplicaCharge],
    views: Mapping[str, CapView],
    gate: GateState,
    now_ms: int,
) -> Transition:
    """Move the targets towards `plan` as far as ledger, boards, gate and guard allow at this tick.

    `charges`: the pods that exist, in any state; assumed replicas are added here. `views`: one per cap of the tree. A
    workload without a choice in the plan keeps its target; a target whose workload is gone is dropped (its pods stay
    charged as long as they exist). A workload that was dimmed by a cap which no longer enforces comes back through
    that cap's dwell and step time.
    """
    walk = _Walk(snapshot, targets=targets, charges=charges, views=views, gate=gate, now_ms=now_ms)
    choices = {choice.key: choice for choice in plan.choices if choice.key in walk.targets}
    ups: list[tuple[Key, Choice]] = []
    for key in sorted(choices):
        choice, target = choices[key], walk.targets[key]
        if _same(choice.option, target.option):
            walk.keep(key, choice)
        elif walk.follows_its_nodes(key, choice.option):
            walk.follow(key, choice)
        elif _lowers(snapshot.caps, choice, target.option):
            walk.lower(key, choice, forced=_forced(snapshot.caps, plan, choice, target))
        else:
            ups.append((key, choice))
    priority = {state.requirements.key: state.requirements.priority for state in snapshot.workloads}
    ups.sort(key=lambda up: (-priority[up[0]], _worst(up[1].option) - _worst(walk.targets[up[0]].option), up[0]))
    for key, choice in ups:
        walk.up(key, choice)
    return walk.answer()


def shed_targets(
    snapshot: Snapshot,
    sheds: Iterable[Shed],
    *,
    targets: Mapping[Key, Target],
    charges: Sequence[ReplicaCharge],
    views: Mapping[str, CapView],
    gate: GateState,
    now_ms: int,
) -> Transition:
    """Carry out what the guard chose: always at once, never gated, and remembered as dimming by its cap."""
    walk = _Walk(snapshot, targets=targets, charges=charges, views=views, gate=gate, now_ms=now_ms)
    for shed in sheds:
        key = (shed.namespace, shed.name)
        if key in walk.targets and not _same(shed.option, walk.targets[key].option):
            walk.down(key, shed.option, shed.cap, forced=True)
    return walk.answer()


def orders_of(assessments: Iterable[Assessment]) -> tuple[ShedOrder, ...]:
    """What the guard asks of `planning.shed` at this tick; empty when every cap is kept."""
    return tuple(
        ShedOrder(it.cap, it.milliwatts_to_free, committed=it.urgency is Urgency.BLIND) for it in assessments if it.act
    )


class _Walk:
    """One tick under way: the targets change move by move, the ledger with them."""

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        targets: Mapping[Key, Target],
        charges: Sequence[ReplicaCharge],
        views: Mapping[str, CapView],
        gate: GateState,
        now_ms: int,
    ) -> None:
        self._snapshot, self._gate, self._now_ms = snapshot, gate, now_ms
        # A cap that only observes holds nothing back.
        self._views = {name: view for name, view in views.items() if view.cap.enforce}
        self._uid = {state.requirements.key: state.requirements.uid for state in snapshot.workloads}
        self.targets = {key: targets.get(key, Target()) for key in sorted(self._uid)}
        self._ledger = Ledger(snapshot.caps, self.targets, charges)
        self._boards = Boards(snapshot, self.targets, charges)
        self._steps: list[Step] = []
        self._held: dict[Key, Hold] = {}
        self._hurried: set[Key] = set()
        self._go_on()

    def keep(self, key: Key, choice: Choice) -> None:
        """The same setting; its figures are those of today's demand."""
        self.targets[key] = replace(self.targets[key], option=choice.option)
        self._ledger.assume(key, self.targets[key])
        self._note(key, choice)

    def note_dimming(self, key: Key, cap: str) -> None:
        target = self.targets[key]
        if cap != target.dimmed_by:
            since = None if not cap else target.dimmed_since_ms if target.dimmed_by else self._now_ms
            self.targets[key] = replace(target, dimmed_by=cap, dimmed_since_ms=since)

    def _note(self, key: Key, choice: Choice) -> None:
        """What stands between what stays and what it would be. A pin outlives the need of the cap that dimmed: the
        workload is still dimmed by that cap, which has something to give back."""
        if choice.pinned and (pin := pin_of(self._gate, key, self._now_ms)):
            self._held[key] = pin
        if choice.binding_cap or not (choice.pinned and _gets_less(choice)):
            self.note_dimming(key, choice.binding_cap)

    def lower(self, key: Key, choice: Choice, *, forced: bool) -> None:
        """Down, as the plan has it. Where pods of the same placement are still ending, the new ones would draw beside
        them: without room for both it waits until they are gone."""
        if self._has_room(key, choice.option):
            self.down(key, choice.option, choice.binding_cap, forced=forced)

    def follow(self, key: Key, choice: Choice) -> None:
        """The same setting in the pool that its nodes are in now. No watts are given back: no gate is asked."""
        if self._has_room(key, choice.option):
            self._take(key, self._towards(key, choice.option), Direction.UP, "")
            self._note(key, choice)

    def down(self, key: Key, option: Option | None, cap: str, *, forced: bool) -> None:
        aimed = self._towards(key, option)
        if forced and cap and aimed.roll is not None:
            aimed = replace(aimed, order=Order.BREAK_BEFORE_MAKE, roll=None)
        self._take(key, aimed, Direction.DOWN, cap if forced else "")
        self.note_dimming(key, cap)
        if forced and cap:
            self._gate = self._gate.shed(key, cap, self._now_ms, self._views.get(cap))

    def up(self, key: Key, choice: Choice) -> None:
        target, option = self.targets[key], choice.option
        aimed = self._towards(key, option)
        raises = self._ledger.change(key, aimed)
        net = contribution(self._snapshot.caps, key, option, minus=target.option)
        # Watts of an evicted pod that drains beside the one made in its place are charged and no room to grow into.
        asks = {cap: max(raises[cap], net[cap]) for cap in raises}
        blocked = self._ledger.over(raises, asks)
        if blocked:
            self._held[key] = self._no_headroom(blocked, asks)
            return
        # Also when its load fell and rose again meanwhile: else a smaller load for a moment would open the gate.
        if target.dimmed_by or self._gate.went_down_last(key):
            if target.dimmed_by and target.dimmed_by not in self._views:
                net[target.dimmed_by] = max(0, _worst(option) - _worst(target.option))
            answer = permit(
                self._gate,
                key,
                uid=self._uid[key],
                extra_milliwatts=net,
                committed_milliwatts=self._ledger.committed,
                views=self._views,
                now_ms=self._now_ms,
                paused=target.option is None,
            )
            if isinstance(answer, Hold):
                self._held[key] = answer
                return
            self._gate = self._gate.restored(key, net, self._views, self._now_ms)
        else:
            # Also when pods that still drain would be taken back: the ledger has not changed, the intention has.
            frozen = sorted(c for c in net if asks[c] > 0 and not self._may_grow(c))
            if frozen:
                message = f'PowerCap "{frozen[0]}" is shedding or sees too few accelerators: nothing grows under it now'
                self._held[key] = Hold(GROWTH_FROZEN, message, self._now_ms + RECHECK_MS)
                return
        self._take(key, aimed, Direction.UP, target.dimmed_by)
        self.note_dimming(key, choice.binding_cap)

    def answer(self) -> Transition:
        return Transition(
            targets=self.targets,
            steps=tuple(self._steps),
            held=self._held,
            gate=self._gate.pruned(
                frozenset(self.targets), frozenset({*self._views, *(t.dimmed_by for t in self.targets.values())})
            ),
            committed_milliwatts=dict(self._ledger.committed),
            hurried=frozenset(self._hurried),
            shed_caps=frozenset(step.cap for step in self._steps if step.direction is Direction.DOWN and step.cap),
        )

    def _take(self, key: Key, aimed: Target, direction: Direction, cap: str) -> None:
        before, after = self.targets[key], aimed.option
        move = move_between(before.option, after, was_paused=bool(before.dimmed_by) and before.option is None)
        self._steps.append(Step(*key, before.option, after, direction, aimed.order, cap, move))
        self.targets[key] = aimed
        self._ledger.assume(key, aimed)
        self._boards.assume(key, after)

    def _towards(self, key: Key, option: Option | None) -> Target:
        """The target with `option`, and how a replacement goes: both at once when watts and boards allow it and no cap
        waits for the old one."""
        before = self.targets[key]
        target = replace(before, option=option, order=Order.IN_PLACE, roll=None)
        if option is None or not (others := self._ledger.replaced_by(key, placement_of(option))):
            return target
        begun = len(others) < self._ledger.pods_of(key)
        if before.order is Order.ROLLING and before.option is not None:  # its first new replica may be still to come
            begun |= before.option.placement_key == option.placement_key
        if self._is_waited_for(key, begun=begun):
            return replace(target, order=Order.BREAK_BEFORE_MAKE)
        both = replace(target, order=Order.MAKE_BEFORE_BREAK)
        if not self._boards.short_of(key, option) and not self._ledger.over(self._ledger.change(key, both)):
            return both
        if (roll := self._roll(key, option, others)) is not None:
            return replace(target, order=Order.ROLLING, roll=roll)
        return replace(target, order=Order.BREAK_BEFORE_MAKE)

    def _roll(self, key: Key, option: Option, others: Sequence[ReplicaCharge]) -> Roll | None:
        """A replacement share by share, where it leaves any old replica beside a new one.

        Not where a new replica needs more accelerators than an old one leaves: what several leave is on several nodes.
        """
        one_sort = len({pod.placement for pod in others}) == 1
        fits = all(max(1, pod.accelerators) >= option.accelerators_per_replica for pod in others)
        old = replicas_of(others)
        if min(option.replicas, old) < 2 or not one_sort or not fits:
            return None
        return Roll(old, self._ledger.beside_others(key, option))

    def _is_waited_for(self, key: Key, *, begun: bool) -> bool:
        """Whether a cap that has to shed is charged with pods of the workload, or one whose committed watts are over.

        Of a replacement that has `begun` only the guard's need counts: a new leader charges too much until it has heard
        of every worker.
        """
        waiting = {c for c, view in self._views.items() if view.needs_milliwatts > 0}
        if not begun:
            waiting |= self._ledger.over_now()
        holds = self._ledger.charged_by(key)
        return any(holds[cap] > 0 for cap in waiting)

    def _go_on(self) -> None:
        """How replacements go now that a new leader found, whose cap has to shed meanwhile, or that wait for
        accelerators in vain: of these the first one makes room, with what stands as a new beginning."""
        for key, target in self.targets.items():
            if target.order is Order.ROLLING and (target.roll is None or self._is_waited_for(key, begun=True)):
                self._hurry(key, self._towards(key, target.option))
        for key, option in self._boards.blocked(self.targets)[:1]:
            aimed = replace(self.targets[key], order=Order.BREAK_BEFORE_MAKE, roll=None)
            roll = self._roll(key, option, self._ledger.replaced_by(key, placement_of(option)))
            if roll is not None:
                roll = replace(roll, new=self._boards.standing(key, option))
                aimed = replace(aimed, order=Order.ROLLING, roll=roll)
            self._hurry(key, aimed)

    def _hurry(self, key: Key, aimed: Target) -> None:
        if aimed != self.targets[key]:
            self.targets[key] = aimed
            self._ledger.assume(key, aimed)
            self._hurried.add(key)

    def follows_its_nodes(self, key: Key, option: Option | None) -> bool:
        """Whether only the pool of what runs is another one: its pods stand on nodes of `option`'s pool already."""
        runs = self.targets[key].option
        if runs is None or option is None or runs.pool == option.pool or _worst(option) > _worst(runs):
            return False
        renamed = replace(runs, pool=option.pool)
        return _same(renamed, option) and self._boards.stands_in(key, runs) == {option.pool}

    def _has_room(self, key: Key, option: Option | None) -> bool:
        """Whether `option` may be assumed; it is held otherwise."""
        raises = self._ledger.change(key, self._towards(key, option))
        blocked = self._ledger.over(raises)
        if blocked:
            self._held[key] = self._no_headroom(blocked, raises)
        return not blocked

    def _may_grow(self, cap: str) -> bool:
        return cap not in self._views or self._views[cap].growth_allowed

    def _no_headroom(self, blocked: Sequence[str], raises: Mapping[str, int]) -> Hold:
        cap = blocked[0]
        message = f'PowerCap "{cap}" has not the {raises[cap] / 1000:.0f} W free that are needed: waits for others'
        return Hold(NO_HEADROOM, message, self._now_ms + RECHECK_MS)


def _same(one: Option | None, other: Option | None) -> bool:
    return one is other or (one is not None and other is not None and one.setting == other.setting)


def _gets_less(choice: Choice) -> bool:
    return choice.option is not None and choice.desired is not None and loses(choice.option, choice.desired)


def _worst(option: Option | None) -> int:
    return 0 if option is None else option.worst_case_milliwatts


def _lowers(tree: CapTree, choice: Choice, running: Option | None) -> bool:
    """True when no enforced cap is charged more and the move is not a start."""
    if running is None:
        return False
    net = contribution(tree, choice.key, choice.option, minus=running)
    return all(net[cap.name] <= 0 for cap, _ in tree.enforced()) and _worst(choice.option) <= _worst(running)


def _forced(tree: CapTree, plan: Plan, choice: Choice, target: Target) -> bool:
    """True when a cap does not let the workload keep its target: otherwise the load fell, and that is no shed."""
    if not choice.binding_cap:
        return False
    back = contribution(tree, choice.key, target.option, minus=choice.option)
    return any(
        plan.cap_milliwatts.get(cap.name, 0) + plan.reserved_milliwatts.get(cap.name, 0) + back[cap.name] > usable
        for cap, usable in tree.enforced()
    )
