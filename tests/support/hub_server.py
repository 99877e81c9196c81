"""A Hugging Face Hub on the loopback address, for the real client: what huggingface_hub asks for, and faults on demand.

It serves repositories, git-blob and LFS files, commits, and the Xet storage protocol by which the client moves large
files if it may (chunks come and go as they are; the server only reads where each one lies).
"""

import base64
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import huggingface_hub

TOKEN = "hf_for_tests"
XET_FILE_VERIFIED, XET_FILE_HAS_METADATA = 0x80000000, 0x40000000
ENTRY = 48  # bytes of every record in a Xet shard


def point_at(url, monkeypatch):
    """Set the endpoint as HF_ENDPOINT would, which is read when huggingface_hub is imported."""
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def connect(url, cache, monkeypatch):
    """Let the client of this process reach a server, with a cache of its own."""
    point_at(url, monkeypatch)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))


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
        self.contents: dict[str, bytes] = {}  # sha256 -> bytes, of files that came whole
        self.xorbs: dict[str, bytes] = {}  # Xet: hash -> chunks with their headers
        self.xet_files: dict[str, list[tuple[str, int, int, int]]] = {}  # hash -> (xorb, first, end, bytes) per term
        self.xet_hash_of: dict[str, str] = {}  # sha256 -> Xet hash
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
        data = self.server.contents.get(digest, b"")
        headers = {"X-Repo-Commit": repo.head}
        if path not in repo.lfs:
            etag = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            self._send(200, data, headers | {"ETag": f'"{etag}"'})
            return
        xet_hash = self.server.xet_hash_of.get(digest)
        size = sum(term[3] for term in self.server.xet_files[xet_hash]) if xet_hash else len(data)
        headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(size)}
        headers |= {"Location": f"{self.server.cdn_url}/cdn/{digest}"}
        if xet_hash:
            headers |= {"X-Xet-Hash": xet_hash, "X-Xet-Refresh-Route": f"{self.server.url}/xet-token/read"}
        self._send(302, headers=headers)

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

    # Xet storage

    def xet_token(self) -> None:
        headers = {
            "X-Xet-Cas-Url": f"{self.server.url}/cas",
            "X-Xet-Access-Token": "token",
            "X-Xet-Token-Expiration": str(int(time.time()) + 3600),
        }
        self._json(
            {"casUrl": headers["X-Xet-Cas-Url"], "accessToken": "token", "exp": int(time.time()) + 3600},
            headers=headers,
        )

    def xorb_upload(self, hash: str) -> None:
        self.server.xorbs[hash] = self.body
        self._json({"was_inserted": True})

    def shard_upload(self) -> None:
        at = ENTRY  # the header
        while self.body[at : at + 32] != b"\xff" * 32:
            file_hash = _xet_hex(self.body[at : at + 32])
            flags, entries = (int.from_bytes(self.body[at + i : at + i + 4], "little") for i in (32, 36))
            at += ENTRY
            terms = []
            for _ in range(entries):
                size, first, end = (int.from_bytes(self.body[at + i : at + i + 4], "little") for i in (36, 40, 44))
                terms.append((_xet_hex(self.body[at : at + 32]), first, end, size))
                at += ENTRY
            self.server.xet_files[file_hash] = terms
            at += ENTRY * entries if flags & XET_FILE_VERIFIED else 0
            if flags & XET_FILE_HAS_METADATA:
                self.server.xet_hash_of[_xet_hex(self.body[at : at + 32])] = file_hash
                at += ENTRY
        self._json({"result": 1})

    def reconstruction(self, hash: str) -> None:
        terms: list[dict[str, Any]] = []
        fetch_info: dict[str, list[dict[str, Any]]] = {}
        for xorb, first, end, size in self.server.xet_files[hash]:
            starts = _chunk_starts(self.server.xorbs[xorb])
            chunks = {"start": first, "end": end}
            terms.append({"hash": xorb, "unpacked_length": size, "range": chunks})
            fetch_info.setdefault(xorb, []).append(
                {
                    "range": chunks,
                    "url": f"{self.server.url}/xorb/{xorb}",
                    "url_range": {"start": starts[first], "end": starts[end] - 1},
                }
            )
        self._json({"offset_into_first_range": 0, "terms": terms, "fetch_info": fetch_info})

    def xorb(self, hash: str) -> None:
        first, last = map(int, re.findall(r"\d+", self.headers["Range"]))
        data = self.server.xorbs[hash]
        headers = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
        self._send(206, data[first : last + 1], headers)


def _xet_hex(raw: bytes) -> str:
    """Xet writes a hash as four little-endian 64-bit numbers."""
    return "".join(raw[i : i + 8][::-1].hex() for i in range(0, 32, 8))


def _chunk_starts(xorb: bytes) -> list[int]:
    """Where each chunk starts, and the end of the last: version, 3 bytes of length, scheme, 3 bytes of plain length."""
    starts = [0]
    while starts[-1] + 8 <= len(xorb) and xorb[starts[-1]] == 0:
        starts.append(starts[-1] + 8 + int.from_bytes(xorb[starts[-1] + 1 : starts[-1] + 4], "little"))
    return starts


REPO = r"(?P<repository>[^/]+/[^/]+)"
ROUTES: list[tuple[tuple[str, ...], str, Any]] = [
    (("POST",), r"/api/repos/create", Handler.create),
    (("GET",), r"/api/whoami-v2", Handler.whoami),
    (("POST",), r"/api/validate-yaml", Handler.validate_yaml),
    (("POST",), rf"/api/models/{REPO}/preupload/main", Handler.preupload),
    (("POST",), rf"/api/models/{REPO}/commit/main", Handler.commit),
    (("GET",), rf"/api/models/{REPO}/xet-write-token/main".replace("(?P<repository>", "(?:"), Handler.xet_token),
    (("GET",), rf"/api/models/{REPO}(?:/revision/main)?", Handler.info),
    (("POST",), rf"/{REPO}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    (("PUT",), r"/lfs-upload/(?P<digest>\w+)", Handler.lfs_upload),
    (("GET",), r"/xet-token/read", Handler.xet_token),
    (("POST",), r"/cas/v1/xorbs/default/(?P<hash>\w+)", Handler.xorb_upload),
    (("POST",), r"/cas/(?:v1/)?shards", Handler.shard_upload),
    (("GET",), r"/cas/v1/reconstructions/(?P<hash>\w+)", Handler.reconstruction),
    (("GET",), r"/xorb/(?P<hash>\w+)", Handler.xorb),
    (("HEAD", "GET"), r"/cdn/(?P<digest>\w+)", Handler.cdn),
    (("HEAD", "GET"), rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve),
]
