"""Run a command where there is no network: `unshare -n python offline.py COMMAND...`.

Kernels need the loopback, so it is turned on. That nothing else can be reached is tried first.
"""

import fcntl
import os
import socket
import struct
import sys

with socket.socket() as outside:
    UP = struct.pack("16sh", b"lo", 1)  # IFF_UP
    fcntl.ioctl(outside, 0x8914, UP)  # SIOCSIFFLAGS
    try:
        outside.connect(("1.1.1.1", 53))
        sys.exit("the network is not cut")
    except OSError:
        pass
os.execvp(sys.argv[1], sys.argv[1:])
