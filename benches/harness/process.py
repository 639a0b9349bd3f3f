"""A process of a benchmark: start, processor time, memory and stop."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import time

# Sufficient under valgrind on a busy machine.
START_S = 300
# The gateway stops within 30 s of the signal.
STOP_S = 40


def free_ports(number):
    """Different ports that are currently free."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Process:
    """A child process whose output goes to `NAME.log` in `folder`."""

    def __init__(self, name, command, folder, environment=None):
        self.log = pathlib.Path(folder) / f"{name}.log"
        inherited = {key: value for key, value in os.environ.items() if key != "RUST_LOG"}
        self.started = time.monotonic()
        with open(self.log, "wb") as log:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdout=log,
                stderr=log,
                env={**inherited, **(environment or {})},
            )
        self.pid = self._process.pid

    def wait_until(self, is_ready, what):
        """Polls until `is_ready()` returns a true value, and returns it."""
        deadline = time.monotonic() + START_S
        while not (result := is_ready()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{what}: {self._process.args}\n{self.log.read_text()}")
            time.sleep(0.002)
        return result

    def wait_for_port(self, port):
        """Waits until the port accepts connections."""

        def is_open():
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        self.wait_until(is_open, f"port {port} is not open")

    def cpu_seconds(self):
        """Processor time of all threads of the process since its start."""
        stat = pathlib.Path(f"/proc/{self.pid}/stat").read_text()
        fields = stat.rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mib(self):
        """Resident memory of the process, in MiB."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024

    def wake_ups(self):
        """Number of voluntary context switches of all threads."""
        status = [task.read_text() for task in pathlib.Path(f"/proc/{self.pid}/task").glob("*/status")]
        return sum(int(re.search(r"\nvoluntary_ctxt_switches:\s+(\d+)", text)[1]) for text in status)

    def stop(self):
        """Stops the process with SIGTERM. Fails if it does not stop."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise SystemExit(f"{self._process.args} did not stop") from None
