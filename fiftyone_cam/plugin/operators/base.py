"""What all operators of this plugin share: a form, one call of the SDK, and an answer, in the App and without one."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import fiftyone as fo
import fiftyone.operators as foo
from fiftyone.operators import types

from fiftyone_cam.core.errors import CamError
from fiftyone_cam.core.names import operator_uri
from fiftyone_cam.dataset import app_config, internals
from fiftyone_cam.plugin import forms, installed, parameters, work
from fiftyone_cam.plugin.operators.restore_colors import plain_tooltips

Result = TypeVar("Result")

KEEP_OPEN = "Keep this tab open: closing it stops the work. What was done by then is kept."

ALONE = "alone"
"""The parameter of an operator that works without closing its form first: that is closed, or somebody waits for it."""

ARGUMENTS = "arguments"
"""The parameter of an operator that was scheduled from Python: the arguments of the SDK's function, without a form."""


class CamOperator(foo.Operator, Generic[Result]):
    """One function of the SDK as an operator.

    A new operator names itself in class attributes and says in five methods what is its own: :meth:`function`,
    :meth:`draw`, :meth:`arguments`, :meth:`finished` and :meth:`answer`. Everything else is here: the form's frame,
    live progress, scheduling, calls from Python, defaults for callers that see no form.
    """

    operator: ClassVar[str]
    """The name in ``fiftyone.yml``."""
    title: ClassVar[str]
    description: ClassVar[str]
    submit: ClassVar[str]
    """The label of the button that starts it."""
    icon: ClassVar[str]
    preparing: ClassVar[str] = "Reading the maps"
    """What the App shows until the first progress arrives."""
    risk: ClassVar[str] = "medium"
    delegable: ClassVar[bool] = True
    """Whether it can be scheduled."""
    delegated_first: ClassVar[bool] = False
    """Whether the form proposes to schedule it."""
    beside: ClassVar[bool] = True
    """Whether its form closes while it works, so that the App is free; what waits for its end wants the form open."""
    takes_frames: ClassVar[bool] = False
    """Whether it works on a view of the frames of videos; or, where it takes no view, on a dataset of videos."""
    takes_view: ClassVar[bool] = True
    """Whether it works on the samples in view."""
    also: ClassVar[Sequence[str]] = ()
    """Parameters that it takes where its form does not show them: from Python and agents."""

    # what each operator says of itself

    def function(self) -> Callable[..., Any]:
        """The function of the SDK. Import it inside this method: it may import PyTorch."""
        raise NotImplementedError

    def problem(self, ctx: Any) -> str | None:
        """Why the operator cannot run at all, beside what is wrong with the dataset; the form then says only this."""
        return None

    def draw(self, inputs: types.Object, ctx: Any) -> None:
        """Add the form's fields. Called at every keystroke: import no PyTorch and count no samples."""
        raise NotImplementedError

    def arguments(self, ctx: Any) -> dict[str, Any]:
        """The arguments of :meth:`function`, beside the samples, from the form's parameters."""
        raise NotImplementedError

    def run(self, ctx: Any, report: work.Report | None) -> Result:
        """Do the work. ``report`` is the SDK's ``progress``."""
        result: Result = self.function()(work.target(ctx), **self.given(ctx), progress=report)
        return result

    def new_fields(self, ctx: Any, result: Result) -> Iterable[str]:
        """The fields that the App should show from now on, beside those that it shows."""
        return ()

    def finished(self, ctx: Any, result: Result) -> Any:
        """What the App shows in the end: most often :func:`work.summary`."""
        raise NotImplementedError

    def answer(self, ctx: Any, result: Result) -> dict[str, Any]:
        """The result as JSON, for callers without an App: Python, agents, the record of a scheduled run."""
        raise NotImplementedError

    # what all of them do

    @property
    def config(self) -> foo.OperatorConfig:
        return foo.OperatorConfig(
            name=self.operator,
            label=self.title,
            description=self.description,
            dynamic=True,
            execute_as_generator=True,
            allow_delegated_execution=self.delegable,
            default_choice_to_delegated=self.delegated_first,
            risk_level=self.risk,
            view_target=self.takes_view,
            **forms.icon(self.icon),
        )

    def __call__(
        self,
        samples: fo.Dataset | fo.DatasetView,
        *args: Any,
        delegate: bool = False,
        delegation_target: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """The same from Python: the SDK's function, now or scheduled.

        Args:
            samples: a dataset or view.
            args: further arguments of the SDK's function.
            delegate: schedule it for ``fiftyone delegated launch`` instead of running it now.
            delegation_target: the orchestrator to schedule it on.
            kwargs: further arguments of the SDK's function.

        Returns:
            what the SDK's function returns, or FiftyOne's record of the scheduled operation.

        Raises:
            CamError: it cannot be scheduled, or not with these arguments.

        >>> foo.get_operator("@fiftyone-cam/cam/localize_from_cam")(dataset, "cam", threshold=0.3)
        'cam_boxes'
        """
        function = self.function()
        if not delegate:
            return function(samples, *args, **kwargs)
        if not self.delegable:
            raise CamError(f"{self.operator} cannot be scheduled: call it without delegate=True")
        return foo.execute_operator(
            self.uri,
            {"view": samples.view()},
            params={ARGUMENTS: _check_json(self.to_record(_by_name(function, samples, *args, **kwargs)))},
            request_delegation=True,
            delegation_target=delegation_target,
        )

    def to_record(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a call as a record keeps them; :meth:`run` gets them like this."""
        return arguments

    def given(self, ctx: Any) -> dict[str, Any]:
        """The arguments of :meth:`function`: as Python scheduled them, or else from the form."""
        scheduled = ctx.params.get(ARGUMENTS)
        found = self.arguments(ctx) if scheduled is None else dict(scheduled)
        found.pop("progress", None)
        return found

    def resolve_input(self, ctx: Any) -> types.Property:
        inputs = types.Object()
        frames = self.takes_frames and (not self.takes_view or internals.is_frames(ctx.view))
        problem = (None if frames else forms.dataset_problem(ctx.dataset)) or self.problem(ctx)
        if problem:
            forms.mark_invalid(inputs.view("problem", types.Error(label=problem)), problem)
        elif ARGUMENTS not in ctx.params:
            self.draw(inputs, ctx)
            seen = work.has_app(ctx)
            if not seen and parameters.take_as_meant(inputs, ctx.params):
                inputs = types.Object()
                self.draw(inputs, ctx)
            forms.require(inputs, ctx.params)
            if not seen:
                # what was scheduled may have been a form, which keeps what was typed into fields it does not show now
                also = None if ctx.delegated else self.also
                parameters.check(inputs, ctx.params, also, ctx.request_params.get("view_target"))
                forms.fill_in(inputs, ctx.params)
        return types.Property(inputs, view=types.PromptView(label=self.title, submit_button_label=self.submit))

    def execute(self, ctx: Any) -> Iterator[Any] | dict[str, Any]:
        if work.has_app(ctx):
            return self._leave_form(ctx) if self.beside and not ctx.params.get(ALONE) else self._live(ctx)
        result = self._begin(ctx, work.recorder(ctx) if ctx.delegated else None)
        ctx.dataset.reload()
        return self.answer(ctx, result)

    def _begin(self, ctx: Any, report: work.Report | None) -> Result:
        with installed.IMPORTING:  # the form's own questions may be importing PyTorch still
            self.function()
        return self.run(ctx, report)

    def _leave_form(self, ctx: Any) -> Iterator[Any]:
        """Close the form, which lies over the App as long as what it began, and begin it again without one."""
        work.announce()
        yield ctx.trigger(self.uri, {**self.filled(ctx), ALONE: True})

    def filled(self, ctx: Any) -> dict[str, Any]:
        """The form's fields as they are now."""
        target = ctx.request_params.get("view_target")
        params = {name: value for name, value in ctx.params.items() if name != ALONE}
        return {**params, **({"view_target": target} if target else {})}

    def _live(self, ctx: Any) -> Iterator[Any]:
        shown = ctx.active_fields
        if shown and not ctx.current_sample:  # an open sample has fields of its own
            app_config.keep_visible(ctx.dataset, shown)
        retry = work.form_button("Back to the form", self.operator, self.filled(ctx))
        first = partial(_when_open, ctx, partial(self.first, ctx))
        result = yield from work.run(ctx, partial(self._begin, ctx), self.preparing, first, KEEP_OPEN, retry)
        ctx.dataset.reload()
        yield from _when_open(ctx, partial(self.refresh, ctx, result))
        yield self.finished(ctx, result)

    def first(self, ctx: Any) -> Iterator[Any]:
        """Show the first results while the work goes on."""
        return iter(())

    def refresh(self, ctx: Any, result: Result) -> Iterator[Any]:
        """Make the open App show what was written to the dataset."""
        new = [path for path in self.new_fields(ctx, result) if ctx.dataset.has_field(path)]
        if new:
            app_config.activate(ctx.dataset, new)
        return show_written(ctx)


def _when_open(ctx: Any, asked: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    """The same messages, for the App to follow if it still shows the dataset: work beside it leaves time to leave."""
    steps = [[message.body.operator_uri, message.body.params] for message in asked()]
    if steps:
        yield ctx.trigger(operator_uri("when_open"), {"dataset": ctx.dataset.name, "operators": steps})


def show_written(ctx: Any, *, fields: bool = True) -> Iterator[Any]:
    """Let the open App show what was written to the dataset: samples, the sidebar's groups, and the active fields."""
    yield ctx.ops.reload_dataset()
    yield ctx.ops.reload_samples()
    yield ctx.trigger(operator_uri("arrange_sidebar"), {"groups": app_config.groups(ctx.dataset)})
    yield from plain_tooltips(ctx)
    if fields:
        tags = [path for path in ctx.active_fields if path.startswith("_")]  # the App's own, of no dataset
        yield ctx.ops.set_active_fields([*app_config.visible(ctx.dataset), *tags])


def _by_name(function: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The arguments of a call by name, without the first."""
    signature = inspect.signature(function)
    found = signature.bind(*args, **kwargs).arguments
    _, *names = found
    arguments: dict[str, Any] = {}
    for name in names:
        flat = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
        arguments |= found[name] if flat else {name: found[name]}
    return arguments


def _check_json(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments that JSON can hold: paths as text."""
    found = {name: str(value) if isinstance(value, Path) else value for name, value in arguments.items()}
    for name, value in found.items():
        try:
            json.dumps(value)
        except TypeError as error:
            raise CamError(
                f"{name} cannot be scheduled: found {type(value).__name__}, expected what JSON can hold; give the "
                "classifier by name or path"
            ) from error
    return found
