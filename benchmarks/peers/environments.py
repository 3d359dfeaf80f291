"""The peers' virtual environments: `python benchmarks/peers/environments.py [peer …]` makes those that are missing.

Each peer has its own under benchmarks/.envs, with the versions that <peer>.txt names and a Python that its first line
names. A change of <peer>.txt makes the environment anew. The benchmarks call `python_of` themselves.

On Linux the registry's torch brings CUDA libraries of several GB; where pip is told of a folder or index with a CPU
build of the same version (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL), it takes that one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
ENVIRONMENTS = _HERE.parent / ".envs"
PEERS = sorted(path.stem for path in _HERE.glob("*.txt"))


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment, which is made if it does not exist.

    Raises:
      RuntimeError: there is no suitable Python on this machine, or the installation failed.
    """
    requirements = (_HERE / f"{peer}.txt").read_text(encoding="utf-8")
    place = ENVIRONMENTS / peer
    python, installed = place / "bin" / "python", place / "installed.txt"
    if installed.exists() and installed.read_text(encoding="utf-8") == requirements:
        return python
    base = _find_python(peer, requirements.splitlines()[0].removeprefix("# python:").split())
    print(f"making the environment of {peer} in {place} with {base}", file=sys.stderr, flush=True)
    shutil.rmtree(place, ignore_errors=True)
    words = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", f"{_HERE / peer}.txt"]
    for command in ([str(base), "-m", "venv", str(place)], [str(python), *words]):
        done = subprocess.run(command, stdout=sys.stderr, check=False)
        if done.returncode:
            raise RuntimeError(f"the environment of {peer} could not be made: {' '.join(command)} failed; see above")
    installed.write_text(requirements, encoding="utf-8")
    return python


def run_json(peer: str | None, script: str, *words: str) -> Any:
    """What a script of this folder prints as JSON on its last line, run in a peer's environment, or in this one."""
    python = sys.executable if peer is None else str(python_of(peer))
    printed = subprocess.run(
        [python, str(_HERE / script), *words], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    return json.loads(printed.splitlines()[-1])


def _find_python(peer: str, versions: list[str]) -> Path:
    """An interpreter of the first version that is on the PATH or among pyenv's."""
    for version in versions:
        found = shutil.which(f"python{version}")
        candidates = [Path(found)] if found else []
        candidates += sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
        for python in candidates:
            # pyenv's shims are on the PATH also for versions that are not switched on
            code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
            asked = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
            if asked.stdout.strip() == version:
                return python
    raise RuntimeError(
        f"{peer} needs Python {' or '.join(versions)} with venv, and none was found as python3.x on the PATH or in "
        f"~/.pyenv/versions; install one, for example with `pyenv install {versions[0]}`"
    )


if __name__ == "__main__":
    for name in sys.argv[1:] or PEERS:
        print(name, python_of(name))
