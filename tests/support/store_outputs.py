"""Write what tests compare with where nothing independent says the value: `python -m tests.support.store_outputs`."""

import json

from tests.support.samples import STORED, filled_logits, fresh_deviations, sample_probabilities
from tests.test_models import MODELS
from tests.test_weights import SHIPPED

stored = {
    "logits": {name: filled_logits(name)[0][0].tolist() for name in MODELS},
    "fresh": fresh_deviations(),
    "sample": {name: sample_probabilities(name) for name in SHIPPED},
}
STORED.write_text(json.dumps(stored, indent=1) + "\n")
