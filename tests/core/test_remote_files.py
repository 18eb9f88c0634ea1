"""A picture is the same picture wherever it lies, and what cannot be fetched has a reason."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from fiftyone_cam.core.errors import ImageError
from fiftyone_cam.core.image import read_image
from fiftyone_cam.core.remote_files import fetch, is_url
from tests.helpers.networks import write_photos


class Quiet(SimpleHTTPRequestHandler):
    """A file server that keeps its log to itself."""

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture()
def server(tmp_path: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_picture_is_the_same_wherever_it_lies(tmp_path, server):
    import fsspec

    pytest.importorskip("aiohttp", reason="fsspec reads HTTP through it")
    [path] = write_photos(tmp_path, 1)
    with fsspec.open("memory://photos/a.png", "wb") as file:
        file.write(Path(path).read_bytes())
    here = read_image(path)
    for url in (Path(path).as_uri(), "memory://photos/a.png", f"{server}/{Path(path).name}"):
        np.testing.assert_array_equal(read_image(url), here)
    with pytest.raises(ImageError, match=r"^file not found$"):
        read_image(f"{server}/nothing.png")


def test_what_cannot_be_fetched_has_a_reason(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "large.png").write_bytes(bytes(101))
    (tmp_path / "text.png").write_text("no picture")
    for url, reason in (
        ((tmp_path / "nothing.png").as_uri(), "^file not found$"),
        ((tmp_path / "empty.png").as_uri(), "^empty file$"),
        ((tmp_path / "text.png").as_uri(), '^not an image: begins with "no picture"$'),
        (tmp_path.as_uri(), "^cannot open: .*directory"),
        ("nowhere://bucket/a.png", "^cannot open: Protocol not known: nowhere$"),
    ):
        with pytest.raises(ImageError, match=reason):
            read_image(url)
    with pytest.raises(ImageError, match=r"^too large: more than 100 bytes$"):
        fetch((tmp_path / "large.png").as_uri(), 100)
    assert len(fetch((tmp_path / "large.png").as_uri(), 101)) == 101


def test_what_is_a_url():
    assert is_url("s3://bucket/a.jpg")
    assert is_url("abfs+ssl://x/a.jpg")
    for path in ("/data/a.jpg", "a.jpg", "C://data/a.jpg", r"C:\data\a.jpg", "/data/s3://a.jpg", "s3:/bucket/a.jpg"):
        assert not is_url(path)
