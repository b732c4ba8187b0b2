"""What shard sets hold, as one HTML page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader

from ecgray.errors import EcgrayError
from ecgray.shards.amplitudes import FAR
from ecgray.shards.archive import open_archive
from ecgray.shards.durations import in_hours
from ecgray.shards.inspect import summary
from ecgray.shards.manifest import write_atomically
from ecgray.shards.strips import BEAT_MARKS, COLOURS, choose_strips, draw_strip


def write_page(paths: Sequence[str | Path], file: str | Path) -> Path:
    """Write the page over the shard sets ``paths`` to ``file``: tables, and strips of signal with their annotations.

    Raises EcgrayError as ``open_archive`` does, and when the file cannot be written.
    """
    archive, file = open_archive(paths), Path(file).expanduser()
    strips = []
    for strip in choose_strips(archive):
        [(database, patient, record, start)] = archive.provenance([strip.record], [strip.start])
        labels = f", labelled {', '.join(archive.labels[strip.record])}" if archive.labels[strip.record] else ""
        where = f"{database}, patient {patient}, record {record}, from {start / archive.fs:.1f} s{labels}"
        strips.append({"title": strip.title, "where": where, "svg": draw_strip(archive, strip)})
    template = Environment(loader=PackageLoader("ecgray.shards", "."), autoescape=True).get_template(
        "inspect_page.html"
    )
    page = template.render(
        summary=summary(paths),
        far=FAR,
        manifests=archive.manifests,
        strips=strips,
        beat_marks=BEAT_MARKS,
        colours=COLOURS,
        in_hours=in_hours,
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, page.encode())
    except OSError as error:
        raise EcgrayError(f"The page must go to a file that can be written, got: {error}; choose another.") from error
    return file
