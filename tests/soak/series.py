"""What a soak has recorded, second by second: its file, its slopes, its picture. See scripts/soak.sh."""

import csv
import dataclasses

# The part of the time that is judged: before it, caches fill and the server is replaced.
JUDGED_FROM = 1 / 3

# Fewer points say nothing of a slope.
POINTS_MIN = 5

# A slope has to be so many of its standard errors above the bound to count as one.
CERTAINTY = 3


@dataclasses.dataclass(frozen=True)
class Bound:
    """How much a series may grow over the time that is judged, and why so much."""

    column: str
    unit: str
    growth_max: float
    reason: str


BOUNDS = (
    Bound(
        "resident_kib", "KiB", 4096,
        "half of what tests/suite/hostile.rs lets an attack take once; of 50,000 connections it is 84 B each, "
        "and an entry of the engine's table alone takes 96 B",
    ),
    Bound("descriptors", "descriptors", 1, "at rest all connections are over, so a second one is forgotten"),
    Bound("threads", "threads", 1, "workers' threads are all there from the start"),
)


@dataclasses.dataclass(frozen=True)
class Fit:
    """A straight line through points: value = at_zero + slope * second, and the slope's standard error."""

    at_zero: float
    slope: float
    error: float


def fit(points):
    """Least squares."""
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    at_zero = mean_y - slope * mean_x
    squares = sum((y - at_zero - slope * x) ** 2 for x, y in points)
    return Fit(at_zero, slope, (squares / (count - 2) / spread) ** 0.5)


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write(path, rows):
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def judged(rows):
    """The rows that are judged: the last two thirds, at rest if the file tells, of the last process."""
    end = float(rows[-1]["second"])
    late = [row for row in rows if float(row["second"]) >= end * JUDGED_FROM and row["pid"] == rows[-1]["pid"]]
    rests = [row for row in late if row["phase"] == "rest"]
    return rests or late


def check(rows):
    """A line for each series, and whether none has grown too much."""
    lines, is_flat = [], True
    chosen = judged(rows) if rows else []
    if len(chosen) < POINTS_MIN:
        return [f"FAILED: {len(chosen)} points are too few for a slope; {POINTS_MIN} are needed"], False
    length = float(chosen[-1]["second"]) - float(chosen[0]["second"])
    for bound in BOUNDS:
        line = fit([(float(row["second"]), float(row[bound.column])) for row in chosen])
        growth, error = line.slope * length, line.error * length
        has_grown = growth - CERTAINTY * error > bound.growth_max
        is_flat &= not has_grown
        lines.append(
            f"{'FAILED' if has_grown else 'ok'} {bound.column}: {growth:+.1f} {bound.unit} (± {error:.1f}) in "
            f"{length:.0f} s, {len(chosen)} points; at most {bound.growth_max:g} ({bound.reason})"
        )
    return lines, is_flat


# The picture.

WIDTH, PANEL_HEIGHT, GAP, LEFT, RIGHT, TOP = 1000, 150, 44, 90, 24, 64
INK, FAINT_INK, RULE, BLUE, RED = "#212529", "#6c757d", "#dee2e6", "#005caf", "#d55e00"

PANELS = (
    ("resident_kib", "resident memory, MiB", 1 / 1024),
    ("descriptors", "descriptors", 1),
    ("tcp_memory_kib", "the kernel's memory for TCP (of the whole machine), MiB", 1 / 1024),
    ("cpu_seconds", "CPU seconds of the server, in all", 1),
)


def draw(path, rows, title):
    """A panel for each series, with the line through what is judged."""
    height = TOP + len(PANELS) * (PANEL_HEIGHT + GAP)
    end = max(float(rows[-1]["second"]), 1)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" '
        f'font-size="13" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="28" font-size="17">{escape(title)}</text>',
    ]
    chosen = judged(rows)
    for at, (column, name, scale) in enumerate(PANELS):
        top = TOP + at * (PANEL_HEIGHT + GAP)
        there = [row for row in rows if row.get(column) not in ("", None)]
        points = [(float(row["second"]), float(row[column]) * scale) for row in there]
        if not points:
            continue
        most = max(value for _, value in points) or 1

        def place(second, value, top=top, most=most):
            x = LEFT + (WIDTH - LEFT - RIGHT) * second / end
            return f"{x:.1f},{top + PANEL_HEIGHT * (1 - value / most):.1f}"

        out += [
            f'<text x="{LEFT}" y="{top - 8}">{escape(name)}</text>',
            *(
                f'<path d="M{place(0, most * part)} L{place(end, most * part)}" stroke="{RULE}"/>'
                f'<text x="{LEFT - 8}" y="{top + PANEL_HEIGHT * (1 - part) + 4:.1f}" text-anchor="end" '
                f'fill="{FAINT_INK}">{number(most * part)}</text>'
                for part in (0, 0.5, 1)
            ),
            f'<polyline fill="none" stroke="{BLUE}" points="{" ".join(place(*point) for point in points)}"/>',
        ]
        if column in [bound.column for bound in BOUNDS] and len(chosen) >= POINTS_MIN:
            rests = [(float(row["second"]), float(row[column]) * scale) for row in chosen]
            line = fit(rests)
            ends = [place(second, line.at_zero + line.slope * second) for second in (rests[0][0], rests[-1][0])]
            out.append(f'<path d="M{ends[0]} L{ends[1]}" stroke="{RED}" stroke-width="2"/>')
            for point in rests:
                x, y = place(*point).split(",")
                out.append(f'<circle cx="{x}" cy="{y}" r="2.5" fill="{RED}"/>')
    out.append(
        f'<text x="{WIDTH - RIGHT}" y="{height - 16}" text-anchor="end" fill="{FAINT_INK}">'
        f"{end / 60:.1f} minutes; red: at rest, and the line through that</text></svg>"
    )
    with open(path, "w") as file:
        file.write("\n".join(out) + "\n")


def number(value):
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2f}"


def escape(text):
    return text.replace("&", "&amp;").replace("<", "&lt;")
