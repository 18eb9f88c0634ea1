"""Run the benchmark: ``make bench``, or ``python -m benchmarks --workloads resnet18 --part 0.5 --rounds 3``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("FIFTYONE_DATABASE_NAME", "fiftyone_cam_benchmark")
os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "true")
os.environ.setdefault("FIFTYONE_SHOW_PROGRESS_BARS", "false")

import fiftyone.core.odm as foo
import torch

from benchmarks import contenders
from benchmarks.checks import checks
from benchmarks.growth import growth
from benchmarks.workloads import DATA, WORKLOADS, Workload

HERE = Path(__file__).parent
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"

CONTENDERS: dict[str, Callable[[Workload], contenders.Timed]] = {
    "decode alone": contenders.decode,
    "forward, contiguous": lambda workload: contenders.forward(workload, "contiguous"),
    "forward, channels last": lambda workload: contenders.forward(workload, "channels last"),
    "forward, fastest": lambda workload: contenders.forward(workload, "fastest"),
    "forward, compiled": lambda workload: contenders.forward(workload, "compiled"),
    "compute_cam": contenders.ours,
    "compute_cam, bfloat16": lambda workload: contenders.ours(workload, "bfloat16"),
    "apply_model, classification": lambda workload: contenders.apply_model(workload, maps=False),
    "apply_model, maps": lambda workload: contenders.apply_model(workload, maps=True),
    "torch-cam": contenders.torch_cam,
    "pytorch-grad-cam": contenders.grad_cam,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="compute_cam beside the machine's limits and beside its peers.")
    parser.add_argument("--workloads", nargs="*", default=list(WORKLOADS), choices=[*WORKLOADS, "growth"])
    parser.add_argument("--contenders", nargs="*", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", type=float, default=1.0, help="of the images: 0.2 for a quick look")
    parser.add_argument("--growth", type=int, nargs="*", default=[], metavar="N", help="2000 10000 50000")
    parser.add_argument("--checks", action="store_true", help="what speed costs in exactness, and the first result")
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    options = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"no photos at {DATA}: FIFTYONE_CAM_DATA names their folder")

    results = json.loads(options.out.read_text()) if options.out.is_file() else {"workloads": {}}
    results["machine"] = {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }
    for name in options.workloads:
        if name in WORKLOADS:
            workload = WORKLOADS[name](options.part)
            results["workloads"][name] = measured(
                workload, {contender: CONTENDERS[contender] for contender in options.contenders}, options.rounds
            )
            _write(results, options.out)
    if options.growth:
        results["growth"] = growth(options.growth)
        _write(results, options.out)
    if options.checks:
        results["checks"] = checks()
        _write(results, options.out)
    foo.drop_database()


def measured(
    workload: Workload, makers: dict[str, Callable[[Workload], contenders.Timed]], rounds: int
) -> dict[str, Any]:
    """Images a second of each contender in each round; rounds are interleaved, each begins with another contender."""
    print(f"{workload.name}: {len(workload.paths):,} images", flush=True)
    timed = {}
    for name, make in makers.items():
        try:
            timed[name] = make(workload)
        except Exception as error:  # a peer that cannot run on this network
            print(f"  {name}: {type(error).__name__}: {error}")
    found: dict[str, list[float]] = {name: [] for name in timed}
    cpu: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(rounds + 1):
        order = list(timed)[turn % len(timed) :] + list(timed)[: turn % len(timed)]
        for name in order:
            began = _cpu_seconds()
            rate = len(workload.paths) / timed[name]()
            if turn:  # the first round warms up
                found[name].append(rate)
                cpu[name].append(1000 * (_cpu_seconds() - began) / len(workload.paths))
    for name, rates in found.items():
        spent = f"{statistics.median(cpu[name]):.2f} ms of CPU an image"
        print(f"  {name:<30} {statistics.median(rates):9.1f} images/s  ({min(rates):.1f} to {max(rates):.1f}), {spent}")
    return {
        "name": workload.name,
        "bound_by": workload.bound_by,
        "images": len(workload.paths),
        "date": date.today().isoformat(),
        "rates": found,
        "cpu": cpu,
    }


def _cpu_seconds() -> float:
    """Of this process and its children, but not of the database's: other work on the machine hardly changes it."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def ratios(workload: dict[str, Any]) -> dict[str, float]:
    """How compute_cam stands to the others, by the medians of one run."""
    rate = {name: statistics.median(rates) for name, rates in workload["rates"].items() if rates}
    own = rate.get("compute_cam")
    found: dict[str, float] = {}
    if own is None:
        return found
    for limit, kinds in (("limit", ("contiguous", "channels last", "fastest")), ("limit, compiled", ("compiled",))):
        forwards = [rate[f"forward, {kind}"] for kind in kinds if f"forward, {kind}" in rate]
        if forwards and "decode alone" in rate:
            found[f"of the {limit}"] = own * (1 / rate["decode alone"] + 1 / max(forwards))
    found |= {f"× {name}": own / rate[name] for name in rate if name.startswith(("apply_model", "torch", "pytorch"))}
    if "compute_cam, bfloat16" in rate and "apply_model, classification" in rate:
        found["bfloat16 × apply_model, classification"] = (
            rate["compute_cam, bfloat16"] / rate["apply_model, classification"]
        )
    return found


def table(results: dict[str, Any]) -> str:
    """The figures as Markdown."""
    machine = results["machine"]
    lines = [
        f"{machine['cores']} cores ({machine['processor']}, {machine['capability']}), PyTorch {machine['torch']}. "
        "Images a second, median (lowest to highest).",
        "",
        "| | " + " | ".join(f"{w['name']} ({w['images']:,})" for w in results["workloads"].values()) + " |",
        "|---|" + "---|" * len(results["workloads"]),
        "| *measured on* | " + " | ".join(w["date"] for w in results["workloads"].values()) + " |",
    ]
    names = [n for n in CONTENDERS if any(w["rates"].get(n) for w in results["workloads"].values())]
    for name in names:
        cells = []
        for workload in results["workloads"].values():
            rates = workload["rates"].get(name)
            cells.append(f"{statistics.median(rates):,.1f} ({min(rates):,.1f} to {max(rates):,.1f})" if rates else "–")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    all_ratios = [ratios(workload) for workload in results["workloads"].values()]
    for name in dict.fromkeys(name for found in all_ratios for name in found):
        cells = [f"**{found[name]:.2f}**" if name in found else "–" for found in all_ratios]
        lines.append(f"| *compute_cam {name}* | " + " | ".join(cells) + " |")
    spent = [w for w in results["workloads"].values() if w.get("cpu")]
    if spent:
        lines += [
            "",
            "Milliseconds of CPU an image, with making and deleting the dataset, without MongoDB's own:",
            "",
        ]
        lines += ["| | " + " | ".join(f"{w['name']} ({w['images']:,})" for w in spent) + " |"]
        lines += ["|---|" + "---|" * len(spent)]
        for name in (n for n in CONTENDERS if any(w["cpu"].get(n) for w in spent)):
            cells = [f"{statistics.median(w['cpu'][name]):,.2f}" if w["cpu"].get(name) else "–" for w in spent]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if "growth" in results:
        lines += [
            "",
            "| samples | ms a sample | resident memory above the start, MB | bytes a sample in the database |",
        ]
        lines += ["|---|---|---|---|"]
        lines += [
            f"| {row['samples']:,} | {row['ms']:.3f} | {row['memory_mb']:.0f} | {row['bytes']:,.0f} |"
            for row in results["growth"]
        ]
    if "checks" in results:
        lines += ["", *(f"- {name}: {sentence}." for name, sentence in results["checks"].items())]
    return "\n".join(lines)


def _write(results: dict[str, Any], path: Path) -> None:
    """Keep the figures; those of the repository's own file stand in its README, too."""
    path.write_text(json.dumps(results, indent=1) + "\n")
    if path.resolve() != (HERE / "results.json").resolve():
        return
    page = HERE / "README.md"
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{table(results)}\n{END}{after}", encoding="utf-8")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
