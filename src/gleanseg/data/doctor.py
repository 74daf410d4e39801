"""Examine a manifest and its files before anything is trained on them."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gleanseg.data import case_checks, cohort_checks, facts
from gleanseg.data.finding import Finding, Severity
from gleanseg.data.manifest import Manifest, State

__all__ = ["Diagnosis", "Finding", "Severity", "examine"]


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What the doctor found.

    Attributes:
        name: of the manifest.
        findings: errors first, then warnings, then notes; by code and case.
        states: case id -> state of each ROI.
        splits: case id -> split.
        sites: case id -> site.
        contents: case id -> hash of its image voxels; cases whose images could not be read are left out.
        num_files: files that the manifest names.
        num_read: files that had to be read; the others are unchanged since the last time.
    """

    name: str
    findings: tuple[Finding, ...]
    states: Mapping[str, Mapping[str, State]]
    splits: Mapping[str, str]
    sites: Mapping[str, str]
    contents: Mapping[str, str]
    num_files: int
    num_read: int

    @property
    def healthy(self) -> bool:
        """Whether there is no error."""
        return not any(f.severity is Severity.ERROR for f in self.findings)

    @property
    def counts(self) -> dict[Severity, int]:
        """Number of findings of each severity."""
        found = Counter(f.severity for f in self.findings)
        return {severity: found[severity] for severity in Severity}

    def to_json(self) -> dict[str, Any]:
        """Everything as plain objects."""
        return {
            "gleanseg": 1,
            "name": self.name,
            "healthy": self.healthy,
            "counts": {severity.value: n for severity, n in self.counts.items()},
            "findings": [
                {"severity": f.severity.value, "code": f.code, "case": f.case, "message": f.message, "remedy": f.remedy}
                for f in self.findings
            ],
            "states": {case: {roi: state.value for roi, state in row.items()} for case, row in self.states.items()},
            "splits": dict(self.splits),
            "sites": dict(self.sites),
            "contents": dict(self.contents),
        }

    def save(self, path: Path) -> None:
        """Write ``to_json`` as a file that appears complete or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            part.write_text(json.dumps(self.to_json(), indent=1, ensure_ascii=False), encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def examine(
    manifest: Manifest,
    *,
    hashes: Path | None = None,
    num_workers: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Diagnosis:
    """Examine every file of a manifest.

    Args:
        manifest: is consistent in itself already (``Manifest.load`` sees to that).
        hashes: file that keeps what was measured (``facts.hashes_path``), so that the next time only changed files are
            read; nothing is kept when not given.
        num_workers: files at a time, one per core when not given; each holds one volume in memory.
        progress: called with (files done, files in all, name).
    """
    known = facts.gather(manifest, path=hashes, num_workers=num_workers, progress=progress)
    found = [finding for case in manifest.cases for finding in case_checks.check_case(manifest, case, known)]
    contents = {
        case.id: _content([known.images[name].content for name in case.images])
        for case in manifest.cases
        if all(name in known.images for name in case.images)
    }
    found += cohort_checks.check_cohort(manifest, known, contents)
    order = {case.id: number for number, case in enumerate(manifest.cases)}
    return Diagnosis(
        name=manifest.name,
        findings=tuple(sorted(found, key=lambda f: (list(Severity).index(f.severity), f.code, order.get(f.case, -1)))),
        states={case.id: manifest.states(case) for case in manifest.cases},
        splits={case.id: case.split for case in manifest.cases},
        sites={case.id: case.site for case in manifest.cases},
        contents=contents,
        num_files=len(known.images) + len(known.labels) + len(known.troubles),
        num_read=known.num_read,
    )


def _content(hashes: list[str]) -> str:
    """One hash of all image files of a case."""
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
