"""Compute class activation maps: the main job, from the App."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from functools import partial
from typing import TYPE_CHECKING, Any

import fiftyone as fo
import fiftyone.operators as foo
from fiftyone.operators import types

from fiftyone_cam.core.errors import CamError
from fiftyone_cam.dataset import app_config
from fiftyone_cam.engines.settings import Engine, Local, Ray, as_engine
from fiftyone_cam.plugin import forms, model_sources, work
from fiftyone_cam.plugin.operators.restore_colors import recolor

if TYPE_CHECKING:
    from fiftyone_cam.runs.cam_run import CamRun

COLORS = {"": "Inferno, even to the eye", "jet": "As in the posts on class activation maps; bright edges mean nothing"}


class ComputeCam(foo.Operator):
    """A classifier over a view: predictions, and where it looked."""

    @property
    def config(self) -> foo.OperatorConfig:
        return foo.OperatorConfig(
            name="compute_cam",
            label="Compute class activation maps",
            description="Run a classifier over images and see where it looked",
            dynamic=True,
            execute_as_generator=True,
            allow_delegated_execution=True,
            risk_level="medium",
            **forms.icon("cam"),
        )

    def __call__(
        self,
        samples: fo.Dataset | fo.DatasetView,
        classifier: Any,
        key: str = "cam",
        *,
        delegate: bool = False,
        **kwargs: Any,
    ) -> CamRun | Any:
        """The same from Python.

        Args:
            samples: a dataset or view of images.
            classifier: anything that ``load_classifier`` takes; a name if it is delegated.
            key: the run's key.
            delegate: queue it for ``fiftyone delegated launch`` instead of doing it now.
            kwargs: further arguments of ``compute_cam``; also ``classes`` and ``arch``, of ``load_classifier``.

        Returns:
            the run, or FiftyOne's record of the delegated operation.

        >>> foo.get_operator("fiftyone_cam/compute_cam")(dataset, classifier="efficientnet_lite0", key="cam")
        """
        if delegate:
            params = {"classifier": classifier, "key": key, **kwargs, **engine_params(kwargs.get("engine", "local"))}
            return foo.execute_operator(self.uri, {"view": samples.view()}, params=params, request_delegation=True)

        from fiftyone_cam.classifiers.classifier import load_classifier
        from fiftyone_cam.compute.compute_cam import compute_cam

        loading = {name: kwargs.pop(name) for name in ("classes", "arch") if name in kwargs}
        return compute_cam(samples, load_classifier(classifier, **loading), key, **kwargs)

    def resolve_placement(self, ctx: Any) -> types.Placement:
        return forms.button(types.Places.SAMPLES_GRID_ACTIONS, "Compute class activation maps", "cam")

    def resolve_input(self, ctx: Any) -> types.Property:
        inputs = types.Object()
        view = types.PromptView(label="Compute class activation maps", submit_button_label="Compute")
        work.import_ahead()
        problem = forms.dataset_problem(ctx.dataset)
        if problem:
            forms.refuse(inputs.view("problem", types.Error(label=problem)), problem)
            return types.Property(inputs, view=view)

        forms.classifier(inputs, ctx.dataset, ctx.params)
        forms.ground_truth(inputs, ctx.dataset, ctx.params)
        forms.run_key(inputs, ctx.dataset, ctx.params)
        inputs.view_target(ctx, action_description="Explain", require_flat=True)
        inputs.bool(
            "advanced",
            label="More settings",
            description="Device, batch size, precision, colours, more than one class",
            default=False,
            view=types.SwitchView(),
        )
        if ctx.params.get("advanced"):
            self._advanced(inputs, ctx)
        return types.Property(inputs, view=view)

    def _advanced(self, inputs: types.Object, ctx: Any) -> None:
        forms.device(inputs, ctx)
        forms.engine(inputs, ctx.params)
        inputs.int(
            "batch_size",
            label="Batch size",
            description="Images at a time; by default 32, on a GPU more. Halved where memory runs out",
            min=1,
        )
        inputs.enum(
            "precision",
            list(forms.PRECISIONS),
            label="Precision",
            default="float32",
            view=forms.choices(forms.PRECISIONS),
        )
        inputs.int(
            "top_k", label="Classes per image", description="Maps of the strongest classes, one field for each rank",
            min=1, max=10, default=1,
        )  # fmt: skip
        inputs.str("colors", label="Colours", default="", view=_colors())
        inputs.bool(
            "retry_failed",
            label="Try again what failed before",
            default=False,
            view=types.CheckboxView(),
        )

    def execute(self, ctx: Any) -> Iterator[Any]:
        params = ctx.params
        key = params.get("key") or "cam"

        def compute(report: work.Report) -> CamRun:
            from fiftyone_cam.compute.compute_cam import compute_cam

            source, kwargs = model_sources.asked(params)
            samples = ctx.target_view(require_flat=True)

            run = compute_cam(
                samples,
                model_sources.load(source, kwargs, ctx.secret),
                key,
                ground_truth=params.get("ground_truth") or None,
                class_map=forms.class_map(params.get("class_map")),
                top_k=params.get("top_k") or 1,
                batch_size=params.get("batch_size") or None,
                device=params.get("device") or None,
                precision=params.get("precision") or "float32",
                engine=chosen_engine(params),
                overwrite=bool(params.get("overwrite")),
                retry_failed=bool(params.get("retry_failed")),
                progress=report,
            )
            run.update(loaded_from=[source, kwargs])
            if params.get("colors"):
                run.show(colors=params["colors"])
            return run

        grouped = _is_grouped(ctx.dataset)
        run = yield from work.run(ctx, compute, "Loading the classifier", first=partial(show, ctx))
        if not ctx.delegated:
            ctx.dataset.reload()
            yield from show(ctx)
        words = run.describe().markdown()
        if not grouped:  # the App keeps the sidebar's groups that it has for as long as the dataset stays open
            words += f"\n\nReload the page once, and the sidebar shows these fields as the group {app_config.GROUP}."
        yield work.summary(ctx, "Class activation maps", words)


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


def show(ctx: Any) -> Iterator[Any]:
    """Let the open App show what a run wrote to the dataset."""
    yield ctx.ops.reload_dataset()
    yield ctx.ops.reload_samples()
    yield ctx.ops.set_active_fields(app_config.visible(ctx.dataset))
    yield from recolor(ctx)


def _is_grouped(dataset: fo.Dataset) -> bool:
    return any(group.name == app_config.GROUP for group in dataset.app_config.sidebar_groups or [])


def _colors() -> types.Choices:
    view = types.DropdownView()
    for value, description in COLORS.items():
        view.add_choice(value, label=value or "inferno", description=description)
    return view
