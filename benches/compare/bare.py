"""The bare wrapper of tonic and reqwest: `benches/servers/src/bin/bare.rs`."""

from benches.harness.process import Process, free_ports


class Bare:
    """A process of the wrapper with one worker thread."""

    def __init__(self, binary, folder, upstream, certificates):
        [port] = free_ports(1)
        command = [binary, "--listen", f"127.0.0.1:{port}", "--upstream", upstream.url]
        if certificates:
            command += ["--certificate", certificates.certificate, "--private-key", certificates.key]
        command += ["--ca", upstream.authority] if upstream.authority else []
        self.url = f"https://localhost:{port}" if certificates else f"http://127.0.0.1:{port}"
        self.process = Process("bare", command, folder)

    def stop(self):
        """Stops the process."""
        self.process.stop()
