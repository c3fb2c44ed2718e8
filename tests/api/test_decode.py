"""Files to resources: kinds, metadata, strict shapes, and how every fault is told."""

from __future__ import annotations

import textwrap
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lateen.api.base import FrozenMap, Origin, Problem, ResourceKey
from lateen.api.decode import MAX_PROBLEMS, decode_documents, decode_object
from lateen.api.kinds import CORE_KINDS, GROUPS, KINDS, kind_info

REVIEWS = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
spec:
  hosts: [reviews]
  http:
  - match:
    - headers: {end-user: {exact: jason}}
    route:
    - destination: {host: reviews, subset: v2}
      weight: 90
    - destination: {host: reviews, subset: v3}
      weight: 10
    timeout: 1.5s
"""


def told(text: str) -> list[str]:
    return [str(problem) for problem in decode_documents(textwrap.dedent(text).encode(), "f.yaml").problems]


def one(text: str) -> str:
    (problem,) = told(text)
    return problem


def resource(spec: str, kind: str = "VirtualService", version: str = "networking.istio.io/v1") -> str:
    head = f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\nspec:\n"
    return head + textwrap.indent(textwrap.dedent(spec), "  ")


def test_a_resource_is_decoded_whole() -> None:
    decoded = decode_documents(REVIEWS.encode(), "reviews.yaml")
    assert decoded.problems == ()
    (obj,) = decoded.objects
    assert obj.key == ResourceKey("VirtualService", "default", "reviews")
    assert obj.api_version == "networking.istio.io/v1"
    assert obj.origin == Origin("reviews.yaml", 1)
    (rule,) = obj.spec.http
    assert rule.match[0].headers["end-user"].exact == "jason"
    assert [entry.weight for entry in rule.route] == [90, 10]
    assert rule.timeout == timedelta(seconds=1.5)
    assert obj.line_of("spec.http[0].route[1].weight") == 14
    assert obj.line_of("spec.http[0].retries.attempts") == 8
    assert obj.problem("spec.http[0].timeout", "no") == Problem(
        "reviews.yaml", 15, "spec.http[0].timeout", "no", "error", obj.key
    )


def test_equal_content_elsewhere_is_an_equal_object() -> None:
    (one,) = decode_documents(REVIEWS.encode(), "a.yaml").objects
    (other,) = decode_documents(f"# moved\n\n{REVIEWS}".encode(), "b.yaml").objects
    assert one == other
    assert hash(one.spec) == hash(other.spec)
    assert one.origin != other.origin


@pytest.mark.parametrize("text", ["", "\n# nothing\n", "---\n---\n"])
def test_an_empty_file_holds_nothing(text: str) -> None:
    decoded = decode_documents(text.encode(), "f.yaml")
    assert (decoded.objects, decoded.problems) == ((), ())


# ---------------------------------------------------------------- kinds


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_struct_and_check(kind: str) -> None:
    info = kind_info(kind)
    assert info is not None
    assert info.versions
    assert info.group in GROUPS
    assert callable(info.check)


def test_all_versions_of_a_kind_are_the_same_object() -> None:
    texts = [REVIEWS.replace("/v1\n", f"/{version}\n") for version in ("v1", "v1beta1", "v1alpha3")]
    specs = {decode_documents(text.encode(), "f").objects[0].spec for text in texts}
    assert len(specs) == 1


@pytest.mark.parametrize(
    ("version", "kind", "message"),
    [
        pytest.param(
            "networking.istio.io/v2",
            "VirtualService",
            "f.yaml:1: apiVersion: must be networking.istio.io/v1, networking.istio.io/v1beta1, "
            'networking.istio.io/v1alpha3 for VirtualService, got "networking.istio.io/v2"',
            id="version",
        ),
        pytest.param(
            "networking.istio.io/v1",
            "VirtualServce",
            'f.yaml:2: kind: "VirtualServce" is not a kind of networking.istio.io, did you mean VirtualService?',
            id="misspelt-kind",
        ),
        pytest.param(
            "networking.istio.io/v1",
            "Foo",
            'f.yaml:2: kind: "Foo" is not a kind of networking.istio.io, which has VirtualService, DestinationRule, '
            "Gateway, ServiceEntry, WorkloadEntry, WorkloadGroup, Sidecar, ProxyConfig, EnvoyFilter",
            id="unknown-kind",
        ),
        pytest.param(
            "networking.istio.io/v1",
            "AuthorizationPolicy",
            'f.yaml:2: kind: "AuthorizationPolicy" is not a kind of networking.istio.io, which has VirtualService, '
            "DestinationRule, Gateway, ServiceEntry, WorkloadEntry, WorkloadGroup, Sidecar, ProxyConfig, EnvoyFilter",
            id="kind-of-another-group",
        ),
        pytest.param(
            "networking.isto.io/v1",
            "VirtualService",
            'f.yaml:1: apiVersion: "networking.isto.io" is not a group that Lateen reads, did you mean '
            "networking.istio.io?",
            id="misspelt-group",
        ),
        pytest.param(
            "v1",
            "Sevice",
            'f.yaml:2: kind: "Sevice" is not a kind of v1, did you mean Service?',
            id="misspelt-core",
        ),
        pytest.param(
            "v1",
            "VirtualService",
            'f.yaml:2: kind: "VirtualService" is not a kind of v1, did you mean VirtualService of networking.istio.io?',
            id="istio-kind-in-core",
        ),
    ],
)
def test_a_kind_that_cannot_be_meant_is_an_error(version: str, kind: str, message: str) -> None:
    decoded = decode_documents(f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\n".encode(), "f.yaml")
    assert [str(problem) for problem in decoded.problems] == [message]
    assert decoded.problems[0].level == "error"


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("apps/v1", "Deployment"),
        ("gateway.networking.k8s.io/v1", "Gateway"),
        ("serving.knative.dev/v1", "Service"),
        ("v1", "Endpoints"),
        ("v1", "ConfigMap"),
        *(("v1", kind) for kind in sorted(CORE_KINDS)),
    ],
)
def test_kinds_of_others_are_passed_over_with_a_warning(version: str, kind: str) -> None:
    decoded = decode_documents(f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\n".encode(), "f.yaml")
    assert decoded.objects == ()
    (problem,) = decoded.problems
    assert str(problem) == f"f.yaml:2: kind: {kind} ({version}) is not a kind Lateen reads"
    assert problem.level == "warning"


def test_a_list_is_its_items() -> None:
    items = textwrap.indent(REVIEWS, "  ").replace("  apiVersion", "- apiVersion", 1)
    text = (
        f"apiVersion: v1\nkind: List\nitems:\n{items}- apiVersion: v1\n  kind: Namespace\n  metadata: {{name: shop}}\n"
    )
    decoded = decode_documents(text.encode(), "f.yaml")
    assert [str(obj.key) for obj in decoded.objects] == ["VirtualService default/reviews", "Namespace shop"]
    assert [obj.origin.line for obj in decoded.objects] == [4, 19]
    assert decoded.objects[0].line_of("spec.http[0].timeout") == 18
    assert decoded.problems == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n", ["f.yaml:1: apiVersion: is required", "f.yaml:1: kind: is required"]),
        (
            "kind: [x]\napiVersion: 1\n",
            ["f.yaml:1: kind: must be text, got a list of 1", "f.yaml:2: apiVersion: must be text, got 1"],
        ),
        ("- a\n", ["f.yaml:1: must be a resource: a map with apiVersion, kind and metadata, got a list of 1"]),
        ("hello\n", ['f.yaml:1: must be a resource: a map with apiVersion, kind and metadata, got "hello"']),
        ("apiVersion: v1\nkind: List\nitems: 3\n", ["f.yaml:3: items: must be a list, got 3"]),
        (
            "apiVersion: v1\nkind: List\nitems: [null]\n",
            ["f.yaml:3: must be a resource: a map with apiVersion, kind and metadata, got null"],
        ),
    ],
)
def test_what_is_no_resource(text: str, message: list[str]) -> None:
    assert told(text) == message


# ---------------------------------------------------------------- metadata


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        pytest.param("{}", "metadata.name: is required", id="nameless"),
        pytest.param("3", "metadata: must be a map (ObjectMeta), got 3", id="no-map"),
        pytest.param(
            "{name: Bad_Name}",
            'metadata.name: must be lower-case letters, digits, "-" and ".", alphanumeric at both ends, got "Bad_Name"',
            id="name",
        ),
        pytest.param("{name: 1}", "metadata.name: must be text, got the number 1; put it in quotes", id="number"),
        pytest.param(
            "{name: x, namespace: a.b}", 'metadata.namespace: must be a lower-case DNS label, got "a.b"', id="ns"
        ),
        pytest.param(
            "{name: x, labels: {version: 1.10}}",
            "metadata.labels.version: must be text, got the number 1.1; put it in quotes",
            id="label-number",
        ),
        pytest.param(
            "{name: x, labels: {canary: on}}",
            "metadata.labels.canary: must be text, got the boolean true; put it in quotes",
            id="label-bool",
        ),
        pytest.param("{name: x, labels: {a: null}}", "metadata.labels.a: must not be null", id="label-null"),
        pytest.param(
            "{name: x, labels: {-a: b}}",
            'metadata.labels[-a]: must be a key as in app or team.test/app, got "-a"',
            id="label-key",
        ),
        pytest.param(
            "{name: x, labels: {a: b c}}",
            'metadata.labels.a: must be at most 63 letters, digits, "-", "_" and '
            '".", alphanumeric at both ends, got "b c"',
            id="label-value",
        ),
        pytest.param(
            "{name: x, creationTimestamp: yesterday}",
            'metadata.creationTimestamp: must be a time as in 2026-01-31T12:00:00Z, got "yesterday"',
            id="time",
        ),
        pytest.param(
            "{name: x, lables: {a: b}}",
            "metadata.lables: is not a field of metadata, did you mean labels?",
            id="unknown",
        ),
        pytest.param(
            "{name: x, foo: 1}", "metadata.foo: is not a field of metadata, it is passed over", id="passed-over"
        ),
        pytest.param(
            "{name: x, annotations: {istio.io/dry-run: 'true'}}",
            "metadata.annotations[istio.io/dry-run]: is for AuthorizationPolicies only, not for VirtualService",
            id="META-1",
        ),
        pytest.param(
            "{name: x, annotations: {internal.istio.io/webhook-always-reject: ''}}",
            "metadata.annotations[internal.istio.io/webhook-always-reject]: asks for a refusal, and gets it",
            id="META-4",
        ),
        pytest.param(
            "{name: x, annotations: {internal.istio.io/parents: a}}",
            "metadata.annotations[internal.istio.io/parents]: is internal and must not be set",
            id="META-5",
        ),
    ],
)
def test_what_is_wrong_with_metadata(metadata: str, problem: str) -> None:
    text = REVIEWS.replace("metadata:\n  name: reviews\n", f"metadata: {metadata}\n")
    assert told(text) == [f"f.yaml:3: {problem}"]


def test_what_kubernetes_writes_is_let_pass() -> None:
    text = REVIEWS.replace(
        "  name: reviews\n",
        "  name: reviews\n  namespace: shop\n  uid: 1-2-3\n  resourceVersion: '7'\n  generation: 3\n"
        "  managedFields: [{manager: kubectl}]\n  ownerReferences: []\n  finalizers: null\n"
        "  creationTimestamp: 2026-01-31T13:00:00+01:00\n  labels: {a: b}\n  annotations: {x: ''}\n",
    )
    decoded = decode_documents(f"{text}status: {{observedGeneration: 3}}\n".encode(), "f")
    assert decoded.problems == ()
    (obj,) = decoded.objects
    assert obj.key.namespace == "shop"
    assert obj.created == "2026-01-31T12:00:00Z"
    assert (obj.labels, obj.annotations) == ({"a": "b"}, {"x": ""})


def test_a_kind_without_namespace_has_none() -> None:
    decoded = decode_documents(b"apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, namespace: x}\n", "f.yaml")
    assert decoded.objects[0].key == ResourceKey("Namespace", "", "shop")
    assert [str(problem) for problem in decoded.problems] == [
        'f.yaml:3: metadata.namespace: Namespace has no namespace, "x" is passed over'
    ]
    assert decoded.problems[0].level == "warning"


def test_the_default_namespace_is_the_callers() -> None:
    assert decode_documents(REVIEWS.encode(), "f", default_namespace="shop").objects[0].key.namespace == "shop"


def test_a_name_is_used_once_in_a_file() -> None:
    decoded = decode_documents(f"{REVIEWS}---\n{REVIEWS.replace('jason', 'mary')}".encode(), "f.yaml")
    assert [str(problem) for problem in decoded.problems] == [
        "f.yaml:20: metadata.name: VirtualService default/reviews is defined at f.yaml:1 already; names must be unique"
    ]
    assert decoded.objects[0].spec.http[0].match[0].headers["end-user"].exact == "jason"
    assert len(decoded.objects) == 1


# ---------------------------------------------------------------- shapes


H = "spec.http[0]"


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("hosts: a", 'spec.hosts: must be a list, got "a"'),
        ("hosts: [1]", "spec.hosts[0]: must be text, got the number 1; put it in quotes"),
        ("hosts: [null]", "spec.hosts[0]: must not be null"),
        ("host: [a]", "spec.host: is not a field of VirtualService, did you mean hosts?"),
        ("foo: 1", "spec.foo: is not a field of VirtualService, which has exportTo, gateways, hosts, http, tcp, tls"),
        ("http: [{route: [{weight: ten}]}]", f'{H}.route[0].weight: must be a whole number, got "ten"'),
        (
            "http: [{route: [{weight: '10'}]}]",
            f'{H}.route[0].weight: must be a whole number, got "10"; take the quotes away',
        ),
        ("http: [{route: [{weight: 1.5}]}]", f"{H}.route[0].weight: must be a whole number, got 1.5"),
        ("http: [{route: [{weight: yes}]}]", f"{H}.route[0].weight: must be a whole number, got true"),
        (
            "http: [{route: [{weight: 3000000000}]}]",
            f"{H}.route[0].weight: must be at least -2147483648 and at most 2147483647, got 3000000000",
        ),
        (
            "http: [{match: [{ignoreUriCase: 'true'}]}]",
            f'{H}.match[0].ignoreUriCase: must be true or false, got "true"; take the quotes away',
        ),
        (
            "http: [{match: [{port: -1}]}]",
            f"{H}.match[0].port: must be at least 0 and at most 4294967295, got -1",
        ),
        ("http: [{match: [{headers: [a]}]}]", f"{H}.match[0].headers: must be a map, got a list of 1"),
        ("http: [{match: [{headers: {a: null}}]}]", f"{H}.match[0].headers.a: must not be null"),
        ("http: [{match: [{headers: {a: b}}]}]", f'{H}.match[0].headers.a: must be a map (StringMatch), got "b"'),
        (
            "http: [{match: [{uri: {exact: /a, prefix: /b}}]}]",
            f"{H}.match[0].uri.prefix: only one of exact, prefix, regex may be set, got exact and prefix",
        ),
        ("http: [{mirrors: [{}]}]", f"{H}.mirrors[0].destination: is required in HTTPMirrorPolicy"),
        ("http: [{mirrors: [{destination: ~}]}]", f"{H}.mirrors[0].destination: is required in HTTPMirrorPolicy"),
        ("http: [{timeout: 5}]", f"{H}.timeout: must be a duration as in 1.5s or 1h30m, got 5"),
        ("http: [{timeout: 5 s}]", f'{H}.timeout: must be a duration as in 1.5s or 1h30m, got "5 s"'),
        ("http: [{timeout: 0s}]", f'{H}.timeout: must be at least 1ms, got "0s"'),
        ("http: [{timeout: 1500us}]", f'{H}.timeout: must be a whole number of milliseconds, got "1500us"'),
        ("http: [{mirrorPercentage: {value: x}}]", f'{H}.mirrorPercentage.value: must be a number, got "x"'),
        ("http: [{mirrorPercentage: {value: 1e999}}]", f"{H}.mirrorPercentage.value: must be a number, got inf"),
        (
            "http: [{corsPolicy: {unmatchedPreflights: ignore}}]",
            f"{H}.corsPolicy.unmatchedPreflights: must be one of UNSPECIFIED, FORWARD, IGNORE, "
            'got "ignore"; did you mean IGNORE?',
        ),
        (
            "http: [{directResponse: {status: 200, body: {bytes: '*'}}}]",
            f'{H}.directResponse.body.bytes: must be base64 text, got "*"',
        ),
    ],
)
def test_a_value_of_the_wrong_shape(spec: str, problem: str) -> None:
    assert told(resource(spec)) == [f"f.yaml:5: {problem}"]


def test_a_spec_that_is_no_map() -> None:
    assert told(resource("[]")) == ["f.yaml:4: spec: must be a map (VirtualService), got an empty list"]


def test_one_fault_does_not_hide_another() -> None:
    text = """\
    hosts: [reviews, 7]
    http:
    - match:
      - uri: {exactly: /a}
        port: "80"
      rout:
      - destination: {host: reviews}
    - route:
      - destination:
          host: reviews
          subet: v1
        weight: many
    tsl: []
    """
    assert told(resource(text)) == [
        "f.yaml:5: spec.hosts[1]: must be text, got the number 7; put it in quotes",
        "f.yaml:8: spec.http[0].match[0].uri.exactly: is not a field of StringMatch, did you mean exact?",
        'f.yaml:9: spec.http[0].match[0].port: must be a whole number, got "80"; take the quotes away',
        "f.yaml:10: spec.http[0].rout: is not a field of HTTPRoute, did you mean route?",
        "f.yaml:15: spec.http[1].route[0].destination.subet: is not a field of Destination, did you mean subset?",
        'f.yaml:16: spec.http[1].route[0].weight: must be a whole number, got "many"',
        "f.yaml:17: spec.tsl: is not a field of VirtualService, did you mean tls?",
    ]


def test_a_fault_in_one_document_leaves_the_others() -> None:
    broken = REVIEWS.replace("weight: 90", "weight: x").replace("name: reviews", "name: broken")
    decoded = decode_documents(f"{broken}---\n{REVIEWS}---\nkind: [\n".encode(), "f.yaml")
    assert [obj.key.name for obj in decoded.objects] == ["reviews"]
    assert [(problem.line, problem.resource and problem.resource.name) for problem in decoded.problems] == [
        (12, "broken"),
        (33, None),
    ]


def test_fields_of_the_whole_are_strict_too() -> None:
    assert told(REVIEWS.replace("spec:", "sepc:")) == [
        "f.yaml:1: spec: must have http, tls or tcp",
        "f.yaml:5: sepc: is not a field of VirtualService, did you mean spec?",
    ]
    assert one("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: x}\n") == (
        "f.yaml:1: spec: is required in ServiceEntry"
    )


def test_null_is_absent_and_snake_case_is_known() -> None:
    text = """\
    hosts: [reviews]
    gateways: null
    http:
    - route: [{destination: {host: reviews, port: null}}]
      mirror_percent: null
      cors_policy: {allow_origin: [a], max_age: 10s}
      timeout: ~
    """
    decoded = decode_documents(resource(text).encode(), "f.yaml")
    assert decoded.problems == ()
    assert decoded.objects[0].spec.http[0].cors_policy.max_age == timedelta(seconds=10)
    assert one(
        resource("hosts: [a]\nhttp: [{route: [{destination: {host: a}}], cors_policy: {}, corsPolicy: {}}]")
    ) == ("f.yaml:6: spec.http[0].corsPolicy: is given twice, as corsPolicy and in the spelling corsPolicy")


def test_numbers_in_the_mould_of_protobuf_have_their_snake_case() -> None:
    spec = "host: a\ntraffic_policy: {outlier_detection: {consecutive_5xx_errors: 3}, load_balancer: {simple: RANDOM}}"
    decoded = decode_documents(resource(spec, "DestinationRule").encode(), "f.yaml")
    assert decoded.problems == ()
    assert decoded.objects[0].spec.traffic_policy.outlier_detection.consecutive5xx_errors == 3


def test_only_so_many_problems_are_told() -> None:
    many = "".join(
        f"---\napiVersion: v1\nkind: Service\nmetadata: {{name: x{i}}}\nspec: {{foo: 1}}\n" for i in range(500)
    )
    problems = decode_documents(many.encode(), "f.yaml").problems
    assert [problem.field for problem in problems] == ["spec.foo"] * MAX_PROBLEMS + [""]
    assert str(problems[-1]) == f"f.yaml:{5 * MAX_PROBLEMS + 2}: the rest of the file is not read: 100 errors before it"
    wide = told(resource("\n".join(f"f{i}: 1" for i in range(5000))))
    assert len(wide) == MAX_PROBLEMS + 1
    assert wide[-1].endswith("and 4900 more problems")


# ---------------------------------------------------------------- inline kinds, the mesh's settings, Kubernetes


def test_a_service_account_has_no_spec() -> None:
    text = """\
    apiVersion: v1
    kind: ServiceAccount
    metadata: {name: bookinfo-reviews, labels: {account: reviews}}
    automountServiceAccountToken: false
    imagePullSecrets: [{name: a}]
    """
    text = textwrap.dedent(text)
    decoded = decode_documents(text.encode(), "f.yaml")
    assert decoded.problems == ()
    assert decoded.objects[0].spec.automount_service_account_token is False
    assert one(text + "secret: []\n") == ("f.yaml:6: secret: is not a field of ServiceAccount, did you mean secrets?")


MESH = "accessLogFile: /dev/stdout\nconnectTimeout: 4s\n"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        pytest.param(f"apiVersion: mesh.istio.io/v1alpha1\nkind: MeshConfig\n{MESH}", "mesh", id="inline"),
        pytest.param(
            "apiVersion: mesh.istio.io/v1alpha1\nkind: MeshConfig\nmetadata: {name: own}\nspec:\n"
            + textwrap.indent(MESH, "  "),
            "own",
            id="spec",
        ),
        pytest.param(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n"
            + textwrap.indent(MESH, "    "),
            "istio",
            id="config-map",
        ),
        pytest.param(
            "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nmetadata: {name: all}\nspec:\n  meshConfig:\n"
            + textwrap.indent(MESH, "    "),
            "all",
            id="operator",
        ),
    ],
)
def test_the_meshs_settings_come_in_four_dresses(text: str, name: str) -> None:
    decoded = decode_documents(text.encode(), "f.yaml")
    assert decoded.problems == ()
    (obj,) = decoded.objects
    assert obj.key == ResourceKey("MeshConfig", "", name)
    assert obj.spec.connect_timeout == timedelta(seconds=4)
    wrong = text.replace("connectTimeout: 4s", "conectTimeout: 4s")
    (problem,) = decode_documents(wrong.encode(), "f.yaml").problems
    place = {"istio": "data.mesh.", "own": "spec.", "all": "spec.meshConfig."}.get(name, "")
    line = 1 + wrong.splitlines().index(next(line for line in wrong.splitlines() if "conectTimeout" in line))
    assert str(problem) == (
        f"f.yaml:{line}: {place}conectTimeout: is not a field of MeshConfig, did you mean connectTimeout?"
    )


def test_the_rest_of_an_operator_is_not_read() -> None:
    text = "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nspec:\n  profile: demo\n"
    (problem,) = decode_documents(text.encode(), "f.yaml").problems
    assert problem.level == "warning"
    assert str(problem) == "f.yaml:4: spec.profile: is not read: of an IstioOperator only spec.meshConfig is"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("3", "f.yaml:4: data: must be a map, got 3"),
        ("{mesh: 3}", "f.yaml:4: data.mesh: must be text that holds YAML, got 3"),
        ("{mesh: '['}", "f.yaml:4: data.mesh: is not YAML: did not find expected node content"),
        ("{mesh: '3'}", "f.yaml:4: data.mesh: must be a map (MeshConfig), got 3"),
    ],
)
def test_a_mesh_map_that_is_none(data: str, problem: str) -> None:
    assert one(f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio}}\ndata: {data}\n").startswith(problem)


def test_an_object_of_kubernetes_is_decoded_as_a_file_is() -> None:
    value = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "reviews", "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"ports": [{"port": 9080, "name": "http", "targetPort": "web"}], "clusterIP": "10.0.0.1"},
        "status": {"loadBalancer": {}},
    }
    origin = Origin("kubernetes", 1)
    decoded = decode_object(value, origin)
    assert decoded.problems == ()
    assert decoded.objects[0].origin == origin
    assert decoded.objects[0].spec.ports[0].target_port == "web"
    value["spec"] = {"ports": [{"port": 0}]}
    (problem,) = decode_object(value, origin).problems
    assert str(problem) == "kubernetes:1: spec.ports[0].port: must be a port from 1 to 65535, got 0"


def test_an_object_of_kubernetes_has_limits_too() -> None:
    deep: dict[str, object] = {}
    for _ in range(5000):
        deep = {"a": deep}
    for value in ({"spec": deep}, {"spec": [[0] * 1000] * 1000}):
        (problem,) = decode_object(value, Origin("k", 1)).problems
        assert problem.message.startswith("object is nested deeper than")


def test_free_form_values_are_frozen() -> None:
    spec = """\
    configPatches:
    - applyTo: CLUSTER
      patch: {operation: MERGE, value: {a: [1, {b: null}], "@type": x}}
    """
    (obj,) = decode_documents(resource(spec, "EnvoyFilter", "networking.istio.io/v1alpha3").encode(), "f").objects
    value = obj.spec.config_patches[0].patch.value
    assert value == {"a": (1, {"b": None}), "@type": "x"}
    assert isinstance(value["a"][1], FrozenMap)
    assert isinstance(hash(obj.spec), int)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "hosts", "http", "match", "uri", "exact", "route", "port", "labels"])
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.sampled_from(KINDS), JSON, JSON)
def test_no_value_makes_it_raise(kind: str, metadata: object, spec: object) -> None:
    info = kind_info(kind)
    assert info is not None
    version = f"{info.group}/{info.versions[0]}" if info.group else "v1"
    value = {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}
    decoded = decode_object(value, Origin("k", 1))
    assert decoded.objects or decoded.problems
