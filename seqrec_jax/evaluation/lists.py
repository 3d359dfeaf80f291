"""Lists of another system, from tables of raw ids to arrays of item numbers; what does not fit is counted."""

from __future__ import annotations

import csv
import gzip
import zlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.files import as_text, check_columns, read_file
from seqrec_jax.data.rankers import SeenItems
from seqrec_jax.data.splits import EvaluationCases
from seqrec_jax.errors import DataError
from seqrec_jax.evaluation.judging import Judged
from seqrec_jax.scoring import catalogue_order
from seqrec_jax.settings import check_choice, check_value

ListFormat = Literal["table", "trec"]
Duplicates = Literal["error", "first"]

_RUN = ("user_id", "Q0", "item_id", "rank", "score", "tag")
_QRELS = ("user_id", "iteration", "item_id", "relevance")
_TREC_ENDINGS = (".run", ".trec", ".qrels")


class MatchedLists(NamedTuple):
    """Another system's lists, one row an evaluated user.

    Attributes:
      lists: `[U, K]` int32 item numbers, best first; 0 is an empty place or a `blocked` one.
      scores: `[U, K]` float32 scores of the file, -inf where there is no entry; all nan if the file has no scores.
      blocked: `[U, K]` bool, places of items that are not in the vocabulary or occur earlier in the list; they stay
        taken, so that a system does not gain from listing what cannot be recommended.
      covered: `[U]` bool, users that the file names; the others have an empty list and miss.
      facts: counts by name, zeros included.
      sentences: the counts that are not zero, as sentences.
    """

    lists: np.ndarray
    scores: np.ndarray
    blocked: np.ndarray
    covered: np.ndarray
    facts: dict[str, int]
    sentences: list[str]


def read_lists(path: str | Path, *, format: ListFormat | None = None) -> pd.DataFrame:
    """Lists from a file, one row an entry.

    A table (Parquet, CSV, TSV, JSON lines) has the columns user_id, item_id and rank or score or both. A Parquet file
    may instead have one row a user with the lists item_ids, best first, and optionally scores. A TREC run has the
    fields `user Q0 item rank score tag` and no header. Other columns are ignored.

    Args:
      path: the file; the endings .run and .trec (also .gz) mean a TREC run, all others a table of `read_file`.
      format: "table" or "trec", which overrides the ending; None goes by the ending.

    Returns:
      `user_id` and `item_id` (text as written), `rank` and `score` (float64) as far as the file has them, in the file's
      order. A user with an empty list has one row without an item.

    Raises:
      DataError: the file cannot be read, lacks a column or has no rows, or as `match_lists`.
      ConfigError: an unknown format.
    """
    path = Path(path)
    if _format(path, format) == "trec":
        return _checked(_read_trec(path, _RUN, "a TREC run"), source=str(path))
    nested = _read_nested(path)
    return _checked(read_file(path) if nested is None else nested, source=str(path))


def read_qrels(path: str | Path) -> pd.DataFrame:
    """Judgments in TREC's format, `user 0 item relevance` without a header.

    Args:
      path: the file, also .gz.

    Returns:
      `user_id` and `item_id` (text) and `relevance` (float64), one row a judged pair in the file's order.

    Raises:
      DataError: the file cannot be read, a relevance that is no number, or a pair that is judged twice.
    """
    path = Path(path)
    table = _read_trec(path, _QRELS, "TREC qrels").drop(columns="iteration")
    numbers = pd.to_numeric(table["relevance"], errors="coerce").to_numpy(dtype=np.float64)
    if not np.isfinite(numbers).all():
        row = int(np.flatnonzero(~np.isfinite(numbers))[0])
        raise DataError(f"{path}, row {row}: the relevance is {table['relevance'].iloc[row]!r}, expected a number")
    if (twice := table.duplicated(["user_id", "item_id"]).to_numpy()).any():
        first = table.iloc[int(np.flatnonzero(twice)[0])]
        raise DataError(
            f"{path} judges item {first['item_id']!r} of user {first['user_id']!r} twice ({int(twice.sum())} such "
            "rows in all); keep one row a pair"
        )
    return table.assign(relevance=numbers)


def match_lists(
    table: pd.DataFrame,
    dataset: Dataset,
    cases: EvaluationCases,
    *,
    k: int,
    duplicates: Duplicates = "error",
    seen_items: SeenItems = "kept",
    seed: int = 0,
    source: str = "the table of lists",
) -> MatchedLists:
    """Lists of raw ids as arrays for the evaluated users, with counts of everything that did not fit.

    Entries of a user are ordered by rank; where ranks are equal or absent by score (higher first); where these are
    equal too by the catalogue's random order, unknown items first. Ranks need not start at 1 and may have gaps. The
    first k entries of a user are used, and an item that cannot be recommended keeps its place among them.

    Args:
      table: `user_id`, `item_id`, and `rank` or `score` or both, as `read_lists` gives; a row without an item only
        states that the user was served.
      dataset: the dataset whose ids the table uses.
      cases: the evaluated users.
      k: K, the number of entries of a list that are used.
      duplicates: "error" raises for an item twice in a list; "first" counts its first place and leaves the later ones
        taken.
      seen_items: of the protocol; if "excluded", listed items of the history are counted.
      seed: of the catalogue's order.
      source: name of the table in messages.

    Returns:
      The lists with facts and sentences. Facts: entries, users, users_unknown (not in the log), users_not_evaluated,
      users_missing (evaluated, not in the file), entries_without_item, entries_beyond_k, short_lists, unknown_items,
      unavailable_items, seen_items, repeated_items, tied_entries, irregular_ranks and contradicting_scores (the last
      two are numbers of lists).

    Raises:
      DataError: columns that are missing, ids that match nothing, a rank or score that is no number, a doubled item.
      ConfigError: k < 1, or an unknown policy.
    """
    check_value("k", k, "[1, inf)")
    check_choice("duplicates", duplicates, Duplicates)
    check_choice("seen_items", seen_items, SeenItems)
    frame = _checked(table, source=source)
    num_users, num_items = len(cases.users), dataset.num_items
    user_codes, user_names = pd.factorize(frame["user_id"])
    case_of_user = np.full(dataset.sequences.num_users + 1, -1)
    case_of_user[cases.users] = np.arange(num_users)
    in_log = dataset.user_index(list(user_names))
    case_of_name = case_of_user[in_log]
    if not (case_of_name >= 0).any():
        ours = dataset.sequences.user_ids[cases.users[:3]]
        raise DataError(
            f"{source} names none of the {num_users:,} evaluated users: its ids are like {_examples(user_names)}, the "
            f"dataset's like {_examples(ours)}; bring both to the same ids"
        )
    named = frame["item_id"].notna().to_numpy(dtype=bool)
    case = case_of_name[user_codes]
    facts = {
        "entries": len(frame),
        "users": len(user_names),
        "users_unknown": int((in_log < 0).sum()),
        "users_not_evaluated": int(((in_log >= 0) & (case_of_name < 0)).sum()),
        "users_missing": num_users - int((case_of_name >= 0).sum()),
        "entries_without_item": int((~named & (case >= 0)).sum()),
    }
    rows = np.flatnonzero((case >= 0) & named)
    item_codes, item_names = pd.factorize(frame["item_id"].iloc[rows])
    known_names = dataset.item_index(list(item_names))
    if len(item_names) and not known_names.any():
        raise DataError(
            f"{source} lists none of the {num_items:,} items of the dataset: its ids are like {_examples(item_names)}, "
            f"the dataset's like {_examples(dataset.items['item_id'].iloc[:3])}; bring both to the same ids"
        )
    case, item = case[rows], known_names[item_codes].astype(np.int64)
    rank = frame["rank"].to_numpy()[rows] if "rank" in frame else np.zeros(len(rows))
    score = frame["score"].to_numpy()[rows] if "score" in frame else np.zeros(len(rows))
    priority = np.asarray(catalogue_order(num_items, jax.random.key(seed)))  # row 0, the unknown, comes first
    order = _order(case, rank, score, priority[item])
    rows, case, item, rank, score = rows[order], case[order], item[order], rank[order], score[order]
    counts = np.bincount(case, minlength=num_users)
    place = np.arange(len(case)) - (np.cumsum(counts) - counts)[case]
    same = case[1:] == case[:-1]
    tied = same & (rank[1:] == rank[:-1]) & (score[1:] == score[:-1])
    later = same & (rank[1:] > rank[:-1])
    facts |= {
        "entries_beyond_k": int((place >= k).sum()),
        "short_lists": int(((counts < k) & np.isin(np.arange(num_users), case_of_name)).sum()),
        "tied_entries": int((np.append(tied, False) | np.append(False, tied)).sum()),
        "irregular_ranks": len(np.unique(case[rank != place + 1])) if "rank" in frame else 0,
        "contradicting_scores": len(np.unique(case[1:][later & (score[1:] > score[:-1])])),
    }
    kept = place < k
    rows, case, item, score, place = rows[kept], case[kept], item[kept], score[kept], place[kept]
    repeated = _repeated(case, item, num_items)
    if repeated.any() and duplicates == "error":
        entry = frame.iloc[rows[np.flatnonzero(repeated)[0]]]
        raise DataError(
            f"{source}: the list of user {entry['user_id']!r} has item {entry['item_id']!r} more than once "
            f"({int(repeated.sum()):,} such entries in all); remove them, or let the first place count with "
            'duplicates="first"'
        )
    known = item > 0
    seen = cases.histories.contain(case[known], item[known]) if seen_items == "excluded" else known[:0]
    facts |= {
        "unknown_items": int((item == 0).sum()),
        "unavailable_items": int(((item > 0) & ~cases.are_candidates(case, item)).sum()),
        "seen_items": int(seen.sum()),
        "repeated_items": int(repeated.sum()),
    }
    lists = np.zeros((num_users, k), dtype=np.int32)
    scores = np.full((num_users, k), -np.inf if "score" in frame else np.nan, dtype=np.float32)
    blocked = np.zeros((num_users, k), dtype=bool)
    lists[case, place] = np.where(repeated, 0, item)
    if "score" in frame:
        scores[case, place] = score
    blocked[case, place] = repeated | (item == 0)
    covered = np.isin(np.arange(num_users), case_of_name)
    return MatchedLists(lists, scores, blocked, covered, facts, _sentences(facts, frame, num_users, k))


def trec_table(judged: Judged, dataset: Dataset, cases: EvaluationCases) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A system's lists as a TREC run, and the targets as qrels of relevance 1; `write_trec` writes either.

    trec_eval sorts by score and not by rank, so the score is K + 1 - rank, which keeps the protocol's order of ties.

    Args:
      judged: the system.
      dataset: where the cases come from.
      cases: the evaluated users.

    Returns:
      The run with the columns `user_id`, `Q0`, `item_id`, `rank`, `score` and `tag`, and the qrels with `user_id`,
      `iteration`, `item_id` and `relevance`.
    """
    raw_users = np.asarray(dataset.sequences.user_ids, dtype=object)[cases.users]
    raw_items = dataset.items["item_id"].to_numpy(dtype=object)
    user, place = np.nonzero(judged.lists > 0)
    item = judged.lists[user, place]
    run = pd.DataFrame(
        {
            "user_id": raw_users[user],
            "Q0": "Q0",
            "item_id": raw_items[item - 1],
            "rank": place + 1,
            "score": judged.lists.shape[1] - place,
            "tag": judged.name.replace(" ", "_"),
        }
    )
    targets = pd.DataFrame(
        {
            "user_id": np.repeat(raw_users, cases.num_targets),
            "iteration": 0,
            "item_id": raw_items[cases.target_items - 1],
            "relevance": 1,
        }
    )
    return run, targets


def write_trec(table: pd.DataFrame, path: str | Path) -> Path:
    """Write one of the two tables of `trec_table`.

    Args:
      table: the run or the qrels.
      path: the file.

    Returns:
      The path.

    Raises:
      DataError: an id with a space in it, which the format cannot hold.
    """
    for name in ("user_id", "item_id"):
        spaced = table[name].astype(str).str.contains(r"\s", regex=True).to_numpy(dtype=bool)
        if spaced.any():
            raise DataError(
                f"{name} {table[name][spaced].iloc[0]!r} has a space in it, which separates fields in TREC's formats; "
                "write the lists as Parquet or CSV"
            )
    table.to_csv(path, sep=" ", header=False, index=False, quoting=csv.QUOTE_NONE)
    return Path(path)


def _format(path: Path, wanted: ListFormat | None) -> ListFormat:
    if wanted is not None:
        check_choice("format", wanted, ListFormat)
    ending = (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()
    return wanted or ("trec" if ending in _TREC_ENDINGS else "table")


def _read_trec(path: Path, names: tuple[str, ...], what: str) -> pd.DataFrame:
    """The fields of a file without header, as text."""
    if not path.is_file():
        raise DataError(f"{path} is not a file; expected {what}")
    fields = f"{len(names)} fields: {' '.join(names)}"
    options: dict[str, Any] = {"sep": r"\s+", "header": None, "dtype": str, "quoting": csv.QUOTE_NONE}
    try:
        table = pd.read_csv(path, keep_default_na=False, na_values=[], **options)
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path} holds no text; expected {what}, lines of {fields}") from error
    except pd.errors.ParserError as error:
        raise DataError(f"{path} is not {what}, lines of {fields} ({str(error).strip()})") from error
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is not readable text: {error}") from error
    if table.shape[1] != len(names):
        found = " ".join(table.iloc[0].dropna().tolist())
        raise DataError(f"{path} is not {what}: the first line is {found!r}, expected {fields}")
    short = (table.isna() | (table == "")).to_numpy().any(axis=1)
    if short.any():
        row = int(np.flatnonzero(short)[0])
        found = " ".join(table.iloc[row].dropna().tolist()).strip()
        raise DataError(f"{path}, row {row}: {found!r} is too short, expected {fields}")
    return table.set_axis(list(names), axis=1)


def _read_nested(path: Path) -> pd.DataFrame | None:
    """A Parquet file with one list a user, as one row an entry; None for any other file."""
    if path.suffix.lower() != ".parquet" or not path.is_file():
        return None
    try:
        names = pq.read_schema(path).names
        if "item_ids" not in names:
            return None
        check_columns(names, ["user_id", "item_ids"], source=str(path))
        table = pq.ParquetFile(path).read(columns=[n for n in names if n in ("user_id", "item_ids", "scores")])
    except (pa.ArrowException, OSError):
        return None  # the reader of tables raises with the reason
    lengths: dict[str, np.ndarray] = {}
    for name in ("item_ids", "scores"):
        if name not in names:
            continue
        kind = table.schema.field(name).type
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
            raise DataError(f"{path}: column {name!r} holds {kind}, expected a list a row")
        lengths[name] = pc.fill_null(pc.list_value_length(table.column(name)), 0).to_numpy().astype(np.int64)
    users, count = as_text(table.column("user_id").to_pandas(), name="user_id"), lengths["item_ids"]
    if "scores" in lengths and (differ := np.flatnonzero(count != lengths["scores"])).size:
        row = int(differ[0])
        raise DataError(
            f"{path}: row {row} (user {users.iloc[row]!r}) has {count[row]} item_ids and {lengths['scores'][row]} "
            "scores; expected one score an item"
        )
    firsts = np.cumsum(count) - count
    columns: dict[str, Any] = {
        "user_id": np.repeat(users.to_numpy(dtype=object), count),
        "item_id": as_text(pc.list_flatten(table.column("item_ids")).to_pandas(), name="item_ids"),
        "rank": np.arange(count.sum()) - np.repeat(firsts, count) + 1,
    }
    if "scores" in lengths:
        columns["score"] = pc.list_flatten(table.column("scores")).to_pandas()
    served = pd.DataFrame({"user_id": users.to_numpy(dtype=object)[count == 0]})
    return pd.concat([pd.DataFrame(columns), served.reindex(columns=list(columns))], ignore_index=True)


def _checked(table: pd.DataFrame, *, source: str) -> pd.DataFrame:
    """The columns that are used, ids as text and numbers as finite float64."""
    check_columns(list(table.columns), ["user_id", "item_id"], source=source)
    if not len(table):
        raise DataError(f"{source} has no rows; expected at least one entry of a list")
    decides = [name for name in ("rank", "score") if name in table]
    if not decides:
        raise DataError(
            f"{source} has neither a column 'rank' nor 'score' (columns found: "
            f"{', '.join(map(str, table.columns))}), which decide the order of a list; add one of them"
        )
    frame = pd.DataFrame({name: as_text(table[name], name=name) for name in ("user_id", "item_id")})
    if (missing := frame["user_id"].isna()).any():
        raise DataError(
            f"{source}: row {int(missing.to_numpy().argmax())} has no user_id (and {int(missing.sum())} rows in all)"
        )
    for name in decides:
        written = table[name].reset_index(drop=True)
        numbers = pd.to_numeric(written, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        wrong = np.flatnonzero(~np.isfinite(numbers) & frame["item_id"].notna().to_numpy(dtype=bool))
        if len(wrong):
            row = int(wrong[0])
            cell = written.iloc[row]
            missing_cell = pd.isna(cell) or str(cell).lower() == "nan"
            found = "missing or nan" if missing_cell else repr(cell) if isinstance(cell, str) else str(cell)
            raise DataError(
                f"{source}: the {name} of user {frame['user_id'].iloc[row]!r} in row {row} (item "
                f"{frame['item_id'].iloc[row]!r}) is {found}, expected a finite number; {len(wrong):,} such rows in all"
            )
        frame[name] = numbers
    return frame


def _order(case: np.ndarray, rank: np.ndarray, score: np.ndarray, priority: np.ndarray) -> np.ndarray:
    """`[E]` places of the entries sorted by user, rank, falling score and priority; lists in order are not sorted."""
    order = np.argsort(case, kind="stable")
    case, rank, score, priority = case[order], rank[order], score[order], priority[order]
    rising = (rank[1:] > rank[:-1]) | ((rank[1:] == rank[:-1]) & (score[1:] < score[:-1]))
    unsorted = np.zeros(case.max(initial=-1) + 1, dtype=bool)
    unsorted[case[1:][(case[1:] == case[:-1]) & ~rising]] = True
    part = np.flatnonzero(unsorted[case])
    order[part] = order[part[np.lexsort((priority[part], -score[part], rank[part], case[part]))]]
    return order


def _repeated(case: np.ndarray, item: np.ndarray, num_items: int) -> np.ndarray:
    """`[E]` bool, entries whose known item occurs earlier in the same list; entries are in the order of the lists."""
    pair = case * (num_items + 1) + item
    order = np.argsort(pair, kind="stable")
    repeated = np.zeros(len(pair), dtype=bool)
    repeated[order[1:]] = pair[order[1:]] == pair[order[:-1]]
    return repeated & (item > 0)


def _examples(ids: Any) -> str:
    return ", ".join(repr(str(name)) for name in list(ids[:3]))


def _sentences(facts: dict[str, int], frame: pd.DataFrame, num_users: int, k: int) -> list[str]:
    n = {name: f"{count:,}" for name, count in facts.items()}
    place = "they keep their places and are misses"
    said = {
        "users_missing": f"{n['users_missing']} of {num_users:,} evaluated users have no list: they count as misses, "
        "and the figure over the users with a list is given too.",
        "users_unknown": f"{n['users_unknown']} users of the file are not in the log; their lists are not used.",
        "users_not_evaluated": f"{n['users_not_evaluated']} users of the file are not evaluated; their lists are not "
        "used.",
        "entries_without_item": f"{n['entries_without_item']} entries of evaluated users name no item and take "
        "no place.",
        "short_lists": f"{n['short_lists']} lists have fewer than {k} entries; the places after them are empty.",
        "unknown_items": f"{n['unknown_items']} places hold items that the dataset does not have; {place}.",
        "unavailable_items": f"{n['unavailable_items']} places hold items that could not be recommended at the time; "
        f"{place}.",
        "seen_items": f"{n['seen_items']} places hold items of the user's history, which this protocol excludes; "
        f"{place}.",
        "repeated_items": f"{n['repeated_items']} places repeat an item of the same list; the first place counts, the "
        "later ones stay taken.",
        "tied_entries": f"{n['tied_entries']} entries share rank and score with another of their list; the catalogue's "
        "random order decides between them, unknown items first.",
        "irregular_ranks": f"{n['irregular_ranks']} lists have ranks that do not start at 1, have gaps or come twice; "
        "only their order is used.",
        "contradicting_scores": f"{n['contradicting_scores']} lists have a score that rises with the rank; the rank "
        "decides.",
    }
    sentences = [sentence for name, sentence in said.items() if facts[name]]
    return sentences if "score" in frame else [*sentences, "The lists have no scores."]
