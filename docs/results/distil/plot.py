r"""Plot the scores of ``compare.py`` and the learning curves of runs, as SVG beside this file.

    python docs/results/distil/plot.py CORPUS/languages.tsv KNOWN --curves NAME=RUN/result.json ...

languages.svg  each language: the student's score over the teacher's, on topics and on translations
learning.svg   the cosine to the teacher on held-out texts over the texts read, a line a run; the curves that are given
               are kept in ``curves.json``, so that a run's folder is needed once
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmbert.files import read_json, write_json, write_text
from mmbert.io.delimited import read_tsv
from mmbert.reporting.charts import ROWS, Row, Spec, dress, load_library
from mmbert.reporting.markdown import svg
from mmbert.reporting.palette import phase_colour

PLACE = Path(__file__).parent
GOALS = {"topics": 0.90, "translations": 0.85}
"""Share of the teacher's score that is aimed at."""
OUTSIDE = "not known to the teacher"


def languages(scores: dict[str, dict[str, dict[str, float]]], tiers: dict[str, str], known: set[str]) -> Spec:
    """A panel a task: the student's score over the teacher's, a point a language, lines for all and for the goal."""
    alt = load_library("altair")
    rows: list[Row] = []
    for task in GOALS:
        for code, score in scores["student"][task].items():
            group = tiers.get(code, OUTSIDE) if code in known else OUTSIDE
            rows.append(
                {
                    "task": task,
                    "language": code,
                    "group": group,
                    "teacher": scores["teacher"][task][code],
                    "student": score,
                }
            )
    groups = [*dict.fromkeys(tiers.values()), OUTSIDE]
    colours = [*(phase_colour(number) for number in range(1, len(groups))), "#8a8f98"]
    points = (
        alt.Chart(alt.NamedData(ROWS))
        .mark_circle(size=42, opacity=0.8)
        .encode(
            x=alt.X("teacher:Q", title="teacher", scale=alt.Scale(domain=[0, 100])),
            y=alt.Y("student:Q", title="student", scale=alt.Scale(domain=[0, 100])),
            color=alt.Color("group:N", sort=groups, scale=alt.Scale(domain=groups, range=colours), title=None),
            tooltip=["language:N", alt.Tooltip("teacher:Q", format=".1f"), alt.Tooltip("student:Q", format=".1f")],
        )
    )
    panels = []
    for task, goal in GOALS.items():
        lines = alt.Chart(
            alt.Data(values=[{"x": x, "y": x * share, "share": str(share)} for share in (1.0, goal) for x in (0, 100)])
        )
        line = lines.mark_line(strokeDash=[4, 3], strokeWidth=1, color="#9aa0a8").encode(
            x="x:Q", y="y:Q", detail="share:N"
        )
        title = f"{task}; dashed: the teacher's score and {goal:.0%} of it"
        panels.append(
            alt.layer(line, points.transform_filter(f"datum.task === '{task}'")).properties(
                width=330, height=330, title=title
            )
        )
    return dress(alt.hconcat(*panels), rows)


def learning(curves: dict[str, list[list[float]]]) -> Spec:
    """The mean cosine to the teacher on held-out texts over the number of texts read, a line a run."""
    alt = load_library("altair")
    rows: list[Row] = [
        {"run": name, "texts": texts, "cosine": cosine} for name, points in curves.items() for texts, cosine in points
    ]
    names = list(curves)
    colour = alt.Scale(domain=names, range=[phase_colour(number) for number in range(1, len(names) + 1)])
    chart = (
        alt.Chart(alt.NamedData(ROWS))
        .mark_line(point=True, strokeWidth=1.8)
        .encode(
            x=alt.X("texts:Q", title="texts read, with repetition"),
            y=alt.Y("cosine:Q", title="cosine to the teacher, held-out texts", scale=alt.Scale(zero=False)),
            color=alt.Color("run:N", sort=names, scale=colour, title=None, legend=alt.Legend(orient="bottom-right")),
            tooltip=["run:N", "texts:Q", alt.Tooltip("cosine:Q", format=".3f")],
        )
        .properties(width=560, height=300)
    )
    return dress(chart, rows)


def curve(path: Path) -> list[list[float]]:
    """Return (texts read, cosine) at each evaluation of a run, from its ``result.json``."""
    history = read_json(path)["history"]
    texts = sum(read_json(path.parent / "texts.json")["languages"].values())
    return [[round(line["epoch"] * texts), line["eval_cosine"]] for line in history if "eval_cosine" in line]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", type=Path, help="table with the columns code and tier")
    parser.add_argument("known", type=Path, help="file with the languages of the teacher")
    parser.add_argument("--curves", nargs="*", default=[], metavar="NAME=RUN/result.json")
    options = parser.parse_args()
    tiers = {row["code"]: row["tier"] for _, row in read_tsv(options.groups)}
    scores = read_json(PLACE / "scores.json")
    write_text(PLACE / "languages.svg", svg(languages(scores, tiers, set(options.known.read_text().split()))))
    kept = PLACE / "curves.json"
    curves = read_json(kept) if kept.is_file() else {}
    for each in options.curves:
        name, _, path = each.partition("=")
        curves[name] = curve(Path(path))
    write_json(kept, curves)
    write_text(PLACE / "learning.svg", svg(learning(curves)))


if __name__ == "__main__":
    main()
