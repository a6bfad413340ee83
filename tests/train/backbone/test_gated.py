"""Backbones that the hub does not give: a real HTTP server on this machine acts as the hub."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.train_helpers import ROOT, make_pairs

TOKEN = "hf_inventedTokenOfTheTest"
COMMIT = "0" * 40


class Hub(BaseHTTPRequestHandler):
    """Shows what ``lab/gated`` consists of, and refuses all of it; knows nothing else."""

    protocol_version = "HTTP/1.1"
    tokens: list[str | None]

    def do_GET(self) -> None:
        self.tokens.append(self.headers.get("Authorization"))
        if self.path.startswith("/api/models/lab/gated/revision"):
            self._answer(200, {"id": "lab/gated", "sha": COMMIT})
        elif self.path.startswith("/api/models/lab/gated/tree"):
            entry = {"type": "file", "path": "config.json", "size": 2, "oid": COMMIT}
            self._answer(200, [entry])
        elif self.path.startswith("/lab/gated/resolve"):
            self._answer(403, {}, {"X-Error-Code": "GatedRepo"})
        else:
            self._answer(401, {}, {"X-Error-Code": "RepoNotFound"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.tokens = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lab/gated", "is gated; accept its licence on the hub and log in with 'hf auth login'"),
        ("lab/other", "fix backbone.path, or log in with 'hf auth login'"),
    ],
)
def test_one_line_says_how_to_log_in_and_the_token_is_nowhere(
    hub: str, tmp_path: Path, name: str, message: str
) -> None:
    data = {"path": str(make_pairs(tmp_path / "pairs.jsonl"))}
    recipe = {"name": "x", "output": str(tmp_path / "run"), "backbone": {"path": name}}
    (tmp_path / "recipe.yaml").write_text(json.dumps({**recipe, "data": data}))
    own = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "hub"), "HF_TOKEN": TOKEN}
    done = subprocess.run(
        [sys.executable, "-m", "train", str(tmp_path / "recipe.yaml"), "--role", "safety"],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "0", **own},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    # Beside the progress of a download.
    said = [line for line in done.stderr.splitlines() if line and "Fetching" not in line]
    assert len(said) == 1 and said[0].startswith(f"error: backbone {name}: "), done.stderr
    assert message in said[0]
    assert f"Bearer {TOKEN}" in Hub.tokens
    assert TOKEN not in done.stdout + done.stderr
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not any(TOKEN.encode() in file.read_bytes() for file in written)
