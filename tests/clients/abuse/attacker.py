"""The attacking process: `attacker.py NAME TARGET_AS_JSON`.

Runs at the lowest priority, so that it takes no processor time from the gateway and the
well-behaved caller. Writes `ready` once the attack has its full size, runs until standard input is
closed, and then writes a report as JSON.
"""

import asyncio
import collections
import contextlib
import dataclasses
import itertools
import json
import os
import socket
import sys
import time

import catalogue
import wire

# Timeout for connecting to the gateway.
CONNECT_S = 5
# Receive buffer of a client that never reads, to limit buffering in the kernel.
DEAF_BUFFER_BYTES = 4096
# Delay before a closed connection is replaced.
RECONNECT_S = 0.05
# Held items are opened faster initially than they are replaced.
BUILD_UP_SPEED = 4
# Maximum backlog that an attacker makes up for.
MAX_CATCH_UP_S = 0.05


@dataclasses.dataclass(frozen=True)
class Target:
    """Addresses of the gateway, and the attacker's token and source addresses."""

    ports: dict[str, int]
    token: str
    addresses: list[str]


class Stage:
    """Environment of an attack: connections, rate limiting, readiness."""

    def __init__(self, attack, target):
        self.attack = attack
        self.target = target
        self.events = 0
        self.connections = 0
        self.ended = collections.Counter()
        self.goaways = collections.Counter()
        self._addresses = itertools.cycle(target.addresses)
        self._due = time.monotonic()
        self._is_ready = False

    def ready(self):
        """Reports that the attack has its full size."""
        if not self._is_ready:
            self._is_ready = True
            print("ready", flush=True)

    async def turn(self, events=1, speed=1):
        """Counts events and waits to keep the rate of the attack, or a multiple of it."""
        self.events += events
        now = time.monotonic()
        self._due = max(self._due, now - MAX_CATCH_UP_S) + events / self.attack.rate / speed
        if self._due > now:
            await asyncio.sleep(self._due - now)

    async def tcp(self, port="main", receive_buffer=None):
        """Opens a TCP connection and returns its reader and writer."""
        self.connections += 1
        client = socket.socket()
        try:
            client.setblocking(False)
            if receive_buffer:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            client.bind((next(self._addresses), 0))
            gateway = ("127.0.0.1", self.target.ports[port])
            await asyncio.wait_for(asyncio.get_running_loop().sock_connect(client, gateway), CONNECT_S)
            return await asyncio.open_connection(sock=client)
        except BaseException:
            client.close()
            raise

    @contextlib.asynccontextmanager
    async def http2(self, port="main", *, reads=True, settings=None):
        """Opens a connection that has sent the preface and its SETTINGS."""
        connection = wire.Connection(*await self.tcp(port, None if reads else DEAF_BUFFER_BYTES), reads)
        try:
            await connection.send(wire.PREFACE, wire.settings(settings))
            yield connection
        finally:
            self.goaways += connection.goaways
            connection.close()

    async def repeat(self, one, name=""):
        """Runs `one` again whenever the gateway closes its connection."""
        self.ended[name] += 0
        while True:
            try:
                await one()
            except OSError:
                self.ended[name] += 1
            await asyncio.sleep(RECONNECT_S)

    async def on_each(self, connections, one, port="main", name="", **options):
        """Runs `one(connection)` on this many connections at a time, and replaces closed ones."""

        async def connect():
            async with self.http2(port, **options) as connection:
                await one(connection)

        await asyncio.gather(*(self.repeat(connect, name) for _ in range(connections)))

    async def hold(self, opening):
        """Opens `held` items, and replaces closed ones at the rate of the attack.

        `opening()` is an asynchronous context manager that opens an item, and yields an awaitable that
        completes when the gateway has closed it.
        """
        attempted = set()

        def has_attempted(number):
            attempted.add(number)
            if len(attempted) == self.attack.held:
                self.ready()

        async def keep(number):
            while True:
                await self.turn(speed=1 if number in attempted else BUILD_UP_SPEED)
                with contextlib.suppress(OSError):
                    async with opening() as ended:
                        has_attempted(number)
                        await ended
                self.ended[""] += 1
                has_attempted(number)

        await asyncio.gather(*(keep(number) for number in range(self.attack.held)))

    def report(self, seconds):
        """Returns the report for the parent process."""
        return {
            "events": self.events,
            "seconds": seconds,
            "connections": self.connections,
            "ended": dict(self.ended),
            "goaways": dict(self.goaways),
        }


async def main(name, target):
    attack = next(attack for attack in catalogue.all_attacks() if attack.name == name)
    stage = Stage(attack, target)
    loop = asyncio.get_running_loop()
    stop = loop.run_in_executor(None, sys.stdin.read)
    started = time.monotonic()
    running = asyncio.create_task(attack.run(stage))
    await asyncio.wait([stop, running], return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        running.result()
        raise AssertionError(f"{name} stopped by itself")
    print(json.dumps(stage.report(time.monotonic() - started)), flush=True)
    # Skip closing thousands of connections one by one.
    os._exit(0)


if __name__ == "__main__":
    os.nice(19)
    asyncio.run(main(sys.argv[1], Target(**json.loads(sys.argv[2]))))
