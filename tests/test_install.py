"""The plugin from a wheel and from a clone, and the database that FiftyOne needs.

The way out of a missing mongod that works, a real `doctor --fix`, is walked wherever `make test` builds its environment
behind a closed network; here are the ways that must end in words.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import fiftyone as fo
import fiftyone.plugins as fop
import pytest
import yaml

import fiftyone_cam
from fiftyone_cam import _install
from fiftyone_cam.__main__ import main

REPOSITORY = Path(__file__).resolve().parents[1]

# Install and uninstall, twice each, in one process (importing FiftyOne takes seconds); in between: what FiftyOne itself
# makes of its plugins directory, and which fiftyone_cam it runs.
THERE_AND_BACK = """
import json, os
from fiftyone_cam.__main__ import main
status = [main(["install"]), main(["install"])]

import fiftyone.plugins as fop, fiftyone_cam
from fiftyone.plugins.context import PluginContext
plugins = [plugin for plugin in fop.list_plugins(shadowed="all") if plugin.name == "@fiftyone-cam/cam"]
contexts = [PluginContext(plugin) for plugin in plugins]
for context in contexts:
    context.register_all()

icons = lambda config: [icon for icon in (config.icon, config.dark_icon, config.light_icon) if icon and "/" in icon]
answer = {
    "folders": [plugin.directory for plugin in plugins],
    "errors": [error for context in contexts for error in context.errors],
    "operators": sorted(operator.name for context in contexts for operator in context.instances),
    "icons": {icon: os.path.isfile(plugin.directory + icon) for plugin, context in zip(plugins, contexts)
        for operator in context.instances for icon in icons(operator.config)},
    "package": fiftyone_cam.__file__,
}
status += [main(["uninstall"]), main(["uninstall"])]
print(json.dumps({"status": status, **answer}))
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty plugins directory, FiftyOne's in this process and its children."""
    folder = tmp_path / "plugins"
    monkeypatch.setattr(fo.config, "plugins_dir", str(folder))
    monkeypatch.setenv("FIFTYONE_PLUGINS_DIR", str(folder))
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real wheel, built as pip builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, REPOSITORY], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", folder, wheel], check=True)
    return folder


def python(*arguments: str, path: Path | str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python elsewhere than in this repository, with the package from ``path`` and no database server named."""
    inherited = {name: value for name, value in os.environ.items() if name != "FIFTYONE_DATABASE_URI"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**inherited, "PYTHONPATH": str(path), **environment},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def plugin_files() -> set[str]:
    """The files that make the plugin, relative to its folder."""
    found = [path for name in _install.BUNDLE for path in ((REPOSITORY / name), *(REPOSITORY / name).rglob("*"))]
    return {str(path.relative_to(REPOSITORY)) for path in found if path.is_file()}


def listed() -> list[str]:
    return [plugin.directory for plugin in fop.list_plugins(shadowed="all") if plugin.name == "@fiftyone-cam/cam"]


@pytest.mark.parametrize("kind", ["wheel", "clone"])
def test_install_and_uninstall(kind: str, request: pytest.FixtureRequest, plugins: Path, tmp_path: Path) -> None:
    path = request.getfixturevalue("site") if kind == "wheel" else REPOSITORY
    done = python("-c", THERE_AND_BACK, path=path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *said, answer = done.stdout.splitlines()
    answer = json.loads(answer)

    assert answer["status"] == [0, 0, 0, 0]
    assert said[0] == said[2] == f"FiftyOne finds the plugin at {plugins / 'fiftyone_cam'}"
    assert answer["folders"] == [str(plugins / "fiftyone_cam")]
    assert answer["errors"] == []
    declared = yaml.safe_load((REPOSITORY / "fiftyone.yml").read_text())
    assert answer["operators"] == sorted(declared.get("operators", []) + declared.get("panels", []))
    assert answer["icons"]
    assert all(answer["icons"].values()), answer["icons"]
    assert Path(answer["package"]).parent == path / "fiftyone_cam"  # one module tree: the installed one
    assert f"Removed {plugins / 'fiftyone_cam'}" in said
    assert "There was nothing to remove" in said
    assert list(plugins.iterdir()) == []


def test_wheel_holds_the_package_and_the_plugin(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {str(file.relative_to(REPOSITORY)) for file in (REPOSITORY / "fiftyone_cam").rglob("*.py")}
    assert package - names == {"fiftyone_cam/plugin/entry.py"}
    assert "fiftyone_cam/py.typed" in names
    assert {name for name in names if "/_bundle/" in name} == {
        f"fiftyone_cam/_bundle/{name}" for name in plugin_files()
    }
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"fiftyone_cam"}
    assert any(name.endswith("/LICENSE") for name in names)


def test_pypi_shows_addresses_of_what_is_there(wheel: Path) -> None:
    """A relative picture or link leads nowhere from PyPI; the project's address is one, in all places."""
    archive = zipfile.ZipFile(wheel)
    [metadata] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    text = archive.read(metadata).decode()
    shown = text.partition("\n\n")[2]
    links = re.findall(r"\]\(([^)]+)\)", shown)
    assert len(links) > 20
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    home = yaml.safe_load((REPOSITORY / "fiftyone.yml").read_text())["url"]
    ours = re.findall(rf"{home.removeprefix('https://github.com')}/(?:blob/)?main/([^)#]+)", shown)
    assert len(ours) > 10
    assert [path for path in ours if not (REPOSITORY / path).exists()] == []
    assert all(
        line.endswith(home) or f", {home}" in line for line in text.splitlines() if line.startswith("Project-URL")
    )


def test_one_version() -> None:
    """The package takes its version from ``__init__.py``; FiftyOne reads a file that can only repeat it."""
    assert yaml.safe_load((REPOSITORY / "fiftyone.yml").read_text())["version"] == fiftyone_cam.__version__


@pytest.mark.parametrize("what", ["file", "folder", "link", "dangling link"])
def test_never_touches_what_it_did_not_make(what: str, plugins: Path, tmp_path: Path) -> None:
    plugins.mkdir()
    target = plugins / "fiftyone_cam"
    if what == "file":
        target.write_text("mine")
    elif what == "folder":
        target.mkdir()
        (target / "mine").touch()
    else:
        (tmp_path / "elsewhere").mkdir()
        target.symlink_to(tmp_path / ("elsewhere" if what == "link" else "gone"))
    before = sorted((str(path), path.lstat().st_ino, path.lstat().st_mtime_ns) for path in plugins.rglob("*"))

    for command in (_install.install, _install.uninstall):
        with pytest.raises(_install.InstallError, match=f"found .*{what.split()[-1]}.* at {target}.*left as it is"):
            command()
    assert main(["install"]) == main(["uninstall"]) == 1
    assert sorted((str(path), path.lstat().st_ino, path.lstat().st_mtime_ns) for path in plugins.rglob("*")) == before


def test_moves_the_link_of_another_environment(plugins: Path, tmp_path: Path) -> None:
    plugins.mkdir()
    (plugins / "fiftyone_cam").symlink_to(tmp_path / "old_env" / "fiftyone_cam" / "_bundle")  # long gone
    assert _install.install() == plugins / "fiftyone_cam"
    assert listed() == [str(plugins / "fiftyone_cam")]


def test_leaves_a_clone_in_the_plugins_directory_alone(plugins: Path) -> None:
    """The user linked a clone there under its own name, so that FiftyOne knows the plugin already."""
    plugins.mkdir()
    (plugins / "my_clone").symlink_to(REPOSITORY)
    with pytest.raises(_install.InstallError, match=f"found .* in {plugins / 'my_clone'} already"):
        _install.install()
    assert listed() == [str(plugins / "my_clone")]
    assert _install.uninstall() is None
    assert listed() == [str(plugins / "my_clone")]


def test_copies_where_links_are_impossible(plugins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_privilege(*_: object, **__: object) -> None:
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr(os, "symlink", no_privilege)
    for _ in range(2):
        target = _install.install()
        assert not target.is_symlink()
        assert listed() == [str(target)]
        for file in plugin_files():
            assert (target / file).read_bytes() == (REPOSITORY / file).read_bytes()
        (target / "fiftyone.yml").write_text("name: old\n")  # the second time refreshes it
    assert _install.uninstall() == target
    assert list(plugins.iterdir()) == []


def test_help_is_quick(tmp_path: Path) -> None:
    """Nothing heavy is imported before it is known what to do."""
    code = """
import sys
from fiftyone_cam.__main__ import main
assert main([]) == 0
print(sorted({"fiftyone", "numpy", "torch"} & set(sys.modules)))
"""
    done = python("-c", code, path=REPOSITORY, cwd=tmp_path)
    assert {"install", "uninstall", "doctor"} <= set(done.stdout.split())
    assert done.stdout.splitlines()[-1] == "[]"


def test_doctor_finds_the_mongod_that_fiftyone_starts(capsys: pytest.CaptureFixture[str]) -> None:
    from fiftyone.core.service import DatabaseService

    if fo.config.database_uri:
        pytest.skip("FIFTYONE_DATABASE_URI names a server: FiftyOne starts no mongod")
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.rstrip().endswith(f" at {DatabaseService.find_mongod()}")


@pytest.mark.parametrize(
    ("script", "found"),
    [
        (None, "found no mongod at"),
        ("no program", "it does not run: .*Exec format error"),
        ("#!/bin/sh\necho libcrypto.so.3: cannot open shared object file >&2; exit 127", "not run: libcrypto"),
        ("#!/bin/sh\necho db version v4.4.29", r"\(db version v4.4.29\), expected MongoDB 6.0 or newer"),
    ],
)
def test_doctor_names_what_is_wrong_and_what_to_do(
    script: str | None, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FiftyOne whose mongod is missing, broken, without its library, or too old; and a pip that reaches nothing."""
    folder = tmp_path / "fiftyone" / "db" / "bin"
    folder.mkdir(parents=True)
    (tmp_path / "fiftyone" / "__init__.py").touch()
    if script is not None:
        (folder / "mongod").write_text(script)
        (folder / "mongod").chmod(0o755)
    nothing = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    path = f"{tmp_path}{os.pathsep}{REPOSITORY}"

    done = python("-m", "fiftyone_cam", "doctor", path=path, cwd=tmp_path, **nothing)
    assert done.returncode == 1
    assert re.search(found, done.stderr), done.stderr
    assert done.stderr.endswith("To repair it: python -m fiftyone_cam doctor --fix\n")

    done = python("-m", "fiftyone_cam", "doctor", "--fix", path=path, cwd=tmp_path, **nothing)
    assert done.returncode == 1
    assert "FIFTYONE_DATABASE_URI, for example mongodb://localhost:27017" in done.stderr


def test_doctor_needs_no_mongod_beside_a_server(tmp_path: Path) -> None:
    (tmp_path / "fiftyone").mkdir()
    (tmp_path / "fiftyone" / "__init__.py").touch()
    (tmp_path / "config.json").write_text(json.dumps({"database_uri": "mongodb://me:secret@from.config:27017"}))
    path = f"{tmp_path}{os.pathsep}{REPOSITORY}"
    settings = {"FIFTYONE_CONFIG_PATH": str(tmp_path / "config.json")}
    done = python("-m", "fiftyone_cam", "doctor", path=path, cwd=tmp_path, **settings)
    assert "the server at from.config:27017" in done.stdout
    settings["FIFTYONE_DATABASE_URI"] = "mongodb://me:secret@from.environment:27017/?tls=true"
    done = python("-m", "fiftyone_cam", "doctor", path=path, cwd=tmp_path, **settings)
    assert "the server at from.environment:27017" in done.stdout
    assert "secret" not in done.stdout + done.stderr
