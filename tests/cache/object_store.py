"""An object store for tests, run as a program: moto's S3 on loopback, its requests one at a time, in its own process.

moto looks and then puts: only one request at a time makes its conditional puts as atomic as those of a real store.
"""

import logging
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server


def main() -> None:
    """Serve on a free port, which is printed, until stdin is closed: whoever started this may be killed."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app, one = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def serve(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        with one:
            return list(app(environ, start))

    server = make_server("127.0.0.1", 0, serve, threaded=True)
    print(server.port, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
