"""A stand-in for a ClickHouse server: its HTTP interface on loopback, before the real engine, in a process of its own.

No ClickHouse server binary can be installed from a package registry, so the remote path is tried against this. The
engine (chDB) is the same ClickHouse; what this file plays is the wire around it: statement in URL and body, parameters,
settings, user and database, rows in the body (also for `input()`), tables sent along, compression, error codes, query
ids and KILL QUERY. It can misbehave on command.

    with ClickHouseHttp(folder) as clickhouse:
        get_client(dsn=clickhouse.url)
        clickhouse.misbehave("lose_answer", "INSERT INTO commits")
"""

import contextlib
import gzip
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
import zlib
from base64 import b64decode
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP as HTTP_POLICY
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import parse_qsl, urlsplit

import chdb
import lz4.frame

USER, PASSWORD, DATABASE = "penstock", "secret", "penstock"

# refuse_statement: answers `status` without doing anything, as a proxy does. hang: does and says nothing for `seconds`.
# drop: breaks the connection and does nothing. lose_answer: does it, then breaks the connection. late: breaks the
# connection, and does it `seconds` later, unless it was ended until then.
Kind = Literal["refuse_statement", "hang", "drop", "lose_answer", "late"]

_STATUS = {81: 404, 60: 404, 46: 404, 47: 404, 62: 400, 36: 400, 27: 400, 159: 408, 194: 401, 516: 403, 192: 403}
_NOT_SETTINGS = {
    *("query", "query_id", "database", "session_id", "wait_end_of_query", "client_protocol_version", "buffer_size"),
    *("compress", "decompress", "default_format", "role", "quota_key", "user", "password"),
}
_KILL = re.compile(r"KILL QUERY WHERE (?:startsWith\(query_id, '(?P<prefix>[^']*)'\)|query_id IN \[(?P<ids>.*)\]) SYNC")
_INPUT = re.compile(r"\binput\(('(?:[^'\\]|\\.)*')\)", re.DOTALL)
_DATA = re.compile(
    rb"\s*(?P<head>INSERT\s(?:(?!\bVALUES\b).)*?)\sFORMAT\s+(?P<format>\w+)\s*?(?:\n(?P<data>.*))?", re.DOTALL
)
_ANSWERS = re.compile(r"\s*(SELECT|WITH|SHOW|DESCRIBE|EXISTS|EXPLAIN)\b", re.IGNORECASE)


class ClickHouseHttp:
    """Starts the stand-in over `folder`; enter it to start, leave it to end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self._control_port = 0

    @property
    def url(self) -> str:
        """As PENSTOCK_CLICKHOUSE_URL takes it."""
        return f"http://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{DATABASE}"

    def new_database(self) -> str:
        """Makes an empty database; returns its URL."""
        name = f"test_{uuid.uuid4().hex[:8]}"
        self._ask("database", {"name": name})
        return f"http://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{name}"

    def misbehave(
        self, kind: Kind, match: str = "", *, times: int = 1, seconds: float = 1.0, status: int = 503
    ) -> None:
        """Treats the next `times` statements that contain the pattern `match` in that way."""
        self._ask("rule", {"kind": kind, "match": match, "times": times, "seconds": seconds, "status": status})

    def behave(self) -> None:
        """Forgets what `misbehave` said."""
        self._ask("behave", {})

    def listen(self, on: bool) -> None:
        """Refuses connections, and breaks the open ones, or takes them again."""
        self._ask("listen", {"on": on})

    def statements(self, match: str = "") -> list[dict[str, Any]]:
        """What came, oldest first: `text`, `query_id`, `settings`; those that contain the pattern `match`."""
        answer = self._ask("statements", {"match": match})
        assert isinstance(answer, list)
        return answer

    def _ask(self, what: str, about: dict[str, Any]) -> object:
        url = f"http://127.0.0.1:{self._control_port}/{what}"
        with urllib.request.urlopen(url, json.dumps(about).encode(), timeout=30) as answer:
            return json.load(answer)

    def __enter__(self) -> Self:
        ready = self._folder / "ready.json"
        with (self._folder / "clickhouse.log").open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__)), str(self._folder)], stdout=output, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + 60
        while not ready.exists():
            waiting = self._process.poll() is None and time.monotonic() < deadline
            assert waiting, (self._folder / "clickhouse.log").read_text(encoding="utf-8")
            time.sleep(0.02)
        ports = json.loads(ready.read_text(encoding="utf-8"))
        self.port, self._control_port = ports["port"], ports["control_port"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()


@dataclass(slots=True)
class Rule:
    kind: str
    match: str
    times: int
    seconds: float
    status: int


@dataclass(slots=True)
class Statement:
    """One request, taken apart."""

    text: str
    data: bytes = b""
    format: str = ""
    query_id: str = ""
    database: str = DATABASE
    settings: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    tables: dict[str, tuple[str, str, bytes]] = field(default_factory=dict)  # sent along: format, structure, rows
    ended: threading.Event = field(default_factory=threading.Event)
    killed: threading.Event = field(default_factory=threading.Event)


class Refused(Exception):
    """ClickHouse's own error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"Code: {code}. DB::Exception: {message}")
        self.code = code


@dataclass(slots=True)
class State:
    """What the threads share."""

    path: str
    rules: list[Rule] = field(default_factory=list)
    seen: list[Statement] = field(default_factory=list)
    running: list[Statement] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def rule_for(self, statement: Statement) -> Rule | None:
        with self.lock:
            self.seen.append(statement)
            for rule in self.rules:
                if rule.times > 0 and re.search(rule.match, statement.text):
                    rule.times -= 1
                    return rule
        return None

    def kill(self, text: str) -> bytes:
        match = _KILL.fullmatch(text.strip())
        if match is None:
            raise Refused(62, f"Syntax error: {text} (SYNTAX_ERROR)")
        ids = re.findall(r"'([^']*)'", match["ids"] or "")
        with self.lock:
            chosen = [
                each
                for each in self.running
                if (each.query_id.startswith(match["prefix"]) if match["prefix"] else each.query_id in ids)
            ]
        for each in chosen:
            each.killed.set()
        for each in chosen:
            each.ended.wait(30)
        return b"".join(f"waiting\t{each.query_id}\n".encode() for each in chosen)

    def run(self, statement: Statement, rule: Rule | None = None) -> bytes:
        """The statement's answer, in its format."""
        with self.lock:
            self.running.append(statement)
        try:
            if rule is not None and rule.kind in ("hang", "late") and statement.killed.wait(rule.seconds):
                raise Refused(394, "Query was cancelled (QUERY_WAS_CANCELLED)")
            return self._run(statement)
        except Refused:
            raise
        except Exception as error:
            found = re.search(r"Code: (\d+)\. DB::Exception: (.*)", str(error), re.DOTALL)
            raise Refused(int(found[1]) if found else 1001, found[2] if found else str(error)) from error
        finally:
            with self.lock:
                self.running.remove(statement)
            statement.ended.set()

    def _run(self, statement: Statement) -> bytes:
        if statement.text.lstrip().startswith("KILL QUERY"):
            return self.kill(statement.text)
        handle = chdb.connect(self.path)
        with contextlib.closing(handle), tempfile.TemporaryDirectory() as folder:
            if handle.query(f"SELECT name FROM system.databases WHERE name = '{statement.database}'").bytes() == b"":
                raise Refused(81, f"Database {statement.database} does not exist (UNKNOWN_DATABASE)")
            handle.query(f"USE `{statement.database}`")
            if statement.settings:
                handle.query("SET " + ", ".join(f"{name} = {_quoted(v)}" for name, v in statement.settings.items()))
            for number, (name, (form, structure, rows)) in enumerate(statement.tables.items()):
                # As on a server: with the URL's settings only, because the statement is not parsed yet.
                path = _written(folder, f"table{number}", rows)
                source = f"file({_quoted(path)}, {form}, {_quoted(structure)})"
                handle.query(f"CREATE TEMPORARY TABLE {name} AS SELECT * FROM {source}")
            text = statement.text
            if statement.format:
                path = _written(folder, "data", statement.data)
                if _INPUT.search(text):
                    source = f"file({_quoted(path)}, {statement.format}, "
                    text = _INPUT.sub(lambda match: f"{source}{match[1]})", text)
                else:
                    text += f" FROM INFILE {_quoted(path)} FORMAT {statement.format}"
            return bytes(handle.query(text, "TabSeparated", params=statement.parameters).bytes() or b"")


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    state: State

    def do_GET(self) -> None:
        if urlsplit(self.path).path == "/ping":
            self._answer(200, b"Ok.\n")
        else:
            self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        statement = self._statement(self._body())
        rule = self.state.rule_for(statement)
        if rule is not None and rule.kind == "refuse_statement":
            self._answer(rule.status, b"upstream connect error")
            return
        if rule is not None and rule.kind in ("drop", "late"):
            self.close_connection = True
            if rule.kind == "late":
                run = threading.Thread(target=_quietly, args=(self.state, statement, rule), daemon=True)
                run.start()
            return
        try:
            self._check_user()
            answer = self.state.run(statement, rule)
        except Refused as error:
            headers = {"X-ClickHouse-Exception-Code": str(error.code)}
            self._answer(_STATUS.get(error.code, 500), f"{error}\n".encode(), headers)
            return
        if rule is not None and rule.kind == "lose_answer":
            self.close_connection = True
            return
        headers = {"X-ClickHouse-Query-Id": statement.query_id, "X-ClickHouse-Timezone": "UTC"}
        if answer or _ANSWERS.match(statement.text):
            form = re.search(r"\bFORMAT\s+(\w+)\s*$", statement.text)
            headers["X-ClickHouse-Format"] = form[1] if form else "TabSeparated"
        if statement.settings.get("enable_http_compression") == "1" and "gzip" in self.headers["Accept-Encoding"]:
            answer, headers["Content-Encoding"] = gzip.compress(answer, 1), "gzip"
        self._answer(200, answer, headers)

    def _check_user(self) -> None:
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        if scheme != "Basic" or b64decode(given).decode() != f"{USER}:{PASSWORD}":
            raise Refused(516, "Authentication failed: password is incorrect (AUTHENTICATION_FAILED)")

    def _statement(self, body: bytes) -> Statement:
        query = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        content_type = self.headers.get("Content-Type", "")
        tables = {}
        text = query.get("query", "").encode()
        if content_type.startswith("multipart/form-data"):
            parsed = BytesParser(policy=HTTP_POLICY).parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
            for part in parsed.iter_parts():
                name = str(part.get_param("name", header="content-disposition"))
                rows = part.get_payload(decode=True)
                assert isinstance(rows, bytes)
                tables[name] = (query.pop(f"{name}_format"), query.pop(f"{name}_structure"), rows)
        elif body:
            text = text + b"\n" + body if text else body
        settings = {k: v for k, v in query.items() if k not in _NOT_SETTINGS and not k.startswith("param_")}
        with_data = _DATA.fullmatch(text)
        return Statement(
            text=(with_data["head"] if with_data else text).decode(),
            data=(with_data["data"] or b"") if with_data else b"",
            format=with_data["format"].decode() if with_data else "",
            query_id=query.get("query_id", ""),
            database=query.get("database", "default"),
            settings=settings,
            parameters={k.removeprefix("param_"): v for k, v in query.items() if k.startswith("param_")},
            tables=tables,
        )

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            body = b"".join(pieces)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        match self.headers.get("Content-Encoding", ""):
            case "gzip":
                return gzip.decompress(body)
            case "deflate":
                return zlib.decompress(body)
            case "lz4":
                return bytes(lz4.frame.decompress(body))
        return body

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class Listener:
    """The port, which can be closed and opened again."""

    def __init__(self, state: State) -> None:
        self._handler = type("Bound", (Handler,), {"state": state})
        self._connections: list[Any] = []
        self.port = 0
        self.open()

    def open(self) -> None:
        outer = self

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def process_request(self, request: Any, client_address: Any) -> None:
                outer._connections.append(request)
                super().process_request(request, client_address)

        self._server = Server(("127.0.0.1", self.port), self._handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(2)
        self._connections.clear()


def _quietly(state: State, statement: Statement, rule: Rule) -> None:
    with contextlib.suppress(Refused):
        state.run(statement, rule)


def _written(folder: str, name: str, data: bytes) -> str:
    path = Path(folder) / name
    path.write_bytes(data)
    return str(path)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _control(state: State, listener: Listener, engine: Any) -> ThreadingHTTPServer:
    """Takes the commands of `ClickHouseHttp`, on a port of its own."""

    class Control(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            about = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer: object = None
            match self.path:
                case "/rule":
                    state.rules.append(Rule(**about))
                case "/behave":
                    state.rules.clear()
                case "/listen":
                    listener.open() if about["on"] else listener.close()
                case "/database":
                    engine.query(f"CREATE DATABASE {about['name']}")
                case "/statements":
                    answer = [
                        {"text": each.text, "query_id": each.query_id, "settings": each.settings}
                        for each in state.seen
                        if re.search(about["match"], each.text)
                    ]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Control)


def main() -> None:
    folder = Path(sys.argv[1])
    state = State(str(folder / "clickhouse"))
    engine = chdb.connect(state.path)  # which lives as long as one handle does
    engine.query(f"CREATE DATABASE IF NOT EXISTS {DATABASE}")
    listener = Listener(state)
    control = _control(state, listener, engine)
    ready = folder / "ready.json.new"
    ready.write_text(json.dumps({"port": listener.port, "control_port": control.server_address[1]}), encoding="utf-8")
    ready.rename(folder / "ready.json")
    control.serve_forever()


if __name__ == "__main__":
    main()
