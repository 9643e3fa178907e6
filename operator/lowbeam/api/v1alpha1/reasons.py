"""Every word that Lowbeam says in conditions, Events, metric labels and logs, each with its sentence.

Decides the vocabulary, so that a person can search for the word that an Event shows and find what it means and what to
do. Nothing else in the code spells one of these words.

Invariants: each constant is the CamelCase form of its name; no word has two constants; docs/reference/reasons.md is
generated from here.
"""

from __future__ import annotations

from typing import Final

CONDITION_TYPES: Final[dict[str, str]] = {}
"""Condition type -> what it observes, for the reference."""

REASONS: Final[dict[str, str]] = {}
"""Reason -> what happened and what to do, for the reference."""


def _condition(type_: str, meaning: str) -> str:
    CONDITION_TYPES[type_] = meaning
    return type_


def _reason(word: str, meaning: str) -> str:
    REASONS[word] = meaning
    return word


# --- condition types -------------------------------------------------------------------------------------------------

READY: Final = _condition("Ready", "The object is understood and does what it says: pods answer, a cap is in force.")
RECONCILING: Final = _condition("Reconciling", "True while Lowbeam is on its way to what the spec asks for.")
STALLED: Final = _condition("Stalled", "True when Lowbeam cannot go on until somebody changes something.")
MODEL_SELECTED: Final = _condition("ModelSelected", "A model and a way to run it were found for the workload.")
ENERGY_MEASURED: Final = _condition("EnergyMeasured", "The workload's watts are measured, not taken from a profile.")
DIMMED_CONDITION: Final = _condition("Dimmed", "True while a power cap gives the workload less than it asks for.")
CAP_UNSATISFIABLE_CONDITION: Final = _condition(
    "CapUnsatisfiable", "True when a power cap cannot be met without breaking a promise to this workload."
)
LOAD_OBSERVED: Final = _condition(
    "LoadObserved", "The workload is sized for the load that its pods report, not for spec.load."
)
PROFILE_CONTRADICTED_CONDITION: Final = _condition(
    "ProfileContradicted",
    "True while the workload's own watts differ from its profile by more than 30 %: the measured value counts.",
)
WITHIN_CAP_CONDITION: Final = _condition("WithinCap", "Measured watts are at most the usable watts.")
SHEDDING_CONDITION: Final = _condition("Shedding", "True while workloads are being dimmed for this cap.")
TELEMETRY_HEALTHY_CONDITION: Final = _condition("TelemetryHealthy", "Enough accelerators report fresh watts.")
SATISFIABLE_CONDITION: Final = _condition("Satisfiable", "The cap can be met without breaking a quality floor.")

# --- decisions about workloads ---------------------------------------------------------------------------------------

PENDING: Final = _reason("Pending", "The workload was seen and is not planned yet; the next planner cycle decides.")
SELECTED: Final = _reason("Selected", "A model, precision, accelerator and number of replicas were chosen.")
DIMMED: Final = _reason(
    "Dimmed", "A power cap took watts from the workload; the message says which cap, which lever and what it cost."
)
RESTORED: Final = _reason("Restored", "There was room under the cap again; the workload has what it asks for.")
NOT_DIMMED: Final = _reason("NotDimmed", "No power cap takes anything from the workload.")
PAUSED: Final = _reason(
    "Paused",
    "A power cap leaves no watts for the workload: it has no pods until there is room. Where the message says what it "
    "waits for, it comes back by itself.",
)
SCALED: Final = _reason("Scaled", "The number of replicas follows the load.")
RECONFIGURED: Final = _reason(
    "Reconfigured", "Running pods took a new batch limit, or their boards a new power limit, without a restart."
)
REPLACED: Final = _reason("Replaced", "Another model, precision or accelerator class took over.")
ADVISED: Final = _reason("Advised", "spec.mode is Advise: Lowbeam says what it would do and changes nothing.")
ALL_REPLICAS_READY: Final = _reason("AllReplicasReady", "As many pods answer as were decided.")
REPLICAS_NOT_READY: Final = _reason(
    "ReplicasNotReady", "Fewer pods answer than were decided; the message quotes the first pod's own reason."
)
MEASURED: Final = _reason("Measured", "Fresh readings of the workload's own pods.")
NOT_MEASURED: Final = _reason(
    "NotMeasured", "No fresh reading: the figures come from the profile, and the cap counts the worst case."
)

# --- load and profile of a workload -----------------------------------------------------------------------------------

DECLARED: Final = _reason(
    "Declared", "Too little was observed yet: spec.load is what the workload is sized for, or a share of it."
)
OBSERVED: Final = _reason("Observed", "An upper quantile of the load that telemetry saw; status.load shows it.")
DATA_GAP: Final = _reason(
    "DataGap",
    "No pod has reported its load for several windows. What was observed until then stays in use; check the workers' "
    "control ports.",
)
PROFILE_CONTRADICTED: Final = _reason(
    "ProfileContradicted",
    "Measured watts differ from the profile by more than 30 % for three windows in a row. The profile counts times "
    "what was measured, on this workload only; check power limits, or add an EnergyProfile of your own.",
)
PROFILE_HOLDS: Final = _reason("ProfileHolds", "Measured watts agree with the profile.")

# --- why a workload cannot run as asked ------------------------------------------------------------------------------

INVALID_SPEC: Final = _reason("InvalidSpec", "The spec breaks a rule; the message names the field and the rule.")
UNKNOWN_TASK: Final = _reason(
    "UnknownTask", "The catalogue has no facts about spec.task. Correct it, or add a ModelCard that serves it."
)
MODEL_NOT_IN_CATALOGUE: Final = _reason(
    "ModelNotInCatalogue", "spec.model names a model that the catalogue does not have. Correct it, or add a ModelCard."
)
CLASS_NOT_IN_CATALOGUE: Final = _reason(
    "ClassNotInCatalogue",
    "spec.placement.acceleratorClasses names a class that the catalogue does not have. Correct it, or add an "
    "AcceleratorClass.",
)
UNKNOWN_BENCHMARK: Final = _reason(
    "UnknownBenchmark",
    "No model for the task has a score on spec.quality.benchmark. Correct it, or add a ModelCard with such a score.",
)
NO_MODEL_MEETS_FLOOR: Final = _reason(
    "NoModelMeetsFloor", "No model of the catalogue reaches spec.quality.floor. Lower it, or add a ModelCard."
)
NO_ACCELERATOR_OF_CLASS: Final = _reason(
    "NoAcceleratorOfClass", "No ready node has an accelerator that is allowed and large enough."
)
NO_OPTION: Final = _reason(
    "NoOption", "Each way to run the workload fails for some reason; status.alternatives lists the nearest ones."
)
CAP_UNSATISFIABLE: Final = _reason(
    "CapUnsatisfiable",
    "The cap cannot be met without breaking a quality floor or a minimum. Raise the cap, lower a floor, consent with "
    "belowFloor: WhenCapped, or allow onInfeasible: PauseLowest.",
)

# --- why one option lost (status.alternatives) -----------------------------------------------------------------------

TASK_NOT_SUPPORTED: Final = _reason("TaskNotSupported", "The model exists and does something else.")
NOT_NAMED: Final = _reason("NotNamed", "spec.model.pinned or spec.model.names leaves the model out.")
LICENCE_NOT_ALLOWED: Final = _reason("LicenceNotAllowed", "spec.model.licences leaves the licence out.")
NEEDS_OPT_IN: Final = _reason(
    "NeedsOptIn", "A generative model for a task that needs none: add an optIn GenerativeModel to allow it."
)
CONTEXT_TOO_SHORT: Final = _reason("ContextTooShort", "Prompt and answer do not fit the model's context.")
REASONING_NOT_ALLOWED: Final = _reason("ReasoningNotAllowed", "The variant thinks longer than spec.reasoning allows.")
QUALITY_UNKNOWN: Final = _reason("QualityUnknown", "The catalogue has no score of the variant on the benchmark.")
BELOW_FLOOR: Final = _reason("BelowFloor", "The score is below spec.quality.floor.")
NOT_SERVED_NATIVELY: Final = _reason(
    "NotServedNatively",
    "Lowbeam's own worker cannot serve it (precision, several accelerators, reasoning that each prompt asks for). The "
    "message names the engines that could: choose one in spec.engine, or name the image of one of your own in "
    "spec.pod.image.",
)
NOT_SERVED_BY_ENGINE: Final = _reason(
    "NotServedByEngine", "The engine of spec.engine cannot serve it: choose another one, or Auto."
)
NO_PROFILE: Final = _reason("NoProfile", "Nobody measured the variant for this task: add an EnergyProfile.")
CLASS_NOT_ALLOWED: Final = _reason("ClassNotAllowed", "spec.placement.acceleratorClasses leaves the class out.")
PRECISION_NOT_SUPPORTED: Final = _reason(
    "PrecisionNotSupported", "The accelerator cannot compute in the variant's precision."
)
OUT_OF_MEMORY: Final = _reason("OutOfMemory", "Weights and working memory do not fit the accelerators.")
NO_INVENTORY: Final = _reason("NoInventory", "No pool has (enough of) the accelerators.")
TOO_SLOW: Final = _reason("TooSlow", "No measured batch meets spec.latency.")
TOO_MUCH_ENERGY: Final = _reason("TooMuchEnergy", "Above spec.energy.maxJoulesPerRequest.")
TOO_MANY_WATTS: Final = _reason("TooManyWatts", "Above spec.energy.maxWatts.")
SCALED_TO_ZERO: Final = _reason("ScaledToZero", "An autoscaler asked for no replica.")
SERVES_LESS: Final = _reason("ServesLess", "It leaves demand unserved that the chosen one serves.")
BELOW_TARGET: Final = _reason("BelowTarget", "It keeps the floor and falls shorter of spec.quality.target.")
LESS_HEADROOM: Final = _reason(
    "LessHeadroom", "It costs as much as the chosen one and absorbs smaller bursts, or commits more watts."
)
MORE_ENERGY: Final = _reason("MoreEnergy", "It would do, and costs more energy than the chosen one.")

# --- power caps ------------------------------------------------------------------------------------------------------

IN_FORCE: Final = _reason("InForce", "The cap is understood and kept.")
OBSERVING: Final = _reason("Observing", "spec.mode is Observe: Lowbeam reports and dims nothing for this cap.")
CAP_CYCLE: Final = _reason("CapCycle", "The parents form a circle. Remove `parent` from one of the caps named.")
CAP_PARENT_MISSING: Final = _reason(
    "CapParentMissing", "spec.parent names a PowerCap that does not exist; this cap holds on its own until it does."
)
CAP_BELOW_MINIMUM: Final = _reason(
    "CapBelowMinimum", "The cap is below what the smallest allowed settings of its workloads draw together."
)
CAP_NOTHING_USABLE: Final = _reason(
    "CapNothingUsable", "Meter tolerance and overhead leave no watts for accelerators. Raise spec.watts."
)
CAP_OVERLAPS: Final = _reason(
    "CapOverlaps",
    "Nodes that its selector fits count under another pool cap. Separate the selectors, or make it that cap's parent.",
)
CAP_SCHEDULE_INVALID: Final = _reason(
    "CapScheduleInvalid",
    "An entry of spec.schedule means nothing, or is active all the time; the message names the field. The cap's other "
    "watts stay in force.",
)
CUT_AHEAD: Final = _reason(
    "CutAhead", "An entry of the cap's schedule or events begins soon: workloads are dimmed in time for it."
)
CUT_BEGAN: Final = _reason("CutBegan", "An entry of the cap's schedule or events is active; the message says how long.")
CUT_ENDED: Final = _reason(
    "CutEnded", "An entry of the cap's schedule or events is over: dimmed workloads come back through the restore gate."
)
WITHIN_CAP: Final = _reason("WithinCap", "Measured watts are at most the usable watts.")
OVER_CAP: Final = _reason("OverCap", "Measured watts are above the usable watts.")
SHEDDING: Final = _reason("Shedding", "Workloads are being dimmed to get under the cap.")
SOFT_SHED: Final = _reason("SoftShed", "The mean of 10 seconds reached thresholds.softShedPercent of the usable watts.")
HARD_SHED: Final = _reason("HardShed", "The mean of 2 seconds reached thresholds.hardShedPercent: dimmed at once.")
EMERGENCY: Final = _reason(
    "Emergency", "Far above the cap: every fast lever is used, then workloads are paused by priority."
)
MOVES_SETTLING: Final = _reason("MovesSettling", "Enough was done; the watts of running changes are still falling.")
NOT_SHEDDING: Final = _reason("NotShedding", "Nothing is being dimmed now.")
RESTORING: Final = _reason("Restoring", "Workloads get their watts back, one step at a time.")
SATISFIABLE: Final = _reason("Satisfiable", "The cap can be met without breaking a promise.")
NO_HEADROOM: Final = _reason(
    "NoHeadroom",
    "A change would commit more watts than the cap has left; it waits. Of a cap: more is committed than is usable, "
    "until what was decided has happened.",
)
GROWTH_FROZEN: Final = _reason("GrowthFrozen", "Nothing may grow under a cap that is shedding or cannot see its watts.")
ACTUATION_INEFFECTIVE: Final = _reason(
    "ActuationIneffective", "A change gave less than half of the watts it should have; Lowbeam goes on to the next one."
)

# --- why a dimmed workload is not restored yet -----------------------------------------------------------------------

DWELL_TIME: Final = _reason("DwellTime", "Less than restore.dwellSeconds (and jitter) since the last shed.")
STEP_TIME: Final = _reason("StepTime", "Less than restore.stepSeconds since another workload came back.")
RAMP_LIMIT: Final = _reason("RampLimit", "What restore.rampPercentPerMinute allows is used up for this minute.")
MEASURED_ABOVE_GATE: Final = _reason(
    "MeasuredAboveGate", "The highest measurement of restore.windowSeconds is not below restore.gatePercent."
)
COMMITTED_ABOVE_GATE: Final = _reason(
    "CommittedAboveGate", "After the step the committed watts would be above restore.committedPercent."
)
NOT_ENOUGH_HISTORY: Final = _reason(
    "NotEnoughHistory", "Lowbeam has not yet seen restore.windowSeconds of measurements without a gap."
)
COVERAGE_TOO_LOW: Final = _reason("CoverageTooLow", "Fewer accelerators than restore.coveragePercent are measured.")
PINNED_BY_ANTI_FLAP: Final = _reason(
    "PinnedByAntiFlap", "The workload went up and down twice in ten minutes; it stays as it is for a while."
)

# --- telemetry -------------------------------------------------------------------------------------------------------

TELEMETRY_HEALTHY: Final = _reason("TelemetryHealthy", "Enough accelerators report fresh watts.")
TELEMETRY_LOST: Final = _reason(
    "TelemetryLost",
    "Most accelerators are silent: committed watts are brought below the cap instead. Check the workers' control "
    "ports.",
)
TELEMETRY_STALE: Final = _reason(
    "TelemetryStale", "Too few fresh readings: stale ones count at their worst case, and nothing is restored."
)

TRUSTED: Final = _reason("Trusted", "The reading counts as it is.")
CLAMPED_TO_LIMIT: Final = _reason(
    "ClampedToLimit", "The reading was implausible: the board counts with its enforced limit and 5 % more."
)
SAMPLE_LATE: Final = _reason("SampleLate", "Older than telemetry.lateSeconds: it counts 10 % higher.")
SAMPLE_STALE: Final = _reason("SampleStale", "Older than telemetry.staleSeconds: the worst case counts instead.")
SAMPLE_MISSING: Final = _reason("SampleMissing", "The pod never answered on its control port: the worst case counts.")
NO_METER: Final = _reason("NoMeter", "The pod answers and has no meter: the worst case counts.")
NOT_FINITE: Final = _reason("NotFinite", "The reading is no number; it is rejected.")
NEGATIVE: Final = _reason("Negative", "The reading is below zero; it is rejected.")
UNIT_ERROR: Final = _reason("UnitError", "The reading is a thousand times too large or small; it is rejected.")
ABOVE_MAXIMUM: Final = _reason("AboveMaximum", "The reading is above what the board can draw; it is rejected.")
BELOW_IDLE: Final = _reason("BelowIdle", "The reading is below half of what the board draws idle; it is rejected.")
COUNTER_WENT_BACK: Final = _reason("CounterWentBack", "The energy counter fell; the reading is rejected.")
COUNTER_FROZEN: Final = _reason("CounterFrozen", "The energy counter stands still while the board is busy.")
ENERGY_DISAGREES: Final = _reason("EnergyDisagrees", "Power and energy counter of the board contradict each other.")

# --- the cluster -----------------------------------------------------------------------------------------------------

PERMISSION_DENIED: Final = _reason(
    "PermissionDenied", "The API server refused a request of the operator. Compare its ClusterRole with the chart's."
)
WRITE_REFUSED: Final = _reason(
    "WriteRefused", "The API server refused an object of the operator; the message quotes it, often a policy or quota."
)
IN_CATALOGUE: Final = _reason("InCatalogue", "The object is part of the catalogue.")
