"""Authorities that are not this process: a Vault, a Kubernetes signer, any Python class of an installed package.

interface    what one of them is, seen from here: `ExternalAuthority`
config       the file that chooses one and its parameters
plugins      built-in ones and those of entry points, made from that file
check        what came back, held against what was asked for; pure
roots        which roots it has to lead to
guard        deadlines, bounded concurrency, a breaker: a dead authority costs nobody a wait
issuer       certificates of workloads signed there, one call each
intermediate certificates of workloads signed here, by an intermediate that is signed there
identity     the control plane's own certificate, when signing it takes a network
https        HTTP/1.1 over verified TLS, bounded
vault        HashiCorp Vault and OpenBao; vault_auth: who we are there
kubernetes   CertificateSigningRequests
"""

from lateen.citadel.external.interface import Context, ExternalAuthority, NoParameters, Order

__all__ = ["Context", "ExternalAuthority", "NoParameters", "Order"]
