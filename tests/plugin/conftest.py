"""What the tests of forms share."""

from __future__ import annotations

import pytest

from fiftyone_cam.plugin import installed


@pytest.fixture(autouse=True, scope="session")
def answers() -> None:
    """The packages have answered, as they have soon after a form was opened."""
    for package in ("torch", "torchvision", "timm"):
        if installed.is_installed(package):
            installed.ask(package).join()
