"""The script for the browser and the Python beside it name the same things; what it does, the browser's tests see."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from fiftyone_cam.core.names import PLUGIN
from fiftyone_cam.dataset import app_config

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = (REPOSITORY / "fiftyone_cam/plugin/assets/app.js").read_text(encoding="utf-8")


def test_the_app_is_told_where_the_script_lies() -> None:
    manifest = yaml.safe_load((REPOSITORY / "fiftyone.yml").read_text(encoding="utf-8"))
    assert (REPOSITORY / manifest["js_bundle"]).read_text(encoding="utf-8") == SCRIPT


def test_python_triggers_what_the_script_or_the_plugin_registers() -> None:
    manifest = yaml.safe_load((REPOSITORY / "fiftyone.yml").read_text(encoding="utf-8"))
    in_python = {*manifest["operators"], *manifest["panels"]}
    in_script = set(re.findall(r'unlisted\("(\w+)"\)', SCRIPT))
    assert in_script
    assert not in_script & in_python
    sources = [path.read_text(encoding="utf-8") for path in (REPOSITORY / "fiftyone_cam/plugin").rglob("*.py")]
    triggered = {name for text in sources for name in re.findall(r'operator_uri\("(\w+)"\)', text)}
    assert in_script <= triggered <= in_script | in_python
    assert set(re.findall(r"\$\{PLUGIN\}/(\w+)", SCRIPT)) <= in_python


def test_the_names_are_the_same_on_both_sides() -> None:
    assert re.search(r'PLUGIN = "(.*)";', SCRIPT).group(1) == PLUGIN
    assert json.loads(re.search(r"GROUPS = (\[.*\]);", SCRIPT).group(1)) == [app_config.GROUP, app_config.NUMBERS]
