"""The table is whole after every row, and reads back as it was."""

from __future__ import annotations

import math

import pytest

from patchcore_fast.errors import DataError
from patchcore_fast.experiments.combinations import grid
from patchcore_fast.experiments.table import COLUMNS, MEASURES, Table, read

PLAN, _ = grid((0.0, 1.0), (10,), (0,), ("composite",), [0.1], [0])


def facts(number: float) -> dict[str, object]:
    values: dict[str, object] = dict.fromkeys(MEASURES, number / 3) | {"rows": int(number)}
    return {k: v for k, v in values.items() if k != "choice"} | {"test_iou": None}


def test_rows_come_in_the_order_of_the_plan_and_read_back_bit_for_bit(tmp_path):
    table = Table(tmp_path / "grid.csv", PLAN)
    for number, c in enumerate(reversed(PLAN)):
        table.add(c, facts(number + 1))
        assert len(read(tmp_path / "grid.csv")) == number + 1
    assert [row["name"] for row in read(table.path)] == [c.name for c in PLAN]
    assert read(table.path) == table.planned and not Table(table.path, PLAN).missing
    first = table.planned[0]
    assert first["choice"] == (first["auroc"] + first["pixel_auroc"]) / 2 and first["test_iou"] is None
    assert first["w_repr"] is None and table.planned[-1]["w_repr"] == 1.0
    before = table.path.read_bytes()
    again = Table(table.path, PLAN)
    again.write()
    assert table.path.read_bytes() == before


def test_what_is_missing_and_what_failed_is_tried_again_and_other_rows_stay(tmp_path):
    table = Table(tmp_path / "grid.csv", PLAN)
    table.add(PLAN[0], facts(1))
    table.add(PLAN[1], {"error": "no memory, none"})
    table.add(PLAN[-1], facts(math.pi))
    smaller = Table(table.path, PLAN[:3])
    assert [c.key for c in smaller.missing] == [PLAN[1].key, PLAN[2].key]
    smaller.add(PLAN[1], facts(2))
    assert [row["name"] for row in read(table.path)] == [PLAN[0].name, PLAN[1].name, PLAN[-1].name]
    assert not read(table.path)[1]["error"]


@pytest.mark.parametrize(
    "content", [b"", b"a,b\n1,2\n", b"\xff\xfe", ",".join(COLUMNS).encode() + b"\n1,2\n",
                ",".join(COLUMNS).encode() + b"\n" + b"x," * (len(COLUMNS) - 1) + b"\n"],
    ids=["empty", "other", "bytes", "short", "words"],
)  # fmt: skip
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "grid.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"grid\.csv: is no table"):
        Table(tmp_path / "grid.csv", PLAN)
