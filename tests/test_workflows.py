"""What runs on GitHub: its commands, paths and Pythons are those that the repository has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
PROJECT = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
WORKFLOWS = {path.name: yaml.safe_load(path.read_text()) for path in (REPOSITORY / ".github/workflows").glob("*.yml")}
JOBS = [(file, name, job) for file, flow in WORKFLOWS.items() for name, job in flow["jobs"].items()]


def commands(job: dict[str, Any]) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


@pytest.mark.parametrize(("file", "name", "job"), JOBS, ids=[f"{file}: {name}" for file, name, _ in JOBS])
def test_a_job_runs_what_there_is(file: str, name: str, job: dict[str, Any]) -> None:
    assert "runs-on" in job
    assert commands(job)
    assert job["steps"][0]["uses"].startswith("actions/checkout@")
    for command in commands(job):
        if command.startswith("make "):
            targets = [word for word in command.split()[1:] if "=" not in word]
            assert targets
            for target in targets:
                assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), f"make has no {target}"
        for path in re.findall(r"\btests/\S+", command):
            assert (REPOSITORY / path).exists(), path
        for extra in re.findall(r"\.\[(\w+)\]", command):
            assert re.search(rf"^{extra} = \[", PROJECT, re.MULTILINE), f"there is no extra {extra}"


def test_the_core_runs_on_every_system_and_python_that_the_package_names() -> None:
    core = WORKFLOWS["tests.yml"]["jobs"]["core"]
    matrix = core["strategy"]["matrix"]
    assert matrix["python"] == re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PROJECT)
    assert {system.partition("-")[0] for system in matrix["os"]} == {"ubuntu", "macos", "windows"}
    [tests] = re.findall(r"^CORE\s*:=\s*(.+)$", MAKEFILE, re.MULTILINE)
    assert any(command.endswith(tests) for command in commands(core))  # what make test-core runs


def test_the_newest_fiftyone_is_tried_each_week() -> None:
    flow = WORKFLOWS["newest-fiftyone.yml"]
    [trigger] = flow[True]["schedule"]  # YAML reads the key `on` as true
    *_, month, weekday = trigger["cron"].split()
    assert (month, weekday.isdigit()) == ("*", True)
    assert any("--upgrade" in command and "fiftyone" in command for command in commands(flow["jobs"]["newest"]))
