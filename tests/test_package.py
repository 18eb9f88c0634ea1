"""The package as a whole: what it names exists, layers look down only, and the App does not wait for torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fiftyone_cam

PACKAGE = Path(fiftyone_cam.__file__).parent
CORE = sorted((PACKAGE / "core").glob("*.py"))
ENGINES = sorted((PACKAGE / "engines").glob("*.py"))
SDK = sorted(PACKAGE.glob("*.py"))


def test_every_public_name_is_there_and_documented_with_an_example():
    assert set(fiftyone_cam.__all__) == {"__version__", *fiftyone_cam._PUBLIC}
    for name in fiftyone_cam._PUBLIC:
        found = getattr(fiftyone_cam, name)
        assert found.__doc__, name
        if not (isinstance(found, type) and issubclass(found, Exception)) and not name.startswith(
            ("Cam", "Classifier")
        ):
            assert ">>>" in found.__doc__, f"{name} has no example"
    with pytest.raises(AttributeError, match="no attribute 'wishful'"):
        fiftyone_cam.wishful  # noqa: B018


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_the_core_knows_no_fiftyone_and_nothing_above_it(path):
    for name in imports(path):
        assert name.partition(".")[0] not in ("fiftyone", "eta", "pymongo"), name
        if name.startswith("fiftyone_cam."):
            assert name.startswith("fiftyone_cam.core"), name


@pytest.mark.parametrize("path", ENGINES, ids=lambda path: path.name)
def test_an_engine_knows_the_core_and_no_database(path):
    for name in imports(path):
        assert name.partition(".")[0] not in ("fiftyone", "eta", "pymongo"), name
        if name.startswith("fiftyone_cam."):
            assert name.startswith(("fiftyone_cam.core", "fiftyone_cam.engines")), name


@pytest.mark.parametrize("path", SDK, ids=lambda path: path.name)
def test_the_sdk_knows_no_app_layer(path):
    assert not any(name.startswith(("fiftyone_cam.plugin", "fiftyone.operators")) for name in imports(path))


def test_the_app_does_not_wait_for_torch():
    """In a process of its own: what the App imports to draw forms must not import torch."""
    code = "import sys, fiftyone_cam.plugin; raise SystemExit('torch' in sys.modules and 'torch was imported')"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent, timeout=300)


def test_all_operators_and_panels_are_listed_where_fiftyone_looks():
    import yaml
    from fiftyone.operators import Panel

    from fiftyone_cam.plugin import OPERATORS

    listed = yaml.safe_load((PACKAGE.parent / "fiftyone.yml").read_text(encoding="utf-8"))
    built = [operator() for operator in OPERATORS]
    panels = {operator.config.name for operator in built if isinstance(operator, Panel)}
    assert panels == set(listed["panels"])
    assert {operator.config.name for operator in built} - panels == set(listed["operators"])
