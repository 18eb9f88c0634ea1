"""Mend this: a concept taken out of the head, or the last layer trained anew; first what that would change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fiftyone as fo
from fiftyone.operators import types

from fiftyone_cam.core.errors import CamError
from fiftyone_cam.core.names import HEATMAP, PREDICTION
from fiftyone_cam.core.tables import escape_markdown
from fiftyone_cam.plugin import compute_form, concept_form, forms, model_sources, work
from fiftyone_cam.plugin.operators.audit_attention import draw_object_labels, object_labels
from fiftyone_cam.plugin.operators.base import CamOperator
from fiftyone_cam.plugin.operators.compare_cam_runs import summary
from fiftyone_cam.plugin.queries import place_fields
from fiftyone_cam.runs import catalog
from fiftyone_cam.runs.cam_run import CamRun

if TYPE_CHECKING:
    from fiftyone_cam.analysis.compare_report import Comparison
    from fiftyone_cam.repair.mend import Mended

HOW = {
    "edit": ("Take concepts out of the last layer", "Nothing is trained: it takes seconds"),
    "retrain": ("Train the last layer anew", "Groups of samples count the same: it takes minutes"),
}

PICTURES = {"fixed": 3, "broken": 2}
"""Samples that the end shows with the maps of both runs."""


class Mend(CamOperator["Mended"]):
    """From what was found to a better classifier."""

    operator = "mend"
    title = "Mend this…"
    description = "A classifier without a concept, or with its last layer trained anew; first what that would change"
    submit = "Mend"
    icon = "concepts"
    preparing = "Loading the classifier"
    beside = True
    also = (
        *("classifier", "remove", "directions", "strength", "ground_truth", "groups", "objects", "object_labels"),
        *("off_object", "device", "into", "out_dir"),
    )

    def function(self) -> Callable[..., Mended]:
        from fiftyone_cam.repair.mend import mend

        return mend

    def draw(self, inputs: types.Object, ctx: Any) -> None:
        work.import_ahead()
        run = forms.existing_run(inputs, ctx.dataset, ctx.params, forms.count_maps)
        if run is None:
            return
        model_sources.draw_classifier_of(inputs, run, ctx.params)
        how = _how(run, ctx.params)
        view = types.DropdownView()
        for value, (label, description) in HOW.items():
            view.add_choice(value, label=label, description=description)
        inputs.enum("how", list(HOW), label="How", default=_how(run, {}), required=True, view=view)
        if how == "edit":
            _concepts(inputs, ctx.params, run)
        else:
            _groups(inputs, ctx, run)
        preview = inputs.bool(
            "preview",
            label="Only a preview",
            description="What would be put right and what lost, by class and group, on samples that had no part in it. "
            "Nothing is written; the end offers the rest",
            default=work.has_app(ctx),
            view=types.SwitchView(),
        )
        if not ctx.params.get("preview", preview.default):
            _results(inputs, ctx, run)
        inputs.view_target(ctx, action_description="Mend with", require_flat=True)
        if how == "retrain":
            forms.device(inputs, ctx)

    def arguments(self, ctx: Any) -> dict[str, Any]:
        params = ctx.params
        run = catalog.load_run(ctx.dataset, params["key"])
        found: dict[str, Any] = {"key": run.key, **model_sources.arguments_for(run, params)}
        if _how(run, params) == "edit":
            found["remove"] = params.get("remove") or []
            # of callers who know them; the form leaves them to the choice
            found |= {name: params[name] for name in ("directions", "strength") if params.get(name) is not None}
        else:
            given = ("ground_truth", "groups", "objects", "off_object", "device")
            found |= {name: params[name] for name in given if params.get(name)}
            found |= {"object_labels": labels} if (labels := object_labels(params.get("object_labels"))) else {}
        if not params.get("preview"):
            into = params.get("into") or _key(ctx.dataset, run)
            found |= {"into": into, "out_dir": params.get("out_dir") or str(_folder(ctx.dataset, into))}
        return found

    def run(self, ctx: Any, report: work.Report | None) -> Mended:
        arguments = self.given(ctx)
        classifier = model_sources.pop_classifier(arguments, ctx.secret)
        if arguments.get("out_dir"):
            arguments["out_dir"] = Path(arguments["out_dir"]).expanduser().absolute()
        return self.function()(work.target(ctx), classifier=classifier, **arguments, progress=report)

    def new_fields(self, ctx: Any, result: Mended) -> list[str]:
        if result.run is None or result.comparison is None:
            return []
        return [result.run.field(f"vs_{result.comparison.before}_change")]

    def refresh(self, ctx: Any, result: Mended) -> Iterator[Any]:
        return iter(()) if result.run is None else super().refresh(ctx, result)

    def finished(self, ctx: Any, result: Mended) -> Any:
        words = "Nobody knows a true class, so nothing can be counted."
        if result.preview is not None:
            said = result.preview.describe()
            words = f"**{escape_markdown(said.title, 1000)}**\n\n{said.markdown()}"
        if result.run is None or result.comparison is None:
            asked = {**self.filled(ctx), "preview": False}
            offer = work.form_button("Save it, and compute its maps", self.operator, asked)
            return work.summary(ctx, "What would change", words, offer=(offer, None))
        key = escape_markdown(result.run.key)
        words += (
            f"\n\nSaved in **{escape_markdown(str(result.folder))}**; its maps are run **{key}**, shown instead of the "
            f"old ones, which are a tick away.\n\n**{escape_markdown(result.comparison.describe().title, 1000)}**\n\n"
            f"{summary(result.comparison)}"
        )
        return work.summary(ctx, "Mended", words, **_pictures(ctx.dataset, result.comparison))

    def answer(self, ctx: Any, result: Mended) -> dict[str, Any]:
        preview = result.preview
        return {
            "summary": None if preview is None else preview.describe().title,
            "overall": None if preview is None else asdict(preview.overall),
            "groups": [] if preview is None else [asdict(group) for group in preview.groups],
            "classes": [] if preview is None else [asdict(row) for row in preview.classes],
            "worse": [] if preview is None else [group.name for group in preview.worse],
            "folder": None if result.folder is None else str(result.folder),
            "key": None if result.run is None else result.run.key,
            "fields": [] if result.run is None else list(result.run.fields),
            "accuracy": None if result.run is None else result.run.record.accuracy,
        }


def _how(run: CamRun, params: Mapping[str, Any]) -> str:
    """How it is mended: without training, where there is a concept to take out."""
    chosen = params.get("how")
    if chosen in HOW:
        return str(chosen)
    found = run.record.concepts
    return "edit" if found is not None and found.complete and found.removable and found.ground_truth else "retrain"


def _concepts(inputs: types.Object, params: Mapping[str, Any], run: CamRun) -> None:
    """The concepts that are taken out."""
    remove = params.get("remove")
    prop = concept_form.ask_for_names(inputs, run, "remove", "The concepts that the head shall not hear", remove)
    found = run.record.concepts
    reason = None
    if found is None or not found.complete:
        reason = f"there are no concepts of run {run.key} yet: find concepts first, or train the last layer anew"
    elif not found.removable:
        reason = f"the head is {found.grade}: only one of the grade 'exact' can be edited; train the last layer anew"
    elif not found.ground_truth:
        reason = "the concepts were found without a ground truth, so nobody knows what to repair: find them with one"
    elif remove == []:
        reason = f"no concept is chosen: expected such as {found.concepts[0].name!r}"
    forms.mark_invalid(prop, reason)


def _groups(inputs: types.Object, ctx: Any, run: CamRun) -> None:
    """What the last layer is balanced over, and where the object is."""
    params, dataset = ctx.params, ctx.dataset
    if run.ground_truth is None:
        truths = forms.label_fields(dataset)
        prop = inputs.str(
            "ground_truth",
            label="Ground truth",
            description="A field with the true class: it is what is trained on",
            default=forms.last_truth(dataset) or next(iter(truths), None),
            view=forms.choices(dict.fromkeys(truths, "")),
        )
        forms.mark_invalid(prop, None if truths else "there is no Classification field to train on: label some images")
    verdict = run.field("verdict")
    known = {verdict: "Right or wrong, on the object or off it"} if verdict in run.fields else {}
    known |= {concept.name: "With the concept and without it" for concept in concept_form.concepts_of(run)}
    known |= dict.fromkeys(dataset.limit(_LOOKED_AT).distinct("tags"), "With the tag and without it")
    ours = forms.fields_of_runs(dataset)
    strings = (path for path in dataset.get_field_schema(ftype=fo.StringField) if path not in (*ours, "filepath"))
    known |= dict.fromkeys(strings, "Its values")
    inputs.list(
        "groups",
        types.String(),
        label="Groups",
        description="Each group of each class counts the same, however few samples it has. Empty: what is wrong counts "
        "most",
        default=next(([name] for name in known if name == verdict), None),
        view=forms.choices(known, multiple=True),
    )
    places = [path for path in place_fields(dataset) if path not in ours]
    if not places:
        return
    inputs.list(
        "objects",
        types.String(),
        label="Objects",
        description="Fields that say where the object is, of some samples at least",
        view=forms.choices(dict.fromkeys(places, ""), multiple=True),
    )
    draw_object_labels(inputs, ctx)
    prop = inputs.float(
        "off_object",
        label="Cost of evidence off the object",
        description="1: at the start as much as all errors of classification",
        default=0,
        min=0,
    )
    if params.get("off_object") and not params.get("objects"):
        forms.mark_invalid(prop, "nothing says where the object is: choose Objects, or let it cost 0")


_LOOKED_AT = 1000
"""Samples whose tags a form offers: this is asked at every keystroke."""


def _results(inputs: types.Object, ctx: Any, run: CamRun) -> None:
    """The key of the new maps, and the folder of the mended classifier."""
    default = _key(ctx.dataset, run)
    into = ctx.params.get("into") or default
    prop = inputs.str(
        "into",
        label="Run key",
        description=f"Its maps are written as {into}_{PREDICTION}, {into}_{HEATMAP}, …",
        default=default,
        required=True,
    )
    reason = compute_form.key_problem(ctx.dataset, into, {"ground_truth": run.ground_truth})
    taken = f"there is a run {into} already: use another key" if into in catalog.list_runs(ctx.dataset) else None
    forms.mark_invalid(prop, taken or reason)
    folder = ctx.params.get("out_dir") or str(_folder(ctx.dataset, default))
    out = inputs.str(
        "out_dir",
        label="Output directory",
        description="For the mended classifier, on the machine that computes: new or empty",
        default=str(_folder(ctx.dataset, default)),
        required=True,
    )
    path = Path(folder).expanduser()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        forms.mark_invalid(out, f"{folder} holds something already: give a folder that is new or empty")


def _key(dataset: fo.Dataset, run: CamRun) -> str:
    return forms.free_key(dataset, f"{run.key}_mended")


def _folder(dataset: fo.Dataset, name: str) -> Path:
    return forms.free_folder("mended", dataset, name)


def _pictures(dataset: fo.Dataset, found: Comparison) -> dict[str, tuple[types.View, Any]]:
    """Some samples that changed, with the maps of both runs."""
    from fiftyone_cam.plugin.map_pictures import beside

    runs = catalog.load_run(dataset, found.before), found.run
    shown: dict[str, tuple[types.View, Any]] = {}
    for change, most in PICTURES.items():
        view = dataset.load_saved_view(f"{found.run.key} vs {found.before} {change}")
        for number, sample in enumerate(view.limit(most)):
            heats = [sample[run.field(HEATMAP)] for run in runs]
            try:
                drawn = beside(runs, heats, sample[runs[0].record.settings.media_field])
            except CamError:  # a file that is gone costs its own picture
                continue
            words = f"{change}: {heats[0].label} before, {heats[1].label} after"
            shown[f"{change}_{number}_words"] = types.MarkdownView(), f"**{escape_markdown(words)}**"
            shown[f"{change}_{number}"] = types.ImageView(alt=words), drawn
    return shown
