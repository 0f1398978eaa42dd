"""The examples of the README run as they are printed, and the programs in `examples` in short form."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1]
README = (PACKAGE / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


def test_the_examples_of_the_readme_run(qscale_program, tmp_path, monkeypatch, golden):
    monkeypatch.chdir(tmp_path)
    policy = next(code for language, code in BLOCKS if language == "python" and "provide_peak" in code)
    (tmp_path / "policy.py").write_text(policy + '\nif __name__ == "__main__":\n    qscale.serve(provide_peak)\n')
    # The documented commands find `python` and `qscale` on the path.
    path = os.pathsep.join([str(Path(sys.executable).parent), str(qscale_program.parent), os.environ["PATH"]])
    scope = {"__name__": "readme"}
    ran = 0
    for language, code in BLOCKS:
        if language == "python":
            exec(compile(code, "README.md", "exec"), scope)
            ran += 1
        else:
            for line in code.splitlines():
                if line.startswith("qscale evaluate") and "policy.py" in line:
                    done = subprocess.run(line, shell=True, env=os.environ | {"PATH": path}, capture_output=True, text=True)
                    assert done.returncode == 0, done.stderr
                    ran += 1
    assert ran >= 6
    from qscale import State

    state = State.from_json((golden / "state.full.json").read_text())
    # 3 replicas of 500m use 312.5m each: 937.5m at 70 % of 500m are 3 replicas.
    assert scope["cpu_70"](state).allocation.replicas == 3


def test_the_readme_shows_the_example():
    example = (PACKAGE / "examples" / "cpu_70.py").read_text()
    shown = next(code for language, code in BLOCKS if language == "python" and "cpu_70.run()" in code)
    assert example.split("\n", 1)[1] == shown


def installed(*modules):
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


@pytest.mark.parametrize(
    ("modules", "example", "arguments"),
    [
        (["stable_baselines3"], "sb3.py", ["dqn"]),
        (["stable_baselines3"], "sb3.py", ["ppo"]),
        (["torch"], "dqn.py", []),
    ],
)
def test_an_example_trains_and_competes(qscale_program, tmp_path, modules, example, arguments):
    installed(*modules)
    program = [sys.executable, str(PACKAGE / "examples" / example)]
    steps = ["--steps", "9000", "--out", str(tmp_path / "model.zip")]
    subprocess.run([*program, "train", *arguments, *steps], check=True, capture_output=True, text=True, timeout=600)
    command = " ".join([*program, "serve", *arguments, str(tmp_path / "model.zip")])
    evaluate = [qscale_program, "evaluate", "--quick", "--seeds", "1", "--policy", f"external:command={command}", "--out", tmp_path / "results"]
    done = subprocess.run(evaluate, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    import qscale.frames

    assert not qscale.frames.runs(tmp_path / "results")["cost_per_hour"].isna().any()
