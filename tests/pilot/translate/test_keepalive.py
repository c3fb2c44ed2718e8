"""TCP keep-alive stays within what Linux takes: beyond it every connection of the cluster would fail."""

from __future__ import annotations

from tests.fakes.judging import read_spec

from lateen.pilot.translate.cluster_policy import connection_options


def test_keepalive_beyond_the_kernels_bounds_is_the_most_it_takes() -> None:
    keepalive = "{probes: 4000000000, time: 2562047h, interval: 1ms}"
    spec = f"host: web\ntrafficPolicy: {{connectionPool: {{tcp: {{tcpKeepalive: {keepalive}}}}}}}"
    options = connection_options(read_spec("DestinationRule", spec).traffic_policy.connection_pool)
    assert options is not None
    made = options.tcp_keepalive
    assert (made.keepalive_probes.value, made.keepalive_time.value) == (127, 32767)
    assert made.keepalive_interval.value == 1
