"""Compares the contract with an earlier one: `python protos/breaking.py [REVISION]`, by default the commit before.

buf compares descriptor sets, so the earlier contract is taken out of git and described as the present one is.
"""

import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from hatch_build import PROTOS, write_descriptors

ROOT = PROTOS.parent


def main(revision: str) -> int:
    """buf's exit code: 0 when every client of `revision` still works; 0 as well when that had no contract."""
    archive = subprocess.run(["git", "archive", revision, "protos"], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode != 0:
        print(f"no contract at {revision}, nothing to compare with: {archive.stderr.decode().strip()}")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
            files.extractall(folder, filter="data")
        before, now = Path(folder, "before.binpb"), Path(folder, "now.binpb")
        write_descriptors(before, Path(folder, "protos"))
        write_descriptors(now)
        compared = subprocess.run(
            ["buf", "breaking", str(now), "--against", str(before), "--config", str(ROOT / "buf.yaml")], check=False
        )
    print(f"contract compared with {revision}: {'compatible' if compared.returncode == 0 else 'broken'}")
    return compared.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "HEAD~1"))
