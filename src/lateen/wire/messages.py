"""Make protobuf message classes from descriptions in code: a few small messages need no generated files.

Each description gets a descriptor pool of its own. In the default pool, a second library in this process that brings
the same messages (Istio's own Python package, in a Mixer adapter) would clash with ours and fail to import.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2

__all__ = ["FieldProto", "FileProto", "MessageOptions", "MessageProto", "make_messages"]

FieldProto = descriptor_pb2.FieldDescriptorProto
FileProto = descriptor_pb2.FileDescriptorProto
MessageProto = descriptor_pb2.DescriptorProto
MessageOptions = descriptor_pb2.MessageOptions


def make_messages(file: FileProto) -> dict[str, Any]:
    """Return the message classes of one file by short name. It may import `google/protobuf/struct.proto`, no other."""
    pool = descriptor_pool.DescriptorPool()
    if file.dependency:
        pool.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    made = pool.FindFileByName(file.name)
    return {
        name: message_factory.GetMessageClass(descriptor) for name, descriptor in made.message_types_by_name.items()
    }
