"""The command line: `seqrec <verb>`, one function a verb. Each parses, makes one library call, and prints."""

from __future__ import annotations

import argparse
import difflib
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqrec_jax.errors import SeqrecError

if TYPE_CHECKING:
    from seqrec_jax.config import ExperimentConfig
    from seqrec_jax.evaluation.protocol import EvaluationConfig

INTERRUPTED = 130


def main() -> None:
    """The `seqrec` command."""
    sys.exit(run(sys.argv[1:]))


def run(words: Sequence[str]) -> int:
    """Run a verb and give its exit code; an error of the user's is one line on stderr and code 2."""
    if not words or words[0] not in VERBS:
        summaries = "\n".join(f"  {name:<11} {_summary(verb)}" for name, verb in VERBS.items())
        usage = f"usage: seqrec <verb> [options]\n\n{summaries}\n\nseqrec <verb> --help explains a verb."
        if not words or words[0] in ("-h", "--help"):
            print(usage)
            return 0
        near = difflib.get_close_matches(words[0], VERBS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        print(f"seqrec: there is no verb {words[0]!r}{hint}\n{usage}", file=sys.stderr)
        return 2
    verb = words[0]
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
        try:
            return VERBS[verb](words[1:])
        except SeqrecError as error:
            print(f"seqrec {verb}: {error}", file=sys.stderr)
            return 2
        except OSError as error:  # a disk that fills, a folder that cannot be read
            print(f"seqrec {verb}: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(f"seqrec {verb}: interrupted", file=sys.stderr)
            return INTERRUPTED
        except SystemExit as end:  # argparse has already said why
            return int(end.code or 0)


def prepare(words: Sequence[str]) -> int:
    """Clean a log and write the prepared dataset: events, numbers, split."""
    parser = _parser("prepare", prepare)
    _add_config(parser)
    parser.add_argument("--strict", action="store_true", help="any dropped row is an error")
    parser.add_argument("--overwrite", action="store_true", help="replace a prepared dataset of the same place")
    options, overrides = parser.parse_known_args(words)
    from seqrec_jax import pipeline

    started = time.monotonic()
    config = _experiment(options, overrides)
    dataset = pipeline.prepare(config, strict=options.strict, overwrite=options.overwrite)
    print(pipeline.prepared_text(dataset))
    seconds = time.monotonic() - started
    print(f"prepared   {config.dataset_directory} (fingerprint {dataset.fingerprint}) in {seconds:.1f} s")
    return 0


def join(words: Sequence[str]) -> int:
    """Join prepared datasets of several domains to one, in which every item says its domain."""
    parser = _parser("join", join)
    parser.add_argument(
        "domains", nargs="+", metavar="NAME=PATH", help="a domain and its prepared dataset; two or more"
    )
    parser.add_argument("--output", required=True, help="directory of the joined dataset")
    parser.add_argument("--shared-users", action="store_true", help="the same user id is the same user in all domains")
    parser.add_argument("--overwrite", action="store_true", help="replace a prepared dataset of the same place")
    options = parser.parse_args(words)
    from seqrec_jax import pipeline

    dataset = pipeline.join(
        _named(options.domains, what="domains"),
        output=options.output,
        shared_users=options.shared_users,
        overwrite=options.overwrite,
    )
    print(pipeline.prepared_text(dataset))
    print(f"joined     {options.output} (fingerprint {dataset.fingerprint})")
    return 0


def train(words: Sequence[str]) -> int:
    """Train a model on a prepared dataset, or continue a run that was stopped."""
    parser = _parser("train", train)
    _add_config(parser)
    parser.add_argument("--overwrite", action="store_true", help="start over where the run exists")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument(
        "--processes", action="store_true", help="one of several processes that train together, see docs/clusters.md"
    )
    parser.add_argument("--coordinator", help="host:port of process 0, where the cluster does not tell")
    parser.add_argument("--num-processes", type=int, help="how many there are, where the cluster does not tell")
    parser.add_argument("--process-id", type=int, help="which one this is, from 0, where the cluster does not tell")
    options, overrides = parser.parse_known_args(words)
    from seqrec_jax.parallel import errors_end_the_process, is_first_process, join_processes

    addresses = {name: getattr(options, name) for name in ("coordinator", "num_processes", "process_id")}
    if options.processes or any(value is not None for value in addresses.values()):
        join_processes(**addresses)
    from seqrec_jax import pipeline
    from seqrec_jax.training.log import read_log

    config = _experiment(options, overrides)
    with errors_end_the_process():
        run, progress = pipeline.train(config, overwrite=options.overwrite, show_progress=not options.quiet)
    if not is_first_process():
        return 0 if progress.finished else INTERRUPTED
    if not progress.finished:
        print(f"stopped    epoch {progress.epoch}, everything is saved; the same command continues {run}")
        return INTERRUPTED
    print(
        f"trained    {progress.epoch} epochs in {progress.seconds:.0f} s; best {config.evaluation.metric} "
        f"on the validation part {progress.best_score:.4f}, at step {progress.best_step}"
    )
    speed = pipeline.median_speed(read_log(run))
    if speed is not None:
        print(f"speed      {speed:,.0f} target positions a second")
    print(f"run        {run}")
    return 0


def evaluate(words: Sequence[str]) -> int:
    """Judge a checkpoint beside the baselines: table, metrics.json, per_user.parquet, report.html."""
    parser = _parser("evaluate", evaluate)
    _add_checkpoint(parser)
    parser.add_argument("--decoder", action="append", default=[], metavar="NAME", help="of the run, judged beside it")
    _add_judging(parser)
    options, overrides = parser.parse_known_args(words)
    from seqrec_jax import pipeline

    evaluation, reason = pipeline.evaluate(
        options.checkpoint,
        _protocol(options.checkpoint, overrides),
        dataset=options.dataset,
        step=options.step,
        lists=options.lists,
        decoders=options.decoder,
    )
    _print_evaluation(evaluation.result, Path(options.checkpoint), reason)
    return 0


def compare(words: Sequence[str]) -> int:
    """Is another run, or another system's lists, better than the first run: for whom, and how surely."""
    parser = _parser("compare", compare)
    parser.add_argument("runs", nargs="+", help="run directories, what runs today first")
    parser.add_argument("--output", default="runs/comparison", help="folder of the report (default runs/comparison)")
    parser.add_argument(
        "--saved", action="store_true", help="two evaluations as they were written, without scoring anything again"
    )
    _add_judging(parser)
    options, overrides = parser.parse_known_args(words)
    from seqrec_jax import pipeline

    if options.saved:
        result, reason = pipeline.compare_saved_runs(options.runs, output=options.output)
        _print_evaluation(result, Path(options.output), reason, with_users=False)
        return 0
    evaluation, reason = pipeline.compare(
        options.runs,
        _protocol(options.runs[0], overrides),
        output=options.output,
        dataset=options.dataset,
        lists=options.lists,
    )
    _print_evaluation(evaluation.result, Path(options.output), reason)
    return 0


def backtest(words: Sequence[str]) -> int:
    """Train at one moment after another and judge what came next: how a model ages, what retraining is worth."""
    parser = _parser("backtest", backtest)
    _add_config(parser)
    parser.add_argument("--origins", type=int, default=4, help="how many moments (default 4)")
    parser.add_argument("--days", type=float, default=7, help="from one to the next (default 7)")
    parser.add_argument("--train-once", action="store_true", help="train at the first moment only")
    parser.add_argument("--output", default="runs/backtest", help="folder of the figures (default runs/backtest)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options, overrides = parser.parse_known_args(words)
    from seqrec_jax import pipeline
    from seqrec_jax.reporting.terminal import labelled, section_table

    _, section = pipeline.backtest(
        _experiment(options, overrides),
        num_origins=options.origins,
        window_days=options.days,
        output=options.output,
        retrain=not options.train_once,
        show_progress=not options.quiet,
    )
    print(section_table(section))
    print("\n".join(labelled("freshness", section["summary"])))
    folder = Path(options.output)
    print(f"written    {folder / 'backtest.parquet'}, {folder / 'backtest.json'}")
    return 0


def recommend(words: Sequence[str]) -> int:
    """Lists for users of the dataset, for a history of raw item ids, or for a query."""
    parser = _parser("recommend", recommend)
    _add_checkpoint(parser)
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--users", nargs="+", help="raw user ids of the run's dataset")
    who.add_argument("--all-users", action="store_true", help="every user of the run's dataset")
    who.add_argument("--history", nargs="+", help="raw item ids, the latest last")
    parser.add_argument("--query", help="what is searched after the history, or without any")
    parser.add_argument("--k", type=int, default=10, help="length of a list (default 10)")
    parser.add_argument(
        "--seen-items", choices=("kept", "excluded"), default="kept", help="whether items of the history may be listed"
    )
    parser.add_argument(
        "--target-behavior", help="what is predicted, such as purchase, for a model of several (default: as trained)"
    )
    parser.add_argument(
        "--before",
        choices=("validation", "test"),
        help="end histories before what this stage holds out, for lists to be judged (default: whole histories)",
    )
    parser.add_argument("--decoder", metavar="NAME", help="of the run, which writes the lists code by code")
    parser.add_argument("--output", help="a .parquet or .csv file instead of the terminal")
    options, overrides = parser.parse_known_args(words)
    if options.decoder is not None and (overrides or options.query or options.target_behavior or options.step):
        parser.error("lists of a --decoder take no --query, --target-behavior, --step or re-ranking")
    if options.history is None and options.users is None and not options.all_users:
        if options.query is None:
            parser.error("one of the arguments --users --all-users --history --query is required")
        options.history = []
    from seqrec_jax import pipeline
    from seqrec_jax.evaluation.report.terminal import recommendation_table
    from seqrec_jax.reranking import RerankConfig
    from seqrec_jax.retrieval import Recommender
    from seqrec_jax.settings import parse_config

    reranking = parse_config(RerankConfig, overrides=[_without_section(word) for word in overrides])
    decoder = None if options.decoder is None else pipeline.RunDecoder.load(options.checkpoint, options.decoder)
    recommender = decoder.recommender if decoder else Recommender.load(options.checkpoint, step=options.step)
    if options.target_behavior is not None:
        recommender = recommender.predicting(options.target_behavior)
    history: Any = options.history
    if history is None:
        users = None if options.all_users else options.users
        history = pipeline.user_histories(options.checkpoint, users, before=options.before)
    if decoder is not None:
        result = decoder.recommend(history, options.k, seen_items=options.seen_items)
    else:
        result = recommender.recommend(
            history, options.k, query=options.query, seen_items=options.seen_items, reranking=reranking
        )
    if result.unknown_items:
        skipped = ", ".join(result.unknown_items)
        print(f"skipped    items that the catalogue does not have: {skipped}", file=sys.stderr)
    if result.without_history:
        count, shown = len(result.without_history), ", ".join(result.without_history[:5])
        whom = "a history without a known item"
        if options.history is None:
            whom = f"{count:,} users without a known history: {shown}" + (", …" if count > 5 else "")
        print(f"fallback   the most popular items for {whom}", file=sys.stderr)
    if options.output is None:
        print(recommendation_table(result.table, recommender.items))
    else:
        pipeline.write_table(result.table, options.output)
        users = result.table["user_id"].nunique()
        print(f"written    {options.output}: {len(result.table):,} rows, {users:,} users")
    return 0


def add_items(words: Sequence[str]) -> int:
    """Add new items to a run's catalogue without training again; the result is a run of its own."""
    parser = _parser("add-items", add_items)
    _add_checkpoint(parser)
    parser.add_argument("--items", required=True, help="table of the new items, a row an item")
    parser.add_argument("--item-id", default="item_id", help="its column with the raw item id (default item_id)")
    for what in ("feature", "edge"):
        content = "vectors of a modality" if what == "feature" else "pairs of a relation"
        parser.add_argument(
            f"--{what}s",
            action="append",
            default=[],
            metavar="NAME=PATH",
            help=f"{content}; may be given several times",
        )
    parser.add_argument("--output", required=True, help="directory of the new run, which must not exist")
    options = parser.parse_args(words)
    from seqrec_jax import pipeline
    from seqrec_jax.reporting.terminal import labelled

    new = pipeline.read_new_items(
        options.items,
        item_id=options.item_id,
        features=_named(options.features, what="features"),
        edges=_named(options.edges, what="edges"),
    )
    for note in pipeline.add_items(options.checkpoint, new, output=options.output, step=options.step):
        print("\n".join(labelled("items", note)))
    print(f"written    {options.output}")
    return 0


def fit_head(words: Sequence[str]) -> int:
    """Fit a head to labelled rows, such as impressions with clicks, over a run's vectors."""
    parser = _parser("fit-head", fit_head)
    _add_checkpoint(parser)
    parser.add_argument(
        "--rows", required=True, help="table with user_id, timestamp, the label, and perhaps item_id and position"
    )
    parser.add_argument("--name", default="click", help="of the head (default click)")
    parser.add_argument("--label", default="click", help="its column: 0 and 1, or words for classes (default click)")
    parser.add_argument("--conversion", help="column that tells whether a conversion followed the click: 0 and 1")
    parser.add_argument("--since-last", action="store_true", help="tell it how long ago the last event was")
    options = parser.parse_args(words)
    from seqrec_jax import pipeline
    from seqrec_jax.data.files import read_file
    from seqrec_jax.heads.fitting import HeadTrainingConfig
    from seqrec_jax.reporting.terminal import labelled

    report = pipeline.fit_head(
        options.checkpoint,
        read_file(Path(options.rows)),
        name=options.name,
        label=options.label,
        conversion=options.conversion,
        config=HeadTrainingConfig(since_last=options.since_last),
        step=options.step,
    )
    for note in report.notes:
        print("\n".join(labelled("rows", note)))
    least = min(validation for _, validation in report.fitted.losses)
    print(f"fitted     {len(report.fitted.losses)} passes, loss of the validation rows {least:.4f}, then calibrated")
    print(f"written    {report.path}")
    return 0


def fit_decoder(words: Sequence[str]) -> int:
    """Make codes of a run's items and fit a decoder that writes the next item's code by code."""
    parser = _parser("fit-decoder", fit_decoder)
    _add_checkpoint(parser)
    parser.add_argument("--name", default="decoder", help="of the decoder (default decoder)")
    parser.add_argument("--feature", help="vectors that become codes, such as text (default: the run's item vectors)")
    options, overrides = parser.parse_known_args(words)
    from seqrec_jax import pipeline
    from seqrec_jax.heads.decoder_fitting import DecoderTrainingConfig
    from seqrec_jax.reporting.terminal import labelled
    from seqrec_jax.settings import parse_config

    config = parse_config(DecoderTrainingConfig, overrides=overrides)
    given = {"name": options.name, "feature": options.feature, "step": options.step}
    report = pipeline.fit_decoder(options.checkpoint, config=config, **given)
    for note in report.notes:
        print("\n".join(labelled("items", note)))
    least = min(validation for _, validation in report.fitted.losses)
    print(f"fitted     {len(report.fitted.losses)} passes, -log P(item) of the validation targets {least:.4f}")
    print(f"written    {report.path}")
    return 0


def embed(words: Sequence[str]) -> int:
    """Write user and item vectors with raw ids to Parquet."""
    parser = _parser("embed", embed)
    _add_checkpoint(parser)
    parser.add_argument(
        "--output", required=True, help="folder for user_vectors.parquet, item_vectors.parquet and bilinear_weight.npy"
    )
    options = parser.parse_args(words)
    from seqrec_jax import pipeline

    paths = pipeline.embed(options.checkpoint, options.output, step=options.step)
    print(f"written    {', '.join(map(str, paths))}")
    return 0


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "prepare": prepare,
    "join": join,
    "train": train,
    "evaluate": evaluate,
    "compare": compare,
    "backtest": backtest,
    "recommend": recommend,
    "embed": embed,
    "add-items": add_items,
    "fit-head": fit_head,
    "fit-decoder": fit_decoder,
}


def _summary(verb: Callable) -> str:
    return (verb.__doc__ or "").splitlines()[0]


def _parser(name: str, verb: Callable) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"seqrec {name}",
        description=_summary(verb),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_FIELDS_HELP.get(name),
        allow_abbrev=False,
    )


_EXPERIMENT_HELP = "Any field of docs/configuration.md can follow, e.g. --training.max_epochs 5."
_PROTOCOL_HELP = "Fields of the evaluation section can follow, e.g. --evaluation.seen_items excluded."
_FIELDS_HELP = {
    "prepare": _EXPERIMENT_HELP,
    "train": _EXPERIMENT_HELP,
    "evaluate": _PROTOCOL_HELP,
    "compare": _PROTOCOL_HELP,
    "backtest": _EXPERIMENT_HELP,
    "fit-decoder": "Fields of DecoderTrainingConfig can follow, e.g. --codes.codebook_size 256 --max_epochs 10.",
    "recommend": "Weights of the re-ranking (docs/configuration.md) can follow, e.g. --reranking.diversity 0.3.",
}


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="YAML file of the experiment")


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, help="run directory, runs/<name>")
    parser.add_argument("--step", type=int, help="of the checkpoint (default: the best by validation)")


def _add_judging(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", help="another prepared dataset with the same items (default: the run's own)")
    parser.add_argument(
        "--lists",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="lists of another system: .parquet, .csv or .tsv with user_id, item_id and rank or score, or a TREC .run; "
        "may be given several times",
    )


def _named(pairs: Sequence[str], *, what: str) -> dict[str, str]:
    """`name=path` words by name."""
    from seqrec_jax.errors import ConfigError

    if wrong := [pair for pair in pairs if not all(pair.partition("="))]:
        raise ConfigError(f"{what} are given as name=path, such as first=folder/file, got {wrong[0]!r}")
    names = [pair.partition("=")[0] for pair in pairs]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"{what} name {min(doubled)!r} twice; give each a name of its own")
    return {name: path for name, _, path in (pair.partition("=") for pair in pairs)}


def _protocol(run: str, overrides: Sequence[str]) -> EvaluationConfig:
    """The protocol that a run was made under, with changes from the command line."""
    from seqrec_jax.evaluation.protocol import EvaluationConfig
    from seqrec_jax.runs.run import read_run
    from seqrec_jax.settings import parse_config

    saved = read_run(run)[0].get("evaluation", {})
    return parse_config(EvaluationConfig, values=saved, overrides=[_without_section(word) for word in overrides])


def _print_evaluation(result: dict[str, Any], folder: Path, reason: str | None, *, with_users: bool = True) -> None:
    from seqrec_jax.evaluation.report.terminal import evaluation_table

    print(evaluation_table(result))
    files = ["metrics.json", *(["per_user.parquet"] if with_users else []), *([] if reason else ["report.html"])]
    print(f"written    {', '.join(str(folder / name) for name in files)}")
    if reason:
        print(f"no report  {reason}")


def _experiment(options: argparse.Namespace, overrides: Sequence[str]) -> ExperimentConfig:
    from seqrec_jax.config import ExperimentConfig
    from seqrec_jax.settings import parse_config

    return parse_config(ExperimentConfig, path=options.config, overrides=overrides)


def _without_section(word: str) -> str:
    """`--evaluation.stage` as `--stage`: verbs with one section take its fields with or without its name."""
    for section in ("evaluation", "reranking"):
        word = word.replace(f"--{section}.", "--", 1) if word.startswith(f"--{section}.") else word
    return word


if __name__ == "__main__":
    main()
