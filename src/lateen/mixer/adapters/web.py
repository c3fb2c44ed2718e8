"""Decisions of other servers over HTTP: webhooks, and servers that answer as OPA does.

In:  the values that a rule sends. Out: a `Verdict`.
Rules: docs/mixer/adapters.md. An answer that does not say yes or no clearly is a failure, and the rule's failurePolicy
decides: nobody gets in by an answer that nobody understood. What a server says is bounded, and headers that it names
are held to what rules may write.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from lateen.api.check_mixer import ENVOYS_STATUSES
from lateen.fetch import Caller, FetchError
from lateen.mixer.adapter import AdapterError, Client, Verdict, fault_of

__all__ = ["OpaCheck", "WebhookCheck"]

MAX_BYTES: Final = 64 * 1024  # of an answer
_MAX_AGE: Final = re.compile(r"(?:^|[,\s])max-age=(\d{1,9})(?:$|[,\s])")
_ENCODER: Final = msgspec.json.Encoder(enc_hook=str)
_HEADERS: Final = {"content-type": "application/json"}


class WebhookCheck:
    """2xx lets pass, 3xx and 4xx refuse with that status and the body, all else is a failure."""

    def __init__(self, caller: Caller, url: str, rule: str) -> None:
        """`rule`: on whose behalf it is asked."""
        self._caller = caller
        self._url = url
        self._rule = rule

    async def check(self, values: Mapping[str, Any], client: Client, seconds: float) -> Verdict:
        answer = await _post(self._caller, self._url, self._rule, values, seconds)
        ttl = _ttl(answer.headers.get("cache-control", ""))
        if 200 <= answer.status < 300:
            return Verdict.allow(ttl=ttl)
        if 300 <= answer.status < 500:
            status = answer.status if answer.status in ENVOYS_STATUSES else 403
            return Verdict.deny(status, answer.body.decode("utf-8", "replace"), ttl=ttl)
        raise AdapterError(f"the webhook answered {answer.status}")


class OpaCheck:
    """Posts `{"input": ...}`; `result` is true, false, or an object with `allow`."""

    def __init__(self, caller: Caller, url: str, rule: str) -> None:
        """`rule`: on whose behalf it is asked."""
        self._caller = caller
        self._url = url
        self._rule = rule

    async def check(self, values: Mapping[str, Any], client: Client, seconds: float) -> Verdict:
        answer = await _post(self._caller, self._url, self._rule, {"input": values}, seconds)
        if answer.status != 200:
            raise AdapterError(f"the server of decisions answered {answer.status}")
        try:
            result = msgspec.json.decode(answer.body)["result"]
        except (msgspec.MsgspecError, KeyError, TypeError, UnicodeError):
            raise AdapterError("the server of decisions has no result for this") from None
        ttl = _ttl(answer.headers.get("cache-control", ""))
        if isinstance(result, bool):
            return Verdict.allow(ttl=ttl) if result else Verdict.deny(ttl=ttl)
        if isinstance(result, dict) and isinstance(result.get("allow"), bool):
            return _of_object(result, ttl)
        raise AdapterError("the result is neither true nor false nor an object with allow")


def _of_object(result: dict[str, Any], ttl: float) -> Verdict:
    headers = result.get("headers", {})
    if not isinstance(headers, dict) or not all(isinstance(text, str) for text in headers.values()):
        raise AdapterError("the result's headers are not texts by name")
    if result["allow"]:
        verdict = Verdict.allow(request_headers=headers, ttl=ttl)
    else:
        status, body = result.get("status", result.get("http_status", 403)), result.get("body", "")
        if not isinstance(status, int) or not isinstance(body, str):
            raise AdapterError(f"the result's status is {status!r}, a number is wanted, and body a text")
        verdict = Verdict.deny(status, body, headers=headers, ttl=ttl)
    fault = fault_of(verdict)
    if fault:
        raise AdapterError(f"the result's {fault}")
    return verdict


async def _post(caller: Caller, url: str, rule: str, values: Mapping[str, Any], seconds: float) -> Any:
    try:
        return await caller.post(
            url, _ENCODER.encode(values), headers=_HEADERS, max_bytes=MAX_BYTES, seconds=seconds, owner=rule
        )
    except FetchError as error:
        raise AdapterError(str(error)) from None


def _ttl(cache_control: str) -> float:
    """Return for how long an answer may be told again; nothing said: not at all."""
    text = cache_control.lower()
    found = _MAX_AGE.search(text)
    return 0.0 if found is None or "no-store" in text or "no-cache" in text else float(found[1])
