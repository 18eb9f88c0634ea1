"""How a run looks in the App: its colours, its group in the sidebar, and which of its fields are visible.

Everything is stored on the dataset, beside the user's settings, which stay as they are. All that this project knows of
how the App (1.22.1) paints heatmaps is here:

- The App takes a launched session's colour scheme as it is stored. Its painter looks for 256 ready colours, ``rgb``, in
  the entry of a field. Only the server's GraphQL answer adds them, so the painter does not draw an entry that only
  names a scale. Entries here carry ``rgb`` along; the server ignores it.
- The App draws colour scales only where labels are coloured by value. By field, a heatmap has one colour, with an
  opacity that grows with the value's magnitude, the same for both signs.
- The server remembers a session's colours, and drops ``rgb`` from them whenever they are set. What is stored on an open
  dataset does not reach the App, not even when the page is reloaded: see :func:`restore_session_colors`.
- The App repaints when the number of scales has changed, whatever they are. While it repaints, the number must not
  change again: each tile that is being painted then takes one of its painters (as many as there are cores) along, and
  without painters no heatmap that is ticked later is drawn until the page is reloaded. So there is one message, with
  one scale twice where the number would stay: see :func:`stored_scheme` and ``draw_scales`` in ``assets/app.js``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import fiftyone as fo
import fiftyone.core.utils as fou
from fiftyone import ViewField as F

from fiftyone_cam.core.display import HEAT, SIGNED
from fiftyone_cam.core.errors import CamError
from fiftyone_cam.core.names import CONTRAST
from fiftyone_cam.dataset import internals

fopp = fou.lazy_import("fiftyone.core.plots.plotly")  # plotly takes a second, and the App imports this module early

GROUP, NUMBERS = "CAM", "CAM numbers"
"""The sidebar groups of all runs' fields: what one looks at, and, folded away, what an audit measured."""

_ORDER = ("prediction", "heatmap", "contrast", "explained", "verdict", "regions", "boxes", "top", "error")
"""How a run's fields follow each other in the sidebar, by their names without the key; others come after them."""

_FIELD_COLORS = {CONTRAST: "#3d9be9"}
_FIELD_COLOR = "#ff6a00"


def arrange(dataset: fo.Dataset, fields: Mapping[str, str], colors: str | None = None) -> None:
    """Give fields their place in the App: colour scales of heatmaps, and the sidebar's groups.

    Args:
        dataset: the dataset.
        fields: a run's fields, and for each its name without the key.
        colors: a scale for evidence instead of :data:`fiftyone_cam.core.display.HEAT`, by plotly's name: ``"jet"`` as
            in the posts. By default, a scale that was chosen before stays.

    Raises:
        CamError: there is no such scale.

    >>> arrange(dataset, run.fields, colors="jet")
    """
    colored = _color(dataset, {path: fields[path] for path in heatmaps(dataset, fields)}, colors)
    grouped = _group(dataset, fields)
    if colored or grouped:  # the scales are long, and FiftyOne goes through all of them to save anything
        dataset.save()


def activate(
    dataset: fo.Dataset,
    wanted: Iterable[str] = (),
    replaced: Mapping[str, str | None] | None = None,
    hidden: Iterable[str] = (),
) -> None:
    """Add fields to those that the App shows; what else a person has ticked stays as it is.

    Args:
        dataset: the dataset.
        wanted: fields to show from now on.
        replaced: of fields that are shown, the one to show in their place; None for no other.
        hidden: fields to show no more.

    >>> activate(dataset, ["two_prediction"], replaced={"one_heatmap": "two_heatmap"})
    """
    replaced, hidden = replaced or {}, set(hidden)
    shown = [replaced.get(path, path) for path in visible(dataset) if path not in hidden]
    paths = dict.fromkeys(path for path in (*shown, *wanted) if path is not None)
    dataset.app_config.active_fields = fo.ActiveFields(paths=list(paths))
    dataset.save()


def keep_visible(dataset: fo.Dataset, paths: Sequence[str]) -> None:
    """Remember what an open App shows now, so that more can be added to it.

    >>> keep_visible(dataset, ctx.active_fields)
    """
    there = [path for path in paths if dataset.has_field(path)]
    if there and there != visible(dataset):
        dataset.app_config.active_fields = fo.ActiveFields(paths=there)
        dataset.save()


def filled(dataset: fo.Dataset) -> list[str]:
    """The fields that the App shows and fills: a heatmap beneath them cannot be read.

    Segmentations, heatmaps, filled polygons, and boxes with masks. Of polygons and boxes the first hundred samples say
    whether they are.

    >>> filled(dataset)
    ['animals']
    """
    some = dataset.limit(_LOOKED_AT)
    return [path for path in visible(dataset) if dataset.has_field(path) and _is_filled(some, path)]


_LOOKED_AT = 100


def _is_filled(some: fo.DatasetView, path: str) -> bool:
    kind = getattr(some.get_field(path), "document_type", None)
    if kind in (fo.Segmentation, fo.Heatmap):
        return True
    if kind in (fo.Polyline, fo.Polylines):
        return True in some.distinct(f"{path}.filled" if kind is fo.Polyline else f"{path}.polylines.filled")
    if kind in (fo.Detection, fo.Detections):
        masks = F("mask").exists() | F("mask_path").exists()
        return some.filter_labels(path, masks).limit(1).count() > 0
    return False


def heatmaps(dataset: fo.Dataset, paths: Iterable[str]) -> list[str]:
    """Those of some fields that are heatmaps.

    >>> heatmaps(dataset, ["cam_prediction", "cam_heatmap"])
    ['cam_heatmap']
    """
    return [path for path in paths if _is_heatmap(dataset, path)]


def groups(dataset: fo.Dataset) -> list[dict[str, Any]]:
    """The groups of this project in the dataset's sidebar, as an open App is told of them.

    >>> [group["name"] for group in groups(dataset)]
    ['CAM', 'CAM numbers']
    """
    found = []
    for group in dataset.app_config.sidebar_groups or []:
        paths = [path for path in group.paths if dataset.has_field(path)]
        if group.name in (GROUP, NUMBERS) and paths:
            found.append({"name": group.name, "paths": paths, "expanded": bool(group.expanded)})
    return found


def forget(dataset: fo.Dataset, paths: Iterable[str]) -> None:
    """Remove what :func:`arrange` and :func:`activate` stored for fields that are deleted.

    >>> forget(dataset, ["cam_prediction", "cam_heatmap"])
    """
    paths = set(paths)
    config = dataset.app_config
    scheme = config.color_scheme
    if scheme is not None:
        scheme.colorscales = [entry for entry in scheme.colorscales or [] if entry.get("path") not in paths]
        scheme.fields = [entry for entry in scheme.fields or [] if entry.get("path") not in paths]
    if config.sidebar_groups is not None:
        for group in config.sidebar_groups:
            group.paths = [path for path in group.paths if path not in paths]
        ours = (GROUP, NUMBERS)
        config.sidebar_groups = [group for group in config.sidebar_groups if group.paths or group.name not in ours]
    if config.active_fields is not None:
        config.active_fields.paths = [path for path in config.active_fields.paths if path not in paths]
    dataset.save()


def visible(dataset: fo.Dataset) -> list[str]:
    """The fields that the App shows when it opens the dataset."""
    active = dataset.app_config.active_fields
    if active is None or active.exclude:
        hidden = set() if active is None else set(active.paths)
        active = fo.DatasetAppConfig.default_active_fields(dataset)
        return [path for path in active.paths if path not in hidden]
    return list(active.paths)


def scales(dataset: fo.Dataset) -> list[dict[str, Any]]:
    """The colour scales stored on the dataset that this project's heatmaps are drawn with; none: nothing to draw."""
    scheme = dataset.app_config.color_scheme
    entries = list(scheme.colorscales or []) if scheme is not None else []
    return entries if any("rgb" in entry for entry in entries) else []


def stored_scheme(dataset: fo.Dataset) -> dict[str, Any]:
    """What an open App has to be given, so that it draws the stored scales; empty: there is nothing to draw.

    >>> [entry["path"] for entry in stored_scheme(dataset)["colorscales"]]
    ['cam_heatmap', 'cam_contrast']
    """
    entries = scales(dataset)
    if not entries:
        return {}
    shown = [{name: entry.get(name) for name in ("path", "name", "list")} for entry in entries]
    return {"color_by": dataset.app_config.color_scheme.color_by, "colorscales": shown}


def restore_session_colors(dataset: fo.Dataset) -> bool:
    """Put the stored scales, with their ready colours, into this server's memory of the session.

    Returns:
        Whether they were all there before, so that the App draws them already.

    >>> restore_session_colors(dataset), restore_session_colors(dataset)
    (False, True)
    """
    ours = {entry["path"]: entry for entry in scales(dataset)}
    scheme = internals.session_colors()
    known = {entry["path"]: entry for entry in scheme.colorscales or []}
    if all(known.get(path, {}).get("rgb") for path in ours):
        return True
    scheme.colorscales = [dict(entry) for entry in {**known, **ours}.values()]
    return False


def _is_heatmap(dataset: fo.Dataset, path: str) -> bool:
    field = dataset.get_field(path)
    return isinstance(field, fo.EmbeddedDocumentField) and issubclass(field.document_type, fo.Heatmap)


def _color(dataset: fo.Dataset, heatmaps: dict[str, str], colors: str | None) -> bool:
    """Give heatmaps their scales; whether anything changed."""
    scheme = dataset.app_config.color_scheme or fo.ColorScheme()
    before = scheme.color_by, *([dict(each) for each in listed or []] for listed in (scheme.colorscales, scheme.fields))
    if scheme.color_by is None:
        scheme.color_by = "value"

    scales = {entry["path"]: dict(entry) for entry in before[1]}
    fields = {entry["path"]: dict(entry) for entry in before[2]}
    for path, name in heatmaps.items():
        signed = name == CONTRAST
        if path not in scales or (colors is not None and not signed):
            scales[path] = {"path": path, **_scale(SIGNED if signed else colors or HEAT)}
        elif "rgb" not in scales[path]:  # saved from the App's own settings
            scales[path].update(_scale(scales[path].get("name") or scales[path]["list"]))
        fields.setdefault(path, {"path": path, "fieldColor": _FIELD_COLORS.get(name, _FIELD_COLOR)})
    if before == (scheme.color_by, list(scales.values()), list(fields.values())):
        return False
    scheme.colorscales, scheme.fields = list(scales.values()), list(fields.values())
    dataset.app_config.color_scheme = scheme
    return True


def _scale(colors: str | Sequence[Any]) -> dict[str, Any]:
    """A colour scale as the App stores one, with the 256 colours that its painter wants."""
    if isinstance(colors, str):
        try:
            return {"name": colors, "list": None, "rgb": fopp.get_colormap(colors)}
        except Exception as error:  # whatever plotly raises of a name that it does not know
            raise CamError(
                f"there is no colour scale {colors!r}: expected a name of plotly's, such as 'jet', 'viridis' or 'turbo'"
            ) from error
    stops = list(colors)
    if isinstance(stops[0], str):
        stops = [{"value": index / (len(stops) - 1), "color": _rgb(color)} for index, color in enumerate(stops)]
    return {"name": None, "list": stops, "rgb": fopp.get_colormap([[stop["value"], stop["color"]] for stop in stops])}


def _rgb(color: str) -> str:
    """``"#ff8000"`` as the App writes it: ``"rgb(255, 128, 0)"``."""
    return f"rgb({', '.join(str(int(color[at : at + 2], 16)) for at in (1, 3, 5))})"


def _group(dataset: fo.Dataset, fields: Mapping[str, str]) -> bool:
    """Move fields into the groups of this project; from FiftyOne's own groups only, not from one that the user made.

    FiftyOne gives an evaluation's field a group of the field's name.

    Returns:
        whether anything changed.
    """
    config = dataset.app_config
    before = [(group.name, list(group.paths)) for group in config.sidebar_groups or []]
    usual = {group.name for group in fo.DatasetAppConfig.default_sidebar_groups(dataset)} | {GROUP, NUMBERS, *fields}
    found = list(config.sidebar_groups or fo.DatasetAppConfig.default_sidebar_groups(dataset))
    for path in sorted(fields, key=lambda path: _rank(fields[path])):
        holders = [group for group in found if path in group.paths]
        if any(group.name not in usual for group in holders):
            continue
        ours = _group_named(found, NUMBERS if _is_number(dataset, path) else GROUP)
        for group in holders:
            if group is not ours:
                group.paths = [other for other in group.paths if other != path]
        if path not in ours.paths:
            ours.paths.append(path)
    found = [group for group in found if group.paths or group.name not in fields]
    if before == [(group.name, list(group.paths)) for group in found]:
        return False
    config.sidebar_groups = found
    return True


def _group_named(groups: list[Any], name: str) -> Any:
    """One of this project's groups; made behind the labels where it is not there."""
    for group in groups:
        if group.name == name:
            return group
    made = fo.SidebarGroupDocument(name=name, paths=[], expanded=name == GROUP)
    before = ("metadata", "labels", *([GROUP] if name == NUMBERS else []))
    after = [index for index, group in enumerate(groups) if group.name in before]
    groups.insert(max(after, default=-1) + 1, made)
    return made


def _rank(name: str) -> tuple[int, str]:
    """Where a field comes in its group, by its name without the key: ``heatmap_2`` right behind ``heatmap``."""
    kind, _, rank = name.rpartition("_")
    kind = kind if rank.isdigit() else name
    return (_ORDER.index(kind) if kind in _ORDER else len(_ORDER), name if rank.isdigit() else "")


def _is_number(dataset: fo.Dataset, path: str) -> bool:
    """Whether a field is a plain number or flag, of which an audit writes many."""
    return isinstance(dataset.get_field(path), (fo.FloatField, fo.IntField, fo.BooleanField))
