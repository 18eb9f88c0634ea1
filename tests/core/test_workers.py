"""Threads that can be left behind: whatever one task or thread does, every other task is done, once, in order."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fiftyone_cam.core.errors import CamError, NotDoneError
from fiftyone_cam.core.limits import Limits, limits
from fiftyone_cam.core.workers import SharedExclusiveLock, Workers

ROOT = Path(__file__).parents[2]


def kill(thread: threading.Thread) -> None:
    """End a Python thread from outside, at its next instruction, as a debugger or an embedding server can."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))


def named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def test_results_and_errors_come_in_order_and_no_thread_stays():
    with Workers(4, name="ordered") as workers:
        tasks = [workers.submit(divmod, 100, number) for number in range(50)]
        with pytest.raises(ZeroDivisionError):
            workers.result(tasks[0])
        assert [workers.result(task) for task in tasks[1:]] == [divmod(100, number) for number in range(1, 50)]
        assert len(named("ordered")) == 4
    assert not named("ordered")


def test_what_hangs_costs_itself_and_its_place_is_taken():
    free = threading.Event()
    started = time.monotonic()
    with Workers(2, seconds=0.3, name="hanging") as workers:
        tasks = [workers.submit(free.wait if number in (1, 2, 3, 7) else int, number) for number in range(20)]
        tasks[1].args = tasks[2].args = tasks[3].args = tasks[7].args = (60,)
        found = []
        for task in tasks:
            try:
                found.append(workers.result(task))
            except NotDoneError as error:
                found.append(str(error))
    late = "cannot be read: not done within 0.3 s"
    assert found == [late if number in (1, 2, 3, 7) else number for number in range(20)]
    assert time.monotonic() - started < 10, "the hanging threads were waited for"
    assert len(named("hanging")) == 4
    free.set()
    for thread in named("hanging"):
        thread.join(10)
    assert not named("hanging"), "a thread whose place was taken went on"


def test_a_task_that_is_slow_and_returns_in_time_is_not_cut_off():
    with Workers(1, seconds=2) as workers:
        tasks = [workers.submit(time.sleep, 0.5) for _ in range(5)]  # together more than each alone may take
        assert [workers.result(task) for task in tasks] == [None] * 5


def test_a_storage_that_is_gone_ends_it():
    free = threading.Event()
    with Workers(8, seconds=0.01, name="gone") as workers:
        tasks = iter([workers.submit(free.wait, 60) for _ in range(100)])
        for _ in range(64):
            with pytest.raises(NotDoneError):
                workers.result(next(tasks))
        with pytest.raises(CamError, match=r"65 files hang.*is their storage there\?"):
            workers.result(next(tasks))
    free.set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("when", ["idle", "at work"])
def test_a_thread_that_dies_is_replaced_and_nothing_is_lost(when):
    done: list[int] = []
    begun = threading.Semaphore(0)

    def work(number: int) -> int:
        begun.release()
        for _ in range(20):  # instructions at which a thread can end
            time.sleep(0.005)
        done.append(number)
        return number

    with Workers(2, name="dying") as workers:
        if when == "idle":
            for thread in named("dying"):
                kill(thread)  # takes effect as soon as it gets a task: with that task in hand
            tasks = [workers.submit(work, number) for number in range(6)]
        else:
            tasks = [workers.submit(work, number) for number in range(6)]
            assert all(begun.acquire(timeout=30) for _ in range(2))  # both threads are at work
            for thread in named("dying"):
                kill(thread)
        assert [workers.result(task) for task in tasks] == list(range(6))
    assert sorted(done) == list(range(6))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_task_that_kills_its_thread_is_given_up():
    def deadly() -> None:
        raise SystemExit

    with Workers(1) as workers:
        tasks = [workers.submit(deadly), workers.submit(int, 7)]
        with pytest.raises(NotDoneError, match="died, twice"):
            workers.result(tasks[0])
        assert workers.result(tasks[1]) == 7


def test_a_hanging_thread_does_not_keep_the_interpreter(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    code = f"""
from fiftyone_cam.core.errors import NotDoneError
from fiftyone_cam.core.workers import Workers
with Workers(2, seconds=0.2) as workers:
    task = workers.submit(open, {str(fifo)!r})  # waits for a writer that never comes
    try:
        workers.result(task)
    except NotDoneError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "cannot be read: not done within 0.2 s\n"


def test_fewer_threads_than_asked_for_will_do():
    """A real limit on threads, in a process of its own whose user has no other."""
    code = """
import os, resource
from fiftyone_cam.core.workers import Workers
os.setuid(54321)  # root is exempt
resource.setrlimit(resource.RLIMIT_NPROC, (4, 4))
with Workers(64) as workers:
    tasks = [workers.submit(int, number) for number in range(100)]
    print(sum(workers.result(task) for task in tasks), len(workers._threads) < 64)
"""
    if os.geteuid() != 0:
        pytest.skip("only root can become a user of no other process")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "4950 True\n", done.stderr


# the limits


def test_limits_are_the_environments(monkeypatch):
    assert limits() == Limits()
    monkeypatch.setenv("FIFTYONE_CAM_MAX_PIXELS", "1e6")
    monkeypatch.setenv("FIFTYONE_CAM_FILE_SECONDS", "2.5")
    assert limits() == Limits(1_000_000, 2.5)
    monkeypatch.setenv("FIFTYONE_CAM_FILE_SECONDS", "0")
    assert limits().seconds is None


@pytest.mark.parametrize("text", ["many", "-1", "nan", "inf"])
@pytest.mark.parametrize("name", ["FIFTYONE_CAM_MAX_PIXELS", "FIFTYONE_CAM_FILE_SECONDS"])
def test_a_limit_that_is_none_is_named(monkeypatch, name, text):
    monkeypatch.setenv(name, text)
    with pytest.raises(CamError, match=f"{name} is '{text}', expected a number"):
        limits()


def test_alone_is_alone_and_the_others_are_many_at_once():
    lock, inside, most, alone = SharedExclusiveLock(), [0], [0], [0]
    guard, together = threading.Lock(), threading.Barrier(3, timeout=30)

    def shared(meet: bool) -> None:
        with lock.shared():
            with guard:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            if meet:
                together.wait()
            with guard:
                inside[0] -= 1

    def by_itself() -> None:
        with lock.exclusive():
            assert inside == [0]
            inside[0] += 1
            time.sleep(0.001)
            assert inside == [1]
            inside[0] -= 1
            alone[0] += 1

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(shared, True) for _ in range(3)]:
            done.result()
    assert most == [3]
    with ThreadPoolExecutor(12) as pool:
        for done in [pool.submit(by_itself) if i % 4 == 0 else pool.submit(shared, False) for i in range(200)]:
            done.result()
    assert (inside, alone) == ([0], [50])


def test_who_wants_to_be_alone_does_not_starve_among_those_who_share():
    lock, stop, got = SharedExclusiveLock(), threading.Event(), threading.Event()
    overlap = threading.Barrier(2, timeout=30)

    def share() -> None:
        with lock.shared():
            overlap.wait()  # from here on, one of the two is always inside
            while not stop.is_set():
                time.sleep(0.001)
        # done with what it was at; like a stream with its next batch, it comes again at once
        while not got.is_set():
            with lock.shared():
                time.sleep(0.001)

    def by_itself() -> None:
        with lock.exclusive():
            got.set()

    with ThreadPoolExecutor(3) as pool:
        sharing = [pool.submit(share) for _ in range(2)]
        alone = pool.submit(by_itself)
        time.sleep(0.05)
        assert not got.is_set()
        stop.set()
        alone.result(30)
        for done in sharing:
            done.result(30)


def test_who_is_interrupted_while_waiting_to_be_alone_keeps_nobody_out():
    """Ctrl-C, in a process of its own: a signal reaches only a main thread."""
    code = """
import os, signal, threading
from fiftyone_cam.core.workers import SharedExclusiveLock
signal.signal(signal.SIGINT, signal.default_int_handler)
lock, inside, leave = SharedExclusiveLock(), threading.Event(), threading.Event()
def share():
    with lock.shared():
        inside.set()
        leave.wait(30)
thread = threading.Thread(target=share)
thread.start()
inside.wait(30)
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    with lock.exclusive():
        print("it did not wait")
except KeyboardInterrupt:
    print("interrupted")
another = threading.Thread(target=share, daemon=True)
leave.set()
another.start()
another.join(10)
print("kept out" if another.is_alive() else "came in")
with lock.exclusive():
    print("alone")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split("\n")[:3] == ["interrupted", "came in", "alone"]


# many items


@pytest.mark.parametrize(("count", "ahead"), [(1, 1), (2, 3), (4, 100)])
def test_items_come_in_order_and_no_more_are_read_than_asked_for(count, ahead):
    read: list[int] = []

    def items():
        for number in range(40):
            read.append(number)
            yield number

    with Workers(count) as workers:
        for taken, (number, task) in enumerate(workers.imap(lambda number: number * number, items(), ahead=ahead)):
            assert len(read) <= taken + ahead
            assert (number, workers.result(task)) == (taken, taken * taken)
    assert read == list(range(40))
    with Workers(1) as workers:
        assert list(workers.imap(abs, [], ahead=3)) == []


def test_what_was_handed_out_is_not_kept():
    class Picture:
        pass

    alive: list[weakref.ref[Picture]] = []

    def decode(_: int) -> Picture:
        picture = Picture()
        alive.append(weakref.ref(picture))
        return picture

    with Workers(1) as workers:
        for _, task in workers.imap(decode, range(20), ahead=4):
            workers.result(task)
            del task
            assert sum(picture() is not None for picture in alive) <= 4 + 1  # and the one in the thread's hands
