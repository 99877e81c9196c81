"""The models against the paper's Table 8."""

import pytest

from benchmarks.complexity import count
from benchmarks.paper_tables import TABLE_8


@pytest.mark.parametrize("name", [name for name in TABLE_8 if name.startswith("vt_")])
def test_cost_is_table_8(name):
    macs, params = count(name)
    assert macs == pytest.approx(TABLE_8[name].macs, rel=0.03)
    assert params == pytest.approx(TABLE_8[name].params, rel=0.08)


@pytest.mark.parametrize("name", [name for name in TABLE_8 if not name.startswith("vt_")])
def test_the_counter_agrees_with_the_paper_on_plain_resnets(name):
    macs, params = count(name)
    assert macs == pytest.approx(TABLE_8[name].macs, rel=0.002)
    assert params == pytest.approx(TABLE_8[name].params, rel=0.005)


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_fewer_macs_than_the_resnet(depth):
    assert count(f"vt_resnet{depth}")[0] < 0.93 * count(f"resnet{depth}")[0]
