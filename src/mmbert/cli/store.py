"""``mmbert store``: write vectors to a vector store."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mmbert.cli.options import IdField, SkipBadRows, TextField

Vectors = Annotated[
    str,
    typer.Argument(
        help="Folder of a bulk run, here or at a URL (s3://BUCKET/RUN), or a .parquet, .npy or .jsonl file of mmbert "
        "embed."
    ),
]
TextFiles = Annotated[
    list[str] | None,
    typer.Option(help="File whose texts were embedded, to store them and their other fields too. May be repeated."),
]


def store(
    vectors: Vectors,
    to: Annotated[
        str,
        typer.Argument(
            help="Table: postgresql://USER@HOST/DATABASE/TABLE, qdrant+http://HOST:6333/COLLECTION, "
            "elasticsearch+https://HOST:9200/INDEX, opensearch+https://HOST:9200/INDEX, FOLDER/TABLE.lance or "
            "s3://BUCKET/TABLE.lance."
        ),
    ],
    texts: TextFiles = None,
    columns: Annotated[
        str | None, typer.Option(help="Columns of the run to store, separated by commas. Default: all.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="cosine, dot, euclidean or manhattan. Default: what the model compares by.")
    ] = None,
    text_field: TextField = "text",
    id_field: IdField = "id",
    batch_size: Annotated[int, typer.Option(min=1, help="Rows that are sent together.")] = 1024,
    skip_bad_rows: SkipBadRows = False,
) -> None:
    """Write vectors to PostgreSQL (pgvector), Qdrant, Elasticsearch, OpenSearch or LanceDB.

    The same command again leaves the same rows.
    """
    from mmbert.cli.input import read_records
    from mmbert.stores.push import store_vectors

    records = read_records(texts, text_field, id_field, skip_bad_rows) if texts else None
    chosen = None if columns is None else [name for name in columns.split(",") if name]
    done = store_vectors(vectors, to, texts=records, columns=chosen, metric=metric, batch_size=batch_size)
    sys.stderr.write(f"{done.sent:,} vectors stored: {done.rows:,} rows in {done.table}\n")
