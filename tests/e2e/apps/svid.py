"""An application that wants its SVID itself, by the `spiffe` client: tells what it got, line by line.

Arguments: none, or the path of a socket to ask instead of its own.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

from cryptography.hazmat.primitives import serialization
from spiffe import JwtSource, TrustDomain, WorkloadApiClient, X509Source


def tell(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def main() -> None:
    if len(sys.argv) > 1:
        try:
            with WorkloadApiClient(f"unix://{sys.argv[1]}") as client:
                tell(stolen=str(client.fetch_x509_svid().spiffe_id))
        except Exception as error:  # whatever it is, the test wants to see it
            tell(refused=str(error))
        threading.Event().wait()
    source = X509Source(timeout_in_seconds=30)  # from SPIFFE_ENDPOINT_SOCKET
    changed = threading.Event()
    source.subscribe_for_updates(changed.set)
    with JwtSource(timeout_in_seconds=30) as tokens, WorkloadApiClient() as client:
        svid = tokens.fetch_svid({"db"})
        judged = client.validate_jwt_svid(svid.token, "db")
        tell(token_of=str(judged.spiffe_id), audience=sorted(judged.audience))
    while True:
        context = source.get_x509_context()
        svid = context.default_svid
        bundles = {
            str(domain): [
                each.public_bytes(serialization.Encoding.PEM).decode()
                for each in context.x509_bundle_set.get_bundle_for_trust_domain(TrustDomain(domain)).x509_authorities
            ]
            for domain in sorted(bundle.trust_domain.name for bundle in context.x509_bundle_set.bundles)
        }
        key = svid.private_key.public_key() == svid.leaf.public_key()
        tell(spiffe_id=str(svid.spiffe_id), serial=f"{svid.leaf.serial_number:x}", key_fits=key, bundles=bundles)
        changed.wait()
        changed.clear()


if __name__ == "__main__":
    main()
