"""The sample shop as its callers see it: real processes, real HTTP."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lateen.demo.shop

RATINGS = {"id": 0, "ratings": {"Reviewer1": 5, "Reviewer2": 4}}
TRACE = {
    "x-request-id": "3f2c",
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "tracestate": "a=1",
    "baggage": "k=v",
    "b3": "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1",
    "x-b3-traceid": "80f198ee56343ba8",
    "x-b3-spanid": "e457b5a2",
    "x-b3-sampled": "1",
    "x-datadog-trace-id": "7",
    "x-ot-span-context": "c",
    "x-cloud-trace-context": "105445aa/1;o=1",
    "grpc-trace-bin": "AA",
    "sw8": "1-x",
    "end-user": "jason",
    "user-agent": "test/1",
    "authorization": "Bearer t",
}


def test_details_describes_the_book(start: Any) -> None:
    details = start("details")
    reply = details.get("/details/0")
    assert reply.status == 200
    assert reply.json["id"] == 0
    assert {"author", "year", "type", "pages", "publisher", "language", "ISBN-10", "ISBN-13"} <= reply.json.keys()
    assert details.get("/health").status == 200
    assert details.get("/details/x").status == 400
    assert details.get("/details").status == 404


def test_ratings_are_kept_once_posted(start: Any) -> None:
    ratings = start("ratings")
    assert ratings.get("/ratings/0").json == RATINGS
    assert ratings.get("/ratings/0", method="POST", body='{"Reviewer1": 1}').json["ratings"] == {"Reviewer1": 1}
    assert ratings.get("/ratings/0").json["ratings"] == {"Reviewer1": 1}
    assert ratings.get("/ratings/1").json["ratings"] == RATINGS["ratings"]


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        pytest.param("nonsense", 400, "JSON", id="not-json"),
        pytest.param("[5]", 400, "object", id="not-an-object"),
        pytest.param('{"Reviewer1": 6}', 400, "0 to 5", id="too-many-stars"),
        pytest.param('{"Reviewer1": true}', 400, "0 to 5", id="not-a-number"),
        pytest.param("x" * 70_000, 413, "65536", id="too-large"),
    ],
)
def test_ratings_refuse_what_is_no_rating(start: Any, body: str, status: int, word: str) -> None:
    reply = start("ratings").get("/ratings/0", method="POST", body=body)
    assert reply.status == status
    assert word in reply.json["error"]


def test_ratings_take_a_chunked_body(start: Any) -> None:
    # A sidecar that got HTTP/2 sends a body of unknown length in chunks.
    reply = start("ratings").get("/ratings/0", method="POST", body=iter([b'{"Revi', b'ewer1": 2}']))
    assert reply.json["ratings"] == {"Reviewer1": 2}


@pytest.mark.parametrize(
    ("version", "color"),
    [pytest.param("v2", "black", id="v2-black"), pytest.param("v3", "red", id="v3-red")],
)
def test_reviews_show_stars_in_their_color(start: Any, version: str, color: str) -> None:
    reviews = start("reviews", SERVICE_VERSION=version, RATINGS_ADDRESS=start("ratings").address)
    reply = reviews.get("/reviews/0")
    assert reply.json["id"] == "0"
    assert [r["rating"] for r in reply.json["reviews"]] == [
        {"stars": 5, "color": color},
        {"stars": 4, "color": color},
    ]


def test_reviews_v1_asks_nobody_and_shows_no_stars(start: Any, upstream: Any) -> None:
    ratings = upstream(lambda _: (200, RATINGS))
    reply = start("reviews", SERVICE_VERSION="v1", RATINGS_ADDRESS=ratings.address).get("/reviews/0")
    assert [sorted(r) for r in reply.json["reviews"]] == [["reviewer", "text"], ["reviewer", "text"]]
    assert ratings.requests == []


@pytest.mark.parametrize("answer", [(500, {}), (200, ["not ratings"])], ids=["error", "wrong-shape"])
def test_reviews_without_ratings_say_so_in_each_review(start: Any, upstream: Any, answer: tuple[int, Any]) -> None:
    ratings = upstream(lambda _: answer)
    reply = start("reviews", SERVICE_VERSION="v2", RATINGS_ADDRESS=ratings.address).get("/reviews/0")
    assert reply.status == 200
    assert [list(r["rating"]) for r in reply.json["reviews"]] == [["error"], ["error"]]


def test_reviews_v3_waits_less_than_productpage_for_ratings(start: Any, upstream: Any) -> None:
    ratings = upstream(lambda _: (200, RATINGS), held=True)
    reviews = start("reviews", SERVICE_VERSION="v3", RATINGS_ADDRESS=ratings.address)
    page = start("productpage", REVIEWS_ADDRESS=reviews.address)
    reply = page.get("/api/v1/products/0/reviews")
    assert reply.status == 200
    assert "error" in reply.json["reviews"][0]["rating"]


def test_a_version_that_does_not_exist_is_refused(start: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lateen.demo.shop.reviews"],
        env={"SERVICE_VERSION": "v9", "PORT": "0", "BIND": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=10,
    )
    assert done.returncode == 2
    assert "v1, v2, v3" in done.stderr


def test_productpage_as_json(start: Any) -> None:
    ratings = start("ratings")
    page = start(
        "productpage",
        DETAILS_ADDRESS=start("details").address,
        REVIEWS_ADDRESS=start("reviews", SERVICE_VERSION="v3", RATINGS_ADDRESS=ratings.address).address,
        RATINGS_ADDRESS=ratings.address,
    )
    products = page.get("/api/v1/products").json
    assert [p["id"] for p in products] == [0]
    assert page.get("/api/v1/products/0").json["author"]
    assert page.get("/api/v1/products/0/ratings").json == RATINGS
    assert page.get("/api/v1/products/0/reviews").json["reviews"][0]["rating"] == {"stars": 5, "color": "red"}
    assert page.get("/api/v1/products/1").status == 404
    html = page.get("/productpage")
    assert html.status == 200
    assert html.headers["content-type"].startswith("text/html")
    assert products[0]["title"] in html.text
    assert html.text.count('class="stars red"') == 2
    assert "reviews-v3" in html.text


def test_the_page_survives_every_upstream(start: Any) -> None:
    page = start("productpage")
    html = page.get("/productpage")
    assert html.status == 200
    assert "Error fetching product details" in html.text
    assert "Error fetching product reviews" in html.text
    for path in ("", "/reviews", "/ratings"):
        assert page.get(f"/api/v1/products/0{path}").status == 503


def test_json_carries_the_status_of_the_upstream(start: Any, upstream: Any) -> None:
    reviews = upstream(lambda _: (418, {"error": "teapot"}))
    reply = start("productpage", REVIEWS_ADDRESS=reviews.address).get("/api/v1/products/0/reviews")
    assert (reply.status, reply.json) == (418, {"error": "teapot"})
    assert len(reviews.requests) == 2  # reviews are asked for twice


def test_what_an_upstream_says_cannot_become_markup(start: Any, upstream: Any) -> None:
    evil = "<script>alert(1)</script>"
    rating = {"stars": 99, "color": '"><script>'}
    reviews = upstream(
        lambda _: (200, {"version": evil, "reviews": [{"reviewer": evil, "text": evil, "rating": rating}, 7]})
    )
    html = start("productpage", REVIEWS_ADDRESS=reviews.address).get("/productpage").text
    assert "<script>" not in html
    assert "★★★★★" in html


def test_headers_travel_from_page_to_ratings(start: Any, upstream: Any) -> None:
    ratings = upstream(lambda _: (200, RATINGS))
    reviews = start("reviews", SERVICE_VERSION="v2", RATINGS_ADDRESS=ratings.address)
    page = start("productpage", REVIEWS_ADDRESS=reviews.address)
    page.get("/productpage", headers={**TRACE, "x-private": "1"})
    ((path, headers),) = ratings.requests
    assert path == "/ratings/0"
    assert {name: headers.get(name) for name in TRACE} == TRACE
    assert "x-private" not in headers
    assert headers["host"] == ratings.address


def test_who_logs_in_becomes_end_user(start: Any, upstream: Any) -> None:
    reviews = upstream(lambda _: (200, {"reviews": []}))
    page = start("productpage", REVIEWS_ADDRESS=reviews.address)
    reply = page.get("/login", method="POST", body="username=jason&passwd=")
    assert (reply.status, reply.headers["location"]) == (303, "/productpage")
    cookie = reply.headers["set-cookie"].partition(";")[0]
    assert "jason" in page.get("/productpage", headers={"cookie": cookie, "end-user": "mallory"}).text
    assert reviews.requests[-1][1]["end-user"] == "jason"
    assert "Max-Age=0" in page.get("/logout", headers={"cookie": cookie}).headers["set-cookie"]
    page.get("/productpage")
    assert "end-user" not in reviews.requests[-1][1]


@pytest.mark.parametrize("name", ["", "a b", "a%0d%0ax: y", "x" * 65], ids=["empty", "blank", "header", "long"])
def test_a_user_name_must_fit_a_header(start: Any, name: str) -> None:
    assert start("productpage").get("/login", method="POST", body=f"username={name}").status == 400


def test_calls_go_through_the_proxy_in_absolute_form(start: Any, upstream: Any) -> None:
    proxy = upstream(lambda _: (200, {"id": 0, "author": "via proxy"}))
    page = start("productpage", http_proxy=f"http://{proxy.address}", DETAILS_ADDRESS="details:9080")
    assert page.get("/api/v1/products/0").json["author"] == "via proxy"
    ((target, headers),) = proxy.requests
    assert target == "http://details:9080/details/0"
    assert headers["host"] == "details:9080"


def test_no_proxy_is_honoured(start: Any, upstream: Any) -> None:
    details = upstream(lambda _: (200, {"id": 0}))
    page = start("productpage", http_proxy="http://127.0.0.1:9", no_proxy="127.0.0.1", DETAILS_ADDRESS=details.address)
    assert page.get("/api/v1/products/0").status == 200


def test_connections_are_kept(start: Any, upstream: Any) -> None:
    details = upstream(lambda _: (200, {"id": 0}))
    page = start("productpage", DETAILS_ADDRESS=details.address)
    for _ in range(5):
        assert page.get("/api/v1/products/0").status == 200
    assert len(details.connections) == 1


def test_a_lost_connection_is_replaced(start: Any) -> None:
    # The upstream closes the kept connection just as the next request arrives on it.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        page = start("productpage", DETAILS_ADDRESS=f"127.0.0.1:{listener.getsockname()[1]}")
        client = socket.create_connection(("127.0.0.1", page.port), timeout=10)
        answer = b'HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{"id":0}'
        with client:
            client.sendall(b"GET /api/v1/products/0 HTTP/1.1\r\nhost: x\r\n\r\n")
            first, _ = listener.accept()
            with first:
                first.recv(65536)
                first.sendall(answer)
                assert client.recv(65536).startswith(b"HTTP/1.1 200")
                client.sendall(b"GET /api/v1/products/0 HTTP/1.1\r\nhost: x\r\n\r\n")
                assert first.recv(65536)
            second, _ = listener.accept()
            with second:
                second.recv(65536)
                second.sendall(answer)
                assert client.recv(65536).startswith(b"HTTP/1.1 200")


def test_sigterm_lets_requests_end_and_closes_idle_connections(start: Any, upstream: Any) -> None:
    details = upstream(lambda _: (200, {"id": 0, "author": "late"}), held=True)
    page = start("productpage", DETAILS_ADDRESS=details.address)
    with (
        socket.create_connection(("127.0.0.1", page.port), timeout=10) as busy,
        socket.create_connection(("127.0.0.1", page.port), timeout=10) as idle,
    ):
        idle.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"healthy" in idle.recv(65536)
        busy.sendall(b"GET /api/v1/products/0 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert details.asked.wait(10)
        page.process.terminate()
        assert idle.recv(65536) == b""  # so it drains already
        details.release.set()
        answer = b""
        while data := busy.recv(65536):
            answer += data
    assert b"200 OK" in answer
    assert b"late" in answer
    assert b"connection: close" in answer.lower()
    assert page.process.wait(10) == 0


def test_garbage_ends_its_own_connection_only(start: Any) -> None:
    details = start("details")
    with socket.create_connection(("127.0.0.1", details.port), timeout=10) as half_open:
        half_open.sendall(b"GET /details/0 HTTP/1.1\r\nho")
        for garbage in (b"\x16\x03\x01\x00\xff\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"G" * 70_000 + b"\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", details.port), timeout=10) as bad:
                bad.sendall(garbage)
                assert not bad.recv(65536).startswith(b"HTTP/1.1 200")
        assert details.get("/details/0").status == 200
    assert details.terminate() == 0


@pytest.mark.parametrize(
    ("env", "word"),
    [
        pytest.param({"PORT": "http"}, "PORT", id="port"),
        pytest.param({"REVIEWS_ADDRESS": "reviews"}, "REVIEWS_ADDRESS", id="upstream"),
        pytest.param({"http_proxy": "socks5://127.0.0.1:1"}, "http_proxy", id="proxy"),
    ],
)
def test_a_bad_setting_is_named(env: dict[str, str], word: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lateen.demo.shop.productpage"], env=env, capture_output=True, text=True, timeout=10
    )
    assert done.returncode == 2
    assert word in done.stderr


def test_the_shop_needs_the_standard_library_only() -> None:
    code = "import sys, lateen.demo.shop.productpage as p; print(*{m.partition('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    foreign = set(done.stdout.split()) - sys.stdlib_module_names - {"lateen", "__main__"}
    assert not {name for name in foreign if not name.startswith(("_", "sitecustomize"))}


def test_every_file_of_the_page_is_part_of_the_package() -> None:
    folder = Path(lateen.demo.shop.__file__).parent
    assert {"page.css", "cover.svg", "config"} <= {path.name for path in folder.iterdir()}
