"""Patients of sections: one place that guesses them from names, and one that joins the table beside the sections."""

from __future__ import annotations

import codecs
import csv
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from anndata import AnnData

from nh2st_graph._errors import DataError, listed, nearest, reason
from nh2st_graph.read._common import logger
from nh2st_graph.section import patient_name, patients_in, unknown_patients

__all__ = ["NOT_LISTED", "PATIENTS", "patient_beside", "patient_in_name", "read_each"]

#: Name of the table of patients beside the sections, as TRIPLEX prepares it.
PATIENTS = "ids.csv"

#: Patient of a section that a table does not list; None lets the reader of one section look for a table.
NOT_LISTED = ""

_SECTION, _PATIENT = "sample_id", "patient"
_EXCEL = re.compile(r'"?sep=([,;|\t])"?[,;]*', re.IGNORECASE)  # Excel's own line, which names the separator
_FORM = f"give a table {_SECTION},{_PATIENT}"

#: Other names of such a column. An error suggests them; they are not read, since they may hold something else.
_OTHER_NAMES = frozenset({"patients", "patient_id", "patientid", "donor", "donor_id", "subject", "individual", "case"})

#: Patterns of the names of public sections; the group is the patient.
_IN_NAMES = tuple(
    re.compile(pattern)
    for pattern in (
        r"^([A-H])\d$",  # Andersson et al. 2021 (HER2ST)
        r"^(P\d+)_ST_rep\d+$",  # Ji et al. 2020
        r"^((?:BC)?\d+)_[A-Z]\d+$",  # He et al. 2020
        # STimage-1K4M
        r"^Human_Breast_Andersson_\d+_ST_([A-H])\d$",
        r"^Human_Breast_He_\d+_ST_(BC\d+)_",
        r"^Human_Heart_Asp_\d+_ST_ST_Sample_(.+PCW)_\d+$",
        r"^Human_Prostate_Erickson_\d+_Visium_(Patient_\d+)_",
        r"^Human_Brain_(?:Louise|Kwon)_.*_(Br\d+)(?:_|$)",
    )
)

#: Patients of slides of STimage-1K4M that are named by accession or sample number alone: Ji et al. 2020, Maynard et
#: al. 2021.
_PATIENT_OF = {
    **{f"GSE144239_GSM{4284316 + i}": ("P2", "P5", "P9", "P10")[i // 3] for i in range(12)},
    **{f"GSE144239_GSM{4565823 + i}": ("P4", "P6")[i // 2] for i in range(4)},
    **{
        f"Human_Brain_Maynard_02082021_Visium_{first + i}": donor
        for first, donor in ((151507, "Br5292"), (151669, "Br5595"), (151673, "Br8100"))
        for i in range(4)
    },
}


def patient_in_name(section: str) -> str | None:
    """Guess the patient from the name of a section of a public data set; None for other names.

    Only readers of these data sets guess: in Visium, ``A1`` is a place on the slide.
    """
    if section in _PATIENT_OF:
        return _PATIENT_OF[section]
    return next((match[1] for match in (pattern.match(section) for pattern in _IN_NAMES) if match), None)


def patient_beside(section: str, folder: Path) -> str | None:
    """Look up the patient of one section in the table ``ids.csv`` of a folder; None if nothing names it there.

    Raises
    ------
    DataError
        If there is such a table, and it cannot be read, lacks a column, or names two patients of one section.
    """
    path = folder / PATIENTS
    table = _table(path) if path.is_file() else None
    return None if table is None else table.patients.get(section)


def read_each(
    names: Iterable[str],
    known: Iterable[str],
    folders: Path | Sequence[Path],
    table_name: str,
    read: Callable[[str, str | None], AnnData],
    *,
    alone: bool = False,
) -> dict[str, AnnData]:
    """Read sections, take their patients from a table, and say what of the table and the sections does not fit.

    Parameters
    ----------
    names
        Names of the sections to read.
    known
        Names of all sections there.
    folders
        Folder of the sections, which may hold the table; or several, of which the first that holds it counts.
    table_name
        Path of the table, relative to that folder. The table overrides what the files say.
    read
        Reads a section by its name and patient; the patient is :data:`NOT_LISTED` if the table does not name one.
    alone
        Whether one section of a folder was given, so that the table may name others.

    Raises
    ------
    DataError
        If the table cannot be read, lacks a column, or names two patients of one section.
    """
    places = [folders] if isinstance(folders, Path) else list(folders)
    path = next((folder / table_name for folder in places if (folder / table_name).is_file()), places[0] / table_name)
    table = _table(path) if path.is_file() or table_name != PATIENTS else None
    names, known = list(names), sorted(known)
    if table is not None:
        _report_rows(table, known, path, alone)
    given = {} if table is None else table.patients
    sections = {name: read(name, given.get(name, NOT_LISTED)) for name in names}
    read_from = {patient for section, adata in sections.items() for patient in patients_in(adata, section)}
    _report_alike({*given.values(), *read_from})
    unknown = unknown_patients(sections)
    if unknown and (len(sections) > 1 or (table is not None and not alone)):
        _report_unknown(unknown, path)
    return sections


class _Table(NamedTuple):
    """Patients by section, and the sections that the table lists without one."""

    patients: dict[str, str]
    without: list[str]


def _table(path: Path) -> _Table | None:
    """Read a table of patients; None if it has no column of patients, as TRIPLEX's lists of samples."""
    rows = _rows(path)
    header = [cell.strip() for cell in rows[0][1]] if rows else []
    lowered = [name.lower() for name in header]
    for column in (_SECTION, _PATIENT):
        if lowered.count(column) > 1:
            raise DataError(f"{path} has {lowered.count(column)} columns {column}; leave one")
    if lowered == [_SECTION] and path.name == PATIENTS:
        return None
    for column in (_SECTION, _PATIENT):
        if column not in lowered:
            raise DataError(
                f"{path} has no column {column} (there: {', '.join(header)}){_meant(column, lowered)}; {_FORM}"
            )
    section_at, patient_at = lowered.index(_SECTION), lowered.index(_PATIENT)
    lines: dict[str, list[int]] = defaultdict(list)
    named: dict[str, dict[str, int]] = defaultdict(dict)
    for line, cells in rows[1:]:
        section, patient = (cells[at].strip() if at < len(cells) else "" for at in (section_at, patient_at))
        if not section and patient_name(patient) is None:
            continue
        if not section:
            raise DataError(f"{path}, line {line}: patient {patient!r} has no {_SECTION}; name the section")
        lines[section].append(line)
        name = patient_name(patient)
        if name is not None:
            named[section].setdefault(name, line)
    for section, patients in named.items():
        if len(patients) > 1:
            said = " and ".join(f"{patient!r} in line {line}" for patient, line in patients.items())
            raise DataError(f"{path} names several patients of section {section!r}: {said}; keep the right row")
    twice = [section for section, at in lines.items() if len(at) > 1]
    if twice:
        logger.warning("%s lists %s more than once; keep one row of each", path, listed(map(repr, twice)))
    return _Table(
        {section: next(iter(patients)) for section, patients in named.items()},
        [section for section in lines if section not in named],
    )


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Read the rows that are not empty, with the number of their line; cells stay text, so ``007`` stays what it is."""
    try:
        lines = _text(path).splitlines()
        if not any(map(str.strip, lines)):
            raise ValueError("it is empty")
        named = _EXCEL.fullmatch(lines[0].strip())
        skipped = 1 if named else 0
        separator = named[1] if named else max(",;\t", key=lines[0].count)
        reader = csv.reader(lines[skipped:], delimiter=separator, strict=True)
        return [(reader.line_num + skipped, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8; save it as UTF-8 CSV") from None
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({reason(error)}); {_FORM}") from None


def _text(path: Path) -> str:
    """Read UTF-8, or UTF-16 that says so in its first bytes, as Excel's "Unicode text" does."""
    raw = path.read_bytes()
    text = raw.decode("utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
    if "\0" in text:  # UTF-16 that does not say so
        raise UnicodeDecodeError("utf-8", raw, raw.index(0), raw.index(0) + 1, "zero byte")
    return text


def _meant(column: str, there: Sequence[str]) -> str:
    """Name the column that was meant, if one is near."""
    near = get_close_matches(column, there, n=1, cutoff=0.6)
    near += [name for name in there if column == _PATIENT and name in _OTHER_NAMES]
    return f"; if {near[0]!r} holds it, name it {column!r}" if near else ""


def _report_rows(table: _Table, known: Sequence[str], path: Path, alone: bool) -> None:
    """Say which rows match no section, and the names that may have been meant."""
    rows = [*table.patients, *table.without]
    lost = [name for name in rows if name not in known]
    missing = [name for name in known if name not in rows]
    if alone:  # the other rows are of other sections
        lost = [name for name in lost if any(_close(name, [section]) for section in missing)]
    if lost:
        said = [
            f"{name!r}" + (f" ({nearest(near[0], near)})" if (near := _close(name, missing)) else "") for name in lost
        ]
        logger.warning("%s: no section is named %s", path, listed(said))


def _close(name: str, sections: Sequence[str]) -> list[str]:
    """Sections whose names differ from a name by a typing mistake."""
    plain, meant = {section.lower(): section for section in sections}, name.lower()
    file = Path(meant).name
    stem = next((each for each in (file, file.partition(".")[0]) if each in plain), meant)
    return [plain[each] for each in get_close_matches(stem, plain, n=2, cutoff=0.7)]


def _report_alike(patients: Iterable[str]) -> None:
    """Warn of patients whose names differ in their writing alone: likely one patient, in training and test."""
    alike: dict[str, list[str]] = defaultdict(list)
    for patient in sorted(each for each in patients if patient_name(each) is not None):
        alike[_plain(patient)].append(patient)
    pairs = [" and ".join(map(repr, names)) for names in alike.values() if len(names) > 1]
    if pairs:
        logger.warning(
            "patients %s count as different patients, though their names differ in case, spaces, signs or first zeros "
            "alone; if they are one, write one name",
            listed(pairs),
        )


def _plain(name: str) -> str:
    """Leave out what typing and Excel change: case, spaces, wide and invisible signs, zeros before a number."""
    plain = "".join(each for each in unicodedata.normalize("NFKC", name) if unicodedata.category(each) != "Cf")
    plain = re.sub(r"[\W_]+", "-", "".join(plain.split()).casefold())
    return re.sub(r"(?<!\d)0+(?=\d)", "", plain)


def _report_unknown(names: Sequence[str], path: Path) -> None:
    """Warn that sections without a known patient count as patients of their own."""
    several = len(names) > 1
    what = f"the patients of {len(names)} sections are unknown" if several else "the patient of one section is unknown"
    logger.warning(
        "%s (%s): %s, so splits by patient may separate sections of one patient; name %s in %s (%s,%s)",
        what,
        listed(names),
        "each section counts as its own patient" if several else "it counts as a patient of its own",
        "the patients" if several else "it",
        path,
        _SECTION,
        _PATIENT,
    )
