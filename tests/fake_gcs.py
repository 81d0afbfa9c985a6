"""Google Cloud Storage on this machine: TensorFlow's own ``gs://`` file system, talking to a server that keeps objects in
memory.

TensorFlow's addresses are fixed (``https://www.googleapis.com/storage/v1/…``), but libcurl, which it calls, goes through
the proxy and trusts the certificates that the environment names. So this is a proxy that answers for Google itself.
TensorStore, which reads and writes the arrays of checkpoints, finds it in the same way. ArrayRecord, which reads
``gs://`` by itself, asks the same server as its emulator.
"""

import contextlib
import json
import os
import re
import ssl
import subprocess
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOSTS = ("www.googleapis.com", "storage.googleapis.com")
# Whatever TensorFlow remembers of objects for some seconds would hide what a test did to them. It allocates and clears a
# block for every file that it reads, 64 MB by default, which takes ten times as long as a request.
SETTINGS = {
    "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none", "NO_GCE_CHECK": "true", "GCS_STAT_CACHE_MAX_AGE": "0",
    "GCS_MATCHING_PATHS_CACHE_MAX_AGE": "0", "GCS_READ_CACHE_MAX_SIZE_MB": "0", "GCS_RETRY_CONFIG_MAX_RETRIES": "0",
    "GCS_READ_CACHE_BLOCK_SIZE_MB": "1",
}  # fmt: skip


class Storage:
    """The objects of all buckets: ``"bucket/name"`` → bytes.

    Attributes:
      objects: what is there; tests may change it.
      requests: method and address of every request, in order.
      disturb: is called with the method and the object's ``"bucket/name"`` (uploads: ``"POST"``); a number is answered as
        the status, and ``"cut"`` sends half of the content and closes the connection; None answers as usual.
      refuse: is called with the method and the object's ``"bucket/name"`` (uploads: ``"POST"``); True is answered 403.
    """

    def __init__(self):
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.disturb = lambda method, name: None
        self.refuse = lambda method, name: False
        self.generations: dict[str, int] = {}
        self.sessions: dict[str, tuple[str, bytes]] = {}
        self.lock = threading.Lock()

    def put(self, name: str, data: bytes) -> dict[str, str]:
        """Stores an object and returns its description, with the next generation."""
        self.objects[name] = data
        self.generations[name] = self.generations.get(name, 0) + 1
        return self.described(name)

    def described(self, name: str) -> dict[str, str]:
        """An object's description as Google words it; objects that tests put there are of generation 1."""
        bucket, _, key = name.partition("/")
        date = "2020-01-01T00:00:00.000Z"
        return {
            "name": key, "bucket": bucket, "size": str(len(self.objects[name])), "metageneration": "1",
            "generation": str(self.generations.setdefault(name, 1)), "updated": date, "timeCreated": date,
        }  # fmt: skip

    def below(self, folder: str) -> dict[str, bytes]:
        """The objects below ``"bucket/folder"``, by what follows; TensorFlow's markers of folders are left out."""
        start = folder.rstrip("/") + "/"
        found = {name.removeprefix(start): data for name, data in self.objects.items() if name.startswith(start)}
        return {name: data for name, data in found.items() if name and not name.endswith("/")}

    def reads(self, folder: str, since: int = 0) -> list[str]:
        """The objects below ``"bucket/folder"`` whose contents were asked for, one for each request from ``since`` on."""
        start = f"https://storage.googleapis.com/{folder.rstrip('/')}/"
        asked = [urllib.parse.unquote(address) for method, address in self.requests[since:] if method == "GET"]
        return [address.removeprefix(start) for address in asked if address.startswith(start)]


def _object_name(host, path, query):
    """The object of a request, as ``"bucket/name"``; None for a request about a bucket or a folder."""
    if found := re.fullmatch(r"/(?:upload/)?storage/v1/b/([^/]+)/o(?:/([^/]+).*)?/?", path):
        name = urllib.parse.unquote(found[2]) if found[2] else query.get("name")
        return f"{found[1]}/{name}" if name else None
    if host == "storage.googleapis.com":
        return urllib.parse.unquote(path.lstrip("/"))
    return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    storage: Storage
    context: ssl.SSLContext
    host = ""
    cut = False

    def log_message(self, *_):
        pass

    def do_CONNECT(self):
        self.host = self.path.split(":")[0]
        if self.host not in HOSTS:
            return self._answer(403)
        self.send_response(200)
        self.end_headers()
        self.connection = self.context.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
        self.close_connection = False

    def _answer(self, code, body=b"", **headers):
        if isinstance(body, dict):
            body = json.dumps(body).encode()
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.cut:
            body, self.close_connection = body[: len(body) // 2], True
        self.wfile.write(body)

    def _body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def handle(self):
        with contextlib.suppress(ConnectionError):  # the client has closed the connection, or was killed
            super().handle()

    def _request(self):
        url = urllib.parse.urlsplit(self.path)
        query = {name: values[0] for name, values in urllib.parse.parse_qs(url.query).items()}
        body = self._body()
        with self.storage.lock:
            self.storage.requests.append((self.command, f"https://{self.host}{self.path}"))
            self._dispatch(url.path, query, body)

    do_GET = do_PUT = do_POST = do_DELETE = _request

    def _dispatch(self, path, query, body):
        self.cut = False
        name = _object_name(self.host, path, query)
        disturbed = self.storage.disturb(self.command, name) if name else None
        if disturbed == "cut":
            self.cut = True
        elif disturbed is not None:
            return self._answer(disturbed)
        if self.host == "storage.googleapis.com" and not path.startswith(("/storage/v1/", "/upload/")):
            return self._contents(urllib.parse.unquote(path.lstrip("/")))
        if found := re.fullmatch(r"/upload/storage/v1/b/([^/]+)/o", path):
            return self._upload(found[1], query, body)
        if found := re.fullmatch(r"/session/(\d+)", path):
            return self._continued(found[1], body)
        if re.fullmatch(r"/storage/v1/b/[^/]+", path):
            return self._answer(200, {"location": "HERE"})
        if found := re.fullmatch(r"/storage/v1/b/([^/]+)/o/([^/]+)/rewriteTo/b/([^/]+)/o/([^/]+)", path):
            parts = [urllib.parse.unquote(part) for part in found.groups()]
            source, target = "/".join(parts[:2]), "/".join(parts[2:])
            if source not in self.storage.objects:
                return self._answer(404)
            self.storage.put(target, self.storage.objects[source])
            return self._answer(200, {"done": True})
        if found := re.fullmatch(r"/storage/v1/b/([^/]+)/o/([^/]+)", path):
            name = f"{found[1]}/{urllib.parse.unquote(found[2])}"
            return self._contents(name) if query.get("alt") == "media" else self._object(name)
        if found := re.fullmatch(r"/storage/v1/b/([^/]+)/o/?", path):
            return self._list(found[1], query)
        return self._answer(501)

    def _contents(self, name):
        data = self.storage.objects.get(name)
        if self.storage.refuse("GET", name):
            return self._answer(403)
        if data is None:
            return self._answer(404)
        generation = str(self.storage.generations.setdefault(name, 1))
        if "Range" not in self.headers:
            return self._answer(200, data, x_goog_generation=generation)
        first, last = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers["Range"]).groups()
        start, end = int(first or 0), min(int(last or len(data)) + 1, len(data))
        if not first:  # the number of bytes at the end
            start, end = max(len(data) - int(last), 0), len(data)
        if start >= len(data):
            return self._answer(416)
        where = f"bytes {start}-{end - 1}/{len(data)}"
        return self._answer(206, data[start:end], Content_Range=where, x_goog_generation=generation)

    def _object(self, name):
        data = self.storage.objects.get(name)
        if data is None:
            return self._answer(404)
        if self.command == "DELETE":
            del self.storage.objects[name]
            return self._answer(204)
        return self._answer(200, self.storage.described(name))

    def _list(self, bucket, query):
        start = f"{bucket}/{query.get('prefix', '')}"
        names = sorted(name for name in self.storage.objects if name.startswith(start))
        folders = []
        if cut := query.get("delimiter"):
            rests = {name: name.removeprefix(start).partition(cut) for name in names}
            names = [name for name, (_, slash, _) in rests.items() if not slash]
            folders = sorted({start + head + cut for head, slash, _ in rests.values() if slash})
        items = [self.storage.described(name) for name in names]
        return self._answer(200, {"items": items, "prefixes": [name.removeprefix(bucket + "/") for name in folders]})

    def _upload(self, bucket, query, body):
        name = f"{bucket}/{query['name']}"
        if self.storage.refuse("POST", name):
            return self._answer(403)
        if query["uploadType"] == "resumable":
            number = str(len(self.storage.sessions))
            self.storage.sessions[number] = (name, b"")
            return self._answer(200, Location=f"https://www.googleapis.com/session/{number}")
        if query.get("ifGenerationMatch") == "0" and name in self.storage.objects:
            return self._answer(412)
        return self._answer(200, self.storage.put(name, body))

    def _continued(self, number, body):
        name, held = self.storage.sessions[number]
        held += body
        self.storage.sessions[number] = (name, held)
        total = self.headers.get("Content-Range", "0").rpartition("/")[2]  # an empty object's upload has no range
        if total == "*" or len(held) < int(total):
            return self._answer(308, Range=f"bytes=0-{len(held) - 1}")
        return self._answer(200, self.storage.put(name, held))  # an object appears whole


@contextlib.contextmanager
def serving(folder):
    """The storage, and the environment in which a process finds it; ``folder`` takes the certificate.

    TensorFlow reads part of the environment when ``gs://`` is first used, so give it to a separate process, or set it
    before that.
    """
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    names = ",".join(f"DNS:{host}" for host in HOSTS)
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=fake_gcs"]
    command += ["-addext", f"subjectAltName={names}", "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    storage = Storage()
    handler = type("Handler", (_Handler,), {"storage": storage, "context": context})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    here = f"http://127.0.0.1:{server.server_port}"
    environment = {"https_proxy": here, "HTTPS_PROXY": here, "no_proxy": "", "NO_PROXY": ""}
    environment["CLOUD_STORAGE_EMULATOR_ENDPOINT"] = here
    environment["TENSORSTORE_CA_BUNDLE"] = os.fspath(certificate)
    try:
        yield storage, environment | {"CURL_CA_BUNDLE": os.fspath(certificate)} | SETTINGS
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
