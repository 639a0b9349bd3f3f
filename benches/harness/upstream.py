"""The platform of the benchmarks: `benches/servers/src/bin/upstream.rs`."""

import json
import re
import urllib.request

from benches.harness.process import Process

TOKEN = "T1RUAQAAAG8-AAAAAAAATxLwKLZ0RMaVZ3GEk4JUMw=="
ACCESS_TOKEN = "bench-access-token"
LOGIN = "johncustomer@mysite.com"


class Upstream:
    """A platform process: HTTP/1.1 in clear text, or HTTP/2 over TLS with `certificates`."""

    def __init__(self, binary, folder, certificates=None, delay_ms=0):
        command = [binary, "--delay-ms", delay_ms]
        if certificates:
            command += ["--certificate", certificates.certificate, "--private-key", certificates.key]
        self.process = Process("upstream", command, folder)
        read = lambda: re.search(r"service=(\d+) counts=(\d+)\n", self.process.log.read_text())
        self.port, self._counts = self.process.wait_until(read, "the upstream does not start").groups()
        self.authority = certificates and certificates.authority
        self.url = f"https://localhost:{self.port}" if certificates else f"http://127.0.0.1:{self.port}"

    def counts(self):
        """Number of requests of each kind that were answered."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._counts}/", timeout=10) as page:
            return json.load(page)

    def stop(self):
        """Stops the process."""
        self.process.stop()
