"""A real OpenID provider, in a process of its own: `python -m tests.accounts.provider`; it says where it listens.

The provider knows no PKCE: what stands in front of it checks that, as providers do.
"""

import base64
import hashlib
import io
import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

Environ = dict[str, Any]
StartResponse = Callable[..., Any]


class Pkce:
    """Lets a code be exchanged only by who has the verifier of its challenge."""

    def __init__(self, app: Callable[[Environ, StartResponse], Iterable[bytes]]) -> None:
        self._app = app
        self._challenges: dict[str, str] = {}

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/oauth2/authorize":
            return self._authorize(environ, start_response)
        if environ["PATH_INFO"] == "/oauth2/token":
            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            environ["wsgi.input"] = io.BytesIO(body)
            form = parse_qs(body.decode())
            verifier = form.get("code_verifier", [""])[0]
            challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
            if self._challenges.pop(form.get("code", [""])[0], "") != challenge:
                start_response("400 Bad Request", [("content-type", "application/json")])
                return [json.dumps({"error": "invalid_grant"}).encode()]
        return self._app(environ, start_response)

    def _authorize(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        asked = parse_qs(environ["QUERY_STRING"])
        if asked.get("code_challenge_method") != ["S256"]:
            start_response("400 Bad Request", [])
            return []

        def started(status: str, headers: list[tuple[str, str]], *more: object) -> object:
            location = {name.lower(): value for name, value in headers}.get("location", "")
            for code in parse_qs(urlsplit(location).query).get("code", []):
                self._challenges[code] = asked["code_challenge"][0]
            return start_response(status, headers, *more)

        return self._app(environ, started)


@contextmanager
def provider() -> Iterator[str]:
    """Its issuer, while it runs."""
    command = [sys.executable, "-m", "tests.accounts.provider"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def main() -> None:
    warnings.simplefilter("ignore")
    import oidc_provider_mock
    from werkzeug.serving import make_server

    server = make_server("localhost", 0, Pkce(oidc_provider_mock.app(require_nonce=True)), threaded=True)
    print(f"http://localhost:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
