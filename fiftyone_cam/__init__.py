"""Exact class activation maps over a FiftyOne dataset: where an image classifier looks, as fields to filter.

>>> import fiftyone as fo, fiftyone_cam as focam
>>> dataset = fo.load_dataset("pets")
>>> run = focam.compute_cam(dataset, "efficientnet_lite0", key="cam", ground_truth="ground_truth")
>>> print(run)

Names are imported when they are first used: the App imports this package where it may not wait for torch. The list of
all public names is ``__init__.pyi``, which type checkers read as well (SPEC 1 of Scientific Python).
"""

from __future__ import annotations

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
