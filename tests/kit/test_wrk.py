"""What the benchmark of the ordinary routes reads of wrk: rates of answers, never of refusals."""

import sys

import pytest

from playbook.kit.data import ROOT

sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))

from bench_ordinary import read_wrk
from measure import Failed

SAID = """Running 1s test @ http://127.0.0.1:8000/packages
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    26.41ms   22.61ms 180.71ms   81.65%
    Req/Sec   273.61     73.19   454.00     71.19%
  Latency Distribution
     50%   24.01ms
     99%  {slow}
  1642 requests in 1.09s, 7.97MB read
{fault}Requests/sec:    {rate}
Transfer/sec:      1.31MB
"""


@pytest.mark.parametrize(
    ("slow", "seconds"),
    [("812.00us", 8.12e-4), ("154.37ms", 0.15437), ("1.02s ", 1.02)],  # as wrk pads them
)
def test_rate_and_percentile_are_read(slow: str, seconds: float) -> None:
    assert read_wrk(SAID.format(slow=slow, rate="1506.42", fault="")) == (1506.42, pytest.approx(seconds))


@pytest.mark.parametrize(
    "said",
    [
        SAID.format(slow="1.02s", rate="9000.00", fault="  Non-2xx or 3xx responses: 1642\n"),
        SAID.format(slow="1.02s", rate="9000.00", fault="  Socket errors: connect 0, read 7, write 0, timeout 1\n"),
        SAID.format(slow="0.00us", rate="0.00", fault=""),
        "unable to connect to 127.0.0.1:8000 Connection refused\n",
        "",
    ],
    ids=["refused", "broken off", "nothing", "not reached", "silent"],
)
def test_what_was_no_answer_is_not_counted(said: str) -> None:
    with pytest.raises(Failed, match="wrk: "):
        read_wrk(said)
