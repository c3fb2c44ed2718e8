"""The mesh network on one machine: a holder process, workloads' network namespaces, traffic capture.

Import the concrete module; this package stays empty so that the launcher of every child process starts fast.

    client    reach or start the holder, attach a workload, forward a host port     spawn     start a process inside
    capture   what is captured, as values                                           doctor    what this machine can do
    explicit  addresses and ports where namespaces are not possible                 holder    the process itself
"""

__all__ = ["capture", "client", "doctor", "explicit", "holder", "spawn"]
