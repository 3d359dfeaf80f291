"""The fixed part of the simulated shop: its settings, catalogue, tastes and every probability, all known.

Times are seconds UTC. New items arrive only at the start of an epoch (every `drop_days` days), so the items for sale
are a function of the epoch alone. Letters: E epochs, S tastes, V items of the world, K slots of a page.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np

from seqrec_jax.errors import ConfigError
from seqrec_jax.settings import Interval, check_fields, check_value

BEHAVIORS = ("view", "click", "cart", "purchase")
DAY_SECONDS = 86_400
SESSION_GAP_SECONDS = 1_800  # events of one session are at most this far apart; sessions at least six hours
START = 1_704_067_200  # 2024-01-01 00:00 UTC

# Relative number of sessions that start in each hour; none before six, so that the gap between the last event
# of one day and the first session of a later day always exceeds SESSION_GAP_SECONDS.
_HOURS = np.array([0, 0, 0, 0, 0, 0, 2, 3, 4, 5, 5, 6, 7, 6, 5, 5, 6, 7, 9, 11, 12, 10, 7, 4], dtype=np.float64)
HOUR_PROBABILITIES = _HOURS / _HOURS.sum()

_CATALOGUE = {
    "shoes": ("sneaker", "boot", "sandal", "loafer"),
    "kitchen": ("pan", "kettle", "knife", "mixing bowl"),
    "garden": ("rake", "planter", "hose", "lantern"),
    "books": ("novel", "atlas", "cookbook", "biography"),
    "toys": ("puzzle", "train set", "plush bear", "kite"),
    "sports": ("yoga mat", "racket", "dumbbell", "football"),
    "beauty": ("lipstick", "face cream", "perfume", "hair brush"),
    "audio": ("headphones", "speaker", "turntable", "microphone"),
    "office": ("notebook", "desk lamp", "fountain pen", "chair"),
    "coffee": ("espresso beans", "grinder", "filter cone", "travel mug"),
    "bikes": ("helmet", "bike lock", "saddle", "pannier"),
    "pets": ("dog leash", "cat tree", "fish food", "bird feeder"),
    "bedding": ("pillow", "duvet", "linen sheet", "blanket"),
    "tools": ("drill", "hammer", "spirit level", "wrench"),
    "fashion": ("scarf", "jacket", "belt", "dress"),
    "outdoor": ("tent", "backpack", "headlamp", "sleeping bag"),
}
_BRANDS = ("Alder", "Brook", "Corvo", "Dune", "Elm & Co", "Fjord", "Gale", "Harbor", "Isola", "Juno")
_ADJECTIVES = (
    "classic",
    "light",
    "compact",
    "premium",
    "soft",
    "sturdy",
    "everyday",
    "modern",
    "vintage",
    "eco",
)
_COLORS = ("black", "white", "red", "blue", "green", "sand", "grey", "amber")


@dataclass(frozen=True)
class ShopConfig:
    """Settings of the simulated shop; the defaults give about 120 000 events of 4 000 users in 90 days.

    Attributes:
      num_users: users over the whole run.
      num_items: V, items over the whole run.
      num_tastes: S, hidden tastes.
      num_categories: number of categories.
      num_days: length of the run in days.
      drop_days: new items arrive every so many days, at midnight.
      new_item_share: share of the items that arrive during the run.
      new_user_share: share of the users who arrive uniformly over the run; the others were there before.
      session_end: probability that a session ends after an event, whatever the event is.
      churn: probability that a user never comes back after a session.
      return_per_day: probability to come back on each later day, so that days between sessions are geometric.
      gap_seconds: mean of the exponential gap between events of a session, cut at 30 minutes.
      stay: probability that the taste is the same in the next session, besides what the jump leads back to.
      popularity_exponent: weight of the r-th most popular item is r to the power of minus this.
      taste_strength: how sharply a taste prefers the items that fit.
      taste_noise: standard deviation of the taste's own liking of each item, in log weight.
      repeat: probability that a new visit returns to a recently clicked item, if there is one.
      memory_size: number of last clicks that a user may return to.
      memory_decay: weight of each click relative to the one after it.
      page: probability that a new visit that is not a return begins on the page of recommendations.
      num_slots: K, positions on that page.
      examined: probability that a user who is on the page looks at a slot (one slot, the first most often).
      exposure_exponent: the logging policy draws items by popularity to this power.
      attraction: probability that an examined item is viewed, for no and for full fit to the taste.
      continuation: probabilities of click after view, cart after click and purchase after cart, each for no
        and for full fit, if the session goes on.
      search: probability that a visit to an item that the user goes to by themselves begins with a search for it;
        the visits themselves do not depend on it.
      ambiguous: share of the searches whose query means one of two categories; the others name the category.
      ratings: the item table has a column `rating` from 1 to 5, which follows the item's quality; nothing else changes.

    Raises:
      ConfigError: a value out of its range, too few items for the first day, or another number of continuations.
    """

    num_users: Annotated[int, Interval("[1, inf)")] = 4_000
    num_items: Annotated[int, Interval("[1, inf)")] = 800
    num_tastes: Annotated[int, Interval("[1, inf)")] = 20
    num_categories: Annotated[int, Interval("[1, 16]")] = 12
    num_days: Annotated[int, Interval("[1, inf)")] = 90
    drop_days: Annotated[int, Interval("[1, inf)")] = 7
    new_item_share: Annotated[float, Interval("[0, 1]")] = 0.25
    new_user_share: Annotated[float, Interval("[0, 1]")] = 0.6
    session_end: Annotated[float, Interval("(0, 1)")] = 0.2
    churn: Annotated[float, Interval("[0, 1]")] = 0.15
    return_per_day: Annotated[float, Interval("(0, 1)")] = 0.35
    gap_seconds: Annotated[float, Interval("[1, inf)")] = 90.0
    stay: Annotated[float, Interval("[0, 1]")] = 0.75
    popularity_exponent: Annotated[float, Interval("[0, inf)")] = 0.5
    taste_strength: Annotated[float, Interval("[0, inf)")] = 5.0
    taste_noise: Annotated[float, Interval("[0, inf)")] = 1.2
    repeat: Annotated[float, Interval("[0, 1]")] = 0.15
    memory_size: Annotated[int, Interval("[1, inf)")] = 10
    memory_decay: Annotated[float, Interval("(0, 1)")] = 0.8
    page: Annotated[float, Interval("[0, 1]")] = 0.4
    num_slots: Annotated[int, Interval("[1, inf)")] = 6
    examined: Annotated[float, Interval("[0, 1]")] = 0.9
    exposure_exponent: Annotated[float, Interval("[0, inf)")] = 1.0
    attraction: Annotated[tuple[float, float], Interval("[0, 1]")] = (0.2, 0.9)
    continuation: tuple[tuple[float, float], ...] = ((0.08, 0.3), (0.15, 0.5), (0.4, 0.8))
    search: Annotated[float, Interval("[0, 1]")] = 0.0
    ambiguous: Annotated[float, Interval("[0, 1]")] = 0.5
    ratings: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "data.shop")
        for name in ("num_users", "num_items", "num_tastes", "num_categories", "num_days", "drop_days", "num_slots"):
            if not isinstance(getattr(self, name), int | np.integer):
                raise ConfigError(f"data.shop.{name} must be an integer, got {getattr(self, name)!r}")
        if self.num_items - int(self.num_items * self.new_item_share) < self.num_slots:
            raise ConfigError(
                f"data.shop: {self.num_items} items, of which a share of {self.new_item_share} comes later, do not "
                f"fill the {self.num_slots} slots on the first day; raise num_items or lower num_slots"
            )
        if len(self.continuation) != len(BEHAVIORS) - 1:
            raise ConfigError(
                f"data.shop.continuation needs a pair for each of {BEHAVIORS[1:]}, got {self.continuation!r}"
            )
        for name, pairs in (("attraction", (self.attraction,)), ("continuation", self.continuation)):
            for pair in pairs:
                if len(pair) != 2:
                    raise ConfigError(f"data.shop.{name} needs pairs of probabilities, got {pair!r}")
                for probability in pair:
                    check_value(f"data.shop.{name}", probability, "[0, 1]")


@dataclass(frozen=True, eq=False)
class World:
    """The part of a shop that does not change while it runs.

    Attributes:
      config: the settings it was made from.
      item_ids: `[V]` raw ids, sorted.
      user_ids: `[U]` raw ids, sorted.
      categories: `[V]` names.
      titles: `[V]` generated titles.
      prices: `[V]` in euro.
      quality: `[V]` in 0 … 1; raises popularity and fit.
      popularity: `[V]` base weights, sum 1.
      item_epochs: `[V]` epoch in which each item arrives, 0 = from the start.
      fit: `[S, V]` in 0 … 1, how well an item suits a taste.
      organic: `[E, S, V]` probability of the item that a user of the taste goes to by themselves.
      shelves: `[V]` shelf in 0 … K-1 of each item; a page shows one item of each shelf.
      shelf_probabilities: `[E, V]` probability that the logging policy draws the item for its shelf's slot.
      examination: `[K]` probability that the one slot looked at is this one; the rest is no slot.
      attraction: `[S, V]` probability that an examined item is viewed.
      continuation: `[3, S, V]` probability that the funnel goes on after view, click and cart.
      initial_tastes: `[S]` distribution in a user's first session.
      transitions: `[S, S]` taste of the next session (columns) given this one's (rows).
      arrival_days: `[num_days]` distribution of the day of a user's first session.
    """

    config: ShopConfig
    item_ids: np.ndarray
    user_ids: np.ndarray
    categories: np.ndarray
    titles: np.ndarray
    prices: np.ndarray
    quality: np.ndarray
    popularity: np.ndarray
    item_epochs: np.ndarray
    fit: np.ndarray
    organic: np.ndarray
    shelves: np.ndarray
    shelf_probabilities: np.ndarray
    examination: np.ndarray
    attraction: np.ndarray
    continuation: np.ndarray
    initial_tastes: np.ndarray
    transitions: np.ndarray
    arrival_days: np.ndarray

    @cached_property
    def organic_cumulative(self) -> np.ndarray:
        """`[E·S, V]` the organic table made ready for `draw_rows`."""
        return cumulative_rows(self.organic.reshape(-1, len(self.item_ids)))

    @cached_property
    def shelf_cumulative(self) -> np.ndarray:
        """`[E·K, V]` the logging policy's distribution over each shelf, made ready for `draw_rows`."""
        on_shelf = self.shelves == np.arange(self.config.num_slots)[:, None]
        return cumulative_rows((self.shelf_probabilities[:, None, :] * on_shelf).reshape(-1, len(self.item_ids)))

    @property
    def num_epochs(self) -> int:
        """E, the number of epochs."""
        return len(self.organic)

    @property
    def end(self) -> int:
        """First second after the run."""
        return START + self.config.num_days * DAY_SECONDS

    @property
    def epoch_starts(self) -> np.ndarray:
        """`[E]` int64 second at which each epoch begins."""
        return START + np.arange(self.num_epochs) * self.config.drop_days * DAY_SECONDS

    def epochs(self, times: np.ndarray) -> np.ndarray:
        """`[n]` int64 epoch of each time `[n]` (seconds UTC); a time after the run is in the last epoch."""
        return np.minimum((times - START) // (self.config.drop_days * DAY_SECONDS), self.num_epochs - 1)


def make_world(config: ShopConfig, rng: np.random.Generator) -> World:
    """A world with a drawn catalogue and drawn tastes, from which every probability of the shop follows.

    The weight of item v for taste s is `popularity[v] · exp(taste_strength · fit[s, v] + taste_noise · ε[s,
    v])` with standard normal ε, normalised over the items that have arrived.

    Args:
      config: the settings.
      rng: generator of random numbers, advanced.
    """
    num_items, num_tastes = config.num_items, config.num_tastes
    num_epochs = -(-config.num_days // config.drop_days)
    category = rng.permutation(np.arange(num_items) % config.num_categories)
    names = list(_CATALOGUE)
    category_level = rng.normal(3.0, 0.6, config.num_categories)
    log_prices = category_level[category] + rng.normal(0.0, 0.5, num_items)
    prices = np.maximum(np.round(np.exp(log_prices)), 1.0) - 0.01
    quality = rng.beta(4.0, 2.0, num_items)

    popularity = rng.permutation(np.arange(1, num_items + 1) ** -config.popularity_exponent)
    popularity *= np.exp(quality - quality.mean())
    popularity /= popularity.sum()
    item_epochs = np.zeros(num_items, dtype=np.int64)
    if num_epochs > 1:
        late = rng.choice(num_items, int(num_items * config.new_item_share), replace=False)
        item_epochs[late] = rng.integers(1, num_epochs, len(late))
    arrived = item_epochs <= np.arange(num_epochs)[:, None]

    fit = _fit(config, rng, category=category, log_prices=log_prices, quality=quality)
    liking = rng.normal(size=(num_tastes, num_items))
    weights = popularity * np.exp(config.taste_strength * fit + config.taste_noise * liking)
    organic = arrived[:, None, :] * weights
    organic /= organic.sum(axis=-1, keepdims=True)

    # Dealt by arrival, then popularity, so that every shelf has items from the first day and a like share of
    # the top.
    shelves = np.empty(num_items, dtype=np.int64)
    shelves[np.lexsort((-popularity, item_epochs))] = np.arange(num_items) % config.num_slots
    shelf_weights = arrived * popularity**config.exposure_exponent
    on_shelf = (shelves == np.arange(config.num_slots)[:, None]).astype(np.float64)
    shelf_probabilities = shelf_weights / (shelf_weights @ on_shelf.T)[:, shelves]

    examination = 1.0 / np.arange(1, config.num_slots + 1)
    continuation = np.array([low + (high - low) * fit for low, high in config.continuation])
    low, high = config.attraction
    initial_tastes = rng.dirichlet(np.full(num_tastes, 5.0))
    days = np.arange(config.num_days)
    old = config.return_per_day * (1.0 - config.return_per_day) ** days
    share = config.new_user_share
    return World(
        config=config,
        item_ids=_raw_ids("sku", num_items, 5),
        user_ids=_raw_ids("user", config.num_users, 6),
        categories=np.array(names, dtype=object)[category],
        titles=_titles(rng, [names[c] for c in category]),
        prices=prices,
        quality=quality,
        popularity=popularity,
        item_epochs=item_epochs,
        fit=fit,
        organic=organic,
        shelves=shelves,
        shelf_probabilities=shelf_probabilities,
        examination=config.examined * examination / examination.sum(),
        attraction=low + (high - low) * fit,
        continuation=continuation,
        initial_tastes=initial_tastes,
        transitions=_transitions(config.stay, initial_tastes),
        arrival_days=(1.0 - share) * old / old.sum() + share / config.num_days,
    )


def draw_rows(cumulative: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One draw from each of the given rows of a table made by `cumulative_rows`.

    Args:
      cumulative: `[R, V]` float64 table.
      rows: `[n]` int64 row of each draw.
      rng: generator of random numbers, advanced.

    Returns:
      `[n]` int64 columns; a column of probability 0 is never drawn.
    """
    # Row r of the table ends at r + 1, so the whole table ascends and one search serves all rows. The factor
    # keeps r + u from rounding up to r + 1.
    points = rows + rng.random(len(rows)) * (1.0 - 1e-12)
    return np.searchsorted(cumulative.ravel(), points, side="right") - rows * cumulative.shape[1]


def cumulative_rows(probabilities: np.ndarray) -> np.ndarray:
    """`[R, V]` float64 cumulative sums of the rows of `[R, V]` weights, row r shifted up by r, for `draw_rows`."""
    sums = np.cumsum(probabilities, axis=-1)
    return sums / sums[:, -1:] + np.arange(len(sums))[:, None]


def _fit(
    config: ShopConfig,
    rng: np.random.Generator,
    *,
    category: np.ndarray,
    log_prices: np.ndarray,
    quality: np.ndarray,
) -> np.ndarray:
    """`[S, V]`: a taste has a favourite category, two it likes, and a price level."""
    affinity = np.full((config.num_tastes, config.num_categories), 0.05)
    for taste in range(config.num_tastes):
        liked = rng.permutation(config.num_categories)[1:4]
        affinity[taste, liked] = 0.45
        affinity[taste, taste % config.num_categories] = 1.0
    level = (log_prices - log_prices.mean()) / max(float(log_prices.std()), 1e-9)
    preferred = rng.normal(size=(config.num_tastes, 1))
    affordable = np.exp(-0.25 * (level - preferred) ** 2)
    return affinity[:, category] * (0.25 + 0.5 * affordable + 0.25 * quality)


def _transitions(stay: float, initial: np.ndarray) -> np.ndarray:
    """`[S, S]`: stay, or drift to the next taste of a ring, or start anew from `initial`."""
    identity = np.eye(len(initial))
    return stay * identity + (1.0 - stay) * 0.5 * (np.roll(identity, 1, axis=1) + initial)


def _titles(rng: np.random.Generator, categories: list[str]) -> np.ndarray:
    """`[V]` titles such as "Fjord classic kettle red"; the noun tells the category."""
    picks = rng.integers(0, 1 << 30, (len(categories), 4)).tolist()

    def title(category: str, brand: int, adjective: int, noun: int, color: int) -> str:
        nouns = _CATALOGUE[category]
        words = (
            _BRANDS[brand % len(_BRANDS)],
            _ADJECTIVES[adjective % len(_ADJECTIVES)],
            nouns[noun % len(nouns)],
        )
        return " ".join((*words, _COLORS[color % len(_COLORS)]))

    return np.array([title(category, *pick) for category, pick in zip(categories, picks, strict=True)], dtype=object)


def _raw_ids(prefix: str, count: int, digits: int) -> np.ndarray:
    digits = max(digits, len(str(count - 1)))  # equal lengths, so that the order of strings is that of numbers
    return np.array([f"{prefix}-{number:0{digits}d}" for number in range(count)], dtype=object)
