"""Indices of codebooks by an entropy coder, where that makes a file smaller than their packed bits.

k-means leaves clusters of different sizes, so that some indices come more often than others; a coder spends fewer bits
on those. Which one does best differs from layer to layer: all are tried, and where none gains anything the packed bits
stay as they are. Every index is a byte, or two: all the lower ones, then all the higher ones.
"""

import lzma
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowrank_exp.checks import is_whole
from lowrank_exp.decomposition.codebook import pack, unpack
from lowrank_exp.text.shown import shown

MOST = 1000  # times the bytes of a file, as indices in it may have when they are decoded
# Literals without context: LZMA's range coder then adapts to how often each byte comes.
_LZMA = [{"id": lzma.FILTER_LZMA2, "lc": 0, "lp": 0, "pb": 0, "dict_size": 2**20}]


class Indices(NamedTuple):
    """The indices of a codebook: `count` of them, `bits` each."""

    bits: int
    count: int

    @property
    def packed(self) -> int:
        """Bytes that they take as packed bits."""
        return -(-self.count * self.bits // 8)

    @property
    def symbols(self) -> int:
        """Bytes that they take as whole bytes."""
        return self.count * -(-self.bits // 8)


def _deflate(strategy: int) -> Callable[[bytes], bytes]:
    def code(data: bytes) -> bytes:
        coder = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, strategy)
        return coder.compress(data) + coder.flush()

    return code


def _inflate(data: bytes, most: int) -> bytes:
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, most)


def _unlzma(data: bytes, most: int) -> bytes:
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, None, _LZMA).decompress(data, most)


CODERS: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes, int], bytes]]] = {
    "huffman": (_deflate(zlib.Z_HUFFMAN_ONLY), _inflate),
    "deflate": (_deflate(zlib.Z_DEFAULT_STRATEGY), _inflate),
    "lzma": (lambda data: lzma.compress(data, lzma.FORMAT_RAW, filters=_LZMA), _unlzma),
}


def coded(state: Mapping[str, Any], books: Mapping[str, Indices]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """A state for a file, and of every entry that is coded in it how: `coder`, `bits` and `count`.

    Args:
        state: entries by name, indices as packed bits.
        books: those of them that are indices.
    """
    entries, how = dict(state), {}
    for name, indices in books.items():
        best, data = _code_best(state[name], indices)
        if len(data) < indices.packed:
            entries[name] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            how[name] = {"coder": best, **indices._asdict()}
    return entries, how


def decoded(state: Mapping[str, Any], how: Any, size: int) -> dict[str, Any]:
    """The state with packed bits in the place of what `coded` made of them.

    Args:
        state: entries of a file.
        how: what the file tells of its coded entries.
        size: of the file in bytes.

    Raises:
        ValueError: a record that `coded` does not write, or bytes that do not give as many indices.
    """
    if not isinstance(how, dict):
        raise ValueError(f"its coded entries must be a mapping of names to how they are coded, got {shown(how)}")
    entries, left = dict(state), MOST * size
    for name, record in how.items():
        indices, data = _checked(name, record, state)
        left -= indices.symbols
        if left < 0:
            raise ValueError(f"{shown(name)} would have {indices.symbols:,} bytes of indices, and the file {size:,}")
        entries[name] = _decode(name, record["coder"], data, indices)
    return entries


def bytes_of_indices(books: Mapping[str, Indices], how: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of all indices of a network, as packed bits and as they lie in its file; nothing without codebooks."""
    packed = {name: indices.packed for name, indices in books.items()}
    if not packed:
        return {}
    here = {name: state[name].numel() if name in how else size for name, size in packed.items()}
    return {"indices_packed_bytes": sum(packed.values()), "indices_file_bytes": sum(here.values())}


def _code_best(packed: Tensor, indices: Indices) -> tuple[str, bytes]:
    """The coder that needs fewest bytes, and these."""
    if not indices.packed:
        return "", b""
    symbols = unpack(packed, *indices)
    planes = [(symbols >> shift).to(torch.uint8) for shift in range(0, indices.bits, 8)]
    data = torch.cat(planes).numpy().tobytes()
    tried = [(name, code(data)) for name, (code, _) in CODERS.items()]
    return min(tried, key=lambda one: len(one[1]))


def _checked(name: Any, record: Any, state: Mapping[str, Any]) -> tuple[Indices, bytes]:
    """How many indices an entry of a file has, and its bytes."""
    entry = state.get(name)
    if not isinstance(entry, Tensor) or entry.dtype != torch.uint8 or entry.dim() != 1:
        raise ValueError(f"{shown(name)} is coded, but no row of bytes")
    if not isinstance(record, dict) or record.keys() != {"coder", "bits", "count"}:
        raise ValueError(f"{shown(name)} must have a coder, bits and count, got {shown(record)}")
    if record["coder"] not in CODERS:
        raise ValueError(f"{shown(name)} is coded by {shown(record['coder'])}; known: {', '.join(CODERS)}")
    if not is_whole(record["bits"], 1, 31) or not is_whole(record["count"], 1):
        raise ValueError(f"{shown(name)} must have 1 to 31 bits of at least one index, got {shown(record)}")
    return Indices(record["bits"], record["count"]), entry.numpy().tobytes()


def _decode(name: str, coder: str, data: bytes, indices: Indices) -> Tensor:
    """Packed bits of indices."""
    try:
        whole = CODERS[coder][1](data, indices.symbols + 1)
    except (zlib.error, lzma.LZMAError, EOFError) as error:
        raise ValueError(f"{shown(name)} is damaged ({error})") from None
    if len(whole) != indices.symbols:
        raise ValueError(f"{shown(name)} does not give the {indices.count:,} indices that it is to give")
    planes = torch.frombuffer(bytearray(whole), dtype=torch.uint8).view(-1, indices.count).int()
    symbols = sum((plane << (8 * place) for place, plane in enumerate(planes)), torch.zeros_like(planes[0]))
    if int(symbols.max()) >> indices.bits:
        raise ValueError(f"{shown(name)} has an index of more than {indices.bits} bits")
    return pack(symbols, indices.bits)
