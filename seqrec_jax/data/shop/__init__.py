"""The simulated shop: a log of users with hidden tastes, whose truth and best possible forecasts are known exactly.

- `world.py`: settings, catalogue and every probability, fixed while the shop runs
- `steps.py`: the behaviour of users, one event of every user a step
- `searches.py`: the searches that lead to some visits
- `simulator.py`: a whole run as tables
- `bayes_filter.py`: the exact probability of the next item given the history, the optimum of any model
- `returns.py`: the exact probability that a user returns within some days
"""
