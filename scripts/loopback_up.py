"""Bring the interface `lo` of this network namespace up, as `ip link set lo up` does.

A namespace is born with it down; iproute2 is not on every machine.
"""

import fcntl
import socket
import struct

SIOCSIFFLAGS = 0x8914
IFF_UP, IFF_RUNNING = 0x1, 0x40

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as anything:
    request = struct.pack("16sh14x", b"lo", IFF_UP | IFF_RUNNING)
    fcntl.ioctl(anything, SIOCSIFFLAGS, request)
