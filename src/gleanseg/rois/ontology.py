"""The ROI ontology: which structures there are and how they relate.

Four relations, kept apart because they license different conclusions:

* ``part_of``: the voxels lie in the parent (a liver tumor in the liver);
* ``found_in``: it occurs there, which says something of presence and nothing of voxels (a tumor annotated along with
  the hepatic vessels is found where the liver is);
* ``members``: a union (the kidneys are the left and the right one);
* ``exclusive``: groups of which a voxel belongs to one ROI at most.
"""

import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import MappingProxyType

from gleanseg.errors import UserError, nearest
from gleanseg.rois.stanzas import Roi, normal, read_stanza

__all__ = ["Ontology", "Roi", "builtin"]

_HERE = Path(__file__).parent  # package data lies beside the modules, also in an installed wheel


class Ontology:
    """All known ROIs and what follows from their relations; immutable.

    Args:
        rois: the ROIs, in the order in which they are listed.

    Raises:
        UserError: an id or a name stands twice, a relation names an unknown ROI or runs in a circle, or an exclusive
            group holds two ROIs that share voxels.
    """

    def __init__(self, rois: Iterable[Roi]):
        self._rois: dict[str, Roi] = {}
        for roi in rois:
            if roi.id in self._rois:
                raise UserError(f"ROI {roi.id!r} is defined twice; remove one definition")
            self._rois[roi.id] = roi
        self._by_name = _index_names(self._rois)
        direct = _containers(self._rois)
        self._above = {id: _reach(id, direct) for id in self._rois}
        self._below: dict[str, set[str]] = {id: {id} for id in self._rois}
        for id, above in self._above.items():
            for container in above:
                self._below[container].add(id)
        self._groups: dict[str, tuple[str, ...]] = {}
        for roi in self._rois.values():
            for group in roi.exclusive:
                self._groups[group] = (*self._groups.get(group, ()), roi.id)
        self._exclusive = {id: self._find_exclusive(id) for id in self._rois}
        self._places = {id: self._find_places(id) for id in self._rois}
        self._roamed = {id: self._find_roamed(id) for id in self._rois}

    @property
    def rois(self) -> Mapping[str, Roi]:
        """All ROIs by id, read-only."""
        return MappingProxyType(self._rois)

    @property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Ids of each exclusive group by the group's name, read-only."""
        return MappingProxyType(self._groups)

    def __getitem__(self, id: str) -> Roi:
        if id in self._rois:
            return self._rois[id]
        alias = self._by_name.get(normal(id))
        hint = f"; its id is {alias!r}" if alias else nearest(id, self._rois) or "; declare it under own_rois"
        raise UserError(f"{id!r} is not an ROI id of the ontology{hint}")

    def __contains__(self, id: object) -> bool:
        return id in self._rois

    def __iter__(self) -> Iterator[str]:
        return iter(self._rois)

    def __len__(self) -> int:
        return len(self._rois)

    def __repr__(self) -> str:
        return f"Ontology({len(self)} ROIs)"

    def find(self, name: str) -> Roi:
        """The ROI of this id, display name or alias; see ``normal`` for what does not count in the comparison.

        Raises:
            UserError: no ROI has the name (the nearest names are offered), or data sets use it for several
                (MSD's "cancer").
        """
        if name in self._rois:
            return self._rois[name]
        key = normal(name)
        if key in self._by_name:
            return self._rois[self._by_name[key]]
        if key in _vague():
            raise UserError(
                f"{name!r} is used for several ROIs ({', '.join(_vague()[key])}); name one of them by its id"
            )
        words = sorted({roi.id for roi in self._rois.values()} | set(self._by_name))
        hint = nearest(name, words) or nearest(key, words) or "; declare it under own_rois"
        raise UserError(f"no ROI of the ontology is called {name!r}{hint}")

    def extended(self, own: Mapping[str, Mapping[str, object]]) -> "Ontology":
        """This ontology with ROIs that a manifest declares under ``own_rois``; they may refer to each other.

        Args:
            own: the entries of a stanza of ``rois.toml`` by ROI id; all are optional.

        Raises:
            UserError: an id or name that exists already, an unknown key, an ill-formed value, an unknown ROI in a
                relation, a circle of relations.
        """
        if not own:
            return self
        rois = list(self._rois.values())
        for id, stanza in own.items():
            known = self._by_name.get(normal(id))
            if known:
                raise UserError(f"own_rois: {id!r} exists already as {known!r}; use that id or choose another name")
            rois.append(read_stanza(id, stanza, taken=[roi.color for roi in rois]))
        return Ontology(rois)

    def ancestors(self, id: str) -> tuple[str, ...]:
        """The chain of ``part_of`` from the nearest parent to the root; empty for a root."""
        chain: list[str] = []
        parent = self[id].part_of
        while parent is not None:
            chain.append(parent)
            parent = self._rois[parent].part_of
        return tuple(chain)

    def containing(self, id: str) -> tuple[str, ...]:
        """All ROIs that hold the voxels of this one: parents, unions, and theirs in turn, nearest first.

        An importer lists those of them that the data set annotates beside the ROI itself. A container always has
        fewer containers than its content: sorted by ``len(containing(id))``, parents come before parts.
        """
        return self._above[self[id].id]

    def may_overlap(self, a: str, b: str) -> bool:
        """Whether one voxel may belong to both.

        True for an ROI and what contains it, for two that share a part, for ROIs found in one place (protocols
        differ: a tumor of one data set may lie on a vessel of another), and for a part of a union with the union's
        members (a kidney tumor lies in one of the kidneys). False for unrelated ROIs, for siblings, for opposite
        sides and whenever the two lie in different ROIs of an exclusive group. An ROI overlaps itself.
        """
        one, two = self[a], self[b]
        if {one.side, two.side} == {"left", "right"} or b in self._exclusive[a]:
            return False
        if self._below[a] & self._below[b]:  # includes a == b and one containing the other
            return True
        if a in self._roamed[b] or b in self._roamed[a]:
            return True
        # What holds both says nothing of how they lie to each other, so only the rest of their containers counts.
        lines_a, lines_b = {a, *self._above[a]}, {b, *self._above[b]}
        places_a = {place for line in lines_a - lines_b for place in self._places[line]}
        places_b = {place for line in lines_b - lines_a for place in self._places[line]}
        return a in places_b or b in places_a or bool(places_a & places_b)

    def mirror(self, id: str) -> str:
        """The ROI of the other body side; the ROI itself when it has no side or no counterpart.

        ``lung_middle_lobe_right`` has a side and no counterpart: flipping an image left to right is wrong for it.
        """
        roi = self[id]
        if roi.side is None:
            return id
        other = "right" if roi.side == "left" else "left"
        swapped = "_".join(other if word == roi.side else word for word in id.split("_"))
        return swapped if swapped in self._rois and self._rois[swapped].side == other else id

    def closure(self, annotated: Collection[str], absent: Collection[str]) -> tuple[frozenset[str], frozenset[str]]:
        """What is known of a case, given what its manifest states.

        A union is annotated when all of its members are known and one is annotated, absent when all are absent. An
        absent ROI makes its parts and members absent. An annotated ROI says nothing of its parts. ``found_in`` is
        evidence and proves nothing.

        Args:
            annotated: ids of ROIs whose voxels are given.
            absent: ids of ROIs that are certainly nowhere in the image.

        Returns:
            All annotated and all absent ids; the two are disjoint, and the closure of a closure is itself.

        Raises:
            UserError: an unknown id, or statements that contradict each other.
        """
        known = {self[id].id for id in annotated}
        none = {self[id].id for id in absent}
        unions = [roi for roi in self._rois.values() if roi.members]
        while True:
            size = len(known) + len(none)
            none |= {part for id in none for part in self._below[id]}
            for roi in unions:
                if none.issuperset(roi.members):
                    none.add(roi.id)
                elif known.intersection(roi.members) and roi.id not in none and (known | none).issuperset(roi.members):
                    known.add(roi.id)
            if len(known) + len(none) == size:
                break
        for id in annotated:
            if id in none:
                raise UserError(self._contradiction(id, absent))
        return frozenset(known), frozenset(none)

    def presence(self, id: str, among: Collection[str]) -> tuple[str, ...]:
        """Which of ``among`` (the classes of a presence network) tell by their presence that this ROI may be present.

        The ROI itself when it is one of them, else what its members give, else where it is found, else its parent;
        empty when nothing tells. A lung tumor among TotalSegmentator's classes gives the five lobes.
        """
        roi = self[id]
        told = self._members_among(id, among)
        for place in () if told else roi.found_in:
            told += [teller for teller in self.presence(place, among) if teller not in told]
        if not told and roi.part_of:
            return self.presence(roi.part_of, among)
        return tuple(told)

    def scheme(self, name: str) -> Mapping[int, str]:
        """Published label values of a data set, each with the id of the innermost ROI; read-only.

        In a label map of nested ROIs a value belongs to the containers as well: see ``containing``.

        Raises:
            UserError: no scheme has this name.
        """
        schemes = _schemes()
        if name not in schemes:
            hint = nearest(name, schemes) or "; there are " + ", ".join(schemes)
            raise UserError(f"no label scheme is called {name!r}{hint}")
        return MappingProxyType({value: self[id].id for value, id in schemes[name].items()})

    @property
    def schemes(self) -> tuple[str, ...]:
        """Names that ``scheme`` knows."""
        return tuple(_schemes())

    def _find_exclusive(self, id: str) -> frozenset[str]:
        """All ROIs that lie in another ROI of an exclusive group than this one does."""
        lines = {id, *self._above[id]}
        outside: set[str] = set()
        for group, ids in self._groups.items():
            mine = lines.intersection(ids)
            if len(mine) > 1:
                a, b = sorted(mine)
                what = "one lies in the other" if id in mine else f"{id!r} lies in both"
                raise UserError(f"exclusive group {group!r} holds {a!r} and {b!r}, but {what}; take one out")
            for other in ids if mine else ():
                outside |= self._below[other] if other not in mine else set()
        return frozenset(outside)

    def _members_among(self, id: str, among: Collection[str]) -> list[str]:
        if id in among:
            return [id]
        told = [teller for member in self._rois[id].members for teller in self._members_among(member, among)]
        return list(dict.fromkeys(told))

    def _find_places(self, id: str) -> frozenset[str]:
        """Where the ROI itself is found: those places, their containers and all that lies in them."""
        found_in = self._rois[id].found_in
        return frozenset(near for place in found_in for near in (*self._below[place], *self._above[place]))

    def _find_roamed(self, id: str) -> frozenset[str]:
        """Members of the unions that the ROI is a part of without being a member: it lies in some of them."""
        roamed: set[str] = set()
        for line in (id, *self._above[id]):
            parent = self._rois[line].part_of
            if parent and self._rois[parent].members and line not in self._rois[parent].members:
                roamed |= self._below[parent]
        return frozenset(roamed)

    def _contradiction(self, id: str, absent: Collection[str]) -> str:
        """Why an ROI stated as annotated cannot be, given the ROIs stated as absent."""
        if id in absent:
            return f"{id!r} is listed as annotated and as absent; take one statement out"
        for holder in self._above[id]:
            if holder in absent:
                return f"{id!r} is annotated but {holder!r}, which contains it, is absent; take one statement out"
        union = next(line for line in (id, *self._above[id]) if self._rois[line].members)
        return f"{id!r} is annotated but all members of {union!r} are absent; take one statement out"


def _containers(rois: Mapping[str, Roi]) -> dict[str, list[str]]:
    """Each ROI's parent and the unions it is a member of, after checking that relations lead somewhere and end."""
    direct: dict[str, list[str]] = {id: [] for id in rois}
    edges: dict[str, set[str]] = {id: set() for id in rois}
    for roi in rois.values():
        parents = (roi.part_of,) if roi.part_of else ()
        for relation, others in (("part_of", parents), ("found_in", roi.found_in), ("members", roi.members)):
            for other in others:
                if other not in rois:
                    raise UserError(f"ROI {roi.id!r}: {relation} names the unknown ROI {other!r}{nearest(other, rois)}")
                inner, outer = (other, roi.id) if relation == "members" else (roi.id, other)
                edges[inner].add(outer)
                if relation != "found_in" and outer not in direct[inner]:
                    direct[inner].append(outer)
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        raise UserError(f"ROI relations run in a circle: {' -> '.join(error.args[1][::-1])}; break it") from None
    return direct


def _reach(start: str, direct: Mapping[str, list[str]]) -> tuple[str, ...]:
    """All that is reached from ``start``, nearest first, without it."""
    found = list(direct[start])
    for id in found:  # grows while it is walked
        found += [container for container in direct[id] if container not in found]
    return tuple(found)


def _index_names(rois: Mapping[str, Roi]) -> dict[str, str]:
    index: dict[str, str] = {}
    for roi in rois.values():
        for name in (roi.id, roi.name, *roi.aliases):
            key = normal(name)
            if not key:
                raise UserError(f"ROI {roi.id!r}: the name {name!r} has no letter or digit; choose another")
            if index.setdefault(key, roi.id) != roi.id:
                raise UserError(f"ROI {roi.id!r}: the name {name!r} already means {index[key]!r}; choose another")
    return index


@cache
def builtin() -> Ontology:
    """The ontology that gleanseg ships (``rois.toml``), read once."""
    stanzas = tomllib.loads((_HERE / "rois.toml").read_text(encoding="utf-8"))
    return Ontology(read_stanza(id, stanza) for id, stanza in stanzas.items())


@cache
def _schemes() -> dict[str, dict[int, str]]:
    schemes: dict[str, dict[int, str]] = {}
    for path in sorted((_HERE / "schemes").glob("*.toml")):
        for name, table in tomllib.loads(path.read_text(encoding="utf-8")).items():
            # A list numbers its ROIs from 1; a table gives the values themselves.
            pairs = enumerate(table, start=1) if isinstance(table, list) else table.items()
            schemes[name] = {int(value): id for value, id in pairs}
    return schemes


@cache
def _vague() -> dict[str, tuple[str, ...]]:
    """Names that data sets give to different ROIs, in the form in which names are compared."""
    table = tomllib.loads((_HERE / "vague.toml").read_text(encoding="utf-8"))
    return {normal(name): tuple(ids) for name, ids in table.items()}
