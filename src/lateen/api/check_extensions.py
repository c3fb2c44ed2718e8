"""What WasmPlugin and TrafficExtension must satisfy beyond their shape.

In: a decoded `Object`. Out: its faults, in the order of the document. Rule ids (WP-.., TX-..) are those of docs/api.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from lateen.api.base import Object, Problem
from lateen.api.check_common import check_targets
from lateen.api.extensions import TrafficExtension, TrafficSelector, Wasm, WasmPlugin
from lateen.api.suggest import seen

__all__ = ["check_traffic_extension", "check_wasm_plugin"]

NAME_LENGTH = 256
SECRET_LENGTH = 253
ENV_LIMIT = 256
ENV_VALUE_LENGTH = 2048
LUA_BYTES = 65536
SCHEMES = ("oci", "file", "http", "https")

_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_wasm_plugin(obj: Object) -> Iterator[Problem]:
    """Yield every fault of a WasmPlugin."""
    plugin: WasmPlugin = obj.spec
    yield from check_targets(obj)
    yield from _check_wasm(obj, plugin, "spec")
    yield from _check_match(obj, plugin.match)


def check_traffic_extension(obj: Object) -> Iterator[Problem]:
    """Yield every fault of a TrafficExtension."""
    extension: TrafficExtension = obj.spec
    yield from check_targets(obj)
    if (extension.wasm is None) == (extension.lua is None):
        got = "neither" if extension.wasm is None else "both"
        yield obj.problem("spec", f"needs exactly one of wasm and lua, got {got}")
    if extension.wasm is not None:
        yield from _check_wasm(obj, extension.wasm, "spec.wasm")
    if extension.lua is not None:
        size = len(extension.lua.inline_code.encode())
        if not 1 <= size <= LUA_BYTES:
            yield obj.problem("spec.lua.inlineCode", f"must have 1 to {LUA_BYTES} bytes, got {size}")
    yield from _check_match(obj, extension.match)


def _check_wasm(obj: Object, wasm: Wasm, path: str) -> Iterator[Problem]:
    yield from _check_url(obj, wasm.url, f"{path}.url")
    if wasm.sha256 and not _SHA256.fullmatch(wasm.sha256):
        yield obj.problem(f"{path}.sha256", f"must be 64 lower-case hexadecimal digits, got {seen(wasm.sha256)}")
    if wasm.image_pull_secret is not None and not 1 <= len(wasm.image_pull_secret) <= SECRET_LENGTH:
        yield obj.problem(
            f"{path}.imagePullSecret", f"must have 1 to {SECRET_LENGTH} characters, got {len(wasm.image_pull_secret)}"
        )
    if wasm.plugin_name is not None and not 1 <= len(wasm.plugin_name) <= NAME_LENGTH:
        yield obj.problem(f"{path}.pluginName", f"must have 1 to {NAME_LENGTH} characters, got {len(wasm.plugin_name)}")
    yield from _check_env(obj, wasm, f"{path}.vmConfig.env")


def _check_url(obj: Object, url: str, path: str) -> Iterator[Problem]:
    if not url:
        yield obj.problem(path, "is required")
        return
    try:
        parts = urlsplit(url if "://" in url else f"oci://{url}")
        _ = parts.port
    except ValueError as err:
        yield obj.problem(path, f"must be a URL, got {seen(url)} ({err})")
        return
    if parts.scheme not in SCHEMES:
        yield obj.problem(path, f"scheme must be one of {', '.join(SCHEMES)}, got {seen(parts.scheme)}")


def _check_env(obj: Object, wasm: Wasm, path: str) -> Iterator[Problem]:
    env = wasm.vm_config.env if wasm.vm_config is not None else ()
    if len(env) > ENV_LIMIT:
        yield obj.problem(path, f"at most {ENV_LIMIT} variables are allowed, got {len(env)}")
    names: set[str] = set()
    for i, variable in enumerate(env):
        if not 1 <= len(variable.name) <= NAME_LENGTH:
            yield obj.problem(f"{path}[{i}].name", f"must have 1 to {NAME_LENGTH} characters, got {len(variable.name)}")
        elif variable.name in names:
            yield obj.problem(f"{path}[{i}].name", f"is given twice, got {seen(variable.name)}")
        names.add(variable.name)
        if variable.value and variable.value_from == "HOST":
            yield obj.problem(f"{path}[{i}].value", "cannot be given with valueFrom HOST, which takes the proxy's own")
        if len(variable.value) > ENV_VALUE_LENGTH:
            yield obj.problem(
                f"{path}[{i}].value",
                f"must have at most {ENV_VALUE_LENGTH} characters, got {len(variable.value)}",
            )


def _check_match(obj: Object, match: tuple[TrafficSelector, ...]) -> Iterator[Problem]:
    for i, selector in enumerate(match):
        numbers: set[int] = set()
        for j, port in enumerate(selector.ports):
            place = f"spec.match[{i}].ports[{j}].number"
            if port.number in numbers:
                yield obj.problem(place, f"is given twice, got {port.number}")
            numbers.add(port.number)
