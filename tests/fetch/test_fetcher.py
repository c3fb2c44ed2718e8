"""What is fetched over real sockets, and what is not: assurance 16, each hop judged when it is connected to."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.certs import StrangeAuthority
from tests.fakes.web import Drip, Web, json_answer, redirect

from lateen.fetch import Fetcher, FetchError, Guard, Limits
from lateen.fetch.guard import parse_networks

HERE = Guard(allowed=parse_networks(["127.0.0.1"], "--allow-fetch"))  # and nothing else of the loopback network
QUICK = Limits(seconds=2)


class Names:
    """A resolver that answers as told: each time the next of the name's answers, the last one for ever."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = {name.replace("_", "."): lists for name, lists in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        lists = self.answers.get(host)
        if lists is None:
            return [host]  # an address
        return lists.pop(0) if len(lists) > 1 else lists[0]


async def refused(fetcher: Fetcher, url: str, limits: Limits = QUICK) -> FetchError:
    with pytest.raises(FetchError) as caught:
        await fetcher.get(url, limits)
    return caught.value


@pytest.fixture(scope="module")
def authority() -> StrangeAuthority:
    return StrangeAuthority()


@pytest.fixture
def inner() -> Iterator[Web]:
    """Somebody who must not be asked anything, on an address that is not allowed."""
    with Web({"/": json_answer("{}")}, host="127.0.0.2") as web:
        yield web
        assert web.asked == []


# ---------------------------------------------------------------- assurance 16


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "[::1]", "localhost", "2130706433", "0x7f.1", "127.1", "[::ffff:127.0.0.1]", "0.0.0.0"],
)
async def test_assurance_16_loopback_is_refused_by_every_name(host: str) -> None:
    with Web({"/": json_answer("{}")}) as web:
        error = await refused(Fetcher(Guard()), f"http://{host}:{web.port}/")
        assert error.reason == "refused"
        assert web.asked == []


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("169.254.169.254", "link-local"),
        ("[fe80::1]", "link-local"),
        ("10.77.0.5", "private"),
        ("10.96.0.1", "private"),
        ("240.240.0.1", "reserved"),
        ("100.64.0.1", "shared with a carrier"),
        ("[fd00::1]", "unique local"),
        ("[64:ff9b::a9fe:a9fe]", "a form of 169.254.169.254"),
    ],
)
async def test_assurance_16_metadata_services_pods_and_services_are_refused(host: str, why: str) -> None:
    error = await refused(Fetcher(Guard()), f"http://{host}/latest/meta-data/")
    assert (error.reason, why in str(error)) == ("refused", True)
    assert "--allow-fetch" in str(error)
    assert "meta-data" not in str(error)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_assurance_16_a_redirect_to_a_refused_address_is_not_followed(status: int, inner: Web) -> None:
    with Web({"/": redirect(inner.url("/"), status)}) as web:
        error = await refused(Fetcher(HERE), web.url("/"))
    assert error.reason == "refused"
    assert "127.0.0.2, which is loopback" in str(error)


async def test_assurance_16_a_chain_of_redirects_is_judged_at_each_hop(inner: Web) -> None:
    with Web({f"/{n}": redirect(f"/{n + 1}") for n in range(4)}) as web:
        web.answers["/4"] = redirect(inner.url("/"))
        error = await refused(Fetcher(HERE), web.url("/0"))
        assert web.paths == ["/0", "/1", "/2", "/3", "/4"]
    assert error.reason == "refused"


async def test_assurance_16_redirects_end() -> None:
    with Web({"/loop": redirect("/loop")}) as web:
        error = await refused(Fetcher(HERE), web.url("/loop"))
        assert len(web.paths) == 6
    assert (error.reason, "more than 5 redirects" in str(error)) == ("redirect", True)


async def test_assurance_16_dns_rebinding_finds_the_address_that_was_judged(inner: Web) -> None:
    """The name is asked once a connection: what it would answer the next time is never dialled."""
    names = Names(rebind_test=[["127.0.0.1"], ["127.0.0.2"]])
    with Web({"/": json_answer('{"from": "judged"}')}, port=inner.port) as web:
        fetched = await Fetcher(HERE, resolve=names).get(web.url("/", "rebind.test"), QUICK)
    assert fetched.body == b'{"from": "judged"}'
    assert names.asked == ["rebind.test"]


async def test_assurance_16_dns_rebinding_between_two_hops_is_refused(inner: Web) -> None:
    names = Names(rebind_test=[["127.0.0.1"], ["169.254.169.254"]])
    with Web({"/": redirect("/again")}) as web:
        error = await refused(Fetcher(HERE, resolve=names), web.url("/", "rebind.test"))
        assert web.paths == ["/"]
    assert (error.reason, "169.254.169.254" in str(error)) == ("refused", True)
    assert names.asked == ["rebind.test", "rebind.test"]


async def test_assurance_16_of_several_addresses_only_those_allowed_are_dialled(inner: Web) -> None:
    names = Names(both_test=[["127.0.0.2", "::1", "127.0.0.1"]])
    with Web({"/": json_answer("{}")}, port=inner.port) as web:
        fetched = await Fetcher(HERE, resolve=names).get(web.url("/", "both.test"), QUICK)
    assert fetched.body == b"{}"


async def test_assurance_16_proxies_of_the_environment_are_not_asked(
    inner: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, inner.url(""))
    with Web({"/": json_answer("{}")}) as web:
        assert (await Fetcher(HERE).get(web.url("/"), QUICK)).body == b"{}"


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("file:///etc/passwd", "scheme"),
        ("gopher://127.0.0.1/", "scheme"),
        ("http://user:secret@127.0.0.1/", "credentials"),
        ("http://127.0.0.1/a\r\nhost: b", "control characters"),
        ("http://127.0.0.1:99999/", "cannot be read"),
        ("http:///nowhere", "names no host"),
        ("http://" + "a" * 5000, "characters"),
    ],
)
async def test_what_is_no_url_is_refused_and_not_repeated(url: str, word: str) -> None:
    error = await refused(Fetcher(HERE), url)
    assert (error.reason, word in str(error)) == ("url", True)
    assert "secret" not in str(error)


# ---------------------------------------------------------------- TLS


async def test_the_name_is_proven_also_where_the_address_was_judged(
    authority: StrangeAuthority, tmp_path: Path
) -> None:
    roots = tmp_path / "roots.pem"
    roots.write_bytes(authority.root_pem)
    names = Names(keys_test=[["127.0.0.1"]], other_test=[["127.0.0.1"]])
    with Web({"/": json_answer("{}")}, authority=authority, names=["keys.test"]) as web:
        fetcher = Fetcher(HERE, ca_file=roots, resolve=names)
        fetched = await fetcher.get(web.url("/", "keys.test"), QUICK)
        assert (fetched.body, fetched.content_type) == (b"{}", "application/json")
        assert web.asked[0][1]["host"] == f"keys.test:{web.port}"
        wrong_name = await refused(fetcher, web.url("/", "other.test"))
        no_root = await refused(Fetcher(HERE, resolve=names), web.url("/", "keys.test"))
    assert (wrong_name.reason, no_root.reason) == ("tls", "tls")
    assert "certificate not accepted" in str(wrong_name)
    assert len(web.asked) == 1


async def test_https_never_becomes_plain_text(authority: StrangeAuthority, tmp_path: Path) -> None:
    roots = tmp_path / "roots.pem"
    roots.write_bytes(authority.root_pem)
    names = Names(keys_test=[["127.0.0.1"]])
    with (
        Web({"/": json_answer("{}")}) as plain,
        Web({"/": redirect(plain.url("/"))}, authority=authority, names=["keys.test"]) as web,
    ):
        error = await refused(Fetcher(HERE, ca_file=roots, resolve=names), web.url("/", "keys.test"))
        assert plain.asked == []
    assert (error.reason, "from https" in str(error)) == ("redirect", True)


async def test_roots_that_cannot_be_read_are_told_and_nothing_is_sent(
    authority: StrangeAuthority, tmp_path: Path
) -> None:
    with Web({"/": json_answer("{}")}, authority=authority, names=["127.0.0.1"]) as web:
        for path in (tmp_path / "missing.pem", tmp_path / "empty.pem"):
            if path.stem == "empty":
                path.write_text("nothing")
            error = await refused(Fetcher(HERE, ca_file=path), web.url("/"))
            assert (error.reason, str(path) in str(error)) == ("tls", True)
    assert web.asked == []


# ---------------------------------------------------------------- bounds


async def test_what_is_asked_for() -> None:
    with Web({"/keys": json_answer("{}")}) as web:
        await Fetcher(HERE).get(web.url("/keys?tenant=a b".replace(" ", "%20")), QUICK, headers={"x-own": "1"})
        (path, headers), *_ = web.asked
    assert path == "/keys?tenant=a%20b"
    assert headers["accept-encoding"] == "identity"
    assert headers["x-own"] == "1"
    assert "authorization" not in headers


async def test_headers_of_the_caller_stay_behind_where_another_host_is_asked() -> None:
    names = Names(one_test=[["127.0.0.1"]], two_test=[["127.0.0.1"]])
    with Web({"/end": json_answer("{}")}) as web:
        web.answers["/"] = redirect(web.url("/end", "two.test"))
        await Fetcher(HERE, resolve=names).get(web.url("/", "one.test"), QUICK, headers={"x-own": "1"})
        assert [("x-own" in headers) for _, headers in web.asked] == [True, False]


BIG = Limits(seconds=5, max_bytes=10_000)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(json_answer("x" * 10_001), "too-large", id="length told"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 200_000, "too-large", id="until it closes"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 40_000, "too-large", id="chunks"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000, "malformed", id="endless header"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nshort", "malformed", id="cut off"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}", "malformed", id="lengths"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\n{}", "malformed", id="negative length"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\nx", "malformed", id="compressed"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", "malformed", id="not HTTP"),
        pytest.param(b"", "malformed", id="silence"),
        pytest.param(json_answer("{}", status="404 Not Found"), "status", id="404"),
        pytest.param(json_answer("{}", status="500 Oh"), "status", id="500"),
        pytest.param(b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n", "status", id="redirect to nowhere"),
    ],
)
async def test_an_answer_out_of_bounds_is_told(answer: bytes, reason: str) -> None:
    with Web({"/": answer}) as web:
        assert (await refused(Fetcher(HERE), web.url("/"), BIG)).reason == reason


async def test_informational_answers_and_chunks_are_read() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"
    with Web({"/": hints + chunks}) as web:
        fetched = await Fetcher(HERE).get(web.url("/"), QUICK)
    assert (fetched.body, fetched.content_type) == (b"{}", "")


async def test_the_time_is_for_all_of_it_whatever_trickles_in() -> None:
    drip = Drip(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", 0.02)
    with Web({"/": drip}) as web:
        error = await refused(Fetcher(HERE), web.url("/"), Limits(seconds=0.3))
    assert (error.reason, "within 0.3 s" in str(error)) == ("timeout", True)


async def test_nobody_there_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    error = await refused(Fetcher(HERE), f"http://127.0.0.1:{port}/")
    assert error.reason == "connect"


async def test_a_name_without_an_address_is_told() -> None:
    async def nobody(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    error = await refused(Fetcher(HERE, resolve=nobody), "http://nowhere.test/")
    assert (error.reason, "nowhere.test" in str(error)) == ("dns", True)
