"""Scrapes a real gateway with a real Prometheus, and runs every query of the dashboard.

Usage: check.py PATH_TO_BINARY. Needs `prometheus` and `promtool`.
"""

import json
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[3]
TIMEOUT_S = 30
CONFIG = """
[server]
listen = "127.0.0.1:{gateway}"
drain_lame_duck = "100ms"
[admin]
listen = "127.0.0.1:{admin}"
[api_clients.sandbox]
data_center_url = "http://127.0.0.1:{platform}"
client_id = "sandbox"
client_secret_file = "{folder}/secret"
[[access.rules]]
callers = ["anonymous"]
users = "all"
[audit]
sink = "{folder}/audit.jsonl"
"""
SCRAPE = """
global:
  scrape_interval: 1s
  evaluation_interval: 1s
rule_files: ["{rules}"]
scrape_configs:
  - job_name: ott
    static_configs:
      - targets: ["127.0.0.1:{admin}"]
"""
# Values of the Grafana variables.
VARIABLES = {"$__rate_interval": "1m", "$job": ".*", "$instance": ".*", "$api_client": ".*"}


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def page(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


def until(what, check):
    deadline = time.monotonic() + TIMEOUT_S
    last = None
    while time.monotonic() < deadline:
        try:
            found = check()
            if found:
                return found
        except (OSError, urllib.error.URLError) as error:
            last = error
        time.sleep(0.2)
    raise SystemExit(f"timeout: {what} ({last})")


class Prometheus:
    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}/api/v1"

    def query(self, expression):
        answer = json.loads(page(f"{self.url}/query?" + urllib.parse.urlencode({"query": expression})))
        assert answer["status"] == "success", answer
        assert not answer.get("warnings") and not answer.get("infos"), (expression, answer)
        return answer["data"]["result"]

    def value(self, expression):
        result = self.query(expression)
        return float(result[0]["value"][1]) if result else None

    def rules(self):
        groups = json.loads(page(f"{self.url}/rules"))["data"]["groups"]
        return {rule["name"]: rule for group in groups for rule in group["rules"]}


def expressions(node):
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "expr":
                for name, replacement in VARIABLES.items():
                    value = value.replace(name, replacement)
                assert "$" not in value, value
                yield value
            else:
                yield from expressions(value)
    elif isinstance(node, list):
        for value in node:
            yield from expressions(value)


def check(binary, folder, processes):
    def start(*command):
        log = open(folder / f"log-{len(processes)}", "w")
        processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        return processes[-1]

    platform, sandbox, gateway, admin, prometheus_port = free_ports(5)
    (folder / "secret").write_text("sandbox-secret\n")
    (folder / "secret").chmod(0o600)
    (folder / "gateway.toml").write_text(
        CONFIG.format(gateway=gateway, admin=admin, platform=platform, folder=folder)
    )
    rules = ROOT / "deploy/prometheus/alerts.yaml"
    (folder / "prometheus.yaml").write_text(SCRAPE.format(admin=admin, rules=rules))

    down = start(
        binary, "sandbox", "--listen", f"127.0.0.1:{sandbox}", "--platform-listen", f"127.0.0.1:{platform}"
    )
    until("the platform listens", lambda: socket.create_connection(("127.0.0.1", platform), 1))
    start(binary, "serve", "--config", str(folder / "gateway.toml"))
    until("the gateway is ready", lambda: page(f"http://127.0.0.1:{admin}/readyz") == "ok\n")
    start(
        "prometheus",
        f"--config.file={folder}/prometheus.yaml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{prometheus_port}",
    )
    prometheus = Prometheus(prometheus_port)
    until("the first scrape", lambda: prometheus.value('up{job="ott"}') == 1)

    def issue(login):
        command = [binary, "issue", "--endpoint", f"http://127.0.0.1:{gateway}", "--login", login]
        return subprocess.run(command, capture_output=True, timeout=20).returncode

    assert [issue("johncustomer@mysite.com") for _ in range(3)] == [0, 0, 0]
    assert issue("nobody@mysite.com") != 0
    calls = 'sum by (grpc_code) (grpc_server_handled_total{grpc_method="IssueOtt"}) > 0'
    expected = {"OK": 3, "NotFound": 1}
    until(
        "the calls are counted",
        lambda: {row["metric"]["grpc_code"]: int(row["value"][1]) for row in prometheus.query(calls)}
        == expected,
    )

    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=page(f"http://127.0.0.1:{admin}/metrics"),
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0 and not checked.stdout + checked.stderr, checked

    dashboard = list(expressions(json.loads((ROOT / "deploy/grafana/ott-gateway.json").read_text())))
    assert len(dashboard) > 30
    # A rate needs two scrapes. Queries that end in "> 0" show rare events, and may be empty.
    for expression in dashboard:
        if not re.search(r"> 0$", expression):
            until(f"a result of {expression}", lambda: prometheus.query(expression))
        prometheus.query(expression)
    loaded = until("the alerts are evaluated", lambda: prometheus.rules())
    until("every alert is healthy", lambda: all(rule["health"] == "ok" for rule in prometheus.rules().values()))
    assert all(rule["state"] == "inactive" for rule in prometheus.rules().values()), prometheus.rules()

    # The platform stops: metrics and alerts report it.
    down.send_signal(signal.SIGKILL)
    down.wait()
    assert issue("johncustomer@mysite.com") != 0
    unreachable = 'ott_gateway_errors_total{method="IssueOtt",reason="PLATFORM_UNREACHABLE"}'
    until("the reason is counted", lambda: prometheus.value(unreachable) == 1)
    until(
        "the alert is pending",
        lambda: prometheus.rules()["OttGatewayErrorRatioHigh"]["state"] in ("pending", "firing"),
    )
    print(f"{len(dashboard)} dashboard queries and {len(loaded)} alerts work")


def main():
    (binary,) = sys.argv[1:]
    for command in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts.test.yaml"]):
        subprocess.run(["promtool", *command], cwd=ROOT / "deploy/prometheus", check=True)
    processes = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        try:
            check(str(pathlib.Path(binary).resolve()), folder, processes)
        except BaseException:
            for log in sorted(folder.glob("log-*")):
                print(f"--- {log.name}", log.read_text()[-3000:], sep="\n", file=sys.stderr)
            raise
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.wait()


main()
