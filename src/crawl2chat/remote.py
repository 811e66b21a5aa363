"""Input files at an address that fsspec opens: hf://datasets/..., s3://..., gs://..."""

import hashlib
from dataclasses import dataclass
from typing import BinaryIO

import fsspec

from crawl2chat.parsing import StageError


@dataclass(frozen=True)
class RemoteFile:
    """One file, opened in the process that reads it."""

    address: str
    size: int
    version: str  # changes with the content

    def __str__(self) -> str:
        return self.address

    @property
    def name(self) -> str:
        return self.address.rpartition("/")[2]

    def open(self) -> BinaryIO:
        files, path = fsspec.core.url_to_fs(self.address)
        return files.open(path, "rb")


@dataclass(frozen=True)
class RemoteFiles:
    """The files that an address names: one, those a glob matches, or those of a folder."""

    address: str
    files: tuple[RemoteFile, ...]

    def __str__(self) -> str:
        return self.address

    @property
    def fingerprint(self) -> str:
        listing = "\0".join(f"{file.address}\0{file.version}" for file in self.files)
        return hashlib.sha256(listing.encode()).hexdigest()[:16]


def list_remote(address: str, endings: tuple[str, ...]) -> RemoteFiles:
    """The files at `address`, sorted; in a folder and below it those whose names end in one of `endings`.

    The version of a file is its hash on the Hub, and elsewhere what the file system tells of it (date, size, tag).

    Raises:
        StageError: it cannot be listed.
    """
    try:
        files, path = fsspec.core.url_to_fs(address)
        if files.isdir(path):
            found = {name: info for name, info in files.find(path, detail=True).items() if name.endswith(endings)}
        else:
            found = files.glob(path, detail=True)
        listed = [
            RemoteFile(files.unstrip_protocol(name), info["size"], info.get("blob_id") or files.ukey(name))
            for name, info in sorted(found.items())
            if info["type"] == "file"
        ]
    except Exception as error:  # each file system raises errors of its own
        reason = (str(error).splitlines() or [""])[0]
        raise StageError(
            f"{address} cannot be listed ({type(error).__name__}: {reason}); check the address, the connection, and that "
            "you may read it."
        ) from error
    return RemoteFiles(address, tuple(listed))
