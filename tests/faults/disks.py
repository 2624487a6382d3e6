"""Disks that are small, hang, or turn read-only; each is a mount of the test's own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

from contract.serving import until
from requirements import require

__all__ = ("Disk", "ext4_disk", "remount", "small_disk")


#: The request and its argument (Linux, fs/ext4/ext4.h).
_SHUTDOWN, _NO_LOG_FLUSH = 0x8004587D, struct.pack("I", 2)


def _run(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode == 0


class Disk:
    """An ext4 file system in a file."""

    def __init__(self, image: Path, folder: Path) -> None:
        self._image = image
        self.folder = folder

    def mount(self) -> bool:
        """Mount it; as on many servers, it turns read-only when something is wrong with it."""
        return _run("mount", "-o", "loop,errors=remount-ro", str(self._image), str(self.folder))

    def freeze(self) -> None:
        """Let every write to it hang."""
        assert _run("fsfreeze", "--freeze", str(self.folder))

    def thaw(self) -> None:
        """Let the writes go on."""
        _run("fsfreeze", "--unfreeze", str(self.folder))

    def break_(self) -> None:
        """Let the kernel find an error in it: it is read-only from now on, for files that are open, too."""
        found = subprocess.run(
            ["findmnt", "-no", "SOURCE", str(self.folder)], capture_output=True, text=True, check=True
        )
        Path(f"/sys/fs/ext4/{Path(found.stdout.strip()).name}/trigger_fs_error").write_text("for a test")

    def cut_power(self) -> None:
        """Forget all that was not yet written to the disk, and take nothing more (`EXT4_IOC_SHUTDOWN`)."""
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, _SHUTDOWN, _NO_LOG_FLUSH)
        finally:
            os.close(folder)

    def repair(self) -> None:
        """Do what an operator does: check it, and mount it again; nobody may have files open there."""
        until(lambda: _run("umount", str(self.folder)), what="nobody has files open there")
        # A namespace that another test made at this time has this mount too; until it ends, the old one lives on.
        until(lambda: not self._devices(), 60, what="nobody else has it mounted")
        assert subprocess.run(["e2fsck", "-fy", str(self._image)], capture_output=True, check=False).returncode in (
            0,
            1,
        )
        assert self.mount()

    def _devices(self) -> bytes:
        """Return the loop devices of the image; `mount` takes one of these again, with its file system."""
        return subprocess.run(["losetup", "-j", str(self._image)], capture_output=True, check=True).stdout

    def unmount(self) -> None:
        """Take it away, whoever still has files open there."""
        self.thaw()
        _run("umount", "--lazy", str(self.folder))


@contextlib.contextmanager
def ext4_disk(folder: Path) -> Iterator[Disk]:
    """Make a disk of 64 MiB; skip the test where that is not permitted."""
    require(shutil.which("mkfs.ext4") and shutil.which("fsfreeze"), "apt-get install e2fsprogs util-linux")
    image, mounted = folder / "disk.image", folder / "disk"
    mounted.mkdir(parents=True)
    with image.open("wb") as file:
        file.truncate(64 * 1_048_576)
    assert _run("mkfs.ext4", "-q", str(image))
    disk = Disk(image, mounted)
    require(disk.mount(), "the right to mount a file system in a file (run as root)")
    try:
        yield disk
    finally:
        disk.unmount()


@contextlib.contextmanager
def small_disk(folder: Path, size: str = "3m") -> Iterator[Path]:
    """Make a disk in memory, which `enlarge` makes larger; skip the test where that is not permitted."""
    folder.mkdir(parents=True)
    require(
        _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)), "the right to mount (run as root)"
    )
    try:
        yield folder
    finally:
        _run("umount", "--lazy", str(folder))


def remount(folder: Path, options: str) -> None:
    """Change a disk in memory: its size, or whether it can be written."""
    assert _run("mount", "-o", f"remount,{options}", str(folder))
