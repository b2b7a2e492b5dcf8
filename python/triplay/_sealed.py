"""Sealed lines and files: JSON that ends in a checksum of itself, as `src/store/line.rs` writes it.

The checksum is BLAKE3, which `hashlib` lacks. Python's loops are slow and its long integers are not, so all texts are
hashed side by side: an integer holds the same word of every text, in lanes of 64 bits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

_INITIAL = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
_VALUE = struct.pack("<8I", *_INITIAL)
_ORDER = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
_COLUMNS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15))
_DIAGONALS = ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
_START, _END, _PARENT, _ROOT = 1, 2, 4, 8


def digests(texts: Sequence[bytes]) -> list[str]:
    """Computes the BLAKE3 digest of each text, in hexadecimal."""
    cut = [[text[at : at + 1024] for at in range(0, len(text) or 1, 1024)] for text in texts]
    chunks = [(chunk, number, _ROOT if len(own) == 1 else 0) for own in cut for number, chunk in enumerate(own)]
    values = [_VALUE] * len(chunks)
    for at in range(0, 1024, 64):
        lanes = [lane for lane, (chunk, _, _) in enumerate(chunks) if at < (len(chunk) or 1)]
        blocks = [chunks[lane][0][at : at + 64] for lane in lanes]
        ends = [_END | chunks[lane][2] if len(chunks[lane][0]) <= at + 64 else 0 for lane in lanes]
        flags = [end | (_START if at == 0 else 0) for end in ends]
        mixed = _compress([values[lane] for lane in lanes], blocks, [chunks[lane][1] for lane in lanes], flags)
        for lane, value in zip(lanes, mixed):
            values[lane] = value
    rest = iter(values)
    trees = [[next(rest) for _ in own] for own in cut]
    while growing := [tree for tree in trees if len(tree) > 1]:
        pairs = [(tree, at) for tree in growing for at in range(0, len(tree) - 1, 2)]
        flags = [_PARENT | (_ROOT if len(tree) == 2 else 0) for tree, _ in pairs]
        blocks = [tree[at] + tree[at + 1] for tree, at in pairs]
        rest = iter(_compress([_VALUE] * len(pairs), blocks, [0] * len(pairs), flags))
        for tree in growing:
            tree[:] = [next(rest) for _ in range(len(tree) // 2)] + tree[len(tree) & ~1 :]
    return [tree[0].hex() for tree in trees]


def _compress(values: list[bytes], blocks: list[bytes], numbers: list[int], flags: list[int]) -> list[bytes]:
    """Compresses a block of each lane: section 2.2 of the BLAKE3 paper."""
    count = len(blocks)
    one = _lanes([1] * count)
    mask = one * 0xFFFFFFFF
    words = _words(b"".join(block.ljust(64, b"\0") for block in blocks), 64)
    state = _words(b"".join(values), 32) + [one * word for word in _INITIAL[:4]]
    state += [_lanes(numbers), 0, _lanes(map(len, blocks)), _lanes(flags)]
    for _ in range(7):
        for pair, (i, j, k, l) in enumerate(_COLUMNS + _DIAGONALS):
            a, b, c, d = state[i], state[j], state[k], state[l]
            for word, right, further in ((words[2 * pair], 16, 12), (words[2 * pair + 1], 8, 7)):
                a = (a + b + word) & mask
                d ^= a
                d = (d >> right | d << (32 - right)) & mask
                c = (c + d) & mask
                b ^= c
                b = (b >> further | b << (32 - further)) & mask
            state[i], state[j], state[k], state[l] = a, b, c, d
        words = [words[place] for place in _ORDER]
    mixed = bytearray(32 * count)
    for place in range(8):
        lanes = (state[place] ^ state[place + 8]).to_bytes(8 * count, "little")
        for byte in range(4):
            mixed[4 * place + byte :: 32] = lanes[byte::8]
    return [bytes(mixed[at : at + 32]) for at in range(0, len(mixed), 32)]


def _words(rows: bytes, width: int) -> list[int]:
    """Turns rows of this many bytes into words of 32 bits: each has a lane for each row."""
    words = []
    for place in range(0, width, 4):
        lanes = bytearray(8 * len(rows) // width)
        for byte in range(4):
            lanes[byte::8] = rows[place + byte :: width]
        words.append(int.from_bytes(lanes, "little"))
    return words


def _lanes(numbers: Iterable[int]) -> int:
    return int.from_bytes(b"".join(number.to_bytes(8, "little") for number in numbers), "little")


def sealed_lines(text: bytes) -> tuple[list[bytes], int]:
    """Finds the lines that are whole and as they were written, and counts the others."""
    lines = [line.rpartition(b',"check":"') for line in text.split(b"\n") if line]
    seals = [(digest[:32] + '"}').encode() for digest in digests([body for body, _, _ in lines])]
    whole = [b"".join(line) for line, seal in zip(lines, seals) if line[1] and line[2] == seal]
    return whole, len(lines) - len(whole)


def is_sealed_file(text: bytes) -> bool:
    """Says whether a file is as it was written; one without a checksum is of an earlier version, and taken as it is."""
    body, mark, tail = text.rpartition(b',\n  "check": "')
    return tail == (digests([body])[0][:32] + '"\n}\n').encode() if mark else b'"check"' not in text
