"""Bytes of a stream that came before their turn."""

from __future__ import annotations

from bisect import bisect_left

# More pieces than this are not kept; the sender repeats what was dropped.
_MOST = 512


class Reassembly:
    """Pieces at positions of the stream, in order, none touching bytes of another."""

    __slots__ = ("_pieces", "_starts", "recent", "size")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._pieces: list[bytes] = []
        self.size = 0
        # Where the piece that came last begins: RFC 2018 wants its block to be told first.
        self.recent = 0

    def __bool__(self) -> bool:
        return bool(self._starts)

    def add(self, start: int, data: bytes) -> None:
        """Keep what is not here yet."""
        if len(self._starts) >= _MOST:
            return
        self.recent = start
        end = start + len(data)
        index = bisect_left(self._starts, start)
        if index:
            before = self._starts[index - 1] + len(self._pieces[index - 1])
            if before > start:
                data = data[before - start:]
                start = before
        while data:
            after = self._starts[index] if index < len(self._starts) else end
            piece = data[:max(0, after - start)]
            if piece:
                self._starts.insert(index, start)
                self._pieces.insert(index, piece)
                self.size += len(piece)
                index += 1
            if after >= end:
                break
            covered = after + len(self._pieces[index])
            index += 1
            data = data[covered - start:]
            start = covered

    def take(self, position: int) -> bytes:
        """The bytes from `position` on, as far as they are here; empty where there is a hole."""
        found = []
        count = 0
        for start, piece in zip(self._starts, self._pieces):
            if start > position:
                break
            if start + len(piece) > position:
                found.append(piece[position - start:])
                position = start + len(piece)
            self.size -= len(piece)
            count += 1
        del self._starts[:count], self._pieces[:count]
        return b"".join(found)

    def blocks(self) -> list[tuple[int, int]]:
        """The ranges that are here, at most three, the most recent one first (RFC 2018)."""
        ranges: list[tuple[int, int]] = []
        for start, piece in zip(self._starts, self._pieces):
            if ranges and ranges[-1][1] == start:
                ranges[-1] = (ranges[-1][0], start + len(piece))
            else:
                ranges.append((start, start + len(piece)))
        ranges.sort(key=lambda r: not r[0] <= self.recent < r[1])
        return ranges[:3]
