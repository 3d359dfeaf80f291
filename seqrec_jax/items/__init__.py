"""Item towers: an item table to one vector an item."""

from __future__ import annotations

from seqrec_jax.items.table import ItemTable, drop_ids, id_table
from seqrec_jax.items.tower import ItemTower, ItemTowerConfig, make_item_tower

__all__ = ["ItemTable", "ItemTower", "ItemTowerConfig", "drop_ids", "id_table", "make_item_tower"]
