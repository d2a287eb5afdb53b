"""The demo's page over HTTP, with a model that is none: what is served, what is refused, and how it ends."""

import http.client
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rebnn_mm.errors import UserError
from rebnn_mm.workflows.page import server as page
from rebnn_mm.workflows.page.looker import Found, Look
from rebnn_mm.workflows.page.serve import make_server, serve
from rebnn_mm.workflows.page.server import Facts, PageServer, allowed_host, is_loopback

ROOT = Path(__file__).resolve().parents[3]


class Stub:
    """Finds one box, of the whole picture."""

    kind, classes, names = "detector", 1, ("<b>cat</b>",)

    def look(self, path):
        if path.suffix == ".gif":
            raise RuntimeError("a fault")
        image = np.asarray(Image.open(path).convert("RGB"))
        return Look(image, (Found("<b>cat</b>", 0.5, (0.0, 0.0, image.shape[1], image.shape[0])),), 1.5)


def picture(width=40, height=30, kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(file, kind)
    return file.getvalue()


@pytest.fixture
def served():
    server = PageServer(Stub(), Facts("m.rebnn", "detector"), port=0)
    thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.02))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def ask(server, path, body=None, method=None, **headers):
    """(status, headers, body) of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
    reply = connection.getresponse()
    answer = reply.status, dict(reply.getheaders()), reply.read()
    connection.close()
    return answer


def said(answer):
    return json.loads(answer[2])["error"]


def test_the_page_and_what_it_loads(served):
    status, headers, body = ask(served, "/")
    assert status == 200 and b"Drop a picture" in body and headers["Content-Type"].startswith("text/html")
    assert headers["Content-Security-Policy"].startswith("default-src 'self'")
    for name in ("page.css", "page.js"):
        assert name.encode() in body and ask(served, f"/{name}")[0] == 200
    model = json.loads(ask(served, "/model")[2])
    assert model == dict(name="m.rebnn", facts="detector", kind="detector", names=["<b>cat</b>"], limit=page.MAX_BYTES)


def test_a_picture_is_looked_at(served):
    status, _, body = ask(served, "/look", picture())
    answer = json.loads(body)
    assert status == 200 and (answer["width"], answer["height"], answer["milliseconds"]) == (40, 30, 1.5)
    assert answer["found"] == [dict(label="<b>cat</b>", score=0.5, box=[0, 0, 40, 30])]
    assert answer["picture"].startswith("data:image/jpeg;base64,")


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/../../etc/passwd", "/page.py", "//etc/passwd", "/server.py", "/%2e%2e/x", "/page.html"]
)
def test_no_path_of_the_disk_is_served(served, path):
    assert ask(served, path)[0] == 404
    assert ask(served, path, picture())[0] == 404


def header_of(width, height):
    """A PNG's first bytes, which announce a picture of this size."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (13, chunk), (0, b"IDAT")
    packed = (struct.pack(">I", size) + body + struct.pack(">I", zlib.crc32(body)) for size, body in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "no picture"),
        (b"hello", "no picture that can be read; JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture that can be read"),
        (header_of(10_000, 6_000), "10000 x 6000 pixels; up to 50,000,000"),
        (header_of(100_000, 100_000), "more than 50,000,000 pixels"),
    ],
)
def test_what_is_no_picture_gets_a_sentence(served, body, sentence):
    answer = ask(served, "/look", body)
    assert answer[0] == 422 and sentence in said(answer)


def test_too_large_an_upload_gets_a_sentence(served, monkeypatch):
    monkeypatch.setattr(page, "MAX_BYTES", 3_000_000)
    answer = ask(served, "/look", bytes(9_000_000))
    assert answer[0] == 413 and said(answer) == "9.0 MB; up to 3 MB are taken"


def test_a_body_without_a_length_is_refused(served):
    with socket.create_connection(served.server_address[:2], timeout=20) as connection:
        connection.sendall(b"POST /look HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n")
        assert b" 411 " in connection.recv(1000)
    with socket.create_connection(served.server_address[:2], timeout=20) as connection:
        connection.sendall(b"POST /look HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 500\r\n\r\nabc")
        connection.shutdown(socket.SHUT_WR)
        assert b"the upload was cut off" in connection.makefile("rb").read()


def test_a_fault_is_named_and_the_page_goes_on(served, capfd):
    answer = ask(served, "/look", picture(kind="GIF"))
    assert answer[0] == 500 and said(answer) == "RuntimeError; the terminal shows where"
    assert ask(served, "/look", picture())[0] == 200
    told, end = "", time.monotonic() + 20  # the answer may come before the terminal's last line
    while "RuntimeError: a fault" not in told and time.monotonic() < end:
        told += capfd.readouterr().err
        time.sleep(0.01)
    assert "RuntimeError: a fault" in told


def test_requests_of_other_pages_are_refused(served):
    port = served.server_address[1]
    for path, body in (("/", None), ("/model", None), ("/look", picture())):
        answer = ask(served, path, body, Host="evil.example:8000")
        assert answer[0] == 403 and "names evil.example:8000" in said(answer)
        answer = ask(served, path, body, Origin="http://evil.example")
        assert answer[0] == 403 and "comes from another page" in said(answer)
    assert ask(served, "/look", picture(), Host=f"localhost:{port}", Origin=f"http://localhost:{port}")[0] == 200


@pytest.mark.parametrize(
    ("header", "host", "allowed"),
    [
        ("127.0.0.1:8000", "127.0.0.1", True),
        ("localhost", "127.0.0.1", True),
        ("[::1]:8000", "::1", True),
        ("192.168.0.7:8000", "0.0.0.0", True),
        ("box.lan:8000", "box.lan", True),
        ("box.lan:8000", "0.0.0.0", False),
        ("localhost.evil.example", "127.0.0.1", False),
        ("127.0.0.1.evil.example", "127.0.0.1", False),
        ("[::1", "127.0.0.1", True),
        ("", "127.0.0.1", False),
        (None, "127.0.0.1", False),
    ],
)
def test_hosts(header, host, allowed):
    assert allowed_host(header, host) is allowed


def test_where_it_listens(served, capsys):
    assert served.url == f"http://127.0.0.1:{served.server_address[1]}/"
    with pytest.raises(UserError, match=r"port \d+ is taken by another program"):
        PageServer(Stub(), Facts("m", ""), port=served.server_address[1])
    with pytest.raises(UserError, match="is no address of this machine"):
        PageServer(Stub(), Facts("m", ""), host="203.0.113.5")
    with pytest.raises(UserError, match="--port 70000: 0 to 65535"):
        PageServer(Stub(), Facts("m", ""), port=70_000)
    assert is_loopback("127.0.0.1") and is_loopback("localhost") and is_loopback("::1")
    assert not is_loopback("0.0.0.0") and not is_loopback("box.lan")


def test_another_host_is_warned_about_and_ctrl_c_ends_it(capsys, monkeypatch):
    server = PageServer(Stub(), Facts("m.rebnn", "a model"), host="0.0.0.0", port=0)

    def stopped():
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "serve_forever", stopped)
    serve(server)
    out = capsys.readouterr().out
    assert "--host 0.0.0.0 lets everybody" in out and "the page is closed" in out
    assert server.socket.fileno() == -1


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ([], "got 0 names"),
        (["a", "b", "c"], "got 3 names"),
        (["model.pth"], "model.pth is no packed file"),
        (["missing.rebnn"], "missing.rebnn"),
    ],
)
def test_what_is_no_model_gets_a_sentence(model, sentence):
    with pytest.raises(UserError, match=sentence):
        make_server(model, port=0)


@pytest.mark.slow  # a process of its own
def test_ctrl_c_ends_the_command(tmp_path):
    from plain_classifier import export_plain_classifier

    export_plain_classifier(tmp_path / "m.rebnn")
    command = [sys.executable, "-m", "rebnn_mm", "demo", str(tmp_path / "m.rebnn"), "--port", "0"]
    environment = dict(os.environ, PYTHONPATH=str(ROOT), PYTHONUNBUFFERED="1")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        try:
            said = []
            while not said or not said[-1].startswith("open http"):
                said.append(process.stdout.readline())
                assert said[-1], said
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            rest = process.stdout.read()
            assert process.wait(timeout=60) == 0 and rest == "\nthe page is closed\n", rest
        finally:
            process.kill()
