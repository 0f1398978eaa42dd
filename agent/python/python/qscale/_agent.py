"""An agent: a function from State to Action, and the service around it. Owns connection, queue group, deadlines and errors; must not decide."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import dataclasses
import inspect
import logging
import os
import signal
import socket
import time
from typing import Any, Callable, overload
from urllib.parse import unquote, urlsplit

from . import _native
from .contract import Action, Allocation, Choice, Provenance, State

log = logging.getLogger("qscale.agent")

VERSION = "1.0"
"""Version of the messages that this package writes."""
MAX_TEXT = 1024
"""Longest reason or configuration, bytes; a longer one is cut."""
MAX_CHOICES = 256
"""Most choices of an Action; further ones are left out."""
MAX_REFUSALS = 5
"""Refusals of the credential, one every two seconds, after which an agent that was connected gives up."""
DRAIN_S = 5
"""Time that a stop waits for decisions and messages on the way, seconds."""
IDLE_S = 24 * 3600.0
"""Time without a State after which a function and its memory are forgotten, seconds."""


class AgentError(RuntimeError):
    """An agent that cannot run: a setting is missing or wrong, or the server refuses the credential."""


def answer(
    state: State,
    *,
    replicas: int | None = None,
    cpu_millicores: int | None = None,
    memory_mib: int | None = None,
    allocation: Allocation | None = None,
    reason: str = "",
    choices: tuple[Choice, ...] | list[Choice] = (),
) -> Action:
    """An Action that answers `state`. Parts of the allocation that are not given keep their current value; the result is within the State's bounds.

    The service adds the name of the agent, the time of the decision and the expiry.
    """
    current = allocation or state.allocation
    if current is None:
        raise ValueError(f"the State of {state.namespace}/{state.function} has no current allocation; return None to keep it")
    wanted = {"replicas": replicas, "cpu_millicores": cpu_millicores, "memory_mib": memory_mib}
    values = {name: getattr(current, name) if value is None else value for name, value in wanted.items()}
    bounded = {name: _clamped(name, value, getattr(state.bounds, name)) for name, value in values.items()}
    return Action(
        version=VERSION,
        agent="",
        namespace=state.namespace,
        function=state.function,
        epoch=state.epoch,
        tick=state.tick,
        decided_at_ms=0,
        expires_at_ms=0,
        allocation=Allocation(**bounded),
        reason=_cut(reason),
        choices=tuple(choices)[:MAX_CHOICES],
    )


def _clamped(name: str, value: Any, bounds: Any) -> int:
    try:
        whole = round(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} = {value!r}, must be a finite number") from None
    return int(min(max(whole, bounds.min), bounds.max))


def _cut(text: str) -> str:
    return text.encode()[:MAX_TEXT].decode(errors="ignore")


Decide = Callable[..., Any]


@overload
def agent(decide: Decide) -> Agent: ...
@overload
def agent(
    *, memory: Callable[[], Any] | None = None, configuration: str | None = None, expires_after: int = 2
) -> Callable[[Decide], Agent]: ...


def agent(decide: Decide | None = None, **settings: Any) -> Any:
    """Makes an agent of a function, which may be `async`: `State` in, `Action` (by `answer`) or `None` for the current allocation out.

    - `memory`: makes the memory of a function, which is the second argument of `decide`; such an agent must run as one instance
    - `configuration`: version and parameters in the Outcomes; equal configurations decide alike
    - `expires_after`: ticks after the observation within which an Action must be applied
    """
    return Agent(decide, **settings) if decide else lambda function: Agent(function, **settings)


class Agent:
    """A function that decides, with its service. Calling it calls the function."""

    def __init__(
        self, decide: Decide, *, memory: Callable[[], Any] | None = None, configuration: str | None = None, expires_after: int = 2
    ) -> None:
        if expires_after < 1:
            raise ValueError(f"expires_after = {expires_after}, must be at least 1 tick")
        self.decide = decide
        self.memory = memory
        self.policy = getattr(decide, "__name__", type(decide).__name__).replace("_", "-")
        self.configuration = configuration or self.policy
        self.expires_after = expires_after
        self.counts: collections.Counter[str] = collections.Counter()
        """Number of States by result: changed, kept, silent, late, superseded, failed, timed_out, invalid."""
        self.__doc__ = getattr(decide, "__doc__", None)

    def __call__(self, *arguments: Any) -> Any:
        return self.decide(*arguments)

    def run(self, url: str | None = None, name: str | None = None) -> None:
        """Serves until SIGINT or SIGTERM. Settings come from `NATS_URL` and `QSCALE_AGENT`, which `qscale agent add NAME` prints."""
        if not logging.getLogger().handlers:
            logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")

        async def until_signal() -> None:
            stop = asyncio.Event()
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
            await self.serve(url, name, stop=stop)

        try:
            asyncio.run(until_signal())
        except AgentError as error:
            raise SystemExit(f"error: {error}") from None

    async def serve(self, url: str | None = None, name: str | None = None, *, stop: asyncio.Event | None = None) -> None:
        """Answers States until `stop` is set, then finishes those that have arrived. An absent server is waited for."""
        url = url or _setting("NATS_URL")
        name = name or _setting("QSCALE_AGENT")
        # An invalid name fails here, before there is a connection.
        group = _native.agent_group(name)
        clock, connection, stop = Clock.of_environment(), _Connection(url, name), stop or asyncio.Event()
        bus = await connection.open(stop)
        if bus is None:
            return
        service = _Service(self, name, bus, clock)
        # Each instance of an agent without memory may answer any State; a memory must see all States of its function.
        queue = group if self.memory is None else ""
        subscription = await bus.subscribe(_native.state_subjects(), queue=queue, cb=service.receive)
        log.info("agent %s answers States with %s", name, self.configuration)
        try:
            await _first(stop.wait(), connection.until_lost())
            connection.check()
        finally:
            connection.is_connected = False
            await service.finish(subscription)
            log.info("agent %s stopped: %s", name, dict(self.counts))


def _setting(variable: str) -> str:
    value = os.environ.get(variable)
    if not value:
        raise AgentError(f'{variable} is not set; run: eval "$(qscale agent add NAME)"')
    return value


class Clock:
    """The clock of the services: the time of day, or a faster one with `QSCALE_CLOCK`, such as `10@1764000000000`."""

    def __init__(self, speed: int = 1, origin_ms: int = 0) -> None:
        self.speed = speed
        self.origin_ms = origin_ms

    @classmethod
    def of_environment(cls) -> Clock:
        text = os.environ.get("QSCALE_CLOCK")
        if not text:
            return cls()
        speed, _, origin = text.partition("@")
        if not (speed.isdecimal() and origin.isdecimal() and 1 <= int(speed) <= 1000):
            raise AgentError(f"QSCALE_CLOCK = {text!r}, must be a speed from 1 to 1000 and an origin in ms since 1970, such as 10@1764000000000")
        return cls(int(speed), int(origin))

    def now_ms(self) -> int:
        """Time, milliseconds since 1970."""
        wall = time.time() * 1000
        return int(wall if wall < self.origin_ms else self.origin_ms + (wall - self.origin_ms) * self.speed)

    def real_s(self, span_ms: float) -> float:
        """Real time in which this clock advances by `span_ms`, seconds."""
        return span_ms / 1000 / self.speed


class _Connection:
    """A connection to the server, which is made again when it is lost."""

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self.server, self.user = _address(url)
        self.is_connected = False
        self.warned = False
        self.refused: asyncio.Event = asyncio.Event()
        """Set when the server refuses the credential: at once in the beginning, later after `MAX_REFUSALS`, as a server may be starting."""
        self.refusals = 0
        self.closed: asyncio.Event = asyncio.Event()
        """Set when the connection is given up."""

    async def open(self, stop: asyncio.Event) -> Any:
        """The client; `None` if the agent is stopped before there is a server."""
        try:
            from nats.aio.client import Client
        except ImportError as error:
            raise AgentError("nats-py is not installed; install the wheel with its extra: pip install 'WHEEL[agent]'") from error
        client = Client()
        callbacks = {
            "error_cb": self._on_error,
            "disconnected_cb": self._on_disconnect,
            "reconnected_cb": self._on_reconnect,
            "closed_cb": self._on_close,
        }
        connect = client.connect(self.server, max_reconnect_attempts=-1, name=f"agent {self.name}", **callbacks, **self.user)
        connecting = asyncio.ensure_future(connect)
        await _first(connecting, stop.wait(), self.refused.wait())
        if connecting.done():
            connecting.result()
            self.is_connected = True
            return client
        connecting.cancel()
        await asyncio.wait([connecting])
        await client.close()
        self.check()
        return None

    async def until_lost(self) -> None:
        """Returns when the connection is lost for good."""
        await _first(self.refused.wait(), self.closed.wait())

    def check(self) -> None:
        """Raises an error if the connection is lost for good."""
        if self.refused.is_set():
            raise AgentError(f"{self.server} refuses the credential of agent {self.name}; run `qscale agent add {self.name}`")
        if self.closed.is_set() and self.is_connected:
            raise AgentError(f"{self.server} closed the connection of agent {self.name}")

    async def _on_error(self, error: Exception) -> None:
        if "authorization" in str(error).lower() or "authentication" in str(error).lower():
            self.refusals += 1
            if not self.is_connected or self.refusals >= MAX_REFUSALS:
                self.refused.set()
        elif self.is_connected:
            log.error("connection of agent %s: %s", self.name, error)
        else:
            # Once; the attempts that follow fail for the same reason.
            log.log(logging.DEBUG if self.warned else logging.WARNING, "%s cannot be reached (%s); trying every 2 s", self.server, error)
            self.warned = True

    async def _on_disconnect(self) -> None:
        if self.is_connected:
            log.warning("agent %s lost the connection to %s", self.name, self.server)

    async def _on_reconnect(self) -> None:
        self.refusals = 0
        log.info("agent %s is connected to %s again", self.name, self.server)

    async def _on_close(self) -> None:
        self.closed.set()


def _address(url: str) -> tuple[str, dict[str, str]]:
    """The server of `url`, and its user; nats-py does not decode the percent signs of an address."""
    try:
        parts = urlsplit(url)
        server = f"{parts.scheme}://{parts.hostname}:{parts.port or 4222}"
    except ValueError as error:
        raise AgentError(f"NATS_URL is not valid: {error}") from error
    if parts.scheme not in ("nats", "tls", "ws", "wss") or not parts.hostname:
        raise AgentError("NATS_URL must have the form nats://USER:PASSWORD@HOST:PORT")
    return server, {"user": unquote(parts.username), "password": unquote(parts.password or "")} if parts.username else {}


async def _first(*waited: Any) -> None:
    """Returns when the first of `waited` is done; the coroutines among them are cancelled then."""
    tasks = [asyncio.ensure_future(one) for one in waited]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task, given in zip(tasks, waited):
        if task is not given:
            task.cancel()


@dataclasses.dataclass
class _Function:
    """A function: its memory, the newest State that waits, and the task that answers."""

    memory: Any
    waiting: tuple[State, dict[str, str]] | None = None
    task: asyncio.Task | None = None
    last: tuple[int, int] = (-1, -1)
    seen_s: float = 0.0


class _Service:
    """Answers the States of all functions: of one function one at a time, the newest first; an `async` function decides for several functions at once."""

    def __init__(self, agent: Agent, name: str, bus: Any, clock: Clock) -> None:
        self.agent, self.name, self.bus, self.clock = agent, name, bus, clock
        self.instance = f"{socket.gethostname()}-{os.getpid()}"[:MAX_TEXT]
        self.functions: dict[tuple[str, str], _Function] = {}
        self.is_async = inspect.iscoroutinefunction(agent.decide) or inspect.iscoroutinefunction(getattr(agent.decide, "__call__", None))
        # One thread: the functions of users need not be safe for several, and the connection stays responsive.
        self.thread = concurrent.futures.ThreadPoolExecutor(1, "decide")
        self.cleaned_s = time.monotonic()

    async def receive(self, message: Any) -> None:
        """Takes a State in; a State that waits for the same function is superseded."""
        try:
            _native.check_state(message.subject, message.data)
            state = State.from_json(message.data)
        except ValueError as error:
            self.agent.counts["invalid"] += 1
            log.warning("ignored a message on %s: %s", message.subject, error)
            return
        key = (state.namespace, state.function)
        function = self.functions.get(key)
        if function is None:
            function = self.functions[key] = _Function(self.agent.memory() if self.agent.memory else None)
        epoch, tick = function.last
        if state.epoch == epoch and state.tick <= tick:
            return
        function.last, function.seen_s = (state.epoch, state.tick), time.monotonic()
        if function.waiting:
            self.agent.counts["superseded"] += 1
        trace = {key: value for key, value in (message.headers or {}).items() if key == "traceparent"}
        function.waiting = (state, trace)
        if function.task is None or function.task.done():
            function.task = asyncio.create_task(self._answer_all(function))
        self._forget()

    async def finish(self, subscription: Any) -> None:
        """Ends the subscription, waits for decisions that are due, and sends what was decided."""
        try:
            if self.bus.is_connected:
                await asyncio.wait_for(subscription.drain(), DRAIN_S)
            tasks = [function.task for function in self.functions.values() if function.task and not function.task.done()]
            if tasks:
                await asyncio.wait(tasks, timeout=DRAIN_S)
            if self.bus.is_connected:
                await asyncio.wait_for(self.bus.drain(), DRAIN_S)
            else:
                await self.bus.close()
        except Exception as error:
            log.warning("stopped without sending every Action: %s", error or type(error).__name__)
        self.thread.shutdown(wait=False, cancel_futures=True)

    def _forget(self) -> None:
        now = time.monotonic()
        if now - self.cleaned_s > IDLE_S / 24:
            self.cleaned_s = now
            self.functions = {key: function for key, function in self.functions.items() if now - function.seen_s < IDLE_S}

    async def _answer_all(self, function: _Function) -> None:
        while function.waiting:
            (state, trace), function.waiting = function.waiting, None
            try:
                result = await self._answer(state, trace, function.memory)
            except asyncio.TimeoutError:
                result = "timed_out"
                log.warning("%s/%s tick %d: no decision before the Action expires; the fallback rule decides", *_place(state))
            except Exception:
                # Silence lets the actuator's fallback rule decide.
                result = "failed"
                log.exception("%s/%s tick %d: the decision failed; the fallback rule decides", *_place(state))
            self.agent.counts[result] += 1

    async def _answer(self, state: State, trace: dict[str, str], memory: Any) -> str:
        expires_at_ms = state.observed_at_ms + self.agent.expires_after * state.tick_length_ms
        left_s = self.clock.real_s(expires_at_ms - self.clock.now_ms())
        if left_s <= 0:
            log.warning("%s/%s tick %d: dropped a State that is too old", *_place(state))
            return "late"
        arguments = (state,) if self.agent.memory is None else (state, memory)
        if self.is_async:
            decided = await asyncio.wait_for(self.agent.decide(*arguments), left_s)
        else:
            call = asyncio.get_running_loop().run_in_executor(self.thread, lambda: self.agent.decide(*arguments))
            decided = await asyncio.wait_for(call, left_s)
        if decided is None and state.allocation is None:
            return "silent"
        if decided is None:
            # An answer all the same, so that only a dead agent is silent.
            decided = answer(state, allocation=state.allocation, reason="keep the current allocation")
        if not isinstance(decided, Action):
            raise TypeError(f"decided {decided!r}, must be an Action, as answer(state, ...) returns it, or None")
        await self._publish(state, decided, expires_at_ms, trace)
        return "kept" if decided.allocation == state.allocation else "changed"

    async def _publish(self, state: State, action: Action, expires_at_ms: int, trace: dict[str, str]) -> None:
        if (action.namespace, action.function, action.epoch, action.tick) != (state.namespace, state.function, state.epoch, state.tick):
            raise ValueError(f"the Action is about tick {action.tick} of {action.namespace}/{action.function}, must answer the State that was given")
        provenance = action.provenance
        if not provenance.policy:
            provenance = dataclasses.replace(provenance, policy=self.agent.policy, configuration=_cut(self.agent.configuration))
        payload = dataclasses.replace(
            action,
            agent=self.name,
            instance=self.instance,
            provenance=provenance,
            decided_at_ms=self.clock.now_ms(),
            expires_at_ms=expires_at_ms,
        ).to_json()
        await self.bus.publish(_native.action_subject(payload), payload, headers=trace or None)


def _place(state: State) -> tuple[str, str, int]:
    return state.namespace, state.function, state.tick
