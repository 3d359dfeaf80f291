"""docs/extending.md runs as it stands there."""

import re
from pathlib import Path

import numpy as np

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


def test_the_page_trains_and_judges_its_own_encoder_loss_and_metric(capsys):
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    namespace: dict = {}
    exec(compile("\n".join(code), str(PAGE), "exec"), namespace)  # the page is ours
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("trained 3 epochs")
    judged, ranks = namespace["judged"], namespace["judged"].ranks
    expected = (1 / np.log2(1.0 + ranks)).mean()
    assert abs(float(namespace["mine"].mean()) - expected) < 1e-5
    # a gated last event is no good model, but it must have learnt something: chance on 60 items is below 0.08
    assert judged.per_user["ndcg@10"].mean() > 0.1
