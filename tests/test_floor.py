"""The built extensions hold nothing that an old processor lacks, except where rows_select.c sends newer ones alone.

May import: pytest, fastembed. Do not break: it looks at the files that are imported, as they are installed
(stripped or not), and believes no name of a function: only the section that the code is in.
"""

import importlib
import os
import platform
import re
import shutil
import subprocess

import pytest

# Prefixes; what instructions past x86-64's floor begin with; names of those with no such mark. Not tzcnt: to an old
# processor it is bsf, which finds the same bit of a number that is not 0. Not xgetbv: what asks for sets needs it.
PREFIX = {"26", "2e", "36", "3e", "64", "65", "66", "67", "f0", "f2", "f3"} | {f"4{digit:x}" for digit in range(16)}
VEX, EVEX = {"c4", "c5"}, {"62"}
LATER_MAPS = {"0f38", "0f3a"}  # SSSE3, SSE4.1, SSE4.2, AES, SHA, movbe, adx
LATER = re.compile(
    r"addsubp[sd]|h(add|sub)p[sd]|lddqu|movddup|movs[hl]dup|fisttp|popcnt|lzcnt|cmpxchg16b|extrq|insertq|movntsd|movntss"
    r"|prefetchw|prefetchwt1|rd(rand|seed|pid|tscp)|(rd|wr)[fg]sbase|clflushopt|clwb|monitor|mwait|xsave|xrstor|lahf|sahf"
)


def disassembled(path):
    """(section, bytes as hexadecimal words, instruction) for all of the code in a file."""
    program = shutil.which("objdump")
    if program is None or platform.system() != "Linux" or platform.machine() != "x86_64":
        if os.environ.get("FASTEMBED_REQUIRE_PEERS") == "1":
            pytest.fail("objdump and Linux on x86-64 are wanted by FASTEMBED_REQUIRE_PEERS=1", pytrace=False)
        pytest.skip("needs objdump, and Linux on x86-64")
    run = [program, "--disassemble", "--wide", "--insn-width=16", path]
    text = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    section = None
    for line in text.splitlines():
        if line.startswith("Disassembly of section "):
            section = line.split()[-1].rstrip(":")
        elif line.count("\t") >= 1 and line.startswith(" "):
            _, code, *words = line.split("\t")
            yield section, code.split(), words[0].strip() if words else ""


def past_the_floor(code, words):
    """Which later set of instructions one belongs to; None: all x86-64 processors have it."""
    start = next((k for k, byte in enumerate(code) if byte not in PREFIX), len(code))
    opcode = code[start : start + 2]
    if not opcode:
        return None  # a prefix alone, in what fills up a gap
    if opcode[0] in EVEX:
        return "AVX-512"
    if opcode[0] in VEX:
        return "AVX"
    if "".join(opcode) in LATER_MAPS:
        return "SSSE3 or later"
    if "(bad)" in words:
        return "unknown"
    return "SSE3 or later" if LATER.search(words) else None


@pytest.fixture(scope="module", params=["_core", "_core64"])
def found(request):
    """How many instructions of each kind there are in each section, and examples of them."""
    path = importlib.import_module(f"fastembed.{request.param}").__file__
    counts, examples = {}, {}
    for section, code, words in disassembled(path):
        kind = past_the_floor(code, words)
        counts.setdefault(section, {}).setdefault(kind, 0)
        counts[section][kind] += 1
        examples.setdefault((section, kind), f"{' '.join(code)}  {words}")
    return counts, examples


def test_code_outside_of_their_sections_runs_on_every_processor(found):
    counts, examples = found
    assert counts[".text"][None] > 10000
    floor = [section for section in counts if section not in ("fe_avx2", "fe_avx512")]
    assert {(s, kind): examples[s, kind] for s in floor for kind in counts[s] if kind is not None} == {}


def test_each_section_holds_its_set_and_no_later_one(found):
    counts, examples = found
    assert counts["fe_avx2"]["AVX"] > 1000
    assert "AVX-512" not in counts["fe_avx2"], examples["fe_avx2", "AVX-512"]
    assert counts["fe_avx512"]["AVX-512"] > 1000
    for section in ("fe_avx2", "fe_avx512"):
        assert counts[section].keys() <= {None, "AVX", "AVX-512"}, examples


@pytest.mark.parametrize(
    ("code", "words", "expected"),
    [
        ("0f 58 c1", "addps  %xmm1,%xmm0", None),
        ("f3 0f bc c1", "tzcnt  %ecx,%eax", None),
        ("c5 f4 58 c1", "vaddps %ymm1,%ymm1,%ymm0", "AVX"),
        ("c4 e2 f8 f2 c1", "andn   %rcx,%rax,%rax", "AVX"),
        ("62 f1 74 48 58 c1", "vaddps %zmm1,%zmm1,%zmm0", "AVX-512"),
        ("66 0f 38 40 c1", "pmulld %xmm1,%xmm0", "SSSE3 or later"),
        ("f3 48 0f b8 c1", "popcnt %rcx,%rax", "SSE3 or later"),
        ("f2 0f 7c c1", "haddps %xmm1,%xmm0", "SSE3 or later"),
    ],
)
def test_what_is_past_the_floor(code, words, expected):
    assert past_the_floor(code.split(), words) == expected
