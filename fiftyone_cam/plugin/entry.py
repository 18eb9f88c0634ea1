"""What FiftyOne executes to load the plugin: a bridge to the importable package, and no more.

FiftyOne executes this file under a made-up module name, and again whenever it builds its registry. Classes live in the
package, so that they stay the same objects and can be pickled.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

# In a clone the package lies beside fiftyone.yml and needs no installation; in a wheel's bundle it does not.
_ROOT = Path(__file__).resolve().parents[2]
if (_ROOT / "fiftyone_cam" / "__init__.py").is_file() and str(_ROOT) not in sys.path:
    sys.path.insert(0, str(_ROOT))


def register(plugin: Any) -> None:
    """Called by FiftyOne."""
    from fiftyone_cam.plugin.registry import OPERATORS

    for operator in OPERATORS:
        plugin.register(operator)
