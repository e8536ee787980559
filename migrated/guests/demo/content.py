"""What a page of the demo guest holds: a pure function of (seed, page, version, kind).

Everything here is 64-bit integer arithmetic, so that a guest that goes on at another host, with another
numpy, expects the same bytes. A page is cut out of a pool at an offset that its hash chooses, and stamped
with its number, version and hash; that makes 1 GB/s, and 8 KiB of text from two pages compresses as real text
does. The pools hang on no seed, so a guest in standby has them before it knows its file.

Kinds are given to groups of 16 pages, in the proportions of the mix: memory is never a chessboard.
"""

from enum import IntEnum
from functools import cache

import numpy as np
from numpy.typing import NDArray

from migrated.pages import PAGE_SIZE

__all__ = [
    "GROUP_PAGES",
    "PAGE_WORDS",
    "ZERO_EVERY",
    "Kind",
    "Words",
    "expected_pages",
    "kinds_of_groups",
    "mix",
    "pools",
    "stream",
]

Words = NDArray[np.uint64]
"""64-bit little-endian words."""

PAGE_WORDS = PAGE_SIZE // 8
GROUP_PAGES = 16
"""Pages in a row that have the same kind: 64 KiB, one block of the smallest size that compresses well."""
ZERO_EVERY = 16
"""Every 16th version of a page is all zeros, so that pages come to be zero in the middle of a migration."""
POOL_WORDS = 1 << 19
"""4 MiB a kind: two pages of one 256 KiB block rarely share bytes, and all pools are made in about 0.2 s."""

_GOLDEN = 0x9E3779B97F4A7C15
_SPREAD = np.uint64(_GOLDEN)
_VERSION_SPREAD = np.uint64(0xD1B54A32D192ED03)

_TEXT = """
    the of and to in a is that for it was on are as with his they at be this from have or by one had not but
    what all were when we there can an your which their said if do will each about how up out them then she
    many some so these would other into has more her two like him see time could no make than first been its
    who now people my made over did down only way find use may water long little very after words called
    just where most know get through back much before go good new write our used me man too any day same
    right look think also around another came come work three word must because does part even place well
    such here take why things help put years different away again off went old number great tell men say
    small every found still between name should home big give air line set own under read last never us left
    end along while might next sound below saw something thought both few those always looked show large
    often together asked house world going want school important until form food keep children feet land
    side without boy once animals life enough took sometimes four head above kind began almost live page got
    earth need far hand high year mother light parts country father let night following picture being study
    second eyes soon times story boys since white days ever paper hard near sentence better best across
    during today others however sure means knew try told young miles sun ways thing whole hear example heard
    several change answer room sea against top turned learn point city play toward five using himself
    usually money seen car morning given trees ready green possible memory migration register compiler
    hypervisor balance customer session
"""

# x86-64 instructions as text: two hex digits are a byte of the opcode, the others are the keys of _WILD.
_CODE = """
    55 4889e5 4883ecss c3 c9c3 5b5d c3 4889rr 4889rr 4889rr 8945ss 8b45ss 488b45ss 488945ss 488b7dss
    488d05????nn00 488d3d????nn00 488b05????nn00 e8????nnff e8????nnff e8????nn00 85c0 4885c0 31c0 31ff 74??
    75?? eb?? 0f84????0000 0f85????0000 e9????ffff 4839rr 39rr 4883f8ss 83f8?? 4883c0ss 488d54ss??
    b8????0000 bf????0000 c744ss????0000 0fb6rr 488b04?? 4801rr 4829rr 48c1e0ss 4154 4155 415c 415d f30f1efa
    660f1f440000 4c89rr 4c8brr 418brr 488b4fss 488b57ss 8b07 f20f1045ss f20f59rr
"""
_WILD = {"??": 1, "nn": 2, "rr": 3, "ss": 4}
"""Bytes that vary: any, the third byte of a near address, a ModRM of two registers, the offset of a stack
slot."""
IDIOMS = 9000
"""Distinct pieces of the code pool: with these it compresses about as programs do, 2 to 1."""


class Kind(IntEnum):
    """What a page looks like; the numbers are in the file."""

    ZERO = 0
    TEXT = 1
    CODE = 2
    RANDOM = 3


def mix(words: Words) -> Words:
    """The finaliser of splitmix64: every bit of a word hangs on every bit that went in."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def stream(seed: int, first: int, count: int) -> Words:
    """Words ``first`` to ``first + count`` of the random sequence that ``seed`` names."""
    counter = np.arange(count, dtype=np.uint64) + np.uint64(first % 2**64)
    return mix(counter * _SPREAD + np.uint64(seed % 2**64))


def kinds_of_groups(seed: int, shares: tuple[int, int, int, int], groups: int) -> NDArray[np.uint8]:
    """The kind of each group of 16 pages; ``shares`` are relative, in the order of :class:`Kind`.

    A golden-ratio sequence: any stretch of memory has the mix's proportions to within a few groups.
    """
    limits = (np.cumsum(np.array(shares, dtype=np.uint64)) << np.uint64(32)) // np.uint64(sum(shares))
    turn = np.arange(groups, dtype=np.uint64) * _SPREAD + stream(seed, 0, 1)
    return np.searchsorted(limits, turn >> np.uint64(32), side="right").astype(np.uint8)


def expected_pages(seed: int, pages: Words, versions: Words, kinds: NDArray[np.uint8]) -> Words:
    """What ``pages`` hold at ``versions``: shape (pages, 512), a fresh array."""
    digest = mix(mix(pages * _SPREAD + np.uint64(seed)) + versions * _VERSION_SPREAD)
    span = np.uint64(POOL_WORDS - PAGE_WORDS)
    # Kind ZERO has no pool; it borrows the first and is wiped below.
    pool = np.maximum(kinds, 1).astype(np.uint64) - np.uint64(1)
    rows = _windows()[pool * np.uint64(POOL_WORDS) + (digest >> np.uint64(8)) % span]
    scrambled = kinds == Kind.RANDOM
    if scrambled.any():
        # Two cuts of the random pool may overlap; under keys of their own they have nothing in common.
        rows[scrambled] ^= mix(digest[scrambled])[:, None]
    rows[:, 0], rows[:, 1], rows[:, 2] = pages, versions, digest
    blank = (kinds == Kind.ZERO) | (versions % np.uint64(ZERO_EVERY) == ZERO_EVERY - 1)
    if blank.any():
        rows[blank] = 0
    return rows


@cache
def pools() -> Words:
    """The pools of text, code and random words, one behind the other."""
    made = np.empty(3 * POOL_WORDS, dtype=np.uint64)
    text, code, noise = (made[each * POOL_WORDS : (each + 1) * POOL_WORDS] for each in range(3))
    _fill_text(text.view(np.uint8))
    _fill_code(code.view(np.uint8))
    noise[:] = stream(3, 0, POOL_WORDS)
    return made


@cache
def _windows() -> Words:
    return np.lib.stride_tricks.sliding_window_view(pools(), PAGE_WORDS)


def _fill_text(out: NDArray[np.uint8]) -> None:
    common = _TEXT.split()
    words = [f"{word} " for word in common] + [f"{word}, " for word in common[::3]]
    words += [
        f"{word}.\n{other.capitalize()} " for word, other in zip(common[5::4], common[9::4], strict=False)
    ]
    # Frequent words first in the list, and a weight of 1/rank: Zipf's law, flattened to the ratio of prose.
    weights = 1000_000 // (np.arange(len(words)) + 12)
    _fill(out, 1, [word.encode() for word in words], weights)


def _fill_code(out: NDArray[np.uint8]) -> None:
    # Compilers repeat themselves: fresh instructions first, then the pool out of idioms cut from them.
    fresh = _fresh_code(1 << 16)
    cuts = stream(5, 0, IDIOMS) % np.uint64(len(fresh) - 16)
    sizes = stream(6, 0, IDIOMS) % np.uint64(9) + np.uint64(4)
    idioms = [fresh[at : at + size].tobytes() for at, size in zip(cuts.tolist(), sizes.tolist(), strict=True)]
    _fill(out, 2, idioms, 10_000_000 // (np.arange(IDIOMS) + 40))


def _fresh_code(size: int) -> NDArray[np.uint8]:
    instructions, wild = [], []
    for text in _CODE.split():
        parts = [text[at : at + 2] for at in range(0, len(text), 2)]
        instructions.append(bytes(0 if part in _WILD else int(part, 16) for part in parts))
        wild.append(bytes(_WILD.get(part, 0) for part in parts))
    weights = 1000_000 // (np.arange(len(instructions)) % 23 + 6)
    made, masks = np.empty(size, dtype=np.uint8), np.empty(size, dtype=np.uint8)
    _fill(made, 2, instructions, weights)
    _fill(masks, 2, wild, weights)
    noise = stream(4, 0, size // 8).view(np.uint8)
    choices = (noise, noise & 0x3F, noise & 0x3F | 0xC0, noise & 0x38 | 0xC0)
    for number, values in enumerate(choices, start=1):
        np.copyto(made, values, where=masks == number)
    return made


def _fill(out: NDArray[np.uint8], seed: int, pieces: list[bytes], weights: NDArray[np.int64]) -> None:
    """Fill ``out`` with ``pieces`` drawn by ``weights``; the same draw for the same seed, weights and
    lengths."""
    flat = np.frombuffer(b"".join(pieces), dtype=np.uint8)
    lengths = np.array([len(piece) for piece in pieces])
    firsts = np.cumsum(lengths) - lengths
    limits = np.cumsum(weights).astype(np.uint64)
    done, drawn, step = 0, 0, 16384
    while done < len(out):
        draw = np.searchsorted(limits, stream(seed, drawn, step) % limits[-1], side="right")
        drawn += step
        counts = lengths[draw]
        behind = np.cumsum(counts)
        made = flat[np.arange(int(behind[-1])) + np.repeat(firsts[draw] - behind + counts, counts)]
        room = min(len(made), len(out) - done)
        out[done : done + room] = made[:room]
        done += room
