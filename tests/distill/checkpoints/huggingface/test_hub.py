"""The hub's refusals, from a server on this machine that answers as the hub does."""

import http.server
import json
import threading

import huggingface_hub
import pytest

from distill import exit_codes
from distill.checkpoints import initial
from distill.checkpoints.huggingface import hub
from distill.cli import errors
from distill.model.config import T5Config

NAME = "google/t5gemma-s-s-ul2"
COMMIT = "a" * 40


class Hub(http.server.BaseHTTPRequestHandler):
    """A repository that anyone may list, and whose files need a licence. ``server.answer`` is what files give."""

    def do_GET(self) -> None:
        status, headers = self.server.answer
        if self.path.startswith("/api/") and self.server.lists:
            names = ("config.json", "model.safetensors")
            found = {"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names], "tags": []}
            tree = [{"type": "file", "path": name, "size": 1, "oid": COMMIT} for name in names]
            body = json.dumps(tree if "/tree/" in self.path else found).encode()
            status, headers = 200, {}
        else:
            body = b""
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body)), "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def answering(monkeypatch, tmp_path):
    """``answering(status, headers, lists=…)``: the page of the repository on a server that answers so."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)

    def answer(status: int, headers: dict[str, str], *, lists: bool = True) -> str:
        server.answer, server.lists = (status, headers), lists
        return f"{endpoint}/{NAME}"

    yield answer
    server.shutdown()
    server.server_close()


GATED = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model google/t5gemma-s-s-ul2 is restricted."}
LOG_IN = r"log in with `hf auth login`, or set HF_TOKEN to an access token \(https://huggingface\.co/settings/tokens\)"
THE_HUB = rf"^INITIAL_CHECKPOINT_PATH='{NAME}': the hub"
CASES = {
    "no token": ((401, GATED), True, f"has a licence to accept on the hub: accept its terms at PAGE, then {LOG_IN}$"),
    "terms not accepted": (
        (403, GATED),
        True,
        r"has a licence that your account has not accepted, or that waits for approval: accept its terms at PAGE with the "
        r"account of your token \(`hf auth whoami`\)",
    ),
    "gated and not listed": ((401, GATED), False, "has a licence to accept on the hub: accept its terms at PAGE, then"),
    "no such name": (
        (401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}),
        False,
        rf"{THE_HUB} has no public repository '{NAME}': check the name at PAGE; if it is private, {LOG_IN}",
    ),
    "expired token": (
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
        False,
        rf"{THE_HUB} refuses your token for '{NAME}' \(401: Invalid credentials in Authorization header\): {LOG_IN}",
    ),
    "forbidden": (
        (403, {"X-Error-Message": "Forbidden"}),
        False,
        rf"{THE_HUB} refuses your token for '{NAME}' \(403: ",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_refusal_is_one_line_with_its_remedy(answering, case):
    answer, lists, message = CASES[case]
    page = answering(*answer, lists=lists)
    with pytest.raises(FileNotFoundError, match=message.replace("PAGE", page)) as raised:
        initial.load(NAME, T5Config(384, 16, 2, 8, 32, 1, 1), None)
    code, line = errors.explain(raised.value)
    assert code == exit_codes.MISTAKE
    assert NAME in line and "\n" not in line and len(line) < 400


def test_other_errors_are_not_refusals(answering):
    answering(500, {}, lists=False)
    with pytest.raises(
        FileNotFoundError, match="is neither a folder nor a Hugging Face repository that can be reached"
    ):
        initial.load(NAME, T5Config(384, 16, 2, 8, 32, 1, 1), None)
    assert hub.refusal(NAME, OSError("no route to host")) is None
