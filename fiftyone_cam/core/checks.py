"""What was held against what, and how far apart it was: the record of one comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Check:
    """One of the comparisons that a classifier or a run rests on.

    Args:
        name: ``"pixels"``, ``"logits"`` or ``"maps"``.
        passed: None where the comparison could not be made.
        difference: the largest that was found, in ``unit``.
        unit: what the difference is counted in.
        detail: on what it was found; or why the comparison could not be made.

    >>> print(Check("pixels", True, 1.0, "of 255 grey levels", "the portrait picture"))
    pixels: equal to 1 of 255 grey levels (the portrait picture)
    >>> print(Check.not_made("pixels", "a plain module has no processor"))
    pixels: not compared: a plain module has no processor
    """

    name: str
    passed: bool | None
    difference: float | None = None
    unit: str = ""
    detail: str = ""

    @classmethod
    def not_made(cls, name: str, reason: str) -> Check:
        """A comparison that could not be made, and why.

        >>> Check.not_made("pixels", "a plain module has no processor").passed is None
        True
        """
        return cls(name, None, detail=reason)

    def brief(self) -> str:
        """Its name and what was found, in a few words; of a comparison that could not be made also why.

        >>> Check("maps", True, 4.5e-7, "relative", "on 800 images").brief()
        'maps equal to 4.5e-07'
        """
        if self.passed is None:
            return f"{self.name} not compared ({self.detail})"
        found = f"{self.difference:.2g}" if self.difference is not None else "?"
        return f"{self.name} {'equal to' if self.passed else 'DIFFERENT by'} {found}" + (
            f" {self.unit}" if self.unit.startswith("of 255") else ""
        )

    def words(self) -> str:
        """What was found, without the name.

        >>> Check("pixels", True, 1.0, "of 255 grey levels").words()
        'equal to 1 of 255 grey levels'
        """
        if self.passed is None:
            return f"not compared: {self.detail}"
        words = "equal to" if self.passed else "DIFFERENT by"
        found = f"{self.difference:.3g}" if self.difference is not None else "?"
        return f"{words} {found} {self.unit}".rstrip() + (f" ({self.detail})" if self.detail else "")

    def __str__(self) -> str:
        return f"{self.name}: {self.words()}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a record; :meth:`from_dict` is the inverse.

        >>> Check.from_dict(Check("maps", True, 1e-7).to_dict())
        Check(name='maps', passed=True, difference=1e-07, unit='', detail='')
        """
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Check:
        return cls(**data)


def worst(first: Check | None, second: Check) -> Check:
    """Of two results of the same comparison the one that says less for it.

    >>> worst(Check("logits", True, 1e-6), Check("logits", True, 1e-5)).difference
    1e-05
    """
    if first is None or first.passed is None or second.passed is False:
        return second
    if second.passed is None or first.passed is False:
        return first
    return max(first, second, key=lambda check: check.difference or 0.0)
