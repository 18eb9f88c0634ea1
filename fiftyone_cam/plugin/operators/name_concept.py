"""Name a concept: a word for what its places show."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fiftyone.operators import types

from fiftyone_cam.core.tables import escape_markdown
from fiftyone_cam.plugin import concept_form, forms, work
from fiftyone_cam.plugin.operators.base import CamOperator

if TYPE_CHECKING:
    from fiftyone_cam.concepts.report import ConceptReport


class NameConcept(CamOperator["ConceptReport"]):
    """The name of a concept, in its row and on all its places."""

    operator = "name_concept"
    title = "Name a concept"
    description = "A word for what a concept shows, in the panel and on all its places"
    submit = "Name"
    icon = "concepts"
    preparing = "Naming its places"
    delegable = False
    beside = False
    takes_view = False

    def function(self) -> Callable[..., ConceptReport]:
        from fiftyone_cam.concepts.report import name_concept

        return name_concept

    def draw(self, inputs: types.Object, ctx: Any) -> None:
        run = concept_form.run_with_concepts(inputs, ctx)
        if run is None:
            return
        names = [concept.name for concept in concept_form.concepts_of(run)]
        chosen = ctx.params.get("concept") or names[0]
        prop = inputs.enum(
            "concept", names, label="Concept", default=names[0], required=True, view=concept_form.choices(run)
        )
        if chosen not in names:
            forms.mark_invalid(prop, concept_form.unknown(run, chosen))
        prop = inputs.str(
            "name",
            label="Name",
            description="What its places show, in a word or two: watermark, cage, snow",
        )
        name = str(ctx.params.get("name") or "").strip()
        if name in names and name != chosen:
            forms.mark_invalid(prop, f"there is a concept {name!r} already: use another name")
        forms.ask_for(inputs, {"Name": name})

    def arguments(self, ctx: Any) -> dict[str, Any]:
        return {name: ctx.params.get(name) for name in ("key", "concept", "name")}

    def run(self, ctx: Any, report: work.Report | None) -> ConceptReport:
        return self.function()(ctx.dataset, **self.given(ctx))

    def finished(self, ctx: Any, result: ConceptReport) -> Any:
        old, new = (escape_markdown(str(ctx.params[name])) for name in ("concept", "name"))
        return work.summary(ctx, "Named", f"*{old}* is **{new}** now, also on its places.")

    def answer(self, ctx: Any, result: ConceptReport) -> dict[str, Any]:
        return {"key": result.run.key, "names": [concept.name for concept in result.concepts]}
