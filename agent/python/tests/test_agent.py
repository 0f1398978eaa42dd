"""Agents against a real nats-server and a real system: they take over a function, and what goes wrong in one decision stays there."""

import asyncio
import contextlib
import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import qscale
from conftest import TIMEOUT_S, eventually

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


class Watch:
    """Messages that `qscale watch` prints."""

    def __init__(self, system, *arguments):
        command = [system.program, "watch", "--json", *arguments]
        self.log = system.folder / f"watch-{id(self)}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, env=system.environment(), stdout=log, stderr=log)

    def first(self, wanted):
        def found():
            return next((message for message in self.messages() if wanted(message)), None)

        return eventually("a message", found, self.alive)

    def messages(self):
        """The messages so far; a line that is still being written is left out."""
        lines = self.log.read_text().split("\n")[:-1]
        return [json.loads(line)["message"] for line in lines if line.startswith("{")]

    def alive(self):
        if self.process.poll() is not None:
            pytest.fail(f"qscale watch ended:\n{self.log.read_text()[-2000:]}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(TIMEOUT_S)


@contextlib.contextmanager
def program(system, name, *command):
    """A program with the credential of agent `name`."""
    environment = system.environment(**system.credential(name))
    with (system.folder / f"{name}.log").open("a+") as log:
        process = subprocess.Popen([sys.executable, *command], env=environment, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            status = process.wait(TIMEOUT_S)
            log.seek(0)
            assert status == 0, log.read()


def test_the_example_of_ten_lines_takes_over_and_hands_back(system):
    code = (EXAMPLES / "cpu_70.py").read_text().splitlines()
    assert len([line for line in code[1:] if line and not line.startswith("if __name__")]) <= 10
    with Watch(system, "--kind", "outcome") as outcomes, program(system, "mine", EXAMPLES / "cpu_70.py"):
        outcomes.first(lambda outcome: outcome.get("agent") == "threshold" and outcome.get("source") == "agent")
        system.qscale("policy", "set", "fibonacci", "agent=mine")
        outcome = outcomes.first(lambda outcome: outcome.get("agent") == "mine" and outcome.get("source") == "agent")
        assert outcome["provenance"]["policy"] == "cpu-70"
        system.qscale("policy", "set", "fibonacci", "agent=threshold")


def test_instances_share_the_states(system):
    with Watch(system, "--kind", "action", "--agent", "twins") as actions:
        with program(system, "twins", EXAMPLES / "cpu_70.py"), program(system, "twins", EXAMPLES / "cpu_70.py"):
            first = actions.first(lambda action: action.get("agent") == "twins")
            actions.first(lambda action: action.get("tick", 0) >= first["tick"] + 5)
        answered = [(action["epoch"], action["tick"]) for action in actions.messages()]
        assert len(answered) == len(set(answered)), "each State is answered once"


def serve(agent, system, name, until):
    """Runs `agent` in this process until `until` is true."""
    credential = system.credential(name)

    async def run():
        stop = asyncio.Event()
        serving = asyncio.create_task(agent.serve(credential["NATS_URL"], credential["QSCALE_AGENT"], stop=stop))
        end = asyncio.get_running_loop().time() + TIMEOUT_S
        while not until() and not serving.done() and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.05)
        stop.set()
        await serving

    asyncio.run(run())
    assert until(), agent.counts


def test_an_async_agent_with_memory_and_an_observer(system):
    seen = []

    @qscale.agent(memory=qscale.Observer)
    async def decide(state, observer):
        observation, mask = observer.observe(state)
        seen.append((state.tick, len(observation), int(mask.sum())))
        await asyncio.sleep(0)
        return qscale.answer(state, allocation=observer.allocation(0), reason=qscale.action_names()[0])

    serve(decide, system, "learner", lambda: decide.counts["kept"] + decide.counts["changed"] >= 3)
    ticks = [tick for tick, _, _ in seen]
    assert ticks == sorted(set(ticks))


def test_a_decision_that_fails_or_is_late_does_not_end_the_agent(system, caplog):
    calls = []

    @qscale.agent(expires_after=1)
    async def decide(state):
        calls.append(state.tick)
        match len(calls) % 4:
            case 1:
                raise RuntimeError("no weights")
            case 2:
                return 7
            case 3:
                await asyncio.sleep(TIMEOUT_S)
        return None

    results = ("failed", "timed_out", "kept")
    serve(decide, system, "clumsy", lambda: all(decide.counts[result] for result in results) and decide.counts["failed"] >= 2)
    assert "no weights" in caplog.text and "must be an Action" in caplog.text and "the fallback rule decides" in caplog.text


def test_a_slow_function_answers_the_newest_state(system):
    @qscale.agent(expires_after=10)
    async def decide(state):
        await asyncio.sleep(2.5 * state.tick_length_ms / 1000)
        return None

    serve(decide, system, "slow", lambda: decide.counts["superseded"] >= 2 and decide.counts["kept"] >= 2)


def test_messages_that_are_not_states_are_counted():
    agent = qscale.agent(lambda state: None)

    class Message:
        subject, data, headers = "qscale.v1.state.default.f", b"no JSON", None

    from qscale._agent import Clock, _Service

    async def run():
        await _Service(agent, "mine", None, Clock()).receive(Message)

    asyncio.run(run())
    assert agent.counts == {"invalid": 1}


def test_a_wrong_credential_is_an_error(system):
    url = urlsplit(system.credential("mine")["NATS_URL"])
    wrong = f"nats://{url.username}:wrong@{url.hostname}:{url.port}"
    with pytest.raises(qscale.AgentError, match="refuses the credential of agent mine"):
        asyncio.run(asyncio.wait_for(qscale.agent(lambda state: None).serve(wrong, "mine"), TIMEOUT_S))


def test_a_removed_credential_is_an_error(system):
    credential = system.credential("removed")

    async def run():
        agent = qscale.agent(lambda state: None)
        serving = asyncio.create_task(agent.serve(credential["NATS_URL"], "removed"))
        while not agent.counts["kept"]:
            await asyncio.sleep(0.05)
        await asyncio.to_thread(system.qscale, "agent", "remove", "removed")
        await asyncio.wait_for(serving, TIMEOUT_S)

    with pytest.raises(qscale.AgentError, match="refuses the credential of agent removed"):
        asyncio.run(run())


def test_settings_are_checked(monkeypatch):
    agent = qscale.agent(lambda state: None)
    monkeypatch.delenv("NATS_URL", raising=False)
    monkeypatch.delenv("QSCALE_AGENT", raising=False)
    with pytest.raises(qscale.AgentError, match="NATS_URL is not set"):
        asyncio.run(agent.serve())
    done = subprocess.run([sys.executable, EXAMPLES / "cpu_70.py"], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.returncode, done.stderr[:26]) == (1, "error: NATS_URL is not set")
    with pytest.raises(ValueError, match="agent = .not a name."):
        asyncio.run(agent.serve("nats://127.0.0.1:1", "not a name"))
    for wrong in ("127.0.0.1", "http://127.0.0.1", "nats://127.0.0.1:port"):
        with pytest.raises(qscale.AgentError, match="NATS_URL"):
            asyncio.run(agent.serve(wrong, "mine"))
    monkeypatch.setenv("QSCALE_CLOCK", "fast")
    with pytest.raises(qscale.AgentError, match="QSCALE_CLOCK = 'fast'"):
        asyncio.run(agent.serve("nats://127.0.0.1:1", "mine"))
    with pytest.raises(ValueError, match="expires_after = 0"):
        qscale.agent(lambda state: None, expires_after=0)


def test_an_absent_server_is_waited_for():
    async def run():
        stop = asyncio.Event()
        serving = asyncio.create_task(qscale.agent(lambda state: None).serve("nats://127.0.0.1:1", "mine", stop=stop))
        await asyncio.sleep(0.5)
        assert not serving.done()
        stop.set()
        await asyncio.wait_for(serving, TIMEOUT_S)

    asyncio.run(run())
