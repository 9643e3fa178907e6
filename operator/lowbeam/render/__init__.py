"""Option -> manifests: what Lowbeam writes to the API server, as plain dicts.

Decides how a chosen option looks as a Deployment and a Service, and what each engine is told. Pure functions: no clock,
no I/O, no client; the same input gives the same bytes. It never decides what runs (planning does) and never writes
(runtime does).

Invariants: names are deterministic and at most 63 characters; selectors never change; nothing that can change hot
through the control port (the native worker's batch limit) is in a pod template, so that it never restarts a pod.
"""

from lowbeam.render.deployments import RenderSettings, deployment
from lowbeam.render.engines import ModelTraits
from lowbeam.render.identity import Placement, Shares, control_token, deployment_name, service_name
from lowbeam.render.nodes import node_selector_terms
from lowbeam.render.services import service

__all__ = [
    "ModelTraits",
    "Placement",
    "RenderSettings",
    "Shares",
    "control_token",
    "deployment",
    "deployment_name",
    "node_selector_terms",
    "service",
    "service_name",
]
