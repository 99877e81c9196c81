"""Write what `test_output_has_not_changed_in_silence` compares with: `python -m tests.support.store_outputs`."""

import json

import torch

from tests.support.samples import fill
from tests.test_models import MODELS, STORED, build, images

with torch.no_grad():
    outputs = {name: fill(build(name, num_classes=8)).eval()(images(64, batch=1))[0].tolist() for name in MODELS}
STORED.write_text(json.dumps(outputs, indent=1) + "\n")
