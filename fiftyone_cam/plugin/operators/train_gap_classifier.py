"""Train GAP classifier: from labelled images to a network whose maps are exact, from the App."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fiftyone as fo
import fiftyone.operators as foo
from fiftyone.operators import types

from fiftyone_cam.core.errors import CamError, TrainingError
from fiftyone_cam.core.tables import escape_markdown
from fiftyone_cam.dataset import app_config
from fiftyone_cam.plugin import forms, model_sources, work
from fiftyone_cam.runs import catalog, training_run
from fiftyone_cam.training.recipe import Recipe
from fiftyone_cam.training.record import check_key, key_of, read_checkpoint_json

if TYPE_CHECKING:
    from fiftyone_cam.classifiers.classifier import Classifier

AT_RANDOM = "at random"
"""How the form calls a split by a fraction. No field can have this name."""


class TrainGapClassifier(foo.Operator):
    """A classifier learned from a label field."""

    @property
    def config(self) -> foo.OperatorConfig:
        return foo.OperatorConfig(
            name="train_gap_classifier",
            label="Train GAP classifier",
            description="Learn a label field, with a network whose class activation maps are exact",
            dynamic=True,
            execute_as_generator=True,
            allow_delegated_execution=True,
            default_choice_to_delegated=True,
            risk_level="medium",
            **forms.icon("train"),
        )

    def __call__(
        self,
        samples: fo.Dataset | fo.DatasetView,
        ground_truth: str,
        out_dir: str,
        *,
        delegate: bool = False,
        **kwargs: Any,
    ) -> Classifier | Any:
        """The same from Python: see ``fiftyone_cam.train_classifier``.

        Args:
            samples: a dataset or view of images.
            ground_truth: what is learned.
            out_dir: the folder of the checkpoint.
            delegate: queue it for ``fiftyone delegated launch`` instead of doing it now.
            kwargs: further arguments of ``train_classifier``.

        Returns:
            the classifier, or FiftyOne's record of the delegated operation.

        >>> foo.get_operator("fiftyone_cam/train_gap_classifier")(dataset, "ground_truth", "runs/pets", arch="resnet18")
        """
        if delegate:
            plain = {**kwargs, "recipe": asdict(kwargs.get("recipe", Recipe()))}
            params = {"ground_truth": ground_truth, "out_dir": out_dir, "settings": plain}
            return foo.execute_operator(self.uri, {"view": samples.view()}, params=params, request_delegation=True)

        from fiftyone_cam.training.train_classifier import train_classifier

        return train_classifier(samples, ground_truth, out_dir, **kwargs)

    def resolve_input(self, ctx: Any) -> types.Property:
        inputs = types.Object()
        view = types.PromptView(label="Train GAP classifier", submit_button_label="Train")
        problem = forms.dataset_problem(ctx.dataset)
        labels = [] if problem else forms.label_fields(ctx.dataset)
        if not problem and not labels:
            problem = "This dataset has no Classification field to learn from: label some images first"
        if problem:
            forms.refuse(inputs.view("problem", types.Error(label=problem)), problem)
            return types.Property(inputs, view=view)

        params = ctx.params
        if "settings" in params:  # by the caller, as Python does
            inputs.str("ground_truth", label="Ground truth", default=params.get("ground_truth"), required=True)
            inputs.str("out_dir", label="Output directory", default=params.get("out_dir"), required=True)
            return types.Property(inputs, view=view)
        prop = inputs.str(
            "ground_truth",
            label="Ground truth",
            description="What is learned. Samples without a label are left out",
            default=labels[0] if len(labels) == 1 else None,
            required=True,
            view=forms.choices(dict.fromkeys(labels, "")),
        )
        asked = params.get("ground_truth")
        if asked and asked not in labels:
            forms.refuse(prop, f"{asked} is no Classification field: expected {', '.join(labels)}")
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
            _advanced(inputs, ctx)
        forms.notice(
            inputs,
            "waiting",
            "Stopped, it goes on from the last whole epoch if started again with the same settings. To schedule "
            "it, set FIFTYONE_ALLOW_LEGACY_ORCHESTRATORS=true where the App is started, and run fiftyone delegated "
            "launch in a terminal",
        )
        return types.Property(inputs, view=view)

    def execute(self, ctx: Any) -> Iterator[Any]:
        params = ctx.params
        folder = Path(params["out_dir"]).expanduser().absolute()
        key = params.get("key") or (params.get("settings") or {}).get("key") or key_of(folder)

        def train(report: work.Report) -> Classifier:
            from fiftyone_cam.training.train_classifier import train_classifier

            samples = ctx.target_view(require_flat=True)
            return train_classifier(samples, params["ground_truth"], folder, progress=report, **asked(params))

        yield from work.run(ctx, train, "Reading the labels")
        run = catalog.load_training(ctx.dataset, key)
        if not ctx.delegated:
            ctx.dataset.reload()
            yield ctx.ops.reload_dataset()
            yield ctx.ops.reload_samples()
            shown = [*(ctx.active_fields or app_config.visible(ctx.dataset)), run.field(training_run.PREDICTION)]
            yield ctx.ops.set_active_fields(list(dict.fromkeys(shown)))
        offer = types.Button(
            label="Compute class activation maps with it",
            operator="fiftyone_cam/compute_cam",
            params={
                "source": "checkpoint",
                "checkpoint": str(folder),
                "ground_truth": params["ground_truth"],
                "key": forms.free_key(ctx.dataset, f"{key}_cam"),
            },
            prompt=True,
            variant="contained",
        )
        yield work.summary(ctx, "GAP classifier", words(run), offer=(offer, None))


def _network(inputs: types.Object, params: Mapping[str, Any]) -> None:
    """Architecture, and what it begins with."""
    names = (*model_sources.lite_names(), "small_gap_net", *model_sources.torchvision_names())
    prop = inputs.str(
        "arch",
        label="Architecture",
        description="Any that ends in global average pooling and a linear layer; small_gap_net for images of about "
        "32x32 pixels",
        default=names[0] if model_sources.lite_names() else "resnet18",
        required=True,
        view=forms.completion(names),
    )
    arch = params.get("arch") or names[0]
    if arch in (*model_sources.LITE, *model_sources.SMALL):
        forms.refuse(prop, model_sources.problem("lite", arch) if arch in model_sources.LITE else None)
    else:
        forms.refuse(prop, model_sources.problem("torchvision", arch))
    if arch in model_sources.SMALL:
        return
    inputs.bool(
        "pretrained",
        label="Begin with ImageNet weights",
        description="Inside a Python package: nothing is downloaded"
        if arch in model_sources.LITE
        else "Downloaded once. Otherwise random weights, which need many images and epochs",
        default=True,
        view=types.CheckboxView(),
    )
    if params.get("pretrained", True):
        inputs.bool(
            "freeze",
            label="Train the last layer alone",
            description="Minutes instead of hours without a GPU: what comes before it is computed once",
            default=False,
            view=types.CheckboxView(),
        )


def _split(inputs: types.Object, dataset: fo.Dataset, params: Mapping[str, Any]) -> None:
    """What validates."""
    written = forms.written(dataset)
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
        forms.refuse(out, str(error))
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
        forms.refuse(named, str(error))
        return
    if key in catalog.list_trainings(dataset):
        before = catalog.load_training(dataset, key).checkpoint
        forms.refuse(named, None if before == folder else f"{key} is the training in {before}: use another key")


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
        forms.refuse(prop, f"there is no epoch {late[0]}" if late else None)
    except CamError as error:
        forms.refuse(prop, str(error))
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


def asked(params: Mapping[str, Any]) -> dict[str, Any]:
    """What ``train_classifier`` is given, from a form's parameters, or from ``settings`` as Python passes them.

    >>> asked({"arch": "resnet18", "epochs": 3, "split": "tags"})["recipe"].epochs
    3
    """
    if "settings" in params:
        settings = params["settings"]
        return {**settings, "recipe": Recipe(**settings.get("recipe", {}))}
    split = params.get("split") or AT_RANDOM
    pretrained = params.get("pretrained", True)
    found = {
        "arch": params.get("arch"),
        "split": params.get("fraction") if split == AT_RANDOM else split,
        "snapshots": snapshots(params.get("snapshots")),
        **{name: params.get(name) for name in ("key", "device", "size", "overwrite")},
    }
    recipe = {name: params.get(name) for name in ("epochs", "batch_size", "learning_rate", "patience", "seed")}
    if pretrained and params.get("freeze") and params.get("arch") not in model_sources.SMALL:
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
