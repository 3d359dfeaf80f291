"""When does the large model pay: `python benchmarks/large_models.py <language model>`, its folder as on Hugging Face.

Amazon Office, titles and brands, under the protocol of benchmarks/cold_items.py, whose runs are taken where they are
there: a fifth of the items is taken out of training and of all histories, each user's last event is asked, what the
user had before is not listed. Against each other: popularity and item to item; ids alone; ids and brand by a gate; the
frozen vectors of a language model, alone and beside ids; the same run on with the model's last layers trained by LoRA,
and, to tell what is due to that, as long without; and a decoder that writes semantic ids, made of the frozen vectors
with codebooks of the known items, so that new items have codes too.

Of each: NDCG@10 and the hit rate at 10 with intervals over users, on all targets, on known and on new ones, on known
ones with few and with many events in training; paired differences, from ids alone on known targets and from frozen text
on new ones; and what it costs. The two trainings that go on from a run are in large_models_training.py. Trainings are
kept in runs/cold_items and runs/large_models; remove these to start over. Writes benchmarks/results/large_models.json,
a row a system.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from cold_items import RUNS, SETS, dataset_with_new_items, of_known_histories, without_training
from cold_items_figures import slices_of
from large_models_training import (
    CODES,
    DECODER,
    LORA,
    NUM_NEGATIVES,
    TITLES,
    TOKENS,
    TUNED_LAYERS,
    USERS,
    Fitted,
    TextStart,
    UpperLayers,
    count_parameters,
    fit_decoder,
    make_decoder,
    tune_texts,
    tuned_vectors,
    upper_layers,
)
from records import Row, Trained, circumstances, experiment, train_apart, write_rows

from seqrec_jax import pipeline
from seqrec_jax.baselines import FunctionRanker, item_to_item, most_popular
from seqrec_jax.config import ExperimentConfig
from seqrec_jax.data.dataset import Dataset, read_dataset, write_dataset
from seqrec_jax.data.item_texts import item_texts
from seqrec_jax.data.sequences import Sequences, pad_sequences
from seqrec_jax.data.splits import TRAIN, EvaluationCases
from seqrec_jax.encoders.language import encode_texts, load_text_encoder
from seqrec_jax.evaluation.judging import Judged, judge, judge_lists, mean_of_users, unseen_candidates
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.heads.decoder_fitting import catalogue_codes
from seqrec_jax.items.semantic_ids import semantic_id_report
from seqrec_jax.reporting.sections import plain
from seqrec_jax.retrieval import Recommender
from seqrec_jax.scoring import TopK, catalogue_order, top_k_in_scores
from seqrec_jax.statistics import bootstrap_means, holm_correction, paired_differences
from seqrec_jax.training.adapters.paths import flat_params, nested_params

RESULTS = Path("benchmarks/results/large_models.json")
KEPT = Path("runs/large_models")
OFFICE = SETS["amazon_office"]
TOKENS_DIRECTORY = "data/large_models/amazon_office"
IDS, BRAND, TEXT, BOTH = "ids alone", "ids and brand", "frozen text", "ids and frozen text"
LONGER, TUNED, GENERATED = "frozen text, trained on", "tuned text", "generated ids"
IN_COLD_ITEMS = {IDS: "ids alone", TEXT: "content alone", BOTH: "ids and content"}
METRICS = ("ndcg@10", "hit_rate@10")
WARM, COLD = "known, among all items", "new, among all items"
FEW_EVENTS = 4
"""In training, at most, of what counts as seldom."""
TUNING: Row = {"passes": 2, "learning_rate": 5e-4}
DECODING: Row = {"passes": 24, "learning_rate": 2e-3}
BATCH, REPEATS = 256, 7


class Generated(NamedTuple):
    """Lists that a decoder writes.

    Attributes:
      name: of the row.
      reader: whose states it reads.
      generate: of the decoder, compiled.
      params: its parameters.
    """

    name: str
    reader: Recommender
    generate: Callable[..., TopK]
    params: Any

    def lists(self, histories: Sequences, allowed: np.ndarray, *, k: int) -> np.ndarray:
        """`[U, K]` items by a beam search among those allowed, `[U, V+1]`; a batch of users at a time."""
        states = self.reader.user_vectors(histories)
        found = []
        for start in range(0, len(states), BATCH):
            rows = np.minimum(np.arange(start, start + BATCH), len(states) - 1)
            found.append(self.generate(self.params, jnp.asarray(states[rows]), allowed=jnp.asarray(allowed[rows]), k=k))
        return np.concatenate([np.asarray(top.item_ids) for top in found])[: len(states)]


System = FunctionRanker | Recommender | Generated


def main() -> None:
    """Train what is not there, judge every system, measure its cost, write a row each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("language_model", help="folder in the Hugging Face layout, of the BERT family")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"default {RESULTS}")
    options = parser.parse_args()
    configs = {name: configured(OFFICE.systems[kept]) for name, kept in IN_COLD_ITEMS.items()}
    dataset, directory = dataset_with_new_items("amazon_office", configs[BOTH], language_model=options.language_model)
    brand = {"model.items.attributes": ["brand"], "model.items.fusion": "gate", "model.items.id_dropout": 0.2}
    configs[BRAND] = configured(brand)
    with_tokens = dataset_with_tokens(configs[IDS], options.language_model, like=dataset)
    runs: dict[str, Trained] = {}
    for name, config in configs.items():
        print(f"training {name} in {RUNS / config.name}", flush=True)
        where = TOKENS_DIRECTORY if name == BRAND else directory
        runs[name] = train_apart(replace(config, data=replace(config.data, directory=where)), runs=RUNS)
    protocol = configs[BOTH].evaluation
    known = np.concatenate([[False], dataset.items["known"].to_numpy()])
    train = dataset.sequences.select_events(dataset.split.parts == TRAIN)
    systems: dict[str, System] = {
        "popularity": most_popular(train, num_items=dataset.num_items),
        "item to item": item_to_item(train, num_items=dataset.num_items),
        **{name: named(Recommender.load(run.directory), name) for name, run in runs.items()},
    }
    costs = costs_of_runs(systems, runs, dataset, options.language_model)
    more, more_costs = continued(
        dataset, with_tokens, configs[TEXT], systems[TEXT], costs[TEXT], known, protocol, options.language_model
    )
    systems, costs = systems | more, costs | more_costs
    cases = of_known_histories(pipeline.cases_of(dataset, protocol), known)
    for name, system in systems.items():
        costs[name] = {**costs.get(name, {}), "ms_a_user": milliseconds_a_user(system, cases)}
    figures, minus = compared(systems, cases, dataset, known, protocol)
    new = cases.candidates & ~known
    shared = {
        "data": "amazon_office",
        "fingerprint": dataset.fingerprint,
        "language_model": Path(options.language_model).parent.name,
        "users": len(cases.users),
        "known_items": int((known & cases.candidates).sum()),
        "new_items": int(new[1:].sum()),
    }
    where = circumstances("python benchmarks/large_models.py <language model>")
    rows = [
        plain({**shared, "system": name, "figures": figures[name], "minus": minus[name], "cost": costs[name], **where})
        for name in systems
    ]
    write_rows(options.results, rows, keys=("data", "system"))
    print_rows(rows)


def configured(changes: Row) -> ExperimentConfig:
    """The experiment of a system of the set."""
    return experiment(OFFICE.configuration, {**OFFICE.overrides, **changes}).config


def named(recommender: Recommender, name: str) -> Recommender:
    """The recommender under the name of its row."""
    recommender.name = name
    return recommender


def dataset_with_tokens(config: ExperimentConfig, language_model: str, *, like: Dataset) -> Dataset:
    """The same events, items and parts as `like`, with brands as an attribute and titles as tokens."""
    if not Path(TOKENS_DIRECTORY).exists():
        text = replace(config.data.items.text, model=language_model, tokens=TOKENS)
        data = replace(
            config.data,
            directory=TOKENS_DIRECTORY,
            split=like.split.config,
            items=replace(config.data.items, text=text),
            attributes=replace(config.data.attributes, categorical=("brand",)),
        )
        write_dataset(without_training(pipeline.prepare(replace(config, data=data))), TOKENS_DIRECTORY, overwrite=True)
    found = read_dataset(TOKENS_DIRECTORY)
    assert np.array_equal(found.split.parts, like.split.parts)
    assert list(found.items["item_id"]) == list(like.items["item_id"])
    return found


def continued(
    dataset: Dataset,
    with_tokens: Dataset,
    config: ExperimentConfig,
    reader: Recommender,
    cost: Row,
    known: np.ndarray,
    protocol: EvaluationConfig,
    language_model: str,
) -> tuple[dict[str, System], dict[str, Row]]:
    """The systems that go on from the run on frozen text, and their costs."""
    feature = dataset.content.features["text"]
    frozen = feature.dense(dataset.num_items)
    tokens = with_tokens.content.features["text"].dense(dataset.num_items)
    validation = pipeline.cases_of(dataset, replace(protocol, stage="validation"))
    start = TextStart(config.model, reader.params, feature.scale)
    sequences, first = dataset.training_sequences, dataset.first_timestamp
    length = config.model.encoder.max_length

    def served(params: Any, vectors: np.ndarray, name: str) -> Recommender:
        """A recommender over vectors of texts as they are: what is served does not read texts."""
        items = {key: value for key, value in params["items"].items() if key != "language"}
        table = reader.item_table._replace(features={"text": jnp.asarray(vectors)})
        return named(reader.with_params({**params, "items": items}).with_item_table(table), name)

    def figure(system: Recommender) -> float:
        judged = judge(system, validation, config=protocol)
        return mean_of_users(judged.per_user[protocol.metric])

    def gone_on(name: str, layers: UpperLayers | None) -> Fitted:
        print(f"training {name}", flush=True)

        def validate(params: Any, vectors: Any) -> float:
            return figure(served(params, vectors, name))

        return tune_texts(start, sequences, layers, validate, frozen=frozen, first_timestamp=first, **TUNING)

    upper = upper_layers(language_model, tokens)
    fits = {name: kept(name, partial(gone_on, name, layers)) for name, layers in ((LONGER, None), (TUNED, upper))}
    started = time.monotonic()
    vectors = tuned_vectors(fits[TUNED].params, upper, scale=feature.scale)
    tuned_seconds = upper.seconds + time.monotonic() - started
    systems: dict[str, System] = {
        LONGER: served(fits[LONGER].params, frozen, LONGER),
        TUNED: served(fits[TUNED].params, vectors, TUNED),
    }
    started = time.monotonic()
    semantic = catalogue_codes(jnp.asarray(frozen), known, config=CODES, key=jax.random.key(0))
    code_seconds = time.monotonic() - started
    head = make_decoder(semantic.codes, state_width=config.model.encoder.width)
    generate = jax.jit(head.generate, static_argnames="k")

    def written(params: Any) -> Generated:
        return Generated(GENERATED, named(reader.with_params(params["model"]), GENERATED), generate, params["head"])

    def generated() -> Fitted:
        print(f"training {GENERATED}", flush=True)

        def validate(params: Any, made: None) -> float:
            judged = judged_by(written(params), validation, protocol)
            return mean_of_users(judged.per_user[protocol.metric])

        model, item_table = pipeline.starting.build_model(config, dataset)
        return fit_decoder(
            head,
            model,
            reader.params,
            item_table,
            sequences,
            validate,
            length=length,
            first_timestamp=first,
            **DECODING,
        )

    fits[GENERATED] = kept(GENERATED, generated)
    systems[GENERATED] = written(fits[GENERATED].params)
    settings = {
        LONGER: TUNING,
        TUNED: {**TUNING, "tuned_layers": TUNED_LAYERS, "rank": LORA.rank, "targets": LORA.targets, "tokens": TOKENS},
        GENERATED: {**DECODING, "codes": asdict(CODES), "decoder": asdict(DECODER)},
    }
    for name in (LONGER, TUNED):
        settings[name] |= {"users_a_step": USERS, "titles_a_step": TITLES, "negatives": NUM_NEGATIVES}
    costs = {
        name: {
            "trained_parameters": fitted.facts["trained"],
            "parameters": cost["parameters"],
            "training_seconds": cost["training_seconds"] + fitted.facts["seconds"],
            "of_which_after_frozen_text": fitted.facts,
            "settings": settings[name],
            "item_vector_seconds": cost["item_vector_seconds"],
            "user_model_bytes": cost["user_model_bytes"],
            "item_bytes": cost["item_bytes"],
        }
        for name, fitted in fits.items()
    }
    costs[TUNED]["item_vector_seconds"] = tuned_seconds
    costs[TUNED]["parameters"] += sum(
        leaf.size for path, leaf in flat_params(fits[TUNED].params).items() if "/adapter/" in path
    )
    head_params = fits[GENERATED].params["head"]
    costs[GENERATED] |= {
        "parameters": cost["parameters"] + count_parameters(head_params),
        "item_vector_seconds": cost["item_vector_seconds"] + code_seconds,
        # histories are read through item vectors, so that their table stays; codes and decoder come besides
        "item_bytes": cost["item_bytes"] + semantic.codes.nbytes + bytes_of(head_params),
        "codes": semantic_id_report(semantic, frozen)._asdict(),
    }
    return systems, costs


def kept(name: str, make: Callable[[], Fitted]) -> Fitted:
    """What a training left, from the disk where it is there."""
    path = KEPT / f"{name.replace(',', '').replace(' ', '_')}.npz"
    if not path.exists():
        fitted = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        flat = {key: leaf for key, leaf in flat_params(fitted.params).items() if not isinstance(leaf, dict)}
        np.savez(path, facts=json.dumps(fitted.facts), **{key: np.asarray(leaf) for key, leaf in flat.items()})
    with np.load(path) as arrays:
        flat = {key: jnp.asarray(arrays[key]) for key in arrays if key != "facts"}
        params = nested_params(flat)
        whole = params.get("model", params)
        whole.setdefault("bilinear", {})  # empty where W is the identity
        return Fitted(params, json.loads(str(arrays["facts"])))


def costs_of_runs(
    systems: dict[str, System], runs: dict[str, Trained], dataset: Dataset, language_model: str
) -> dict[str, Row]:
    """Parameters, seconds and bytes of the runs; those with texts also need the language model."""
    texts, _ = item_texts(dataset.items, ("title", "brand"))
    encoder = load_text_encoder(language_model)
    of_language = count_parameters(encoder.params)
    started = time.monotonic()
    encode_texts(encoder, texts)
    text_seconds = time.monotonic() - started
    costs = {}
    for name, run in runs.items():
        recommender = systems[name]
        reads_texts = "text" in recommender.modalities
        recommender.item_vectors()
        started = time.monotonic()
        again = recommender.with_params(recommender.params).item_vectors()
        seconds = time.monotonic() - started
        trained = count_parameters(recommender.params)
        costs[name] = {
            "trained_parameters": trained,
            "parameters": trained + reads_texts * of_language,
            "training_seconds": run.facts["seconds"],
            "training": run.facts,
            "item_vector_seconds": seconds + reads_texts * text_seconds,
            "user_model_bytes": bytes_of({key: part for key, part in recommender.params.items() if key != "items"}),
            "item_bytes": again.nbytes,
        }
    return costs


def bytes_of(params: Any) -> int:
    """Of all arrays."""
    return sum(int(leaf.nbytes) for leaf in jax.tree.leaves(params))


def milliseconds_a_user(system: System, cases: EvaluationCases) -> float:
    """For lists of ten, a batch of users at a time, from histories to item ids; the least of some tries."""
    histories = cases.histories.select_users(np.linspace(0, len(cases.users) - 1, BATCH).astype(np.int64))
    excluded = jnp.asarray(pad_sequences(histories, length=int(histories.lengths.max())))
    allowed = unseen_candidates(cases.candidates, histories)
    num_items = len(cases.candidates) - 1
    priority, candidates = catalogue_order(num_items, jax.random.key(0)), jnp.asarray(cases.candidates)

    @jax.jit
    def listed(scores: jax.Array) -> jax.Array:
        return top_k_in_scores(scores, k=10, priority=priority, allowed=candidates, excluded=excluded).item_ids

    def once() -> None:
        if isinstance(system, Generated):
            system.lists(histories, allowed, k=10)
        else:
            jax.block_until_ready(listed(jnp.asarray(system.scores(histories))))

    once()
    seconds = []
    for _ in range(REPEATS):
        started = time.monotonic()
        once()
        seconds.append(time.monotonic() - started)
    return 1e3 * min(seconds) / BATCH


def judged_by(system: System, cases: EvaluationCases, protocol: EvaluationConfig) -> Judged:
    """A system under the protocol; a decoder by the lists that it writes."""
    if not isinstance(system, Generated):
        return judge(system, cases, config=protocol)
    lists = system.lists(cases.histories, unseen_candidates(cases.candidates, cases.histories), k=max(protocol.cutoffs))
    return judge_lists(system.name, lists, cases, config=protocol)


def compared(
    systems: dict[str, System], cases: EvaluationCases, dataset: Dataset, known: np.ndarray, protocol: EvaluationConfig
) -> tuple[dict[str, Row], dict[str, Row]]:
    """Of each system the figures on each slice, and the differences from the slice's reference."""
    slices = slices_of(cases, known)
    events = np.concatenate([[0], dataset.items["training_events"].to_numpy()])[cases.target_items]
    asked = {
        "all, among all items": ("all items", slices["all"], IDS),
        WARM: ("all items", slices["known"], IDS),
        "known, seldom, among all items": ("all items", slices["known"] & (events <= FEW_EVENTS), IDS),
        "known, often, among all items": ("all items", slices["known"] & (events > FEW_EVENTS), IDS),
        "known, among known items": ("known items", slices["known"], IDS),
        COLD: ("all items", slices["new"], TEXT),
        "new, among new items": ("new items", slices["new"], TEXT),
    }
    new = cases.candidates & ~known
    new[0] = False
    candidates = {"all items": cases.candidates, "new items": new, "known items": known & cases.candidates}
    judged: dict[tuple[str, str], Judged] = {}
    for among, allowed in candidates.items():
        of_these = replace(cases, candidates=allowed)
        for name, system in systems.items():
            judged[among, name] = judged_by(system, of_these, protocol)
    figures: dict[str, Row] = {name: {} for name in systems}
    minus: dict[str, Row] = {name: {} for name in systems}
    for label, (among, members, reference) in asked.items():
        tables = {name: judged[among, name].per_user[list(METRICS)].to_numpy()[members] for name in systems}
        for name, table in tables.items():
            interval = bootstrap_means(table, num_resamples=protocol.num_resamples)
            figures[name][label] = {"users": len(table)} | {
                metric: {"mean": interval.mean[n], "low": interval.low[n], "high": interval.high[n]}
                for n, metric in enumerate(METRICS)
            }
        others = [name for name in systems if name != reference]
        paired = {
            name: paired_differences(tables[name], tables[reference], num_resamples=protocol.num_resamples)
            for name in others
        }
        p_holm = [holm_correction(np.array([paired[name].p_value[n] for name in others])) for n in range(len(METRICS))]
        for place, name in enumerate(others):
            one = paired[name]
            minus[name][label] = {"reference": reference} | {
                metric: {"difference": one.mean[n], "low": one.low[n], "high": one.high[n], "p_holm": p_holm[n][place]}
                for n, metric in enumerate(METRICS)
            }
        tuning = paired_differences(tables[TUNED], tables[LONGER], num_resamples=protocol.num_resamples)
        minus[TUNED][f"{label}, what tuning is worth"] = {"reference": LONGER} | {
            metric: {"difference": tuning.mean[n], "low": tuning.low[n], "high": tuning.high[n], "p": tuning.p_value[n]}
            for n, metric in enumerate(METRICS)
        }
    return figures, minus


def print_rows(rows: list[Row]) -> None:
    """Three tables in Markdown: figures, differences, costs."""
    slices = list(rows[0]["figures"])
    for metric in METRICS:
        print(f"\n| {metric} | " + " | ".join(slices) + " |\n|---|" + "---:|" * len(slices))
        for row in rows:
            cells = [row["figures"][name][metric] for name in slices]
            print(
                f"| {row['system']} | "
                + " | ".join(f"{c['mean']:.4f} [{c['low']:.4f}, {c['high']:.4f}]" for c in cells)
                + " |"
            )
    print("users: " + ", ".join(f"{name} {rows[0]['figures'][name]['users']}" for name in slices))
    for row in rows:
        for name, one in row["minus"].items():
            cell = one[METRICS[0]]
            print(
                f"{row['system']} minus {one['reference']}, {name}: {cell['difference']:+.4f} "
                f"[{cell['low']:+.4f}, {cell['high']:+.4f}], p = {cell.get('p_holm', cell.get('p')):.4f}"
            )
    names = ("trained_parameters", "parameters", "training_seconds", "item_vector_seconds", "ms_a_user",
             "user_model_bytes", "item_bytes")  # fmt: skip
    print("\n| cost | " + " | ".join(names) + " |\n|---|" + "---:|" * len(names))
    for row in rows:
        print(
            f"| {row['system']} | " + " | ".join(f"{row['cost'].get(name, float('nan')):,.4g}" for name in names) + " |"
        )


if __name__ == "__main__":
    main()
