"""The package as a whole: what it names exists, rooms look down only, and who needs no network waits for no PyTorch."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import fiftyone_cam

PACKAGE = Path(fiftyone_cam.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

FLOORS = (
    {"core"},
    {"networks", "engines", "dataset"},
    {"runs"},
    {"classifiers"},
    {"concepts"},
    {"compute", "analysis", "training"},
    {"repair"},
    {"plugin"},
)
"""The rooms from the ground up. A room imports what lies below it, and nothing beside or above."""

FLAT = {"__init__", "__main__", "_install", "_mongod"}
"""Modules that lie in no room."""

FIFTYONE = ("fiftyone", "eta", "pymongo", "mongoengine", "bson")
NO_FIFTYONE = (
    "core",
    "networks",
    "engines",
    "training.loop",
    "training.recipe",
    "training.resume",
    "training.pictures",
    "training.progress",
)
"""What runs on machines without a database."""

RUNS_A_NETWORK = {"analysis.split_logits", "analysis.feature_means", "concepts.find_concepts"}
"""Modules of torch-free rooms that may need a classifier, and so PyTorch."""


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Everything that a module imports, also within functions; of this package relative to it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def rooms_imported(path: Path) -> set[str]:
    names = (name.split(".") for name in imports(path) if name.startswith("fiftyone_cam."))
    return {parts[1] for parts in names if (PACKAGE / parts[1]).is_dir()}


def test_every_public_name_is_there_and_documented_with_an_example():
    for name in fiftyone_cam.__all__:
        found = getattr(fiftyone_cam, name)
        if name == "__version__":
            continue
        assert found.__doc__, name
        if not (isinstance(found, type) and issubclass(found, BaseException)):
            assert ">>>" in found.__doc__, f"{name} has no example"
    with pytest.raises(AttributeError, match="wishful"):
        fiftyone_cam.wishful  # noqa: B018


def test_no_public_function_has_more_than_16_parameters():
    counts = {
        name: len(inspect.signature(found).parameters)
        for name in fiftyone_cam.__all__
        if callable(found := getattr(fiftyone_cam, name)) and not isinstance(found, type)
    }
    assert counts["compute_cam"] > 1
    assert {name: count for name, count in counts.items() if count > 16} == {}


def test_every_module_lies_in_a_room():
    rooms = set().union(*FLOORS)
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()} == rooms
    assert {path.stem for path in PACKAGE.glob("*.py")} == FLAT


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_rooms_look_down_only(path):
    room = name_of(path).partition(".")[0]
    floor = next((i for i, rooms in enumerate(FLOORS) if room in rooms), len(FLOORS))
    allowed = set().union(*FLOORS[:floor]) | {room}
    assert rooms_imported(path) <= allowed


def test_no_circle_of_modules():
    graph = {name_of(path): set() for path in MODULES}
    for path in MODULES:
        for name in imports(path):
            inner = name.removeprefix("fiftyone_cam").lstrip(".")
            if name.startswith("fiftyone_cam") and inner in graph and inner != name_of(path):
                graph[name_of(path)].add(inner)
    seen: dict[str, bool] = {}  # whether a module is still on the way

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert not seen.get(name), " -> ".join((*way, name))
        if name in seen:
            return
        seen[name] = True
        for other in sorted(graph[name]):
            visit(other, (*way, name))
        seen[name] = False

    for name in sorted(graph):
        visit(name, ())


@pytest.mark.parametrize("path", [path for path in MODULES if name_of(path).startswith(NO_FIFTYONE)], ids=name_of)
def test_who_computes_knows_no_fiftyone(path):
    for name in imports(path):
        assert name.partition(".")[0] not in FIFTYONE, name


INTERNALS = "dataset.internals"
NOT_PRIVATE = {"_exit", "_fields", "_replace", "_asdict", "_make"}
"""Of ``os`` and of named tuples: they begin with an underscore and are documented."""


def defined(tree: ast.AST) -> set[str]:
    """Names that a module gives to functions, classes, variables and attributes of ``self`` and ``cls``."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found |= {node.attr} if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls") else set()
    return found


def foreign_privates(source: str) -> set[str]:
    """Private names that a module uses and does not define: as an attribute, a keyword or an import."""
    tree = ast.parse(source)
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            used.add(node.attr)
        elif isinstance(node, ast.keyword):
            used.add(node.arg or "")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fiftyone."):
            used |= {alias.name for alias in node.names}
    private = {name for name in used if name.startswith("_") and not name.startswith("__")}
    return private - defined(tree) - NOT_PRIVATE


def test_the_law_on_private_names_sees_them():
    for source in (
        "dataset._doc.reload()",
        "view = fo.DatasetView._build(dataset, [])",
        "samples.values(paths, _raw=True)",
        "from fiftyone.core.dataset import _load_dataset",
    ):
        assert len(foreign_privates(source)) == 1, source
    assert not foreign_privates("class A:\n    def __init__(self):\n        self._b = 1\n\ndef f(a):\n    return a._b")


@pytest.mark.parametrize("path", [path for path in MODULES if name_of(path) != INTERNALS], ids=name_of)
def test_only_one_module_knows_fiftyones_private_parts(path):
    assert not foreign_privates(path.read_text(encoding="utf-8"))
    forbidden = ("fiftyone.core.odm", "fiftyone.server", "mongoengine")
    assert not [name for name in imports(path) if name.startswith(forbidden)]


def run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent, timeout=300)


def test_the_app_does_not_wait_for_torch():
    """In a process of its own: what the App imports to draw forms must not import torch."""
    run("import sys, fiftyone_cam.plugin.registry; raise SystemExit('torch' in sys.modules and 'torch was imported')")


def test_datasets_runs_concepts_and_analysis_need_no_torch():
    names = [
        f"fiftyone_cam.{name_of(path)}"
        for path in MODULES
        if name_of(path).partition(".")[0] in ("dataset", "runs", "concepts", "analysis")
        and name_of(path) not in RUNS_A_NETWORK
    ]
    assert len(names) > 15
    run(
        f"import sys, importlib\nfor name in {names}:\n    importlib.import_module(name)\n"
        "    if 'torch' in sys.modules: raise SystemExit(f'{name} imports torch')"
    )


def test_all_operators_and_panels_are_listed_where_fiftyone_looks():
    import yaml
    from fiftyone.operators import Panel

    from fiftyone_cam.plugin.registry import OPERATORS

    listed = yaml.safe_load((PACKAGE.parent / "fiftyone.yml").read_text(encoding="utf-8"))
    built = [operator() for operator in OPERATORS]
    panels = {operator.config.name for operator in built if isinstance(operator, Panel)}
    assert panels == set(listed["panels"])
    assert {operator.config.name for operator in built} - panels == set(listed["operators"])
