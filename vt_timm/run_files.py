"""Names of the files of a training run and of a published model."""

BEST, LAST = "best", "last"  # folders of train-segmenter, and what --checkpoint takes of timm's train.py
SETTINGS, ARGUMENTS = "settings.yaml", "args.yaml"  # of train-segmenter, and of train.py
SUMMARY, METRICS = "summary.csv", "metrics.json"

CARD, CONFIG, WEIGHTS = "README.md", "config.json", "model.safetensors"  # of a model as the Hub holds it

CHECKPOINT = ".pth.tar"  # the ending of one of train.py
CHECKPOINTS = {BEST: f"model_best{CHECKPOINT}", LAST: f"last{CHECKPOINT}"}
