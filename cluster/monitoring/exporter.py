"""The HTTP endpoint that Prometheus scrapes."""

from __future__ import annotations

import errno
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from cluster.terminal import say
from trainer.config import ConfigError

log = logging.getLogger(__name__)
PORTS = 100  # how many ports are tried, beginning with the configured one
LAST_SCRAPE_SECONDS = 60.0  # longest wait for the last scrape
PATH = "/metrics"


def _require_host(host: str) -> None:
    """Check that ``monitoring.host`` resolves to an address.

    Raises:
        ConfigError: it does not resolve.
    """
    try:
        socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as err:
        reason = getattr(err, "strerror", None) or str(err)
        raise ConfigError(
            f"monitoring.host '{host}': not an address ({reason}); use 127.0.0.1, 0.0.0.0 for all "
            "of this machine, or monitoring.enabled=false"
        ) from None


class Exporter:
    """Serves a registry at ``/metrics`` until :meth:`close`, in its own thread.

    If it cannot listen on any port, it prints a line and serves nothing. Monitoring never ends a
    training.

    Args:
        host, port: address to listen on. If the port is busy, the next free one of ``PORTS`` ports
            is taken. Port 0 takes any free one.
        before_scrape: called before each answer, in the thread that answers. An exception in it is
            logged, and the answer has the values of the time before.

    Attributes:
        port: port it listens on, None if it does not listen.

    Raises:
        ConfigError: ``host`` is not an address.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        host: str,
        port: int,
        before_scrape: Callable[[], None] = lambda: None,
    ) -> None:
        _require_host(host)
        self._app, self._before_scrape = make_wsgi_app(registry), before_scrape
        self._scraped_seconds: list[float] = []  # times of the last two (time.monotonic)
        self._final, self._seen_final = False, threading.Event()
        self._server = _listening(host, port)
        self.port = self._server.server_port if self._server else None
        if self._server is not None:
            self._server.set_app(self._answer)
            thread = threading.Thread(
                target=self._server.serve_forever,
                kwargs={"poll_interval": 0.1},
                daemon=True,
                name="metrics",
            )
            thread.start()

    def close(self, *, wait_seconds: float = LAST_SCRAPE_SECONDS) -> None:
        """Stop listening, after one more scrape if somebody scrapes at intervals.

        The last scrape shows Prometheus the final values, and above all the state that the run
        ended in. The wait ends with that scrape, when the scrape is overdue by one interval, after
        ``wait_seconds``, or with Ctrl-C.
        """
        if self._server is None:
            return
        left_seconds = min(wait_seconds, self._due_seconds())
        self._final = True
        try:
            if left_seconds > 0:
                say(f"metrics: up to {left_seconds:.0f} s for a last scrape (Ctrl-C: none)")
                self._seen_final.wait(left_seconds)
        except KeyboardInterrupt:
            log.debug("left without a last scrape")
        finally:
            server, self._server, self.port = self._server, None, None
            server.shutdown()
            server.server_close()

    def _due_seconds(self) -> float:
        """Seconds until the next scrape is overdue by one interval.

        0 if nobody scrapes at intervals, or if the scrapes have stopped.
        """
        if len(self._scraped_seconds) < 2:
            return 0.0
        before, last = self._scraped_seconds
        return max(0.0, last + 2 * (last - before) - time.monotonic())

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] != PATH:
            start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            return [f"the metrics are at {PATH}\n".encode()]
        final = self._final  # read before the values: an earlier answer is not the last one
        try:
            self._before_scrape()
        except Exception as err:  # the values of the time before are better than none
            log.warning("metrics: %s: %s", type(err).__name__, err)
        if environ["REQUEST_METHOD"] == "GET":
            self._scraped_seconds = [*self._scraped_seconds[-1:], time.monotonic()]
        return _Answer(self._app(environ, start_response), self._seen_final.set if final else None)


class _Answer:
    """The body of an HTTP answer, which calls ``then`` once it was sent."""

    def __init__(self, parts: Iterable[bytes], then: Callable[[], None] | None) -> None:
        self._parts, self._then = parts, then

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._parts)

    def close(self) -> None:
        if self._then:
            self._then()


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True  # a client that never reads its answer must not keep the command alive
    block_on_close = False

    def __init__(self, family: socket.AddressFamily, address: Any) -> None:
        self.address_family = family
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer.server_bind looks up the host's name, which may take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("metrics: a connection broke", exc_info=True)


class _Handler(WSGIRequestHandler):
    timeout = 10.0  # seconds for a request to arrive

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _listening(host: str, port: int) -> _Server | None:
    """A server on the first free port. Prints its URL, or why there is no server."""
    failure: OSError | None = None
    for number in [port] if port == 0 else range(port, min(port + PORTS, 65536)):
        try:
            server = _server(host, number)
        except OSError as err:
            failure = err
            if err.errno in (errno.EADDRINUSE, errno.EACCES):
                continue
            break
        taken = f" ({port} is taken)" if port not in (0, server.server_port) else ""
        say(f"metrics: {_url(host, server.server_port)}{taken}")
        return server
    reason = failure.strerror if failure else "no port"
    say(f"metrics: not exported, nothing can listen at {host} port {port} ff. ({reason})")
    return None


def _server(host: str, port: int) -> _Server:
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    return _Server(family, address)


def _url(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{PATH}"
