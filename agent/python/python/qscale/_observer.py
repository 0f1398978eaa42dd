"""The learned policy's view of one function, for policies that were trained in `qscale.gym`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import _native
from .contract import Allocation, State

if TYPE_CHECKING:
    import numpy


class Observer:
    """Observations of the States of one function. They depend on earlier States, so each function needs an Observer of its own.

    `violation_cost` is the cost of a violated tick, 10 to 20000; the default is that of the bundled model: 20, and 500 for a function that may be
    scaled to zero.
    """

    def __init__(self, action_set: str = "headroom", scope: str = "joint", violation_cost: float | None = None) -> None:
        self._native = _native.Observer(action_set, scope, violation_cost)

    def observe(self, state: State) -> tuple[numpy.ndarray, numpy.ndarray]:
        """The observation of `state`, as the environments give it, and the action mask: 1 for each action that can be taken."""
        try:
            import numpy
        except ImportError as error:
            raise ImportError(f"an Observer needs NumPy ({error}); install the wheel with its extra: pip install 'WHEEL[gym]'") from error

        observation, mask = self._native.observe(state.to_json())
        return numpy.frombuffer(observation, numpy.float32), numpy.frombuffer(mask, numpy.int8)

    def allocation(self, action: int) -> Allocation | None:
        """The allocation of `action` for the last State; `None` keeps the current one."""
        wanted = self._native.allocation(int(action))
        return wanted and Allocation(replicas=wanted[0], cpu_millicores=wanted[1], memory_mib=wanted[2])

    def reset(self) -> None:
        """Forgets all States, as at the start of an episode."""
        self._native.reset()
