"""Does another processor give the same bits? The programs of test_isa.py, here and there, compared.

    python tests/emulated.py --isa base -- qemu-x86_64 -cpu Nehalem /path/to/python

What follows -- starts a Python with NumPy and fastembed, in which `--isa` has to be what fastembed chooses by itself.
May import: the standard library, test_isa. Do not break: both sides get the same program, as text.
"""

import argparse
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import test_isa  # noqa: E402


def digests(command, program, dims, path, **environment):
    """What the program prints when `command` runs it; `path` is where fastembed is, if it is not installed."""
    path = os.pathsep.join(filter(None, [str(HERE), path]))
    run = [*command, "-c", textwrap.dedent(program), json.dumps(dims)]
    result = subprocess.run(
        run, env={**os.environ, "PYTHONPATH": path, **environment}, stdout=subprocess.PIPE, text=True, check=False
    )
    if result.returncode:
        sys.exit(f"{command} ended with {result.returncode}")
    return json.loads(result.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--isa", required=True, choices=["base", "avx2", "avx512"], help="what must be chosen there")
    parser.add_argument("--dims", type=int, nargs="+", default=[1, 3, 8, 17, 33, 64, 127])
    parser.add_argument("--path", help="the folder that holds fastembed for it, if it is not installed")
    parser.add_argument("--modes", action="store_true", help="the program of all optimizers in all modes, too")
    parser.add_argument("command", nargs="+", metavar="-- COMMAND", help="an emulator and a Python for it")
    args = parser.parse_args()
    for name in ["PROGRAM", "MODES"][: 1 + args.modes]:
        program = getattr(test_isa, name)
        there = digests(args.command, program, args.dims, args.path)
        here = digests([sys.executable], program, args.dims, os.environ.get("PYTHONPATH"))
        isas = here.pop("isa"), there.pop("isa")
        if isas[1] != args.isa:
            sys.exit(f"{args.command} chose {isas[1]!r}, not {args.isa!r}")
        other = [key for key in here if here[key] != there[key]]
        print(
            f"{name.lower()}: {isas[0]} here, {isas[1]} there: {len(here) - len(other)} equal, {len(other)} not",
            *other[:20],
        )
        if other or here.keys() != there.keys():
            sys.exit(1)


if __name__ == "__main__":
    main()
