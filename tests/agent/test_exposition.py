"""An application's metrics behind the mesh's: what is taken, what is left out, what is refused as a whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lateen.agent.exposition import append, is_openmetrics, is_text

MESH = b"# TYPE istio_requests_total counter\nistio_requests_total{} 1\n# TYPE istio_request_bytes histogram\n"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        pytest.param(b"# HELP a Text.\n# TYPE a gauge\na 1\n", b"# HELP a Text.\n# TYPE a gauge\na 1\n", id="plain"),
        pytest.param(b'a{b="x",} 1.5 1700000000000', b'a{b="x",} 1.5 1700000000000\n', id="no TYPE, a time, no end"),
        pytest.param(b'a{b="}\\" # {"} NaN\r\n\n# hello\n', b'a{b="}\\" # {"} NaN\n', id="quotes, comment, blank"),
        pytest.param(
            b'# TYPE a counter\na 1\nb 2\n# TYPE a gauge\na{c="d"} 3\n',
            b'# TYPE a counter\na 1\na{c="d"} 3\nb 2\n',
            id="a family in two parts, and two TYPEs",
        ),
        pytest.param(
            b'# TYPE h histogram\nh_bucket{le="+Inf"} 1\nh_sum 2\nh_count 1\n# TYPE s summary\ns{quantile="1"} 1\n',
            b'# TYPE h histogram\nh_bucket{le="+Inf"} 1\nh_sum 2\nh_count 1\n# TYPE s summary\ns{quantile="1"} 1\n',
            id="histogram and summary",
        ),
        pytest.param(b"# TYPE a gauge\n", b"", id="no samples"),
        pytest.param(b"", b"", id="nothing"),
    ],
)
def test_text(said: bytes, told: bytes) -> None:
    found = append(MESH, said, openmetrics=False)
    assert found.text == MESH + told
    assert found.left_out == 0


def test_openmetrics_becomes_text() -> None:
    said = b"""# TYPE a counter
# UNIT a seconds
# HELP a Say \\"a\\".
a_total{x="y"} 3.0 1700000000.125 # {trace_id="abc"} 0.5 1700000000
a_created 1.7e9
# TYPE h histogram
h_bucket{le="+Inf"} 2 # {trace_id="abc"} 0.67
# TYPE build info
build_info{version="1"} 1
# TYPE u unknown
u 1
# EOF
"""
    assert append(MESH, said, openmetrics=True).text == MESH + (
        b'# HELP a_total Say "a".\n# TYPE a_total counter\na_total{x="y"} 3.0 1700000000125\n'
        b"a_created 1.7e9\n"
        b'# TYPE h histogram\nh_bucket{le="+Inf"} 2\n'
        b'# TYPE build_info gauge\nbuild_info{version="1"} 1\n'
        b"# TYPE u untyped\nu 1\n"
    )


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"# TYPE istio_requests_total counter\nistio_requests_total 9\n", id="declared"),
        pytest.param(b"istio_requests_total 9\n", id="not declared"),
        pytest.param(b'istio_request_bytes_bucket{le="1"} 9\n', id="part of a histogram"),
    ],
)
def test_what_the_mesh_has_is_its_own(said: bytes) -> None:
    found = append(MESH, b"a 1\n" + said + b"b 2\n", openmetrics=False)
    assert found.text == MESH + b"a 1\nb 2\n"
    assert found.left_out == 1


@pytest.mark.parametrize(
    ("said", "openmetrics", "why"),
    [
        pytest.param(b"<html>", False, "line 1: a sample wanted", id="no metrics"),
        pytest.param(b"a 1\nb one\n", False, "line 2: a number wanted, got 'one'", id="no number"),
        pytest.param(b"a 1 soon\n", False, "line 1: a sample wanted", id="no time"),
        pytest.param(b"a{b=c} 1\n", False, "line 1", id="no quotes"),
        pytest.param(b"a{" + b" " * 60000, False, "line 1", id="blanks without end"),
        pytest.param(b"a" + b" " * 60000 + b"{", False, "line 1", id="and outside"),
        pytest.param(b'a 1 # {b="c"} 1\n', False, "an exemplar, which only OpenMetrics has", id="exemplar"),
        pytest.param(b"a 1\n", True, "without # EOF", id="cut"),
        pytest.param(b"a 1\n# EOF\nb 1\n", True, "line 3: nothing may come after # EOF", id="after the end"),
    ],
)
def test_what_is_wrong_is_refused_as_a_whole(said: bytes, openmetrics: bool, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        append(MESH, said, openmetrics=openmetrics)


@pytest.mark.parametrize(
    ("content_type", "text", "openmetrics"),
    [
        pytest.param("text/plain; version=0.0.4; charset=utf-8", True, False, id="text"),
        pytest.param("", True, False, id="not said"),
        pytest.param("application/openmetrics-text; version=1.0.0", True, True, id="openmetrics"),
        pytest.param("application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily", False, False, id="pb"),
        pytest.param("text/html", False, False, id="html"),
    ],
)
def test_formats(content_type: str, text: bool, openmetrics: bool) -> None:
    assert is_text(content_type) is text
    assert is_openmetrics(content_type) is openmetrics


@given(st.binary(max_size=200) | st.text(alphabet='ab{}="\\,# \n0TYPEcountr', max_size=60).map(str.encode))
def test_whatever_it_says_the_mesh_comes_first_and_whole(said: bytes) -> None:
    for openmetrics in (False, True):
        try:
            found = append(MESH, said, openmetrics=openmetrics)
        except ValueError:
            continue
        assert found.text.startswith(MESH)
        # What was let through is text by the same rules, and says the same again.
        rest = found.text.removeprefix(MESH)
        assert append(b"", rest, openmetrics=False).text == rest
