"""Structures from a data base that speaks OPTIMADE (AFLOW, Materials Project, NOMAD, OQMD, …), as a folder of files.

What is fetched is written as it comes, one CIF file an entry, with an account of what is done beside it, so a fetch
that was broken off goes on where it stopped; :func:`jaxclear.crystals.datasets.load` reads the folder.

Pymatgen's `OptimadeRester` gives the names and addresses of the providers and the fields that make a structure. Pages
are fetched and entries turned into structures here: the client gives nothing back when one page of many fails, logs
errors where a caller cannot catch them, and takes the list of an entry's species for that of its sites where both are
of one length.

Source: C. W. Andersen et al., OPTIMADE, an API for exchanging materials data, Sci. Data 8, 217 (2021); specification
1.2, https://specification.optimade.org.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urljoin, urlsplit

import numpy as np

from jaxclear.crystals.structures import from_pymatgen

if TYPE_CHECKING:
    import requests
    from pymatgen.core import Structure

__all__ = ["Fetched", "OptimadeError", "load_optimade", "providers"]

ELEMENTAL = "nelements=1"
"""The default filter: elemental solids."""
ACCOUNT = ".optimade.json"
"""The file in the folder that says what was fetched; hidden, so that it is not taken for a structure."""
_ATTEMPTS = 4
_LONGEST_PAUSE = 60.0
_TRANSIENT = (429, 500, 502, 503, 504)
_REFUSED = (400, 403, 422, 501)

Progress = Callable[[int, int | None], None]


class OptimadeError(ValueError):
    """A provider that is not known or does not answer, a filter that it refuses, or a folder with other contents."""


class Fetched(NamedTuple):
    """The account of a folder.

    Attributes:
        folder: Where the structures are.
        url: Base address of the provider.
        filter: What was asked for.
        written: How many structures the folder has.
        available: How many entries the provider says there are; None when it does not say.
        failures: Identifier and message of each entry that could not be turned into a structure.
        complete: Whether there are no more entries.
    """

    folder: Path
    url: str
    filter: str
    written: int
    available: int | None
    failures: tuple[tuple[str, str], ...]
    complete: bool


def providers() -> dict[str, str]:
    """Names and base addresses of the providers that pymatgen knows, NOMAD (`nmd` there) also by its name."""
    from pymatgen.ext.optimade import OptimadeRester

    known = dict(OptimadeRester.aliases)
    if "nmd" in known:
        known["nomad"] = known["nmd"]
    return {name: known[name].rstrip("/") for name in sorted(known)}


def load_optimade(
    provider_or_url: str,
    *,
    out: str | os.PathLike[str],
    filter: str = ELEMENTAL,
    max_structures: int | None = None,
    page_limit: int = 50,
    pause: float = 0.5,
    timeout: float = 30.0,
    progress: Progress | None = None,
) -> Fetched:
    """Structures of a provider that pass a filter, as CIF files in a folder; the account of them.

    Called again with the same folder, it goes on where the last call stopped, whether that was `max_structures` or an
    error. A server that is busy (status 429 or 5xx) or does not answer is asked three times more, after longer and
    longer pauses, or after the time that it names.

    Args:
        provider_or_url: Name of a provider (see :func:`providers`), or the base address of a server, the part before
            `/v1`.
        out: Folder for the structures, made if it is not there; empty, or of an earlier call.
        filter: In the OPTIMADE language; elemental solids by default.
        max_structures: How many structures the folder gets at most, those of earlier calls included; no limit when
            None.
        page_limit: Entries asked for at a time; servers have limits of their own.
        pause: Seconds between two requests.
        timeout: Seconds to wait for an answer.
        progress: Called with the number of structures in the folder and of entries there are.

    Returns:
        The account of the folder.

    Raises:
        OptimadeError: An unknown provider, a server that cannot be reached or does not speak OPTIMADE, a filter that
            it refuses, no structure that passes it, a folder with other contents, or options out of range.

    Example:
        load_optimade("aflow", out="elements", max_structures=2000)
        dataset = jaxclear.crystals.datasets.load("elements")
    """
    if page_limit < 1 or pause < 0 or timeout <= 0 or (max_structures is not None and max_structures < 1):
        raise OptimadeError(
            "expected max_structures and page_limit of at least 1, pause of at least 0 s and timeout above 0 s, got "
            f"{max_structures}, {page_limit}, {pause} and {timeout}"
        )
    base = _base_url(provider_or_url)
    account = _Account.of(Path(out), base, filter)
    if account.next is None and not account.complete:
        account.next = _first_page(base, filter, page_limit)
    import requests

    with requests.Session() as session:
        session.headers["User-Agent"] = _user_agent()
        asked = False
        while account.next is not None and (max_structures is None or account.written < max_structures):
            if asked:
                time.sleep(pause)
            page = _ask(session, account.next, filter, pause=pause, timeout=timeout)
            asked = True
            account.take(page, max_structures)
            if progress is not None:
                progress(account.written, account.available)
    if account.written == 0:
        reason = f": {account.failures[0][0]}: {account.failures[0][1]}" if account.failures else ""
        raise OptimadeError(
            f"expected structures that pass the filter {filter!r} at {base}, got none of {len(account.failures)} "
            f"entries{reason}"
        )
    return account.result()


class _Account:
    """What has been fetched into a folder, kept on disk after each page."""

    def __init__(self, folder: Path, url: str, filter: str) -> None:
        self.folder, self.url, self.filter = folder, url, filter
        self.next: str | None = None
        self.done_of_page = 0
        self.files = {path.name for path in folder.glob("*.cif")}
        self.available: int | None = None
        self.failures: list[tuple[str, str]] = []
        self.complete = False

    @classmethod
    def of(cls, folder: Path, url: str, filter: str) -> "_Account":
        """The account of a folder, a new one for an empty folder.

        Raises:
            OptimadeError: The folder is a file, or holds something else.
        """
        account = cls(folder, url, filter)
        file = folder / ACCOUNT
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                if any(folder.iterdir()):
                    raise OptimadeError(
                        f"expected an empty folder or one of an earlier fetch, got {str(folder)!r} with other files; "
                        "name another"
                    )
                return account
            kept = json.loads(file.read_text("utf-8"))
            if (kept["url"], kept["filter"]) == (url, filter):
                account.next, account.done_of_page = kept["next"], kept["done_of_page"]
                account.available, account.complete = kept["available"], kept["complete"]
                account.failures = [(str(name), str(message)) for name, message in kept["failures"]]
                return account
        except OSError as error:
            raise OptimadeError(f"expected a folder, got {str(folder)!r}: {error.strerror or error}") from error
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise OptimadeError(f"expected a whole account, got {str(file)!r}, which is damaged; remove it") from error
        raise OptimadeError(
            f"expected a folder for {filter!r} at {url}, got {str(folder)!r} with {kept['filter']!r} at "
            f"{kept['url']}; name another"
        )

    @property
    def written(self) -> int:
        """How many structures the folder has; one sent twice is one."""
        return len(self.files)

    def take(self, page: Mapping[str, Any], most: int | None) -> None:
        """Writes the entries of a page, as many as are wanted, and keeps the account."""
        entries = page["data"]
        meta = page.get("meta") or {}
        available = meta.get("data_returned")
        self.available = available if isinstance(available, int) else self.available
        for entry in entries[self.done_of_page :]:
            if most is not None and self.written >= most:
                break
            self.done_of_page += 1
            name = str(entry.get("id")) if isinstance(entry, Mapping) else "entry without an identifier"
            try:
                self.files.add(_write(_structure(entry["attributes"]), name, self.folder))
            except Exception as error:  # whatever a provider sends
                self.failures.append((name, " ".join(str(error).split()) or type(error).__name__))
        if self.done_of_page >= len(entries):
            following = _next_page(page, self.next or self.url) if entries else None
            if following is not None and following == self.next:
                raise OptimadeError(f"expected another page after {self.next}, got the same again; tell the provider")
            self.next, self.done_of_page, self.complete = following, 0, following is None
        self._keep()

    def result(self) -> Fetched:
        """The account as it is returned."""
        return Fetched(
            self.folder, self.url, self.filter, self.written, self.available, tuple(self.failures), self.complete
        )

    def _keep(self) -> None:
        kept = {name: value for name, value in vars(self).items() if name not in ("folder", "files")}
        part = self.folder / f"{ACCOUNT}.part"
        part.write_text(json.dumps(kept, indent=1), "utf-8")
        os.replace(part, self.folder / ACCOUNT)


def _user_agent() -> str:
    from jaxclear import __version__

    return f"jaxclear/{__version__}"


def _base_url(provider_or_url: str) -> str:
    known = providers()
    if provider_or_url.lower() in known:
        return known[provider_or_url.lower()]
    parts = urlsplit(provider_or_url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise OptimadeError(
            f"expected the base address of an OPTIMADE server (http://… or https://…) or a provider out of "
            f"{', '.join(known)}, got {provider_or_url!r}"
        )
    return re.sub(r"(/v1(\.\d+)*)?(/structures)?/*$", "", provider_or_url)


def _first_page(base: str, filter: str, page_limit: int) -> str:
    from pymatgen.ext.optimade import OptimadeRester

    fields = ",".join((*OptimadeRester.mandatory_response_fields, "dimension_types"))
    return f"{base}/v1/structures?filter={quote(filter)}&page_limit={page_limit}&response_fields={fields}"


def _next_page(page: Mapping[str, Any], current: str) -> str | None:
    """The address of the page after this one, or None for the last."""
    if (page.get("meta") or {}).get("more_data_available") is False:
        return None
    link = (page.get("links") or {}).get("next")
    link = link.get("href") if isinstance(link, Mapping) else link
    return urljoin(current, link) if link else None


def _ask(session: "requests.Session", url: str, filter: str, *, pause: float, timeout: float) -> Mapping[str, Any]:
    """One page, after as many attempts as it takes.

    Raises:
        OptimadeError: It cannot be had.
    """
    import requests

    server = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"
    reason = ""
    for attempt in range(_ATTEMPTS):
        wait = min(pause * 4**attempt, _LONGEST_PAUSE)
        try:
            answer = session.get(url, timeout=timeout)
        except requests.RequestException as error:
            cause = getattr(error.args[0], "reason", error) if error.args else error  # what urllib3 wraps
            reason = f"{type(error).__name__}: {' '.join(str(cause).split()).rpartition(': ')[2][:200]}"
        else:
            if answer.status_code not in _TRANSIENT:
                return _page(answer, server, filter)
            reason = f"status {answer.status_code}"
            asked_for = answer.headers.get("Retry-After", "")
            wait = min(float(asked_for), _LONGEST_PAUSE) if asked_for.isdecimal() else wait
        if attempt + 1 < _ATTEMPTS:
            time.sleep(wait)
    raise OptimadeError(
        f"expected an answer from {server}, got {reason}; check the address and the network, then do it again: what "
        "has been fetched is kept"
    )


def _page(answer: "requests.Response", server: str, filter: str) -> Mapping[str, Any]:
    """The contents of an answer that is a page of entries."""
    try:
        page = answer.json()
    except ValueError:
        page = None
    page = page if isinstance(page, Mapping) else {}
    if answer.status_code in _REFUSED:
        details = [e.get("detail") or e.get("title") for e in page.get("errors") or () if isinstance(e, Mapping)]
        words = (
            " ".join(" ".join(str(detail) for detail in details if detail).split())[:300]
            or f"status {answer.status_code}"
        )
        raise OptimadeError(f"expected a request that {server} accepts, got the filter {filter!r}; it says: {words}")
    if answer.status_code != 200 or not isinstance(page.get("data"), list):
        raise OptimadeError(
            f"expected OPTIMADE structures at {answer.url.partition('?')[0]}, got status {answer.status_code} and "
            f"{answer.headers.get('Content-Type', 'something else')}; give the base address, the part before /v1"
        )
    return page


def _structure(attributes: Mapping[str, Any]) -> "Structure":
    """The structure of an entry's attributes; anything may be raised for attributes that make none."""
    from pymatgen.core import Structure

    dimensions = attributes.get("dimension_types")
    if dimensions is not None and list(dimensions) != [1, 1, 1]:
        raise ValueError(f"expected three periods, got dimension_types {dimensions}")
    lattice = np.array(attributes["lattice_vectors"], float)
    if lattice.shape != (3, 3) or not np.isfinite(lattice).all():
        raise ValueError(f"expected three lattice vectors, got {attributes['lattice_vectors']}")
    positions = attributes["cartesian_site_positions"]
    names = attributes["species_at_sites"]
    shares = {name: {name: 1.0} for name in names}
    for species in attributes.get("species") or ():
        if species.get("attached"):
            raise ValueError(f"expected atoms, got species {species['name']!r} with others attached")
        pairs = zip(species["chemical_symbols"], species["concentration"], strict=True)
        shares[species["name"]] = {symbol: share for symbol, share in pairs if symbol != "vacancy" and share > 0}
    sites = [(shares[name], place) for name, place in zip(names, positions, strict=True) if shares[name]]
    return Structure(lattice, [share for share, _ in sites], [p for _, p in sites], coords_are_cartesian=True)


def _write(structure: "Structure", name: str, folder: Path) -> str:
    """Writes a structure that can be used to a file named for its identifier; the name of the file.

    Raises:
        StructureError: It cannot be used.
    """
    from pymatgen.io.cif import CifWriter

    from_pymatgen(structure, name=name)
    stem = re.sub(r"[^0-9A-Za-z_+-]+", "_", name)[:100]
    if stem != name or name != name.lower():  # two identifiers never share a file, whatever the file system
        stem = f"{stem}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    CifWriter(structure, significant_figures=12).write_file(folder / f"{stem}.cif")
    return f"{stem}.cif"
