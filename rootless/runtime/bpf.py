"""Classic BPF for seccomp: an assembler that cannot make a jump too long.

A seccomp program (seccomp(2), Documentation/userspace-api/seccomp_filter.rst) is an array of
`struct sock_filter` that reads `struct seccomp_data` and returns an action. It can only jump
forward, and a conditional jump reaches 255 instructions. So the program is written backwards,
from its last instruction to its first: every target already has its place, its distance is known
when the jump to it is written, and one that is too far away is replaced at once by something near:
a copy, when it is a return, else a long unconditional jump (BPF_JA).

A place is the number of instructions from a point to the end of the program.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

# <linux/bpf_common.h>: class, size, mode or operation, source. These and no others, because for
# programs made of them the kernel works out which system calls are always allowed and no longer
# runs the program for those (seccomp_is_const_allow, Linux 5.11).
LD_W_ABS = 0x20
ALU_AND_K = 0x54
JMP_JA = 0x05
JMP_JEQ_K = 0x15
JMP_JGT_K = 0x25
JMP_JGE_K = 0x35
RET_K = 0x06

MAX_INSTRUCTIONS = 4096     # BPF_MAXINSNS, <linux/bpf_common.h>
_REACH = 255                # jt and jf are 8 bits

# struct seccomp_data, <linux/seccomp.h>
NR = 0
ARCH = 4
ARGS = 16


class Assembler:
    """Collects instructions from the last to the first. Each method gives the place it made."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int]] = []
        self._returns: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._code)

    def _put(self, code: int, jt: int, jf: int, k: int) -> int:
        self._code.append((code, jt, jf, k))
        return len(self._code)

    def ret(self, action: int) -> int:
        """A place that returns `action`, shared where one is near."""
        place = self._returns.get(action)
        if place is None or len(self._code) - place > _REACH // 2:
            place = self._returns[action] = self._put(RET_K, 0, 0, action)
        return place

    def load(self, offset: int, then: int) -> int:
        """Read the 32-bit word at `offset`, go on at `then`."""
        self._next(then)
        return self._put(LD_W_ABS, 0, 0, offset)

    def mask(self, bits: int, then: int) -> int:
        self._next(then)
        return self._put(ALU_AND_K, 0, 0, bits)

    def jump(self, code: int, k: int, yes: int, no: int) -> int:
        """Compare the word read with `k`."""
        while True:
            here = len(self._code)
            if here - yes > _REACH:
                yes = self._near(yes)
            elif here - no > _REACH:
                no = self._near(no)
            else:
                return self._put(code, here - yes, here - no, k)

    def _next(self, then: int) -> None:
        """Make sure that `then` is what follows."""
        if then != len(self._code):
            self._near(then)

    def _near(self, place: int) -> int:
        code, _, _, k = self._code[place - 1]
        if code == RET_K:
            return self._put(RET_K, 0, 0, k)
        if code == JMP_JA:
            # What the long jump leads to, from here.
            return self._put(JMP_JA, 0, 0, k + len(self._code) - (place - 1))
        return self._put(JMP_JA, 0, 0, len(self._code) - place)

    def search(self, starts: list[int], leaf: Callable[[int], int]) -> int:
        """Binary search: go to `leaf(i)` of the last i whose start is not above the word read.

        `starts` ascends from 0. A leaf is asked for when code that leads to it is written, so that
        it can be near.
        """
        def between(low: int, high: int) -> int:
            if high - low == 1:
                return leaf(low)
            middle = (low + high) // 2
            yes = between(middle, high)
            return self.jump(JMP_JGE_K, starts[middle], yes, between(low, middle))

        return between(0, len(starts))

    def program(self, entry: int, byteorder: Literal["little", "big"]) -> bytes:
        """struct sock_filter[], started at `entry`."""
        self._next(entry)
        return b"".join(
            code.to_bytes(2, byteorder) + bytes((jt, jf)) + k.to_bytes(4, byteorder)
            for code, jt, jf, k in reversed(self._code))
