"""What the driver says of this machine's GPUs: how many there are, how much memory of one is taken."""

import ctypes
import threading


def devices():
    """CUDA devices that a program finds here; 0 without a driver."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


def used_bytes(index=0):
    """Bytes taken of a GPU by all processes together; none where nobody can tell."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    handle, memory = ctypes.c_void_p(), _Memory()
    if nvml.nvmlInit_v2() != 0:
        return None
    try:
        if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) != 0:
            return None
        return memory.used if nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0 else None
    finally:
        nvml.nvmlShutdown()


class Peak:
    """`with Peak() as peak`: the most memory of the first GPU that was taken, beyond what was before. `peak.mb`: none on a
    machine without one."""

    EVERY = 0.1

    def __enter__(self):
        self.before = used_bytes()
        self.most, self.over = self.before, threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        if self.before is not None:
            self.thread.start()
        return self

    def watch(self):
        while not self.over.wait(self.EVERY):
            self.most = max(self.most, used_bytes() or 0)

    def __exit__(self, *_):
        self.over.set()
        if self.thread.is_alive():
            self.thread.join(timeout=5)

    @property
    def mb(self):
        return None if self.before is None else (self.most - self.before) / 1e6
