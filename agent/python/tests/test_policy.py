"""Policies in Python as competitors of `qscale evaluate`, and their results as data frames."""

import json
import subprocess
import sys

import numpy
import pytest

import qscale
import qscale.frames

KEEP = "import qscale\nqscale.serve(lambda state: None)\n"
PEAK = """
import qscale
names = qscale.action_names()

@qscale.agent(memory=qscale.Observer)
def peak(state, observer):
    observation, mask = observer.observe(state)
    print("printed text is not a reply")
    allocation = observer.allocation(names.index("peak of 15 minutes x1.15"))
    return allocation and qscale.answer(state, allocation=allocation)

if __name__ == "__main__":
    qscale.serve(peak)
"""


def evaluate(program, folder, *policies):
    """The folder of results of the suite's quick version."""
    out = folder / "results"
    arguments = [argument for policy in policies for argument in ("--policy", policy)]
    command = [program, "evaluate", "--quick", "--seeds", "2", "--out", out, "--overwrite", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return out, done


@pytest.fixture(scope="module")
def results(qscale_program, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "keep.py").write_text(KEEP)
    (folder / "peak.py").write_text(PEAK)
    external = [f"{name}=external:command={sys.executable} {folder / name}.py" for name in ("keep", "peak")]
    out, done = evaluate(qscale_program, folder, "static", *external)
    assert done.returncode == 0, done.stderr
    return out


def test_a_policy_that_keeps_the_allocation_equals_the_rule_that_does(results):
    runs = qscale.frames.runs(results)
    measures = runs.columns[runs.columns.get_loc("seed") + 1 :]
    by = {name: rows.reset_index(drop=True) for name, rows in runs.groupby("competitor", sort=False)}
    assert set(by) == {"static", "keep", "peak"}
    numpy.testing.assert_array_equal(by["keep"][measures], by["static"][measures])
    assert (by["peak"]["cost_per_hour"] != by["static"]["cost_per_hour"]).any()


def test_results_are_data_frames(results):
    document = json.loads((results / "results.json").read_text())
    runs = qscale.frames.runs(results)
    assert len(runs) == len(document["groups"]) * 2 and list(runs["seed"][:2]) == document["settings"]["seeds"]
    assert runs.equals(qscale.frames.runs(results / "results.json"))
    assert len(qscale.frames.summary(results)) > 0
    latencies = qscale.frames.latencies(results)
    assert latencies["requests"].sum() == sum(count for group in document["latencies"] for _, count in group["buckets"])
    timelines = qscale.frames.timelines(results)
    assert len(timelines) == sum(len(series["until_s"]) for series in document["timelines"])
    assert qscale.frames.settings(results)["command"].startswith("qscale evaluate")


@pytest.mark.parametrize(
    ("code", "part"),
    [
        ("raise SystemExit(3)", "before it replied"),
        ("import qscale\nqscale.serve(lambda state: 1 / 0)", "reported an error: ZeroDivisionError"),
        ("import qscale\nqscale.serve(lambda state: 7)", "must be an Action"),
    ],
)
def test_a_policy_that_fails_ends_the_evaluation(qscale_program, tmp_path, code, part):
    (tmp_path / "policy.py").write_text(code)
    _, done = evaluate(qscale_program, tmp_path, f"external:command={sys.executable} {tmp_path / 'policy.py'}")
    assert done.returncode != 0 and part in done.stderr, done.stderr


def test_the_module_serves_a_policy_by_name(tmp_path, golden):
    (tmp_path / "mine.py").write_text(PEAK)
    state = json.loads((golden / "state.full.json").read_text())
    lines = [{"begin": {"seed": 1}}, {"state": state}, {"state": {}}, {"begin": {"seed": 2}}, {"state": state}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    command = [sys.executable, "-W", "error", "-m", "qscale.policy_server", "mine:peak"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    first, refused, again = map(json.loads, done.stdout.splitlines())
    assert first == again and first["allocation"]["replicas"] >= 1 and "is missing" in refused["error"]
    unnamed = subprocess.run(command[:-1], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert unnamed.returncode == 1 and "usage" in unnamed.stderr


def test_traces_are_data_frames(tmp_path):
    (tmp_path / "invocations.csv").write_text("HashOwner,HashApp,HashFunction,Trigger,1,2,3\no,a,f,http,0,2,1\no,a,g,timer,5,0,0\n")
    frame = qscale.frames.trace(tmp_path)
    assert frame[["function", "minute", "invocations"]].values.tolist() == [["f", 2, 2], ["f", 3, 1], ["g", 1, 5]]
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no trace of invocations"):
        qscale.frames.trace(tmp_path / "other.csv")
    (tmp_path / "results.json").write_text('{"version": "9.0"}')
    with pytest.raises(ValueError, match="version '9.0', this package reads '1.0'"):
        qscale.frames.runs(tmp_path)
