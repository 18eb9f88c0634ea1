"""Errors: each says what was found, what was expected, and what to do."""

from __future__ import annotations


class CamError(Exception):
    """Base of every error that this package raises on purpose."""


class ImageError(CamError):
    """One image cannot be read. The message is the reason, fit for a sample field."""


class HeadError(CamError):
    """The network has no head for which a class activation map is exact."""


class SourceError(CamError):
    """A classifier cannot be loaded from what was given."""


class FieldError(CamError):
    """A field of the dataset is missing, of the wrong type, or belongs to somebody else."""


class RunError(CamError):
    """A run cannot be made, found, or continued under this key."""


class TrainingError(CamError):
    """A training cannot be started, or had to stop. What was saved before is safe; the message says where."""
