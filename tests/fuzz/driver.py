"""Run every command on bad inputs, and report tracebacks, crashes, hangs and missing error messages.

    python -m tests.fuzz.driver --count 20000 --seed 1

An input passes if the command exits with status 0 or 1, or with status 2 and one line that contains "error:".
Commands run in worker processes with limited memory, through `main` as in vmae-det, one at a time per worker.
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
MEMORY = 8 << 30  # limit of a worker's data segment in bytes


def choose(site: Path, scratch: Path, count: int, seed: int, quick: bool = False) -> list[Input]:
    """Return the valid input of each command, then `count` bad ones, spread evenly over the commands.

    Args:
        quick: skip the valid inputs, and the inputs that take many seconds.
    """
    groups: dict[int, list[Input]] = {}
    for fuzz_input in every_input(site, scratch, seed):
        if not (quick and is_slow(fuzz_input)):
            groups.setdefault(fuzz_input.command, []).append(fuzz_input)
    draw = random.Random(seed)
    for group in groups.values():
        draw.shuffle(group)
    chosen: list[Input] = []
    while len(chosen) < count and any(groups.values()):
        chosen += [group.pop() for group in groups.values() if group]
    good = [] if quick else [good_input(number, site) for number in range(len(COMMANDS))]
    return good + chosen


def run_all(inputs: list[Input], workers: int, timeout: int) -> Iterator[dict]:
    """Yield the result of each input, in the order in which the workers finish."""
    pending: Queue[Input] = Queue()
    for fuzz_input in inputs:
        pending.put(fuzz_input)
    results: Queue[dict | None] = Queue()
    for _ in range(workers):
        threading.Thread(target=_run_worker, args=(pending, results, timeout), daemon=True).start()
    running = workers
    while running:
        result = results.get()
        if result is None:
            running -= 1
        else:
            yield result


def _run_worker(pending: Queue, results: Queue, timeout: int) -> None:
    """Send inputs to a worker process, and start another one when it is lost."""
    process = None
    while True:
        try:
            fuzz_input = pending.get_nowait()
        except Empty:
            break
        if process is None:
            process = _start(timeout)
        began = time.monotonic()
        process.stdin.write(json.dumps(fuzz_input.words) + "\n")
        process.stdin.flush()
        killer = threading.Timer(timeout + 30, process.kill)
        killer.start()
        line = process.stdout.readline()
        killer.cancel()
        if line:
            result = json.loads(line)
        else:
            process.wait()
            hung = time.monotonic() - began > timeout
            fault = "hang" if hung else f"crash, status {process.returncode}"
            result, process = {"fault": fault, "printed": ""}, None
        description = {"what": fuzz_input.what, "words": fuzz_input.words}
        results.put({**result, **description, "seconds": time.monotonic() - began})
    if process is not None:
        process.stdin.close()
        process.wait()
    results.put(None)


def _start(timeout: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.fuzz.driver", "--worker", str(timeout)]
    # Names that are not UTF-8 are sent as JSON escapes.
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)


# ---------------------------------------------------------------- worker


class CommandTimeoutError(BaseException):
    """Raised in a command that exceeds the timeout."""


def work(timeout: int) -> None:
    """Run the inputs read from stdin. The output of a command and of its libraries is written to a file."""
    import torch

    from vmae_det.cli.main import main

    torch.set_num_threads(1)
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, _raise_timeout)
    requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        printed = (folder / "printed").open("w+b")
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
        for number, line in enumerate(requests):
            working_folder = folder / str(number)
            make_working_folder(working_folder)
            os.chdir(working_folder)
            printed.seek(0)
            printed.truncate()
            fault, status = run(main, json.loads(line), timeout)
            sys.stdout.flush()
            sys.stderr.flush()
            printed.seek(0)
            text = printed.read().decode("utf-8", "replace")
            fault = fault or check_output(status, text)
            replies.write(json.dumps({"fault": fault, "printed": text[-4000:]}) + "\n")
            replies.flush()
            os.chdir(folder)
            shutil.rmtree(working_folder, ignore_errors=True)


def make_working_folder(folder: Path) -> None:
    """Create the working folder of a command, with files and links that cannot be outputs."""
    (folder / "folder").mkdir(parents=True)
    (folder / "file").write_text("keep")
    (folder / "lost").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")


def _raise_timeout(*_: object) -> None:
    raise CommandTimeoutError


def run(main: Callable, words: list[str], timeout: int) -> tuple[str, int]:
    """Run a command. Return its fault ("" if it has exited) and its exit status."""
    signal.alarm(timeout)
    try:
        return "", main(words)
    except SystemExit as end:
        return "", end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except CommandTimeoutError:
        return "hang", 0
    except BaseException:
        print(traceback.format_exc(), file=sys.stderr)
        return "traceback", 0
    finally:
        signal.alarm(0)
        _close_log_files()


def _close_log_files() -> None:
    """Close the log files that a command leaves open."""
    logger = logging.getLogger("vmae_det")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        with contextlib.suppress(OSError, ValueError):
            handler.close()


def check_output(status: int, printed: str) -> str:
    """Return the fault of a command that has exited, or ""."""
    if "Traceback (most recent call last)" in printed:
        return "traceback"
    if status in (0, 1):
        return ""
    if status != 2:
        return f"status {status}"
    errors = [line for line in io.StringIO(printed) if "error:" in line]
    return "" if len(errors) == 1 and len(errors[0]) < 2000 else f"{len(errors)} lines with an error"


# ---------------------------------------------------------------- main


def fuzz(
    count: int,
    seed: int,
    workers: int,
    folder: Path,
    timeout: int = 60,
    quick: bool = False,
    mini_ava: Path | None = None,
) -> tuple[Counter, list[dict]]:
    """Create the input files and run the inputs. Return the number of each outcome, and the failures."""
    site = make_site(folder / "site", mini_ava)
    inputs = choose(site, folder / "scratch", count, seed, quick)
    outcomes: Counter = Counter()
    failures = []
    for done, result in enumerate(run_all(inputs, workers, timeout), start=1):
        outcomes[result["fault"].partition(",")[0] or "passed"] += 1
        if result["fault"]:
            failures.append(result)
        if sys.stderr.isatty() or done % 500 == 0:
            print(f"{done}/{len(inputs)}: {dict(outcomes)}", file=sys.stderr)
    return outcomes, failures


def report(failures: list[dict]) -> str:
    """Return each fault with its command and the end of its output."""
    parts = []
    for result in failures:
        words = " ".join(word if len(word) < 200 else word[:60] + "..." for word in result["words"])
        end = "\n".join(result["printed"].splitlines()[-12:])
        parts.append(
            f"=== {result['fault']} after {result['seconds']:.1f} s: {result['what']}\n{words}\n{end}"
        )
    return "\n".join(parts).encode("utf-8", "replace").decode()


def command_line() -> int:
    """Parse the arguments, run the inputs and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--timeout", type=int, default=60, help="timeout of a command in seconds")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes, failures = fuzz(args.count, args.seed, args.workers, Path(folder), args.timeout)
    print(report(failures))
    print(f"{sum(outcomes.values())} inputs: {dict(outcomes)}")
    return 1 if failures else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(int(sys.argv[2]))
    else:
        sys.exit(command_line())
