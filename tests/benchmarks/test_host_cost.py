"""The host's cost of a call is measured on a library whose kernels do nothing: it must still be the real driver."""

from __future__ import annotations

import re

from benchmarks.gpu import host_cost


def test_it_runs_and_says_a_time(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["host_cost", "--repeats", "12"])
    host_cost.main()
    assert re.search(r"kernels that do nothing: \d+\.\d+ ms a call", capsys.readouterr().out)


def test_it_knows_the_arrays_of_a_pass():
    names = host_cost.Idle().kcenter_arrays()
    assert {"control", "pick_row", "params"} <= set(names) and len(names) == len(set(names)) > 20
