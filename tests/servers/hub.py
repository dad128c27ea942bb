"""A Hugging Face hub on loopback: as much of its HTTP protocol as downloads, HfFileSystem and `datasets` speak, and
commits of files through LFS (without xet).

Repositories have commits, branches and tags; listings come in pages, files by byte ranges; private and gated ones ask
for a token, and so does whatever writes. A commit whose parent is no longer the head is refused.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import yaml

TOKEN = "hf_loopback_token_of_nobody"


@dataclass
class Repository:
    """kind: models or datasets. commits: by hash, all files. refs: branch or tag -> commit."""

    kind: str
    name: str
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes], *refs: str) -> str:
        """All files from now on, on `refs` (main if none is named); the commit's hash, which the content decides."""
        content = json.dumps([[path, _oid(data)] for path, data in sorted(files.items())])
        sha = hashlib.sha1(f"{self.name}{content}".encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.refs.update(dict.fromkeys(refs or ("main",), sha))
        return sha


class Hub(ThreadingHTTPServer):
    """gets: how often each file's content was asked for; calls: how often each kind of API call came. blobs: what was
    uploaded, by its sha256. spoils: a commit holds other bytes than were sent. writes: requests that change things."""

    page_size = 1000

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.gets: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.spoils = False
        self.writes: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(
        self, kind: str, name: str, files: Mapping[str, bytes], *, private: bool = False, gated: bool = False
    ) -> Repository:
        repository = self.repositories[kind, name] = Repository(kind, name, private, gated)
        repository.commit(files)
        return repository


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub without repositories, until the end of the block."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        data = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _answer(self) -> None:
        body = self._body()
        address = urlsplit(self.path)
        if self.command in ("POST", "PUT") and self._write(address.path, body):
            return
        # A slash within a branch or a path comes quoted, and is taken apart from the others.
        parts = address.path.strip("/").split("/")
        is_api = parts[0] == "api"
        parts = parts[1:] if is_api else parts
        kind = parts[0] if parts[0] in {"models", "datasets"} else "models"
        parts = parts[1:] if parts[0] == kind else parts
        repository = self.server.repositories.get((kind, "/".join(parts[:2])))
        if repository is None or (repository.private and not self._has_token()):
            self._refuse(404 if self._has_token() else 401, "RepoNotFound")
            return
        verb, revision, path = "", "main", ""
        if len(parts) > 2:
            verb, revision = parts[2], unquote(parts[3]) if len(parts) > 3 else "main"
            path = unquote("/".join(parts[4:]))
        sha = repository.refs.get(revision, revision)
        if sha not in repository.commits:
            self._refuse(404, "RevisionNotFound")
            return
        if repository.gated and verb not in {"", "revision", "tree"} and not self._has_token():
            self._refuse(401, "GatedRepo")
            return
        files = repository.commits[sha]
        if is_api:
            self.server.calls[verb or "revision"] += 1
        if is_api and verb in {"", "revision"}:
            siblings = [{"rfilename": name} for name in files]
            gated = "auto" if repository.gated else False
            facts = {"id": repository.name, "sha": sha, "gated": gated, "private": repository.private}
            self._send_json({**facts, "siblings": siblings, "tags": _tags(files.get("README.md", b""))})
        elif is_api and verb == "auth-check":
            self._send_json({})
        elif is_api and verb == "tree":
            self._send_tree(files, path, parse_qs(address.query), address.path)
        elif is_api and verb == "paths-info":
            wanted = parse_qs(body.decode()).get("paths", [])
            self._send_json([_entry(name, files[name]) for name in wanted if name in files])
        elif verb == "resolve" and path in files:
            self._send_file(path, files[path], sha)
        else:
            self._refuse(404, "EntryNotFound")

    def _write(self, path: str, body: bytes) -> bool:
        """Whether the request was one that writes, or belongs to one; then it is answered."""
        found = re.fullmatch(
            r"/api/(?P<make>repos/create|validate-yaml)|/upload/(?P<blob>\w+)"
            r"|/datasets/(?P<batch>[^/]+/[^/]+)\.git/info/lfs/objects/batch"
            r"|/api/datasets/(?P<name>[^/]+/[^/]+)/(?P<verb>preupload|commit)/main",
            path,
        )
        if found is None:
            return False
        if found["blob"]:  # the address itself is the permission
            right = hashlib.sha256(body).hexdigest() == found["blob"]
            if right:
                self.server.blobs[found["blob"]] = body
            self._send(200 if right else 400, b"")
            return True
        if found["make"] == "validate-yaml":
            _tags(json.loads(body)["content"].encode())
            self._send_json({"errors": [], "warnings": []})
            return True
        self.server.writes.append(path)
        if not self._has_token():
            self._refuse(401, "")
        elif found["make"]:
            self._make(json.loads(body))
        elif repository := self.server.repositories.get(("datasets", found["batch"] or found["name"])):
            if found["batch"]:
                self._send_json(
                    {"transfer": "basic", "objects": [self._wanted(o) for o in json.loads(body)["objects"]]}
                )
            elif found["verb"] == "preupload":
                there = repository.commits[repository.refs["main"]]
                self._send_json({"files": [_mode(file["path"], there) for file in json.loads(body)["files"]]})
            else:
                self._commit(repository, [json.loads(line) for line in body.splitlines()])
        else:
            self._refuse(404, "RepoNotFound")
        return True

    def _make(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        if ("datasets", name) in self.server.repositories:
            self._refuse(409, "")
            return
        private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        self.server.add("datasets", name, {".gitattributes": b"*.parquet filter=lfs\n"}, private=private)
        self._send_json({"url": f"{self.server.url}/datasets/{name}", "name": name, "id": name})

    def _wanted(self, entry: dict[str, Any]) -> dict[str, Any]:
        there = entry["oid"] in self.server.blobs
        upload = {"upload": {"href": f"{self.server.url}/upload/{entry['oid']}"}}
        return {**entry, **({} if there else {"actions": upload})}

    def _commit(self, repository: Repository, lines: list[dict[str, Any]]) -> None:
        header, head = lines[0]["value"], repository.refs["main"]
        if header.get("parentCommit") not in (None, head):
            self._refuse(412, "")
            return
        files = dict(repository.commits[head])
        for each in lines[1:]:
            value = each["value"]
            if each["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif each["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]] + b"!" * self.server.spoils
            elif each["key"] == "deletedFile":
                del files[value["path"]]
            else:
                raise NotImplementedError(each["key"])
        commit = repository.commit(files)
        url = f"{self.server.url}/datasets/{repository.name}/commit/{commit}"
        self._send_json({"success": True, "commitOid": commit, "commitUrl": url})

    def _has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _send_tree(self, files: Mapping[str, bytes], path: str, query: dict[str, list[str]], here: str) -> None:
        """One page of the files and folders below `path`, with the address of the next."""
        prefix = f"{path}/" if path else ""
        below = [name for name in files if name.startswith(prefix)]
        if path and not below:
            self._refuse(404, "EntryNotFound")
            return
        recursive = query.get("recursive", ["false"])[0].lower() == "true"
        entries: dict[str, dict[str, object]] = {}
        for name in sorted(below):
            steps = name[len(prefix) :].split("/")
            for depth in range(1, len(steps) if recursive else min(len(steps), 2)):
                folder = prefix + "/".join(steps[:depth])
                entries[folder] = {"type": "directory", "path": folder, "oid": _oid(folder.encode()), "size": 0}
            if recursive or len(steps) == 1:
                entries[name] = _entry(name, files[name])
        start = int(query.get("cursor", ["0"])[0])
        stop = start + self.server.page_size
        headers = {}
        if stop < len(entries):
            following = urlencode({"recursive": recursive, "cursor": stop})
            headers["Link"] = f'<{self.server.url}{here}?{following}>; rel="next"'
        self._send_json(list(entries.values())[start:stop], headers)

    def _send_file(self, name: str, data: bytes, sha: str) -> None:
        headers = {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if self.command == "GET":
            self.server.gets[name] += 1
        asked = self.headers.get("Range", "").removeprefix("bytes=").split(",")[0]
        if not asked:
            return self._send(200, data, headers)
        first, _, last = asked.partition("-")
        start, stop = int(first), min(int(last) + 1 if last else len(data), len(data))
        if start >= len(data):
            return self._send(416, b"", headers | {"Content-Range": f"bytes */{len(data)}"})
        return self._send(206, data[start:stop], headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})

    def _send_json(self, value: object, headers: Mapping[str, str] | None = None) -> None:
        self._send(200, json.dumps(value).encode(), headers)

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Length": str(len(body)),
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _tags(card: bytes) -> list[str]:
    front = re.match(r"---\n(.*?)\n---", card.decode(), re.DOTALL)
    return list((yaml.safe_load(front[1]) or {}).get("tags", [])) if front else []


def _mode(name: str, there: Mapping[str, bytes]) -> dict[str, Any]:
    large = name.endswith(_LARGE)
    digest = (lambda data: hashlib.sha256(data).hexdigest()) if large else _oid
    known = {"oid": digest(there[name])} if name in there else {}
    return {"path": name, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, **known}


_LARGE = (".parquet", ".safetensors", ".bin", ".arrow")
"""Endings of files that git holds a pointer to."""


def _entry(name: str, data: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": name, "size": len(data), "oid": _oid(data)}
    if name.endswith(_LARGE):
        # A large file: git holds a pointer to it, whose hash is the oid.
        sha256 = hashlib.sha256(data).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(data)}\n".encode()
        entry |= {"oid": _oid(pointer), "lfs": {"oid": sha256, "size": len(data), "pointerSize": len(pointer)}}
    return entry


def _oid(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
