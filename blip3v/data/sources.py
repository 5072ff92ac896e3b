"""Which data sets a mixture is made of: a TOML file, whose paths are relative to it.

    [[source]]
    format = "tgif"              # one of FORMATS in blip3v.data.readers
    name = "tgif"                # the format's name if not given
    annotations = ["Train_action_question.csv", "Train_transition_question.csv"]  # or one path
    media = "gifs"               # folder of the videos; for our own records the folder of the file
    forms = ["open", "sentence", "multiple_choice"]  # blip3v.data.forms; the format's own if not given
    rephrased = "tgif_sentences.jsonl"  # what the form sentence reads
    weight = 1.0                 # copies of every record; 1.5 is one, and a second one of half of them
    limit = 1000                 # entries that are used at most, the first of the file

`video_map` (nextqa), `caption` and `longest` (mira) are for these formats alone. A JSON lines file in our
own format is a mixture of one source.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blip3v.data.forms import Form
from blip3v.data.readers import FORMATS
from blip3v.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KEYS = ("format", "name", "annotations", "media", "forms", "rephrased", "weight", "limit")


@dataclass(frozen=True)
class Source:
    """One data set of a mixture; see the module for the fields.

    Attributes:
        options: keys of this format alone, as its reader takes them.
    """

    name: str
    format: str
    annotations: list[Path]
    media: Path
    forms: tuple[Form, ...]
    rephrased: Path | None = None
    weight: float = 1.0
    limit: int | None = None
    options: dict[str, Any] = field(default_factory=dict)


def read_sources(path: Path) -> list[Source]:
    """What a mixture file lists; one source for a JSON lines file.

    Raises:
        UserError: no such file, no TOML, or a key or value that means nothing.
    """
    if path.is_dir():
        return _sources_in(path)
    if not path.is_file():
        raise UserError(f"no such file: {path}; give a mixture (.toml) or records (.jsonl)")
    if path.suffix != ".toml":
        return [_records_source(path)]
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}") from error
    listed = tables.pop("source", None)
    if tables or not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        strange = f", not {', '.join(tables)}" if tables else ""
        raise UserError(f"{path} must hold [[source]] tables{strange}; each names its format and files")
    sources = []
    for number, entry in enumerate(listed, start=1):
        try:
            sources.append(_source(entry, path.parent))
        except UserError as error:
            raise UserError(f"{path}, source {number}: {error}") from error
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise UserError(
            f"{path}: two sources have the same name ({', '.join(names)}); give each its own `name`"
        )
    return sources


def _records_source(path: Path) -> Source:
    return Source(path.stem, "records", [path], path.parent, FORMATS["records"].forms[:1])


def _sources_in(folder: Path) -> list[Source]:
    # A name that begins with a dot is a file that is being written, or what kill -9 left of one.
    mixtures, records = (sorted(folder.glob(f"[!.]*.{suffix}")) for suffix in ("toml", "jsonl"))
    if len(mixtures) == 1:
        return read_sources(mixtures[0])
    if mixtures or not records:
        found = f"{len(mixtures)} .toml files" if mixtures else "neither a .toml nor a .jsonl file"
        raise UserError(f"{folder} holds {found}; name the mixture or the records that are meant")
    return [_records_source(path) for path in records]


def _source(entry: dict[str, Any], folder: Path) -> Source:
    name = entry.get("format")
    if not isinstance(name, str) or name not in FORMATS:
        raise UserError(f"no format {name!r}: choose one of {', '.join(FORMATS)}")
    known = FORMATS[name]
    valid = (*KEYS, *known.options)
    if unknown := [key for key in entry if key not in valid]:
        raise UserError(f"no key {', '.join(unknown)} for format {name}: choose among {', '.join(valid)}")
    forms = entry.get("forms", known.forms[:1])
    if not forms or isinstance(forms, str) or any(form not in known.forms for form in forms):
        raise UserError(f"forms of format {name} are a list of {', '.join(known.forms)}, not {forms!r}")
    annotations = entry.get("annotations")
    paths = annotations if isinstance(annotations, list) else [annotations]
    texts: dict[str, list[Any]] = {"annotations": paths}
    texts |= {key: [entry[key]] for key in ("name", "media", "rephrased") if key in entry}
    for key, values in texts.items():
        if not values or not all(isinstance(value, str) and value for value in values):
            raise UserError(f"'{key}' of format {name} must be text, not {entry.get(key)!r}")
    if "media" not in entry and name != "records":
        raise UserError(f"format {name} needs 'media', the folder of its videos")
    rephrased = folder / entry["rephrased"] if "rephrased" in entry else None
    if ("sentence" in forms) != (rephrased is not None):
        raise UserError(
            "'rephrased' and the form sentence go together; make the file with blip3v data rephrase"
        )
    files = [folder / str(path) for path in paths]
    return Source(
        entry.get("name", name),
        name,
        files,
        folder / entry["media"] if "media" in entry else files[0].parent,
        tuple(dict.fromkeys(forms)),
        rephrased,
        _number(entry, "weight", 1.0, float),
        _number(entry, "limit", None, int),
        _options(entry, known.options, folder),
    )


def _number(entry: dict[str, Any], key: str, default: Any, kind: type) -> Any:
    value = entry.get(key, default)
    if value is default:
        return value
    if type(value) not in (int, kind) or not 0 < value < 1e12:
        raise UserError(f"'{key}' must be a {'whole ' if kind is int else ''}number above 0, not {value!r}")
    return kind(value)


def _options(entry: dict[str, Any], keys: tuple[str, ...], folder: Path) -> dict[str, Any]:
    options = {key: entry[key] for key in keys if key in entry}
    for key in options:
        if key == "longest":
            options[key] = _number(options, key, None, float)
        elif not isinstance(options[key], str) or not options[key]:
            raise UserError(f"'{key}' must be text, not {options[key]!r}")
        elif key == "video_map":
            options[key] = folder / options[key]
    return options
