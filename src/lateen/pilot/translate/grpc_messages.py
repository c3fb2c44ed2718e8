"""Count the messages of gRPC streams, for `istio_request_messages_total` and `istio_response_messages_total`.

In:  nothing. Out: one HTTP filter, `COUNT_MESSAGES`, and for each metric the format that tells what it counted.
Rules: gRPC over HTTP/2 (each message is preceded by five bytes: a flag and the length), docs/api/translation.md
"Metrics".

Envoy's own `grpc_stats` counts the same, but tells it as bytes ("2,3") that no format takes apart. So a script reads
the five bytes, and nothing else of a message: what is in between is skipped, nothing is held back or put together. It
writes down each chunk's count at once, so streams that are aborted are counted as far as they came. Requests that are
not gRPC never meet it: a matcher skips the filter for them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Final

from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig as CoreExtension
from envoy.extensions.common.matching.v3.extension_matcher_pb2 import ExtensionWithMatcher
from envoy.extensions.filters.common.matcher.action.v3.skip_action_pb2 import SkipFilter
from envoy.extensions.filters.http.lua.v3.lua_pb2 import Lua
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from envoy.type.matcher.v3.http_inputs_pb2 import HttpRequestHeaderMatchInput
from xds.core.v3.extension_pb2 import TypedExtensionConfig
from xds.type.matcher.v3.matcher_pb2 import Matcher
from xds.type.matcher.v3.string_pb2 import StringMatcher

from lateen.pilot.model.values_telemetry import Telemetry
from lateen.pilot.translate.metric_labels import coalesce
from lateen.pilot.translate.pack import pack

__all__ = ["COUNT_MESSAGES", "MESSAGE_METRICS", "MESSAGE_NAMESPACE", "messages_format", "without_messages"]

MESSAGE_NAMESPACE: Final = "istio.grpc"
# name of the metric without `istio_` -> key of its count in the dynamic metadata
MESSAGE_METRICS: Final = {"request_messages_total": "request", "response_messages_total": "response"}

# `skip`: bytes of a message that are still to come; `head`: what has come of the five bytes before one. A flag of 128
# and more is gRPC-Web's, for trailers sent as if they were a message.
_SCRIPT: Final = """
local byte = string.byte

local function count(handle, key)
  local skip, head, messages = 0, "", 0
  for chunk in handle:bodyChunks() do
    local size, at, before = chunk:length(), 0, messages
    while at < size do
      if skip >= size - at then
        skip = skip - (size - at)
        break
      end
      at = at + skip
      skip = 0
      local wanted = math.min(5 - #head, size - at)
      head = head .. chunk:getBytes(at, wanted)
      at = at + wanted
      if #head == 5 then
        local flag, a, b, c, d = byte(head, 1, 5)
        if flag < 128 then
          messages = messages + 1
        end
        skip = ((a * 256 + b) * 256 + c) * 256 + d
        head = ""
      end
    end
    if messages > before then
      handle:streamInfo():dynamicMetadata():set("NAMESPACE", key, messages)
    end
  end
end

function envoy_on_request(handle)
  count(handle, "request")
end

function envoy_on_response(handle)
  count(handle, "response")
end
""".replace("NAMESPACE", MESSAGE_NAMESPACE)


def _content_type(prefix: str) -> Matcher.MatcherList.Predicate:
    content_type = HttpRequestHeaderMatchInput(header_name="content-type")
    return Matcher.MatcherList.Predicate(
        single_predicate=Matcher.MatcherList.Predicate.SinglePredicate(
            input=TypedExtensionConfig(name="content-type", typed_config=pack(content_type)),
            value_match=StringMatcher(prefix=prefix),
        )
    )


def _skip(when: Matcher.MatcherList.Predicate) -> Matcher.MatcherList.FieldMatcher:
    skip = TypedExtensionConfig(name="skip", typed_config=pack(SkipFilter()))
    return Matcher.MatcherList.FieldMatcher(predicate=when, on_match=Matcher.OnMatch(action=skip))


_UNLESS_GRPC: Final = Matcher(
    matcher_list=Matcher.MatcherList(
        matchers=[
            _skip(Matcher.MatcherList.Predicate(not_matcher=_content_type("application/grpc"))),
            _skip(_content_type("application/grpc-web-text")),  # base64: there are no five bytes to read
        ]
    )
)

COUNT_MESSAGES: Final = HttpFilter(
    name="lateen.grpc_messages",
    typed_config=pack(
        ExtensionWithMatcher(
            xds_matcher=_UNLESS_GRPC,
            extension_config=CoreExtension(
                name="envoy.filters.http.lua",
                typed_config=pack(Lua(default_source_code=DataSource(inline_string=_SCRIPT))),
            ),
        )
    ),
)


@lru_cache(maxsize=512)
def without_messages(telemetry: Telemetry) -> Telemetry:
    """Return what is reported where no gRPC comes: the same but for messages, whose filter each request would pay."""
    if telemetry.metrics is None:
        return telemetry
    off = tuple(sorted({*telemetry.metrics.off, *MESSAGE_METRICS}))
    return replace(telemetry, metrics=replace(telemetry.metrics, off=off))


def messages_format(metric: str) -> str:
    """Return the format of a metric's value, a key of `MESSAGE_METRICS`; 0 where no message came."""
    return coalesce(("DYNAMIC_METADATA", f"{MESSAGE_NAMESPACE}:{MESSAGE_METRICS[metric]}"), ("CEL", "0"))
