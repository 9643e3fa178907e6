"""What the API server can say no with: one tree, each error with a stable code and what to do next.

    KubeError                 LB400  base; names the verb, the resource and the object
    ├── ServerUnavailable     LB401  no answer, a cut connection, or 5xx                     retriable
    ├── TooManyRequests       LB402  the server asks for `retry_after_seconds`               retriable
    ├── Unauthorized          LB403  the credentials are not accepted
    ├── Forbidden             LB404  RBAC lacks `verb` on `resource`
    ├── NotFound              LB405  no such object, or the CRD is not installed
    ├── Conflict              LB406  a precondition (uid, resourceVersion, field owner) failed
    │   ├── AlreadyExists     LB407  create: the name is taken
    │   └── NotOurs           LB411  apply: the name is taken by an object that somebody else made
    ├── Gone                  LB408  the resourceVersion of a watch or page was compacted
    ├── Invalid               LB409  the server refuses the object or the request
    └── Deposed               LB410  not sent: another process may lead by now

Decides which status is which error. Never decides whether to retry: `retriable` only says that trying again may help.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lowbeam.errors import LowbeamError

MESSAGE_LIMIT = 1000
"""Characters of the server's message that are kept: validation errors can quote whole objects."""


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked: `verb` as RBAC spells it, `resource` as plural[/subresource], `target` as [namespace/]name."""

    verb: str
    resource: str
    target: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in (self.verb, self.resource, self.target) if part)


class KubeError(LowbeamError):
    """The API server did not do what was asked."""

    code = "LB400"
    retriable: ClassVar[bool] = False
    advice: ClassVar[str] = "see the API server's log"

    def __init__(self, request: Request, detail: str, status: int | None = None) -> None:
        self.request = request
        self.detail = detail[:MESSAGE_LIMIT]
        self.status = status
        super().__init__(f"{request}: {self.detail}; {self.next_step}")

    @property
    def next_step(self) -> str:
        """What the reader can do about it."""
        return self.advice


class ServerUnavailable(KubeError):
    """The server did not answer, cut the connection, or answered 5xx."""

    code = "LB401"
    exit_code = 3
    retriable = True
    advice = "check that the API server is up and reachable; the operator keeps trying"


class TooManyRequests(KubeError):
    """The server sheds load, or is still starting (429). `retry_after_seconds` is its own wish, None without one."""

    code = "LB402"
    exit_code = 3
    retriable = True
    advice = "Lowbeam waits and tries again; if it lasts, look at API priority and fairness"

    def __init__(
        self, request: Request, detail: str, status: int | None = 429, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(request, detail, status)
        self.retry_after_seconds = retry_after_seconds


class Unauthorized(KubeError):
    """The credentials are missing, expired or unknown (401)."""

    code = "LB403"
    exit_code = 3
    advice = "renew the kubeconfig or the pod's service account token"


class Forbidden(KubeError):
    """RBAC does not allow it (403)."""

    code = "LB404"

    @property
    def next_step(self) -> str:
        """The rule that is missing."""
        return f'add verb "{self.request.verb}" on "{self.request.resource}" to the role of Lowbeam\'s service account'


class NotFound(KubeError):
    """No such object, namespace or kind (404)."""

    code = "LB405"
    advice = "if the kind itself is unknown, install the CRDs: lowbeam crds | kubectl apply --server-side -f -"


class Conflict(KubeError):
    """A uid, resourceVersion or field-owner precondition failed (409): the object is not the one that was looked at."""

    code = "LB406"
    advice = "read the object again and decide anew"


class Deposed(KubeError):
    """The write was not sent, because this process does not lead any longer: it would undo another one's decision."""

    code = "LB410"
    advice = "nothing to do: the new leader decides"


class AlreadyExists(Conflict):
    """Create: an object with this name exists (409)."""

    code = "LB407"
    advice = "read the existing object instead"


class NotOurs(Conflict):
    """Apply: an object with this name exists, and others set its fields to something else (409)."""

    code = "LB411"
    advice = "it was made by somebody else and is left as it is: rename or delete one of the two"


class Gone(KubeError):
    """The asked-for resourceVersion was compacted (410)."""

    code = "LB408"
    advice = "list again and compare"


class Invalid(KubeError):
    """The server understood and refuses (400, 413, 415, 422). `causes` are its `field: message` lines."""

    code = "LB409"
    advice = "correct the fields named above"

    def __init__(self, request: Request, detail: str, status: int | None = 422, causes: tuple[str, ...] = ()) -> None:
        super().__init__(request, detail, status)
        self.causes = causes


def error_from_status(
    request: Request, status: int, body: Mapping[str, Any] | None, retry_after_seconds: float | None = None
) -> KubeError:
    """The error for an HTTP status and the server's `Status` object (None where the body was not one)."""
    body = body or {}
    detail = str(body.get("message") or f"HTTP {status}")
    details = body.get("details") or {}
    if status == 401:
        return Unauthorized(request, detail, status)
    if status == 403:
        return Forbidden(request, detail, status)
    if status == 404:
        return NotFound(request, detail, status)
    if status == 409:
        return (AlreadyExists if body.get("reason") == "AlreadyExists" else Conflict)(request, detail, status)
    if status == 410:
        return Gone(request, detail, status)
    if status == 429:
        wait = retry_after_seconds if retry_after_seconds is not None else details.get("retryAfterSeconds")
        return TooManyRequests(request, detail, status, wait)
    if status in (400, 413, 415, 422):
        causes = details.get("causes") or ()
        if any(cause.get("field") == "metadata.uid" for cause in causes):
            # How the server says that an applied uid is not the one of the object with this name.
            return Conflict(request, detail, status)
        lines = tuple(f"{cause.get('field', '')}: {cause.get('message', '')}" for cause in causes)
        return Invalid(request, detail, status, lines)
    if status >= 500:
        return ServerUnavailable(request, detail, status)
    return KubeError(request, detail, status)
