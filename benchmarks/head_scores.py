"""Maps of each grade, scored: one body with real weights, heads of six kinds trained on it here, the same photos.

    python -m benchmarks.head_scores TRAIN FOLDER

TRAIN has a folder of photos for each class, ``cat`` and ``dog``. FOLDER is laid out as for ``benchmarks.scores``; where
a photo's name begins with a capital there is a cat on it, as in Oxford-IIIT Pets. The body is EfficientNet-Lite0, and
stays as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.scores import samples, squashed, table  # first: it names the database

import fiftyone as fo  # isort: skip
import fiftyone.core.odm as foo  # isort: skip
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

import fiftyone_cam as focam
from fiftyone_cam.core.explain import Prepared, prepare
from fiftyone_cam.core.results import Item

CLASSES = ("cat", "dog")
WIDTH, HIDDEN = 1280, 64
MEASURES = ("maxboxacc_v2", "pxap", "pointing", "energy", "rank_accuracy")


class WithTail(nn.Module):
    """EfficientNet-Lite0's feature maps, and another tail."""

    def __init__(self, body: Any, tail: nn.Module) -> None:
        super().__init__()
        self.body, self.tail = body, tail

    def features(self, pixels: Tensor) -> Tensor:
        body = self.body
        x = nnf.relu6(body._bn0(body._conv_stem(pixels)))
        for block in body._blocks:
            x = block(x)
        return nnf.relu6(body._bn1(body._conv_head(x)))

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.tail(self.features(pixels))
        return logits


class _Pooled(nn.Module):
    """Feature maps → a vector → logits."""

    def __init__(self, pool: Callable[[Tensor], Tensor], head: nn.Module) -> None:
        super().__init__()
        self.pool, self.head = pool, head

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.pool(x))
        return logits


class _ClassToken(nn.Module):
    """Each cell is a token; a class token reads them in two blocks of a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        from timm.models.vision_transformer import Block

        self.embed = nn.Linear(WIDTH, HIDDEN)
        self.token = nn.Parameter(torch.randn(1, 1, HIDDEN) * 0.02)
        self.place = nn.Parameter(torch.randn(1, 50, HIDDEN) * 0.02)
        self.blocks = nn.Sequential(Block(HIDDEN, 4), Block(HIDDEN, 4))
        self.norm, self.head = nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        cells = self.embed(x.flatten(2).transpose(1, 2))
        tokens = torch.cat([self.token.expand(len(x), -1, -1), cells], 1) + self.place
        logits: Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return logits


def _mean(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def _gem(x: Tensor) -> Tensor:
    return x.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)


def _both(x: Tensor) -> Tensor:
    return torch.cat([x.amax((2, 3)), x.mean((2, 3))], 1)


TAILS: dict[str, Callable[[], nn.Module]] = {
    "average, linear": lambda: _Pooled(_mean, nn.Linear(WIDTH, 2)),
    "maximum and average, linear": lambda: _Pooled(_both, nn.Linear(2 * WIDTH, 2)),
    "layer norm, linear": lambda: _Pooled(_mean, nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2))),
    "MLP": lambda: _Pooled(_mean, nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 2))),
    "GeM, linear": lambda: _Pooled(_gem, nn.Linear(WIDTH, 2)),
    "class token, two blocks": _ClassToken,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("train", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", choices=list(TAILS), default=list(TAILS))
    options = parser.parse_args()
    lite = squashed("efficientnet_lite0", 224)
    paths = [(path, i) for i, name in enumerate(CLASSES) for path in sorted((options.train / name).glob("*.jp*g"))]
    features = read_features(lite, [str(path) for path, _ in paths])
    labels = torch.tensor([label for _, label in paths])
    dataset = fo.Dataset()
    try:
        found = samples(options.folder, "efficientnet_lite0")
        for sample in found:
            name = "cat" if Path(sample.filepath).name[0].isupper() else "dog"
            sample["ground_truth"] = fo.Classification(label=name)
        dataset.add_samples(found, progress=False)
        del found, sample
        rows = []
        for number, name in enumerate(options.only):
            tail = trained(TAILS[name](), features, labels)
            module = WithTail(lite.network.module, tail).eval()
            classifier = focam.load_classifier(module, CLASSES, preprocessing=lite.network.preprocessing)
            key = f"run{number}"
            run = focam.compute_cam(dataset, classifier, key, ground_truth="ground_truth", progress=False)
            report = focam.score_attention(dataset, key, objects="things", interval=0.02, progress=False)
            figures = [f"{getattr(report, measure):.1%}" for measure in MEASURES]
            rows.append([name, run.grade, f"{run.record.accuracy or 0:.1%}", *figures])
            print(rows[-1], flush=True)
        centre = [f"{getattr(report.baselines['centre'], measure):.1%}" for measure in MEASURES]
        rows.append(["*centre*", "–", "–", *centre])
        print(table(("head", "grade", "accuracy", *MEASURES), rows))
    finally:
        dataset.delete()
        foo.drop_database()


def read_features(lite: focam.Classifier, paths: list[str]) -> Tensor:
    """The body's feature maps of photos, ``(N, 1280, 7, 7)``."""
    network, body = lite.network, WithTail(lite.network.module, nn.Identity()).eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(paths), 16):
            prepared = [prepare(Item(path, path), network.preprocessing) for path in paths[start : start + 16]]
            pixels = torch.stack([entry.pixels for entry in prepared if isinstance(entry, Prepared)])
            parts.append(body.features(network.preprocessing.normalize(pixels)))
    return torch.cat(parts).clone()


def trained(tail: nn.Module, features: Tensor, labels: Tensor, epochs: int = 8) -> nn.Module:
    """The tail, trained on feature maps."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(tail.parameters(), 1e-3, weight_decay=0.01)
    tail.train()
    for _ in range(epochs):
        for part in torch.randperm(len(labels)).split(32):
            loss = nnf.cross_entropy(tail(features[part]), labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return tail.eval()


if __name__ == "__main__":
    main()
