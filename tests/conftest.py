"""Every test runs against a FiftyOne of its own: own database, own folders, nothing of the user's touched.

The environment must be set before FiftyOne is imported, so it is set when pytest loads this file.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

# laws are about values; how long a machine takes for an example is not one of them
# (in CI the examples are the same each time, so that what fails there is the change and not the luck of the draw)
settings.register_profile("laws", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("laws")

_HOME = Path(tempfile.mkdtemp(prefix="fiftyone_cam_tests_"))
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)

os.environ.update(
    FIFTYONE_CONFIG_PATH=str(_HOME / "config.json"),
    FIFTYONE_APP_CONFIG_PATH=str(_HOME / "app_config.json"),
    FIFTYONE_DATABASE_DIR=str(_HOME / "db"),
    # FiftyOne joins a MongoDB of its own that already runs: of two sessions at once, each needs a name of its own
    FIFTYONE_DATABASE_NAME=f"fiftyone_cam_tests_{os.getpid()}",
    FIFTYONE_DEFAULT_DATASET_DIR=str(_HOME / "datasets"),
    FIFTYONE_DATASET_ZOO_DIR=str(_HOME / "dataset_zoo"),
    FIFTYONE_MODEL_ZOO_DIR=str(_HOME / "model_zoo"),
    FIFTYONE_PLUGINS_DIR=str(_HOME / "plugins"),
    FIFTYONE_CAM_CACHE=str(_HOME / "cache"),
    FIFTYONE_DATABASE_VALIDATION="false",
    FIFTYONE_SHOW_PROGRESS_BARS="false",
    FIFTYONE_DO_NOT_TRACK="true",
)

REPOSITORY = Path(__file__).resolve().parents[1]


_ORDER = ("core", "", "browser")
"""Folders of tests: what fails first should be the nearest to the cause, and the fastest."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        folder = item.path.relative_to(REPOSITORY / "tests").parts[0]
        return _ORDER.index(folder if folder in _ORDER else "")

    items.sort(key=rank)  # stable: what shares fixtures stays together


def pytest_configure(config: pytest.Config) -> None:
    """Of several workers (``-n 2``) none may own the MongoDB: it would be gone for the others when that one ends."""
    given = any(os.environ.get(name) for name in ("FIFTYONE_DATABASE_URI", "FIFTYONE_PRIVATE_DATABASE_PORT"))
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput") and not given:
        from tests.helpers.mongod import start

        os.environ["FIFTYONE_PRIVATE_DATABASE_PORT"] = str(start(_HOME / "db"))  # as FiftyOne tells its own children


def pytest_sessionfinish() -> None:
    """Leave nothing on a server that is not this session's own."""
    if "fiftyone" in sys.modules:
        import fiftyone.core.odm as foo

        foo.drop_database()


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real photos; tests that need it skip, saying so, where it is absent."""
    folder = Path(os.environ.get("FIFTYONE_CAM_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real photos at {folder}: set FIFTYONE_CAM_DATA to their folder")
    return folder


@pytest.fixture()
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture()
def dataset() -> Iterator[object]:
    """An empty dataset, deleted after the test."""
    import fiftyone as fo

    dataset = fo.Dataset()
    yield dataset
    if not dataset.deleted:
        dataset.delete()


@pytest.fixture(scope="module")
def classifier() -> Any:
    """A small random network of three classes."""
    import fiftyone_cam as focam
    from tests.helpers.networks import NAMES, SQUARE, tiny_gap

    return focam.load_classifier(tiny_gap(), NAMES, preprocessing=SQUARE)


@pytest.fixture()
def photos(dataset: Any, tmp_path: Path) -> Any:
    """Twelve photos, labelled in turn with the classes of ``classifier``."""
    import fiftyone as fo

    from tests.helpers.networks import NAMES, write_photos

    paths = write_photos(tmp_path, 12)
    dataset.add_samples(
        [fo.Sample(filepath=p, ground_truth=fo.Classification(label=NAMES[i % 3])) for i, p in enumerate(paths)]
    )
    return dataset
