"""The verdict of `playbook bench soak`: what grows is called so, what is noise or a pool that fills is not."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from bench_soak import judge

TIMES = [float(second) for second in range(30, 630, 30)]
NOISE = [0, 4, -3, 2, -4, 1, 3, -2, 0, 2, -1, 3, -3, 1, -2, 4, -4, 2, 0, -1]
FILLS = [10] * 5 + [12] * 15
ONE_MORE = [12] * 15 + [13] * 5


@pytest.mark.parametrize(
    ("measure", "values", "flat"),
    [
        ("MB", [200 + each / 2 for each in NOISE], True),
        ("MB", [200 + each / 2 + number for number, each in enumerate(NOISE)], False),  # 1 MB in half a minute
        ("MB", [260] * 3 + [200] * 17, True),
        ("connections", FILLS, True),
        ("connections", ONE_MORE, True),
        ("connections", [10 + number // 3 for number in range(20)], False),
        ("threads", [21 + each for each in NOISE], True),
        ("files", [30 + number // 2 for number in range(20)], False),
    ],
)
def test_the_verdict(measure: str, values: list[float], flat: bool) -> None:
    [(grown, said)] = judge(TIMES, [{measure: float(value)} for value in values]).values()
    assert said is flat, f"{measure} grew by {grown}"
