"""Examine this machine: the list of facts and checks, and the order in which they run."""

from __future__ import annotations

import importlib
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from vmae_det.doctor import data_checks, decoders, devices, export_checks, machine, packages, training_checks
from vmae_det.doctor.isolation import Check, CheckRunner, Stage
from vmae_det.doctor.report import FACT, FAILED, OK, SKIPPED, WARNING, Finding, Report

TIME_LIMIT = 110.0  # seconds; a check that is expected to end later is skipped
_PRECISIONS = ("none", "bf16", "fp16")
_TASKS = ("pretraining", "classification", "detection")
# Packages with compiled code, as (distribution, module, needed by every command).
_COMPILED = (
    ("torch", "torch", True),
    ("torchvision", "torchvision", True),
    ("av", "av", True),
    ("opencv-python-headless", "cv2", True),
    ("polars", "polars", True),
    ("pillow", "PIL.Image", True),
    ("pycocotools", "pycocotools.mask", False),
    ("decord", "decord", False),
    ("torchcodec", "torchcodec", False),
    ("onnxruntime", "onnxruntime", False),
    ("detectron2", "detectron2", False),
)
# Remedies other than to install the distribution again.
_REMEDIES = {
    "torch": "pip install --force-reinstall torch torchvision",
    "torchvision": "pip install --force-reinstall torch torchvision",
    "torchcodec": "apt-get install ffmpeg or conda install ffmpeg; use the torchcodec for your torch",
}


def examine(
    folder: Path,
    *,
    quick: bool = False,
    device: str = "auto",
    compiled: bool = True,
    time_limit: float = TIME_LIMIT,
) -> Report:
    """Examine this machine and return the report.

    Args:
        folder: folder of outputs, in which a file is written and whose disk is examined.
        quick: only collect facts.
        device: devices on which training is checked: auto, cpu, cuda or mps.
        compiled: also check torch.compile.
        time_limit: seconds; a check that is expected to end later is skipped.
    """
    start = time.monotonic()
    report = Report()
    with CheckRunner(time_limit) as runner:
        report.add(*machine.describe_machine(folder))
        imports = _import_checks()
        facts = [
            Check("devices", devices.describe_devices, section=devices.SECTION, timeout=120.0),
            Check("decoders", decoders.describe_decoders, needs=("av",), section=decoders.SECTION),
        ]
        if packages.installed_version("onnxruntime") or packages.installed_version("onnxruntime-gpu"):
            needs = ("onnxruntime",)
            facts.append(
                Check("onnxruntime", export_checks.onnx_providers, needs=needs, section=packages.SECTION)
            )
        runner.announce([*imports, *facts])
        import_findings = list(_run_imports(runner, imports))
        found_devices, found_decoders, *providers = [_as_facts(runner.run(check)) for check in facts]
        report.add(*found_devices, decoders.ffmpeg_program(), *found_decoders)
        report.add(*packages.describe_packages(), *import_findings, *itertools.chain(*providers))
        if not quick:
            names = runner.run(Check("readers", data_checks.reader_names, needs=("torch", "av")))
            checks = [
                *_data_checks(names, folder),
                *_export_checks(),
                *_training(found_devices, device, compiled),
            ]
            runner.announce(checks)
            report.add(*(f for f in names if f.name == "readers"))  # the error, if they cannot be listed
            report.add(*_missing_device(found_devices, device))
            for check in checks:
                if runner.broken.isdisjoint(check.needs):
                    report.add(*runner.run(check))
            report.add(*_not_run(checks, runner))
    report.seconds = time.monotonic() - start
    return report


# ---------------------------------------------------------------- imports


def import_module(stage: Stage, name: str) -> str:
    """Import a module; its errors are those of the check."""
    stage(f"importing {name}")
    importlib.import_module(name)
    return name


def _import_checks() -> list[Check]:
    return [
        Check(module, import_module, (module,), needs=(), section=packages.SECTION, timeout=90.0)
        for distribution, module, is_required in _COMPILED
        if is_required or packages.installed_version(distribution)
    ]


def _run_imports(runner: CheckRunner, checks: list[Check]) -> Iterator[Finding]:
    """Yield a finding for each module that cannot be imported. Optional ones are warnings."""
    required = {module for _, module, is_required in _COMPILED if is_required}
    distributions = {module: distribution for distribution, module, _ in _COMPILED}
    working = []
    for check in checks:
        (finding,) = runner.run(check)
        if finding.status == OK:
            working.append(check.name)
            continue
        runner.broken.add(check.name.partition(".")[0])
        status, remedy = finding.status, finding.remedy
        if status == FAILED:
            status = FAILED if check.name in required else WARNING
            reinstall = f"pip install --force-reinstall {distributions[check.name]}"
            remedy = _REMEDIES.get(check.name, reinstall)
        yield Finding(packages.SECTION, f"import {check.name}", status, finding.text, remedy)
    yield Finding(packages.SECTION, "imports", FACT, ", ".join(working) or "none")


def _as_facts(findings: list[Finding]) -> list[Finding]:
    """Convert the results of checks to facts."""
    return [
        replace(f, status=FACT if f.seconds is not None and f.status == OK else f.status, seconds=None)
        for f in findings
    ]


# ---------------------------------------------------------------- checks


def _data_checks(names: list[Finding], folder: Path) -> Iterator[Check]:
    yield Check("write a file", data_checks.check_writing, (os.path.abspath(folder),), needs=())
    yield Check("/dev/shm", data_checks.check_shared_memory)
    for finding in names:
        if finding.name != "readers":
            yield Check(f"reader {finding.name}", data_checks.check_reader, (finding.name,), needs=("av",))
    yield Check("loader workers", data_checks.check_loader, needs=("torch", "av"), expected=2.0)


def _export_checks() -> Iterator[Check]:
    for form, name in (("torch", "torch.export"), ("onnx", "ONNX")):
        needs = ("torch", "torchvision", "av")
        yield Check(f"export to {name}", export_checks.check_export, (form,), needs=needs, expected=5.0)


def _training(facts: list[Finding], choice: str, compiled: bool) -> Iterator[Check]:
    """Yield the checks of training; those of torch.compile, which take longest, come last."""
    usable = [name for name in devices.usable_devices(facts) if choice in ("auto", name.partition(":")[0])]
    needs = ("torch", "torchvision")
    for name in usable:
        for task in _TASKS:
            precisions = ("none",) if name == "mps" else _PRECISIONS
            arguments = (task, name, precisions, False)
            yield Check(f"{task} on {name}", training_checks.check_training, arguments, 90.0, 2.0, needs)
    if "cpu" in usable:
        yield Check("DDP on the CPU", training_checks.check_ddp, ("cpu", 2), 90.0, 5.0, needs)
    gpus = sum(f.name.startswith("GPU ") and f.status != FAILED for f in facts)
    if gpus and choice in ("auto", "cuda"):
        yield Check(f"DDP on {gpus} GPU(s)", training_checks.check_ddp, ("cuda", gpus), 120.0, 15.0, needs)
    for name in usable if compiled else ():
        if name == "mps":
            continue
        # On the CPU, a C++ compiler takes half a minute for each precision.
        precisions = ("none",) if name == "cpu" else _PRECISIONS
        for task in ("detection", "classification", "pretraining"):
            arguments = (task, name, precisions, True)
            title = f"compiled {task} on {name}"
            yield Check(title, training_checks.check_training, arguments, 120.0, 20.0, needs)


def _not_run(checks: list[Check], runner: CheckRunner) -> Iterator[Finding]:
    """Yield one finding for all checks that need a module which cannot be imported."""
    checks = [check for check in checks if not runner.broken.isdisjoint(check.needs)]
    if checks:
        modules = ", ".join(sorted({need for check in checks for need in check.needs} & runner.broken))
        text = f"they need {modules}: {', '.join(check.name for check in checks)}"
        yield Finding("Checks", f"{len(checks)} checks", SKIPPED, text, "repair the imports that failed", 0.0)


def _missing_device(facts: list[Finding], choice: str) -> Iterator[Finding]:
    if choice != "auto" and choice not in {name.partition(":")[0] for name in devices.usable_devices(facts)}:
        text = f"--device {choice}: torch finds no such device"
        yield Finding("Checks", choice, FAILED, text, "see the facts about PyTorch and GPUs above", 0.0)
    if choice == "auto":
        skipped = [f for f in facts if f.name == "GPU" and f.status == FACT]
        if skipped:
            yield Finding(
                "Checks",
                "GPU",
                SKIPPED,
                "no GPU",
                "nothing to do; if there is one, install its driver and a build of torch for it",
                0.0,
            )
