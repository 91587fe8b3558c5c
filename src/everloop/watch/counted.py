"""How many labelled rows have come: each once, whichever way its label came and however often. Remembers no ids."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from everloop.store.lake import OUTCOMES, RAW, Lake

KEY = "_key"


def labelled(lake: Lake, label: str, counted: int, seen: Mapping[str, int]) -> tuple[int, dict[str, int]]:
    """The count after the commits that are new, and up to which version of each table it goes.

    A correction is no new row, nor is the delivery of a label that an outcome has told before, or the other way round.
    ``counted`` and ``seen`` as this returned them; before the first call 0 and an empty mapping.
    """
    schema = lake.schema(RAW)
    raw, outcomes = lake.version(RAW), lake.version(OUTCOMES)
    told = seen.get(OUTCOMES, -1)
    now = dict(seen)
    if raw > seen.get(RAW, -1) and label in schema:
        new = lake.diff(RAW, seen.get(RAW, -1), raw).filter(pl.col(label).is_not_null())
        ids = new[KEY].unique() if KEY in new.columns else pl.Series(range(len(new)))
        counted += len(_unreported(lake, label, ids, told))
        now[RAW] = raw
    if outcomes > told:
        new = lake.diff(OUTCOMES, told, outcomes).filter(pl.col("name") == label)
        ids = _unreported(lake, label, new["id"].unique(), told)
        if len(ids) and label in schema and KEY in schema:
            where = pl.col(label).is_not_null() & pl.col(KEY).is_in(ids.implode())
            ids = ids.filter(~ids.is_in(lake.read(RAW, version=raw, columns=[KEY], where=where)[KEY].implode()))
        counted += len(ids)
        now[OUTCOMES] = outcomes
    return counted, now


def _unreported(lake: Lake, label: str, ids: pl.Series, told: int) -> pl.Series:
    """Those of which no outcome up to that version told the label."""
    if not len(ids) or told < 0 or ids.dtype != pl.String():
        return ids
    where = (pl.col("name") == label) & pl.col("id").is_in(ids.implode())
    return ids.filter(~ids.is_in(lake.read(OUTCOMES, version=told, columns=["id"], where=where)["id"].implode()))
