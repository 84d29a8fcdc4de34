"""Every command on bad inputs. `make fuzz` runs more of them, including slow ones."""

from tests.fuzz.driver import fuzz, report

COUNT = 800


def test_bad_inputs_end_in_one_line(mini_ava, tmp_path):
    outcomes, failures = fuzz(COUNT, seed=0, workers=1, folder=tmp_path, quick=True, mini_ava=mini_ava)
    assert not failures, report(failures)
    assert outcomes["passed"] >= COUNT
