"""Train GAP classifier: from labelled images to a network whose maps are exact, from the App."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fiftyone as fo
from fiftyone.operators import types

from fiftyone_cam.core.errors import CamError, TrainingError
from fiftyone_cam.core.names import LITE, SMALL
from fiftyone_cam.core.tables import escape_markdown
from fiftyone_cam.plugin import forms, installed, source_forms, work
from fiftyone_cam.plugin.operators.base import CamOperator
from fiftyone_cam.runs import catalog, training_run
from fiftyone_cam.runs.training_run import TrainingRun
from fiftyone_cam.training.recipe import Recipe
from fiftyone_cam.training.record import check_key, key_of, read_checkpoint_json

AT_RANDOM = "at random"
"""How the form calls a split by a fraction. No field can have this name."""


class TrainGapClassifier(CamOperator[TrainingRun]):
    """A classifier learned from a label field."""

    operator = "train_gap_classifier"
    title = "Train GAP classifier"
    description = "Learn a label field, with a network whose class activation maps are exact"
    submit = "Train"
    icon = "train"
    preparing = "Reading the labels"
    delegated_first = True
    also = (
        *("advanced", "pretrained", "freeze", "fraction", "overwrite", "key", "media_field", "device", "size"),
        *("batch_size", "learning_rate", "snapshots", "patience", "seed"),
    )

    def function(self) -> Callable[..., Any]:
        from fiftyone_cam.training.train_classifier import train_classifier

        return train_classifier

    def problem(self, ctx: Any) -> str | None:
        if forms.label_fields(ctx.dataset):
            return None
        return "This dataset has no Classification field to learn from: label some images first"

    def draw(self, inputs: types.Object, ctx: Any) -> None:
        params, labels = ctx.params, forms.label_fields(ctx.dataset)
        prop = inputs.str(
            "ground_truth",
            label="Ground truth",
            description="What is learned. Samples without a label are left out",
            default=forms.last_truth(ctx.dataset) or labels[0],
            required=True,
            view=forms.choices(dict.fromkeys(labels, "")),
        )
        chosen = params.get("ground_truth")
        if chosen and chosen not in labels:
            forms.mark_invalid(prop, f"{chosen} is no Classification field: expected {', '.join(labels)}")
        _network(inputs, params)
        _split(inputs, ctx.dataset, params)
        inputs.int("epochs", label="Epochs", description="How often each sample is seen", min=1, default=5)
        _folder(inputs, ctx.dataset, params)
        inputs.view_target(ctx, action_description="Train on", require_flat=True)
        inputs.bool(
            "advanced",
            label="More settings",
            description="Device, size, batches, learning rate, snapshots, seed",
            default=False,
            view=types.SwitchView(),
        )
        if params.get("advanced"):
            forms.media_field(inputs, ctx.dataset)
            _advanced(inputs, ctx)
        forms.notice(
            inputs,
            "waiting",
            "A stopped training goes on from its last whole epoch: start it again with the same settings. To schedule "
            "it, set FIFTYONE_ALLOW_LEGACY_ORCHESTRATORS=true where the App is started, and run fiftyone delegated "
            "launch in a terminal",
        )

    def arguments(self, ctx: Any) -> dict[str, Any]:
        return training_arguments(ctx.params)

    def to_record(self, arguments: dict[str, Any]) -> dict[str, Any]:
        recipe = arguments.get("recipe", Recipe())
        return {**arguments, "recipe": recipe if isinstance(recipe, Mapping) else asdict(recipe)}

    def given(self, ctx: Any) -> dict[str, Any]:
        found = super().given(ctx)
        recipe = found.get("recipe", Recipe())
        return {**found, "recipe": Recipe(**recipe) if isinstance(recipe, Mapping) else recipe}

    def run(self, ctx: Any, report: work.Report | None) -> TrainingRun:
        arguments = self.given(ctx)
        folder = arguments["out_dir"] = Path(arguments["out_dir"]).expanduser().absolute()
        self.function()(work.target(ctx), **arguments, progress=report)
        return catalog.load_training(ctx.dataset, arguments.get("key") or key_of(folder))

    def new_fields(self, ctx: Any, result: TrainingRun) -> list[str]:
        return [result.field(training_run.PREDICTION)]

    def finished(self, ctx: Any, result: TrainingRun) -> Any:
        params = {
            "source": "checkpoint",
            "checkpoint": str(result.checkpoint),
            "ground_truth": self.given(ctx)["ground_truth"],
            "key": forms.free_key(ctx.dataset, f"{result.key}_cam"),
        }
        offer = work.form_button("Compute class activation maps with it", "compute_cam", params)
        return work.summary(ctx, "GAP classifier", words(result), offer=(offer, None))

    def answer(self, ctx: Any, result: TrainingRun) -> dict[str, Any]:
        return {
            "key": result.key,
            "checkpoint": str(result.checkpoint),
            "classes": list(result.classes),
            "counts": asdict(result.counts),
            "epoch": result.record.epoch,
            "metrics": asdict(result.metrics) if result.metrics else None,
            "fields": list(result.fields),
            "evaluation": result.evaluation,
        }


def _network(inputs: types.Object, params: Mapping[str, Any]) -> None:
    """Architecture, and what it begins with."""
    names = (*installed.lite_names(), "small_gap_net", *installed.torchvision_names())
    prop = inputs.str(
        "arch",
        label="Architecture",
        description="Any that ends in global average pooling and a linear layer; small_gap_net for images of about "
        "32x32 pixels",
        default=names[0] if installed.lite_names() else "resnet18",
        required=True,
        view=forms.completion(names),
    )
    arch = params.get("arch") or names[0]
    if arch in (*LITE, *SMALL):
        forms.mark_invalid(prop, source_forms.SOURCES["lite"].problem(arch) if arch in LITE else None)
    else:
        forms.mark_invalid(prop, source_forms.SOURCES["torchvision"].problem(arch))
    if arch in SMALL:
        return
    inputs.bool(
        "pretrained",
        label="Begin with ImageNet weights",
        description="Inside a Python package: nothing is downloaded"
        if arch in LITE
        else "Downloaded once. Otherwise random weights, which need many images and epochs",
        default=True,
        view=types.CheckboxView(),
    )
    if params.get("pretrained", True):
        inputs.bool(
            "freeze",
            label="Train the last layer alone",
            description="Minutes instead of hours without a GPU: what comes before it is computed once",
            default=not installed.has_gpu(),
            view=types.CheckboxView(),
        )


def _split(inputs: types.Object, dataset: fo.Dataset, params: Mapping[str, Any]) -> None:
    """What validates."""
    written = forms.fields_of_runs(dataset)
    known = {AT_RANDOM: "A part of each class", "tags": "Tags: train, and validation, val or test"}
    for path in dataset.get_field_schema(ftype=fo.StringField):
        if path != "filepath" and path not in written:
            known[path] = "Its values: train, and validation, val or test"
    inputs.enum("split", list(known), label="Validation", default=AT_RANDOM, required=True, view=forms.choices(known))
    if params.get("split", AT_RANDOM) == AT_RANDOM:
        inputs.float(
            "fraction", label="Part that validates", description="Not learned from: it tells which epoch is best",
            default=0.2, min=0.01, max=0.99,
        )  # fmt: skip


def _folder(inputs: types.Object, dataset: fo.Dataset, params: Mapping[str, Any]) -> None:
    """Where the checkpoint goes, and under which key the training is recorded."""
    default = forms.free_folder("trainings", dataset, "classifier")
    out = inputs.str(
        "out_dir",
        label="Output directory",
        description="For the checkpoint, on the machine that trains: new, empty, or of this training",
        default=str(default),
        required=True,
    )
    folder = Path(params.get("out_dir") or default).expanduser().absolute()
    try:
        found = read_checkpoint_json(folder)
    except CamError as error:
        forms.mark_invalid(out, str(error))
        return
    if found is not None:
        state = "a finished training" if found["complete"] else f"a training, with epoch {found['epoch']}"
        inputs.bool(
            "overwrite",
            label="Replace the training that is there",
            description=f"The folder holds {state} of {found['arch']}. Otherwise the same settings go on with it, "
            "and others are refused",
            default=False,
            view=types.CheckboxView(),
        )
    named = inputs.str(
        "key",
        label="Key",
        description=f"The training's name, and the beginning of its fields' names. Empty: {key_of(folder)}",
    )
    key = params.get("key") or key_of(folder)
    try:
        check_key(dataset, key)
    except CamError as error:
        forms.mark_invalid(named, str(error))
        return
    if key in catalog.list_trainings(dataset):
        before = catalog.load_training(dataset, key).checkpoint
        forms.mark_invalid(named, None if before == folder else f"{key} is the training in {before}: use another key")


def _advanced(inputs: types.Object, ctx: Any) -> None:
    forms.device(inputs, ctx)
    inputs.int("size", label="Input size", description="Pixels of a side. Empty: what the network was made for", min=8)
    inputs.int("batch_size", label="Batch size", description="Images in a step", min=1, default=32)
    inputs.float(
        "learning_rate",
        label="Learning rate",
        description="The highest. Empty: 0.001 from random weights, 0.0003 from given ones, 0.01 for the last layer",
        min=1e-7,
    )
    prop = inputs.str(
        "snapshots",
        label="Snapshots",
        description="Epochs to keep a checkpoint of, to compare them: 5, 50. Then there is no early stop",
    )
    try:
        taken = snapshots(ctx.params.get("snapshots"))
        late = [epoch for epoch in taken if not 1 <= epoch <= (ctx.params.get("epochs") or 5)]
        forms.mark_invalid(prop, f"there is no epoch {late[0]}" if late else None)
    except CamError as error:
        forms.mark_invalid(prop, str(error))
    inputs.int(
        "patience",
        label="Patience",
        description="Stop after so many epochs without a better validation",
        min=1,
        default=10,
    )
    inputs.int("seed", label="Seed", description="Of the split, the first weights and the order", min=0, default=0)


def snapshots(typed: Any) -> list[int]:
    """What was typed as epochs.

    Raises:
        TrainingError: it is no list of numbers.

    >>> snapshots("5, 50")
    [5, 50]
    """
    if not isinstance(typed, str):
        return list(typed or ())
    try:
        return [int(part) for part in typed.replace(",", " ").split()]
    except ValueError as error:
        raise TrainingError(f"expected numbers of epochs such as 5, 50: {error}") from error


def training_arguments(params: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``train_classifier``, from a form's parameters. What was left empty is left out.

    >>> training_arguments({"arch": "resnet18", "epochs": 3, "split": "tags"})["recipe"].epochs
    3
    """
    split = params.get("split") or AT_RANDOM
    pretrained = params.get("pretrained", True)
    frozen = pretrained and params.get("freeze") and params.get("arch") not in SMALL
    names = ("ground_truth", "out_dir", "arch", "key", "device", "size", "overwrite", "media_field")
    found = {
        "split": params.get("fraction") if split == AT_RANDOM else split,
        "snapshots": snapshots(params.get("snapshots")),
        **{name: params.get(name) for name in names},
    }
    recipe = {name: params.get(name) for name in ("epochs", "batch_size", "learning_rate", "patience", "seed")}
    if frozen:
        recipe["freeze"] = "backbone"
    # what was left empty is left to the SDK
    given = {name: value for name, value in found.items() if value not in (None, "", [])}
    given["recipe"] = Recipe(**{name: value for name, value in recipe.items() if value is not None})
    return given if pretrained else {**given, "weights": None}


def words(run: training_run.TrainingRun) -> str:
    """A training in Markdown."""
    field, evaluation = escape_markdown(run.field(training_run.PREDICTION)), escape_markdown(run.evaluation)
    hint = f"Predictions of the validation samples: **{field}**. In the Model Evaluation panel: **{evaluation}**."
    return f"{run.describe().markdown()}\n\n{hint}"
