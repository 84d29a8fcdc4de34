"""Scaling: the arithmetic of the model, its fit, and both benchmarks on tiny models."""

import json
import math

import pytest
import torch

from vmae_det.benchmarks.gpu_scaling import Cluster, Network, describe, predict, predict_step
from vmae_det.benchmarks.scaling import Run, fit
from vmae_det.benchmarks.scaling_model import (
    Step,
    Traffic,
    count_traffic,
    exchange_seconds,
    exposed_seconds,
    overlap_window,
)
from vmae_det.cli.main import main
from vmae_det.modeling.backbones.blocks import Block

CONFIG = "Kinetics/vit_small_16x4_pretrain.yaml"
TINY = (
    *("INPUT.CROP_SIZE", "32", "INPUT.NUM_FRAMES", "4", "MODEL.BACKBONE.EMBED_DIM", "24"),
    *("MODEL.BACKBONE.DEPTH", "1", "MODEL.BACKBONE.NUM_HEADS", "2", "MODEL.DECODER.EMBED_DIM", "12"),
    *("MODEL.DECODER.DEPTH", "2", "MODEL.DECODER.NUM_HEADS", "2", "MODEL.MASK.RATIO", "0.5"),
    *("MODEL.DEVICE", "cpu", "SOLVER.AMP", "none"),
)
MB = 1024**2
DDP = Traffic("ddp", size=100, messages=4, last=25)
FSDP = Traffic("fsdp", size=100, messages=4, last=25)


@pytest.mark.parametrize(
    ("traffic", "processes", "expected"),
    [
        (DDP, 1, 0.0),
        (DDP, 2, 2 * (50 * 0.1 + 4 * 3)),
        (DDP, 4, 2 * (75 * 0.1 + 4 * 3)),
        (FSDP, 4, 3 * (75 * 0.1 + 4 * 3)),
    ],
)
def test_ring_communication(traffic, processes, expected):
    assert exchange_seconds(traffic, processes, seconds_per_byte=0.1, latency=3) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("computing", "overlap", "expected"),
    [
        (100, 1.0, 10),  # only the last of four messages is exposed
        (20, 1.0, 20),  # computing ends before the third message
        (20, 0.5, 30),
        (0, 1.0, 40),
        (100, 0.0, 40),
        (20, -0.5, 50),
    ],
)
def test_exposed_communication(computing, overlap, expected):
    assert exposed_seconds(DDP, 40, computing, overlap) == pytest.approx(expected)


def test_fsdp_also_overlaps_the_forward_pass():
    assert (overlap_window(DDP, 1, 2), overlap_window(FSDP, 1, 2)) == (2, 3)


def test_step_is_the_longer_of_loading_and_work():
    assert Step(1, 2, 3, exchange=9, exposed=4, loading=5).seconds == 10
    assert Step(1, 2, 3, exchange=9, exposed=4, loading=50).seconds == 50


@pytest.mark.parametrize(
    ("numbers", "messages", "last"), [(1000, 1, 4000), (26 * MB // 4, 2, 25 * MB), (52 * MB // 4, 4, 25 * MB)]
)
def test_ddp_sends_gradients_in_buckets(numbers, messages, last):
    model = torch.nn.ParameterList([torch.empty(numbers, device="meta")])
    model.append(torch.nn.Parameter(torch.empty(5, device="meta"), requires_grad=False))
    assert count_traffic(model, "ddp") == Traffic("ddp", 4 * numbers, messages, last)


def test_fsdp_sends_one_message_per_block():
    model = torch.nn.ModuleList([Block(12, 2, 4.0), Block(12, 2, 4.0), torch.nn.Linear(3, 3)])
    block = 4 * sum(p.numel() for p in model[0].parameters())
    assert count_traffic(model, "fsdp") == Traffic("fsdp", 2 * block + 48, 3, block * 2 // 3)
    assert count_traffic(model[2], "fsdp") == Traffic("fsdp", 48, 1, 32)  # no blocks


def run_of(processes, threads, compute, step, exchange=0.0, empty=0.0, busy=1.0):
    parts = (share * compute for share in (0.25, 0.5, 0.25))
    return Run(processes, threads, step, *parts, compute, exchange, busy * exchange, empty, [step])


@pytest.fixture
def fitted():
    """Two cores; communication takes 10 s, of which hops take 2 s and the backward pass hides 1.5 s."""
    return fit([run_of(1, 2, 6, 6), run_of(2, 1, 8, 8 + 8.5, exchange=10, empty=0.5)], DDP, cores=2)


def test_model_reproduces_the_fitted_runs(fitted):
    assert fitted.predict(1).seconds == 6
    again = fitted.predict(2)
    assert (again.compute, again.exchange, again.seconds) == pytest.approx((8, 10, 16.5))
    assert fitted.seconds_per_byte == pytest.approx(8 / 100)
    assert fitted.hop == 0.25
    assert fitted.overlap == pytest.approx(1.5 / 4)


def test_four_processes_on_two_cores(fitted):
    predicted = fitted.predict(4)
    assert predicted.compute == 16
    exchange = 2 * (75 * 0.16 + 4 * 3 * 0.5)
    assert predicted.exchange == pytest.approx(exchange)
    assert predicted.exposed == pytest.approx(exchange - 1.5 / 4 * 8)


@pytest.mark.parametrize(("busy", "slower"), [(0.3, 1), (0.5, 1), (0.75, 1.5), (1, 2)])
def test_waiting_senders_free_their_cores(busy, slower):
    runs = [run_of(1, 2, 6, 6), run_of(2, 1, 8, 8 + 8.5, exchange=10, empty=0.5, busy=busy)]
    predicted = fit(runs, DDP, cores=2).predict(4)
    assert predicted.compute == 16
    assert predicted.exchange == pytest.approx(slower * 2 * (75 * 0.08 + 4 * 3 * 0.25))


def test_overlap_may_be_negative_and_is_at_most_one():
    def overlap(step):
        return fit([run_of(1, 2, 6, 6), run_of(2, 1, 8, step, exchange=10, empty=0.5)], DDP, cores=2).overlap

    assert overlap(8 + 14) == pytest.approx(-1)
    assert overlap(7) == 1


def test_processes_with_their_own_devices():
    model = fit([run_of(1, 1, 8, 8), run_of(2, 1, 8, 8)], DDP, cores=None)
    assert [model.predict(n).seconds for n in (1, 2, 4)] == [8, 8, 8]


def test_one_gpu_and_infinite_rates_have_no_communication_cost():
    network = Network(flops=1e9, parameters=1000, blocks=1, traffic=Traffic("ddp", 4000, 1, 4000))
    cluster = Cluster(
        nvlink=math.inf, network=math.inf, memory_rate=math.inf, latency=1e-300, block_floor=1e-300
    )
    assert predict_step(network, 1, Cluster()).exchange == 0
    alone, many = (predict_step(network, gpus, cluster) for gpus in (1, 64))
    assert alone.work / (64 * many.work) == pytest.approx(1)
    # Three times the forward pass of 1024 clips, two operations per multiply-add, at 35 % of 989 TFLOP/s.
    assert alone.work == pytest.approx(6 * 1e9 * 1024 / (0.35 * 989e12))
    assert alone.loading == pytest.approx(1024 / (14 * 21.6))


@pytest.fixture(scope="module")
def networks():
    return {size: describe(size, "ddp") for size in "SBLH"}


def test_bottlenecks(networks, monkeypatch):
    monkeypatch.setattr("vmae_det.benchmarks.gpu_scaling.describe", lambda size, parallel: networks[size])

    def limit(gpus=64, **more):
        row = predict(["S"], [gpus], Cluster(**more), "ddp")[0]
        return row.limit, row.limit_of_work

    assert limit() == ("loading", "starting kernels")
    assert limit(loading_rate=1e9, share=1e-3) == ("compute", "compute")
    assert limit(loading_rate=1e9, network=1e8) == ("network", "network")
    assert limit(gpus=8, nvlink=1e8, loading_rate=1e9) == ("NVLink", "NVLink")
    assert limit(loading_rate=1e9, memory_rate=1e9) == ("optimizer", "optimizer")


def test_model_sizes_of_the_paper(networks):
    parameters = {size: network.parameters / 1e6 for size, network in networks.items()}
    assert parameters == pytest.approx({"S": 24, "B": 94, "L": 318, "H": 653}, abs=0.5)
    assert networks["S"].flops < networks["B"].flops < networks["L"].flops < networks["H"].flops


def test_gpu_scaling_command(tmp_path, capsys):
    file = tmp_path / "gpus.json"
    command = ["benchmark", "gpu-scaling", "--models", "S", "--total-gpus", "8", "512", "--json", str(file)]
    assert main([*command, "--loading-rate", "1000"]) == 0
    printed = capsys.readouterr().out
    assert "calculated, not measured" in printed
    assert "| S | 8 | 128 |" in printed
    assert "| S | 512 | 2 (few) |" in printed
    figures = json.loads(file.read_text())
    assert figures["assumed"]["loading_rate"] == 1000
    for row in figures["rows"]:
        assert row["clips_per_second"] <= row["clips_per_second_without_loading"]
    assert main([*command, "--batch", "256"]) == 2
    assert "512 GPUs, but a step has only 256 clips" in capsys.readouterr().err


@pytest.mark.usefixtures("preloaded_processes")
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_scaling_command(parallel, tmp_path, capsys):
    file, threads = tmp_path / "scaling.json", torch.get_num_threads()
    command = ["benchmark", "scaling", "--config-file", CONFIG, "--batch", "2", "--processes", "1", "2"]
    command += ["--repeats", "2", "--json", str(file)]
    assert main([*command, *TINY, "SOLVER.PARALLEL", parallel]) == 0
    assert torch.get_num_threads() == threads
    figures = json.loads(file.read_text())
    assert figures["traffic"]["parallel"] == parallel
    one, two = figures["runs"]
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["exchange"] > 10 * one["exchange"]  # one process has no communication
    for run in figures["runs"]:
        assert run["forward"] + run["backward"] + run["update"] == pytest.approx(run["compute"])
        assert min(run["steps"]) <= run["step"] <= max(run["steps"])
        assert len(run["steps"]) == 2
        assert run["predicted"]["forward"] == pytest.approx(run["forward"])
    assert figures["fit"]["overlap"] <= 1
    assert f"2 clips on each process, {parallel}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--processes", "2", "4"), "--processes: expected 1 and larger numbers, ascending"),
        (("--processes", "1"), "such as 1 2 4; got 1"),
        (("MODEL.META_ARCHITECTURE", "VideoClassifier"), "benchmark scaling times pre-training"),
    ],
)
def test_invalid_uses(more, message, capsys):
    opts = () if more[0].startswith("--") else more
    flags = more if more[0].startswith("--") else ()
    assert main(["benchmark", "scaling", *flags, "--config-file", CONFIG, *TINY, *opts]) == 2
    assert message in capsys.readouterr().err
