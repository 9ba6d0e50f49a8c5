"""MONAI Label's server as a program of its own, and requests to it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

requests = pytest.importorskip("requests")

SECONDS = 600  # to start, to train


class Server:
    """Requests to a running server."""

    def __init__(self, port: int, log: Path) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.log = log

    def ask(self, method: str, path: str, **arguments: Any) -> Any:
        """A request, whatever comes of it."""
        return requests.request(method, f"{self.address}{path}", timeout=SECONDS, **arguments)

    def __call__(self, method: str, path: str, **arguments: Any) -> Any:
        """A request, which must succeed."""
        answer = self.ask(method, path, **arguments)
        assert answer.status_code == 200, answer.text
        return answer

    def infer(self, model: str, image: str, folder: Path, **params: Any) -> Path:
        """The file that an inference gives back, on disk."""
        answer = self(
            "POST", f"/infer/{model}", params={"image": image, "output": "image"},
            data={"params": json.dumps({"device": "cpu", **params})},
        )  # fmt: skip
        path = folder / f"{model}-{image}{params.get('result_extension', '.nii.gz')}"
        path.write_bytes(answer.content)
        return path

    def told(self, words: str) -> bool:
        """Whether its log says so, at last: an answer may come before the error's traceback is written."""
        for _ in range(SECONDS):
            if words in self.log.read_text():
                return True
            time.sleep(1)
        return False


@contextmanager
def running(app: Path, studies: Path, home: Path, *conf: str) -> Iterator[Server]:
    """
    ``monailabel start_server --app APP --studies STUDIES``, until the context ends.

    Args:
        app: the app's folder.
        studies: the scans.
        home: a folder for the server's log, ``server.log``, and what it keeps in a home folder.
        conf: its settings, each a name followed by a value.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = home / "server.log"
    place = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"HOME": str(home), "PATH": place, "OMP_NUM_THREADS": "1"}
    command = ["monailabel", "start_server", "--app", str(app), "--studies", str(studies)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    for name, value in zip(conf[::2], conf[1::2], strict=True):
        command += ["--conf", name, value]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, cwd=home)
    server = Server(port, log)
    try:
        for _ in range(SECONDS):
            assert process.poll() is None, log.read_text()[-5000:]
            try:
                server("GET", "/info/")
                break
            except requests.ConnectionError:
                time.sleep(1)
        yield server
    except BaseException:
        print(log.read_text()[-20000:])
        raise
    finally:
        process.terminate()
        process.wait(60)
