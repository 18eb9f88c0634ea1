"""What a GPU could be fed with: where the time goes where the network costs next to nothing, and who holds the GIL.

    python -m benchmarks.ceiling                   # 3,000 photos
    python -m benchmarks.ceiling --count 800

Who holds the GIL is by py-spy (``pip install py-spy``), which looks at this process 200 times a second: that time,
divided by the images, is what no second core can take over. What a run begins and ends with is told apart, for it is
the same whatever the number of images. Where other processes use the cores, threads wait for one, also with the GIL in
hand. So a second py-spy counts how long threads could run; the CPU time that they got, over that, is the share that
counts of the time by the clock.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("FIFTYONE_DATABASE_NAME", "fiftyone_cam_benchmark")
os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "true")
os.environ.setdefault("FIFTYONE_SHOW_PROGRESS_BARS", "false")

import fiftyone.core.odm as foo

import fiftyone_cam as focam
from benchmarks.workloads import WORKLOADS
from fiftyone_cam.core.timing import Timing

RATE = 200
"""Looks a second."""

ONCE = "what a run begins and ends with"
_FOR_EACH_IMAGE = ("explain_all (", "Writer.add (")
"""What the main thread does for each image: the rest of it is done once."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=3000)
    options = parser.parse_args()
    workload = WORKLOADS["ceiling"](options.count / 4000)
    dataset = workload.dataset()
    try:
        focam.compute_cam(dataset[:100], workload.classifier, "warm", batch_size=64, progress=False)
        with tempfile.TemporaryDirectory() as folder:
            spy, second = watched(Path(folder) / "gil.txt", "--gil"), watched(Path(folder) / "all.txt")
            began, cpu = time.perf_counter(), time.process_time()
            run = focam.compute_cam(dataset, workload.classifier, batch_size=workload.batch_size, progress=False)
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
            holders = None if spy is None else stopped(spy, Path(folder) / "gil.txt")
            runnable = None if second is None else stopped(second, Path(folder) / "all.txt")
        timing = run.record.timing or Timing()
        images = timing.images
        print(f"{images / seconds:,.0f} images/s, {1000 * cpu / images:.2f} ms of CPU an image in this process, with")
        for name in ("decoding", "forward", "maps", "writing"):
            print(f"  {name:<10}{1000 * getattr(timing, name) / images:6.2f} ms by the clock, threads together")
        if holders is None or runnable is None:
            print("no py-spy: install it for the share of the GIL")
            return
        got = min(1.0, cpu / (runnable.total() / RATE))
        once, held = got * holders.pop(ONCE, 0) / RATE, got * holders.total() / RATE
        print(f"threads that could run had a core {got:.0%} of the time; of CPU time,")
        print(f"the GIL is held {once:.2f} s to begin and to end the run, and {1000 * held / images:.2f} ms an image:")
        print(f"no number of cores feeds more than {images / held:,.0f} images/s from one process. By whom it is held:")
        for name, count in holders.most_common(12):
            print(f"  {1000 * got * count / RATE / images:6.3f} ms  {name}")
    finally:
        dataset.delete()
        foo.drop_database()


def watched(out: Path, *options: str) -> subprocess.Popen[bytes] | None:
    """py-spy beside this process; None where it is not installed."""
    found = shutil.which("py-spy", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        return None
    command = [found, "record", *options, "--rate", str(RATE), "--format", "raw", "--output", str(out), "--nonblocking"]
    spy = subprocess.Popen([*command, "--pid", str(os.getpid())], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(1)
    return spy


def stopped(spy: subprocess.Popen[bytes], out: Path) -> Counter[str]:
    """How often which function of this project was seen, itself or in what it called."""
    spy.send_signal(2)
    spy.wait(60)
    holders: Counter[str] = Counter()
    for line in out.read_text(encoding="utf-8").splitlines():
        stack, _, count = line.rpartition(" ")
        ours = [frame for frame in stack.split(";") if "fiftyone_cam/" in frame]
        inner = re.sub(r":\d+\)$", ")", ours[-1]) if ours else stack.split(";")[-1]
        in_run = any(frame.startswith("compute_cam (") for frame in ours)
        once = in_run and not any(each in stack for each in _FOR_EACH_IMAGE)
        holders[ONCE if once else inner] += int(count)
    return holders


if __name__ == "__main__":
    main()
