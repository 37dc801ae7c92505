"""From the command line to the last answer: loading, ready, SIGTERM, and what stops a server from starting."""

from __future__ import annotations

import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from serving_models import serving

from mmbert.errors import ConfigError, MissingExtra
from mmbert.serving import server as server_module
from mmbert.serving.handlers.embedding import EmbeddingHandler
from mmbert.serving.model_spec import parse_spec
from mmbert.serving.models import served_names
from mmbert.serving.server import Server
from mmbert.serving.tracing import Tracer


@contextmanager
def command(*arguments: Any) -> Iterator[subprocess.Popen[str]]:
    """``mmbert serve`` in a process of its own."""
    line = [sys.executable, "-m", "mmbert", "serve", *map(str, arguments)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


def wait_for(url: str, *statuses: int, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    with httpx.Client(timeout=5) as client:
        while time.monotonic() < end:
            try:
                if client.get(f"{url}/health").status_code in statuses:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
    raise AssertionError(f"{url} is not at {statuses}")


def test_sigterm_lets_accepted_work_be_answered(folders: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with command(folders / "tuned", "--port", port, "--precision", "fp32") as process:
        wait_for(url, 200)
        with ThreadPoolExecutor(8) as pool, httpx.Client(base_url=url, timeout=60) as client:
            body = {"inputs": ["free and equal " * 100] * 100}
            asked = [pool.submit(client.post, "/embed", json=body) for _ in range(4)]
            while b'te_queue_size{model="tuned"} 4.0' not in httpx.get(f"{url}/metrics").content:
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            wait_for(url, 503, seconds=10)
            refused = httpx.post(f"{url}/embed", json={"inputs": "late"})
            assert refused.status_code == 503
            assert refused.json() == {"error": "the server is stopping", "error_type": "Unhealthy"}
            answers = [future.result() for future in asked]
        assert [answer.status_code for answer in answers] == [200] * 4
        assert [len(answer.json()) for answer in answers] == [100] * 4
        assert process.wait(30) == 0
        out, err = process.communicate()
    assert out == ""
    ready, draining, *lines = [line for line in err.splitlines() if not line.startswith("{")]
    assert f"{url} serves tuned (embedding, fp32 on cpu)" in ready
    assert "draining: 4 requests" in draining
    assert lines == []
    logged = [orjson.loads(line) for line in err.splitlines() if line.startswith("{")]
    embeds = [line for line in logged if line["path"] == "/embed" and line["status"] == 200]
    assert [(line["model"], line["texts"]) for line in embeds] == [("tuned", 100)] * 4
    assert "free and equal" not in err


def test_a_signal_while_loading_stops_at_once(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: the thread that loads is the main one, as under the command."""
    port = free_port()
    seen: list[int] = []

    def slow(*_: Any, **__: Any) -> Any:
        seen.append(httpx.get(f"http://127.0.0.1:{port}/health").status_code)
        seen.append(httpx.post(f"http://127.0.0.1:{port}/embed", json={"inputs": "a"}).status_code)
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        time.sleep(60)

    monkeypatch.setattr(server_module, "load_served", slow)
    begun = time.monotonic()
    server_module.serve(folders / "tuned", port=port)
    assert time.monotonic() - begun < 20
    assert seen == [503, 503]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/health")


def test_killed_while_loading_leaves_nothing_behind(folders: Path) -> None:
    port = free_port()
    with command(folders / "tuned", "--port", port) as process:
        wait_for(f"http://127.0.0.1:{port}", 503, 200)  # a small model may be loaded by now
        process.kill()
        assert process.wait(10) == -signal.SIGKILL
    with serving(folders / "tuned", port=port) as server:
        assert httpx.get(f"{server.url}/health").status_code == 200


def test_what_cannot_be_served_is_said_in_one_line(folders: Path, tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ConfigError, match="cannot listen on") as caught,
    ):
        Server([folders / "tuned"], port=taken.getsockname()[1])
    assert "\n" not in str(caught.value)
    with command(tmp_path / "nothing", "--port", 0) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert len([line for line in err.splitlines() if line.startswith("mmbert: ")]) == 1
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ["a", "b"]}, "2 served names for 1 models"),
        ({"batch_tokens": 0}, "max_batch_tokens is 0"),
        ({"host": "no.such.host.invalid"}, "cannot listen"),
        ({"models": []}, "no model to serve"),
    ],
)
def test_options_that_cannot_be(folders: Path, options: dict[str, Any], message: str) -> None:
    models = options.pop("models", [folders / "tuned"])
    with pytest.raises(ConfigError, match=message):
        Server(models, port=0, **options)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingExtra, match=r"uvicorn is not installed: pip install 'mmbert\[serve\]'"):
        runpy.run_path(server_module.__file__)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(MissingExtra, match=r"mmbert\[otel\]"):
        Tracer("http://127.0.0.1:4318")


def test_names(folders: Path) -> None:
    tuned, hub = parse_spec(folders / "tuned"), parse_spec("jhu-clsp/mmBERT-base")
    assert served_names([tuned, hub]) == ["tuned", "jhu-clsp/mmBERT-base"]
    assert served_names([tuned], ["mine"]) == ["mine"]
    with pytest.raises(ConfigError, match="two models are called 'tuned'"):
        served_names([tuned, tuned])


def test_a_server_bound_to_all_without_a_key_warns(
    folders: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stop(*_: Any, **__: Any) -> Any:
        raise ConfigError("enough")

    monkeypatch.setattr(server_module, "load_served", stop)
    for options, warned in (({"host": "0.0.0.0"}, True), ({"host": "0.0.0.0", "api_key": "k"}, False), ({}, False)):
        caplog.clear()
        with pytest.raises(ConfigError, match="enough"):
            server_module.serve([folders / "tuned"], port=0, **options)
        assert ("without an API key" in caplog.text) is warned


def test_answers_are_sent_before_the_end(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``stop`` while one request runs and another has only been read."""
    begun = threading.Event()
    compute = EmbeddingHandler.compute

    def slow(embedding: EmbeddingHandler, packed: Any, places: Any) -> Any:
        begun.set()
        time.sleep(0.3)
        return compute(embedding, packed, places)

    with ThreadPoolExecutor() as pool:
        with serving(folders / "tuned", batch_tokens=8) as server:
            monkeypatch.setattr(EmbeddingHandler, "compute", slow)
            asked = [pool.submit(httpx.post, f"{server.url}/embed", json={"inputs": "men"}) for _ in range(3)]
            assert begun.wait(10)
            while server.service.outstanding < 3:
                time.sleep(0.005)
        assert [future.result().status_code for future in asked] == [200] * 3


_STUCK = """
import threading, time
import mmbert.serving.handlers.embedding as embedding
from mmbert.serving.server import serve
from mmbert.serving.threads import Threads
from mmbert.cli.main import main

{broken}
main()
"""


@contextmanager
def broken_command(broken: str, *arguments: Any) -> Iterator[subprocess.Popen[str]]:
    """``mmbert serve`` in a process of its own, some of whose code was replaced."""
    line = [sys.executable, "-c", _STUCK.format(broken=broken), "serve", *map(str, arguments)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("broken", "left"),
    [
        ("embedding.EmbeddingHandler.compute = lambda *_: time.sleep(600)", "compute"),
        ("embedding.text_encoder = lambda *_, **__: lambda texts, first: time.sleep(600)", "tokenise-"),
    ],
)
def test_sigterm_ends_a_server_whatever_its_threads_do(folders: Path, broken: str, left: str) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    broken = f"import mmbert.serving.server as server\nserver.warm_up = lambda served: None\n{broken}"
    with broken_command(broken, folders / "tuned", "--port", port, "--drain-seconds", 1) as process:
        wait_for(url, 200)
        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(httpx.post, f"{url}/embed", json={"inputs": "a"}, timeout=60) for _ in range(2)]
            while b'te_queue_size{model="tuned"} 2.0' not in httpx.get(f"{url}/metrics").content:
                time.sleep(0.01)
            begun = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 1
            assert time.monotonic() - begun < 1 + 10
            assert [future.result().status_code for future in asked] == [503] * 2
        _, err = process.communicate()
    (said,) = [line for line in err.splitlines() if line.startswith("mmbert: ")]
    assert "abandoned after 1 seconds of --drain-seconds: 2 requests were not answered; still at work: " in said
    assert left in said


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (
            "from mmbert.serving.queue import RequestQueue\nRequestQueue.take = lambda _: exec('raise SystemExit(3)')",
            "the worker died",
        ),
        ("threading.Timer(3, lambda: server_of[0]._http.servers[0].get_loop().stop()).start()", "the HTTP thread died"),
    ],
)
def test_a_server_that_has_died_says_so_and_ends(folders: Path, broken: str, reason: str) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    kept = (
        "import mmbert.serving.server as server\nserver.warm_up = lambda served: None\nserver_of = []\n"
        "start = server.Server.start\n"
        "server.Server.start = lambda self: (server_of.append(self), start(self))\n"
    )
    with broken_command(kept + broken, folders / "tuned", "--port", port) as process:
        wait_for(url, 200)
        if "worker" in reason:
            answer = httpx.post(f"{url}/embed", json={"inputs": "a"}, timeout=20)
            assert answer.status_code == 503
            assert "the worker died: SystemExit: 3" in answer.json()["error"]
        assert process.wait(60) == 1
        _, err = process.communicate()
    assert f"mmbert: {reason}" in err


def test_health_tells_of_a_worker_that_died(folders: Path) -> None:
    with serving(folders / "tuned") as server:
        server.service.fault = "the worker died: KeyError: a bug"
        answer = httpx.get(f"{server.url}/health")
        assert answer.status_code == 503
        assert "the worker died: KeyError" in answer.json()["error"]
