"""Explain this sample: what would speak for a class of one's choice?"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import fiftyone as fo
import fiftyone.operators as foo
from fiftyone.operators import types

from fiftyone_cam.core.errors import SourceError
from fiftyone_cam.plugin import forms, model_sources, work
from fiftyone_cam.runs import catalog

if TYPE_CHECKING:
    from fiftyone_cam.runs.cam_run import CamRun

MOST = 1000
"""Class names that a form lists; further ones can be typed."""

SIDE = 560
"""Pixels of the picture's longer side."""


class ExplainSample(foo.Operator):
    """The map of any class, for the sample that is open."""

    @property
    def config(self) -> foo.OperatorConfig:
        return foo.OperatorConfig(
            name="explain_sample",
            label="Explain this sample",
            description="What in this image speaks for a class? Pick any class of the model",
            dynamic=True,
            execute_as_generator=True,
            risk_level="medium",
            view_target=False,
            **forms.icon("explain"),
        )

    def __call__(
        self,
        samples: fo.Dataset | fo.DatasetView,
        sample_id: str,
        classifier: Any,
        label: str | None = None,
        key: str = "cam",
    ) -> fo.Heatmap:
        """The same from Python: see ``fiftyone_cam.explain_sample``.

        >>> foo.get_operator("fiftyone_cam/explain_sample")(dataset, sample.id, "efficientnet_lite0", "tabby")
        """
        from fiftyone_cam.compute.explain_sample import explain_sample

        return explain_sample(samples, sample_id, classifier, label, key)

    def resolve_placement(self, ctx: Any) -> types.Placement:
        return forms.button(types.Places.SAMPLES_VIEWER_ACTIONS, "Explain this sample", "explain")

    def resolve_input(self, ctx: Any) -> types.Property:
        inputs = types.Object()
        view = types.PromptView(label="Explain this sample", submit_button_label="Explain")
        work.import_ahead()
        sample_id = _sample_id(ctx)
        problem = forms.dataset_problem(ctx.dataset) or (None if sample_id else "Open a sample, or select one")
        if problem or sample_id is None:
            forms.refuse(inputs.view("problem", types.Error(label=problem)), problem)
            return types.Property(inputs, view=view)

        run = forms.existing_run(inputs, ctx.dataset, ctx.params, lambda run: run.record.classifier.model)
        if run is None:
            return types.Property(inputs, view=view)
        prop = inputs.str(
            "label",
            label="Class",
            description="What in this image speaks for it?",
            default=_suggestion(ctx.dataset, sample_id, run),
            required=True,
            view=forms.completion(run.classes[:MOST]),
        )
        label = ctx.params.get("label")
        if label and label not in run.classes:
            forms.refuse(prop, f"{label} is none of the {len(run.classes):,} classes{_near(label, run.classes)}")
        if model_sources.of_record(run.record) is None:
            inputs.str(
                "classifier",
                label="Classifier",
                description=f"The record of run {run.key} does not say where {run.record.classifier.model} was "
                "loaded from: a name, a checkpoint folder, or a file",
                required=True,
            )
        return types.Property(inputs, view=view)

    def execute(self, ctx: Any) -> Iterator[Any]:
        run = catalog.load_run(ctx.dataset, ctx.params["key"])
        sample_id, label = _sample_id(ctx), ctx.params.get("label")
        if sample_id is None:
            raise SourceError("no sample is open, and none is selected: open one, or select one")

        def explain(report: work.Report) -> fo.Heatmap:
            from fiftyone_cam.compute.explain_sample import explain_sample

            named = ctx.params.get("classifier")
            source, kwargs = (
                (named, {"classes": run.classes}) if named else model_sources.of_record(run.record) or ("", {})
            )
            classifier = model_sources.load(source, kwargs, ctx.secret)
            if classifier.fingerprint != run.record.classifier.sha256:
                raise SourceError(
                    f"{source} has other weights than the classifier of run {run.key!r}: "
                    "expected the same, since their maps are compared"
                )
            return explain_sample(ctx.dataset, sample_id, classifier, label, run.key)

        known = ctx.dataset.has_field(run.field("explained"))
        heat = yield from work.run(ctx, explain, "Explaining; the first time, the classifier is loaded")
        if not known:
            yield ctx.ops.reload_dataset()
        yield ctx.ops.reload_samples()
        yield _answer(ctx, run, heat, ctx.dataset[sample_id].filepath)


def _answer(ctx: Any, run: CamRun, heat: fo.Heatmap, filepath: str) -> Any:
    """The picture with the map on it, and its numbers.

    The App asks for an open sample once and keeps what it got, so the map itself has to come in the prompt.
    """
    words = (
        f"**{forms.plain(heat.label)}** has the logit {heat.logit:,.2f}: {heat.logit - heat.bias:+,.2f} from the "
        f"image, {heat.bias:+,.2f} from the bias. The map is in the field {forms.plain(run.field('explained'))}; "
        "reload the page to see it on the sample."
    )
    outputs = types.Object()
    outputs.str("picture", view=types.ImageView(alt=f"What speaks for {heat.label}"))
    outputs.str("words", view=types.MarkdownView())
    schema = types.Property(outputs, view=types.View(label="What speaks for this class"))
    results = {"picture": picture(run, heat, filepath), "words": words}
    return ctx.ops.show_output(schema.to_json(), results)


def picture(run: CamRun, heat: fo.Heatmap, filepath: str) -> str:
    """The photo with a heatmap on it, as a data URL."""
    import cv2

    from fiftyone_cam.core.image import read_image
    from fiftyone_cam.core.limits import limits
    from fiftyone_cam.core.overlay import blend
    from fiftyone_cam.core.workers import Workers
    from fiftyone_cam.runs.heatmaps import signed_map

    with Workers(1, seconds=limits().seconds, name="cam-decode") as workers:
        whole = workers.result(workers.submit(read_image, filepath))
    height, width = whole.shape[:2]
    shrink = min(1.0, SIDE / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    photo = cv2.resize(whole, size, interpolation=cv2.INTER_AREA).astype(whole.dtype)
    evidence = signed_map(heat, photo.shape[:2])
    scale = run.record.scale or float(evidence.max())
    picture = blend(photo, evidence, heat["seen"], scale, "inferno", 0.6)
    jpeg = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()


def _sample_id(ctx: Any) -> str | None:
    """The sample that is open in the modal, or the only one that is selected."""
    if ctx.current_sample:
        return str(ctx.current_sample)
    return str(ctx.selected[0]) if len(ctx.selected) == 1 else None


def _suggestion(dataset: fo.Dataset, sample_id: str, run: CamRun) -> str | None:
    """The class to ask about first: the true one of a wrong prediction, otherwise the predicted one."""
    sample = dataset[sample_id]
    found = [sample.get_field(path) for path in (run.record.settings.ground_truth, run.field("prediction")) if path]
    labels = [label.label for label in found if label is not None and label.label in run.classes]
    return labels[0] if labels else None


def _near(label: str, classes: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(label, classes, n=3)
    return f": did you mean {' or '.join(near)}?" if near else ""
