"""Processes that decode the same images: killed, or one after the other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from decoded_coco import N, check, fresh, lines
from helpers import environment, until

from cl_bench.data import DataPaths
from cl_bench.store import StoreWarning

DECODE = """
import sys, time, warnings
from pathlib import Path
from cl_bench.data import DataPaths, pictures, prepare, shards
from cl_bench.errors import DataWarning
from cl_bench.spec import COCOSpec
warnings.simplefilter("ignore", DataWarning)
shards.SHARD, shards.THREADS = 2 * 3 * 64 * 80, 1
read = pictures.ImageFiles.read
def slow(self, first, last):
    print(first, flush=True)
    time.sleep(float(sys.argv[3]))
    return read(self, first, last)
pictures.ImageFiles.read = slow
prepare(COCOSpec(name="coco", split="train2017"), DataPaths(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def decoder(places: DataPaths, pause: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", DECODE, str(places.root), str(places.cache), str(pause)]
    surroundings = environment(PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=surroundings)


@pytest.mark.slow
def test_kill_9_costs_no_more_than_the_shards_under_way(places, decodings, recwarn):
    for wanted in (1, 3):
        process = decoder(places, 0.1)
        until(lambda: lines(places) >= wanted, what="a shard in the journal")  # noqa: B023
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not list(places.cache.glob("*/manifest.json"))
    kept = lines(places)
    data = fresh(places)
    assert kept >= 3 and len(decodings) <= N - 2 * kept
    check(data, places)
    assert not [w for w in recwarn if issubclass(w.category, StoreWarning)], "what the journal has was on disk"


@pytest.mark.slow
def test_the_second_process_waits_for_the_first_and_decodes_nothing(places):
    processes = [decoder(places, 0.05) for _ in range(3)]
    decoded_by = [len(process.communicate(timeout=60)[0].split()) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(decoded_by) == [0, 0, N]
    check(fresh(places), places)


@pytest.mark.slow
def test_the_next_process_goes_on_when_the_first_one_is_killed(places):
    first = decoder(places, 0.1)
    until(lambda: lines(places) >= 1, what="a shard in the journal")
    second = decoder(places, 0.0)
    time.sleep(0.2)
    first.kill()
    assert len(second.communicate(timeout=60)[0].split()) <= N - 2
    first.wait()
    assert second.returncode == 0
    check(fresh(places), places)
