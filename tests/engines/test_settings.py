"""What an engine can be told, and what it refuses."""

from __future__ import annotations

import math

import pytest

import fiftyone_cam as focam
from fiftyone_cam.core.errors import CamError
from fiftyone_cam.engines.settings import as_engine


@pytest.mark.parametrize(
    ("kind", "settings", "reason"),
    [
        (focam.Local, {"num_workers": 0}, "num_workers is 0, expected a whole number from 1"),
        (focam.Local, {"num_workers": 1.5}, "num_workers is 1.5"),
        (focam.Ray, {"num_actors": 0}, "num_actors is 0, expected a whole number from 1"),
        (focam.Ray, {"cpus_per_actor": -1}, "cpus_per_actor is -1"),
        (focam.Ray, {"gpus_per_actor": -1}, "gpus_per_actor is -1"),
        (focam.Ray, {"gpus_per_actor": math.nan}, "gpus_per_actor is nan"),
        (focam.Ray, {"gpus_per_actor": math.inf}, "gpus_per_actor is inf"),
        (focam.Ray, {"gpus_per_actor": "1"}, "gpus_per_actor is '1'"),
        (focam.Ray, {"address": " "}, "address is empty"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(kind, settings, reason):
    with pytest.raises(CamError, match=reason):
        kind(**settings)


@pytest.mark.parametrize(("kind", "name"), [(focam.Local, "num_actors"), (focam.Ray, "num_workers")])
def test_an_engine_does_not_take_the_others_settings(kind, name):
    with pytest.raises(TypeError, match=name):
        kind(**{name: 1})


def test_a_name_is_the_engine_with_its_defaults():
    assert as_engine("local") == focam.Local()
    few = focam.Local(num_workers=2)
    assert as_engine(few) is few


def test_the_names_of_ray_and_its_defaults():
    pytest.importorskip("ray")
    assert as_engine("ray") == focam.Ray()
