"""Audit attention: was it right, and did it look in the right place?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fiftyone.operators import types

from fiftyone_cam.analysis.audit_report import THRESHOLD
from fiftyone_cam.core.errors import CamError
from fiftyone_cam.core.names import operator_uri
from fiftyone_cam.plugin import forms, work
from fiftyone_cam.plugin.operators.base import CamOperator
from fiftyone_cam.plugin.queries import place_fields
from fiftyone_cam.plugin.translation_form import parse, translation

if TYPE_CHECKING:
    from fiftyone_cam.analysis.audit_report import AuditReport


class AuditAttention(CamOperator["AuditReport"]):
    """Where the classifier looked, held against where the object is."""

    operator = "audit_attention"
    title = "Audit attention"
    description = "Was it right, and did it look in the right place? Verdicts, numbers and views"
    submit = "Audit"
    icon = "audit"
    also = ("objects", "show_classes")

    def function(self) -> Callable[..., AuditReport]:
        from fiftyone_cam import audit

        return audit

    def draw(self, inputs: types.Object, ctx: Any) -> None:
        run = forms.existing_run(inputs, ctx.dataset, ctx.params, forms.count_maps)
        if run is None:
            return
        truths, ours = forms.label_fields(ctx.dataset), forms.fields_of_runs(ctx.dataset)
        default = forms.truth_of(run) or forms.last_truth(ctx.dataset)
        inputs.str(
            "ground_truth",
            label="Ground truth",
            description="A field with the true class. Without one there are numbers, and no verdicts",
            default=default if default in truths else None,
            view=forms.choices(dict.fromkeys(truths, "")),
        )
        draw_objects(inputs, ctx, [path for path in place_fields(ctx.dataset) if path not in ours])
        truth = ctx.params.get("ground_truth", default)
        stored = run.record.settings.class_map
        translation(inputs, ctx.dataset, {**ctx.params, "ground_truth": truth}, run.classes, stored=stored)
        inputs.float(
            "threshold",
            label="Focus from which it looked at the object",
            description="0.5 is chance whatever the object's size; 0.6 is 1.5 times as dense on the object as off it",
            default=THRESHOLD,
            min=0.05,
            max=0.95,
        )
        inputs.view_target(ctx, action_description="Audit", require_flat=True)

        before = run.record.audit
        if before:
            against = ", ".join(before.objects) or "no objects"
            audited_at = before.audited_at[:16].replace("T", " ")
            forms.notice(inputs, "replaces", f"Replaces the audit of {audited_at} UTC against {against}")

    def arguments(self, ctx: Any) -> dict[str, Any]:
        params = ctx.params
        return {
            "key": params.get("key") or "cam",
            "ground_truth": params.get("ground_truth") or None,
            "objects": params.get("objects") or None,
            "object_labels": object_labels(params.get("object_labels")),
            "class_map": parse(params.get("class_map")),
            "threshold": params.get("threshold") or THRESHOLD,
        }

    def new_fields(self, ctx: Any, result: AuditReport) -> list[str]:
        return [result.run.field("verdict")]

    def refresh(self, ctx: Any, result: AuditReport) -> Iterator[Any]:
        yield from super().refresh(ctx, result)
        yield ctx.ops.open_panel("cam_audit", layout="horizontal", state={"key": result.run.key})

    def finished(self, ctx: Any, result: AuditReport) -> Any:
        if not result.record.verdict:
            return work.summary(ctx, "Audit of attention", summary(result))
        offer = types.Button(
            label="Colour the embeddings by verdict",
            operator=operator_uri("show_embeddings"),
            params={"key": result.run.key},
            prompt=True,
            variant="outlined",
        )
        return work.summary(ctx, "Audit of attention", summary(result), offer=(offer, None))

    def answer(self, ctx: Any, result: AuditReport) -> dict[str, Any]:
        record = result.record
        return {
            "key": result.run.key,
            "verdicts": result.verdicts if record.verdict else None,
            "unjudged": result.unjudged if record.verdict else None,
            "classes": [row._asdict() for row in result.classes],
            "regions": [row._asdict() for row in result.regions] if record.objects else [],
            "notes": list(record.notes),
        }


def draw_objects(inputs: types.Object, ctx: Any, places: Sequence[str]) -> None:
    """The fields that say where the object is, and the labels that mean it."""
    if places:
        inputs.list(
            "objects",
            types.String(),
            label="Objects",
            description="Fields that say where things are: boxes, polygons or masks. What carries the true class "
            "as its label, or no label, is the object; all else is a region with its own name",
            default=places[:1] if len(places) == 1 else None,
            view=forms.choices(dict.fromkeys(places, ""), multiple=True),
        )
    else:
        forms.notice(
            inputs,
            "no_objects",
            "No field says where the object is: add boxes, polygons or masks for verdicts. Without them the audit "
            "still measures how the evidence is spread",
            "warning",
        )
    draw_object_labels(inputs, ctx)


def draw_object_labels(inputs: types.Object, ctx: Any) -> None:
    """The labels that mean the object, beside the true class."""
    prop = inputs.str(
        "object_labels",
        label="Labels that are the object",
        description='Where their labels are not the true class: animal, or by class {"cat": ["head", "tail"]}',
    )
    try:
        object_labels(ctx.params.get("object_labels"))
    except CamError as error:
        forms.mark_invalid(prop, str(error))


def object_labels(typed: Any) -> Mapping[str, Sequence[str]] | list[str] | None:
    """What was typed as labels that are the object: with commas for all classes, or JSON. Python gives it as it is.

    Raises:
        CamError: it is neither a list of labels nor an object of lists.

    >>> object_labels("animal, pet"), object_labels('["animal"]')
    (['animal', 'pet'], ['animal'])
    """
    if not typed:
        return None
    if isinstance(typed, str) and not typed.lstrip().startswith(("{", "[")):
        return [part.strip() for part in typed.split(",") if part.strip()] or None
    try:
        found = json.loads(typed) if isinstance(typed, str) else typed
    except ValueError as error:
        raise CamError(f"this is no JSON: {error}") from error
    if isinstance(found, Mapping) and all(isinstance(value, (str, list, tuple)) for value in found.values()):
        return dict(found)
    if isinstance(found, (list, tuple)) and all(isinstance(value, (str, int)) for value in found):
        return list(found)
    raise CamError(
        'expected labels, such as ["animal"], or lists of labels by class, such as {"cat": ["head", "tail"]}'
    )


def summary(report: AuditReport) -> str:
    """What an audit found, in Markdown."""
    hint = "The panel **CAM audit** beside the grid shows it; it counts what is in the view."
    return f"{report.describe().markdown()}\n\n{hint}"
