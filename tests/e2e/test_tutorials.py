"""The tasks of docs/traffic.md on the sample shop: its YAML, taken from the page, and what is then seen as it says."""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from tests.e2e.harness import MeshRun, eventually
from tests.e2e.measuring import samples
from tests.fakes.certs import StrangeAuthority, key_pem, pem_of
from tests.fakes.ports import free_port
from tests.fakes.tls_clients import Pair, TlsClient, make_pair, secret_yaml, serial_of

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.envoy, pytest.mark.timeout(180)]

PAGE = Path(__file__).parents[2] / "docs" / "traffic.md"
APPS = Path(__file__).parent / "apps"
JASON = {"end-user": "jason"}
LIBRARY = {"host": "library.example.com"}
OUTSIDE, ROOTS = "192.0.2.10", "/etc/weather/ca.pem"  # what the page calls a server outside, and who vouches for it


def _tasks() -> dict[str, list[str]]:
    """Return heading -> its blocks of YAML, of every section of the page that has some."""
    sections = re.split(r"^## (.+)$", PAGE.read_text(), flags=re.MULTILINE)[1:]
    blocks = {
        heading: re.findall(r"^```yaml\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
        for heading, text in zip(sections[::2], sections[1::2], strict=True)
    }
    return {heading: found for heading, found in blocks.items() if found}


Test = TypeVar("Test", bound=Callable[..., None])
TASKS = _tasks()
TRIED: set[str] = {"Name the versions"}  # applied for all


def task(heading: str) -> Callable[[Test], Test]:
    """Mark a test as that of one section of the page."""
    TRIED.add(heading)
    return lambda test: test


def apply(shop: MeshRun, *tasks: tuple[str, int], outside: str = OUTSIDE, roots: Path | None = None) -> None:
    """Let these blocks be all that is written beside the shop and its versions."""
    blocks = [TASKS["Name the versions"][0]]
    for heading, number in tasks:
        if heading == "Stick to one endpoint":
            blocks.clear()  # it has a rule for the same host
        blocks.append(TASKS[heading][number])
    text = "\n---\n".join(blocks).replace(OUTSIDE, outside)
    shop.write("task.yaml", text if roots is None else text.replace(ROOTS, str(roots)))


@pytest.fixture(scope="module")
def shop() -> Iterator[MeshRun]:
    mesh = MeshRun()
    try:
        mesh.shop()
        yield mesh
    finally:
        mesh.close()


@pytest.fixture(autouse=True)
def _own_rules_only(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "shop" in request.fixturenames:
        shop: MeshRun = request.getfixturevalue("shop")
        status = shop.status()
        # Of an EnvoyFilter it is always told that it leans on what is generated.
        warnings = [entry for entry in status["warnings"] if "is no interface" not in entry["message"]]
        assert (status["errors"], warnings) == ([], [])
        for path in shop.config.glob("task*.yaml"):
            path.unlink()


def of_everybody(shop: MeshRun, versions: set[str], *, headers: dict[str, str] | None = None) -> None:
    eventually(lambda: shop.reviewers(6, headers) == versions, what=f"reviews of {versions}")


def details(shop: MeshRun) -> int:
    return shop.get("/api/v1/products/0").status


def test_every_task_of_the_page_is_tried() -> None:
    assert set(TASKS) == TRIED


# ---------------------------------------------------------------- routes


@task("Route by request")
def test_route_by_request(shop: MeshRun) -> None:
    apply(shop, ("Route by request", 0))
    of_everybody(shop, {"v1"})
    assert shop.reviewers(4, JASON) == {"v2"}


@task("Inject a delay")
def test_inject_a_delay(shop: MeshRun) -> None:
    apply(shop, ("Route by request", 0), ("Inject a delay", 0))
    of_everybody(shop, {"v1"})

    def slow() -> Any:
        started = time.monotonic()
        answer = shop.get("/api/v1/products/0/reviews", JASON, seconds=20)
        return (answer.status, time.monotonic() - started) if answer.status != 200 else None

    status, seconds = eventually(slow, what="jason waits in vain")
    assert status == 504
    assert 5.9 <= seconds < 10
    assert shop.reviewers(2) == {"v1"}


@task("Inject an abort")
def test_inject_an_abort(shop: MeshRun) -> None:
    apply(shop, ("Route by request", 0), ("Inject an abort", 0))
    of_everybody(shop, {"v1"})

    def told() -> bool:
        answer = shop.get("/api/v1/products/0/reviews", JASON)
        return answer.status == 200 and b"Ratings service is currently unavailable" in answer.body

    eventually(told, what="jason is told that there are no ratings")
    assert b"unavailable" not in shop.get("/api/v1/products/0/reviews").body


@task("Shift traffic")
def test_shift_traffic(shop: MeshRun) -> None:
    apply(shop, ("Shift traffic", 0))
    eventually(lambda: shop.reviewers(12) == {"v1", "v3"}, what="two versions share")
    shares = Counter(next(iter(shop.reviewers(1))) for _ in range(60))
    assert 11 <= shares["v3"] <= 49, shares  # 30 expected, five standard deviations to either side
    apply(shop, ("Shift traffic", 1))
    of_everybody(shop, {"v3"})


@task("Shift TCP connections")
def test_shift_tcp_connections(shop: MeshRun) -> None:
    for version in ("v1", "v2"):
        shop.workload(
            "tcp-echo", version, [sys.executable, "-m", "lateen.demo.shop.tcp_echo", version], port="tcp:9000"
        )
    shop.wait_ready("tcp-echo-v1", "tcp-echo-v2")
    apply(shop, ("Shift TCP connections", 0))

    def answers(times: int) -> Counter[str]:
        argv = [sys.executable, str(APPS / "talk.py"), "line", "tcp-echo", "9000", str(times)]
        result = shop.inside("productpage-v1", argv, seconds=60)
        return Counter(answer.split()[0] for answer in json.loads(result.stdout))

    try:
        eventually(lambda: set(answers(16)) == {"v1", "v2"}, what="both versions answer")
        shares = answers(100)
        assert sum(shares.values()) == 100
        assert 3 <= shares["v2"] <= 41, shares  # 20 expected, four standard deviations below, five above
    finally:
        (shop.config / "task.yaml").unlink()  # first: a rule without its service is an error
        for version in ("v1", "v2"):
            assert shop.stop(f"tcp-echo-{version}") == 0


@task("Mirror")
def test_mirror(shop: MeshRun) -> None:
    apply(shop, ("Mirror", 0))
    of_everybody(shop, {"v1"})
    labels = ('reporter="destination"', 'source_workload="productpage-v1"', 'response_code="200"')

    def copies() -> float:
        return samples(shop, "reviews-v3", "istio_requests_total", *labels)

    before = copies()
    assert shop.reviewers(20) == {"v1"}
    eventually(lambda: copies() >= before + 20, what="as many copies as requests", seconds=15)


@task("Stick to one endpoint")
def test_stick_to_one_endpoint(shop: MeshRun) -> None:
    apply(shop, ("Stick to one endpoint", 0))
    users = [{"end-user": f"user-{number}"} for number in range(12)]
    eventually(lambda: all(len(shop.reviewers(3, user)) == 1 for user in users), what="each user sees one version")
    seen = [shop.reviewers(4, user) for user in users]
    assert all(len(versions) == 1 for versions in seen)
    assert set().union(*seen) == {"v1", "v2", "v3"}


# ---------------------------------------------------------------- resilience


@task("Set a timeout")
def test_set_a_timeout(shop: MeshRun) -> None:
    apply(shop, ("Set a timeout", 0))

    def late() -> Any:
        started = time.monotonic()
        answer = shop.get("/api/v1/products/0/reviews")
        return time.monotonic() - started if answer.status == 504 else None

    assert 1.0 <= eventually(late, what="reviews take too long") < 3.0
    eventually(
        lambda: (
            samples(shop, "productpage-v1", "istio_requests_total", 'response_code="504"', 'response_flags="UT"') >= 2
        ),
        what="both tries are counted",
        seconds=15,
    )


@task("Retry")
def test_retry(shop: MeshRun) -> None:
    apply(shop, ("Retry", 0), ("Retry", 1))
    eventually(lambda: {details(shop) for _ in range(16)} == {200, 503}, what="some fail")
    apply(shop, ("Retry", 0))
    eventually(lambda: {details(shop) for _ in range(16)} == {200}, what="none fails by default")
    apply(shop, ("Retry", 0), ("Retry", 1))
    eventually(lambda: 503 in {details(shop) for _ in range(16)}, what="some fail again")
    apply(shop, ("Retry", 0), ("Retry", 2))
    eventually(lambda: {details(shop) for _ in range(16)} == {200}, what="none fails by this rule")


@task("Eject what fails")
def test_eject_what_fails(shop: MeshRun) -> None:
    apply(shop, ("Retry", 0), ("Retry", 1))
    eventually(lambda: 503 in {details(shop) for _ in range(16)}, what="some fail")
    apply(shop, ("Retry", 0), ("Retry", 1), ("Eject what fails", 0))
    eventually(lambda: [details(shop) for _ in range(20)] == [200] * 20, what="none fails any more")
    table = shop.run("proxy-config", "endpoints", "productpage-v1", "--name", "details").stdout
    assert any("FAILED" in line and "127.0.0.1:1" in line for line in table.splitlines()), table


@task("Break the circuit")
def test_break_the_circuit(shop: MeshRun) -> None:
    apply(shop, ("Break the circuit", 0))

    def at_once() -> Counter[int]:
        with ThreadPoolExecutor(30) as pool:
            return Counter(pool.map(lambda _: details(shop), range(30)))

    shares = eventually(lambda: found if (found := at_once())[503] else None, what="some of many at once are refused")
    assert shares[200] >= 1
    assert shares[200] + shares[503] == 30
    assert [details(shop) for _ in range(5)] == [200] * 5
    eventually(
        lambda: samples(shop, "productpage-v1", "istio_requests_total", 'response_flags="UO"') >= 1,
        what="the refusals are counted",
        seconds=15,
    )


# ---------------------------------------------------------------- the edge


def write_library(shop: MeshRun) -> None:
    """Write the Gateway of "Let requests in by host" without its routes."""
    gateway, _ = TASKS["Let requests in by host"][0].split("---\n")
    shop.write("task-gateway.yaml", gateway)


@task("Let requests in by host")
def test_let_requests_in_by_host(shop: MeshRun) -> None:
    apply(shop, ("Let requests in by host", 0))
    eventually(lambda: shop.get("/details/0", LIBRARY).status == 200, what="the host is served")
    assert shop.get("/details/0", LIBRARY).json["id"] == 0
    assert shop.get("/productpage", LIBRARY).status == 404
    assert shop.get("/productpage").status == 200


@task("Redirect, rewrite, change headers, answer")
def test_redirect_rewrite_change_headers_answer(shop: MeshRun) -> None:
    write_library(shop)
    apply(shop, ("Redirect, rewrite, change headers, answer", 0))
    eventually(lambda: shop.get("/hours", LIBRARY).body == b"open all night", what="the rules hold")
    moved = shop.get("/old", LIBRARY)
    assert (moved.status, moved.headers["location"]) == (308, "http://library.example.com/books/0")
    book = shop.get("/books/0", LIBRARY)
    assert (book.status, book.json["id"], book.headers["x-shelf"]) == (200, 0, "sailing")
    assert "x-envoy-upstream-service-time" not in book.headers


@task("Delegate")
def test_delegate(shop: MeshRun) -> None:
    write_library(shop)
    apply(shop, ("Delegate", 0))
    eventually(lambda: shop.get("/reviews/0", LIBRARY).status == 200, what="the delegate's rule holds")
    assert {shop.get("/reviews/0", LIBRARY).json["version"] for _ in range(6)} == {"v3"}
    assert shop.get("/details/0", LIBRARY).status == 404


# Python's ssl forgets to close a socket that is reset before its handshake, as those are that come before the listener.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@task("Let requests in by HTTPS")
def test_let_requests_in_by_https(shop: MeshRun, tmp_path: Path) -> None:
    authority, partners, port = StrangeAuthority(), StrangeAuthority(), free_port()
    first, second = (make_pair(authority, "library.example.com") for _ in range(2))
    shown = make_pair(partners, "reader.example.com").write(tmp_path, "reader")
    secrets = shop.state / "secrets"
    secrets.mkdir(mode=0o700, exist_ok=True)
    client = TlsClient(authority.root_pem)

    def write(pair: Pair) -> None:
        (secrets / ".new").write_text(secret_yaml("library-cert", pair, roots=partners.root_pem))
        (secrets / ".new").replace(secrets / "library.yaml")

    def get(greeting: TlsClient) -> tuple[int, int]:
        """Return the status, 0 for none, and the serial number of the certificate that was shown."""
        with greeting.connect(port, "library.example.com") as sock:
            serial = serial_of(sock)
            try:
                sock.sendall(b"GET /details/0 HTTP/1.1\r\nhost: library.example.com\r\nconnection: close\r\n\r\n")
                head = sock.recv(65536)
            except OSError:
                return 0, serial
            return int(head.split()[1]) if head else 0, serial

    shop.start("edge", shop.command("gateway", "--name", "edge", "--listen", f"127.0.0.1:{port}:443"))
    try:
        write(first)
        apply(shop, ("Let requests in by HTTPS", 0))
        eventually(lambda: get(client) == (200, first.serial), what="the library is open")
        write(second)
        eventually(lambda: get(client) == (200, second.serial), what="the new certificate is shown")
        routes = TASKS["Let requests in by HTTPS"][0].partition("---\n")[2]
        shop.write("task.yaml", f"{TASKS['Let requests in by HTTPS'][1]}\n---\n{routes}")
        eventually(lambda: get(client)[0] == 0, what="who shows no certificate is turned away")
        assert get(TlsClient(authority.root_pem, shows=shown))[0] == 200
    finally:
        assert shop.stop("edge") == 0


def fetch(shop: MeshRun, url: str) -> Any:
    """Ask as productpage would: status and body; 0 for no answer."""
    result = shop.inside("productpage-v1", [sys.executable, str(APPS / "ask.py"), "http", url, "1"], seconds=40)
    return json.loads(result.stdout)[0]


@task("Reach the outside")
def test_reach_the_outside(shop: MeshRun) -> None:
    """The server outside runs beside the gateway, where nothing is captured and there is no sidecar."""
    server = shop.start_inside("ingressgateway", [sys.executable, str(APPS / "speak.py"), "h1:8999", "h1:8081"])
    gateway = shop.workload_status("ingressgateway")
    assert gateway is not None
    where = str(gateway["ip"])

    def get(url: str) -> int:
        return int(fetch(shop, url)[0])

    try:
        eventually(lambda: get(f"http://{where}:8999/") == 200, what="what is not known is reached")
        apply(shop, ("Reach the outside", 0), outside=where)
        eventually(lambda: get("http://weather.example.com/") == 200, what="the entry is reached")
        eventually(lambda: get(f"http://{where}:8999/") == 0, what="what has no entry is refused")
        assert get("http://elsewhere.example.com/") == 0, "a name that nobody has does not resolve"
        eventually(
            lambda: (
                samples(shop, "productpage-v1", "istio_requests_total", 'destination_service="weather.example.com"')
                >= 1
            ),
            what="it is counted by name",
            seconds=15,
        )
        apply(shop, ("Reach the outside", 0), ("Reach the outside", 1), outside=where)
        eventually(lambda: get("http://weather.example.com/?sleep=2") == 504, what="its timeout holds")
        assert get("http://weather.example.com/") == 200
    finally:
        server.terminate()
        server.communicate(timeout=10)


@task("Limit the rate")
def test_limit_the_rate(shop: MeshRun) -> None:
    apply(shop, ("Limit the rate", 0))
    eventually(lambda: details(shop) == 429, what="the limit is reached")
    report = json.loads(shop.run("proxy-status", "details-v1", "-o", "json").stdout)
    (patch,) = report["proxies"][0]["patches"]
    assert patch["resources"] == {"LDS": 1}
    apply(shop)
    eventually(lambda: [details(shop) for _ in range(12)] == [200] * 12, what="there is no limit without it")


@pytest.fixture
def weather(shop: MeshRun, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server of HTTPS beside the gateway, where there is no sidecar: its address, and the roots that vouch for it."""
    authority, key = StrangeAuthority(), ec.generate_private_key(ec.SECP256R1())
    certificate = authority.certify(key, names=[x509.DNSName("weather.example.com")])
    for name, data in (("cert", pem_of(certificate)), ("key", key_pem(key)), ("ca", authority.root_pem)):
        (tmp_path / f"{name}.pem").write_bytes(data)
    files = {"CERT": str(tmp_path / "cert.pem"), "KEY": str(tmp_path / "key.pem")}
    server = shop.start_inside("ingressgateway", [sys.executable, str(APPS / "speak.py"), "https:8443"], files)
    found = shop.workload_status("ingressgateway")
    assert found is not None
    try:
        yield str(found["ip"]), tmp_path / "ca.pem"
    finally:
        server.terminate()
        server.communicate(timeout=10)


@task("Start TLS on the way out")
def test_start_tls_on_the_way_out(shop: MeshRun, weather: tuple[str, Path], tmp_path: Path) -> None:
    where, roots = weather
    apply(shop, ("Start TLS on the way out", 0), outside=where, roots=roots)
    _, body = eventually(
        lambda: found if (found := fetch(shop, "http://weather.example.com/"))[0] == 200 else None,
        what="the server is reached by TLS",
    )
    assert body["headers"]["host"] == "weather.example.com"
    assert fetch(shop, f"http://{where}:8443/")[0] != 200, "it speaks nothing but TLS"
    stranger = tmp_path / "stranger.pem"
    stranger.write_bytes(StrangeAuthority().root_pem)
    apply(shop, ("Start TLS on the way out", 0), outside=where, roots=stranger)
    eventually(lambda: fetch(shop, "http://weather.example.com/")[0] == 503, what="other roots do not vouch for it")


@task("Leave by an egress gateway")
def test_leave_by_an_egress_gateway(shop: MeshRun, weather: tuple[str, Path]) -> None:
    where, roots = weather
    shop.start(
        "egressgateway",
        shop.command("gateway", "--name", "egressgateway", "--listen", f"127.0.0.1:{free_port()}:15021"),
    )
    try:
        shop.wait_ready("egressgateway")
        sent = ('destination_service="weather.example.com"', 'response_code="200"')

        def passed(way: str) -> bool:
            """One request goes by way of the gateway, whose name the client has seen (by mutual TLS) or not."""
            at_client = (
                'destination_service="egressgateway.default.svc.cluster.local"',
                f'destination_principal="{way}"',
                'response_code="200"',
            )
            before = (
                samples(shop, "egressgateway", "istio_requests_total", *sent),
                samples(shop, "productpage-v1", "istio_requests_total", *at_client),
            )
            if fetch(shop, "http://weather.example.com/")[0] != 200:
                return False
            return bool(
                eventually(
                    lambda: (
                        samples(shop, "egressgateway", "istio_requests_total", *sent) > before[0]
                        and samples(shop, "productpage-v1", "istio_requests_total", *at_client) > before[1]
                    ),
                    what=f"the gateway ({way}) and the client count it",
                    seconds=3,
                )
            )

        for number, way in enumerate(("unknown", "spiffe://cluster.local/ns/default/sa/egressgateway")):
            apply(
                shop,
                ("Start TLS on the way out", 0),
                ("Leave by an egress gateway", number),
                outside=where,
                roots=roots,
            )
            eventually(lambda way=way: passed(way), what=f"requests leave by the gateway, {way}")
    finally:
        assert shop.stop("egressgateway") == 0


@task("Stay near")
def test_stay_near(shop: MeshRun) -> None:
    """Last in this module: some of the shop is started anew, in a place."""

    def start(service: str, version: str, place: str) -> None:
        argv = [sys.executable, "-m", f"lateen.demo.shop.{service}"]
        words = ["--service-account", f"bookinfo-{service}", "--locality", place]
        shop.workload(service, version, argv, words=words)

    for name in ("details-v1", "productpage-v1"):
        assert shop.stop(name) == 0
    start("details", "v1", "west/a")
    start("details", "east", "east/b")
    start("productpage", "v1", "west/a")
    shop.wait_ready("details-v1", "details-east", "productpage-v1")
    apply(shop, ("Stay near", 0))

    def served(workload: str) -> float:
        return samples(shop, workload, "istio_requests_total", 'reporter="destination"')

    def all_by(workload: str) -> bool:
        names = [name for name in ("details-v1", "details-east") if name in shop.processes]
        before = {name: served(name) for name in names}
        assert [details(shop) for _ in range(12)] == [200] * 12
        eventually(
            lambda: sum(served(name) - before[name] for name in names) >= 12, what="they are counted", seconds=15
        )
        return served(workload) - before[workload] >= 12

    eventually(lambda: all_by("details-v1"), what="the near one serves")
    assert shop.stop("details-v1") == 0
    eventually(lambda: all_by("details-east"), what="the far one serves")
    start("details", "v1", "west/a")
    shop.wait_ready("details-v1")
    eventually(lambda: all_by("details-v1"), what="they come home")
