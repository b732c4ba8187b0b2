"""cluster/spot_notice.sh against a metadata server on loopback and a `ray` that only writes down what it is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

RAY = """#!/bin/bash
echo "$*" >> "$CALLS"
[ "$(wc -l < "$CALLS")" -gt 2 ]
"""


class Metadata(BaseHTTPRequestHandler):
    """No notice the first time that it is asked for one."""

    asked = 0

    def do_PUT(self) -> None:
        self.answer(200, "key")

    def do_GET(self) -> None:
        Metadata.asked += 1
        self.answer(200 if Metadata.asked > 1 else 404, '{"action": "terminate"}')

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *words: object) -> None:
        pass


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl must be installed (apt-get install curl)")
def test_a_notice_is_told_until_it_is_heard(tmp_path: Path) -> None:
    (tmp_path / "ray").write_text(RAY)
    (tmp_path / "ray").chmod(0o755)
    server = HTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        watcher = subprocess.run(
            ["bash", "cluster/spot_notice.sh", "head:6379", f"http://127.0.0.1:{server.server_port}", "0.1"],
            cwd=REPOSITORY,
            env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")},
            timeout=60,
        )
    finally:
        server.shutdown()
        server.server_close()
    calls = (tmp_path / "calls").read_text().splitlines()
    assert watcher.returncode == 0 and len(calls) == 3 and Metadata.asked == 2
    for call in calls:
        assert call.startswith("drain-node --address head:6379 --reason DRAIN_NODE_REASON_PREEMPTION")
        assert '{"action": "terminate"}' in call and 0 < int(call.rpartition(" ")[2]) <= 110
