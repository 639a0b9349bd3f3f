"""What metrics, audit and log add to the CPU time of a call.

Usage: cost.py BINARY [BINARY_WITHOUT_METRICS]. Needs `h2load`. A binary without metrics has
to be made by hand: docs/performance.md says how, and names the variants as they are named
here. Each variant of the gateway is loaded in turn, and all of them again in each round, so
that whatever else the machine does meets all alike. Counted is the CPU time of the gateway's
process alone, divided by the calls that it answered. The platform is the sandbox's, on
loopback.
"""

import os
import pathlib
import re
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

ROUNDS = 5
SECONDS = 2
LOAD = ["h2load", "-c", "4", "-m", "16", "-t", "1"]
KNOWN, UNKNOWN = "johncustomer@mysite.com", "nobody@mysite.com"
CONFIG = """
[server]
listen = "127.0.0.1:{port}"
drain_lame_duck = "10ms"
[api_clients.sandbox]
data_center_url = "http://127.0.0.1:{platform}"
client_id = "sandbox"
client_secret_file = "{folder}/secret"
[[access.rules]]
callers = ["anonymous"]
rate = "unlimited"
user_rate = "unlimited"
users = "all"
[audit]
sink = "{audit}"
[telemetry]
log_level = "{level}"
"""
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


def listens(port):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
    raise SystemExit("it never listens")


def cpu_seconds(process):
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def load(port, body, seconds):
    command = [
        *LOAD, "-D", str(seconds), "-d", body, "-H", "content-type: application/grpc", "-H", "te: trailers",
        f"http://127.0.0.1:{port}/ott.v1.OttService/IssueOtt",
    ]  # fmt: skip
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    done, failed = re.search(r"(\d+) succeeded, (\d+) failed", text).groups()
    assert failed == "0", text
    return int(done)


def measure(variant, folder, platform):
    binary, audit, level, login = variant
    port = free_port()
    config = folder / "config.toml"
    audit = audit and folder / "audit.jsonl" or "off"
    config.write_text(CONFIG.format(port=port, platform=platform, folder=folder, audit=audit, level=level))
    message = b"\x0a" + bytes([len(login)]) + login.encode()
    body = folder / "body"
    body.write_bytes(b"\0" + struct.pack(">I", len(message)) + message)
    with open(folder / "gateway.log", "w") as log:
        gateway = subprocess.Popen([binary, "serve", "--config", config], stdout=log, stderr=log)
    try:
        listens(port)
        load(port, body, 1)
        before = cpu_seconds(gateway)
        calls = load(port, body, SECONDS)
        return (cpu_seconds(gateway) - before) / calls * 1e6, calls / SECONDS
    finally:
        gateway.kill()
        gateway.wait()
        (folder / "audit.jsonl").unlink(missing_ok=True)


def main():
    binary, *without = sys.argv[1:]
    variants = {
        "all of it: metrics, audit to a file, log at `info`": (binary, True, "info", KNOWN),
        "without audit": (binary, False, "info", KNOWN),
        "without log": (binary, True, "off", KNOWN),
        "failing calls (`USER_NOT_FOUND`), without audit, with log": (binary, False, "info", UNKNOWN),
        "failing calls, without audit, without log": (binary, False, "off", UNKNOWN),
    }
    for other in without:
        variants["without metrics"] = (other, True, "info", KNOWN)
        variants["without any of them"] = (other, False, "off", KNOWN)
    seen = {name: [] for name in variants}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "secret").write_text("sandbox-secret\n")
        (folder / "secret").chmod(0o600)
        platform = free_port()
        sandbox = subprocess.Popen(
            [binary, "sandbox", "--listen", "127.0.0.1:0", "--platform-listen", f"127.0.0.1:{platform}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            listens(platform)
            for number in range(ROUNDS):
                names = list(variants)
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    cost, rate = measure(variants[name], folder, platform)
                    seen[name].append(cost)
                    print(f"round {number + 1}: {name}: {cost:.1f} us, {rate:.0f} calls/s", flush=True)
        finally:
            sandbox.kill()
            sandbox.wait()
    print(f"\n{'':60}median    from      to   (us of CPU for each call)")
    for name, costs in seen.items():
        print(f"{name:60}{statistics.median(costs):6.1f}  {min(costs):6.1f}  {max(costs):6.1f}")


main()
