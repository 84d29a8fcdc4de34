"""Which runs count as finished."""

import json

import pytest

from vmae_det.config.defaults import KEYS
from vmae_det.config.ranges import Key
from vmae_det.studies.grid import build_grid
from vmae_det.studies.run_store import RunStore, write_marker
from vmae_det.studies.study_file import read_study

STUDY = """\
title: T
question: Q?
seeds: 1
stages:
  pretrain: {config: MiniAVA/pretrain.yaml}
  finetune: {config: MiniAVA/finetune.yaml, from: pretrain, metrics: [top1]}
factors:
  a: {b: {}}
"""


@pytest.fixture
def site(tmp_path):
    """site(): the runs of a study and their store, as a new start of the command sees them."""
    (tmp_path / "own.yaml").write_text(STUDY)

    def load():
        return *build_grid(read_study(tmp_path / "own.yaml")).runs(), RunStore(tmp_path / "runs")

    return load


def finish(store, run):
    store.folder(run).mkdir(parents=True, exist_ok=True)
    store.prepare(run)
    write_marker(store.folder(run), {"seconds": 1.0})


def test_a_run_is_finished_if_it_and_its_parent_are(site):
    pretrain, finetune, store = site()
    assert not store.is_finished(pretrain)
    finish(store, pretrain)
    assert store.is_finished(pretrain)
    assert not store.is_finished(finetune)
    finish(store, finetune)
    assert store.is_finished(finetune)
    weights = store.config(finetune).MODEL.BACKBONE.CHECKPOINT
    assert weights == str(store.folder(pretrain) / "model_final.pt")


def test_if_a_parent_is_repeated_so_is_what_starts_from_it(site):
    pretrain, finetune, store = site()
    finish(store, pretrain)
    finish(store, finetune)
    (store.folder(pretrain) / "finished.json").unlink()
    assert not store.is_finished(finetune)
    finish(store, pretrain)
    assert not store.is_finished(finetune)
    # Its files are those of the weights that no longer exist.
    (store.folder(finetune) / "checkpoint_1.pt").write_text("")
    store.prepare(finetune)
    assert not (store.folder(finetune) / "checkpoint_1.pt").exists()


def test_a_new_key_keeps_the_runs_and_a_new_default_repeats_those_that_use_it(site, monkeypatch):
    pretrain, _, store = site()
    finish(store, pretrain)
    plan = store.folder(pretrain) / "run.json"
    content = json.loads(plan.read_text())
    del content["config"]["DATASETS.TRAIN_FRACTION"]  # as of a version without these keys
    del content["config"]["SOLVER.BETAS"]
    plan.write_text(json.dumps(content))
    pretrain, _, store = site()
    assert store.is_finished(pretrain)

    key = KEYS["SOLVER.MOMENTUM"]
    monkeypatch.setitem(KEYS, "SOLVER.MOMENTUM", Key(0.8, key.range))
    changed, _, store = site()
    assert changed.name == pretrain.name
    assert not store.is_finished(changed)


@pytest.mark.parametrize("text", ["", "{", "[]", "\0", '{"id": '])
def test_a_damaged_file_counts_as_missing(site, text):
    pretrain, _, store = site()
    finish(store, pretrain)
    (store.folder(pretrain) / "finished.json").write_text(text)
    assert not store.is_finished(pretrain)
