"""Where a dataset is published, under which licence, and how its list of files is had.

Each dataset's own stands beside its reader. Addresses are the authors' own (their site, Zenodo, the hub, GitHub).
A list that the publisher keeps with sizes and checksums is asked for when it is needed, so nothing goes stale with
a re-upload. Knows nothing of downloading.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import quote

from storage.errors import InputError

GetPage = Callable[[str], bytes]
"""The body of an address."""


class FetchError(InputError):
    """A dataset that cannot be fetched: one line that says what, from where, and what to do."""


@dataclass(frozen=True)
class RemoteFile:
    """One file. `name`: its path below the dataset's folder. `checksum`: "md5:…" or "sha256:…", None: not published."""

    name: str
    url: str
    size: int | None = None
    checksum: str | None = None


@dataclass(frozen=True)
class FixedFiles:
    """Files at fixed addresses."""

    files: tuple[RemoteFile, ...]

    def listing(self, get_page: GetPage) -> list[RemoteFile]:
        return list(self.files)


@dataclass(frozen=True)
class ZenodoRecord:
    """All files of one record of zenodo.org, with the MD5 that Zenodo keeps of each."""

    url: str

    def listing(self, get_page: GetPage) -> list[RemoteFile]:
        return [
            RemoteFile(
                file["key"], f"{self.url}/files/{quote(file['key'])}/content", file["size"], file["checksum"]
            )
            for file in _json(get_page, self.url, "files")
        ]


@dataclass(frozen=True)
class HubFolders:
    """Folders of one dataset on the hub, with the SHA-256 of what it keeps as large files."""

    url: str
    dataset: str
    folders: tuple[str, ...]

    def listing(self, get_page: GetPage) -> list[RemoteFile]:
        found = []
        for folder in self.folders:
            entries = _json(get_page, f"{self.url}/api/datasets/{self.dataset}/tree/main/{folder}")
            for entry in (e for e in entries if e["type"] == "file"):
                address = f"{self.url}/datasets/{self.dataset}/resolve/main/{quote(entry['path'])}"
                large = entry.get("lfs")
                checksum = f"sha256:{large['oid']}" if large else None
                found.append(RemoteFile(entry["path"], address, entry["size"], checksum))
        return found


@dataclass(frozen=True)
class NamedInCsv:
    """Files whose names stand in one column of a CSV of the release; the CSV itself comes with them.

    templates: paths below `media`, with {} for the name.
    """

    csv_url: str
    column: str
    media: str
    templates: tuple[str, ...]

    def listing(self, get_page: GetPage) -> list[RemoteFile]:
        try:
            text = get_page(self.csv_url).decode("utf-8-sig")
            table = csv.DictReader(io.StringIO(text, newline=""))
            if self.column not in (table.fieldnames or ()):
                raise KeyError
            names = [row[self.column] for row in table]
        except (KeyError, UnicodeDecodeError, csv.Error):
            raise FetchError(
                f"{self.csv_url}: no table with a column {self.column}; its layout has changed, or a web page that "
                "asks you to sign in came in its place"
            ) from None
        found = [RemoteFile(PurePosixPath(self.csv_url).name, self.csv_url)]
        for template in self.templates:
            found += [RemoteFile(template.format(n), f"{self.media}/{template.format(n)}") for n in names]
        return found


Files = FixedFiles | ZenodoRecord | HubFolders | NamedInCsv


@dataclass(frozen=True)
class Source:
    """A dataset's publisher. `after`: what to do with the files. `files` None: `after` says where to ask."""

    title: str
    licence: str
    licence_url: str
    files: tuple[Files, ...] | None
    after: str

    def listing(self, get_page: GetPage) -> list[RemoteFile]:
        """Every file of the dataset. FetchError where a list is no list, or names a path outside the folder."""
        found = []
        for files in self.files or ():
            try:
                found += files.listing(get_page)
            except (KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
                raise FetchError(f"{self.title}: the list of files is not as expected ({error!r})") from None
        for file in found:
            path = PurePosixPath(file.name)
            if path.is_absolute() or ".." in path.parts or not path.name:
                raise FetchError(
                    f"{self.title}: the list names {file.name!r}, a path outside the dataset's folder"
                )
        return found


def _json(get_page: GetPage, url: str, key: str | None = None):
    text = get_page(url)
    try:
        body = json.loads(text)
    except ValueError:
        raise FetchError(f"{url}: answered with something that is no JSON") from None
    return body if key is None else body[key]
