"""The page that ranks records, made from their logs: README.md, between its marks."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.experiments.trials import read_lines
from benchmarks.records import cifar10_fid25, cifar10_fid37, cifar10_fid50, faces32_fast, faces32_rpgan, fashion28_fast
from benchmarks.records.attempt import group_of, pairs_by_seed
from benchmarks.records.track import LOGS, Record, Track
from benchmarks.records.verdict import Verdict

PAGE = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- made by python -m benchmarks.records -->\n", "<!-- end -->\n"

FILES = (faces32_fast, faces32_rpgan, fashion28_fast, cifar10_fid50, cifar10_fid37, cifar10_fid25)
RECORDS: dict[str, tuple[Track, Record]] = {Path(str(file.__file__)).stem: (file.TRACK, file.RECORD) for file in FILES}
"""All that are written down, by their file."""

HEADING = (
    "| track | place | record | seconds of training | the reference's | metric, mean of n; it has to be below | p | "
    "machine |\n|---|---|---|---|---|---|---|---|\n"
)


def ranking(logs: Path = LOGS) -> str:
    """The table: in each track, for each machine, the records whose claim holds by their seconds; then the others."""
    tracks = dict.fromkeys(track.name for track, _ in RECORDS.values())
    return HEADING + "".join(row for track in tracks for row in _rows(track, logs))


def _rows(track: str, logs: Path) -> Iterator[str]:
    tried: list[tuple[str, Verdict, str]] = []
    untried: list[str] = []
    for stem, (of, record) in RECORDS.items():
        if of.name == track:
            found = list(_verdicts(logs / f"{stem}.jsonl", of, record))
            tried += [(stem, verdict, machine) for verdict, machine in found]
            untried += [] if found else [stem]
    places: Counter[str] = Counter()
    for stem, verdict, machine in sorted(tried, key=lambda one: (not one[1].holds, one[2], one[1].seconds(1))):
        places[machine] += 1
        yield (
            f"| {track} | {places[machine] if verdict.holds else 'not shown'} | `{stem}.py` | "
            f"{verdict.seconds(1):.1f} | {verdict.seconds(0):.1f} | {verdict.mean(1):.4f}, n = {len(verdict.pairs)}; "
            f"{verdict.bound:.4f} | {verdict.p:.2g} | {machine} |\n"
        )
    for stem in untried:
        yield f"| {track} | not tried | `{stem}.py` | | | | | |\n"


def _verdicts(log: Path, track: Track, record: Record) -> Iterator[tuple[Verdict, str]]:
    """A verdict, and the machine, for each machine and commit that a log has two seeds of."""
    lines = read_lines(log)
    for group, where in {group_of(line): line["conditions"] for line in lines}.items():
        pairs = list(pairs_by_seed(lines, group, track, record).values())
        if len(pairs) > 1:
            machine = f"{where['gpu'] or where['cpu']}, {where['cores']} cores, torch {where['versions']['torch']}"
            yield Verdict.of(track, pairs), machine


def with_ranking(page: str, table: str) -> str:
    """A page with the table in place of what is between its marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin and end, "the page has lost its marks"
    return before + begin + table + end + after
