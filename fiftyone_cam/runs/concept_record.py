"""What is written down of a run's concepts: plain data with names and types, a part of the run's record."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class ConceptExample:
    """A place that tells much of a concept: on which sample, and where, relative: left, top, width, height."""

    sample: str
    box: list[float]


@dataclass(kw_only=True)
class PixelCheck:
    """A concept's cells were blurred and the network run again: how often it did what the sum said.

    Attributes:
        changes: images whose prediction the sum said to change.
        changed: how many of these changed to the class that it said.
        stays: images whose prediction the sum said to stay, or of which it could say nothing.
        stayed: how many of these stayed.
    """

    changes: int
    changed: int
    stays: int
    stayed: int


@dataclass(kw_only=True)
class Concept:
    """One concept in numbers. None where it cannot be known: without true classes, or of a head without what-if.

    >>> report.concepts[0].name, report.concepts[0].net
    ('concept 1', 7)

    Attributes:
        name: of the labels in ``{key}_concepts``.
        number: of its cluster.
        present: share of the images that have a cell of it.
        share: of the positive evidence for the predicted classes.
        blame: share of the logit gaps between the predicted and the true class, of all errors together.
        lift: error rate where it holds evidence for the prediction, over the error rate.
        repaired: errors that would be right without its evidence.
        broken: hits that would be wrong without it.
        gain: ``net`` smoothed, so that a prediction near the boundary counts in part: concepts are ordered by it.
        interval: 95% interval of ``net``, of the half that was held out, for as many images as ``net`` is of.
        p: probability of so large a gain among all concepts by chance, in the half that was held out.
        speaks_for: classes whose logits it raises most, beside the others'.
        speaks_against: classes whose logits it lowers most.
        pixels: the pixel check, of the first concepts.
        examples: the most telling places.
    """

    name: str
    number: int
    present: float = 0.0
    share: float = 0.0
    blame: float | None = None
    lift: float | None = None
    repaired: int | None = None
    broken: int | None = None
    gain: float | None = None
    interval: list[float] | None = None
    p: float | None = None
    speaks_for: list[str] = field(default_factory=list)
    speaks_against: list[str] = field(default_factory=list)
    pixels: PixelCheck | None = None
    examples: list[ConceptExample] = field(default_factory=list)

    @property
    def net(self) -> int | None:
        """Errors put right minus hits lost, if its evidence were removed."""
        return None if self.repaired is None or self.broken is None else self.repaired - self.broken


@dataclass(kw_only=True)
class ConceptsRecord:
    """The concepts of a run, and with what they were found.

    Attributes:
        folder: the name of the folder with sums, see :class:`fiftyone_cam.runs.concept_sums.Sums`.
        digest: of all that decides what is found: a call that was interrupted goes on only with the same.
        complete: whether they are found.
        concepts: the rows, in their order.
        ground_truth: the field with the true class.
        class_map: pairs of a predicted label and the ground truth's word for it.
        seed: of all draws.
        precision: of the forward.
        grade: of the head.
        removable: whether it is known what predictions would be without a concept.
        samples: how many have concepts.
        judged: how many of these have a known true class.
        errors: how many of these were predicted wrong.
        failures: how many samples have none, by reason.
        revision: of the run: another one since makes the concepts stale.
        found_at: ISO 8601, UTC.
        written: names, without the key, of the fields that belong to the concepts.
        places: how many places were written.
        mapped: how many of these are on the map.
        brain: whether the map of concepts is registered for the Embeddings panel, under ``{key}_concepts``.
    """

    folder: str
    digest: str
    complete: bool = False
    concepts: list[Concept] = field(default_factory=list)
    ground_truth: str | None = None
    class_map: list[list[str]] | None = None
    seed: int = 0
    precision: str = "float32"
    grade: str = ""
    removable: bool = False
    samples: int = 0
    judged: int = 0
    errors: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    revision: int = 0
    found_at: str = ""
    written: list[str] = field(default_factory=list)
    places: int = 0
    mapped: int = 0
    brain: bool = False

    @property
    def left_off(self) -> str | None:
        """That some places are not on the map, in words; None where all are.

        >>> report.record.left_off
        '100,000 of 376,350 places, of each concept as many as of the others, or all'
        """
        if not self.brain or self.mapped >= self.places:
            return None
        return f"{self.mapped:,} of {self.places:,} places, of each concept as many as of the others, or all"
