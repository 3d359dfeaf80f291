"""Item towers: an item table to one vector an item."""

from __future__ import annotations

from seqrec_jax.items.tower import ItemTable, ItemTower, ItemTowerConfig, id_table, make_item_tower

__all__ = ["ItemTable", "ItemTower", "ItemTowerConfig", "id_table", "make_item_tower"]
