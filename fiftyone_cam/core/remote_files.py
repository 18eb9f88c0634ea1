"""Files that are not on a disk: whatever fsspec can open by a URL, read as a whole.

PyTorch itself depends on fsspec; the libraries behind single protocols (s3fs, gcsfs, adlfs, aiohttp for HTTP) do not
come with it, and the reason that an image then gets names the one to install.
"""

from __future__ import annotations

import re

from fiftyone_cam.core.errors import ImageError

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")  # two characters and more: no Windows drive


def is_url(path: str) -> bool:
    """Whether a path names a file elsewhere.

    >>> is_url("s3://bucket/cat.jpg"), is_url("/data/cat.jpg"), is_url("C://data/cat.jpg")
    (True, False, False)
    """
    return _URL.match(path) is not None


def fetch(url: str, max_bytes: int) -> bytes:
    """The content of a file elsewhere.

    Args:
        url: as fsspec knows it: ``s3://bucket/cat.jpg``, ``gs://…``, ``https://…``, ``file:///…``.
        max_bytes: refuse more than this.

    Raises:
        ImageError: with a short reason, as :func:`fiftyone_cam.core.image.read_image` gives it.

    >>> fetch("s3://bucket/cat.jpg", 2**30)[:2]
    b'\\xff\\xd8'
    """
    import fsspec  # late: what only reads disks need not load it

    try:
        with fsspec.open(url, "rb") as file:
            content: bytes = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise ImageError("file not found") from None
    except PermissionError:
        raise ImageError("permission denied") from None
    except Exception as error:  # every protocol has its own
        raise ImageError(f"cannot open: {' '.join(str(error).split())[:200] or type(error).__name__}") from error
    if len(content) > max_bytes:
        raise ImageError(f"too large: more than {max_bytes:,} bytes")
    return content
