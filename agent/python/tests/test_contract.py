"""Typed messages: they match the schemas, read every golden message, and refuse others with the field's name."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import qscale
from qscale import Action, ContractError, State

GENERATOR = Path(__file__).resolve().parents[1] / "contract_from_schemas.py"


def contains(whole, part):
    """Whether every value of `part` is in `whole`, which may have defaults besides."""
    if isinstance(part, dict):
        return all(key in whole and contains(whole[key], value) for key, value in part.items())
    if isinstance(part, list):
        return len(whole) == len(part) and all(map(contains, whole, part))
    return whole == part


def test_types_match_the_schemas():
    done = subprocess.run([sys.executable, GENERATOR, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("message", "name"),
    [(State, "state.full"), (State, "state.minimal"), (State, "state.unsampled"), (Action, "action.full"), (Action, "action.minimal")],
)
def test_messages_keep_every_value(golden, message, name):
    text = (golden / f"{name}.json").read_text()
    assert contains(message.from_json(text).to_dict(), json.loads(text))
    assert message.from_json(message.from_json(text).to_json()) == message.from_json(text)


def test_newer_minor_versions_are_read(golden):
    assert State.from_json((golden / "state.newer-minor.json").read_text()).version != "1.0"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"tick": "7"}, "field `tick` = '7', must be of type int"),
        ({"tick": True}, "field `tick` = True"),
        ({"windows": 1}, "field `windows` = 1"),
        ({"windows": {}}, "field `windows.long` is missing"),
        ({"changes": {"last": "sideways"}}, "field `changes.last` = 'sideways', must be one of up, down"),
        ({"allocation": {"replicas": 1}}, "field `allocation.cpu_millicores` is missing"),
    ],
)
def test_errors_name_the_field(golden, change, part):
    document = json.loads((golden / "state.full.json").read_text()) | change
    with pytest.raises(ContractError) as raised:
        State.from_dict(document)
    assert part in str(raised.value)


@pytest.mark.parametrize("text", ["", "[]", "7", "null", "{", '"a"', b"\xff"])
def test_documents_that_are_not_messages_are_refused(text):
    with pytest.raises(ValueError):
        State.from_json(text)


def test_answers_are_within_the_bounds(golden):
    state = State.from_json((golden / "state.full.json").read_text())
    action = qscale.answer(state, replicas=1e9, memory_mib=0, reason="é" * 2000)
    assert action.allocation == qscale.Allocation(replicas=10, cpu_millicores=500, memory_mib=64)
    assert (action.epoch, action.tick, action.function) == (state.epoch, state.tick, state.function)
    assert len(action.reason.encode()) <= 1024
    for wrong in (float("nan"), float("inf"), "3"):
        with pytest.raises(ValueError, match="replicas"):
            qscale.answer(state, replicas=wrong)
    unknown = State.from_json((golden / "state.minimal.json").read_text())
    with pytest.raises(ValueError, match="no current allocation"):
        qscale.answer(unknown, replicas=1)
