"""Ask one URL again and again, on one kept connection and on new ones in turn; say how that went, as JSON.

Arguments: URL, seconds, gap in seconds. SIGINT ends it early, with its report.
"""

from __future__ import annotations

import http.client
import json
import signal
import sys
import time
from urllib.parse import urlsplit


def main() -> None:
    url, seconds, gap = urlsplit(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    path = url.path or "/"
    kept = http.client.HTTPConnection(url.netloc, timeout=5)
    sent, bad, kept_reopened = 0, [], 0
    sock = None
    end = time.monotonic() + seconds
    interrupted: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: interrupted.append(number))
    while time.monotonic() < end and not interrupted:
        for connection in (kept, http.client.HTTPConnection(url.netloc, timeout=5)):
            sent += 1
            try:
                connection.request("GET", path)
                response = connection.getresponse()
                body = response.read()
                if response.status != 200:
                    bad.append(f"{response.status} {body[:200]!r}")
            except (OSError, http.client.HTTPException) as error:
                bad.append(repr(error))
                connection.close()
            if connection is kept:
                if kept.sock is not sock:
                    kept_reopened += sock is not None
                    sock = kept.sock
            else:
                connection.close()
        time.sleep(gap)
    print(json.dumps({"sent": sent, "bad": bad, "kept_reopened": kept_reopened}))


if __name__ == "__main__":
    main()
