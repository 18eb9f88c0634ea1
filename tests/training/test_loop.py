"""Training: the split, the recipe, the pictures, and a state on disk that survives what kills processes."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from sklearn.metrics import balanced_accuracy_score, log_loss
from torch import nn

from fiftyone_cam.core.errors import TrainingError
from fiftyone_cam.core.explain import prepare
from fiftyone_cam.core.preprocessing import CenterCrop, Preprocessing, Resize
from fiftyone_cam.core.results import Item
from fiftyone_cam.runs.record import Epoch
from fiftyone_cam.training.loop import fit, learning_rate
from fiftyone_cam.training.pictures import Features, PictureCache, Pictures, augmentation, choose_validation
from fiftyone_cam.training.progress import Clock, Progress, best_epoch
from fiftyone_cam.training.recipe import Recipe
from tests.helpers.networks import tiny_gap, write_photos

SMALL = Preprocessing((Resize(short=32), CenterCrop((32, 32))))


def blobs(count: int, classes: int = 3, seed: int = 0) -> Features:
    """Points around a centre for each class; easily told apart."""
    rng = np.random.default_rng(seed)
    targets = np.arange(count) % classes
    points = np.eye(classes, 8)[targets] * 3 + rng.normal(size=(count, 8))
    return Features(torch.tensor(points, dtype=torch.float32), torch.tensor(targets))


def linear(classes: int = 3, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(8, classes)


# the split


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=60), st.floats(0.05, 0.95), st.integers(0, 5))
def test_the_split_takes_the_fraction_of_every_class(labels, fraction, seed):
    chosen = choose_validation(labels, fraction, seed)
    assert (chosen == choose_validation(labels, fraction, seed)).all()
    for label, count in Counter(labels).items():
        taken = sum(chosen[i] for i, other in enumerate(labels) if other == label)
        if count == 1:
            assert taken == 0  # what there is one of is learned, not tested
        else:
            assert 1 <= taken <= count - 1
            assert abs(taken - fraction * count) <= 1


def test_another_seed_gives_another_split():
    labels = ["cat"] * 50 + ["dog"] * 50
    assert (choose_validation(labels, 0.2, 0) != choose_validation(labels, 0.2, 1)).any()


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5])
def test_a_fraction_that_leaves_nothing_is_refused(fraction):
    with pytest.raises(TrainingError, match="between 0 and 1"):
        choose_validation(["a", "b"], fraction)


# the recipe


@given(st.integers(1, 500), st.floats(1e-6, 10))
def test_the_learning_rate_rises_to_its_peak_and_falls_towards_zero(steps, peak):
    rates = [learning_rate(step, steps, peak) for step in range(steps)]
    top = int(np.argmax(rates))
    assert max(rates) == pytest.approx(peak)
    assert all(before <= after for before, after in pairwise(rates[: top + 1]))
    assert all(before >= after for before, after in pairwise(rates[top:]))
    assert all(rate >= 0 for rate in rates)
    assert steps < 20 or rates[-1] < 0.02 * peak


def test_balance_is_worth_as_many_copies_of_the_rare_class(tmp_path):
    """The law for class weights: they act as if every class had been repeated to the size of the largest."""
    common, rare = blobs(40, 2).inputs[:40:2], blobs(40, 2).inputs[1:11:2]
    skewed = Features(torch.cat([common, rare]), torch.tensor([0] * 20 + [1] * 5))
    copied = Features(torch.cat([common, *[rare] * 4]), torch.tensor([0] * 20 + [1] * 20))
    weights = []
    for train, balance, name in ((skewed, True, "a"), (copied, False, "b"), (skewed, False, "c")):
        module = linear(2)
        settings = Recipe(epochs=3, batch_size=100, balance=balance)  # whole batches: the order does not matter
        fit(module, train, blobs(20, 2), 2, settings, state=tmp_path / name)
        weights.append(module.weight.detach())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-5)
    assert (weights[0] - weights[2]).abs().max() > 1e-4


def test_the_reported_numbers_are_those_of_an_independent_library(tmp_path):
    module, validation = linear(), blobs(31, seed=1)
    [*_, last] = fit(module, blobs(90), validation, 3, Recipe(epochs=2), state=tmp_path / "state")
    with torch.no_grad():
        probabilities = module(validation.inputs).double().softmax(1).numpy()
    truth, predicted = validation.targets.numpy(), probabilities.argmax(1)
    assert last.validation_accuracy == pytest.approx((truth == predicted).mean())
    assert last.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert last.validation_loss == pytest.approx(log_loss(truth, probabilities), rel=1e-5)


def test_every_epoch_sees_each_example_once_in_batches_of_nearly_one_size(tmp_path):
    sizes, seen = [], []

    class Recorder(Features):
        def batches(self, chunks):
            sizes.append([len(chunk) for chunk in chunks])
            seen.append([int(index) for chunk in chunks for index in chunk])
            yield from super().batches(chunks)

    examples = blobs(33)
    train = Recorder(examples.inputs, examples.targets)
    fit(linear(), train, blobs(9), 3, Recipe(epochs=2, batch_size=16), state=tmp_path / "state")
    assert sizes == [[11, 11, 11]] * 2  # not 16, 16 and 1: batch normalisation cannot learn from one
    assert all(sorted(order) == list(range(33)) for order in seen)
    assert seen[0] != seen[1]


def test_patience_ends_what_does_not_improve(tmp_path):
    settings = Recipe(epochs=50, learning_rate=1e-30, patience=3)
    history = fit(linear(), blobs(30), blobs(9), 3, settings, state=tmp_path / "state")
    assert len(history) == 4
    assert best_epoch(history).epoch == 1


def test_the_best_epoch_is_the_first_of_equals():
    base = Epoch(1, 0.1, 0.5, 0.9, 0.5, 0.9, 0.9, 1.0)
    worse, equal = replace(base, epoch=2, balanced_accuracy=0.8), replace(base, epoch=3)
    calmer = replace(base, epoch=4, validation_loss=0.4)
    assert best_epoch([base, worse, equal]).epoch == 1
    assert best_epoch([base, worse, equal, calmer]).epoch == 4


def test_training_leaves_the_callers_random_numbers_alone(tmp_path):
    module, pictures = tiny_gap(), _pictures(tmp_path)  # with dropout
    torch.manual_seed(7)
    before = torch.get_rng_state()
    fit(module, pictures, pictures, 3, Recipe(epochs=1), state=tmp_path / "state", normalize=SMALL.normalize)
    assert torch.equal(torch.get_rng_state(), before)


# the pictures


def _pictures(folder: Path, count: int = 12, **kwargs) -> Pictures:
    paths = write_photos(folder, count)
    kwargs.setdefault("preprocessing", SMALL)
    return Pictures([Item(str(i), path) for i, path in enumerate(paths)], torch.arange(count) % 3, **kwargs)


@pytest.mark.parametrize("room", [0, 10_000, 1 << 30])
def test_batches_hold_what_evaluation_would_see_in_order_however_much_is_kept(tmp_path, room):
    pictures = _pictures(tmp_path, memory=PictureCache(room))
    expected = torch.stack([prepare(item, SMALL).pixels for item in pictures.items])
    chunks = np.array_split(np.random.default_rng(0).permutation(12), 5)
    for _ in range(2):  # the second time from memory, as far as there is room
        for chunk, (inputs, targets) in zip(chunks, pictures.batches(chunks), strict=True):
            assert torch.equal(inputs, expected[chunk])
            assert targets.tolist() == (chunk % 3).tolist()


def test_an_unreadable_picture_costs_itself_and_says_why(tmp_path):
    pictures = _pictures(tmp_path)
    Path(pictures.items[4].path).write_bytes(b"no picture")
    Path(pictures.items[5].path).unlink()
    chunks = [np.arange(3), np.array([4, 5]), np.array([5, 6])]
    (_, first), (none, of_none), (_, rest) = pictures.batches(chunks)
    assert (first.tolist(), len(none), len(of_none), rest.tolist()) == ([0, 1, 2], 0, 0, [0])
    assert pictures.failures == {id: prepare(pictures.items[int(id)], SMALL).reason for id in ("4", "5")}


def test_an_epoch_goes_on_without_the_pictures_that_cannot_be_read(tmp_path):
    pictures = _pictures(tmp_path)
    for item in pictures.items[:6]:
        Path(item.path).unlink()
    [epoch] = fit(tiny_gap(), pictures, pictures, 3, Recipe(epochs=1, batch_size=2), state=tmp_path / "state",
                  normalize=SMALL.normalize)  # fmt: skip
    assert math.isfinite(epoch.loss)
    for item in pictures.items:
        Path(item.path).unlink(missing_ok=True)
    gone = Pictures(pictures.items, pictures.targets, SMALL)
    with pytest.raises(TrainingError, match="none of the training pictures"):
        fit(tiny_gap(), gone, pictures, 3, Recipe(epochs=1), state=tmp_path / "other", normalize=SMALL.normalize)


@pytest.mark.parametrize("shape", [(1, 1), (20, 500), (500, 20), (480, 640), (33, 32)])
@pytest.mark.parametrize("side", [32, 96])
def test_augmented_pictures_have_the_networks_size_whatever_they_were(shape, side):
    preprocessing = Preprocessing((Resize(short=round(side / 0.875)), CenterCrop((side, side))))
    reading, varying = augmentation(preprocessing)
    picture = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    result = varying(reading.apply(picture))
    assert (result.shape, result.dtype) == ((3, side, side), torch.uint8)


def test_small_pictures_are_shifted_and_mirrored_and_nothing_else():
    reading, varying = augmentation(SMALL)
    picture = torch.randint(1, 256, (3, 32, 32), dtype=torch.uint8)
    torch.manual_seed(0)
    places = set()
    for _ in range(40):
        result = varying(reading.apply(picture))
        assert (result.count_nonzero((1, 2)) >= 28 * 28).all()
        for mirrored in (False, True):
            whole = nn.functional.pad(picture.flip(2) if mirrored else picture, (4, 4, 4, 4))
            places |= {
                (mirrored, y, x)
                for y in range(9)
                for x in range(9)
                if torch.equal(result, whole[:, y : y + 32, x : x + 32])
            }
    assert len(places) > 20
    assert {place[0] for place in places} == {False, True}


# the state on disk


def train_toy(folder: Path, state: Path, in_epoch_3: Callable[[], None] | None = None) -> tuple[bytes, list[dict]]:
    """Train with dropout, batch normalisation, augmentation and shuffling; the last weights, bit by bit, and numbers.

    ``in_epoch_3`` is called in the middle of that epoch.
    """
    paths = sorted(str(path) for path in folder.glob("*.png"))
    items, targets = [Item(path, path) for path in paths], torch.arange(len(paths)) % 3
    module = tiny_gap()

    def report(progress: Progress) -> None:
        if in_epoch_3 is not None and progress.epoch == 3 and progress.done > 2.4 / 5:
            in_epoch_3()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Clock, "due", True)  # every batch is a moment to be killed at
        history = fit(
            module,
            Pictures(items, targets, *augmentation(SMALL), PictureCache(1 << 20)),
            Pictures(items, targets, SMALL),
            3,
            Recipe(epochs=5, batch_size=4),
            state=state,
            normalize=SMALL.normalize,
            report=report,
        )
    weights = b"".join(tensor.contiguous().numpy().tobytes() for tensor in module.state_dict().values())
    return weights, [{**asdict(epoch), "seconds": 0} for epoch in history]


def _epochs(state: Path) -> list[int]:
    with safe_open(state, "pt") as file:
        return [epoch["epoch"] for epoch in json.loads(file.metadata()["training"])["history"]]


def test_killed_in_the_middle_of_an_epoch_it_ends_as_if_unbroken(tmp_path):
    write_photos(tmp_path, 24)
    state = tmp_path / "killed.safetensors"
    script = (
        "import os, signal, torch\ntorch.set_num_threads(1)\nfrom pathlib import Path\n"
        "from tests.training.test_loop import train_toy\n"
        f"train_toy(Path({str(tmp_path)!r}), Path({str(state)!r}), lambda: os.kill(os.getpid(), signal.SIGKILL))"
    )
    killed = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert _epochs(state) == [1, 2]
    assert train_toy(tmp_path, state) == train_toy(tmp_path, tmp_path / "whole.safetensors")


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of a process to run into")
def test_out_of_disk_in_the_middle_it_ends_as_if_unbroken(tmp_path):
    import resource

    write_photos(tmp_path, 24)
    state = tmp_path / "full.safetensors"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:  # writing fails beyond so many bytes, as on a full disk
        with pytest.raises(TrainingError, match="state of epoch 3 cannot be saved"):
            train_toy(tmp_path, state, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1])))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert _epochs(state) == [1, 2]
    assert not list(tmp_path.glob(".full*"))
    assert train_toy(tmp_path, state) == train_toy(tmp_path, tmp_path / "whole.safetensors")


def test_a_finished_training_is_not_repeated(tmp_path):
    module, state = linear(), tmp_path / "state"
    history = fit(module, blobs(30), blobs(9), 3, Recipe(epochs=2), state=state)
    fresh = linear(seed=5)
    assert fit(fresh, blobs(30), blobs(9), 3, Recipe(epochs=2), state=state) == history
    assert torch.equal(fresh.weight, module.weight)


def test_the_state_of_another_training_is_not_continued(tmp_path):
    state = tmp_path / "state"
    fit(linear(), blobs(30), blobs(9), 3, Recipe(epochs=1), state=state, identity="cats")
    before = state.read_bytes()
    for settings, identity in ((Recipe(epochs=1), "dogs"), (Recipe(epochs=2), "cats")):
        with pytest.raises(TrainingError, match="another training"):
            fit(linear(), blobs(30), blobs(9), 3, settings, state=state, identity=identity)
    assert state.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, b'\x08\x00\x00\x00\x00\x00\x00\x00{"a": 1}'])
def test_a_broken_state_is_named(tmp_path, content):
    state = tmp_path / "state"
    state.write_bytes(content)
    with pytest.raises(TrainingError, match="cannot be read"):
        fit(linear(), blobs(30), blobs(9), 3, Recipe(epochs=1), state=state)


@pytest.mark.parametrize("where", ["train", "validation"])
def test_a_loss_that_is_no_number_stops_and_the_last_good_state_stays(tmp_path, where):
    class Poisoned(Features):
        """Infinite from the third pass on."""

        passes = 0

        def batches(self, chunks):
            self.passes += 1
            for inputs, targets in super().batches(chunks):
                yield inputs * (torch.inf if self.passes > 2 else 1), targets

    good, bad = blobs(30), Poisoned(blobs(30).inputs, blobs(30).targets)
    parts = (bad, good) if where == "train" else (good, bad)
    state, saved = tmp_path / "state", []
    with pytest.raises(TrainingError, match=r"in epoch 3 of 5.*lower learning rate than 0\.001"):
        fit(linear(), *parts, 3, Recipe(epochs=5), state=state, on_epoch=lambda history: saved.append(len(history)))
    assert saved == [1, 2]
    assert _epochs(state) == [1, 2]
    with safe_open(state, "pt") as file:
        assert all(file.get_tensor(name).isfinite().all() for name in file.keys())  # noqa: SIM118


def test_what_on_epoch_raises_repeats_that_epoch(tmp_path):
    """Checkpoints are saved there: the state may not be ahead of them."""
    state = tmp_path / "state"

    def interrupt(history):
        if len(history) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(linear(), blobs(30), blobs(9), 3, Recipe(epochs=3), state=state, on_epoch=interrupt)
    assert _epochs(state) == [1]
    resumed = fit(linear(), blobs(30), blobs(9), 3, Recipe(epochs=3), state=state)
    whole = fit(linear(), blobs(30), blobs(9), 3, Recipe(epochs=3), state=tmp_path / "whole")
    assert [{**asdict(epoch), "seconds": 0} for epoch in resumed] == [
        {**asdict(epoch), "seconds": 0} for epoch in whole
    ]


# progress


def test_progress_only_grows_and_ends_at_one(tmp_path, monkeypatch):
    monkeypatch.setattr(Clock, "due", True)
    seen: list[Progress] = []
    fit(linear(), blobs(60), blobs(9), 3, Recipe(epochs=3, batch_size=8), state=tmp_path / "s", report=seen.append)
    shares = [progress.done for progress in seen]
    assert len(seen) >= 24
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.1
    assert shares[-1] == 1
    assert all(progress.seconds_left is not None and progress.seconds_left >= 0 for progress in seen)
    assert str(seen[-1]).startswith(f"training, epoch 3/3, loss {seen[-1].loss:.3f}, validation ")


def test_time_left_is_told_in_hours_where_it_takes_hours():
    assert str(Progress("training", 0.1, 3 * 3600 + 62)) == "training, 10%, 3 h 1 min left"
