"""Messages of the contract as dataclasses, generated from common/schemas by contract_from_schemas.py.

A value that was not measured is `None`, never zero. Read `State.from_json(text)`, write `Action(...).to_json()`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ._record import Record

__all__ = ["Action", "Ages", "Allocation", "Bounds", "Changes", "Choice", "Fallback", "Headroom", "HeldPoint", "Latency", "ModelRef", "OperatingPoint", "Prices", "Provenance", "RangeOfMebibytes", "RangeOfMillicores", "RangeOfReplicas", "ReplicaCounts", "State", "Usage", "Window", "Windows", "WireObjective"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ages(Record):
    """Age of the newest sample of each kind at `observed_at_ms`, milliseconds; absent if there was none."""

    cpu_ms: int | None = None
    """CPU time and throttling."""
    memory_ms: int | None = None
    """Memory in use."""
    replicas_ms: int | None = None
    """Replica counts and the current allocation."""
    requests_ms: int | None = None
    """Arrivals, completions and latencies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeOfMillicores(Record):
    """An inclusive range; the minimum never exceeds the maximum."""

    max: int
    """Maximum."""
    min: int
    """Minimum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeOfMebibytes(Record):
    """An inclusive range; the minimum never exceeds the maximum."""

    max: int
    """Maximum."""
    min: int
    """Minimum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeOfReplicas(Record):
    """An inclusive range; the minimum never exceeds the maximum."""

    max: int
    """Maximum."""
    min: int
    """Minimum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds(Record):
    """Bounds of the allocation."""

    cpu_millicores: RangeOfMillicores = field(default_factory=lambda: RangeOfMillicores(max=1000, min=100))
    """CPU of one replica, thousandths of a core."""
    memory_mib: RangeOfMebibytes = field(default_factory=lambda: RangeOfMebibytes(max=1024, min=64))
    """Memory of one replica, MiB."""
    replicas: RangeOfReplicas = field(default_factory=lambda: RangeOfReplicas(max=10, min=1))
    """Replicas; a minimum of 0 allows scaling to zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes(Record):
    """Ticks since the allocation changed, so that a penalty on flapping is a function of the State."""

    horizontal_ticks: int | None = None
    """Ticks since the number of replicas changed; absent if no change was seen."""
    last: Literal["up", "down"] | None = None
    """Direction of the last change."""
    vertical_ticks: int | None = None
    """Ticks since CPU or memory of the replicas changed; absent if no change was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint(Record):
    """Operating point between violations and cost."""

    budget_per_month: float | None = None
    """Cost of 730 hours, in the currency of the prices, that the agent holds."""
    violated_share: float | None = None
    """Share of violated ticks that the agent holds, 0.0001 to 0.5."""
    violation_cost: float | None = None
    """Cost of a violated tick in units of 5 s of the usual cost, 10 to 20000."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WireObjective(Record):
    """Service-level objective in the units of the wire."""

    failure_share: float
    """Allowed share of failed requests, 0 to 1."""
    latency_ms: int
    """Latency bound, milliseconds."""
    percentile: float
    """Bounded percentile of latency, above 0 and below 100."""
    point: OperatingPoint | None = None
    """Operating point that a learned agent holds; absent if the ScalingPolicy states none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices(Record):
    """Prices of an allocation. The defaults are list prices of serverless containers of a large cloud, in USD."""

    cpu_core_hour: float = 0.04048
    """Price of a core-hour."""
    currency: str = "USD"
    """Currency, an ISO 4217 code."""
    memory_gib_hour: float = 0.004445
    """Price of a GiB-hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage(Record):
    """Use of a resource per replica."""

    max: float
    """Maximum over the replicas."""
    mean: float
    """Mean over the replicas."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency(Record):
    """Latency percentiles, milliseconds, interpolated within the buckets of [`crate::scrape::LATENCY_BOUNDS_MS`]."""

    objective_ms: float
    """The objective's percentile."""
    p50_ms: float
    """Median."""
    p95_ms: float
    """95th percentile."""
    p99_ms: float
    """99th percentile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window(Record):
    """Measurements over a window that ends with the State's tick. Values that were not measured are absent."""

    covered_ms: int
    """Time that the samples cover, milliseconds: less than the window after a start, zero if nothing was measured, and more than the window if a
    reading ends a gap that began earlier; rates are then means over the gap."""
    completed_rps: float | None = None
    """Successful requests, requests/s."""
    concurrency: float | None = None
    """Mean number of requests in flight per ready replica."""
    cpu_millicores: Usage | None = None
    """CPU use of one replica, thousandths of a core."""
    failed_share: float | None = None
    """Share of the ended requests that failed, timed out or were refused, 0 to 1; absent if none ended."""
    latency: Latency | None = None
    """Latency of the successful requests; absent if there were none."""
    memory_mib: Usage | None = None
    """Working set of one replica, MiB."""
    oom_kills: int = 0
    """Replicas that were OOM-killed."""
    queued: float | None = None
    """Mean number of queued requests."""
    rate_rps: float | None = None
    """Arrival rate, requests/s: at the ingress, or at the replicas where no ingress is measured."""
    rate_slope_rps: float | None = None
    """Least-squares slope of the arrival rate, requests/s per tick."""
    rate_variation: float | None = None
    """Coefficient of variation of the arrival rate over the window's ticks."""
    replicas: float | None = None
    """Mean number of replicas behind the CPU samples: `cpu_millicores` times this is the use of the function. It differs from the current number of
    replicas after a change, and if measurements lag."""
    restarts: int = 0
    """Replicas that were restarted after a crash."""
    starts: int | None = None
    """Replicas that became ready after a start, including cold starts; absent if the source does not count starts."""
    throttled_share: float | None = None
    """Share of CPU periods with throttling, mean over replicas, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows(Record):
    """The three windows of a State."""

    long: Window
    """The last 60 ticks."""
    short: Window
    """The last 12 ticks."""
    tick: Window
    """The State's tick."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation(Record):
    """Replicas of a function with CPU and memory of each. Absolute, never a difference."""

    cpu_millicores: int
    """CPU limit of each replica, thousandths of a core."""
    memory_mib: int
    """Memory limit of each replica, MiB."""
    replicas: int
    """Number of replicas; with 0 the function starts on its next request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Headroom(Record):
    """Unallocated capacity."""

    cpu_millicores: int
    """Unallocated CPU."""
    memory_mib: int
    """Unallocated memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaCounts(Record):
    """Replica counts."""

    desired: int
    """Requested replicas."""
    pending: int
    """Replicas that are starting."""
    ready: int
    """Replicas that accept requests."""
    reporting: int
    """Replicas whose CPU or memory was sampled within the last tick."""
    without_cpu: int = 0
    """Replicas of those whose CPU was not sampled."""
    without_memory: int = 0
    """Replicas of those whose memory was not sampled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State(Record):
    """Measurements of a function, sufficient to decide without memory. Values that were not measured are absent, never zero."""

    age: Ages
    """Age of the newest sample of each kind."""
    agent: str
    """Agent in the ScalingPolicy; any other agent that answers is a shadow."""
    bounds: Bounds
    """Bounds of the allocation."""
    changes: Changes
    """Ticks since the last change of the allocation."""
    epoch: int
    """Epoch of the collector."""
    function: str
    """Name of the function's ScalingPolicy."""
    namespace: str
    """Namespace of the function."""
    objective: WireObjective
    """Service-level objective."""
    observed_at_ms: int
    """Time at which the collector computed this State."""
    prices: Prices
    """Prices of an allocation."""
    tick: int
    """Tick that this State closes: `floor(observed_at_ms / tick_length_ms)`."""
    tick_length_ms: int
    """Length of a tick in milliseconds, 100 to 3,600,000."""
    version: str
    """Version of this message."""
    windows: Windows
    """Measurements over 1, 12 and 60 ticks."""
    allocation: Allocation | None = None
    """Current allocation; absent until the platform has reported it."""
    headroom: Headroom | None = None
    """Unallocated capacity of the nodes, if known."""
    replicas: ReplicaCounts | None = None
    """Replica counts; absent until the platform has reported them."""
    startup_ms: int | None = None
    """Mean time from start to readiness of recently started replicas, milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice(Record):
    """A candidate action."""

    action: str
    """Its name."""
    masked: str | None = None
    """Why it was masked; absent if it was allowed."""
    value: float | None = None
    """Q-value in units of the training reward; absent if the agent does not estimate values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldPoint(Record):
    """An operating point that an agent holds. After a restart it continues from the last one that it published."""

    target: OperatingPoint
    """Operating point of the ScalingPolicy."""
    violation_cost: float
    """Cost of a violated tick at which the agent decided, in units of five seconds of the function's usual cost."""
    measured: float | None = None
    """Mean of the held quantity over the last day, or since the agent first saw the function: a share of violated ticks, or a cost per month; absent before
    the first measurement, and for a fixed violation cost."""
    measured_hours: float = 0.0
    """Hours over which it is the mean, at most 24."""
    out_of_reach: bool = False
    """Whether the target is out of reach: the violation cost is at an end of its range, and the quantity still on the wrong side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback(Record):
    """A decision by the rule that takes over from a model."""

    reason: dict[str, Any]
    """Why the model did not decide."""
    rule: str
    """Name of the rule that decided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRef(Record):
    """A model: a trained network or table as a stored artefact."""

    fingerprint: str = ""
    """Fingerprint of the weights: equal fingerprints are equal models."""
    name: str | None = None
    """Name in the model store; absent for a bundled model and for one from a file."""
    version: int | None = None
    """Version in the model store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance(Record):
    """Policy, model and fallback behind a decision. Every field is optional on the wire."""

    configuration: str = ""
    """Version and parameters of the policy, as one opaque text: policies with equal texts decide alike."""
    fallback: Fallback | None = None
    """The rule that decided in place of the policy; absent where the policy itself decided."""
    model: ModelRef | None = None
    """The model in use; absent for a policy without one."""
    policy: str = ""
    """Name of the policy that the agent runs, such as `dqn` or `hpa`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action(Record):
    """An agent's answer to a State. The allocation is absolute, so that applying it twice is harmless."""

    agent: str
    """Agent that decided; its name is a token of the subject."""
    allocation: Allocation
    """Requested allocation."""
    decided_at_ms: int
    """Time of the decision."""
    epoch: int
    """Epoch of the State that this answers."""
    expires_at_ms: int
    """Expiry: later, the Action is refused."""
    function: str
    """Name of the function's ScalingPolicy."""
    namespace: str
    """Namespace of the function."""
    tick: int
    """Tick of the State that this answers. An Action counts once for (agent, function, tick)."""
    version: str
    """Version of this message."""
    choices: tuple[Choice, ...] = ()
    """Candidate actions with their estimated values."""
    instance: str = ""
    """Instance of the agent."""
    point: HeldPoint | None = None
    """Operating point that the agent holds; absent if the ScalingPolicy states none, or the agent holds none."""
    provenance: Provenance = field(default_factory=lambda: Provenance())
    """Policy, model and fallback behind the decision."""
    reason: str = ""
    """Reason, for people; programs must not parse it."""
