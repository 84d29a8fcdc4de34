"""The time that the runs of a study still need."""

import pytest

from vmae_det.studies.grid import build_grid
from vmae_det.studies.run_process import Resources
from vmae_det.studies.run_store import RunStore, write_marker
from vmae_det.studies.scheduler import Scheduler
from vmae_det.studies.study_file import read_study

STUDY = """\
title: T
question: Q?
seeds: 1
stages:
  pretrain: {config: MiniAVA/pretrain.yaml, metrics: [loss]}
factors:
  epochs:
    10: {pretrain: {SOLVER.EPOCHS: 10}}
    40: {pretrain: {SOLVER.EPOCHS: 40}}
    half: {pretrain: {SOLVER.EPOCHS: 60, DATASETS.TRAIN_FRACTION: 0.5}}
"""


def test_remaining_time_is_proportional_to_the_epochs(tmp_path):
    (tmp_path / "own.yaml").write_text(STUDY)
    runs = build_grid(read_study(tmp_path / "own.yaml")).runs()
    store = RunStore(tmp_path / "runs")
    slots = [Resources(), Resources()]
    assert Scheduler(runs, store, slots).remaining() is None
    store.folder(runs[0]).mkdir(parents=True)
    store.prepare(runs[0])
    write_marker(store.folder(runs[0]), {"seconds": 20.0})
    # 2 s per epoch, 40 and 0.5 x 60 epochs, two at a time
    assert Scheduler(runs, store, slots).remaining() == pytest.approx(70.0)
