"""A real S3 server on loopback, behind a gate that can be shut: for its clients it is then gone, and comes back with
all that it holds."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import boto3

GATE = """
import asyncio, sys

async def copy(reader, writer):
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()

async def main(port, behind):
    async def client(reader, writer):
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", behind)
        except OSError:
            writer.close()
            return
        await asyncio.gather(copy(reader, server_writer), copy(server_reader, writer))

    async with await asyncio.start_server(client, "127.0.0.1", port) as server:
        await server.serve_forever()

asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
"""


class S3Server:
    """``shut`` takes the server away, and ``open`` brings it back on the same port."""

    def __init__(self) -> None:
        self._behind, self.port = _free_port(), _free_port()
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._behind)]
        self._server = subprocess.Popen(command, **quiet)  # type: ignore[call-overload]
        self._gate: subprocess.Popen[bytes] | None = None
        _wait_for(self._behind)
        self.open()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def bucket(self, name: str) -> str:
        """A new bucket's URL."""
        boto3.client("s3", endpoint_url=self.endpoint).create_bucket(Bucket=name)
        return f"s3://{name}"

    def open(self) -> None:
        if self._gate is not None:
            return
        self._gate = subprocess.Popen([sys.executable, "-c", GATE, str(self.port), str(self._behind)])
        _wait_for(self.port)

    def shut(self) -> None:
        if self._gate is not None:
            self._gate.kill()
            self._gate.wait()
            self._gate = None

    @contextmanager
    def demanding_credentials(self) -> Iterator[None]:
        """While inside, the server knows nobody, as it is told by its own interface."""
        there = f"http://127.0.0.1:{self._behind}/moto-api/reset-auth"

        def allow(requests: bytes) -> None:
            plain = {"Content-Type": "text/plain"}
            urllib.request.urlopen(urllib.request.Request(there, data=requests, headers=plain)).close()

        allow(b"0")
        try:
            yield
        finally:
            allow(b"inf")

    def end(self) -> None:
        self.shut()
        self._server.kill()
        self._server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")


@contextmanager
def running() -> Iterator[S3Server]:
    """The server, with the environment that leads to it."""
    variables = {
        "AWS_ACCESS_KEY_ID": "ecgray",
        "AWS_SECRET_ACCESS_KEY": "ecgray",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in (*variables, "AWS_ENDPOINT_URL")}
    os.environ.update(variables)
    server = S3Server()
    os.environ["AWS_ENDPOINT_URL"] = server.endpoint
    try:
        yield server
    finally:
        server.end()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
