"""What the devices exchange in a compiled program, read from its text."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import NamedTuple

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(_KINDS)})(?:-start)?\(")
_WHILE = re.compile(r" while\(.*body=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CALLS = re.compile(r"(?:calls|to_apply|branch_computations)=\{?(%?[\w.\-]+(?:, ?%?[\w.\-]+)*)")


class Exchange(NamedTuple):
    """Sums over one run of a program, loops whose length it does not tell counted once.

    Attributes:
      counts: collectives by kind.
      sent_bytes: that each device sends, if rings do the work: 2 (n - 1) / n of an array to add it up over n devices,
        (n - 1) / n to gather or scatter it.
    """

    counts: Counter[str]
    sent_bytes: float


def exchange_of(text: str) -> Exchange:
    """The collectives of a program, given as the text of its compiled module."""
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            name = match[2]
            bodies[name] = []
            entry = name if match[1] else entry
        elif name:
            bodies[name].append(line)

    def total(name: str) -> Exchange:
        counts: Counter[str] = Counter()
        sent = 0.0
        for line in bodies.get(name, []):
            inner, times = [], 1
            if match := _COLLECTIVE.search(line):
                counts[match[2]] += 1
                sent += _sent_bytes(match[2], _size(match[1]), _group_size(line))
            elif match := _WHILE.search(line):
                inner, times = [match[1]], int(found[1]) if (found := _TRIPS.search(line)) else 1
            elif match := _CALLS.search(line):
                inner = [part.strip(" %") for part in match[1].split(",")]
            for part in inner:
                nested = total(part)
                counts.update({kind: times * count for kind, count in nested.counts.items()})
                sent += times * nested.sent_bytes
        return Exchange(counts, sent)

    return total(entry)


def _size(shapes: str) -> int:
    """Bytes of an array or a tuple of arrays, such as `(f32[8,50]{1,0}, s32[])`."""
    total = 0
    for kind, dimensions in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
        size = _BYTES[kind]
        for dimension in filter(None, dimensions.split(",")):
            size *= int(dimension)
        total += size
    return total


def _group_size(line: str) -> int:
    """Devices that take part in one collective, from `{{0,1},{2,3}}`, `[2,2]<=[4]` or `mesh['a'=2,'b'=2] {'a'}`."""
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line):
        sizes = dict(re.findall(r"('\w+')=(\d+)", match[1]))
        return math.prod(int(sizes[axis]) for axis in match[2].split(","))
    if match := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return len(match[1].split(","))
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(match[1])
    raise ValueError(f"the devices of a collective are written in a way that this does not read: {line.strip()[:200]}")


def _sent_bytes(kind: str, size: int, devices: int) -> float:
    share = (devices - 1) / devices
    if kind == "all-reduce":
        return 2 * share * size
    if kind == "reduce-scatter":
        return share * size * devices
    return size if kind == "collective-permute" else share * size
