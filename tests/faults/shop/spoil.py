"""What may have become of the saved index while no server was looking. None of it may change what is found."""

import random
import shutil
from enum import Enum
from pathlib import Path


class Spoil(Enum):
    """How the saved index is when the next server starts."""

    KEPT = "as it was left"
    MISSING = "it is gone"
    CUT = "a file is cut"
    FLIPPED = "a bit is wrong"
    POINTER = "what names it is damaged"
    OLDER = "an older one was put back"
    UNFINISHED = "one is there that was never finished"


class Shelter:
    """The folder of saved indexes of one data folder, and an older copy of it."""

    def __init__(self, data_dir: Path, chance: random.Random) -> None:
        self._folder = data_dir / "index"
        self._older = data_dir.parent / "older-index"
        self._chance = chance

    def keep(self) -> None:
        """Keeps a copy, for later, now and then."""
        if self._folder.exists() and (not self._older.exists() or self._chance.random() < 0.3):
            shutil.rmtree(self._older, ignore_errors=True)
            shutil.copytree(self._folder, self._older)

    def spoil(self, how: Spoil) -> bool:
        """Does it, where there is something to do it to; whether a server must notice."""
        if how is Spoil.OLDER:
            if self._older.exists():
                shutil.rmtree(self._folder, ignore_errors=True)
                shutil.copytree(self._older, self._folder)
            return False
        if how is Spoil.MISSING:
            shutil.rmtree(self._folder, ignore_errors=True)
            return False
        pointer = next(iter(sorted(self._folder.glob("*/*/CURRENT"))), None)
        if how is Spoil.KEPT or pointer is None:
            return False
        if how is Spoil.UNFINISHED:
            self._unfinished(pointer.parent)
            return False
        self._damage(pointer, how)
        return True

    def _damage(self, pointer: Path, how: Spoil) -> None:
        name = pointer.read_bytes().partition(b" ")[0].decode(errors="replace")
        current = pointer.parent / name
        if not name or not current.is_dir():  # the pointer is damaged already: no server came to look at it
            return
        files = [path for path in sorted(current.iterdir()) if path.stat().st_size]
        path = pointer if how is Spoil.POINTER else self._chance.choice(files)
        content = bytearray(path.read_bytes())
        place = self._chance.randrange(len(content))
        if how is Spoil.CUT:
            del content[place:]
        else:
            content[place] ^= 1 << self._chance.randrange(8)
        path.write_bytes(content)

    def _unfinished(self, folder: Path) -> None:
        making = folder / "99999999999999999999-0123456789ab.making"
        making.mkdir(exist_ok=True)
        (making / "names.json").write_bytes(b"{")
        (folder / "CURRENT.making").write_bytes(b"half")
