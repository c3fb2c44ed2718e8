"""Which names the mesh's table answers, and how: Istio's rules as a table."""

from __future__ import annotations

import pytest

from lateen.agent.names import Answer, Entry, build_names, search_domains

TABLE = {
    "ratings.default.svc.cluster.local": Entry(("10.96.0.7",), "ratings", "default"),
    "db.prod.svc.cluster.local": Entry(("10.96.0.8", "2001:2::8"), "db", "prod"),
    "six.default.svc.cluster.local": Entry(("2001:2::9",), "six", "default"),
    "Api.GitHub.com": Entry(("240.240.0.1",)),
    "*.example.org": Entry(("240.240.0.2",)),
    "*.deep.example.org": Entry(("240.240.0.3",)),
    "odd.example.net": Entry(("10.0.0.0/8", "garbage", "10.1.1.1", "10.1.1.1")),
    "remote.default.svc.other.domain": Entry(("10.9.9.9",), "remote", "default"),
}
NAMES = build_names(TABLE, namespace="default", domain="cluster.local")


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        pytest.param("ratings", Answer(("10.96.0.7",)), id="short, own namespace"),
        pytest.param("ratings.default", Answer(("10.96.0.7",)), id="namespaced"),
        pytest.param("ratings.default.svc", Answer(("10.96.0.7",)), id="svc"),
        pytest.param("ratings.default.svc.cluster.local", Answer(("10.96.0.7",)), id="full"),
        pytest.param("RATINGS.Default.svc.cluster.local.", Answer(("10.96.0.7",)), id="case, closing dot"),
        pytest.param("db", None, id="short, other namespace"),
        pytest.param("db.prod", Answer(("10.96.0.8",), ("2001:2::8",)), id="other namespace"),
        pytest.param("six", Answer((), ("2001:2::9",)), id="IPv6 only"),
        pytest.param("api.github.com", Answer(("240.240.0.1",), entry=True), id="external"),
        pytest.param("api", None, id="external hosts have no short names"),
        pytest.param("a.example.org", Answer(("240.240.0.2",), entry=True), id="wildcard"),
        pytest.param("a.b.example.org", Answer(("240.240.0.2",), entry=True), id="wildcard over several labels"),
        pytest.param("x.deep.example.org", Answer(("240.240.0.3",), entry=True), id="longest wildcard"),
        pytest.param("example.org", None, id="a wildcard is not its own domain"),
        pytest.param("odd.example.net", Answer(("10.1.1.1",), entry=True), id="only addresses, once"),
        pytest.param("remote", None, id="of another domain"),
        pytest.param("unknown.test", None, id="unknown"),
        pytest.param("", None, id="empty"),
        pytest.param("a" * 300, None, id="too long"),
        pytest.param(
            "api.github.com.default.svc.cluster.local",
            Answer(("240.240.0.1",), alias="api.github.com", entry=True),
            id="first search domain",
        ),
        pytest.param(
            "ratings.default.svc.cluster.local.default.svc.cluster.local",
            Answer(("10.96.0.7",), alias="ratings.default.svc.cluster.local"),
            id="search domain after a full name",
        ),
        pytest.param(
            "w.example.org.default.svc.cluster.local",
            Answer(("240.240.0.2",), alias="w.example.org", entry=True),
            id="search domain after a wildcard's name",
        ),
        pytest.param("api.github.com.svc.cluster.local", None, id="other search domains are not expanded"),
    ],
)
def test_lookup(name: str, answer: Answer | None) -> None:
    assert NAMES.lookup(name) == answer


def test_a_host_comes_before_another_ones_short_name() -> None:
    table = {**TABLE, "ratings": Entry(("1.1.1.1",))}
    found = build_names(table, namespace="default", domain="cluster.local").lookup("ratings")
    assert found == Answer(("1.1.1.1",), entry=True)


def test_search_domains() -> None:
    assert search_domains("shop", "cluster.local") == ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local")


@pytest.mark.parametrize(("name", "inside"), [("a.cluster.local.", True), ("cluster.local", False), ("a.test", False)])
def test_whose_domain(name: str, inside: bool) -> None:
    assert NAMES.is_in_domain(name) is inside
