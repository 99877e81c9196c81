"""A Hugging Face Hub on the loopback address, for the real client: what huggingface_hub asks for, and faults on demand.

It serves repositories, git-blob and LFS files, and commits. Large files come and go by LFS: that the client can
move them by Xet too is its own affair.
"""

import base64
import hashlib
import json
import os
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import huggingface_hub

TOKEN = "hf_for_tests"


def point_at(url, monkeypatch):
    """Set the endpoint as HF_ENDPOINT would, which is read when huggingface_hub is imported."""
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)


def connect(url, cache, monkeypatch):
    """Let the client of this process reach a server, with a cache of its own."""
    point_at(url, monkeypatch)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))


def environment(home, url=None, token=None):
    """The environment of a process that reaches this server, or no Hub at all, with a cache and settings of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    hub = {"HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1"} if url else {"HF_HUB_OFFLINE": "1"}
    return {**kept, **hub, **({"HF_TOKEN": token} if token else {}), "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}


@dataclass
class Repository:
    files: dict[str, str] = field(default_factory=dict)  # path -> sha256
    lfs: set[str] = field(default_factory=set)  # paths kept as large files
    commits: int = 0

    @property
    def head(self) -> str:
        return f"{self.commits:040x}"


@dataclass
class Faults:
    """What goes wrong; a test sets it while the server runs."""

    status: int | None = None  # every request for a file fails with it
    gated: bool = False
    cut_after: int | None = None  # bytes of a large file, then the connection closes
    cuts: int = 0  # how often it does so
    seconds_per_file: float = 0.0


class HubServer(ThreadingHTTPServer):
    """`with HubServer() as hub:` serves on `hub.url` until the end of the block."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.cdn_url = f"http://localhost:{self.server_port}"  # another host, to which the client must not send a token
        self.repositories: dict[str, Repository] = {}
        self.contents: dict[str, bytes] = {}  # sha256 -> bytes
        self.faults = Faults()
        self.requests: list[tuple[str, str]] = []

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def put(self, repository: str, path: str, data: bytes) -> None:
        """A file as if it had been uploaded; safetensors and pickles as large files."""
        digest = hashlib.sha256(data).hexdigest()
        self.contents[digest] = data
        self.commit(repository, {path: digest}, {path} if path.endswith((".safetensors", ".bin")) else set())

    def commit(self, repository: str, files: dict[str, str], lfs: set[str]) -> None:
        repo = self.repositories.setdefault(repository, Repository())
        repo.files.update(files)
        repo.lfs |= lfs
        repo.commits += 1

    def paths(self, method: str) -> list[str]:
        return [path for verb, path in self.requests if verb == method]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *_: Any) -> None:
        pass

    def _dispatch(self) -> None:
        path = self.path.partition("?")[0]
        self.server.requests.append((self.command, path))
        self.body = self._read_body()
        for verbs, pattern, handle in ROUTES:
            match = re.fullmatch(pattern, path)
            if self.command in verbs and match:
                handle(self, **match.groupdict())
                return
        self._json({"error": f"no route for {self.command} {path}"}, 404)

    do_HEAD = do_GET = do_POST = do_PUT = _dispatch  # noqa: N815  http.server's names

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, data: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _may_write(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self._json({"error": "Invalid username or password."}, 401)
        return False

    # Reading files

    def resolve(self, repository: str, revision: str, path: str) -> None:
        faults, repo = self.server.faults, self.server.repositories.get(repository)
        if faults.gated:
            self._send(403, headers={"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        elif faults.status:
            self._send(faults.status)
        elif repo is None:
            self._send(401, headers={"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif revision not in ("main", repo.head):
            self._send(404, headers={"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        elif path not in repo.files:
            headers = {
                "X-Repo-Commit": repo.head,
                "X-Error-Code": "EntryNotFound",
                "X-Error-Message": "Entry not found",
            }
            self._send(404, headers=headers)
        else:
            self._send_file(repo, path)

    def _send_file(self, repo: Repository, path: str) -> None:
        digest = repo.files[path]
        data = self.server.contents[digest]
        headers = {"X-Repo-Commit": repo.head}
        if path not in repo.lfs:
            etag = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            self._send(200, data, headers | {"ETag": f'"{etag}"'})
            return
        headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
        self._send(302, headers=headers | {"Location": f"{self.server.cdn_url}/cdn/{digest}"})

    def cdn(self, digest: str) -> None:
        data, faults = self.server.contents[digest], self.server.faults
        time.sleep(faults.seconds_per_file)
        start = int(re.sub(r"bytes=(\d+)-.*", r"\1", self.headers.get("Range", "bytes=0-")))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if faults.cut_after is not None and faults.cuts > 0:
            faults.cuts -= 1
            self.wfile.write(data[start : start + faults.cut_after])
            self.close_connection = True
            return
        self.wfile.write(data[start:])

    # Repositories and commits

    def create(self) -> None:
        if not self._may_write():
            return
        request = json.loads(self.body)
        name = f"{request.get('organization') or 'somebody'}/{request['name']}"
        exists = name in self.server.repositories
        self.server.repositories.setdefault(name, Repository())
        url = f"{self.server.url}/{name}"
        self._json({"url": url, "id": name, "error": "You already created this model repo"}, 409 if exists else 200)

    def info(self, repository: str) -> None:
        repo = self.server.repositories.get(repository)
        if repo is None:
            self._send(401, headers={"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
            return
        self._json({"id": repository, "sha": repo.head, "siblings": [{"rfilename": path} for path in repo.files]})

    def whoami(self) -> None:
        if self._may_write():
            self._json({"type": "user", "name": "somebody", "orgs": []})

    def validate_yaml(self) -> None:
        self._json({"errors": [], "warnings": []})

    def preupload(self, repository: str) -> None:
        if self._may_write():
            files = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular"}
                for f in json.loads(self.body)["files"]
            ]
            self._json({"files": [{**f, "shouldIgnore": False} for f in files]})

    def lfs_batch(self, repository: str) -> None:
        upload = {"href": f"{self.server.url}/lfs-upload"}
        self._json(
            {
                "transfer": "basic",
                "objects": [
                    {**o, "actions": {"upload": {"href": f"{upload['href']}/{o['oid']}"}}}
                    for o in json.loads(self.body)["objects"]
                ],
            }
        )

    def lfs_upload(self, digest: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == digest
        self.server.contents[digest] = self.body
        self._send(200)

    def commit(self, repository: str) -> None:
        if not self._may_write():
            return
        files, lfs = {}, set()
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                data = base64.b64decode(value["content"])
                files[value["path"]] = hashlib.sha256(data).hexdigest()
                self.server.contents[files[value["path"]]] = data
            elif entry["key"] == "lfsFile":
                files[value["path"]] = value["oid"]
                lfs.add(value["path"])
        self.server.commit(repository, files, lfs)
        head = self.server.repositories[repository].head
        url = f"{self.server.url}/{repository}/commit/{head}"
        self._json({"success": True, "commitOid": head, "commitUrl": url, "hookOutput": ""})


REPO = r"(?P<repository>[^/]+/[^/]+)"
ROUTES: list[tuple[tuple[str, ...], str, Any]] = [
    (("POST",), r"/api/repos/create", Handler.create),
    (("GET",), r"/api/whoami-v2", Handler.whoami),
    (("POST",), r"/api/validate-yaml", Handler.validate_yaml),
    (("POST",), rf"/api/models/{REPO}/preupload/main", Handler.preupload),
    (("POST",), rf"/api/models/{REPO}/commit/main", Handler.commit),
    (("GET",), rf"/api/models/{REPO}(?:/revision/main)?", Handler.info),
    (("POST",), rf"/{REPO}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    (("PUT",), r"/lfs-upload/(?P<digest>\w+)", Handler.lfs_upload),
    (("HEAD", "GET"), r"/cdn/(?P<digest>\w+)", Handler.cdn),
    (("HEAD", "GET"), rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve),
]
