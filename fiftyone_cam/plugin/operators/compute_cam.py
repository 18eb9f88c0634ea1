"""Compute class activation maps: the main job, from the App."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from fiftyone.operators import types

from fiftyone_cam.core.errors import CamError
from fiftyone_cam.dataset import internals
from fiftyone_cam.engines.settings import Engine, Local, Ray, as_engine
from fiftyone_cam.plugin import compute_form, forms, model_sources, parameters, work
from fiftyone_cam.plugin.operators.base import CamOperator, show_written
from fiftyone_cam.plugin.operators.restore_colors import recolor
from fiftyone_cam.plugin.source_forms import SOURCES
from fiftyone_cam.plugin.translation_form import parse

if TYPE_CHECKING:
    from fiftyone_cam.runs.cam_run import CamRun

COLORS = {
    "": "From magenta to yellow, even to the eye",
    "jet": "As in the posts on class activation maps; bright edges mean nothing",
}


LOADING = ("classes", "arch", "input_size", "whole_picture")
"""What Python may give the operator of ``load_classifier``'s arguments, as the form does."""


class ComputeCam(CamOperator["CamRun"]):
    """A classifier over a view: predictions, and where it looked."""

    operator = "compute_cam"
    title = "Compute class activation maps"
    description = "Run a classifier over images and see where it looked"
    submit = "Compute"
    icon = "cam"
    preparing = "Loading the classifier"
    takes_frames = True
    also = (
        *(*parameters.CLASSIFIER, *parameters.ENGINE, "source", *SOURCES, "advanced", "key", "ground_truth"),
        *("class_map", "show_classes", "media_field", "top_k", "precision", "colors", "overwrite", "retry_failed"),
    )

    def function(self) -> Callable[..., CamRun]:
        """``compute_cam``, with those arguments of ``load_classifier`` that a form has."""
        from fiftyone_cam.classifiers.classifier import load_classifier
        from fiftyone_cam.compute.compute_cam import compute_cam

        def load_and_compute(samples: Any, classifier: Any, *args: Any, **kwargs: Any) -> CamRun:
            loading = {name: kwargs.pop(name) for name in LOADING if name in kwargs}
            return compute_cam(samples, load_classifier(classifier, **loading), *args, **kwargs)

        signature = inspect.signature(compute_cam)
        more = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in LOADING]
        known = signature.replace(parameters=[*signature.parameters.values(), *more])
        setattr(load_and_compute, "__signature__", known)  # noqa: B010, mypy knows no such attribute
        return load_and_compute

    def resolve_placement(self, ctx: Any) -> types.Placement:
        return forms.button(types.Places.SAMPLES_GRID_ACTIONS, self.title, self.icon)

    def draw(self, inputs: types.Object, ctx: Any) -> None:
        work.import_ahead()
        # in the App alone: who calls from elsewhere sees no form, and means the same with the same words tomorrow
        first = compute_form.proposal(ctx.dataset) if work.has_app(ctx) else {}
        params = {**first, **ctx.params}
        model_sources.draw_classifier(inputs, ctx.dataset, ctx.params, first)
        labelled = ctx.view if internals.is_frames(ctx.view) else ctx.dataset
        compute_form.ground_truth(inputs, labelled, params, first)
        compute_form.run_key(inputs, ctx.dataset, params, first)
        inputs.view_target(ctx, action_description="Explain", require_flat=True)
        inputs.bool(
            "advanced",
            label="More settings",
            description="Device, batch size, precision, colours, more than one class",
            default=bool(first.get("advanced")),
            view=types.SwitchView(),
        )
        if params.get("advanced"):
            self._advanced(inputs, ctx, first)

    def _advanced(self, inputs: types.Object, ctx: Any, first: Mapping[str, Any]) -> None:
        compute_form.picture(inputs, ctx.dataset, first)
        forms.device(inputs, ctx)
        compute_form.engine(inputs, ctx.params)
        inputs.int(
            "batch_size",
            label="Batch size",
            description="Images at a time; by default 32, on a GPU more. Halved where memory runs out",
            min=1,
        )
        inputs.enum(
            "precision",
            list(compute_form.PRECISIONS),
            label="Precision",
            default=first.get("precision") or "float32",
            view=forms.choices(compute_form.PRECISIONS),
        )
        inputs.int(
            "top_k", label="Classes per image", description="Maps of the strongest classes, one field for each rank",
            min=1, max=10, default=first.get("top_k") or 1,
        )  # fmt: skip
        inputs.str("colors", label="Colours", default="", view=_colors())
        inputs.bool(
            "retry_failed",
            label="Try again what failed before",
            default=False,
            view=types.CheckboxView(),
        )

    def arguments(self, ctx: Any) -> dict[str, Any]:
        params = ctx.params
        source, loading = model_sources.loader_arguments(params)
        return {
            "classifier": source,
            **loading,
            "key": params.get("key") or "cam",
            "ground_truth": params.get("ground_truth") or None,
            "media_field": params.get("media_field") or "filepath",
            "class_map": parse(params.get("class_map")),
            "top_k": params.get("top_k") or 1,
            "batch_size": params.get("batch_size") or None,
            "device": params.get("device") or None,
            "precision": params.get("precision") or "float32",
            "engine": engine_params(chosen_engine(params)),
            "overwrite": bool(params.get("overwrite")),
            "retry_failed": bool(params.get("retry_failed")),
        }

    def to_record(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return arguments | ({"engine": engine_params(arguments["engine"])} if "engine" in arguments else {})

    def run(self, ctx: Any, report: work.Report | None) -> CamRun:
        from fiftyone_cam.compute.compute_cam import compute_cam

        arguments = self.given(ctx)
        engine = arguments.get("engine") or {}
        arguments["engine"] = chosen_engine({"engine": engine} if isinstance(engine, str) else engine)
        source = arguments.pop("classifier")
        loading = {name: arguments.pop(name) for name in model_sources.LOADING if name in arguments}
        samples = work.target(ctx)
        run = compute_cam(samples, model_sources.load(source, loading, ctx.secret), **arguments, progress=report)
        run.update(loaded_from=[source, loading])
        if ctx.params.get("colors"):
            run.arrange(colors=ctx.params["colors"])
        return run

    def first(self, ctx: Any) -> Iterator[Any]:
        ctx.params[_SHOWN] = True
        yield from show_written(ctx)
        yield from recolor(ctx)

    def refresh(self, ctx: Any, result: CamRun) -> Iterator[Any]:
        # what a person has ticked since the first results came stays as it is, and so do colours that are drawn
        shown = ctx.params.get(_SHOWN)
        yield from show_written(ctx, fields=not shown)
        if not shown or ctx.params.get("colors"):
            yield from recolor(ctx)

    def finished(self, ctx: Any, result: CamRun) -> Any:
        return work.summary(ctx, "Class activation maps", result.describe().markdown())

    def answer(self, ctx: Any, result: CamRun) -> dict[str, Any]:
        return {
            "key": result.key,
            "fields": list(result.fields),
            "counts": asdict(result.counts),
            "failures": dict(result.failures),
            "accuracy": result.record.accuracy,
            "certificate": result.certificate if result.counts.computed else None,
        }


_SHOWN = "shown"
"""Set among the parameters when the first results were shown."""


def engine_params(engine: str | Engine) -> dict[str, Any]:
    """An engine as parameters of the operator: plain data, which a database can keep.

    Raises:
        CamError: it names a cluster's address, which only the process that computes may choose.

    >>> engine_params(Ray(num_actors=2))
    {'engine': 'ray', 'num_actors': 2, 'gpus_per_actor': 1, 'cpus_per_actor': None}
    """
    settings = asdict(as_engine(engine))
    if settings.pop("address", None):
        raise CamError("a delegated run does not take an address: set RAY_ADDRESS where it is launched")
    return {"engine": "ray" if isinstance(as_engine(engine), Ray) else "local", **settings}


def chosen_engine(params: Mapping[str, Any]) -> Engine:
    """The engine that an operator's parameters ask for.

    >>> chosen_engine({"engine": "ray", "num_actors": 2})
    Ray(num_actors=2, gpus_per_actor=1, cpus_per_actor=None, address=None)
    """
    kind = Ray if params.get("engine") == "ray" else Local
    names = [field.name for field in fields(kind) if field.name != "address"]  # no browser may choose a cluster
    return kind(**{name: params[name] for name in names if params.get(name) is not None})


def _colors() -> types.Choices:
    view = types.DropdownView()
    for value, description in COLORS.items():
        view.add_choice(value, label=value or "heat", description=description)
    return view
