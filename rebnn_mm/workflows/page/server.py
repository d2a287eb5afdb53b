"""The page's server: Python's own, on this machine alone unless told otherwise; it reads no file for anybody."""

from __future__ import annotations

import errno
import io
import ipaddress
import json
import socket
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from PIL import Image

from rebnn_mm.errors import UserError
from rebnn_mm.workflows.page.looker import Looker

MAX_BYTES = 20_000_000
MAX_PIXELS = 50_000_000
# formats that browsers and cameras write; Pillow knows others, and runs Ghostscript for one of them
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
# an upload that is too large is read to its end, so that the browser gets to read the answer; up to here
_DRAINED = 10 * MAX_BYTES
_HERE = Path(__file__).parent
_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src data:; style-src 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Facts:
    """What the page says about the model.

    Attributes:
        name: Of the file, without its folder.
        text: One line under the name.
    """

    name: str
    text: str


class PageServer(ThreadingMixIn, TCPServer):
    """Serves the page at ``url`` until it is shut down.

    A request must name this machine in its Host header: an address, ``localhost`` or ``host``. A name that somebody
    else's domain points here is refused, so that no foreign page can read the answers (DNS rebinding), and
    so is a request that another page's script sends (its Origin header).

    Args:
        looker: The model; one picture at a time.
        facts: About it.
        host: Address or name to listen at.
        port: 0 takes a free one.

    Raises:
        UserError: The port is taken, or the host is none of this machine's.
    """

    daemon_threads = True
    allow_reuse_address = True  # a port just left; one that is listened at stays taken

    def __init__(self, looker: Looker, facts: Facts, host: str = "127.0.0.1", port: int = 8000) -> None:
        self.looker, self.facts, self.host = looker, facts, host
        self.turn = threading.Lock()
        self.files = {path: ((_HERE / name).read_bytes(), kind) for path, (name, kind) in _FILES.items()}
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise UserError(_why_not(error, host, port)) from None
        except OverflowError:
            raise UserError(f"--port {port}: 0 to 65535") from None

    @property
    def url(self) -> str:
        """Where the page is."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.server_address[1]}/"

    def model(self) -> dict[str, Any]:
        """What the page asks first."""
        names = getattr(self.looker, "names", ())
        return dict(
            name=self.facts.name, facts=self.facts.text, kind=self.looker.kind, names=list(names), limit=MAX_BYTES
        )

    def look(self, body: bytes) -> dict[str, Any]:
        """What the model sees in an uploaded file.

        Raises:
            UserError: It is no picture, or one of too many pixels.
        """
        kind = checked_format(body)
        with tempfile.TemporaryDirectory(prefix="rebnn_demo_") as folder:
            path = Path(folder, f"picture.{kind.lower()}")
            path.write_bytes(body)
            with self.turn:
                return self.looker.look(path).plain()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A traceback for what is a fault, nothing for a browser that went away."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine as seen by itself only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def allowed_host(header: str | None, host: str) -> bool:
    """Whether a Host header names this machine: by address, as ``localhost`` or as ``host``."""
    name = (header or "").strip()
    if name.startswith("["):  # an IPv6 address
        name = name[1:].partition("]")[0]
    else:
        name = name.partition(":")[0]
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name.lower() in ("localhost", host.lower())
    return True


def checked_format(body: bytes) -> str:
    """Pillow's name of a picture's format; what its header announces is checked, and nothing decoded yet.

    Raises:
        UserError: No picture, or one of more pixels than memory should be spent on.
    """
    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as image:
            width, height = image.size
            kind = image.format
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"more than {MAX_PIXELS:,} pixels") from None
    except Exception:  # what Pillow's openers raise is not foreseeable
        raise UserError(f"this is no picture that can be read; {', '.join(FORMATS)} are") from None
    if width * height > MAX_PIXELS:
        raise UserError(f"{width} x {height} pixels; up to {MAX_PIXELS:,} are taken")
    return str(kind)


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is taken by another program: give another --port, or --port 0 for a free one"
    if error.errno == errno.EACCES:
        return f"port {port} may not be used: ports below 1024 are the administrator's, give another --port"
    return f"--host {host} is no address of this machine ({error.strerror or error}): leave it out, or give 0.0.0.0"


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    timeout = 30  # seconds of silence after which a connection is closed
    server_version, sys_version = "rebnn", ""

    def do_GET(self) -> None:
        if not self._from_here():
            return
        if self.path == "/model":
            self._json(self.server.model())
        elif self.path in self.server.files:
            self._send(HTTPStatus.OK, *self.server.files[self.path])
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is one page here, at /")

    def do_POST(self) -> None:
        if not self._from_here():
            return
        if self.path != "/look":
            self._refuse(HTTPStatus.NOT_FOUND, "pictures are posted to /look")
            return
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdecimal():
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "the request does not say how long its body is")
        elif int(length) > MAX_BYTES:
            self._drain(min(int(length), _DRAINED))
            said = f"{int(length) / 1e6:.1f} MB; up to {MAX_BYTES / 1e6:.0f} MB are taken"
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, said)
        elif len(body := self.rfile.read(int(length))) < int(length):
            self._refuse(HTTPStatus.BAD_REQUEST, "the upload was cut off")
        else:
            self._look(body)

    def _look(self, body: bytes) -> None:
        try:
            answer = self.server.look(body)
        except UserError as error:
            self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        except Exception as error:  # the page says it, the terminal has the traceback, and the next picture may do
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}; the terminal shows where")
            raise
        else:
            self._json(answer)

    def _from_here(self) -> bool:
        host, origin = self.headers.get("Host"), self.headers.get("Origin")
        if not allowed_host(host, self.server.host):
            said = f"the Host header names {host}, which is not this machine: use {self.server.url}"
        elif origin is not None and origin != f"http://{host}":
            said = f"the request comes from another page, {origin}"
        else:
            return True
        self._refuse(HTTPStatus.FORBIDDEN, said)
        return False

    def _drain(self, length: int) -> None:
        while length > 0 and (read := self.rfile.read(min(length, 1 << 20))):
            length -= len(read)

    def _json(self, value: Mapping[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(status, json.dumps(value, allow_nan=False).encode(), "application/json")

    def _refuse(self, status: HTTPStatus, sentence: str) -> None:
        self._json(dict(error=sentence), status)

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line for each request tells the user of one page nothing."""
