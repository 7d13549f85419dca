"""What do the README's numbers rest on? `measure` writes them into results.json, `write` from there into the documents.

May import: the standard library, _harness, _plot (matplotlib, when a picture is drawn). Do not break: `write` changes
nothing but the text between markers such as <!--fast--> and <!--/fast-->, and docs/benchmark.png; every number there
comes from results.json, which tests/test_readme_numbers.py holds.

    python benchmarks/readme.py measure --wheel dist/*.whl --name "AMD EPYC (Zen 3)"  # 10 minutes, 16 GB, quiet
    python benchmarks/readme.py write

results.json is a list of measurements, the README's first. Each names the machine, the versions, and the commands with
the lines that they wrote with `--json`: medians of the rounds, quartiles, ratios. `measure` puts its own in front, in
place of an older one of the same name. `--name` is for where the processor does not say enough about itself.
"""

import argparse
import datetime
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
import textwrap
import time

from _harness import OURS, processor

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent
RESULTS = HERE / "results.json"
PEERS = ("numpy", "torch", "fbgemm-gpu-cpu", "tensorflow-cpu", "jax", "keras")
COMMANDS = (
    ("forward.py", "--own-tables"),
    ("training_step.py", "--own-tables"),
    ("forward.py",),
    ("training_step.py",),
    ("overhead.py",),
    ("memory.py",),
)
SIZES = ("rows", "dim", "bags", "bag_size", "rounds", "threads", "ids", "small", "own_tables")
STEP = "forward + backward + "
MEMORIES = {True: "own tables", False: "one table"}


# ---- measure


def machine(name):
    """What ran the benchmarks: processors, caches, memory, system, compiler."""
    facts = {"name": name or processor(), "processor": processor(), "processors": os.cpu_count()}
    for line in _text("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("cpu family", "model"):
            facts[key.strip()] = int(value)
    for index in sorted(pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (_text(index / part).strip() for part in ("level", "type", "size"))
        facts[f"L{level} {kind.lower()}"] = size
    if hasattr(os, "sysconf"):
        facts["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB"
    facts |= {"kernel": f"{platform.system()} {platform.release().split('-')[0]}", "python": platform.python_version()}
    compiler = [os.environ.get("CC", "cc"), "--version"]
    facts["compiler"] = subprocess.run(compiler, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[0]
    return facts


def _text(path):
    path = pathlib.Path(path)
    return path.read_text() if path.exists() else ""


def versions():
    """The versions of this library and of the peers that are installed."""
    import fastembed

    found = {OURS: fastembed.__version__}
    for name in PEERS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            print(f"{name}: not installed")
    return found


def measured(command, more):
    """One benchmark in a Python of its own: its lines and settings, and its complaints that others were busy."""
    script, *options = [*command, *more]
    print(f"\n==== {' '.join([script, *options])}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "results.json"
        start, complaints = time.perf_counter(), []
        whole = [sys.executable, "-u", str(HERE / script), *options, "--json", str(file)]
        with subprocess.Popen(whole, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                print(line, end="", flush=True)
                complaints += [line.strip()] if line.startswith("NOT QUIET") else []
        if process.returncode:
            raise SystemExit(f"{' '.join(whole)} ended with exit code {process.returncode}")
        content = json.loads(file.read_text())
    seconds = round(time.perf_counter() - start)
    about = {"command": " ".join(command), "seconds": seconds, "not_quiet": complaints}
    about["settings"] = {key: value for key, value in content["settings"].items() if key in SIZES}
    return about | {"results": [rounded(line) for line in content["results"]]}


def rounded(value):
    """Floats with five digits, which is more than any clock here knows."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def measure(args, more):
    """Runs all commands and puts the measurement in front of those in the file."""
    new = {"machine": machine(args.name), "date": str(datetime.date.today()), "versions": versions()}
    wheel = ["--wheel", args.wheel]
    new["runs"] = [measured(command, more + wheel * (command == ("overhead.py",))) for command in COMMANDS]
    old = json.loads(args.results.read_text()) if args.results.exists() else []
    kept = [one for one in old if one["machine"]["name"] != new["machine"]["name"]]
    save(args.results, [new, *kept])
    print(f"\nwritten: {args.results}")


def save(path, measurements):
    """Writes the file: a line for each line of a race, so that what changes in one is seen in one."""
    lines = re.sub(r"\n {6,}", " ", json.dumps(measurements, indent=1))
    path.write_text(re.sub(r"\n {5}([\]}])", r" \1", lines) + "\n")


# ---- write


class Found:
    """The lines of a measurement."""

    def __init__(self, measurement):
        self.about = measurement["machine"]
        self.versions = measurement["versions"]
        self.date = measurement["date"]
        self.runs = measurement["runs"]
        loud = sum(len(run["not_quiet"]) for run in self.runs)
        self.note = measurement.get("note") or f"{loud} races were `NOT QUIET`"

    def lines(self, own=True):
        """All lines of races with, or without, a table for each peer."""
        return [
            line
            for run in self.runs
            if run["command"].startswith(("forward", "training")) and run["settings"]["own_tables"] == own
            for line in run["results"]
        ]

    def settings(self):
        """The sizes of the races."""
        return self.runs[0]["settings"]

    def value(self, work, contestant, ids, key="ms", own=True):
        """One number; None where there is none."""
        for line in self.lines(own):
            if (line["work"], line["contestant"], line["ids"]) == (work, contestant, ids):
                return line[key]
        return None

    def other(self, script):
        """The lines of another script."""
        return [line for run in self.runs if run["command"] == script for line in run["results"]]

    def where(self):
        """The machine in words."""
        return f"{self.about['name']}, {self.about['processors']} processors"


def digits(value):
    """A number as the tables have it; empty for None."""
    return "" if value is None else f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def pair(values):
    """Uniform / Zipf; empty where there is neither."""
    return "" if all(value is None for value in values) else " / ".join(digits(value) for value in values)


def fast(found):
    """The README's first bullet."""
    sizes = found.settings()

    def ms(work, contestant=OURS):
        return digits(found.value(work, contestant, "zipf"))

    sgd, adam, rowwise = (STEP + name for name in ("SGD", "Adam", "RowwiseAdagrad"))
    return (
        f"A training step on a {sizes['rows']:,} x {sizes['dim']} table ({sizes['bags']} bags of "
        f"{sizes['bag_size']} Zipf ids, {sizes['threads']} threads) takes {ms(adam)} ms with Adam, torch's sparse one "
        f"{ms(adam, 'torch')}; {ms(sgd)} ms with SGD, torch's {ms(sgd, 'torch')}, FBGEMM's {ms(sgd, 'fbgemm')}; "
        f"{ms(rowwise)} ms with row-wise Adagrad, FBGEMM's {ms(rowwise, 'fbgemm')}. A pooled look-up takes "
        f"{ms('pooled forward')} ms, torch's {ms('pooled forward', 'torch')} (`python benchmarks/readme.py measure`)."
    )


def small(found):
    """The README's bullet of what the library adds."""
    imports = {line["contestant"]: line for line in found.other("overhead.py") if line["work"] == "import"}
    ours = imports["import fastembed"]["more"]
    theirs = f", which takes {-imports['python']['more']:.0f}" if "python" in imports else ""
    wheel = next(line["mb"] for line in found.other("overhead.py") if line["work"] == "wheel")
    bags = [line for line in found.other("memory.py") if line["contestant"].startswith("EmbeddingBag")]
    beyond = max(line["peak"] - line["table"] - line["state"] for line in bags) / 1e6
    return (
        f"The wheel has {wheel:.1f} MB and `import fastembed` takes {ours:.0f} ms more than `import numpy`{theirs} "
        f"(`benchmarks/overhead.py`); a training step needs the table, the optimizer's state and {beyond:.0f} MB "
        f"(`benchmarks/memory.py`), never a second table."
    )


def races(found):
    """The README's table, and where it was measured."""
    sizes = found.settings()
    names = {"pooled forward": "pooled look-up (sum)", "look-up": "look-up"}
    names |= {STEP + name: f"step with {name.replace('Rowwise', 'row-wise ')}" for name in optimizers(found)}
    peers = {"fastembed": OURS, "torch": "torch", "FBGEMM": "fbgemm", "NumPy": "numpy take"}
    rows = []
    for work, label in names.items():
        kinds = [(work, "uniform"), (work, "zipf")]
        cells = {}
        for peer, contestant in peers.items():
            contestant += ", sum" if (work, peer) == ("pooled forward", "NumPy") else ""
            cells[peer] = [found.value(work, contestant, kind) for work, kind in kinds]
        least = [min(ms for ms in column if ms is not None) for column in zip(*cells.values(), strict=True)]
        rows.append([label, *(f"**{pair(ms)}**" if ms == least else pair(ms) for ms in cells.values())])
    where = (
        f"{found.where()}, {found.date}; table {sizes['rows']:,} x {sizes['dim']}, {sizes['bags']} bags of "
        f"{sizes['bag_size']} ids, each library with the memory its users get:"
    )
    return f"{textwrap.fill(where, 120)}\n\n{table(['ms, uniform / Zipf ids', *peers], rows)}"


def optimizers(found):
    """The optimizers of the training steps, in the order of the file."""
    works = dict.fromkeys(line["work"] for line in found.lines())
    return [work.removeprefix(STEP) for work in works if work.startswith(STEP)]


def machines(all_found):
    """Where and when, and the versions: a line for each measurement."""
    rows = []
    for found in all_found:
        about = {key: value for key, value in found.about.items() if key not in ("name", "processor", "processors")}
        facts = ", ".join(f"{key} {value}" for key, value in about.items())
        peers = ", ".join(f"{name} {version}" for name, version in found.versions.items())
        rows.append([found.where(), found.date, facts, peers, found.note])
    return table(["Machine", "date", "about it", "versions", "notes"], rows)


def details(found):
    """All contestants of the first measurement, a row for each race."""
    columns = {"fastembed": OURS, "limit": "random-row read", "torch": "torch", "FBGEMM": "fbgemm"}
    more = {"TensorFlow": "tensorflow", "JAX": "jax", "NumPy": "numpy take"}
    rows = []
    for work in dict.fromkeys(line["work"] for line in found.lines()):
        names = columns | more
        if work.startswith(STEP):
            names["limit"] = "read and rewrite rows"
        if work == "pooled forward":
            names["NumPy"] = "numpy take, sum"
        cells = [pair([found.value(work, name, kind) for kind in ("uniform", "zipf")]) for name in names.values()]
        rows.append([work, *cells])
        if work == "look-up":
            names = [f"{OURS} out=", *[""] * 5, "numpy take out="]
            cells = [pair([found.value(work, name, kind) for kind in ("uniform", "zipf")]) for name in names]
            rows.append(["look-up, `out=`", *cells])
    heading = f"ms on {found.about['name']}, uniform / Zipf ids"
    return table([heading, *columns, *more], rows)


def ratios(all_found):
    """Every ratio that has a target, on all machines; bold where it is missed."""
    columns = [(found, own) for found in all_found for own in MEMORIES if found.lines(own)]
    goals = {}
    for found, own in columns:
        for line in found.lines(own):
            if line["target"]:
                goals[line["work"], line["contestant"]] = line["target"]
    rows = []
    for (work, contestant), target in goals.items():
        key = "share_of_limit" if contestant == OURS else "ratio"
        row = [f"{work.removeprefix(STEP)}, {'share of the limit' if contestant == OURS else contestant}"]
        for found, own in columns:
            values = [found.value(work, contestant, kind, key, own) for kind in ("uniform", "zipf")]
            text = [digits(v) if v is None or v >= target else f"**{digits(v)}**" for v in values]
            row.append(" / ".join(text) if any(text) else "")
        rows.append([*row, f"{target:g}"])
    titles = [f"{found.about['name']}, {MEMORIES[own]}" for found, own in columns]
    return table(["Ratio to the peer", *titles, "target"], rows)


def table(titles, rows):
    """A table of Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(re.sub(r" +\|", " |", f"| {' | '.join(line)} |") for line in lines)


def documents(measurements):
    """Each document, and what stands there between which markers."""
    all_found = [Found(one) for one in measurements]
    first = all_found[0]
    readme = {"fast": bullet("Fast.", "fast", fast(first)), "small": bullet("Small.", "small", small(first))}
    readme["races"] = f"\n\n{races(first)}\n\n"
    own = {"machines": machines(all_found), "details": details(first), "ratios": ratios(all_found)}
    return {ROOT / "README.md": readme, HERE / "README.md": {name: f"\n\n{text}\n\n" for name, text in own.items()}}


def bullet(start, name, text):
    """The text wrapped as the rest of a list's entry, after its first words and a marker.

    The marker can not come first: a line that begins with a comment is not Markdown."""
    begin = f"- **{start}** <!--{name}-->"
    options = {"initial_indent": begin, "subsequent_indent": "  ", "break_long_words": False, "break_on_hyphens": False}
    return textwrap.fill(text, 120, **options).removeprefix(begin)


def replaced(text, name, new):
    """The text with `new` between the markers of that name."""
    pattern = re.compile(f"(<!--{name}-->).*?(<!--/{name}-->)", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise ValueError(f"there must be one pair of markers <!--{name}--> and <!--/{name}-->")
    return pattern.sub(lambda found: found[1] + new + found[2], text)


def texts(measurements):
    """Each document as `write` leaves it."""
    written = {}
    for path, parts in documents(measurements).items():
        written[path] = path.read_text(encoding="utf-8")
        for name, new in parts.items():
            written[path] = replaced(written[path], name, new)
    return written


def digest(measurement):
    """What the picture says about the data that it was drawn from."""
    return hashlib.sha256(json.dumps(measurement).encode()).hexdigest()


def write(args, _more):
    """Writes the documents and draws the picture."""
    import _plot

    measurements = json.loads(args.results.read_text())
    for path, text in texts(measurements).items():
        path.write_text(text, encoding="utf-8")
        print(f"written: {path}")
    first = Found(measurements[0])
    where = f"{first.where()}, {first.date}"
    _plot.draw(first.lines(), first.settings(), where, ROOT / "docs" / "benchmark.png", digest(measurements[0]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("do", choices=("measure", "write"))
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS, help="default benchmarks/results.json")
    parser.add_argument("--name", help="the machine's name; default: the processor's")
    parser.add_argument("--wheel", help="the wheel whose size is measured")
    args, more = parser.parse_known_args()  # the rest (`--small`, `--rounds 3`) goes to the benchmarks
    if args.do == "write" and more:
        parser.error(f"write takes no {' '.join(more)}")
    if args.do == "measure" and not (args.wheel and importlib.util.find_spec("psutil")):
        parser.error("measure needs --wheel FILE, and psutil to see whether the machine is quiet")
    {"measure": measure, "write": write}[args.do](args, more)


if __name__ == "__main__":
    main()
