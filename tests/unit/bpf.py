"""A machine for classic BPF as seccomp has it: evaluates programs on (arch, number, arguments)."""

from __future__ import annotations

import struct
from collections.abc import Sequence

LD_W_ABS, ALU_AND_K, JA, JEQ, JGT, JGE, RET = 0x20, 0x54, 0x05, 0x15, 0x25, 0x35, 0x06


class Program:
    """A program, checked as the kernel checks it (bpf_check_classic, seccomp_check_filter)."""

    def __init__(self, program: bytes, byteorder: str = "little") -> None:
        self._end = "<" if byteorder == "little" else ">"
        assert len(program) % 8 == 0
        self.code = [struct.unpack(self._end + "HBBI", program[i:i + 8])
                     for i in range(0, len(program), 8)]
        assert 0 < len(self.code) <= 4096
        assert self.code[-1][0] == RET
        for at, (code, jt, jf, k) in enumerate(self.code):
            if code in (JEQ, JGT, JGE):
                assert at + 1 + max(jt, jf) < len(self.code)
            elif code == JA:
                assert at + 1 + k < len(self.code)
            elif code == LD_W_ABS:
                assert k % 4 == 0 and k < 64
            else:
                assert code in (ALU_AND_K, RET)

    def run(self, arch: int, number: int, args: Sequence[int] = ()) -> int:
        """The action returned."""
        return self.trace(arch, number, args)[0]

    def trace(self, arch: int, number: int, args: Sequence[int] = ()) -> tuple[int, int]:
        """The action returned, and how many instructions it took."""
        values = [*args, 0, 0, 0, 0, 0, 0][:6]
        data = struct.pack(self._end + "IIQ6Q", number, arch, 0, *values)
        at = word = count = 0
        while True:
            code, jt, jf, k = self.code[at]
            at += 1
            count += 1
            if code == RET:
                return int(k), count
            if code == LD_W_ABS:
                word = struct.unpack_from(self._end + "I", data, k)[0]
            elif code == ALU_AND_K:
                word &= k
            elif code == JA:
                at += k
            else:
                at += jt if {JEQ: word == k, JGT: word > k, JGE: word >= k}[code] else jf
