"""Many runs of the simulator, on all cores: what `everopen torture` does, and the tests."""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import count, islice
from typing import NamedTuple

from tests.faults.simulator import run
from tests.faults.steps import Mix, mix_of, steps_of
from tests.shrinking import shrink

PROCESSES = 2
LEAST_PRIORITY = 19
CHUNK_SEEDS = 25
PROGRESS_EVERY_S = 10.0


class Outcome(NamedTuple):
    """Of some seeds: how many ran, what was met, and the first that failed, in words (empty: none)."""

    seeds: int
    seen: Counter[str]
    failure: str


def report(seed: int, mutant: str = "", mix: Mix | None = None) -> str:
    """Why a seed fails, and the fewest of its steps that still do; empty if it does not."""
    steps = steps_of(seed, mix)
    wrong, _ = run(seed, steps, mutant)
    if not wrong:
        return ""
    kind = _kind_of(wrong)
    short = shrink(steps, lambda fewer: _kind_of(run(seed, fewer, mutant)[0]) == kind)
    lines = [f"seed {seed} ({(mix or mix_of(seed)).name}), {len(steps)} steps: {wrong}"]
    return "\n".join([*lines, f"shrunk to {len(short)} steps: {run(seed, short, mutant)[0]}", *map(str, short)])


def _kind_of(wrong: str) -> str:
    """Without numbers, so that a shorter sequence counts only if it fails in the same way."""
    return re.sub("[0-9]+", "", wrong.partition("\n")[0])


def run_chunk(seeds: list[int], mutant: str = "", mix: Mix | None = None) -> Outcome:
    seen: Counter[str] = Counter()
    for done, seed in enumerate(seeds):
        wrong, met = run(seed, steps_of(seed, mix), mutant)
        seen += met
        if wrong:
            return Outcome(done + 1, seen, report(seed, mutant, mix))
    return Outcome(len(seeds), seen, "")


def run_many(seeds: Iterable[int], mutant: str = "") -> Iterator[Outcome]:
    """Chunk by chunk, as they are done; ends after the first that failed."""
    chunks = iter(seeds)
    # Not forked: a child must not inherit what the starting process loaded.
    context = multiprocessing.get_context("spawn")
    # They compute all the time: who waits for an engine's processes meanwhile comes first.
    with ProcessPoolExecutor(PROCESSES, context, os.nice, (LEAST_PRIORITY,)) as pool:
        waiting: dict[Future[Outcome], list[int]] = {}
        while True:
            while len(waiting) < 2 * PROCESSES and (chunk := list(islice(chunks, CHUNK_SEEDS))):
                waiting[pool.submit(run_chunk, chunk, mutant)] = chunk
            if not waiting:
                return
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                outcome = _outcome(future, waiting.pop(future))
                yield outcome
                if outcome.failure:
                    pool.shutdown(cancel_futures=True)
                    return


def _outcome(future: Future[Outcome], chunk: list[int]) -> Outcome:
    try:
        return future.result()
    except BrokenProcessPool:
        words = f"a process ended by itself while it ran seeds of {chunk[0]} to {chunk[-1]}, or those beside them"
        return Outcome(len(chunk), Counter(), words)


def torture(seed: int, seeds: int, hours: float, mutant: str) -> int:
    """Prints a line of progress now and then, and what fails. Exit code 1: something did."""
    began = told = time.monotonic()
    until = began + 3_600 * hours
    done = 0
    seen: Counter[str] = Counter()
    chosen = count(seed) if hours else range(seed, seed + seeds)
    for outcome in run_many(chosen, mutant):
        done += outcome.seeds
        seen += outcome.seen
        now = time.monotonic()
        if outcome.failure:
            print(outcome.failure, flush=True)
            return 1
        if now - told >= PROGRESS_EVERY_S:
            told = now
            print(_progress(done, now - began, seen), file=sys.stderr, flush=True)
        if hours and now > until:
            break
    print(_progress(done, time.monotonic() - began, seen), flush=True)
    return 0


def _progress(done: int, seconds: float, seen: Counter[str]) -> str:
    kinds = ", ".join(f"{kind} {number}" for kind, number in sorted(seen.items()))
    return f"{done} seeds, {done / max(seconds, 0.001):.0f} a second: {kinds}"
