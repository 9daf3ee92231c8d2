"""Untrusted zip archives (such as `.pt2`, `.pt` and `.npz`), checked before anything is unpacked."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import PureWindowsPath
from typing import BinaryIO

from cp_compress.artifacts.guards import MAX_BYTES, size_of
from cp_compress.base.error_reasons import reason_of, shortened
from cp_compress.base.errors import ArtifactError

ZIP_MAGIC = b"PK\x03\x04"
_MOST_MEMBERS = 100_000
_LARGEST_RATIO, _SMALL = 200, 100 << 20
_ENCRYPTED = 0x1


def open_archive(file: BinaryIO, path: str | os.PathLike[str], max_bytes: int) -> zipfile.ZipFile:
    """Return an open zip file as an archive whose members were looked through; nothing is unpacked yet.

    Raises ArtifactError for what is damaged, for members of more than `max_bytes` bytes together, for large ones
    compressed beyond what tensors usually are (a zip bomb; unless `max_bytes` is the user's own limit), and for names
    that leave the archive, stand twice in it, or are links.
    """
    try:
        file.seek(0)
        archive = zipfile.ZipFile(file)
        members = archive.infolist()
    except Exception as error:  # damaged tables make zipfile raise much besides BadZipFile
        raise ArtifactError(path, f"is not a complete zip archive: {reason_of(error)}") from error
    if not members or len(members) > _MOST_MEMBERS:
        raise ArtifactError(path, f"is an archive of {len(members):,} members; 1 to {_MOST_MEMBERS:,} are allowed")
    names: set[str] = set()
    for member in members:
        _check_member(member, path)
        if max_bytes == MAX_BYTES:  # a limit of the user's own says how much may be unpacked
            _check_ratio(member, path)
        if member.filename.lower() in names:
            raise ArtifactError(path, f"holds {shortened(member.filename, 120)} twice")
        names.add(member.filename.lower())
    unpacked = sum(member.file_size for member in members)
    if unpacked > max_bytes:
        raise ArtifactError(path, f"unpacks to {unpacked:,} bytes; at most {max_bytes:,} are allowed (max_bytes=)")
    if sum(member.compress_size for member in members) > size_of(file):
        raise ArtifactError(path, "is an archive whose members overlap")
    return archive


def read_member(archive: zipfile.ZipFile, name: str, path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a member; raises ArtifactError for a damaged one, and one that is not there."""
    try:
        return archive.read(name)
    except KeyError as error:
        raise ArtifactError(path, f"holds no {shortened(name, 120)}") from error
    except Exception as error:
        raise ArtifactError(path, f"{shortened(name, 120)} is damaged: {reason_of(error)}") from error


def _check_member(member: zipfile.ZipInfo, path: str | os.PathLike[str]) -> None:
    name = shortened(member.filename, 120)
    place = PureWindowsPath(member.filename)
    if place.drive or place.root or ".." in place.parts or "\\" in member.filename or "\0" in member.orig_filename:
        raise ArtifactError(path, f"holds {name}, which leaves the archive")
    mode = member.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ArtifactError(path, f"holds {name}, which is a link or a device")
    if member.flag_bits & _ENCRYPTED or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ArtifactError(path, f"holds {name}, which is encrypted or compressed in a way that is not supported")


def _check_ratio(member: zipfile.ZipInfo, path: str | os.PathLike[str]) -> None:
    if member.file_size > _SMALL and member.file_size > _LARGEST_RATIO * max(1, member.compress_size):
        packed = f"{member.compress_size:,} bytes that unpack to {member.file_size:,}"
        name = shortened(member.filename, 120)
        raise ArtifactError(path, f"holds {name}, {packed}: a zip bomb, unless its size is allowed by max_bytes=")
