"""`vmae-det doctor` reports this machine, and names what is broken with its cure."""

import dataclasses
import errno
import importlib.metadata
import json
import os
import re
import shutil
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from vmae_det.cli import doctor
from vmae_det.cli.main import main
from vmae_det.doctor import (
    data_checks,
    decoders,
    devices,
    examine,
    export_checks,
    isolation,
    machine,
    packages,
)
from vmae_det.doctor import training_checks as training
from vmae_det.doctor.isolation import CONTEXT, Check, CheckRunner, Problem, explain
from vmae_det.doctor.report import FACT, FAILED, OK, SKIPPED, WARNING, Finding, Report, anonymous
from vmae_det.utils.errors import ConfigError, DataError, OutputError
from vmae_det.video.readers import READER_REGISTRY, PyAVReader

Usage = namedtuple("Usage", "total used free")
GB = 10**9


def ignore(_):
    """A stage function."""


def check(function, *args):
    """Run a check in this process and return its finding."""
    it = Check("it", function, args)
    (finding,) = isolation._findings(it, isolation._guarded(it, ignore), 0.0)
    return finding


# ---------------------------------------------------------------- the whole report, once


@pytest.fixture(scope="session")
def examined(tmp_path_factory):
    """The report of this machine. torch.compile is left to tests/engine: it takes a minute."""
    return examine.examine(tmp_path_factory.mktemp("outputs"), compiled=False, time_limit=300)


@pytest.fixture(scope="session")
def server():
    """Let the server from which processes are forked import torch once."""
    CONTEXT.set_forkserver_preload(["vmae_det.doctor.preload"])


def test_this_machine_passes(examined):
    problems = [f for f in examined.findings if f.status == FAILED]
    assert not problems
    assert examined.status in (OK, WARNING)
    done = {f.name for f in examined.findings if f.seconds is not None and f.status == OK}
    assert {f"{task} on cpu" for task in ("pretraining", "classification", "detection")} <= done
    assert {"DDP on the CPU", "reader pyav", "reader images", "loader workers", "write a file"} <= done
    assert {"export to torch.export", "export to ONNX"} <= done
    names = {f.name.removeprefix("reader ") for f in examined.findings if f.name.startswith("reader ")}
    assert names == {"pyav", "decord", "torchcodec", "nvdec", "images"}


def test_the_report_fits_one_screen(examined):
    lines = examined.render().splitlines()
    assert len(lines) <= 62
    assert max(map(len, lines)) <= 120
    assert "\033" not in examined.render()
    assert "\033" in examined.render(color=True)
    facts = {f.name for f in examined.findings if f.seconds is None}
    assert {"vmae_det", "system", "Python", "CPU", "memory", "PyTorch", "PyAV", "required"} <= facts
    assert {"disk, outputs", "disk, temporary", "hardware decoding", "ffmpeg program", "imports"} <= facts


def test_the_report_is_anonymous(examined):
    text = examined.render() + json.dumps(examined.to_json())
    for private in (os.path.expanduser("~") + "/", os.getcwd(), str(Path(examine.__file__).parents[2])):
        assert private not in text


def test_json_has_the_documented_keys(examined):
    data = json.loads(json.dumps(examined.to_json()))
    page = Path(__file__).parents[2] / "docs" / "guides" / "doctor.md"
    if page.is_file():
        documented = re.findall(r"^\| `(\w+)` \|", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(documented) == {*data, *data["facts"][0], *data["checks"][0]}
    assert (data["format"], data["status"]) == (1, examined.status)
    assert isinstance(data["seconds"], float)
    assert len(data["facts"]) + len(data["checks"]) == len(examined.findings)
    statuses = {OK, WARNING, FAILED, SKIPPED}
    for finding in data["facts"]:
        assert list(finding) == ["section", "name", "status", "text", "remedy"]
        assert all(isinstance(value, str) for value in finding.values())
        assert finding["status"] in {FACT, *statuses}
    for finding in data["checks"]:
        assert list(finding) == ["section", "name", "status", "text", "remedy", "seconds"]
        assert finding["status"] in statuses
        assert isinstance(finding["seconds"], float)
    for finding in (*data["facts"], *data["checks"]):
        assert bool(finding["remedy"]) == (finding["status"] not in (FACT, OK)), finding


# ---------------------------------------------------------------- command


@pytest.mark.parametrize(("status", "code"), [(OK, 0), (WARNING, 0), (FAILED, 1)])
def test_exit_status_and_json_file(monkeypatch, tmp_path, capsys, status, code):
    report = Report()
    report.add(Finding("Checks", "reader decord", status, "frame 3 shows frame 4", "use pyav", 0.5))
    monkeypatch.setattr(examine, "examine", lambda folder, **options: report)
    assert main(["doctor", "--json", str(tmp_path / "r.json")]) == code
    assert json.loads((tmp_path / "r.json").read_text())["status"] == status
    shown = capsys.readouterr().out
    assert f"  {status:<7}   0.5 s  reader decord: frame 3 shows frame 4" in shown
    assert f"1 {status}; 0 s" in shown


@pytest.mark.parametrize("argument", ["--device=gpu", "--time-limit=0", "--json=/nowhere/x"])
def test_wrong_usage_has_status_2(argument):
    if argument.startswith("--json") and os.geteuid() == 0:
        argument = "--json=/dev/null/x"
    with pytest.raises(SystemExit) as end:
        main(["doctor", argument])
    assert end.value.code == 2


def test_defaults_of_the_command_and_of_the_function_are_equal():
    import argparse

    parser = argparse.ArgumentParser(description="")
    doctor.add_arguments(parser)
    assert parser.parse_args([]).time_limit == examine.TIME_LIMIT


# ---------------------------------------------------------------- readers


class WrongReader(PyAVReader):
    """Returns the frame after the requested one."""

    def _read(self, wanted):
        return super()._read(np.minimum(wanted + 1, len(self) - 1))


class FlippedReader(PyAVReader):
    def _read(self, wanted):
        return super()._read(wanted)[:, ::-1]


class BlueReader(PyAVReader):
    def _read(self, wanted):
        return super()._read(wanted)[..., ::-1]


class RaisingReader(PyAVReader):
    def _read(self, wanted):
        raise DataError("cannot decode frame 0", self.path)


class MissingReader(PyAVReader):
    def __init__(self, *args):
        raise ConfigError("DATALOADER.READER: decord is not installed; run pip install decord, or use pyav")


class FallbackReader(PyAVReader):
    uses_decord = False


@pytest.mark.parametrize(
    ("reader", "status", "text"),
    [
        (WrongReader, FAILED, "frame 0 of 30 shows frame 1"),
        (FlippedReader, FAILED, "frame 0 of 30 shows another picture"),
        (BlueReader, FAILED, "frame 0 of 30 shows another picture"),
        (RaisingReader, FAILED, "cannot decode frame 0"),
        (MissingReader, SKIPPED, "decord is not installed; run pip install decord"),
        (FallbackReader, WARNING, "decord cannot read an H.264 video"),
        (PyAVReader, OK, "are right"),
    ],
)
def test_a_broken_reader_is_named(monkeypatch, reader, status, text):
    monkeypatch.setitem(READER_REGISTRY._obj_map, "decord", reader)
    finding = check(data_checks.check_reader, "decord")
    assert (finding.status, text in finding.text) == (status, True), finding
    assert status == OK or "decord" in finding.remedy or "pyav" in finding.remedy


def test_numbers_of_frames_are_read_back():
    numbers = [data_checks.shown_number(data_checks.number_frame(number)) for number in range(32)]
    assert numbers == list(range(32))
    assert data_checks.shown_number(np.zeros((64, 96, 3), np.uint8)) is None


def test_nvdec_that_falls_back_is_named_with_its_package(monkeypatch):
    fallback = type("FallbackNvdec", (PyAVReader,), {"uses_torchcodec": False})
    monkeypatch.setitem(READER_REGISTRY._obj_map, "nvdec", fallback)
    finding = check(data_checks.check_reader, "nvdec")
    assert finding.status == WARNING
    assert "nvdec cannot read an H.264 video" in finding.text
    assert finding.remedy.startswith("pip install --upgrade torchcodec")


# ---------------------------------------------------------------- disk and shared memory


@pytest.mark.parametrize(
    ("free", "status", "text"),
    [(0, FAILED, "full"), (200 << 20, WARNING, "too small"), (50 * GB, OK, "50.0 GB free")],
)
def test_shared_memory(monkeypatch, free, status, text):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(64 * GB, 64 * GB - free, free))
    finding = check(data_checks.check_shared_memory)
    assert (finding.status, text in finding.text) == (status, True)
    if status != OK:
        assert "docker run --shm-size" in finding.remedy
        assert "DATALOADER.NUM_WORKERS 0" in finding.remedy
    if free == 0:
        assert machine.shared_memory().status == FAILED


def test_a_loader_that_cannot_use_shared_memory_is_named(monkeypatch):
    def fails(cfg, count):
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1>: No space left on device"
        )

    monkeypatch.setattr(data_checks, "_first_batches", fails)
    finding = check(data_checks.check_loader)
    assert finding.status == FAILED
    assert "No space left" in finding.text
    assert "--shm-size" in finding.remedy


def test_a_loader_with_other_batches_is_named(monkeypatch):
    load = data_checks._first_batches

    def damaged(cfg, count):
        batches = load(cfg.clone(), count)
        if cfg.DATALOADER.NUM_WORKERS:
            batches[1]["video"][0, 0, 0, 0, 0] ^= 1
        return batches

    monkeypatch.setattr(data_checks, "_first_batches", damaged)
    assert check(data_checks.check_loader).status == FAILED


@pytest.mark.parametrize(
    ("free", "status", "text"),
    [(GB // 100, FAILED, "full"), (GB, WARNING, "nearly full"), (90 * GB, OK, "90.0")],
)
def test_disk(monkeypatch, tmp_path, free, status, text):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100 * GB, 100 * GB - free, free))
    finding = check(data_checks.check_writing, str(tmp_path / "new"))
    assert (finding.status, text in finding.text) == (status, True)
    assert status == OK or "another disk" in finding.remedy
    assert not list((tmp_path / "new").iterdir())


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    finding = check(data_checks.check_writing, str(tmp_path / "file"))
    assert finding.status == FAILED
    assert "cannot be written" in finding.text


def test_a_full_disk(small_disk):
    (small_disk / "filler").write_bytes(bytes((4 << 20) - 8192))
    finding = check(data_checks.check_writing, str(small_disk))
    assert finding.status == FAILED
    assert "No space left" in finding.text


# ---------------------------------------------------------------- packages


def versions(monkeypatch, **changed):
    """Pretend other versions of packages; None removes one."""
    real = importlib.metadata.version

    def version(name):
        if changed.get(name, "") is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return changed.get(name) or real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    return {f.name: f for f in packages.describe_packages()}


def test_a_missing_package_is_named_with_the_command(monkeypatch):
    finding = versions(monkeypatch, timm=None)["timm"]
    assert finding.status == FAILED
    assert finding.text == "not installed, vmae_det needs timm>=1.0"
    assert finding.remedy == "pip install 'timm>=1.0'"


def test_a_wrong_version_is_named_with_the_command(monkeypatch):
    finding = versions(monkeypatch, av="16.0.1")["av"]
    assert finding.status == FAILED
    assert finding.text == "version 16.0.1 is installed, vmae_det needs av<19,>=17.1"
    assert finding.remedy == "pip install 'av<19,>=17.1'"


def test_a_wrong_version_of_an_extra_is_a_warning(monkeypatch):
    found = versions(monkeypatch, onnx="1.2", decord=None)
    assert found["onnx"].status == WARNING
    assert found["onnx"].text == "version 1.2 is installed, vmae_det[onnx] needs onnx>=1.17"
    assert found["decord"].status == WARNING
    assert "onnx" in versions(monkeypatch, onnx=None)["not installed"].text


def test_a_conflict_between_dependencies_is_named(monkeypatch):
    finding = versions(monkeypatch, torch="2.5.0")["torch"]
    assert finding.status == WARNING
    assert re.search(r"version 2.5.0 is installed, torchvision \S+ needs torch[>=]=", finding.text)


def test_vmae_det_that_is_not_installed(monkeypatch):
    def metadata(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "metadata", metadata)
    (finding,) = packages.describe_packages()
    assert finding.status == WARNING
    assert "pip install" in finding.remedy


def test_a_module_that_breaks_when_imported(monkeypatch, tmp_path):
    (tmp_path / "broken_decord.py").write_text("raise SystemExit('libav.so is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    finding = check(examine.import_module, "broken_decord")
    assert finding.status == FAILED
    assert finding.text == "SystemExit: libav.so is missing"
    finding = check(examine.import_module, "absent_package")
    assert "pip install --force-reinstall absent_package" in finding.remedy


class FakeRunner:
    """Finds one module broken."""

    def __init__(self, name):
        self.name, self.broken = name, set()

    def run(self, it):
        status = FAILED if it.name == self.name else OK
        return [Finding(it.section, it.name, status, "crashed (SIGSEGV)", "reinstall", 1.0)]


@pytest.mark.parametrize(("name", "status"), [("torch", FAILED), ("decord", WARNING)])
def test_broken_imports(name, status):
    runner = FakeRunner(name)
    findings = list(examine._run_imports(runner, examine._import_checks()))
    assert [(f.name, f.status) for f in findings] == [(f"import {name}", status), ("imports", FACT)]
    assert runner.broken == {name}
    assert findings[0].remedy.startswith(f"pip install --force-reinstall {name}")


def test_required_modules_are_imported_even_if_pip_does_not_know_them(monkeypatch):
    monkeypatch.setattr(packages, "installed_version", lambda name: None)
    names = {it.name for it in examine._import_checks()}
    assert {"torch", "cv2"} <= names
    assert "decord" not in names


def test_checks_that_need_a_broken_module_are_one_line():
    checks = [Check("a", works), Check("b", works, needs=("torch", "av"))]
    with CheckRunner(60) as runner:
        runner.broken.add("torch")
        (finding,) = examine._not_run(checks, runner)
    assert (finding.name, finding.status, finding.text) == ("2 checks", SKIPPED, "they need torch: a, b")


@pytest.mark.parametrize("name", ["numpy", "tqdm"])
def test_a_package_that_doctor_itself_needs_is_named(monkeypatch, capsys, name):
    monkeypatch.setitem(sys.modules, name, None)
    assert main(["doctor", "--quick"]) == 2
    assert f"{name} cannot be imported" in (error := capsys.readouterr().err)
    assert f"pip install --force-reinstall {name}" in error
    assert error.count("\n") == 1


def test_errors_have_their_remedy():
    def remedy(error):
        return explain(error).remedy

    assert remedy(ImportError("x", name="cv2.gapi")).endswith("opencv-python-headless")
    assert "report it" in remedy(ImportError("cannot import name", name="vmae_det.video"))
    assert "TMPDIR" in remedy(OutputError(errno.ENOSPC, "No space left on device", "/tmp/a.mp4"))


def test_onnx_without_its_packages_is_skipped(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    finding = check(export_checks.check_export, "onnx")
    assert finding.status == SKIPPED
    assert "onnx is not installed" in finding.text
    assert "pip install 'vmae_det[onnx]'" in finding.remedy


# ---------------------------------------------------------------- training


def test_another_loss_is_named_with_its_precision(monkeypatch):
    from vmae_det.doctor import tiny_models

    real = tiny_models.train_steps

    def shifted(cfg, batch, device):
        result = real(cfg, batch, device)
        return dataclasses.replace(result, loss=1.2 * result.loss) if cfg.SOLVER.AMP == "bf16" else result

    monkeypatch.setattr(tiny_models, "train_steps", shifted)
    finding = check(training.check_training, "classification", "cpu", ("none", "bf16"), False)
    assert finding.status == FAILED
    assert re.match(
        r"bf16: loss 1\.\d+ and gradient norm .*, expected 1\.\d+ and .* within 3\.0%", finding.text
    )
    assert "none" not in finding.text


def test_a_gradient_that_is_not_finite_fails(monkeypatch):
    from vmae_det.doctor import tiny_models

    results = [tiny_models.StepResult(1.0, norm, 0.9) for norm in (1.0, float("nan"))]
    monkeypatch.setattr(tiny_models, "train_steps", lambda *_: results.pop(0))
    assert check(training.check_training, "detection", "cpu", ("none",), False).status == FAILED


@pytest.mark.parametrize("loss", [float("nan"), 0.0])
def test_a_loss_that_is_not_finite_or_does_not_fall(monkeypatch, loss):
    from vmae_det.doctor import tiny_models

    result = tiny_models.StepResult(loss or 1.0, 1.0, loss or 1.0)
    monkeypatch.setattr(tiny_models, "train_steps", lambda *_: result)
    assert check(training.check_training, "detection", "cpu", ("none",), False).status == FAILED


def test_a_precision_that_raises_is_named(monkeypatch):
    from vmae_det.doctor import tiny_models

    real = tiny_models.train_steps

    def raises(cfg, batch, device):
        if cfg.SOLVER.AMP == "fp16":
            raise RuntimeError("no kernel image is available")
        return real(cfg, batch, device)

    monkeypatch.setattr(tiny_models, "train_steps", raises)
    finding = check(training.check_training, "classification", "cpu", ("none", "fp16"), False)
    assert finding.text == "fp16 raises RuntimeError: no kernel image is available"


def sends_another_norm(pipe, *_):
    pipe.send(1.23)


def sends_an_error(pipe, *_):
    pipe.send(Problem(FAILED, "RuntimeError: connection refused", ""))


def crashes(*_):
    os._exit(3)


def hangs(*_):
    time.sleep(60)


@pytest.mark.parametrize(
    ("process", "text"),
    [
        (sends_another_norm, "gradient norm [1.23, 1.23], expected "),
        (sends_an_error, "process 0: RuntimeError: connection refused"),
        (crashes, "process 0 crashed (exit status 3)"),
        (hangs, "process 0 takes no step in 1 s: it hangs"),
    ],
)
def test_ddp_that_fails_is_named(server, monkeypatch, process, text):
    monkeypatch.setattr(training, "_ddp_process", process)
    monkeypatch.setattr(training, "_DDP_TIMEOUT", 1.0 if process is hangs else 60.0)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    finding = check(training.check_ddp, "cpu", 2)
    assert finding.status == FAILED
    assert finding.text.startswith(text)
    assert "one process" in finding.remedy


# ---------------------------------------------------------------- devices


def test_a_gpu_that_torch_cannot_use_is_named(monkeypatch):
    monkeypatch.setattr(devices, "nvidia_driver", lambda: ("470.1", ["NVIDIA A100"]))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    if __import__("torch").cuda.is_available():
        pytest.skip("torch can use a GPU here")
    finding = next(f for f in devices.describe_devices(ignore) if f.name == "GPU")
    assert finding.status == FAILED
    assert "NVIDIA A100 (driver 470.1), but torch cannot use it" in finding.text
    assert "CUDA_VISIBLE_DEVICES is '7'" in finding.text
    assert "pytorch.org/get-started" in finding.remedy


def test_gpus(monkeypatch):
    import torch

    class Properties:
        name, major, minor, total_memory = "NVIDIA H100", 9, 0, 80 * GB

    cuda = torch.cuda
    monkeypatch.setattr(cuda, "get_arch_list", lambda: ["sm_80", "sm_90a"])
    monkeypatch.setattr(cuda, "device_count", lambda: 3)
    monkeypatch.setattr(cuda, "get_device_properties", lambda index: Properties)
    monkeypatch.setattr(cuda, "mem_get_info", lambda index: (GB if index == 1 else 79 * GB, 80 * GB))
    first, second, third = devices._gpus()
    assert first.text == "NVIDIA H100, compute capability 9.0, 79.0 GB free of 80.0 GB"
    assert (first.status, second.status) == (OK, WARNING)
    assert devices.usable_devices([first, second, third]) == ["cpu", "cuda:0"]
    monkeypatch.setattr(cuda, "get_arch_list", lambda: ["sm_100"])
    assert {f.status for f in devices._gpus()} == {FAILED}
    assert devices.usable_devices(list(devices._gpus())) == ["cpu"]


def test_a_device_that_is_missing_fails():
    (finding,) = examine._missing_device([], "cuda")
    assert finding.status == FAILED


def test_checks_of_each_gpu_type():
    facts = [Finding("", f"GPU {n}", OK, f"NVIDIA {name}, 80 GB") for n, name in enumerate(("A", "A", "B"))]
    names = [it.name for it in examine._training(facts, "auto", True)]
    assert "compiled detection on cuda:2" in names
    assert "detection on cuda:1" not in names
    assert "DDP on 3 GPU(s)" in names
    only_gpu = [it.name for it in examine._training(facts, "cuda", False)]
    assert not any("cpu" in name or "CPU" in name or "compiled" in name for name in only_gpu)


def test_the_ffmpeg_program_is_optional(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert "not installed" in decoders.ffmpeg_program().text


# ---------------------------------------------------------------- isolation


def crash(stage):
    stage("reading frame 3")
    print("assertion failed in libavcodec", flush=True)
    os.abort()


def hang(stage):
    stage("waiting for NCCL")
    time.sleep(60)


def works(stage):
    return "fine"


def broken(stage):
    raise Problem(FAILED, "broken", "mend it")


def test_a_crash_or_a_hang_does_not_stop_the_next_check(server, monkeypatch):
    with CheckRunner(60) as runner:
        (crashed,) = runner.run(Check("a", crash, needs=()))
        (fine,) = runner.run(Check("b", works, needs=()))
        monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
        (hung,) = runner.run(Check("c", hang, timeout=1.0, needs=()))
        runner.run(Check("b", works, needs=()))  # so that the next check does not wait for a process
        monkeypatch.setattr(os, "getloadavg", lambda: (1e6, 0.0, 0.0))
        (slow,) = runner.run(Check("c", hang, timeout=1.0, needs=()))
        (fine_after_slow,) = runner.run(Check("b", works, needs=()))
        (failed,) = runner.run(Check("d", broken, needs=()))
        runner.broken.add("torch")
        (skipped,) = runner.run(Check("e", works))
        runner.deadline = 0
        (late,) = runner.run(Check("f", works, needs=()))
        (fact,) = runner.run(Check("g", works, needs=(), section="Packages"))
    assert crashed.status == FAILED
    assert crashed.text.startswith("the process crashed (SIGABRT) (reading frame 3); its last output: ")
    assert (hung.status, hung.text) == (
        FAILED,
        "no result after 1 s (waiting for NCCL): it hangs, or is very slow",
    )
    assert slow.status == WARNING
    assert slow.text.startswith("no result after 1 s (waiting for NCCL); other programs use the CPU (load ")
    assert (fine_after_slow.status, fine_after_slow.text) == (OK, "fine")
    assert (fact.status, fact.text) == (OK, "fine")
    assert (failed.text, failed.remedy) == ("broken", "mend it")
    assert (fine.status, fine.text) == (OK, "fine")
    assert (skipped.status, skipped.text) == (SKIPPED, "torch cannot be imported")
    assert (late.status, late.text) == (SKIPPED, "not started, to end within 60 s")


# ---------------------------------------------------------------- privacy


def test_paths_and_user_names_are_removed(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.chdir(tmp_path)
    text = f"/home/ada/x.so and /home/bob/y, {tmp_path}/z by ada"
    monkeypatch.setenv("LOGNAME", "ada")
    finding = anonymous(Finding("", "", FAILED, text))
    assert finding.text == "~/x.so and ~/y, ./z by <user>"
