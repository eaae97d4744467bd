from typing import TypedDict, type_check_only

# What the ring of the probe could do.
@type_check_only
class RingProbe(TypedDict):
    setup_flags: tuple[str, ...]
    features: tuple[str, ...]
    ops: tuple[int, ...]
    multishot_poll: bool

def probe_ring() -> RingProbe: ...
def answer_to(opcode: int, flags: int = 0) -> int: ...
def setup_names(bits: int) -> tuple[str, ...]: ...
def feature_names(bits: int) -> tuple[str, ...]: ...
