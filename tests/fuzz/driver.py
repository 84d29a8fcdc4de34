"""Run every command on bad inputs; tell of each that ends in a traceback, a crash, a hang, or without a word.

    python -m tests.fuzz.driver --count 20000 --seed 1

An input is right if the command ends with status 0 or 1, or with status 2 and one line that says "error:".
Commands run in worker processes of limited memory, one after the other, as `main` is called by vmae-det.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import json
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, Queue

from tests.fuzz.commands import COMMANDS, Input, every_input, good_input, is_slow
from tests.fuzz.good_files import make_site

ROOT = Path(__file__).parents[2]
MEMORY = 8 << 30  # bytes of data that a worker may hold


def choose(site: Path, scratch: Path, count: int, seed: int, quick: bool = False) -> list[Input]:
    """`count` inputs, spread over the commands as evenly as they allow; first each command as it works.

    Args:
        quick: without those that take many seconds.
    """
    groups: dict[int, list[Input]] = {}
    for found in every_input(site, scratch, seed):
        if not (quick and is_slow(found)):
            groups.setdefault(found.command, []).append(found)
    draw = random.Random(seed)
    for group in groups.values():
        draw.shuffle(group)
    chosen: list[Input] = []
    while len(chosen) < count and any(groups.values()):
        chosen += [group.pop() for group in groups.values() if group]
    good = [] if quick else [good_input(number, site) for number in range(len(COMMANDS))]
    return good + chosen


def run_all(inputs: list[Input], site: Path, workers: int, patience: int) -> Iterator[dict]:
    """The outcome of each input, as the workers find it."""
    waiting: Queue[Input] = Queue()
    for one in inputs:
        waiting.put(one)
    results: Queue[dict | None] = Queue()
    for _ in range(workers):
        threading.Thread(target=_feed, args=(waiting, results, site, patience), daemon=True).start()
    left = workers
    while left:
        result = results.get()
        if result is None:
            left -= 1
        else:
            yield result


def _feed(waiting: Queue, results: Queue, site: Path, patience: int) -> None:
    """Hand inputs to a worker process, and start another when it is lost."""
    process = None
    while True:
        try:
            one = waiting.get_nowait()
        except Empty:
            break
        if process is None:
            process = _start(patience)
        began = time.monotonic()
        process.stdin.write(json.dumps([one.what, one.words]) + "\n")
        process.stdin.flush()
        killer = threading.Timer(patience + 30, process.kill)
        killer.start()
        line = process.stdout.readline()
        killer.cancel()
        if line:
            result = json.loads(line)
        else:
            process.wait()
            hung = time.monotonic() - began > patience
            fault = "hang" if hung else f"crash, status {process.returncode}"
            result, process = {"fault": fault, "printed": ""}, None
        results.put({**result, "what": one.what, "words": one.words, "seconds": time.monotonic() - began})
    if process is not None:
        process.stdin.close()
        process.wait()
    results.put(None)


def _start(patience: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.fuzz.driver", "--worker", str(patience)]
    # Names that are not UTF-8 travel as JSON escapes.
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)


# ---------------------------------------------------------------- worker


class TooSlow(BaseException):
    """Raised in a command that takes too long."""


def work(patience: int) -> None:
    """Run the inputs that come on stdin; what a command prints, its libraries too, goes into a file."""
    import torch

    from vmae_det.cli.main import main

    torch.set_num_threads(1)
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, _too_slow)
    orders, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        printed = (folder / "printed").open("w+b")
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
        for number, line in enumerate(orders):
            place = folder / str(number)
            make_place(place)
            os.chdir(place)
            printed.seek(0)
            printed.truncate()
            fault = run(main, json.loads(line)[1], patience)
            sys.stdout.flush()
            sys.stderr.flush()
            printed.seek(0)
            text = printed.read().decode("utf-8", "replace")
            fault = fault or judge(text)
            answers.write(json.dumps({"fault": fault, "printed": text[-4000:]}) + "\n")
            answers.flush()
            os.chdir(folder)
            shutil.rmtree(place, ignore_errors=True)


def make_place(folder: Path) -> None:
    """The working directory of a command, with what makes its outputs bad."""
    (folder / "folder").mkdir(parents=True)
    (folder / "file").write_text("keep")
    (folder / "lost").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")


def _too_slow(*_: object) -> None:
    raise TooSlow


_status = 0


def run(main: Callable, words: list[str], patience: int) -> str:
    """Call a command; gives its fault, "" where `judge` shall say."""
    global _status
    signal.alarm(patience)
    try:
        _status = main(words)
    except SystemExit as end:
        _status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except TooSlow:
        return "hang"
    except BaseException:
        print(traceback.format_exc(), file=sys.stderr)
        return "traceback"
    finally:
        signal.alarm(0)
        _forget()
    return ""


def _forget() -> None:
    """Close what a command leaves open in a process that goes on."""
    logger = logging.getLogger("vmae_det")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        with contextlib.suppress(OSError, ValueError):
            handler.close()


def judge(printed: str) -> str:
    """The fault of a command that has ended, "" for none."""
    if "Traceback (most recent call last)" in printed:
        return "traceback"
    if _status in (0, 1):
        return ""
    if _status != 2:
        return f"status {_status}"
    said = [line for line in io.StringIO(printed) if "error:" in line]
    return "" if len(said) == 1 and len(said[0]) < 2000 else f"{len(said)} lines that say error"


# ---------------------------------------------------------------- the whole


def fuzz(
    count: int,
    seed: int,
    workers: int,
    folder: Path,
    patience: int = 60,
    part: slice = slice(None),
    quick: bool = False,
    mini_ava: Path | None = None,
) -> tuple[Counter, list[dict]]:
    """Make the site, run the inputs; gives how they ended, and those that ended badly."""
    site = make_site(folder / "site", mini_ava)
    inputs = choose(site, folder / "scratch", count, seed, quick)[part]
    ended: Counter = Counter()
    bad = []
    for done, result in enumerate(run_all(inputs, site, workers, patience), start=1):
        ended[result["fault"].partition(",")[0] or "right"] += 1
        if result["fault"]:
            bad.append(result)
        if sys.stderr.isatty() or done % 500 == 0:
            print(f"{done}/{len(inputs)}: {dict(ended)}", file=sys.stderr)
    return ended, bad


def report(bad: list[dict]) -> str:
    """Each fault with its command and the end of what it printed."""
    parts = []
    for result in bad:
        words = " ".join(word if len(word) < 200 else word[:60] + "..." for word in result["words"])
        end = "\n".join(result["printed"].splitlines()[-12:])
        parts.append(
            f"=== {result['fault']} after {result['seconds']:.1f} s: {result['what']}\n{words}\n{end}"
        )
    return "\n".join(parts).encode("utf-8", "replace").decode()


def command_line() -> int:
    """Run as a program; gives the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--patience", type=int, default=60, help="seconds that a command may take")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ended, bad = fuzz(args.count, args.seed, args.workers, Path(folder), args.patience)
    print(report(bad))
    print(f"{sum(ended.values())} inputs: {dict(ended)}")
    return 1 if bad else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(int(sys.argv[2]))
    else:
        sys.exit(command_line())
