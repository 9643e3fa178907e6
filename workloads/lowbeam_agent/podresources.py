"""The kubelet's Pod Resources API, `v1.PodResourcesLister/List`, as far as the agent reads it.

The messages are those of Kubernetes' `staging/src/k8s.io/kubelet/pkg/apis/podresources/v1/api.proto` (Apache-2.0, see
README.md beside this file), cut down to names and device ids and built here from a table, so that no generated code is
kept: fields that the table leaves out are skipped, as protobuf does with fields that it does not know.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_LIST = "/v1.PodResourcesLister/List"
_MAX_ANSWER_BYTES = 16 << 20
"""What the kubelet's own client accepts: many pods with many devices."""
_STRING, _MESSAGE = descriptor_pb2.FieldDescriptorProto.TYPE_STRING, descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
_ONE, _MANY = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL, descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
_MESSAGES: dict[str, list[tuple[str, int, int, str | None]]] = {
    "ListPodResourcesRequest": [],
    "ListPodResourcesResponse": [("pod_resources", 1, _MANY, "PodResources")],
    "PodResources": [
        ("name", 1, _ONE, None),
        ("namespace", 2, _ONE, None),
        ("containers", 3, _MANY, "ContainerResources"),
    ],
    "ContainerResources": [("name", 1, _ONE, None), ("devices", 2, _MANY, "ContainerDevices")],
    "ContainerDevices": [("resource_name", 1, _ONE, None), ("device_ids", 2, _MANY, None)],
}
"""Message -> (field, number, label, message type; None = a string)."""


def _messages() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="lowbeam_agent/podresources.proto", package="v1", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, label, of in fields:
            kind = {"type": _MESSAGE, "type_name": f".v1.{of}"} if of else {"type": _STRING}
            message.field.add(name=field, number=number, label=label, **kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"v1.{name}")) for name in _MESSAGES}


MESSAGES = _messages()
"""Name -> class of the messages above."""


class PodListError(Exception):
    """The kubelet did not answer; the message says which socket and why."""


class Kubelet:
    """A connection to the kubelet's socket; opens by itself, also after the kubelet came back. `close` when done."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._channel = grpc.insecure_channel(
            f"unix://{socket.absolute()}",
            options=[
                ("grpc.default_authority", "localhost"),  # gRPC would send the socket's path, which Go's server refuses
                ("grpc.max_receive_message_length", _MAX_ANSWER_BYTES),
                ("grpc.max_reconnect_backoff_ms", 2000),
            ],
        )
        self._list = self._channel.unary_unary(
            _LIST,
            request_serializer=MESSAGES["ListPodResourcesRequest"].SerializeToString,
            response_deserializer=MESSAGES["ListPodResourcesResponse"].FromString,
        )

    def devices(self, timeout_s: float) -> list[tuple[str, str, str, str]]:
        """All devices in use: (device id, namespace, pod, container); none is an answer. Raises PodListError."""
        try:
            answer = self._list(MESSAGES["ListPodResourcesRequest"](), timeout=timeout_s)
        except grpc.RpcError as error:
            raise PodListError(f"{self._socket}: {error.code().name}: {error.details()}") from error
        return [
            (device, pod.namespace, pod.name, container.name)
            for pod in answer.pod_resources
            for container in pod.containers
            for devices in container.devices
            for device in devices.device_ids
        ]

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()
