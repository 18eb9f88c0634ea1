"""The Ray engine, as far as it needs no cluster: what it imports, refuses and plans."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import fiftyone as fo
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fiftyone_cam as focam
from fiftyone_cam.engines.cluster import Plan, plan_actors
from fiftyone_cam.engines.ray import batches_per_block
from tests.helpers.networks import write_photos

ROOT = Path(__file__).parents[2]


def test_the_engine_is_imported_without_ray_and_without_fiftyone():
    code = (
        "import sys, fiftyone_cam.engines.ray\n"
        "raise SystemExit(', '.join({'ray', 'fiftyone', 'pymongo'} & set(sys.modules)) or None)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=300)


@pytest.mark.slow
def test_actors_need_no_more_than_the_documentation_installs_for_them():
    [line] = re.findall(r'pip install ("ray\[data\]==.*threadpoolctl)', (ROOT / "docs/many_machines.md").read_text())
    installed, todo = set(), [Requirement(each) for each in shlex.split(line)]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name not in installed:
            installed.add(name)
            further = map(Requirement, metadata.requires(name) or [])
            todo += [r for r in further if not r.marker or any(r.marker.evaluate({"extra": e}) for e in ("", "data"))]
    homes = metadata.packages_distributions()
    others = {name for name, of in homes.items() if not {canonicalize_name(each) for each in of} & installed}
    without(others - {"fiftyone_cam"}, "import fiftyone_cam.engines.ray, fiftyone_cam.engines.local").check_returncode()
    assert without({"threadpoolctl"}, "import fiftyone_cam.engines.local").returncode, "nothing is really left out"


def without(modules: set[str], code: str) -> subprocess.CompletedProcess[str]:
    """Run code where some top-level modules are not there."""
    prologue = (
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "class Without:\n"
        "    def find_spec(name, *place):\n"
        f"        return None if name.partition('.')[0] in {modules!r} else PathFinder.find_spec(name, *place)\n"
        "sys.meta_path[sys.meta_path.index(PathFinder)] = Without\n"
    )
    command = [sys.executable, "-c", prologue + code]
    return subprocess.run(command, check=False, cwd=ROOT, timeout=300, capture_output=True, text=True)


def test_without_ray_it_is_said_what_to_install():
    code = "from fiftyone_cam.engines.settings import as_engine; as_engine('ray')"
    found = without({"ray"}, code)
    assert "CamError: the engine 'ray' needs Ray Data" in found.stderr
    assert "pip install 'fiftyone_cam[ray]'" in found.stderr


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"engine": "spark"}, r"unknown engine 'spark', expected 'local', 'ray', focam.Local\(…\) or focam.Ray\(…\)"),
        ({"engine": focam.Ray}, "unknown engine <class"),
        ({"engine": "ray", "device": "cuda:1"}, "Ray chooses the GPU of each actor"),
        ({"engine": focam.Ray(), "device": "cuda:1"}, "Ray chooses the GPU of each actor"),
    ],
)
def test_engines_that_there_are_not_are_named(dataset, tmp_path, settings, reason):
    dataset.add_samples([fo.Sample(filepath=path) for path in write_photos(tmp_path, 1)])
    with pytest.raises(focam.CamError, match=reason):
        focam.compute_cam(dataset, "the classifier is not looked at", **settings)


GPU_NODE = {"CPU": 16.0, "GPU": 4.0}
CPU_NODE = {"CPU": 8.0}


@pytest.mark.parametrize(
    ("nodes", "asked", "device", "plan"),
    [
        ([GPU_NODE], {}, None, (4, 4, 1, "cuda")),
        ([GPU_NODE, GPU_NODE], {}, None, (8, 4, 1, "cuda")),
        ([GPU_NODE, CPU_NODE], {}, None, (4, 4, 1, "cuda")),
        ([GPU_NODE], {"gpus_per_actor": 0.5}, None, (8, 2, 0.5, "cuda")),
        ([GPU_NODE], {"num_actors": 1}, None, (1, 16, 1, "cuda")),
        ([GPU_NODE], {"cpus_per_actor": 3}, None, (4, 3, 1, "cuda")),
        ([GPU_NODE], {"cpus_per_actor": 8}, None, (2, 8, 1, "cuda")),
        ([GPU_NODE], {}, "cpu", (1, 16, 0, "cpu")),
        ([GPU_NODE], {"gpus_per_actor": 0}, None, (1, 16, 0, "cpu")),
        ([CPU_NODE], {}, None, (1, 8, 0, "cpu")),
        ([CPU_NODE, CPU_NODE], {}, None, (2, 8, 0, "cpu")),
        ([CPU_NODE, {"CPU": 2.0}], {}, None, (2, 4, 0, "cpu")),
        ([CPU_NODE, {"CPU": 0.0}], {}, None, (1, 8, 0, "cpu")),
        ([CPU_NODE], {"num_actors": 3}, None, (3, 2, 0, "cpu")),
    ],
)
def test_actors_share_what_the_cluster_has(nodes, asked, device, plan):
    found = plan_actors(nodes, focam.Ray(**asked), device)
    assert (found.actors, found.cpus, found.gpus, found.device) == plan


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("actors", [1, 3, 16])
@pytest.mark.parametrize("batches", [1, 40, 500, 5000])
def test_no_actor_is_left_without_work_while_another_has_much(device, actors, batches):
    each = batches_per_block(batches, Plan(actors, cpus=1, gpus=device == "cuda", device=device))
    assert 4 <= each <= 64
    assert each == 4 or batches / each >= 4 * actors


@pytest.mark.parametrize(
    ("nodes", "asked", "device", "reason"),
    [
        ([CPU_NODE], {"num_actors": 9}, None, "9 actors of 1 CPU and 0 GPU do not fit .*at most 8 do"),
        ([CPU_NODE], {}, "cuda", "1 actors of 1 CPU and 1 GPU do not fit .*1 nodes .*at most 0 do"),
        ([GPU_NODE], {"gpus_per_actor": 5}, None, "of 1 CPU and 5 GPU do not fit"),
        ([GPU_NODE], {"cpus_per_actor": 17}, None, "of 17 CPU and 1 GPU do not fit"),
        ([GPU_NODE], {"gpus_per_actor": 0}, "cuda", "Ray shows an actor only GPUs that it reserves"),
        ([], {}, None, "do not fit into the Ray cluster, which has 0 nodes"),
    ],
)
def test_what_the_cluster_has_not_got_is_said(nodes, asked, device, reason):
    with pytest.raises(focam.CamError, match=reason):
        plan_actors(nodes, focam.Ray(**asked), device)
