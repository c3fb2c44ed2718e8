"""extensions.istio.io: WasmPlugin, TrafficExtension, as written.

Shapes only; rules beyond them are in `lateen.api.check_extensions`. Meaning and defaults: docs/api.
"""

from __future__ import annotations

from typing import Any, Literal

from lateen.api.base import EMPTY, Spec
from lateen.api.scalars import Int32, Mapping, Port
from lateen.api.selectors import PolicyTargetReference, WorkloadSelector

__all__ = ["EnvVar", "Lua", "PortSelector", "TrafficExtension", "TrafficSelector", "VMConfig", "Wasm", "WasmPlugin"]

Phase = Literal["UNSPECIFIED_PHASE", "AUTHN", "AUTHZ", "STATS"]
TrafficPhase = Literal["UNSPECIFIED", "AUTHN", "AUTHZ", "STATS"]
PullPolicy = Literal["UNSPECIFIED_POLICY", "IfNotPresent", "Always"]
FailStrategy = Literal["FAIL_CLOSE", "FAIL_OPEN", "FAIL_RELOAD"]
PluginType = Literal["UNSPECIFIED_PLUGIN_TYPE", "HTTP", "NETWORK"]


class EnvVar(Spec, frozen=True, kw_only=True):
    name: str
    value_from: Literal["INLINE", "HOST"] = "INLINE"
    value: str = ""  # INLINE only


class VMConfig(Spec, frozen=True, kw_only=True):
    env: tuple[EnvVar, ...] = ()


class PortSelector(Spec, frozen=True, kw_only=True):
    number: Port  # 1..65535: outbound the service's port, inbound the workload's


class TrafficSelector(Spec, frozen=True, kw_only=True):
    mode: Literal["UNDEFINED", "CLIENT", "SERVER", "CLIENT_AND_SERVER"] = "UNDEFINED"
    ports: tuple[PortSelector, ...] = ()


class Wasm(Spec, frozen=True, kw_only=True):
    """A Wasm module, where it comes from and how it runs."""

    url: str  # oci:// (assumed without a scheme), file://, http://, https://
    sha256: str = ""  # 64 lower-case hexadecimal digits
    image_pull_policy: PullPolicy = "UNSPECIFIED_POLICY"
    image_pull_secret: str | None = None
    verification_key: str | None = None
    plugin_config: Mapping[str, Any] = EMPTY  # free-form
    plugin_name: str | None = None
    fail_strategy: FailStrategy = "FAIL_CLOSE"
    vm_config: VMConfig | None = None
    type: PluginType = "UNSPECIFIED_PLUGIN_TYPE"


class WasmPlugin(Wasm, frozen=True, kw_only=True):
    """A Wasm module put into the filter chains of the workloads it selects."""

    selector: WorkloadSelector | None = None
    target_ref: PolicyTargetReference | None = None  # used only if target_refs is empty
    target_refs: tuple[PolicyTargetReference, ...] = ()
    phase: Phase = "UNSPECIFIED_PHASE"
    priority: Int32 | None = None  # higher runs first; unset runs after every number
    match: tuple[TrafficSelector, ...] = ()


class Lua(Spec, frozen=True, kw_only=True):
    inline_code: str


class TrafficExtension(Spec, frozen=True, kw_only=True):
    """A Wasm module or a Lua script put into the filter chains of the workloads it selects."""

    selector: WorkloadSelector | None = None
    target_refs: tuple[PolicyTargetReference, ...] = ()
    phase: TrafficPhase = "UNSPECIFIED"
    priority: Int32 | None = None  # higher runs first; unset runs after every number
    match: tuple[TrafficSelector, ...] = ()
    wasm: Wasm | None = None
    lua: Lua | None = None
