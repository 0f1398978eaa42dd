"""A policy as a process that `qscale evaluate` asks. Owns the lines of standard input and output; must not decide."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
import traceback
from typing import Any, Callable, TextIO

from ._agent import Agent
from .contract import Action, State


def serve(policy: Agent | Callable[..., Any], *, lines: TextIO | None = None, replies: TextIO | None = None) -> None:
    """Answers the States on standard input with `policy`, an agent or a function from State to Action or `None`, until the input ends.

        qscale evaluate --policy mine=external:command='python policy.py'

    Each line is a JSON document. In: `{"begin": {"seed": 1}}` before each run of a function, without a reply, and `{"state": {...}}`. Out, for each State:
    `{"allocation": {...}, "reason": "..."}`, `{"allocation": null}` to keep the current one, or `{"error": "..."}`, which ends the evaluation.
    """
    served = policy if isinstance(policy, Agent) else Agent(policy)
    if replies is None:
        # Whatever the policy prints must not mix with the replies.
        replies = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
    # One loop for all decisions, so that an asynchronous policy may keep its connections.
    with asyncio.Runner() if sys.version_info >= (3, 11) else _Runner() as runner:
        memory = _memory(served)
        for line in lines or sys.stdin:
            if not line.strip():
                continue
            try:
                document = json.loads(line)
                if "begin" in document:
                    memory = _memory(served)
                    continue
                reply = _reply(served, State.from_dict(document["state"]), memory, runner.run)
            except Exception as error:
                traceback.print_exc()
                reply = {"error": f"{type(error).__name__}: {error}"}
            replies.write(json.dumps(reply, allow_nan=False) + "\n")
            replies.flush()


class _Runner:
    """The part of `asyncio.Runner`, which Python 3.10 lacks, that is needed."""

    def __enter__(self) -> _Runner:
        self.loop = asyncio.new_event_loop()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.close()

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)


def _memory(served: Agent) -> Any:
    return served.memory() if served.memory else None


def _reply(served: Agent, state: State, memory: Any, run: Callable[[Any], Any]) -> dict[str, Any]:
    decided = served.decide(state) if served.memory is None else served.decide(state, memory)
    if inspect.isawaitable(decided):
        decided = run(decided)
    if decided is None:
        return {"allocation": None}
    if not isinstance(decided, Action):
        raise TypeError(f"decided {decided!r}, must be an Action, as answer(state, ...) returns it, or None")
    return {"allocation": decided.allocation.to_dict(), "reason": decided.reason}
