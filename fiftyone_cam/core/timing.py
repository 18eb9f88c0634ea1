"""Where the time of a run went."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass
class Timing:
    """Images and seconds, by what they were spent on; all who work on a run add to one.

    >>> timing = Timing(device="cpu")
    >>> results = explainer(batch, timing)
    >>> timing.forward, timing.maps
    (0.41, 0.02)

    Attributes:
        device: what computed, in words.
        images: how many were computed.
        seconds: from the first image to the last write, by the clock on the wall.
        starting: until the first results of a cluster.
        decoding: of all decoding threads together.
        waiting_for_decode: in which nothing was computed, since no image was ready.
        forward: of the network.
        maps: from feature maps to results.
        compiling: of the network, where that pays.
        writing: to the database, beside the computation.
        waiting_for_writes: in which nothing was computed, since too many results were not written yet.
    """

    device: str = ""
    images: int = 0
    seconds: float = 0.0
    starting: float = 0.0
    decoding: float = 0.0
    waiting_for_decode: float = 0.0
    forward: float = 0.0
    maps: float = 0.0
    compiling: float = 0.0
    writing: float = 0.0
    waiting_for_writes: float = 0.0

    def add(self, other: Timing, beside: int = 1) -> None:
        """Add what another one spent; its seconds count in part where it was one of several ``beside`` each other.

        >>> timing.add(Timing(images=32, forward=0.8), beside=2)
        """
        self.images += other.images
        for field in fields(self):
            seconds = getattr(other, field.name)
            if isinstance(seconds, float):
                setattr(self, field.name, getattr(self, field.name) + seconds / beside)
