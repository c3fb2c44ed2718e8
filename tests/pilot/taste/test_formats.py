"""Header values: what the checks say of Envoy's operators is what Envoy says."""

from __future__ import annotations

import pytest
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from lateen.api import format_syntax
from lateen.api.check_headers import format_fault
from lateen.pilot.taste.taster import Taster
from lateen.pilot.translate.pack import resource_of
from lateen.pilot.xds.source import Resource
from lateen.pilot.xds.type_urls import RDS

NAMES = sorted(format_syntax._NAMES | {"NOPE", "REQ_WITHOUT_QUERY", "PROTOCOLL"})
FORMS = ("%X%", "%X()%", "%X(a)%", "%X(a:b)%", "%X(a?b)%", "%X(a b)%", "%X:5%", "%X(a):5%", "x%X%", "%X%%", "%X(a")
SPECIAL = (
    "%METADATA(ROUTE:a:b):5%",
    "%METADATA(UPSTREAM_HOST)%",
    "%XFCC_VALUE(uri)%",
    "%XFCC_VALUE(DNS)%",
    "%COMMON_DURATION(DS_RX_BEG:DS_RX_END:ms)%",
    '%COALESCE({"operators":["PROTOCOL"]})%',
    "%COALESCE({})%",
    "%GRPC_STATUS(CAMEL_STRING)%",
    "%PATH(NQ):5%",
    "%QUERY_PARAMS(ORIG)%",
    "%FILTER_STATE(a:PLAIN):5%",
    "%FILTER_STATE(a:FIELD:b)%",
    "%FILTER_STATE(a:FIELD)%",
    "%REQ(:path)%",
    "%REQ(a?)%",
    "%REQ(a?b?c)%",
    "%REQ(ü)%",
    "%REQ(a))%",
    "%START_TIME(%s)%",
    "%CEL(request.headers['a'].startsWith('b'))%",
    '%UPSTREAM_METADATA(["a","b"])%',
    "%%",
    "50%% of %PROTOCOL%",
    "50%",
    "%protocol%",
    "tab\tand ünicode",
)


def routes(number: int, value: str) -> Resource:
    made = RouteConfiguration(name=str(number))
    host = made.virtual_hosts.add(name="x", domains=["*"])
    added = host.request_headers_to_add.add()
    added.header.key, added.header.value = "x", value
    return resource_of(made)


@pytest.mark.envoy
async def test_the_checks_take_what_envoy_takes(tmp_path_factory: pytest.TempPathFactory) -> None:
    values = [form.replace("X", name) for name in NAMES for form in FORMS] + list(SPECIAL)
    # An expression has a syntax of its own, of which the checks know nothing.
    values = [value for value in values if "CEL" not in value or ("(a b)" not in value and "(a:b)" not in value)]
    values = [value for value in values if not value.startswith("%CEL(a?b)")]
    probes = {value: routes(number, value) for number, value in enumerate(values)}
    async with Taster(tmp_path_factory.mktemp("t"), deadline_seconds=120) as taster:
        verdicts = await taster.taste([(RDS, resource) for resource in probes.values()])
    differ = {
        value: (format_fault(value), verdicts[resource.version])
        for value, resource in probes.items()
        if (format_fault(value) is None) != (verdicts[resource.version] == "")
    }
    assert differ == {}
