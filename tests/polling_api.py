"""The API server by plain HTTP, for tests that look often: a poll costs no process."""

from __future__ import annotations

import ssl
import uuid
from base64 import b64decode
from pathlib import Path
from typing import Any

import httpx
import yaml

Object = dict[str, Any]


class Api:
    """The API server, as the kubeconfig's user."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        loaded = yaml.safe_load(kubeconfig.read_text())
        server, user = loaded["clusters"][0]["cluster"], loaded["users"][0]["user"]
        context = ssl.create_default_context(cadata=b64decode(server["certificate-authority-data"]).decode())
        pair = folder / f"client-{uuid.uuid4().hex[:8]}.pem"
        pair.write_bytes(b64decode(user["client-certificate-data"]) + b"\n" + b64decode(user["client-key-data"]))
        context.load_cert_chain(pair)
        self._http = httpx.Client(base_url=server["server"], verify=context, timeout=30, trust_env=False)

    def get(self, path: str, **query: str) -> Object | None:
        """The object or list at a path; None where there is none."""
        answer = self._http.get(path, params=query)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        answer.raise_for_status()
        found: Object = answer.json()
        return found

    def items(self, path: str, **query: str) -> list[Object]:
        """The items of the list at a path."""
        found: list[Object] = (self.get(path, **query) or {"items": []})["items"]
        return found

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
