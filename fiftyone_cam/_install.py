"""Make the plugin known to FiftyOne, which looks for plugins in one directory and nowhere else.

FiftyOne accepts a plugin only if its entry file really lies, links resolved, inside the folder that holds its
``fiftyone.yml``. A clone is such a folder. A wheel carries one, ``fiftyone_cam/_bundle``, with the entry and the icons:
the entry imports the installed package, so there is one module tree in both cases. Installing is one link to that
folder, which follows every upgrade of the package.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from fiftyone_cam.core.errors import InstallError
from fiftyone_cam.core.names import PLUGIN

FOLDER = "fiftyone_cam"

# What the plugin consists of; pyproject.toml puts the same files into the wheel's bundle.
BUNDLE = ("fiftyone.yml", "fiftyone_cam/plugin/entry.py", "fiftyone_cam/plugin/assets", "skills")

# Says, inside a copied plugin folder, that `install` made it.
_MARKER = "COPIED_BY_FIFTYONE_CAM"


def install() -> Path:
    """Link the plugin into ``fo.config.plugins_dir``, or copy it where links are impossible; returns where.

    >>> install()
    PosixPath('/home/me/fiftyone/__plugins__/fiftyone_cam')

    Doing it again, also from another environment, moves the link here. Raises :class:`InstallError` if something else
    has that name.
    """
    source, target = _bundle(), _target()
    found = _describe(source, target)
    if found == "this":
        return target
    _refuse_unless_ours(found, target)
    _refuse_second(target)

    _remove(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.symlink(source, target, target_is_directory=True)
    except OSError:  # Windows without developer mode, some network and removable drives
        _copy(source, target)
    return target


def uninstall() -> Path | None:
    """Remove what :func:`install` made; returns where it was, or None if it was not there.

    Raises :class:`InstallError` if something else has its name.
    """
    target = _target()
    found = _describe(_bundle(), target)
    if found == "nothing":
        return None
    if found == "this" and not target.is_symlink():
        found = f"the clone {target}"  # in the plugins directory itself: the user's, not a link of ours
    _refuse_unless_ours(found, target)
    _remove(target)
    return target


def _bundle() -> Path:
    """The plugin folder of this installation: in the wheel, or the clone itself (also of an editable install)."""
    package = Path(__file__).resolve().parent
    for folder in (package / "_bundle", package.parent):
        if all((folder / name).exists() for name in BUNDLE):
            return folder
    raise InstallError(
        f"found no plugin files ({', '.join(BUNDLE)}) with the package in {package}; "
        "expected them in a wheel or a clone of fiftyone_cam: install the package again"
    )


def _target() -> Path:
    import fiftyone as fo  # late: it takes seconds

    return Path(fo.config.plugins_dir).expanduser() / FOLDER


def _describe(source: Path, target: Path) -> str:
    """What has the plugin's name: ``"nothing"``, ``"this"`` plugin, one that is ``"ours"``, else its description."""
    if not os.path.lexists(target):
        return "nothing"
    if target.exists() and target.resolve() == source:
        return "this"
    if target.is_symlink():
        # Only `install` links to a folder of this name; it may belong to another environment, or to one long gone.
        link = Path(os.readlink(target))
        return "ours" if link.parts[-2:] == (FOLDER, "_bundle") else f"a link to {link}"
    if (target / _MARKER).is_file():
        return "ours"
    return f"a {'folder' if target.is_dir() else 'file'}"


def _refuse_unless_ours(found: str, target: Path) -> None:
    if found not in ("nothing", "this", "ours"):
        raise InstallError(
            f"found {found} at {target}, expected nothing or what `python -m fiftyone_cam install` makes; "
            "it is left as it is: if you do not need it, remove it and run this again"
        )


def _refuse_second(target: Path) -> None:
    """FiftyOne takes the first of two plugins of one name, silently."""
    import fiftyone.plugins as fop

    for plugin in fop.list_plugins(enabled="all", builtin=False, shadowed="all"):
        if plugin.name == PLUGIN and Path(plugin.directory) != target:
            raise InstallError(
                f"found the plugin {PLUGIN} in {plugin.directory} already, expected it nowhere in {target.parent}; "
                "use that one, or remove it and run this again"
            )


def _copy(source: Path, target: Path) -> None:
    target.mkdir()
    (target / _MARKER).touch()
    for name in BUNDLE:
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (source / name).is_dir() else shutil.copyfile)(source / name, copy)


def _remove(target: Path) -> None:
    if target.is_symlink():
        target.unlink()
    elif target.exists():
        shutil.rmtree(target)
