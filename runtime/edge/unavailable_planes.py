"""Answers for methods that nobody answers: UNIMPLEMENTED, with what is missing and what there is."""

from __future__ import annotations

from collections.abc import Collection

from runtime.errors import Unimplemented

# Services that a plane answers only with a setting.
_SETTINGS = {"runtime.v1.Authority": "authority"}


def absent_method(path: str, plane: str, asked_for: Collection[str], present: Collection[str]) -> Unimplemented:
    """Return the error of a known method that this server does not answer.

    Parameters
    ----------
    path : str
        ``/SERVICE/METHOD``.
    plane : str
        The plane that the method belongs to.
    asked_for : collection of str
        Planes that the settings ask for.
    present : collection of str
        Planes that this server runs.
    """
    there = f"planes available here: {', '.join(sorted(present)) or 'none'}"
    name = path.removeprefix("/")
    if plane not in asked_for:
        return Unimplemented(
            f"{name}: the {plane} plane is not served here; add it to the services of this server; {there}"
        )
    if plane not in present:
        return Unimplemented(f"{name}: the {plane} plane is not part of this release; {there}")
    setting = _SETTINGS.get(name.partition("/")[0])
    if setting is not None:
        return Unimplemented(f"{name}: this server has not the setting {setting}, which the service needs")
    return Unimplemented(f"{name}: the {plane} plane does not answer this method in this release; {there}")
