"""A little hub on this machine that takes uploads as huggingface-hub sends them.

Small files stand inside a commit, large ones arrive by the protocol of Git LFS.
"""

from __future__ import annotations

import base64
import json
import re
from http.server import BaseHTTPRequestHandler
from typing import Any

from loopback import address, listen

TOKEN = "hf_of_a_test"
LARGE = (".safetensors", ".onnx", ".gguf")


class UploadHub:
    """Repositories that were created, and what is in them."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        """Repository -> path -> content."""
        self.private: dict[str, bool] = {}
        self.asked: list[str] = []
        self.read_only = False
        """Whether the token may only read."""
        self._objects: dict[str, bytes] = {}
        self.server = listen(self.answer)
        self.address = address(self.server)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """One request."""
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        self.asked.append(f"{request.command} {request.path}")
        if request.path.startswith("/objects/"):  # at an address that carries its own permission
            self._objects[request.path.rpartition("/")[2]] = body
            self.send(request, 200, {})
        elif self.read_only or request.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.send(request, 403 if self.read_only else 401, {"error": "no"})
        else:
            self.send(request, 200, self.take(request.path, body))

    def take(self, path: str, body: bytes) -> Any:
        """Do what a request with a token asks for."""
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.files.setdefault(name, {})
            self.private.setdefault(name, bool(asked.get("private")) or asked.get("visibility") == "private")
            return {"url": f"{self.address}/{name}", "name": name}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if match := re.match(r"/api/models/(.+)/preupload/main", path):
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(LARGE) else "regular" for name in names}
            return {"files": [{"path": name, "uploadMode": modes[name], "shouldIgnore": False} for name in names]}
        if path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for each in objects:
                each["actions"] = {"upload": {"href": f"{self.address}/objects/{each['oid']}"}}
            return {"transfer": "basic", "objects": objects}
        if match := re.match(r"/api/models/(.+)/commit/main", path):
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.files[match[1]][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    self.files[match[1]][value["path"]] = self._objects[value["oid"]]
            return {"commitUrl": f"{self.address}/{match[1]}/commit/{'0' * 40}", "commitOid": "0" * 40}
        if match := re.match(r"/api/models/([^/]+/[^/]+)(/revision/main)?$", path):
            return {"id": match[1], "sha": "0" * 40, "siblings": []}
        return {}

    def send(self, request: BaseHTTPRequestHandler, status: int, values: Any) -> None:
        """A response."""
        data = json.dumps(values).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def close(self) -> None:
        """Answer nobody any more."""
        self.server.shutdown()
        self.server.server_close()
