"""A page for the person at the line: the last images, their scores, whether these drift. Local, without a network.

It answers GET of /, /state, /photo/N and /heat/N, with N the number of one of the last images, and nothing else: no
name of a file is ever taken from a request. A page of another site that has its name point here (DNS rebinding) is
refused by the Host header, for it is a name.
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

import patchcore_fast.report.page as report_page
from patchcore_fast.errors import DataError, PatchcoreFastError
from patchcore_fast.names import printable
from patchcore_fast.report.images import drawn_size
from patchcore_fast.report.layers import heat_png
from patchcore_fast.report.page.build import policy_digest
from patchcore_fast.report.page.charts import WIDTH, run_chart
from patchcore_fast.watch.drift import Drift
from patchcore_fast.watch.journal import Entry
from patchcore_fast.watch.recent import Card, Recent

SIDE = 480  # pixels of the longer side of a photograph on the page
PATIENCE = 10.0  # seconds for a request to come
WIDE = 1000  # units of the chart where there is room
BAND = (0.05, 0.95)  # quantiles of the held-out normal scores that the chart shows
POLICY = ("default-src 'none'; img-src 'self' data:; connect-src 'self'; style-src {style}; script-src {script}; "
          "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")  # fmt: skip
_PICTURE = re.compile(r"/(photo|heat)/([1-9]\d{0,15})")


class Page:
    """The page of a watch, served from threads of its own until `close`.

    Parameters
    ----------
    recent : what it shows.  title : of the page.
    find : the file of an entry.
    address, port : to listen at; port 0 takes a free one.

    Attributes
    ----------
    url : of the page.

    Raises
    ------
    DataError : nobody can listen there.
    """

    def __init__(
        self, recent: Recent, title: str, find: Callable[[Entry], Path], address: str = "127.0.0.1", port: int = 0
    ) -> None:
        """Listen at once."""
        self._recent, self._find, self._began = recent, find, time.time()
        self.address = address
        page = self

        class Handler(_Handler):
            html, policy = _page(title)
            server_page = page

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            address_family = socket.AF_INET6 if ":" in address else socket.AF_INET

        try:
            self._server = Server((address, port), Handler)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise DataError(f"page: nothing can listen at {address}, port {port} ({why})") from error
        number = self._server.server_address[1]
        self.url = f"http://{f'[{address}]' if ':' in address else address}:{number}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def state(self, wide: bool = False) -> dict[str, Any]:
        """What /state answers; `wide` for a chart that is not for a phone."""
        recent, entries, drift = self._recent, self._recent.scores(), self._recent.drift()
        counts = {kind: recent.counts[kind] for kind in ("normal", "anomalous", "unreadable")}
        return {
            "counts": counts | {"images": recent.counts.total()},
            "threshold": recent.threshold,
            "latency": recent.latency(),
            "drift": drift.said() if isinstance(drift, Drift) else drift,
            "drifted": isinstance(drift, Drift) and drift.has_drifted,
            "chart": self._chart(entries, WIDE if wide else WIDTH),
            "images": [_image(card) for card in recent.cards()],
            "hours": (time.time() - self._began) / 3600,
        }

    def picture(self, kind: str, index: int) -> tuple[str, bytes] | None:
        """(type, bytes) of the photograph or the heat of one of the last images; None for others."""
        card = next((c for c in self._recent.cards() if c.entry.index == index), None)
        if card is None or (kind == "heat" and (card.heat is None or self._recent.scale is None)):
            return None
        if kind not in card.pictures:
            try:
                card.pictures[kind] = self._photo(card) if kind == "photo" else self._heat(card)
            except (PatchcoreFastError, OSError, MemoryError):
                return None
        return ("image/jpeg" if kind == "photo" else "image/png"), card.pictures[kind]

    def _photo(self, card: Card) -> bytes:
        from PIL import Image

        from patchcore_fast.data import image_size, load_image

        path = self._find(card.entry)
        image = load_image(path, drawn_size(image_size(path), SIDE))
        out = BytesIO()
        pixels = np.rint(image.numpy().transpose(1, 2, 0) * 255).astype(np.uint8)
        Image.fromarray(pixels).save(out, format="JPEG", quality=82)
        return out.getvalue()

    def _heat(self, card: Card) -> bytes:
        low, high = self._recent.scale or (0.0, 1.0)
        return heat_png(card.heat, low, high)

    def _chart(self, entries: list[Entry], width: int) -> str:
        if not entries:
            return ""
        scores = [entry.score or 0.0 for entry in entries]
        normal, threshold = self._recent.normal, self._recent.threshold
        band = None if not normal else (float(np.quantile(normal, BAND[0])), float(np.quantile(normal, BAND[1])))
        high = sum(bool(entry.is_anomalous) for entry in entries)
        title = f"Scores of the last {len(entries)} images, {high} anomalous"
        verdicts = [entry.is_anomalous for entry in entries]
        return run_chart(entries[0].index, scores, verdicts, threshold, band, title, width=width)


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    html: bytes
    policy: str
    server_page: Page
    server_version, sys_version = "patchcore_fast", ""
    timeout = PATIENCE

    def do_GET(self) -> None:
        """Answer; 403 for a Host that is a name of elsewhere, 404 for what there is not, 204 for a lost picture."""
        if not is_local(self.headers.get("Host", ""), self.server_page.address):
            self._send(403, "text/plain; charset=utf-8", b"This page answers to an address or to localhost.\n")
            return
        path, _, query = self.path.partition("?")
        if path == "/":
            self._send(200, "text/html; charset=utf-8", self.html)
        elif path == "/state":
            state = self.server_page.state(query == "wide")
            self._send(200, "application/json", json.dumps(state, allow_nan=False).encode())
        elif match := _PICTURE.fullmatch(path):
            found = self.server_page.picture(match[1], int(match[2]))
            self._send(*((204, "text/plain", b"") if found is None else (200, *found)))
        else:
            self._send(404, "text/plain; charset=utf-8", b"Not here.\n")

    do_HEAD = do_GET

    def _send(self, code: int, kind: str, body: bytes) -> None:
        headers = {
            "Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-store",
            "Content-Security-Policy": self.policy, "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin", "Referrer-Policy": "no-referrer",
        }  # fmt: skip
        try:
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
        except ConnectionError:  # the browser went on
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Standard error is for the user of the command."""


def is_local(host: str, listening: str = "") -> bool:
    """Whether a Host header is an address, localhost, this machine's own name or the one that the page listens at: no
    other site can have these.
    """
    name = re.sub(r":\d+\Z", "", host).lower()
    if name and name in ("localhost", socket.gethostname().lower(), listening.lower()):
        return True
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _image(card: Card) -> dict[str, Any]:
    entry = card.entry
    clock = time.strftime("%H:%M:%S", time.localtime(entry.time))
    return {"index": entry.index, "name": printable(entry.name), "score": entry.score, "verdict": entry.verdict,
            "error": entry.error and printable(entry.error), "time": clock, "heat": card.heat is not None}  # fmt: skip


def _page(title: str) -> tuple[bytes, str]:
    """The page, and its policy."""
    here, shared = files(__package__), files(report_page)
    style = shared.joinpath("page.css").read_text(encoding="utf-8") + here.joinpath("page.css").read_text("utf-8")
    script = here.joinpath("page.js").read_text(encoding="utf-8")
    values = {"title": escape(printable(title)), "style": style, "script": script}
    text = Template(here.joinpath("page.html").read_text(encoding="utf-8")).substitute(values)
    return text.encode(), POLICY.format(style=policy_digest(style), script=policy_digest(script))
