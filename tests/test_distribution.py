"""The plugin as a stranger gets it: a zip of the repository, downloaded and fitted out by FiftyOne's own commands."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from threading import Thread

import fiftyone.constants as foc
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fiftyone_cam import _mongod
from fiftyone_cam.core.names import PLUGIN

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).resolve().parents[1]
DECLARED = yaml.safe_load((REPOSITORY / "fiftyone.yml").read_text())
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]

STRANGER = """
import json, sys
import fiftyone.plugins as fop
from fiftyone.plugins.context import PluginContext
[name] = fop.download_plugin(sys.argv[1])
[plugin] = [plugin for plugin in fop.list_plugins() if plugin.name == name]
context = PluginContext(plugin)
context.register_all()
import fiftyone_cam, fiftyone.plugins.skills as skills
print(json.dumps({
    "name": name,
    "requirements": fop.load_plugin_requirements(name),
    "operators": sorted(operator.name for operator in context.instances),
    "errors": context.errors,
    "skills": {skill.name: skill.description for skill in skills.list_skills(plugin=name)},
    "about": [plugin.author, plugin.url, plugin.license, plugin.version, plugin.description],
    "package": fiftyone_cam.__file__,
    "torch": "torch" in sys.modules,
}))
"""
"""What a stranger does, in a process of its own that knows no other copy of the package."""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def archive() -> bytes:
    """The zip that GitHub would make of what is here now, also of what is not committed."""
    git = partial(subprocess.run, cwd=REPOSITORY, capture_output=True, check=True)
    tree = "HEAD"
    if git(["git", "status", "--porcelain"]).stdout:
        folder = Path(git(["git", "rev-parse", "--absolute-git-dir"]).stdout.decode().strip())
        index = folder / f"index-of-test-{os.getpid()}"
        environment = {**os.environ, "GIT_INDEX_FILE": str(index)}
        git(["git", "add", "--all"], env=environment)
        tree = git(["git", "write-tree"], env=environment).stdout.decode().strip()
        index.unlink()
    prefix = "--prefix=fiftyone_cam-main/"
    made: bytes = git(["git", "archive", "--format=zip", "--worktree-attributes", prefix, tree]).stdout
    return made


@pytest.fixture(scope="module")
def zipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if subprocess.run(["git", "rev-parse"], cwd=REPOSITORY, capture_output=True, check=False).returncode:
        pytest.skip("no clone: there is nothing that git could make an archive of")
    path = tmp_path_factory.mktemp("served") / "main.zip"
    path.write_bytes(archive())
    return path


@pytest.fixture()
def address(zipped: Path) -> Iterator[str]:
    """Of the zip, on a server of this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(zipped.parent))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{zipped.name}"
        server.shutdown()


def test_a_download_is_a_whole_plugin(address: str, tmp_path: Path) -> None:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", HIDE + STRANGER, address],
        cwd=tmp_path,
        env={**inherited, "FIFTYONE_PLUGINS_DIR": str(tmp_path / "plugins")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["name"] == PLUGIN == DECLARED["name"]
    assert found["errors"] == []
    assert found["operators"] == sorted(DECLARED["operators"] + DECLARED["panels"])
    assert set(found["skills"]) == set(DECLARED["skills"])
    assert all(len(description) > 100 for description in found["skills"].values())  # it says when to use it
    assert all(found["about"])
    assert Path(found["package"]).is_relative_to(tmp_path / "plugins")  # no other copy was run
    assert found["requirements"] == requirements()
    assert not found["torch"]


HIDE = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
sys.path = [entry for entry in sys.path if entry.startswith(sys.prefix) or "/lib/python" in entry or "zip" in entry]
"""
"""Takes away an editable installation of the package."""


def requirements() -> list[str]:
    lines = (REPOSITORY / "requirements.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_what_travels_is_the_plugin_and_no_more(zipped: Path) -> None:
    names = [name.partition("/")[2] for name in zipfile.ZipFile(io.BytesIO(zipped.read_bytes())).namelist()]
    top = {name.partition("/")[0] for name in names if name}
    wanted = {"fiftyone.yml", "fiftyone_cam", "skills", "requirements.txt", "README.md", "LICENSE", "pyproject.toml"}
    assert wanted <= top <= wanted | {"CHANGELOG.md", "SECURITY.md", "zoo"}
    assert zipped.stat().st_size < 1_500_000


@pytest.mark.slow
def test_the_repository_is_a_source_of_the_model_zoo(address: str, tmp_path: Path) -> None:
    code = """
import sys, json
import fiftyone.zoo as foz, fiftyone_cam
foz.register_zoo_model_source(sys.argv[1])
model = foz.load_zoo_model("efficientnet-lite0-cam-torch")
names = sorted(name for name in foz.list_zoo_models() if "-cam-" in name)
print(json.dumps([type(model).__name__, model.has_embeddings, names]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, address],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "FIFTYONE_MODEL_ZOO_DIR": str(tmp_path / "zoo")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kind, embeds, names = json.loads(done.stdout.splitlines()[-1])
    assert (kind, embeds) == ("Classifier", True)
    declared = json.loads((REPOSITORY / "zoo" / "manifest.json").read_text())["models"]
    assert names == sorted(model["base_name"] for model in declared)


def imported(*, anywhere: bool = False) -> set[str]:
    """What the package imports of others; with ``anywhere`` also inside functions and branches."""
    names = set()
    for path in (REPOSITORY / "fiftyone_cam").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree) if anywhere else tree.body:
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"fiftyone_cam"}


def test_the_requirements_cover_every_import() -> None:
    needed = {Requirement(line).name for line in PROJECT["dependencies"]}
    lite = [line for line in PROJECT["optional-dependencies"]["lite"] if "lite0" in line]
    own = [line for line in PROJECT["dependencies"] if not line.startswith("fiftyone")]
    assert requirements() == own + lite  # the same bounds in both places
    installed = packages_distributions()
    given = {canonicalize_name(name) for name in needed}
    of_fiftyone = {canonicalize_name(Requirement(line).name) for line in requires("fiftyone") or []}
    for module in imported():
        names = {canonicalize_name(name) for name in installed.get(module, [module])}
        assert names & (given | of_fiftyone), f"{module} is in no requirement"


def test_an_import_inside_a_function_is_of_an_extra_or_of_the_requirements() -> None:
    extras = PROJECT["optional-dependencies"]
    named = [
        line for lines in (PROJECT["dependencies"], *extras.values(), requires("fiftyone")) for line in lines or []
    ]
    given = {canonicalize_name(Requirement(line).name) for line in named}
    installed = packages_distributions()
    for module in imported(anywhere=True):
        names = {canonicalize_name(name) for name in installed.get(module, [module])}
        assert names & given, f"{module} is in no requirement and no extra"


def test_the_database_is_no_older_than_fiftyone_asks_for() -> None:
    assert foc.MONGODB_MIN_VERSION.release[:2] <= _mongod.OLDEST


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_all_sources_compile_under_every_python(version: str) -> None:
    code = (
        "import sys, pathlib\n"
        "for path in pathlib.Path(sys.argv[1]).rglob('*.py'): compile(path.read_text(encoding='utf-8'), path, 'exec')\n"
        "print('%d.%d' % sys.version_info[:2])"
    )
    try:
        command = [f"python{version}", "-c", code, str(REPOSITORY / "fiftyone_cam")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip(f"there is no Python {version} here")
    if "command not found" in done.stderr:  # a shim of pyenv without that version
        pytest.skip(f"there is no Python {version} here")
    assert done.stdout.split() == [version], done.stderr
