"""Search, merging and loading of the TOML files of profiles."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cl_bench.errors import SpecError, nearest
from cl_bench.spec.datasets import DATASETS
from cl_bench.spec.profile import Profile
from cl_bench.spec.wording import complaint

PROFILES = Path(__file__).parent / "profiles"


def load_profile(name: str, settings: Sequence[str] = (), data_root: Path | None = None) -> Profile:
    """Load the profile of that name or TOML file, with ``key.path=value`` settings applied.

    A file may name another profile as its ``base`` (a file relative to its own place), and then holds only differences.
    A ``root`` of images that is not absolute is looked for under ``data_root``, then beside the file that names it; one
    of a setting in the current directory. What is nowhere stays where it was looked for first.

    Raises:
        SpecError: If there is no such profile, the file is not TOML, a key is unknown, or a value is not valid; the
            message names the key and the nearest right one.
    """
    path = profile_file(name)
    raw = _read(path, data_root)
    for setting in settings:
        _apply(raw, setting)
    _place(raw, data_root, Path.cwd())
    try:
        return Profile.model_validate({"name": path.stem, **raw})
    except ValidationError as error:
        raise SpecError(f"profile {path.name}: {complaint(error, Profile)}") from None


def profile_file(name: str, beside: Path = Path()) -> Path:
    """Find the TOML file of a profile by its name or path.

    Raises:
        SpecError: If there is none; the message names the nearest.
    """
    path = beside / name if name.endswith(".toml") else PROFILES / f"{name}.toml"
    if not path.is_file():
        known = sorted(p.stem for p in PROFILES.glob("*.toml"))
        raise SpecError(
            f"no profile {name!r}{nearest(name, known)}; profiles: {', '.join(known)}, or a TOML file's path"
        )
    return path


def profile_files(path: Path) -> list[Path]:
    """Return a profile's file and those that it is based on, the nearest first.

    Raises:
        SpecError: If a profile does not exist, a file is not TOML, or a base leads back to itself.
    """
    found = [path]
    while (base := _parse(found[-1]).get("base")) is not None:
        following = profile_file(str(base), found[-1].parent)
        if following.resolve() in [p.resolve() for p in found]:
            raise SpecError(f"profile {found[-1]}: its base {base!r} leads back to itself")
        found.append(following)
    return found


def _read(path: Path, data_root: Path | None) -> dict[str, Any]:
    """Read a file merged over its bases; a table that names a data set replaces the base's table."""
    raw: dict[str, Any] = {}
    for file in reversed(profile_files(path)):
        said = _parse(file)
        _place(said, data_root, file.parent)
        raw = _merged(raw, said)
    raw.pop("base", None)
    return raw


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"profile {path}: not valid TOML: {error}") from None


def _place(table: dict[str, Any], data_root: Path | None, beside: Path) -> None:
    """Make each data set's ``root`` absolute."""
    for value in table.values():
        if isinstance(value, dict):
            _place(value, data_root, beside)
    root = table.get("root")
    if table.get("name") in DATASETS and isinstance(root, str) and root:
        told = Path(root).expanduser()
        places = [place / told for place in (data_root, beside) if place is not None]
        table["root"] = str(next((p for p in places if p.exists()), places[0]).absolute())


def _merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    if change.get("name") in DATASETS:
        return change
    out = dict(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        out[key] = _merged(base[key], value) if both else value
    return out


def _apply(raw: dict[str, Any], setting: str) -> None:
    path, equals, text = setting.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise SpecError(f"--set takes key.path=value, got {setting!r}")
    try:
        value = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        value = text
    table = raw
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise SpecError(f"--set {setting}: {key!r} is a value, not a table")
    table[keys[-1]] = value
