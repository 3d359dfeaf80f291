"""Behaviour logs to sequences, splits and batches.

A log goes through the files in this order:

- `columns`, `timestamps`, `files`: the names of a log's columns, its times, and tables from files
- `events`: a log as it was read; `live`: the same for the histories of a request
- `cleaning`: clean events, and a report that accounts for every row
- `sequences`: the events of each user as flat arrays, windows and packed rows
- `splits`: train, validation and test, and evaluation cases; `candidates`, the items that each user may be shown
- `dataset`: the prepared dataset, and how it is written and read
- `batches`: arrays on the device

Items: `attributes` (columns of the item table), `item_content` (feature vectors), `item_edges` (relations),
`item_texts`, `growing` (new items for a trained model). Queries: `queries`, `query_cases`, `judgments`. Further:
`moments` (histories before a time), `outcomes` (labels of later events), `features` (dense features).

`readers/` has the readers of public data sets, `shop/` the simulated shop and its known truth.
"""
